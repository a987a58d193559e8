"""Binarise, postprocess and encode the blended test predictions."""

from stagepipe import script
from stagepipe.recipe.submission_parts import SubmitPart


def main() -> None:
    inputs = ["samples", "table", "emptiness", "jigsaw", "threshold", "rows"]
    work = script.start(__doc__, SubmitPart, inputs, outputs=["submission"])
    from stagepipe.masks import Sources, submit

    sources = Sources(work.path("samples"), work.path("table"), work.optional("emptiness"), work.optional("jigsaw"))
    submit(work.part, sources, work.path("threshold"), work.optional("rows"), work.path("submission"))


if __name__ == "__main__":
    main()
