"""Write synthetic raw data."""

from stagepipe import script
from stagepipe.recipe.parts import SynthesisePart


def main() -> None:
    work = script.start(__doc__, SynthesisePart, inputs=[], outputs=["raw", "manifest"])
    from stagepipe.data import synthetic

    folder, part = work.path("raw"), work.part
    if part.synthetic:
        synthetic.write(folder, part.synthetic)
    elif part.synthetic_siim:
        from stagepipe.data import synthetic_siim

        synthetic_siim.write(folder, part.synthetic_siim)
    else:
        from stagepipe.data import synthetic_street

        synthetic_street.write(folder, part.synthetic_street, part.palette)
    synthetic.write_manifest(folder, work.path("manifest"))


if __name__ == "__main__":
    main()
