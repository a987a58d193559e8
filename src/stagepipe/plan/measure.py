"""Figures of this machine: a few real steps of every kind of job, each in a process of its own, on random pixels."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from datetime import date

from stagepipe.errors import TrainingError
from stagepipe.plan import networks
from stagepipe.plan.figures import Figures, PredictFigure, Start, TrainFigure, machine, versions
from stagepipe.plan.images import Images
from stagepipe.plan.jobs import Job
from stagepipe.plan.kinds import predict_kind, predict_kinds, train_kind, train_kinds
from stagepipe.plan.process import Reply, Request
from stagepipe.recipe.model import Recipe

OTHER_IMPORTS = "import stagepipe.script, stagepipe.scores"
"""what a job without a GPU begins with"""


def measure(
    recipe: Recipe, jobs: Sequence[Job], images: Images, threads: int, note: Callable[[str], object] = lambda _: None
) -> Figures:
    """Measure every kind of training and prediction of these jobs; `note` gets a line about each before it begins.

    Wants as much memory and disk (in the working directory) as one job. TrainingError says which of them can't be
    measured here, and why.
    """
    training: dict[str, TrainFigure] = {}
    prediction: dict[str, PredictFigure] = {}
    replies: list[Reply] = []
    starts: dict[str, list[float]] = {"train": [], "predict": []}
    train_flops = predict_flops = 0.0

    def ask(request: Request, kind: str) -> Reply:
        reply, start = _ask(request)
        starts[kind].append(start)
        replies.append(reply)
        return reply

    for name, part in train_kinds(jobs, images).items():
        note(f"training of {part.stage}/{part.run}/{part.phase.name}")
        request = Request(train=part, size=images.size, runtime=recipe.runtime, threads=threads)
        found = ask(request, "train").train
        assert found
        training[name] = found
        train_flops += networks.train_cost(train_kind(part, images)).training
    for name, alone in predict_kinds(jobs, images).items():
        note(f"prediction of {alone.stage}/{alone.run}/{alone.members[0].phase}")
        request = Request(predict=alone, size=images.size, runtime=recipe.runtime, threads=threads)
        predicted = ask(request, "predict").predict
        assert predicted
        prediction[name] = predicted
        predict_flops += networks.predict_cost(predict_kind(alone, alone.members[0], images)).forward
    return Figures(
        device=machine(recipe.runtime),
        source=f"measured on {date.today()}",
        versions=versions(),
        threads=threads,
        gpu=replies[0].gpu,
        bf16=replies[0].bf16,
        start=Start(train=min(starts["train"]), predict=min(starts["predict"]), other=_other_start()),
        train_tflops=train_flops / sum(figure.image for figure in training.values()) / 1e12,
        predict_tflops=predict_flops / sum(figure.network_pass for figure in prediction.values()) / 1e12,
        training=training,
        prediction=prediction,
    )


def _ask(request: Request) -> tuple[Reply, float]:
    """The reply of a new process, and the seconds from its start to the end of its imports."""
    # OpenMP reads the number of threads when it loads.
    environment = os.environ | {"OMP_NUM_THREADS": str(request.threads)}
    began = time.time()
    done = subprocess.run(
        [sys.executable, "-m", "stagepipe.plan.process"],
        input=request.model_dump_json(),
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        part = request.train or request.predict
        assert part
        last = (done.stderr.strip().splitlines() or [f"it ended with status {done.returncode}"])[-1]
        raise TrainingError(
            f"--measure: {part.stage}/{part.run} can't be measured here: {last}; plan with --device, or see to it"
        )
    reply = Reply.model_validate_json(done.stdout.splitlines()[-1])
    return reply, reply.imported - began


def _other_start() -> float:
    """Seconds that a job without a GPU takes to start."""
    began = time.time()
    subprocess.run([sys.executable, "-c", OTHER_IMPORTS], check=True)
    return time.time() - began
