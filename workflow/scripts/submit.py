"""Binarise, postprocess and encode the blended test predictions."""

from stagepipe import script
from stagepipe.recipe.parts import SubmitPart


def main() -> None:
    inputs = ["samples", "table", "threshold", "rows"]
    work = script.start(__doc__, SubmitPart, inputs, outputs=["submission"])
    from stagepipe.masks import submit

    sources = [work.path(name) for name in ("samples", "table", "threshold")]
    submit(work.part, *sources, work.optional("rows"), work.path("submission"))


if __name__ == "__main__":
    main()
