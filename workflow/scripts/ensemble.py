"""Average the probability tables of several runs; each run brings one table a fold."""

from stagepipe import script
from stagepipe.recipe.parts import EnsemblePart


def main() -> None:
    work = script.start(__doc__, EnsemblePart, inputs=["tables"], outputs=["table"])
    from stagepipe.ensemble import members, write

    runs, weights = members(work.paths["tables"], work.part.weights, work.part.split)
    write(work.path("table"), runs, weights, work.provenance)


if __name__ == "__main__":
    main()
