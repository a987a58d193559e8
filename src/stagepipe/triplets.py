"""Masks by two thresholds (SIIM-ACR Pneumothorax 2019, 1st place), and the search for the best ones.

A mask is empty if fewer than `area` pixels have p > top, else it is p > bottom. All that a search needs of an image are
counts of pixels above each threshold: its score at a triplet is that of p > bottom or that of an empty mask, so sums
over images are products of two small tables, (top, area) by images and images by bottom.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from stagepipe import metrics
from stagepipe.recipe.model import TripletGrid
from stagepipe.tables import TRIPLETS

Pixels = NDArray[np.int64]

IMAGES_AT_ONCE = 1024
ROUNDING = 1e-12
"""mean scores that differ by less are equal"""


@dataclass(frozen=True)
class Triplet:
    """How a map becomes a mask; a doublet has one threshold, top = bottom."""

    top: float
    """decides whether there is a mask"""
    area: int
    """fewest pixels above top"""
    bottom: float
    """decides where the mask is"""
    size: tuple[int, int] | None = None
    """height and width that `area` was chosen for; None: it is the same in all images"""

    def keeps(self, above: int | Pixels, pixels: int | Pixels) -> bool | NDArray[np.bool_]:
        """Whether an image of so many `pixels`, `above` of them above top, has a mask; exact, in integers."""
        if self.size is None:
            return above >= self.area
        return above * (self.size[0] * self.size[1]) >= pixels * self.area


def expand(grids: Iterable[TripletGrid]) -> list[Triplet]:
    """All triplets of the grids in the order written, the bottom turning fastest, each once."""
    found: dict[Triplet, None] = {}
    for grid in grids:
        for top, area, bottom in product(_listed(grid.top), _listed(grid.area), _listed(grid.bottom)):
            found[Triplet(bottom if top is None else top, area, bottom, grid.size)] = None
    return list(found)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def thresholds(triplets: Iterable[Triplet]) -> list[float]:
    """The thresholds that pixels are counted at, ascending, each once."""
    return sorted({threshold for triplet in triplets for threshold in (triplet.top, triplet.bottom)})


def image_scores(
    predicted: Pixels, intersection: Pixels, truth: Pixels, pixels: Pixels, triplets: Sequence[Triplet], metric: str
) -> NDArray[np.float64]:
    """Score of each image at each triplet, float64 [N, len(triplets)] in 0..1.

    predicted, intersection: int64 [N, K] pixels above each of the K thresholds(triplets), and those of them that are
    true. truth, pixels: int64 [N] true and all pixels. `metric`: dice, iou or mean_precision; two empty masks score 1,
    one empty mask 0. ValueError for counts at another number of thresholds.
    """
    grid = _grid(triplets)
    kept = _kept(grid, predicted, pixels)
    scores = _scores(grid, predicted, intersection, truth, metric)
    return np.where(kept[grid.gate].T, scores[:, grid.bottom], scores[:, -1:])


# --------------------------------------------------------------------------------------------------------------- search


@dataclass(frozen=True)
class TripletSearch:
    """Sums of scores of a list of triplets over the images of each fold."""

    triplets: list[Triplet]
    folds: list[int]
    """ascending"""
    images: Pixels
    """[folds] number of images"""
    totals: NDArray[np.float64]
    """[folds, triplets] sums of their scores"""

    @cached_property
    def curve(self) -> NDArray[np.float64]:
        """Score of each triplet pooled over images, [triplets]."""
        return np.asarray(self.totals.sum(axis=0) / self.images.sum())

    @property
    def triplet(self) -> Triplet:
        """The best triplet; of equals the first."""
        return self.triplets[first_best(self.curve)]

    @property
    def score(self) -> float:
        """Pooled score of the best triplet, on the images it was chosen on."""
        return float(self.curve[first_best(self.curve)])

    @property
    def by_fold(self) -> dict[int, Triplet]:
        """By fold: the triplet that is best on the other folds."""
        return {fold: self.triplets[place] for fold, place in zip(self.folds, self._others_choice, strict=True)}

    @property
    def nested_score(self) -> float:
        """What the search is worth on images it hasn't seen: mean over images, each at the choice of the other folds.

        ValueError if the images lie in fewer than two folds.
        """
        return float(self.totals[range(len(self.folds)), self._others_choice].sum() / self.images.sum())

    def table(self) -> pa.Table:
        """The score of every triplet as a table of schema TRIPLETS."""
        rows = [(triplet.top, triplet.area, triplet.bottom) for triplet in self.triplets]
        top, area, bottom = zip(*rows, strict=True)
        return pa.table({"top": top, "area": area, "bottom": bottom, "score": self.curve}, schema=TRIPLETS)

    @cached_property
    def _others_choice(self) -> list[int]:
        if len(self.folds) < 2:
            raise ValueError("a nested estimate needs images of two folds at least")
        others = self.totals.sum(axis=0) - self.totals
        return [first_best(total / (self.images.sum() - own)) for total, own in zip(others, self.images, strict=True)]


def search(
    predicted: Pixels,
    intersection: Pixels,
    truth: Pixels,
    pixels: Pixels,
    folds: Pixels,
    triplets: Sequence[Triplet],
    metric: str,
) -> TripletSearch:
    """Score all triplets on images of all folds.

    Counts are those of `image_scores`, folds: int64 [N] the fold of each image. The scores of all images at all
    triplets are never in memory together.
    """
    grid = _grid(triplets)
    numbers = np.unique(folds)
    totals = np.zeros((len(numbers), len(grid.gates), len(grid.bottoms)))
    for place, fold in enumerate(numbers):
        own = np.flatnonzero(folds == fold)
        for rows in np.split(own, range(IMAGES_AT_ONCE, len(own), IMAGES_AT_ONCE)):
            kept = _kept(grid, predicted[rows], pixels[rows])
            scores = _scores(grid, predicted[rows], intersection[rows], truth[rows], metric)
            totals[place] += kept.astype(np.float64) @ (scores[:, :-1] - scores[:, -1:]) + scores[:, -1].sum()
    images = np.array([np.count_nonzero(folds == fold) for fold in numbers])
    return TripletSearch(list(triplets), numbers.tolist(), images, totals[:, grid.gate, grid.bottom])


@dataclass(frozen=True)
class _Grid:
    """Triplets as places in a table of gates by bottoms."""

    gates: list[Triplet]
    """one of each (top, area, size)"""
    tops: list[int]
    """column of each gate's top in the counts"""
    bottoms: list[int]
    """columns of the distinct bottoms in the counts"""
    gate: list[int]
    """each triplet's place among the gates"""
    bottom: list[int]
    """each triplet's place among the bottoms"""
    columns: int
    """number of thresholds"""


