"""Real steps of one training or prediction on random pixels, timed: what a process of `measure` does."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from stagepipe.artefacts import read_table, save_weights, write_table
from stagepipe.data.store import PixelStore, same_size_batches, writing
from stagepipe.data.training import batches
from stagepipe.inference import Predictor
from stagepipe.members import Ensemble
from stagepipe.networks import build
from stagepipe.plan.figures import PredictFigure, TrainFigure
from stagepipe.plan.images import Size
from stagepipe.plan.passes import windows_of
from stagepipe.probabilities import ProbabilityWriter, keep_most_probable
from stagepipe.recipe.model import Phase, Sampler, Shuffle
from stagepipe.recipe.parts import PredictPart, TrainPart
from stagepipe.runtime import Machine
from stagepipe.tables import FOLDS, SAMPLES
from stagepipe.training import Trainer, TrainInputs
from stagepipe.training.state import TrainingState
from stagepipe.views import views

WARM, LONG = 2.0, 6.0
"""seconds of steps before the clock starts, which use up what loaders prepared, and on it"""
FEWEST = 2
"""steps on the clock at least"""


@dataclass(frozen=True)
class RandomData:
    """Files of random images, of which fold 0 holds out some."""

    samples: Path
    pixels: Path
    folds: Path


def random_data(folder: Path, train: int, held_out: int, size: Size, channels: int, classes: int) -> RandomData:
    """Write so many labelled images to train on and to hold out; every other mask of one class is empty."""
    data = RandomData(folder / "samples.parquet", folder / "pixels.bin", folder / "folds.parquet")
    random, samples, folds = np.random.default_rng(0), [], []
    with writing(data.pixels) as append:
        for number in range(train + held_out):
            image = random.integers(0, 256, (*size, channels), np.uint8)
            # Blocks of 16 pixels: a mask of single ones is what no loss or metric ever sees.
            blocks = random.integers(0, max(2, classes), [-(-edge // 16) for edge in size], np.uint8)
            mask = np.kron(blocks, np.ones((16, 16), np.uint8))[: size[0], : size[1]]
            mask = mask * np.uint8(classes > 1 or number % 2 == 0)
            places = {"image": append(image), "mask": append(mask)}
            shares = np.bincount(mask.ravel(), minlength=max(2, classes)) / mask.size
            name = f"random_{number:05d}"
            samples.append(
                {
                    "sample_id": name, "split": "train", "image_path": "", "height": size[0], "width": size[1],
                    "channels": channels, "black": False, "empty": not mask.any(),
                    "coverage": shares[1:2] if classes == 1 else shares[:classes],
                    **{f"{kind}_offset": place[0] for kind, place in places.items()},
                    **{f"{kind}_crc32": place[1] for kind, place in places.items()},
                }
            )  # fmt: skip
            folds.append({"sample_id": name, "fold": int(number < train), "always_train": False})
    write_table(data.samples, pa.Table.from_pylist(samples, schema=SAMPLES))
    write_table(data.folds, pa.Table.from_pylist(folds, schema=FOLDS))
    return data


def training(part: TrainPart, size: Size, machine: Machine) -> TrainFigure:
    """Time steps, validation and the end of an epoch of a training on images of that size, from random weights."""
    with tempfile.TemporaryDirectory(dir=".", prefix=".stagepipe-") as temporary:
        folder, batch = Path(temporary), part.phase.batch
        data = random_data(folder, 2 * batch, 2 * batch, size, part.stored_channels, len(part.classes))
        state, began = TrainingState(folder / "state"), time.perf_counter()
        trainer = Trainer(_endless(part), TrainInputs(data.samples, data.pixels, data.folds), state, machine)
        trainer.network.train()
        epochs, pin = trainer.phase.epochs, machine.device.type == "cuda"
        with closing(batches(trainer.samples, trainer.orders, (0, 0), epochs, machine.workers, pin)) as loaded:

            def step() -> None:
                trainer.train_step(loaded, 0, trainer.base_rates)

            step()
            synchronise(machine)
            prepare = time.perf_counter() - began
            image = seconds_of(step, machine) / batch
        first, again = (_validation(trainer, machine) for _ in range(2))
        # As an epoch ends; its files are as large as real ones.
        trainer.progress.end_epoch([0.0] * 5)
        began = time.perf_counter()
        state.keep(trainer.progress, trainer.phase, trainer.network.module, trainer.optimizer)
        copied = time.perf_counter() - began
        state.wait()
        return TrainFigure(
            prepare=max(0.0, prepare - image * batch) + max(0.0, first - again),
            image=image,
            validation=again / len(trainer.validator.rows),
            copy_state=copied,
            save_state=time.perf_counter() - began - copied,
            memory=peak(machine),
        )


def _validation(trainer: Trainer, machine: Machine) -> float:
    began = time.perf_counter()
    trainer.validate()
    synchronise(machine)
    return time.perf_counter() - began


def _endless(part: TrainPart) -> TrainPart:
    """The training on labels, from random weights and without an end."""
    changes: dict[str, Any] = {"data": "labels", "folds": "each", "init": "encoder", "init_grown": False, "cycles": 1}
    changes |= {"epochs": 10**6, "freeze_encoder": 0, "exclude_empty": False, "minimum_foreground": 0}
    changes |= {"sampler": Sampler(shuffle=Shuffle())}  # others may draw less than a batch of so few images
    phase: Phase = part.phase.model_copy(update=changes)
    network = part.network.model_copy(update={"weights": None})
    return part.model_copy(update={"phase": phase, "network": network, "fold": "0", "fold_count": 2})


def prediction(part: PredictPart, size: Size, machine: Machine) -> PredictFigure:
    """Time the way of images of that size through the part's one member and into a table."""
    member = part.members[0]
    with tempfile.TemporaryDirectory(dir=".", prefix=".stagepipe-") as temporary:
        folder = Path(temporary)
        weights, channels = folder / "weights.safetensors", part.stored_channels
        bare = build(part.network, len(part.classes), channels, member.resize, member.pad, pretrained=False)
        save_weights(weights, {member.member: bare.module.state_dict()})
        del bare
        began = time.perf_counter()
        predictor = Predictor(Ensemble(part, {member.phase: weights}, machine), part.predict, len(part.classes))
        batch = predictor.batch_size(*size)
        data = random_data(folder, batch, 0, size, channels, len(part.classes))
        store = PixelStore(data.pixels, read_table(data.samples))
        numbers = count()
        with ProbabilityWriter(folder / "table.parquet") as writer:
            maps = predictor.quantised(_again_and_again(store, range(batch), batch))

            def step() -> None:
                for quantised in next(maps)[1]:
                    writer.add_quantised(f"{next(numbers):09d}", keep_most_probable(quantised, part.kept_classes))

            step()
            synchronise(machine)
            prepare = time.perf_counter() - began
            each = seconds_of(step, machine) / (batch * len(views(part.tta)) * windows_of(part.predict, size))
        return PredictFigure(prepare=prepare, network_pass=each, memory=peak(machine))


