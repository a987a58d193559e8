"""Images a second of the Trainer's steps, beside the loop everyone writes and beside its own steps without a loader."""

import functools
import itertools
import multiprocessing
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import albumentations
import cv2
import numpy as np
import segmentation_models_pytorch as smp
import torch
from torch.utils.data import DataLoader, Dataset

from benchmarks import tiles
from benchmarks.timing import interleave
from stagepipe.data.training import batches
from stagepipe.recipe.model import Phase, Runtime
from stagepipe.recipe.parts import TrainPart
from stagepipe.runtime import Machine, configure
from stagepipe.training import Trainer, TrainInputs
from stagepipe.training_state import TrainingState

PLAIN_WORKERS = 2


@dataclass(frozen=True)
class Case:
    """One network and loss, and how long it is measured."""

    encoder: str
    loss: str
    batch: int
    warm: int
    """steps before the clock starts, that use up what the loaders prepared meanwhile"""
    steps: int
    rounds: int


CPU = [Case("resnet34", "lovasz_hinge", 16, 1, 2, 5), Case("resnet18", "bce_dice", 16, 1, 3, 5)]
GPU = [Case("resnet34", "lovasz_hinge", 64, 50, 200, 5)]


class PngTiles(Dataset):
    """Images and masks decoded, augmented, padded and normalised one at a time."""

    def __init__(self, raw: Path) -> None:
        self.images = sorted((raw / "train/images").iterdir())
        self.masks = sorted((raw / "train/masks").iterdir())
        # What `tgs_phalanx` does, by albumentations' own transforms.
        self.augment = albumentations.Compose(
            [
                albumentations.HorizontalFlip(p=0.5),
                albumentations.OneOf(
                    [
                        albumentations.RandomResizedCrop(size=(101, 101), scale=(0.6, 1), p=1),
                        albumentations.Affine(shear={"x": (-8, 8)}, border_mode=cv2.BORDER_REFLECT_101, p=1),
                        albumentations.Rotate(limit=(-15, 0), border_mode=cv2.BORDER_REFLECT_101, p=1),
                    ],
                    p=0.5,
                ),
                albumentations.RandomBrightnessContrast(brightness_limit=0.1, contrast_limit=0, p=0.5),
                albumentations.PadIfNeeded(128, 128, border_mode=cv2.BORDER_REFLECT_101),
            ]
        )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        image = cv2.imread(str(self.images[index]), cv2.IMREAD_GRAYSCALE)
        mask = (cv2.imread(str(self.masks[index]), cv2.IMREAD_UNCHANGED) > 0).astype(np.float32)
        result = self.augment(image=image, mask=mask)
        pixels = (result["image"].astype(np.float32) / 255 - 0.48) / 0.16
        return torch.from_numpy(pixels)[None], torch.from_numpy(result["mask"])[None]


def plain_loss(name: str) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    if name == "lovasz_hinge":
        return smp.losses.LovaszLoss(mode="binary", per_image=True)
    dice, bce = smp.losses.DiceLoss(mode="binary"), smp.losses.SoftBCEWithLogitsLoss()
    return lambda logits, target: dice(logits, target) + bce(logits, target)


def plain_steps(case: Case, raw: Path, device: torch.device) -> Iterator[float]:
    """The loop everyone writes: float32, NCHW, PNG files decoded anew in every epoch, the loss read at every step."""
    network = smp.Unet(case.encoder, encoder_weights=None, in_channels=1, decoder_attention_type="scse").to(device)
    loss_of, optimizer = plain_loss(case.loss), torch.optim.Adam(network.parameters(), lr=1e-4)
    loader = DataLoader(
        PngTiles(raw), case.batch, shuffle=True, drop_last=True, num_workers=PLAIN_WORKERS, persistent_workers=True
    )
    while True:
        for images, masks in loader:
            optimizer.zero_grad()
            loss = loss_of(network(images.to(device)), masks.to(device))
            loss.backward()
            optimizer.step()
            yield loss.item()


