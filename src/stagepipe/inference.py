"""Prediction: all members of a run and fold, all views, in one pass over the data, straight into quantised tables.

Three things go on at a time: a thread reads the next images, the device predicts, a thread writes what is predicted.
"""

import logging
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from stagepipe import windows
from stagepipe.artefacts import Provenance, read_table
from stagepipe.background import Behind, ahead
from stagepipe.data.store import PixelStore, same_size_batches
from stagepipe.errors import TrainingError
from stagepipe.members import Ensemble
from stagepipe.probabilities import STEPS, ProbabilityWriter, keep_most_probable
from stagepipe.recipe.model import Predict, Voting, Windows
from stagepipe.recipe.parts import PredictPart
from stagepipe.runtime import Machine
from stagepipe.views import views

LOG = logging.getLogger(__name__)
Map = NDArray[np.uint8]
Key = TypeVar("Key")


class Predictor:
    """Takes images through an ensemble as a run's `predict` says: whole, or in windows or tiles."""

    def __init__(self, ensemble: Ensemble, how: Predict, classes: int) -> None:
        self._ensemble, self._how, self._classes = ensemble, how, classes

    def batch_size(self, height: int, width: int) -> int:
        """Images a batch; one of which windows are taken."""
        return self._ensemble.batch_size(height, width) if self._how.whole else 1

    def quantised(self, batches: Iterable[tuple[Key, NDArray[np.uint8]]]) -> Iterator[tuple[Key, Map]]:
        """uint8 [B, C, H, W], round(255 p), halves up, of batch after batch of images uint8 [B, H, W, K].

        What stands beside a batch stands beside its maps. The device has the next batch of whole images before the
        maps of one are fetched from it. TrainingError if a network gives values that are no numbers.
        """
        if not self._how.whole:
            for key, images in batches:
                yield key, np.stack([self._in_pieces(torch.from_numpy(image)) for image in images])
            return
        before: tuple[Key, _Fetched] | None = None
        for key, images in batches:
            current = key, _Fetched(self._ensemble.predict(torch.from_numpy(images)))
            if before:
                yield before[0], before[1].maps()
            before = current
        if before:
            yield before[0], before[1].maps()

    def _in_pieces(self, image: torch.Tensor) -> Map:
        """uint8 [C, H, W] of one image uint8 [H, W, K], in windows or tiles."""
        if self._how.windows:
            return self._averaged(image, self._how.windows)
        assert self._how.voting
        return self._voted(image, self._how.voting)

    @torch.inference_mode()
    def _averaged(self, image: torch.Tensor, how: Windows) -> Map:
        """Weighted mean of the probabilities of overlapping windows."""
        whole = torch.from_numpy(windows.padded(image.numpy(), how.size)).to(self._ensemble.device)
        places = windows.overlapping((whole.shape[0], whole.shape[1]), how.size, how.overlap)
        weight = windows.gaussian(how.size) if how.weight == "gaussian" else torch.ones(how.size)
        quantised = np.empty((self._classes, *whole.shape[:2]), np.uint8)
        found = self._windows(whole, places, how.size)
        weight = weight.to(whole.device)
        for rows, means in windows.weighted_means(found, weight, (self._classes, whole.shape[1])):
            quantised[:, rows] = _Fetched(means).maps()
        return windows.unpadded(quantised, (image.shape[0], image.shape[1]))

    @torch.inference_mode()
    def _voted(self, image: torch.Tensor, how: Voting) -> Map:
        """Share of the tilings whose most probable class it is; of equal shares the first class is the label."""
        height, width = image.shape[:2]
        (rows, columns), border = how.size, [(edge, edge) for edge in how.size]
        whole = torch.from_numpy(np.pad(image.numpy(), (*border, (0, 0)), mode="edge")).to(self._ensemble.device)
        votes = torch.zeros(self._classes, height, width, dtype=torch.uint8, device=whole.device)
        one = torch.ones(1, 1, 1, dtype=torch.uint8, device=whole.device)
        finite = torch.ones((), dtype=torch.bool, device=whole.device)
        for places in windows.tilings((height, width), how.size, how.grids):
            labels = torch.zeros(whole.shape[:2], dtype=torch.uint8, device=whole.device)
            shifted = [(row + rows, column + columns) for row, column in places]
            for (row, column), maps in self._windows(whole, shifted, how.size):
                labels[row : row + rows, column : column + columns] = maps.argmax(dim=0)
                finite &= maps.isfinite().all()
            inner = labels[rows : rows + height, columns : columns + width].long()[None]
            votes.scatter_add_(0, inner, one.expand_as(inner))
        _check(finite)
        shares = (np.arange(how.grids + 1) / how.grids * STEPS + 0.5).astype(np.uint8)
        return shares[votes.cpu().numpy()]

    def _windows(
        self, image: torch.Tensor, places: Sequence[windows.Place], size: windows.Size
    ) -> Iterator[tuple[windows.Place, torch.Tensor]]:
        """Place and probabilities float32 [C, height, width] of every window, in batches."""
        count = self._ensemble.batch_size(*size)
        for start in range(0, len(places), count):
            chosen = places[start : start + count]
            batch = torch.stack([image[row : row + size[0], column : column + size[1]] for row, column in chosen])
            yield from zip(chosen, self._ensemble.predict(batch), strict=True)


class _Fetched:
    """Probabilities, quantised and on their way to the host; they themselves are used up."""

    @torch.inference_mode()
    def __init__(self, maps: torch.Tensor) -> None:
        self._finite = maps.isfinite().all().to("cpu", non_blocking=True)
        # round(255 p), halves up, as probabilities.quantise does it
        self._maps = maps.mul_(STEPS).add_(0.5).to(torch.uint8).to("cpu", non_blocking=True)
        self._there = torch.cuda.Event() if maps.is_cuda else None
        if self._there:
            self._there.record()

    def maps(self) -> Map:
        """Wait for them; TrainingError if they are no numbers."""
        if self._there:
            self._there.synchronize()
        _check(self._finite)
        return self._maps.numpy()


def _check(finite: torch.Tensor) -> None:
    if not bool(finite):
        raise TrainingError("the network gives values that are no numbers; train with a smaller lr")


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
        with ProbabilityWriter(path, provenance) as writer, Behind() as behind:

            def write(batch: list[int], maps: Map, writer: ProbabilityWriter = writer) -> None:
                for row, quantised in zip(batch, maps, strict=True):
                    kept = keep_most_probable(quantised, part.kept_classes)
                    writer.add_quantised(ids[row], np.zeros_like(kept) if black[row] else kept)

            for batch, maps in _maps(predictor, store, rows[name], label):
                behind.do(write, batch, maps)
        LOG.info("%s: %d images, %d members, %d views", label, len(rows[name]), len(part.members), len(views(part.tta)))


def _maps(predictor: Predictor, store: PixelStore, rows: list[int], label: str) -> Iterator[tuple[list[int], Map]]:
    """Row numbers and uint8 maps [B, C, H, W], batch after batch."""
    bar = tqdm(total=len(rows), desc=label, unit="image", leave=False, disable=not sys.stderr.isatty())
    if rows:  # it may predict to find it out, which is nothing for the thread that reads
        predictor.batch_size(*store.image(rows[0]).shape[:2])
    with bar, closing(ahead(same_size_batches(store, rows, predictor.batch_size))) as batches:
        try:
            for batch, maps in predictor.quantised(batches):
                yield batch, maps
                bar.update(len(batch))
        except TrainingError as error:
            raise TrainingError(f"{label}: {error}") from error