def _again_and_again(store: PixelStore, rows: range, size: int) -> Iterator[tuple[list[int], np.ndarray]]:
    while True:
        yield from same_size_batches(store, rows, lambda *_: size)


def seconds_of(step: Callable[[], object], machine: Machine) -> float:
    """Seconds of a step, the mean of as many as fit into the time that is given to it."""
    _run(step, WARM, 1)
    synchronise(machine)
    began = time.perf_counter()
    steps = _run(step, LONG, FEWEST)
    synchronise(machine)
    return (time.perf_counter() - began) / steps


def _run(step: Callable[[], object], seconds: float, fewest: int) -> int:
    """Take steps for so long, but so many at least; how many."""
    began, steps = time.perf_counter(), 0
    while steps < fewest or time.perf_counter() - began < seconds:
        step()
        steps += 1
    return steps


def synchronise(machine: Machine) -> None:
    """Wait for what a GPU still has to do."""
    if machine.device.type == "cuda":
        torch.cuda.synchronize(machine.device)


def peak(machine: Machine) -> float:
    """High-water mark in MiB: of what the process holds on the GPU, or of the process."""
    if machine.device.type == "cuda":
        return torch.cuda.max_memory_reserved(machine.device) / 2**20
    # Linux keeps ru_maxrss over fork and exec, so a child would report its parent's.
    status = Path("/proc/self/status")
    if not status.exists():  # not Linux
        return 0.0
    return int(status.read_text(encoding="utf-8").split("VmHWM:")[1].split()[0]) / 1024
