"""Train one phase of one run on one fold."""

from stagepipe import script
from stagepipe.recipe.parts import TrainPart


def main() -> None:
    inputs = ["samples", "pixels", "folds", "pseudolabels", "origin"]
    work = script.start(__doc__, TrainPart, inputs, outputs=["weights", "history"])
    from stagepipe.runtime import configure
    from stagepipe.training import TrainInputs, TrainOutputs, train

    train(
        work.part,
        TrainInputs(**{name: work.optional(name) for name in inputs}),
        TrainOutputs(work.path("weights"), work.path("history")),
        work.state,
        configure(work.runtime, work.threads),
        work.provenance,
    )


if __name__ == "__main__":
    main()
