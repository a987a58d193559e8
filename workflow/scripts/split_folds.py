"""Split the labelled samples into folds."""

from stagepipe import script
from stagepipe.recipe.parts import FoldsPart


def main() -> None:
    work = script.start(__doc__, FoldsPart, inputs=["samples", "faults"], outputs=["folds"])
    from stagepipe.artefacts import read_table, write_table
    from stagepipe.folds import split

    quarantined = read_table(work.path("faults"))["sample_id"].to_pylist()
    folds = split(read_table(work.path("samples")), work.part.folds, quarantined)
    write_table(work.path("folds"), folds, work.provenance)


if __name__ == "__main__":
    main()
