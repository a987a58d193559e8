"""The training step of a phase in two loops: as everyone writes it, and as the Trainer takes it.

Each belongs into a process of its own, as threads, memory and compiled code are those of a process.
"""

import functools
import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from multiprocessing.connection import Connection
from pathlib import Path

import albumentations
import cv2
import numpy as np
import segmentation_models_pytorch as smp
import torch
from torch.utils.data import DataLoader, Dataset

from benchmarks.tiles import Tiles
from stagepipe import optimizers
from stagepipe.augment import CLASSES
from stagepipe.augmentation_lists import NAMED
from stagepipe.data.training import batches
from stagepipe.networks import SegmentationNetwork, build
from stagepipe.plan.images import Images
from stagepipe.plan.kinds import train_kind
from stagepipe.plan.networks import train_cost
from stagepipe.plan.trial import peak, synchronise
from stagepipe.recipe.model import LossTerm, Runtime, Transform
from stagepipe.recipe.parts import TrainPart
from stagepipe.runtime import Machine, configure
from stagepipe.training import Trainer, TrainInputs
from stagepipe.training.state import TrainingState

PLAIN_WORKERS = {"cpu": 2, "cuda": 8}
BORDERS = {
    "reflect": cv2.BORDER_REFLECT_101,
    "symmetric": cv2.BORDER_REFLECT,
    "edge": cv2.BORDER_REPLICATE,
    "zero": cv2.BORDER_CONSTANT,
}
Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


# -------------------------------------------------------------------------------------------------------- the plain way


def transform(spec: Transform) -> albumentations.BasicTransform | albumentations.BaseCompose:
    """An entry of an augmentation list as albumentations has it."""
    arguments = {
        name: getattr(cv2, value) if isinstance(value, str) and value.startswith("BORDER_") else value
        for name, value in spec.arguments.items()
    }
    if spec.transforms:
        arguments["transforms"] = [transform(inner) for inner in spec.transforms]
    return (getattr(albumentations, spec.name, None) or CLASSES[spec.name])(**arguments)


