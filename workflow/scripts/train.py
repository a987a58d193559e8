"""Train one phase of one run on one fold, on one device or on several together (--gpus)."""

import sys

from stagepipe import compile_cache, launch, script
from stagepipe.devices import claimed
from stagepipe.locks import held
from stagepipe.recipe.parts import TrainPart

INPUTS = ["samples", "pixels", "folds", "pseudolabels", "origin"]


def main() -> None:
    launch.end_with_parent()
    work = script.start(__doc__, TrainPart, INPUTS, outputs=["weights", "history"], alone=False)
    compile_cache.share(work.runtime)
    if launch.place():
        train(work)
        return
    with claimed(work.runtime, work.gpus):
        if work.gpus == 1:
            train(work)
            return
        threads = max(1, work.threads // work.gpus)
        with held(work.state):
            sys.exit(launch.run([sys.executable, *sys.argv, "--threads", str(threads)], work.gpus))


def train(work: script.Job) -> None:
    """What one process does, alone or as one of several."""
    with script.importing():
        from stagepipe import distributed, training
        from stagepipe.runtime import configure

    with distributed.losses_named():
        training.train(
            work.part,
            training.TrainInputs(
                work.path("samples"),
                work.path("pixels"),
                work.path("folds"),
                work.optional("pseudolabels"),
                work.optional("origin"),
            ),
            training.TrainOutputs(work.path("weights"), work.path("history")),
            work.state,
            configure(work.runtime, work.threads, distributed.join()),
            work.provenance,
        )


if __name__ == "__main__":
    main()
    script.end()
