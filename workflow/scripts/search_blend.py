"""Search the shares of the submission's blend on out-of-fold predictions."""

from stagepipe import script
from stagepipe.recipe.submission_parts import SearchBlendPart


def main() -> None:
    inputs = ["samples", "pixels", "folds", "tables"]
    work = script.start(__doc__, SearchBlendPart, inputs, outputs=["shares", "blends"])
    from stagepipe.blend_search import search_part, write

    sources = [work.path(name) for name in ("samples", "pixels", "folds")]
    found = search_part(work.part, *sources, work.paths["tables"])
    write(found, work.path("shares"), work.path("blends"), work.provenance)


if __name__ == "__main__":
    main()