class Files(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Images and masks decoded, augmented, resized, padded and normalised one at a time."""

    def __init__(self, folder: Path, part: TrainPart, channels: int) -> None:
        self.images, self.masks = (sorted((folder / kind).iterdir()) for kind in ("images", "masks"))
        self.augment = albumentations.Compose([transform(spec) for spec in NAMED[str(part.phase.augment)]])
        self.resize, self.pad = part.phase.resize or part.network.resize, part.phase.pad or part.network.pad
        self.read_as = cv2.IMREAD_GRAYSCALE if part.stored_channels == 1 else cv2.IMREAD_COLOR
        self.channels, self.classes = channels, len(part.classes)

    def __len__(self) -> int:
        return len(self.images)

    def fitted(self, pixels: np.ndarray, interpolation: int) -> np.ndarray:
        """Resized and padded as the network wants it."""
        if self.resize:
            pixels = cv2.resize(pixels, self.resize[::-1], interpolation=interpolation)
        if self.pad:
            edges = [to - size for to, size in zip(self.pad.to, pixels.shape[:2], strict=True)]
            margins = [part for edge in edges for part in (edge // 2, edge - edge // 2)]
            pixels = cv2.copyMakeBorder(pixels, *margins, BORDERS[self.pad.mode])
        return pixels

    def augmented(self, index: int) -> dict[str, np.ndarray]:
        """`image` and `mask` as uint8, in the size of the files."""
        image = cv2.imread(str(self.images[index]), self.read_as)
        mask = cv2.imread(str(self.masks[index]), cv2.IMREAD_UNCHANGED)
        return self.augment(image=image, mask=mask)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        found = self.augmented(index)
        pixels = (self.fitted(found["image"], cv2.INTER_LINEAR).astype(np.float32) / 255 - 0.48) / 0.16
        pixels = np.repeat(pixels[None], self.channels, axis=0) if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
        labels = torch.from_numpy(self.fitted(found["mask"], cv2.INTER_NEAREST))
        return torch.from_numpy(np.ascontiguousarray(pixels)), labels.float() if self.classes == 1 else labels.long()


def plain_loss(name: str) -> Loss:
    """The loss of segmentation_models_pytorch that stands for ours of that name."""
    if name == "cross_entropy":
        return torch.nn.CrossEntropyLoss()
    if name.startswith("lovasz"):
        return smp.losses.LovaszLoss(mode="binary", per_image=True)
    return {
        "bce": smp.losses.SoftBCEWithLogitsLoss(),
        "dice": smp.losses.DiceLoss(mode="binary"),
        "focal": smp.losses.FocalLoss(mode="binary"),
    }[name]


def plain_losses(terms: dict[str, LossTerm]) -> Loss:
    """The weighted sum of several."""
    losses = [(term.weight, plain_loss(name)) for name, term in terms.items()]

    def total(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return sum(weight * loss(logits, target) for weight, loss in losses)  # type: ignore[return-value]

    return total


class PlainLoop:
    """float32, NCHW, files decoded anew in every epoch, not compiled, the loss read at every step."""

    def __init__(self, part: TrainPart, files: Path, machine: Machine) -> None:
        self.machine, self.phase = machine, part.phase
        self.network = _network(part).to(machine.device, memory_format=torch.contiguous_format)
        self.losses = {name: plain_losses(terms) for name, terms in _heads(part).items()}
        self.optimizer = optimizers.build(part.phase, self.network)
        self.loader = DataLoader(
            Files(files, part, self.network.inputs.count),
            part.phase.batch, shuffle=True, drop_last=True, persistent_workers=True,
            num_workers=PLAIN_WORKERS[machine.device.type],
        )  # fmt: skip
        self.steps = self._steps()
        self.facts: dict[str, float] = {}

    def _steps(self) -> Iterator[float]:
        module = self.network.module.train()
        while True:
            for images, masks in self.loader:
                inputs, target = images.to(self.machine.device), masks.to(self.machine.device)
                target = target[:, None] if target.is_floating_point() else target  # a single class has its channel
                heads = module.heads(inputs) if self.network.head_names else {"logits": module(inputs)}
                empty = (target.amax((-2, -1), keepdim=True) == 0).float()
                loss = sum(of(heads[name], empty if name == "empty" else target) for name, of in self.losses.items())
                loss.backward()  # type: ignore[union-attr]
                if self.phase.clip_norm:
                    torch.nn.utils.clip_grad_norm_(module.parameters(), self.phase.clip_norm)
                self.optimizer.step()
                self.optimizer.zero_grad()
                yield loss.item()  # type: ignore[union-attr]

    def take(self, way: str, steps: int) -> dict[str, float]:
        """Seconds of so many steps; `way` is `plain`."""
        return {"seconds": _seconds(lambda: next(self.steps), steps, self.machine), "peak": peak(self.machine)}

    def close(self) -> None:
        self.steps.close()  # type: ignore[attr-defined]


def _network(part: TrainPart) -> SegmentationNetwork:
    resize, pad = part.phase.resize, part.phase.pad
    return build(part.network, len(part.classes), part.stored_channels, resize, pad, pretrained=False)


def _heads(part: TrainPart) -> dict[str, dict[str, LossTerm]]:
    return {"logits": part.phase.loss, **part.phase.deep_supervision}


# -------------------------------------------------------------------------------------------------------------- our way


class OurLoop:
    """The Trainer's steps, on batches of its loader (`ours`) or on one that stays where the network is (`resident`)."""

    def __init__(self, part: TrainPart, data: Tiles, machine: Machine) -> None:
        self.machine = machine
        inputs, state = TrainInputs(data.samples, data.pixels, data.folds), TrainingState(data.raw.parent / "state")
        self.trainer = Trainer(part, inputs, state, machine)
        self.trainer.network.train()
        pin, epochs = machine.device.type == "cuda", part.phase.epochs
        self.loaded = batches(self.trainer.samples, self.trainer.orders, (0, 0), epochs, machine.workers, pin)
        batch = [machine.to_device(tensor) for tensor in next(self.loaded)]
        self.sources = {"ours": self.loaded, "resident": itertools.repeat(batch)}
        self.rates = [1e-4] * len(self.trainer.base_rates)
        self.size = self.trainer.network.geometry.padded_size(*batch[0].shape[1:3])
        cost = train_cost(train_kind(part, Images(0, 0, tuple(batch[0].shape[1:3]), "")))
        self.facts = {"height": self.size[0], "width": self.size[1], "flops": cost.training * len(batch[0])}

    def step(self, way: str) -> torch.Tensor:
        """One step; its loss stays on the device."""
        return self.trainer.train_step(self.sources[way], 0, self.rates)

    def take(self, way: str, steps: int) -> dict[str, float]:
        """Seconds of so many steps, how many of these the loop waited for data, and the peak of memory in MiB."""
        self.trainer.progress.waited = 0.0
        seconds = _seconds(lambda: self.step(way), steps, self.machine)
        return {"seconds": seconds, "waited": self.trainer.progress.waited, "peak": peak(self.machine)}

    def close(self) -> None:
        self.loaded.close()


# -------------------------------------------------------------------------------------------------------- the measuring


def _seconds(step: Callable[[], object], steps: int, machine: Machine) -> float:
    """Of so many steps, from nothing to do to all done."""
    synchronise(machine)
    began = time.perf_counter()
    for _ in range(steps):
        step()
    synchronise(machine)
    return time.perf_counter() - began


def matrix_rate(machine: Machine) -> dict[str, float]:
    """TFLOP/s of large matrix products in the precision of the training, after some that warm up."""
    size, repeats = (8192, 20) if machine.device.type == "cuda" else (2048, 3)
    dtype = torch.bfloat16 if machine.bf16 else torch.float32
    left, right = (torch.randn(size, size, dtype=dtype, device=machine.device) for _ in range(2))
    product = functools.partial(torch.mm, left, right)
    _seconds(product, repeats, machine)
    return {"matrix": 2 * size**3 * repeats / _seconds(product, repeats, machine) / 1e12}


def machine_here(gpu: bool, jobs: int = 1) -> Machine:
    """All cores, or as many as OMP_NUM_THREADS says; `jobs` share a GPU and the cores that load its data."""
    runtime = Runtime(device="cuda" if gpu else "cpu", jobs_per_gpu=jobs)
    return configure(runtime, threads=torch.get_num_threads())


def serve(pipe: Connection, kind: str, part: TrainPart, data: Tiles, files: Path, gpu: bool, jobs: int = 1) -> None:
    """In a process of its own: say what is known of the loop, then take steps as the pipe says, until it is closed."""
    machine = machine_here(gpu, jobs)
    with closing(PlainLoop(part, files, machine) if kind == "plain" else OurLoop(part, data, machine)) as loop:
        pipe.send(loop.facts)
        with suppress(EOFError):  # nobody asks any more
            while True:
                way, steps = pipe.recv()
                pipe.send(matrix_rate(machine) if way == "matrix" else loop.take(way, steps))
