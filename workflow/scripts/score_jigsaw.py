"""Score out of fold what the jigsaw's rules put in the place of predicted masks."""

from stagepipe import script
from stagepipe.recipe.submission_parts import BinarisePart


def main() -> None:
    inputs = ["samples", "pixels", "folds", "table", "emptiness", "jigsaw", "threshold"]
    work = script.start(__doc__, BinarisePart, inputs, outputs=["effects"])
    from stagepipe.masks import Sources, score_jigsaw

    sources = Sources(work.path("samples"), work.path("table"), work.optional("emptiness"), work.path("jigsaw"))
    files = [work.path(name) for name in ("pixels", "folds", "threshold", "effects")]
    score_jigsaw(work.part, sources, *files, work.provenance)


if __name__ == "__main__":
    main()
