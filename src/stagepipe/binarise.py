"""Masks from probability maps, and the search for the threshold or triplet that makes the best ones.

Everything a search needs from an image are two histograms of its quantised map, one inside and one outside the true
mask: their sums from the top give the intersection and the predicted pixels at all 256 thresholds at once.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from stagepipe import metrics, triplets
from stagepipe.errors import ArtefactError
from stagepipe.probabilities import STEPS, lowest_above, most_probable
from stagepipe.tables import THRESHOLDS
from stagepipe.triplets import Triplet, TripletSearch

Rule = float | Triplet | None
"""what makes a mask of a map: a threshold or a triplet of a single class; None: the most probable of several"""

LEVELS = STEPS + 1
GRID = np.minimum((np.arange(LEVELS) + 0.5) / STEPS, 1.0)
"""The thresholds that differ: halfway between quantised probabilities, 0.5 among them; the last one leaves every mask
empty."""
IMAGES_AT_ONCE = 256


def apply(quantised: NDArray[np.uint8], rule: Rule = None) -> NDArray[np.uint8]:
    """Return the mask uint8 [height, width] of a map uint8 [classes, height, width].

    A single class is foreground (1) where p > threshold, or nowhere if a triplet finds the mask empty; of several
    classes the most probable one, the first of equals. ValueError if a single class comes without a threshold or
    several classes with one.
    """
    if (len(quantised) == 1) != (rule is not None):
        raise ValueError(
            f"a map of {len(quantised)} classes with threshold {rule}; a single class needs one, several take none"
        )
    if rule is None:
        return most_probable(quantised)
    if not isinstance(rule, Triplet):
        return _above(quantised[0], rule).astype(np.uint8)
    if not rule.keeps(int(np.count_nonzero(_above(quantised[0], rule.top))), quantised[0].size):
        return np.zeros_like(quantised[0])
    return _above(quantised[0], rule.bottom).astype(np.uint8)


def _above(plane: NDArray[np.uint8], threshold: float) -> NDArray[np.bool_]:
    return plane >= lowest_above(threshold)


@dataclass(frozen=True)
class Counts:
    """Pixels per image N: what scores at every threshold of GRID follow from."""

    sample_ids: list[str]
    intersection: NDArray[np.int32]
    """[N, 256] pixels predicted and true"""
    predicted: NDArray[np.int32]
    """[N, 256] pixels predicted"""
    truth: NDArray[np.int32]
    """[N] pixels true"""
    pixels: NDArray[np.int64]
    """[N] all pixels"""


@dataclass(frozen=True)
class ThresholdSearch:
    """Scores at every threshold of GRID."""

    sample_ids: list[str]
    image_scores: NDArray[np.float64]
    """[N, 256]"""

    @property
    def curve(self) -> NDArray[np.float64]:
        """Score pooled over images, [256]."""
        return self.image_scores.mean(axis=0)

    @property
    def threshold(self) -> float:
        """The best threshold; of equals the nearest to 0.5."""
        return float(GRID[_best(self.curve)])

    @property
    def score(self) -> float:
        """Pooled score at the best threshold, on the images it was chosen on."""
        return float(self.curve[_best(self.curve)])

    def table(self) -> pa.Table:
        """The whole curve as a table of schema THRESHOLDS."""
        return pa.table({"threshold": GRID, "score": self.curve}, schema=THRESHOLDS)


@dataclass(frozen=True)
class Nested:
    """What the search is worth on images it hasn't seen."""

    threshold: float
    """chosen on all images"""
    score: float
    """of that threshold, on the images it was chosen on"""
    nested_score: float
    """mean over images, each at the threshold chosen on the other folds"""
    thresholds: dict[int, float]
    """by fold: chosen on the other folds"""


