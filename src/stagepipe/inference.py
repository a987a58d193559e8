"""Prediction: all members of a run and fold, all views, in one pass over the data, straight into quantised tables."""

import itertools
import logging
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from stagepipe import windows
from stagepipe.artefacts import Provenance, load_weights, read_table
from stagepipe.data.store import PixelStore, same_size_batches
from stagepipe.errors import TrainingError
from stagepipe.networks import SegmentationNetwork, build
from stagepipe.probabilities import STEPS, ProbabilityWriter, keep_most_probable
from stagepipe.recipe.model import Predict, Voting, Windows
from stagepipe.recipe.parts import PredictPart
from stagepipe.runtime import Machine

LOG = logging.getLogger(__name__)
PIXELS_PER_BATCH = {"cpu": 1 << 17, "cuda": 1 << 24}
"""Network input pixels in flight, all views counted; a batch holds at least one view of one image. On the CPU more are
no faster, and a U-Net on a resnet34 takes 1.3 to 1.7 kB of memory a pixel."""

Map = NDArray[np.uint8]


@dataclass(frozen=True)
class View:
    """A quarter turn (counter-clockwise, after the flips) and flips: lossless, so undone exactly."""

    turns: int = 0
    vertical: bool = False
    horizontal: bool = False

    def apply(self, images: torch.Tensor) -> torch.Tensor:
        """Turn images [B, H, W, K]."""
        flipped = images.flip([axis for axis, flip in ((1, self.vertical), (2, self.horizontal)) if flip])
        return flipped.rot90(self.turns, (1, 2))

    def undo(self, maps: torch.Tensor) -> torch.Tensor:
        """Turn maps [B, C, H, W] back."""
        turned = maps.rot90(-self.turns, (2, 3))
        return turned.flip([axis for axis, flip in ((2, self.vertical), (3, self.horizontal)) if flip])


def views(tta: Sequence[str]) -> list[View]:
    """The plain view and all combinations of hflip, vflip and rot90 (a quarter turn more) that are asked for."""
    turns = (0, 1) if "rot90" in tta else (0,)
    vertical = (False, True) if "vflip" in tta else (False,)
    horizontal = (False, True) if "hflip" in tta else (False,)
    return [View(*choice) for choice in itertools.product(turns, vertical, horizontal)]


