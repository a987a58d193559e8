"""What a training phase reads: which rows, in which order, augmented by keyed random numbers, as uint8 batches."""

import math
import signal
import sys
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from torch.utils.data import DataLoader, Dataset

from stagepipe import rle, seeding
from stagepipe.artefacts import read_table
from stagepipe.crops import RandomWindow
from stagepipe.data.store import PixelStore
from stagepipe.errors import DataError, TrainingError
from stagepipe.recipe.model import Balanced, Sampler
from stagepipe.recipe.parts import TrainPart

if TYPE_CHECKING:  # predictions come here, too, and albumentations takes a second of CPU
    from stagepipe.augment import Augmentation

VALIDATION_FOLD_OF_SHARED = 0
"""A phase shared by all folds is watched on this fold's labels; it trains on no label."""


class Item(NamedTuple):
    """One training sample: a row of the samples table, and its pseudolabel's runs if the mask is not a label."""

    row: int
    runs: tuple[np.ndarray, np.ndarray] | None
    foreground: int
    """pixels"""


@dataclass(frozen=True)
class Selection:
    """What a phase trains and validates on."""

    training: list[Item]
    validation: list[int]
    """rows of the samples table"""


def select(part: TrainPart, samples: pa.Table, folds: Path, pseudolabels: Path | None) -> Selection:
    """Rows for one phase and fold. DataError if nothing is left to train or validate on."""
    row_of = {sample_id: row for row, sample_id in enumerate(samples["sample_id"].to_pylist())}
    black = samples["black"].to_pylist()
    foreground = foreground_pixels(samples, part.ignore_index)
    enough = max(part.phase.minimum_foreground, int(part.phase.exclude_empty))
    split = read_table(folds)
    held_out = VALIDATION_FOLD_OF_SHARED if part.fold == "shared" else int(part.fold)
    training: list[Item] = []
    validation: list[int] = []
    for sample_id, fold, always in zip(*(split[name].to_pylist() for name in split.column_names), strict=True):
        row = row_of[sample_id]
        if part.phase.exclude_black and black[row]:
            continue
        if not always and fold == held_out:
            if foreground[row] >= part.phase.minimum_foreground:
                validation.append(row)
        elif part.phase.data != "pseudolabels" and (part.phase.always_train or not always):
            training.append(Item(row, None, int(foreground[row])))
    if part.phase.data != "labels":
        assert pseudolabels is not None
        candidates = _pseudolabelled(part, read_table(pseudolabels), row_of)
        training += [item for item in candidates if not (part.phase.exclude_black and black[item.row])]
    training = [item for item in training if item.foreground >= enough]
    if not training or not validation:
        raise DataError(
            f"{part.stage}/{part.run}/{part.phase.name}, fold {part.fold}: {len(training)} samples to train on and "
            f"{len(validation)} to validate on; loosen the pseudolabels' rule or give fewer folds"
        )
    return Selection(training, validation)


def _pseudolabelled(part: TrainPart, table: pa.Table, row_of: dict[str, int]) -> Iterator[Item]:
    # Runs stay arrays from the table on: as Python numbers those of large images would take minutes and gigabytes.
    columns = table["sample_id"].to_pylist(), table["folds"].to_pylist(), table["lengths"], table["values"]
    for sample_id, folds, lengths, values in zip(*columns, strict=True):
        if part.fold == "shared" or int(part.fold) in folds:
            runs = lengths.values.to_numpy(), values.values.to_numpy()
            foreground = (runs[1] > 0) & (runs[1] != (part.ignore_index or 0))
            yield Item(row_of[sample_id], runs, int(runs[0][foreground].sum()))