def _grid(triplets: Sequence[Triplet]) -> _Grid:
    column = {threshold: place for place, threshold in enumerate(thresholds(triplets))}
    keys = [(triplet.top, triplet.area, triplet.size) for triplet in triplets]
    gates = dict(zip(keys, triplets, strict=True))
    place = {key: number for number, key in enumerate(gates)}
    bottoms = sorted({column[triplet.bottom] for triplet in triplets})
    return _Grid(
        gates=list(gates.values()),
        tops=[column[gate.top] for gate in gates.values()],
        bottoms=bottoms,
        gate=[place[key] for key in keys],
        bottom=[bottoms.index(column[triplet.bottom]) for triplet in triplets],
        columns=len(column),
    )


def _kept(grid: _Grid, predicted: Pixels, pixels: Pixels) -> NDArray[np.bool_]:
    """Whether each gate lets each image have a mask, [gates, N]."""
    if predicted.shape[1] != grid.columns:
        raise ValueError(f"predicted: counts at {predicted.shape[1]} thresholds; expected {grid.columns}")
    return np.array([gate.keeps(predicted[:, top], pixels) for gate, top in zip(grid.gates, grid.tops, strict=True)])


def _scores(grid: _Grid, predicted: Pixels, intersection: Pixels, truth: Pixels, metric: str) -> NDArray[np.float64]:
    """Score of each image at each bottom and, last, of an empty mask: [N, bottoms + 1]."""
    found, inside = (np.pad(counts[:, grid.bottoms], ((0, 0), (0, 1))) for counts in (predicted, intersection))
    counts = np.stack([inside, np.broadcast_to(truth[:, None], inside.shape), found], axis=-1).astype(np.int64)
    return metrics.scores(counts.reshape(-1, 1, 3))[metric].reshape(inside.shape)


def first_best(curve: NDArray[np.float64]) -> int:
    """Place of the highest score; of equals (but for rounding) the first."""
    return int(np.argmax(curve >= curve.max() - ROUNDING))