class Ensemble:
    """The members of one run and fold on the device, averaged by weight."""

    def __init__(self, part: PredictPart, weights: dict[str, Path], machine: Machine) -> None:
        self._machine = machine
        self._views = views(part.tta)
        total = sum(member.weight for member in part.members)
        self._shares = [member.weight / total for member in part.members]
        self._networks: list[SegmentationNetwork] = []
        window = part.predict.windows or part.predict.voting
        for member in part.members:
            # Windows go through as they are, as large as the network takes them.
            geometry = (None, None) if window else (member.resize, member.pad)
            network = build(part.network, len(part.classes), part.stored_channels, *geometry, pretrained=False)
            if window:
                network.check_window(window.size, f"predict.{part.predict.choice}.size")
            network.module.load_state_dict(load_weights(weights[member.phase], member.member))
            network.to(machine.device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
            self._networks.append(network)
        self._forward = [torch.compile(network) if machine.compile else network for network in self._networks]

    def batch_size(self, height: int, width: int) -> int:
        """Images a batch, so that all views of one member stay within the device's budget."""
        return max(1, self._views_in_flight(height, width) // len(self._views))

    def _views_in_flight(self, height: int, width: int) -> int:
        """How many images or views of that size go through a network at once."""
        sizes = (network.geometry.padded_size(height, width) for network in self._networks)
        return max(1, PIXELS_PER_BATCH[self._machine.device.type] // max(rows * columns for rows, columns in sizes))

    @torch.inference_mode()
    def predict(self, images: torch.Tensor) -> torch.Tensor:
        """Probabilities float32 [B, C, H, W] of images uint8 [B, H, W, K]: mean over views, weighted over members.

        TrainingError if a network gives values that are no numbers.
        """
        images = self._machine.to_device(images)
        total: torch.Tensor | None = None
        for network, forward, share in zip(self._networks, self._forward, self._shares, strict=True):
            for stack in self._stacks(images):
                batch = torch.cat([view.apply(images) for view in stack])
                with self._machine.autocast():
                    logits = forward(batch)
                maps = network.restored(logits, batch.shape[1], batch.shape[2])
                del logits
                for view, view_maps in zip(stack, maps.split(len(images)), strict=True):
                    weighted = view.undo(view_maps) * (share / len(self._views))
                    total = weighted if total is None else total.add_(weighted)
        assert total is not None
        if not bool(total.isfinite().all()):
            raise TrainingError("the network gives values that are no numbers; train with a smaller lr")
        return total

    def _stacks(self, images: torch.Tensor) -> Iterator[list[View]]:
        """Views that go through a network together: of one shape, and within the budget."""
        most = max(1, self._views_in_flight(*images.shape[1:3]) // len(images))
        # Quarter turns of an oblong image have another shape.
        for _, group in itertools.groupby(self._views, key=lambda view: tuple(view.apply(images[:1]).shape)):
            alike = list(group)
            yield from (alike[start : start + most] for start in range(0, len(alike), most))


class Predictor:
    """Takes images through an ensemble as a run's `predict` says: whole, or in windows or tiles."""

    def __init__(self, ensemble: Ensemble, how: Predict, classes: int) -> None:
        self._ensemble, self._how, self._classes = ensemble, how, classes

    def batch_size(self, height: int, width: int) -> int:
        """Images a batch; one of which windows are taken."""
        return self._ensemble.batch_size(height, width) if self._how.whole else 1

    def quantised(self, images: NDArray[np.uint8]) -> Iterator[Map]:
        """uint8 [C, H, W], round(255 p), halves up, of each of images uint8 [B, H, W, K]."""
        if self._how.whole:
            yield from _quantised(self._ensemble.predict(torch.from_numpy(images))).cpu().numpy()
            return
        for image in images:
            if self._how.windows:
                yield self._averaged(image, self._how.windows)
            elif self._how.voting:
                yield self._voted(image, self._how.voting)

    @torch.inference_mode()
    def _averaged(self, image: NDArray[np.uint8], how: Windows) -> Map:
        """Weighted mean of the probabilities of overlapping windows."""
        whole = windows.padded(image, how.size)
        places = windows.overlapping(whole.shape[:2], how.size, how.overlap)
        weight = windows.gaussian(how.size) if how.weight == "gaussian" else torch.ones(how.size)
        quantised = np.empty((self._classes, *whole.shape[:2]), np.uint8)
        found = self._windows(whole, places, how.size)
        for rows, means in windows.weighted_means(found, weight, (self._classes, whole.shape[1])):
            quantised[:, rows] = _quantised(means)
        return windows.unpadded(quantised, image.shape[:2])

    @torch.inference_mode()
    def _voted(self, image: NDArray[np.uint8], how: Voting) -> Map:
        """Share of the tilings whose most probable class it is; of equal shares the first class is the label."""
        height, width = image.shape[:2]
        (rows, columns), border = how.size, [(edge, edge) for edge in how.size]
        whole = np.pad(image, (*border, (0, 0)), mode="edge")
        votes = torch.zeros(self._classes, height, width, dtype=torch.uint8)
        one = torch.ones(1, 1, 1, dtype=torch.uint8)
        for places in windows.tilings((height, width), how.size, how.grids):
            labels = torch.zeros(height + 2 * rows, width + 2 * columns, dtype=torch.uint8)
            shifted = [(row + rows, column + columns) for row, column in places]
            for (row, column), maps in self._windows(whole, shifted, how.size):
                labels[row : row + rows, column : column + columns] = maps.argmax(dim=0)
            inner = labels[rows : rows + height, columns : columns + width].long()[None]
            votes.scatter_add_(0, inner, one.expand_as(inner))
        shares = (np.arange(how.grids + 1) / how.grids * STEPS + 0.5).astype(np.uint8)
        return shares[votes.numpy()]

    def _windows(
        self, image: NDArray[np.uint8], places: Sequence[windows.Place], size: windows.Size
    ) -> Iterator[tuple[windows.Place, torch.Tensor]]:
        """Place and probabilities float32 [C, height, width] of every window, in batches."""
        count = self._ensemble.batch_size(*size)
        for start in range(0, len(places), count):
            chosen = places[start : start + count]
            batch = np.stack([image[row : row + size[0], column : column + size[1]] for row, column in chosen])
            yield from zip(chosen, self._ensemble.predict(torch.from_numpy(batch)).cpu(), strict=True)


@torch.inference_mode()
def _quantised(maps: torch.Tensor) -> torch.Tensor:
    """round(255 p), halves up, as probabilities.quantise does it; the maps themselves are used up."""
    return maps.mul_(STEPS).add_(0.5).to(torch.uint8)


def predict(
    part: PredictPart,
    samples: Path,
    pixels: Path,
    folds: Path,
    weights: dict[str, Path],
    outputs: dict[str, Path],
    machine: Machine,
    provenance: Provenance | None = None,
) -> None:
    """Write the `out_of_fold` and `test` tables of one run and fold.

    `weights` maps the phases that have members to their files, `outputs` the two splits to the tables to write. The
    out-of-fold table holds the samples whose fold this is, which no member has seen the label of. Maps of black images
    are all 0 where the run says so. TrainingError if a network gives values that are no numbers, RecipeError for
    windows that a network can't take.
    """
    table = read_table(samples)
    store = PixelStore(pixels, table)
    predictor = Predictor(Ensemble(part, weights, machine), part.predict, len(part.classes))
    split = read_table(folds)
    held_out = {
        sample_id
        for sample_id, fold, always in zip(*(split[name].to_pylist() for name in split.column_names), strict=True)
        if fold == int(part.fold) and not always
    }
    ids = table["sample_id"].to_pylist()
    black = table["black"].to_pylist() if part.black_is_empty else [False] * len(ids)
    rows = {
        "out_of_fold": [row for row, sample_id in enumerate(ids) if sample_id in held_out],
        "test": [row for row, name in enumerate(table["split"].to_pylist()) if name == "test"],
    }
    for name, path in outputs.items():
        label = f"{part.stage}/{part.run} fold {part.fold} {name}"
        with ProbabilityWriter(path, provenance) as writer:
            for row, quantised in _maps(predictor, store, rows[name], label):
                kept = keep_most_probable(quantised, part.kept_classes)
                writer.add_quantised(ids[row], np.zeros_like(kept) if black[row] else kept)
        LOG.info("%s: %d images, %d members, %d views", label, len(rows[name]), len(part.members), len(views(part.tta)))


def _maps(predictor: Predictor, store: PixelStore, rows: list[int], label: str) -> Iterator[tuple[int, Map]]:
    """Row numbers and uint8 maps [C, H, W]."""
    bar = tqdm(total=len(rows), desc=label, unit="image", leave=False, disable=not sys.stderr.isatty())
    for batch, images in same_size_batches(store, rows, predictor.batch_size):
        try:
            yield from zip(batch, predictor.quantised(images), strict=True)
        except TrainingError as error:
            raise TrainingError(f"{label}: {error}") from error
        bar.update(len(batch))
    bar.close()
