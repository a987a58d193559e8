"""Write a synthetic survey in the raw layout of TGS salt."""

from stagepipe import script
from stagepipe.recipe.parts import SynthesisePart


def main() -> None:
    work = script.start(__doc__, SynthesisePart, inputs=[], outputs=["raw", "manifest"])
    from stagepipe.data import synthetic

    synthetic.write(work.path("raw"), work.part.synthetic)
    synthetic.write_manifest(work.path("raw"), work.path("manifest"))


if __name__ == "__main__":
    main()