def window(part: TrainPart, samples: pa.Table, items: Sequence[Item]) -> RandomWindow | None:
    """What cuts the phase's windows out of its training images, if it trains on windows.

    RecipeError names an image that is smaller.
    """
    if part.phase.crop is None:
        return None
    window = RandomWindow(*part.phase.crop.size, part.phase.crop.class_aware, part.ignore_index)
    table = samples.select(["height", "width", "sample_id"]).take(pa.array([item.row for item in items]))
    for height, width, sample_id in zip(*(column.to_pylist() for column in table.columns), strict=True):
        window.check(height, width, sample_id)
    return window


def foreground_pixels(samples: pa.Table, ignore_index: int | None = None) -> np.ndarray:
    """Pixels of each mask that aren't background, int64 [N]; 0 without a mask.

    Background is what is not the single class, or the first of several and the one to ignore.
    """
    areas = samples["height"].to_numpy().astype(np.int64) * samples["width"].to_numpy()

    def share(coverage: list[float] | None) -> float:
        classes = range(len(coverage or ()))
        counted = classes if len(classes) == 1 else [index for index in classes if index not in (0, ignore_index)]
        return sum(coverage[index] for index in counted) if coverage else 0.0

    return np.rint(np.array([share(coverage) for coverage in samples["coverage"].to_pylist()]) * areas).astype(np.int64)


