"""List the masks that follow from labelled neighbours in a mosaic, for test tiles and out of fold."""

from stagepipe import script
from stagepipe.recipe.submission_parts import JigsawPart


def main() -> None:
    inputs = ["samples", "pixels", "folds", "mosaics"]
    work = script.start(__doc__, JigsawPart, inputs, outputs=["jigsaw"])
    from stagepipe.postprocess.jigsaw.tables import write_replacements

    files = [work.path(name) for name in inputs]
    write_replacements(*files, work.part.jigsaw, work.path("jigsaw"), work.provenance)


if __name__ == "__main__":
    main()
