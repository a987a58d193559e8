"""Collect the per-image scores of all stages into one table of means."""

from stagepipe import script
from stagepipe.recipe.parts import CollectPart


def main() -> None:
    work = script.start(__doc__, CollectPart, inputs=["cases", "confusions"], outputs=["scores"])
    from stagepipe.mean_scores import write_summary

    write_summary(work.paths["cases"], work.paths["confusions"], work.part.scored, work.path("scores"))


if __name__ == "__main__":
    main()