@dataclass(frozen=True)
class EpochOrders:
    """Which items make up each batch of each epoch."""

    sampler: Sampler
    empty: np.ndarray
    """bool [N]: the item's mask is empty; with one kind alone `balanced` is a shuffle"""
    batch: int
    key: tuple[str | int, ...]
    """which phase it is"""
    epochs: int = 1
    """of the phase, all cycles: what a sliding share slides over"""

    def batches(self, epoch: int) -> list[list[tuple[int, int, int]]]:
        """Addresses of an epoch in full batches; what is left over waits for another epoch, as shapes stay static."""
        addresses = [(epoch, position, int(index)) for position, index in enumerate(self.order(epoch))]
        size = min(self.batch, len(addresses))
        return [addresses[start : start + size] for start in range(0, len(addresses) - size + 1, size)]

    def steps(self, epoch: int) -> int:
        """Batches of an epoch."""
        return max(1, self.draws(epoch) // self.batch)

    def images(self, epoch: int) -> int:
        """Draws that the batches of an epoch hold."""
        return self.steps(epoch) * min(self.batch, self.draws(epoch))

    def draws(self, epoch: int) -> int:
        """Draws of an epoch, with those that fill no batch.

        `replacement` makes as many full batches as its passes over the items have.
        """
        count = len(self.empty)
        if self.sampler.replacement:
            # As the published generators count: 2 passes over 3,127 samples in batches of 28 are 2 x 111 batches, not
            # 223.
            full = max(1, count // self.batch) * min(self.batch, count)
            return max(1, round(self.sampler.replacement.passes * full))
        return sum(self._kinds(epoch)) if self._balances else count

    def order(self, epoch: int) -> np.ndarray:
        """Positions of the items of an epoch, int64 [draws], in order."""
        random = seeding.generator("order", *self.key, epoch)
        count = len(self.empty)
        if self.sampler.replacement:
            return random.integers(0, count, self.draws(epoch))
        if not self._balances:
            return random.permutation(count)
        assert self.sampler.balanced
        positives, empties = self._kinds(epoch)
        chosen = [
            _draw(np.flatnonzero(~self.empty), positives, random),
            _draw(np.flatnonzero(self.empty), empties, random, self.sampler.balanced.replacement),
        ]
        return random.permutation(np.concatenate(chosen))

    @property
    def _balances(self) -> bool:
        return self.sampler.balanced is not None and 0 < int(np.count_nonzero(self.empty)) < len(self.empty)

    def _kinds(self, epoch: int) -> tuple[int, int]:
        """Draws of non-empty and of empty masks, where the sampler balances them."""
        balanced, count = self.sampler.balanced, len(self.empty)
        assert balanced
        share = positive_share(balanced, epoch, self.epochs)
        if balanced.length == "positives":
            positives = count - int(np.count_nonzero(self.empty))
            return positives, math.floor(positives * (1 - share) / share)
        positives = round(count * float(share))
        return positives, count - positives


def positive_share(balanced: Balanced, epoch: int, epochs: int) -> Fraction:
    """Share of non-empty masks in an epoch: p, or p0 + (p1 - p0) e / (E - 1) from the first of E epochs to the last.

    An exact fraction of the decimals as they are written: in floating point (1 - 0.8) / 0.8 is less than a quarter.
    """
    ends = balanced.positive if isinstance(balanced.positive, tuple) else (balanced.positive, balanced.positive)
    first, last = (Fraction(str(share)) for share in ends)
    return first + (last - first) * Fraction(epoch, max(1, epochs - 1))


def _draw(candidates: np.ndarray, count: int, random: np.random.Generator, replacement: bool = False) -> np.ndarray:
    """`count` candidates: with replacement, or without and going round anew when there are fewer."""
    if replacement:
        return random.choice(candidates, count)
    rounds = -(-count // len(candidates))
    return np.concatenate([random.permutation(candidates) for _ in range(max(1, rounds))])[:count]


class TrainingSamples(Dataset[tuple[np.ndarray, np.ndarray]]):
    """Augmented (image uint8 [H, W, K], mask uint8 [H, W]), addressed by (epoch, position in the epoch, item)."""

    def __init__(
        self, items: Sequence[Item], store: PixelStore, augmentation: "Augmentation", key: tuple[str | int, ...]
    ) -> None:
        self._items = items
        self._store = store
        self._augmentation = augmentation
        self._key = key

    def __getitem__(self, address: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
        epoch, position, index = address
        item = self._items[index]
        image = self._store.image(item.row)
        mask = self._store.mask(item.row) if item.runs is None else rle.decode_runs(*item.runs, *image.shape[:2])
        # Position and item: a sample drawn twice in an epoch is augmented differently each time.
        return self._augmentation.apply(image, mask, seeding.key("augment", *self._key, epoch, position, index))


def collate(samples: list[tuple[np.ndarray, np.ndarray]]) -> tuple[torch.Tensor, torch.Tensor]:
    """uint8 images [B, H, W, K] and masks [B, H, W]. TrainingError if the sizes in the batch differ."""
    sizes = {image.shape for image, _ in samples}
    if len(sizes) > 1:
        raise TrainingError(f"a batch holds images of sizes {sorted(sizes)}; add a Resize or a crop to `augment`")
    images, masks = (np.stack(arrays) for arrays in zip(*samples, strict=True))
    return torch.from_numpy(images), torch.from_numpy(masks)


def _quiet_worker(_: int) -> None:
    """Loader workers use one thread, and leave signals to the training process, which saves its state first."""
    import cv2

    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def batches(
    samples: TrainingSamples, orders: EpochOrders, start: tuple[int, int], end: int, workers: int, pin: bool
) -> Generator[tuple[torch.Tensor, torch.Tensor], None, None]:
    """Batches from (epoch, step) `start` to before epoch `end`, without a break between epochs.

    One pass of the loader covers all of them, so workers start once and the next epoch's first batches are ready when
    it begins.
    """
    epoch, step = start
    addresses = (
        batch for number in range(epoch, end) for batch in orders.batches(number)[step if number == epoch else 0 :]
    )
    loader: DataLoader[tuple[torch.Tensor, torch.Tensor]] = DataLoader(
        samples,  # type: ignore[arg-type]  # collated into tensors
        batch_sampler=addresses,
        num_workers=workers,
        collate_fn=collate,
        worker_init_fn=_quiet_worker,
        pin_memory=pin,
        prefetch_factor=4 if workers else None,
        # Python 3.14 would start each worker by importing everything anew; workers touch no device, so a fork is safe.
        multiprocessing_context="fork" if workers and sys.platform == "linux" else None,
    )
    # As a generator that its caller closes: the loader's workers ignore SIGTERM, so they must be let go before the
    # process ends.
    yield from loader
