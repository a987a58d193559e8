"""Select the test predictions of an earlier stage that become training masks."""

from stagepipe import script
from stagepipe.recipe.parts import PseudolabelsPart


def main() -> None:
    work = script.start(__doc__, PseudolabelsPart, inputs=["samples", "tables"], outputs=["pseudolabels"])
    from stagepipe.pseudolabels import select_for_stage

    select_for_stage(work.part, work.path("samples"), work.paths["tables"], work.path("pseudolabels"), work.provenance)


if __name__ == "__main__":
    main()
