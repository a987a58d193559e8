"""One process of `measure`: a Request as JSON on standard input, a Reply on standard output.

    python -m stagepipe.plan.process

A process of its own has the threads, memory and imports of a real job.
"""

from __future__ import annotations

import sys
import time

from stagepipe import compile_cache
from stagepipe.devices import claimed
from stagepipe.plan.figures import PredictFigure, TrainFigure
from stagepipe.recipe.model import Runtime, Section
from stagepipe.recipe.parts import PredictPart, TrainPart
from stagepipe.script import importing


class Request(Section):
    """What one process measures: one of the two parts."""

    train: TrainPart | None = None
    predict: PredictPart | None = None
    size: tuple[int, int]
    """of an image"""
    runtime: Runtime
    threads: int


class Reply(Section):
    """What it found."""

    train: TrainFigure | None = None
    predict: PredictFigure | None = None
    gpu: bool
    bf16: bool
    imported: float
    """when its imports were done, in seconds of `time.time`"""


def main() -> None:
    """Measure what standard input asks for."""
    request = Request.model_validate_json(sys.stdin.read())
    compile_cache.share(request.runtime)
    with importing():
        from stagepipe.plan import trial
        from stagepipe.runtime import configure

    imported = time.time()
    with claimed(request.runtime, 1):
        machine = configure(request.runtime, request.threads)
        train = trial.training(request.train, request.size, machine) if request.train else None
        predict = trial.prediction(request.predict, request.size, machine) if request.predict else None
    gpu = machine.device.type == "cuda"
    reply = Reply(train=train, predict=predict, gpu=gpu, bf16=machine.bf16, imported=imported)
    sys.stdout.write(f"{reply.model_dump_json()}\n")


if __name__ == "__main__":
    main()
