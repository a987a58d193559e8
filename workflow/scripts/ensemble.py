"""Average the probability tables of several runs; each run brings one table a fold."""

from stagepipe import script
from stagepipe.recipe.averages import EnsemblePart


def main() -> None:
    work = script.start(__doc__, EnsemblePart, inputs=["tables"], outputs=["table"])
    from stagepipe.ensemble import average_runs, write

    write(work.path("table"), average_runs(work.paths["tables"], work.part), work.provenance)


if __name__ == "__main__":
    main()
