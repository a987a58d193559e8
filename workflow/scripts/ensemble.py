"""Average the probability tables of several runs; each run brings one table a fold."""

from stagepipe import script
from stagepipe.recipe.averages import EnsemblePart


def main() -> None:
    work = script.start(__doc__, EnsemblePart, inputs=["tables", "shares"], outputs=["table"])
    from stagepipe.ensemble import average_runs, read_shares, write

    searched = work.optional("shares")
    maps = average_runs(work.paths["tables"], work.part, searched and read_shares(searched))
    write(work.path("table"), maps, work.part.kept_classes, work.provenance)


if __name__ == "__main__":
    main()
