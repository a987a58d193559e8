"""Small builders: an ingested synthetic survey and phases that train on it in a second."""

import hashlib
import logging
import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from stagepipe import folds, training
from stagepipe.artefacts import Provenance, read_table, write_table
from stagepipe.data import synthetic
from stagepipe.data.ingest import ingest
from stagepipe.data.store import PixelStore
from stagepipe.distributed import Ranks
from stagepipe.networks import Geometry, SegmentationNetwork
from stagepipe.networks.inputs import InputChannels
from stagepipe.recipe.model import Dataset, Folds, Network, Normalise, Phase, Runtime, Synthetic
from stagepipe.recipe.parts import TrainPart
from stagepipe.rle import encode_runs
from stagepipe.runtime import Machine, configure
from stagepipe.tables import PSEUDOLABELS
from stagepipe.training import Trainer, TrainInputs, TrainOutputs, start
from stagepipe.training.state import TrainingState
from stagepipe.training.validation import Validation


@dataclass(frozen=True)
class Data:
    """Files of an ingested and split dataset."""

    samples: Path
    pixels: Path
    folds: Path
    pseudolabels: Path | None = None

    @property
    def table(self) -> pa.Table:
        return read_table(self.samples)

    @property
    def store(self) -> PixelStore:
        return PixelStore(self.pixels, self.table)

    def fold_of(self) -> dict[str, int]:
        rows = read_table(self.folds).to_pylist()
        return {row["sample_id"]: row["fold"] for row in rows}


def from_raw(folder: Path, dataset: Dataset, root: Path, count: int = 2, **rule: Any) -> Data:
    """Ingest a raw layout and split it into `count` folds."""
    data = Data(folder / "samples.parquet", folder / "pixels.bin", folder / "folds.parquet")
    ingest(dataset, root, data.samples, data.pixels, folder / "faults.parquet", threads=1)
    write_table(data.folds, folds.split(data.table, Folds(count=count, **rule)))
    return data


def survey(folder: Path, train: int = 24, test: int = 8, size: int = 32, **options: Any) -> Data:
    """Synthetic salt tiles in two folds."""
    synthetic.write(folder / "raw", Synthetic(train=train, test=test, size=size, **options))
    return from_raw(folder, Dataset(format="tgs", root="raw"), folder / "raw", stratify=["coverage"], bins=2)


def pseudolabelled(data: Data, path: Path, seen_by: list[list[int]]) -> Data:
    """The data with pseudolabels of its first test samples: a corner of salt, or none for every third."""
    tests = data.table.filter(pa.compute.equal(data.table["split"], "test"))
    rows = []
    for number, (sample, allowed) in enumerate(zip(tests.to_pylist(), seen_by, strict=False)):
        mask = torch.zeros(sample["height"], sample["width"], dtype=torch.uint8).numpy()
        mask[: 8 * (number % 3), :8] = 1
        lengths, values = encode_runs(mask)
        row = {"sample_id": sample["sample_id"], "confidence": 1.0, "source": "before", "folds": allowed}
        rows.append(row | {"height": 32, "width": 32, "lengths": lengths, "values": values})
    write_table(path, pa.Table.from_pylist(rows, schema=PSEUDOLABELS))
    return Data(data.samples, data.pixels, data.folds, path)


def network(**changes: Any) -> Network:
    """A U-Net of 90,000 parameters."""
    arguments = {"encoder_depth": 3, "decoder_channels": [16, 16, 16]}
    return Network(**({"architecture": "unet", "encoder": "tu-test_resnet", "arguments": arguments} | changes))


def part(fold: str = "0", seed: int = 0, classes: tuple[str, ...] = ("salt",), **phase: Any) -> TrainPart:
    """A phase of two epochs with batches of four; `phase` changes its keys."""
    of_network = phase.pop("network", network())
    keys = {"name": "phase", "loss": "bce", "batch": 4, "lr": 1e-3, "epochs": 2, "augment": "tgs_phalanx"}
    return TrainPart(
        seed=seed,
        stage="stage",
        run="run",
        fold=fold,
        fold_count=2,
        classes=list(classes),
        stored_channels=1 if len(classes) == 1 else 3,
        ignore_index=phase.pop("ignore_index", None),
        network=of_network,
        phase=Phase.model_validate(keys | phase),
    )


def machine(workers: int = 0, precision: str = "fp32", ranks: Ranks | None = None) -> Machine:
    """One thread of the CPU."""
    return configure(Runtime(device="cpu", precision=precision, compile=False, workers=workers), 1, ranks)