def count(maps: Iterable[tuple[str, NDArray[np.uint8]]], truths: Callable[[str], NDArray[np.uint8]]) -> Counts:
    """Count pixels of (sample_id, uint8 [1, height, width]) against truths(sample_id), uint8 {0, 1} [height, width], in
    one pass.

    ValueError if a map has several classes, ArtefactError if a map and its truth differ in size or there is no map.
    """
    ids, histograms, pixels = [], [], []
    for sample_id, quantised in maps:
        truth = truths(sample_id)
        if len(quantised) != 1:
            raise ValueError(
                f"sample {sample_id!r} has {len(quantised)} classes; a threshold is searched for a single class"
            )
        if quantised.shape[1:] != truth.shape:
            raise ArtefactError(
                f"sample {sample_id!r}: the map is {quantised.shape[1:]}, its mask {truth.shape}; predict again"
            )
        # Levels of true pixels follow those of the others; bincount takes 64-bit integers without a copy.
        levels = np.multiply(truth > 0, LEVELS, dtype=np.int64) + quantised[0]
        ids.append(sample_id)
        pixels.append(truth.size)
        histograms.append(np.bincount(levels.ravel(), minlength=2 * LEVELS).astype(np.int32))
    if not ids:
        raise ArtefactError("there is no out-of-fold map to search a threshold on")
    outside, inside = np.stack(histograms).reshape(-1, 2, LEVELS).transpose(1, 0, 2)
    truth_pixels = inside.sum(axis=1, dtype=np.int32)
    return Counts(ids, _from_top(inside), _from_top(inside + outside), truth_pixels, np.array(pixels))


def _from_top(histograms: NDArray[np.int32]) -> NDArray[np.int32]:
    """Pixels above each level, [N, 256]."""
    at_most = np.cumsum(histograms, axis=1, dtype=np.int32)
    return at_most[:, -1:] - at_most


def search(
    maps: Iterable[tuple[str, NDArray[np.uint8]]], truths: Callable[[str], NDArray[np.uint8]], metric: str
) -> ThresholdSearch:
    """Score every threshold of GRID on the maps (see `count`) by `metric`: mean_precision, dice or iou."""
    counts = count(maps, truths)
    parts = []
    for start in range(0, len(counts.sample_ids), IMAGES_AT_ONCE):
        rows = slice(start, start + IMAGES_AT_ONCE)
        inside, predicted = counts.intersection[rows], counts.predicted[rows]
        triples = np.stack([inside, np.broadcast_to(counts.truth[rows, None], inside.shape), predicted], axis=-1)
        scores = metrics.scores(triples.reshape(-1, 1, 3).astype(np.int64))[metric]
        parts.append(scores.reshape(inside.shape))
    return ThresholdSearch(counts.sample_ids, np.concatenate(parts))


def nested(found: ThresholdSearch, folds: Mapping[str, int]) -> Nested:
    """Score each fold at the threshold chosen on the other folds; ValueError if the images lie in fewer than two
    folds."""
    number = np.array([folds[sample_id] for sample_id in found.sample_ids])
    if len(set(number.tolist())) < 2:
        raise ValueError("a nested estimate needs images of two folds at least")
    scores = np.empty(len(number))
    thresholds = {}
    for fold in sorted(set(number.tolist())):
        own = number == fold
        best = _best(found.image_scores[~own].mean(axis=0))
        thresholds[fold] = float(GRID[best])
        scores[own] = found.image_scores[own, best]
    return Nested(found.threshold, found.score, float(scores.mean()), thresholds)


def search_triplets(
    counts: Counts, candidates: Sequence[Triplet], folds: Mapping[str, int], metric: str
) -> TripletSearch:
    """Score triplets on counted maps by `metric`: mean_precision, dice or iou. `folds`: the fold of each sample."""
    levels = [lowest_above(threshold) - 1 for threshold in triplets.thresholds(candidates)]
    return triplets.search(
        counts.predicted[:, levels].astype(np.int64),
        counts.intersection[:, levels].astype(np.int64),
        counts.truth.astype(np.int64),
        counts.pixels,
        np.array([folds[sample_id] for sample_id in counts.sample_ids]),
        candidates,
        metric,
    )


def _best(curve: NDArray[np.float64]) -> int:
    """Index of the highest score; of equals (but for rounding) the nearest to 0.5, then the lower."""
    equals = np.flatnonzero(curve >= curve.max() - 1e-12)
    return int(equals[np.argmin(np.abs(2 * equals - (STEPS - 1)))])
