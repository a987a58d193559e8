"""Write synthetic raw data."""

from stagepipe import script
from stagepipe.recipe.parts import SynthesisePart


def main() -> None:
    work = script.start(__doc__, SynthesisePart, inputs=[], outputs=["raw", "manifest"])
    from stagepipe.data import synthetic, synthetic_siim

    if work.part.synthetic:
        synthetic.write(work.path("raw"), work.part.synthetic)
    else:
        synthetic_siim.write(work.path("raw"), work.part.synthetic_siim)
    synthetic.write_manifest(work.path("raw"), work.path("manifest"))


if __name__ == "__main__":
    main()