def trainer_of(case: Case, data: tiles.Tiles, machine: Machine) -> Trainer:
    loss = {"bce": 1, "dice": 1} if case.loss == "bce_dice" else case.loss
    phase = {"name": "phase", "loss": loss, "batch": case.batch, "augment": "tgs_phalanx", "lr": 1e-4, "epochs": 10**6}
    part = TrainPart(
        seed=0, stage="stage", run="run", fold="0", fold_count=5, classes=["salt"], stored_channels=1,
        network=tiles.network(case.encoder), phase=Phase.model_validate(phase),
    )  # fmt: skip
    return Trainer(part, TrainInputs(data.samples, data.pixels, data.folds), TrainingState(data.raw.parent), machine)


def trainer_steps(case: Case, data: tiles.Tiles, machine: Machine, resident: bool) -> Iterator[torch.Tensor]:
    """The Trainer's steps on batches of its loader, or all on one batch that is already where the network is."""
    trainer = trainer_of(case, data, machine)
    trainer.network.train()
    pin = machine.device.type == "cuda"
    workers = 0 if resident else machine.workers
    with closing(batches(trainer.samples, trainer.orders, (0, 0), trainer.phase.epochs, workers, pin)) as loaded:
        source = itertools.repeat([machine.to_device(tensor) for tensor in next(loaded)]) if resident else loaded
        while True:
            yield trainer.train_step(source, 0, [1e-4])


def serve(pipe: Connection, way: str, case: Case, data: tiles.Tiles, gpu: bool) -> None:
    """In a process of its own, take as many steps as the pipe says, say so, and end at zero."""
    if way == "plain":
        steps = plain_steps(case, data.raw, torch.device("cuda" if gpu else "cpu"))
    else:
        steps = trainer_steps(case, data, machine_here(gpu), resident=way == "resident")
    with closing(steps):
        while count := pipe.recv():
            for _ in range(count):
                next(steps)
            if gpu:
                torch.cuda.synchronize()
            pipe.send(None)


def machine_here(gpu: bool) -> Machine:
    """All cores, or as many as OMP_NUM_THREADS says."""
    return configure(Runtime(device="cuda" if gpu else "cpu"), threads=torch.get_num_threads())


def rates(case: Case, data: tiles.Tiles, gpu: bool) -> dict[str, float]:
    """Images a second of every way, each in a process of its own, with its own threads and memory, taking turns."""
    spawn, pipes, processes = multiprocessing.get_context("spawn"), {}, []
    for way in ("plain", "ours", "resident"):
        pipes[way], theirs = spawn.Pipe()
        processes.append(spawn.Process(target=serve, args=(theirs, way, case, data, gpu)))
        processes[-1].start()
        theirs.close()

    def take(way: str, steps: int) -> None:
        pipes[way].send(steps)
        pipes[way].recv()

    ways = {way: functools.partial(take, way, case.steps) for way in pipes}
    seconds = interleave(ways, case.rounds, before=lambda way: take(way, case.warm))
    for pipe, process in zip(pipes.values(), processes, strict=True):
        pipe.send(0)
        process.join()
    return {way: case.steps * case.batch / value for way, value in seconds.items()}


def run(gpu: bool) -> list[dict]:
    machine = machine_here(gpu)
    rows = []
    for case in GPU if gpu else CPU:
        with tempfile.TemporaryDirectory() as folder:
            rate = rates(case, tiles.write(Path(folder), train=1000, test=1), gpu)
        name = f"train U-Net {case.encoder} scse, {case.loss}, 128 px, batch {case.batch}"
        precision = "bf16" if machine.bf16 else "float32"
        notes = {
            "plain": f"threads: {torch.get_num_threads()}; plain: float32 NCHW, PNG files, {PLAIN_WORKERS} workers, "
            f"loss.item(); ours: {precision} channels_last, store, workers: {machine.workers}",
            "resident": "plain: the same step on one batch in memory, no loader",
        }
        for way, note in notes.items():
            label = name if way == "plain" else f"{name}: what the loader costs"
            numbers = {"plain": rate[way], "ours": rate["ours"], "unit": "images/s", "ratio": rate["ours"] / rate[way]}
            rows.append({"name": label, **numbers, "note": note})
    return rows


if __name__ == "__main__":
    print(*run(gpu=False), sep="\n")
