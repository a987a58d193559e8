"""Assemble mosaics of tiles by their borders, or read them from the files that a recipe names."""

from stagepipe import script
from stagepipe.recipe.submission_parts import MosaicsPart


def main() -> None:
    work = script.start(__doc__, MosaicsPart, inputs=["samples", "pixels"], outputs=["mosaics"])
    from stagepipe.postprocess.jigsaw.mosaics import write_mosaics

    files = [work.path(name) for name in ("samples", "pixels")]
    write_mosaics(*files, work.part.jigsaw, work.path("mosaics"), work.provenance)


if __name__ == "__main__":
    main()
