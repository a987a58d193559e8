"""Score the out-of-fold predictions of a stage's runs and of their ensemble, image by image."""

from stagepipe import script
from stagepipe.recipe.parts import ScorePart


def main() -> None:
    work = script.start(
        __doc__, ScorePart, inputs=["samples", "pixels", "folds", "tables"], outputs=["cases", "confusion"]
    )
    from stagepipe.artefacts import write_table
    from stagepipe.scores import stage_scores

    sources = (work.path(name) for name in ("samples", "pixels", "folds"))
    found = stage_scores(work.part, *sources, work.paths["tables"])
    write_table(work.path("cases"), found.cases, work.provenance)
    write_table(work.path("confusion"), found.confusion, work.provenance)


if __name__ == "__main__":
    main()