@dataclass(frozen=True)
class Trained:
    """Where a phase was trained and what it wrote."""

    folder: Path

    @property
    def weights(self) -> Path:
        return self.folder / "weights.safetensors"

    @property
    def history(self) -> list[dict[str, Any]]:
        return read_table(self.folder / "history.parquet").to_pylist()

    @property
    def state(self) -> Path:
        return self.folder / "state"

    def bits(self) -> str:
        return hashlib.sha256(self.weights.read_bytes()).hexdigest()

    def losses(self) -> list[tuple[float, float, float]]:
        return [(row["lr"], row["loss"], row["score"]) for row in self.history]


def train(
    folder: Path,
    data: Data,
    of: TrainPart,
    workers: int = 0,
    origin: Path | None = None,
    ranks: Ranks | None = None,
) -> Trained:
    """Train a phase (or go on with it) in a folder."""
    done = Trained(folder)
    inputs = TrainInputs(data.samples, data.pixels, data.folds, data.pseudolabels, origin)
    outputs = TrainOutputs(done.weights, folder / "history.parquet")
    provenance = Provenance(part=of.fingerprint(), seed=of.seed)
    training.train(of, inputs, outputs, done.state, machine(workers, ranks=ranks), provenance)
    return done


def trainer(folder: Path, data: Data, of: TrainPart, workers: int = 0, origin: Path | None = None) -> Trainer:
    """A trainer that has not begun."""
    folder.mkdir(parents=True, exist_ok=True)
    inputs = TrainInputs(data.samples, data.pixels, data.folds, data.pseudolabels, origin)
    return Trainer(of, inputs, TrainingState(folder), machine(workers))


def snapshot(network: SegmentationNetwork) -> dict[str, torch.Tensor]:
    """The network's weights as they are now."""
    return {name: value.clone() for name, value in network.module.state_dict().items()}


def pretended(monkeypatch: Any, trainer: Trainer, scores: Sequence[float] = ()) -> list[tuple[int, int, float]]:
    """Let the trainer go through its epochs without training; returns the (epoch, step, rate) it asks for."""
    asked: list[tuple[int, int, float]] = []
    planned = iter(scores)

    def train_step(data: Any, step: int, rates: Sequence[float]) -> torch.Tensor:
        asked.append((trainer.progress.epoch, step, rates[-1]))
        return torch.zeros(())

    monkeypatch.setattr(trainer, "train_step", train_step)
    monkeypatch.setattr(trainer, "validate", lambda: Validation(next(planned, 0.5)))
    return asked


class Plain(torch.nn.Module):
    """An encoder and a head without normalisation."""

    requires_divisible_input_shape = False

    def __init__(self) -> None:
        super().__init__()
        self.encoder = torch.nn.Conv2d(1, 4, 3, padding=1)
        self.encoder.output_stride = 1  # type: ignore[assignment]
        self.head = torch.nn.Conv2d(4, 1, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.encoder(images).relu())


def use_plain_network(monkeypatch: Any) -> None:
    """Let every trainer have the plain network."""

    def build(*_: object, **__: object) -> SegmentationNetwork:
        torch.manual_seed(0)
        return SegmentationNetwork(Plain(), Geometry(), InputChannels(["image"], Normalise(), 1), 1)

    monkeypatch.setattr(start, "build", build)


class signalled:
    """While active, this process gets a signal right after the training step (epoch, step)."""

    def __init__(self, number: signal.Signals, epoch: int, step: int) -> None:
        self.number, self.at = number, (epoch, step)

    def __enter__(self) -> None:
        self.original = Trainer.train_step

        def train_step(trainer: Trainer, data: Any, step: int, rates: Sequence[float]) -> torch.Tensor:
            loss = self.original(trainer, data, step, rates)
            if (trainer.progress.epoch, step) == self.at:
                trainer.state.wait()  # otherwise a kill may come before the last epoch is on the disk
                os.kill(os.getpid(), self.number)
            return loss

        Trainer.train_step = train_step  # type: ignore[method-assign]

    def __exit__(self, *_: object) -> None:
        Trainer.train_step = self.original  # type: ignore[method-assign]


def train_signalled(
    folder: Path, data: Data, of: TrainPart, workers: int, number: signal.Signals, epoch: int, step: int
) -> None:
    """Body of a process that gets a signal in the middle of its training."""
    log_to(folder)
    with signalled(number, epoch, step):
        train(folder, data, of, workers)


def train_logged(folder: Path, data: Data, of: TrainPart) -> None:
    """Body of a process that trains."""
    log_to(folder)
    train(folder, data, of)


def log_to(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    logging.basicConfig(filename=folder / "log", level=logging.INFO, format="%(message)s", force=True)
