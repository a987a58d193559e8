"""Shares of a blend, searched on pooled out-of-fold predictions.

A pixel whose highest value over the runs is below the lowest threshold is background in every blend. The others are
blended with the shares of all candidates, in the blend's own rounding, and counted above each threshold: scores follow
from the counts, and only their sums over the images of each fold are kept.
"""

import json
import logging
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from itertools import combinations
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from tqdm import tqdm

from stagepipe import ensemble, triplets
from stagepipe.artefacts import Provenance, write_table
from stagepipe.binarise import GRID, LEVELS
from stagepipe.data.labels import label_reader
from stagepipe.errors import ArtefactError
from stagepipe.probabilities import STEPS, lowest_above
from stagepipe.recipe.model import Submission
from stagepipe.recipe.submission_parts import SearchBlendPart
from stagepipe.scores import folds_by_id
from stagepipe.storage import atomic
from stagepipe.triplets import Triplet, first_best

LOG = logging.getLogger(__name__)
Map = NDArray[np.uint8]
Shares = NDArray[np.float64]
BLENDS = pa.schema([("score", pa.float64())])
"""One row per candidate, nearest to equal shares first; before the score stands a column of shares for each run."""
PIXELS_AT_ONCE = 1 << 15
"""Blended pixels, over candidates: so many stay in a core's cache."""
PACKED = 8
"""Bytes of a number that a pixel's values are packed into."""


@dataclass(frozen=True)
class Found:
    """Sums of scores of all candidates at all rules over the images of each fold."""

    names: list[str]
    shares: Shares
    """[candidates, runs]"""
    folds: list[int]
    """ascending"""
    images: NDArray[np.int64]
    """[folds] number of images"""
    totals: NDArray[np.float64]
    """[folds, candidates, rules] sums of scores"""
    equal_shares_score: float
    """pooled score of equal shares, at the rule that is best for them"""
    written_shares_score: float
    """the same of the shares that are written in the recipe"""

    @cached_property
    def scores(self) -> NDArray[np.float64]:
        """Pooled score of each candidate at the rule that is best for it, [candidates]."""
        return np.asarray(_pooled(self.totals, self.images).max(axis=1))

    @property
    def best(self) -> Shares:
        """The best shares, [runs]; of equals the nearest to equal shares, then the first in lexical order."""
        return self.shares[first_best(self.scores)]

    @property
    def score(self) -> float:
        """Pooled score of the best shares, on the images they were chosen on."""
        return float(self.scores[first_best(self.scores)])

    @property
    def by_fold(self) -> dict[int, Shares]:
        """By fold: the shares that are best on the other folds, [runs]."""
        return {fold: self.shares[place] for fold, (place, _) in zip(self.folds, self._others_choice, strict=True)}

    @property
    def nested(self) -> float:
        """What the search is worth on images it hasn't seen: mean over images, each at the shares and the rule chosen
        on the other folds.

        ValueError if the images lie in fewer than two folds.
        """
        own = [total[choice] for total, choice in zip(self.totals, self._others_choice, strict=True)]
        return float(sum(own) / self.images.sum())

    @cached_property
    def _others_choice(self) -> list[tuple[int, int]]:
        """Candidate and rule that are best on the folds but one."""
        if len(self.folds) < 2:
            raise ValueError("a nested estimate needs images of two folds at least")
        choices = []
        for left_out in range(len(self.folds)):
            others = np.arange(len(self.folds)) != left_out
            pooled = _pooled(self.totals[others], self.images[others])
            candidate = first_best(pooled.max(axis=1))
            choices.append((candidate, first_best(pooled[candidate])))
        return choices


def _pooled(totals: NDArray[np.float64], images: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.asarray(totals.sum(axis=0) / images.sum())


def candidates(runs: int, step: float) -> Shares:
    """All shares, [candidates, runs], that are multiples of a step and sum to 1.

    The nearest to equal shares come first, equally near ones in lexical order. ValueError if the step doesn't divide 1.
    """
    steps = round(1 / step)
    if abs(1 / step - steps) > 1e-6:
        raise ValueError(f"step {step:g} doesn't divide 1")
    # Bars among steps: the steps between two bars are a run's, and combinations come in lexical order.
    bars = np.array(list(combinations(range(steps + runs - 1), runs - 1)), np.int64)
    units = np.diff(bars, axis=1, prepend=-1, append=steps + runs - 1) - 1
    distances = ((units * runs - steps) ** 2).sum(axis=1)
    return units[np.argsort(distances, kind="stable")] / steps


def search_part(part: SearchBlendPart, samples: Path, pixels: Path, folds: Path, tables: Sequence[Path]) -> Found:
    """`search` what a recipe asks for; `tables` come run after run, every fold's of each."""
    by_run = ensemble.by_run(tables, len(part.runs))
    truths = label_reader(samples, pixels)
    return search(by_run, part.runs, truths, folds_by_id(folds), part.submission, part.step)


def search(
    tables: Sequence[Sequence[Path]],
    runs: Mapping[str, float],
    truths: Callable[[str], Map],
    folds: Mapping[str, int],
    rule: Submission,
    step: float,
) -> Found:
    """Score the blends of `candidates` by the submission's metric, masks made by its threshold or triplets.

    `tables`: each run's out-of-fold tables of all folds. `runs`: each run's share as the recipe has it, in the same
    order. A threshold that is searched, or several triplets, take the best for each candidate. Masks are scored before
    postprocessing. truths(sample_id): uint8 {0, 1} [H, W]. Memory doesn't depend on the number of images. ArtefactError
    where tables differ in samples, where a map isn't of a single class, of its mask's size and of a known fold, and if
    there is no map.
    """
    found = candidates(len(runs), step)
    written = np.array(list(runs.values()))
    tried = np.vstack([found, np.full(len(runs), 1 / len(runs)), written / written.sum()])
    rules = _rules(rule)
    totals: dict[int, NDArray[np.float64]] = defaultdict(lambda: np.zeros((len(tried), len(rules))))
    images: Counter[int] = Counter()
    for sample_id, maps, truth in _images(tables, truths):
        if sample_id not in folds:
            raise ArtefactError(f"sample {sample_id!r} has an out-of-fold map but no fold; predict again")
        totals[folds[sample_id]] += _scores(maps, truth, tried, rules, rule.threshold.metric)
        images[folds[sample_id]] += 1
    if not images:
        raise ArtefactError("there is no out-of-fold map to search the shares of a blend on")
    numbers = sorted(images)
    counts, sums = np.array([images[fold] for fold in numbers]), np.stack([totals[fold] for fold in numbers])
    equal, asked = _pooled(sums[:, -2:], counts).max(axis=1).tolist()
    return Found(list(runs), found, numbers, counts, sums[:, :-2], equal, asked)


def _rules(rule: Submission) -> list[Triplet]:
    """How masks may be made; of equally good ones the first is taken, so thresholds come nearest to 0.5 first."""
    if rule.triplets:
        return triplets.expand(rule.triplets)
    if rule.threshold.value is not None:
        return [Triplet(rule.threshold.value, 0, rule.threshold.value)]
    levels = sorted(range(LEVELS), key=lambda level: (abs(2 * level - (STEPS - 1)), level))
    return [Triplet(threshold, 0, threshold) for threshold in GRID[levels].tolist()]


def _images(
    tables: Sequence[Sequence[Path]], truths: Callable[[str], Map]
) -> Iterator[tuple[str, list[Map], NDArray[np.bool_]]]:
    """(sample_id, every run's map [H * W], truth [H * W])."""
    bar = tqdm(ensemble.together(tables), desc="blends", unit="image", leave=False, disable=not sys.stderr.isatty())
    for sample_id, maps in bar:
        truth = truths(sample_id)
        if maps[0].shape != (1, *truth.shape):
            raise ArtefactError(
                f"sample {sample_id!r}: the map is {maps[0].shape} for a mask {truth.shape} of a single class; "
                "predict again"
            )
        yield sample_id, [quantised.reshape(-1) for quantised in maps], truth.reshape(-1) > 0


def _scores(
    maps: Sequence[Map], truth: NDArray[np.bool_], shares: Shares, rules: Sequence[Triplet], metric: str
) -> NDArray[np.float64]:
    """Score of one image's mask for all shares and rules, [candidates, rules]."""
    levels = [lowest_above(threshold) for threshold in triplets.thresholds(rules)]
    predicted, intersection = _counts(maps, truth, shares, levels)
    same = (np.full(len(shares), np.count_nonzero(truth)), np.full(len(shares), truth.size))
    return triplets.image_scores(predicted, intersection, *same, rules, metric)


def _counts(
    maps: Sequence[Map], truth: NDArray[np.bool_], shares: Shares, levels: Sequence[int]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pixels of each blend at or above each level, and those of them that are true, [candidates, levels] each."""
    values, inside, weights = _distinct(maps, truth, min(levels))
    at_once = max(1, PIXELS_AT_ONCE // max(1, len(weights)))
    histograms = np.empty((len(shares), 2, LEVELS))
    for start in range(0, len(shares), at_once):
        some = shares[start : start + at_once]
        bins = (some @ values + ensemble.HALF_UP).astype(np.int64)
        bins += LEVELS * (2 * np.arange(len(some))[:, None] + inside)
        counted = np.bincount(bins.ravel(), np.tile(weights, len(some)), 2 * LEVELS * len(some))
        histograms[start : start + at_once] = counted.reshape(-1, 2, LEVELS)
    below = np.pad(histograms.cumsum(axis=2), ((0, 0), (0, 0), (1, 0)))
    outside, true = np.moveaxis((below[..., -1:] - below[..., levels]).astype(np.int64), 1, 0)
    return outside + true, true


def _distinct(
    maps: Sequence[Map], truth: NDArray[np.bool_], lowest: int
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """Pixels that reach a level in one of the runs: their values [runs, N], whether they are true [N], how many [N].

    Pixels that agree in all of this are one, where they fit into a number.
    """
    active = np.flatnonzero(reduce(np.maximum, maps) >= lowest)
    rows = np.stack([*(quantised[active] for quantised in maps), truth[active]]).astype(np.uint8)
    weights = np.ones(len(active), np.int64)
    if len(rows) <= PACKED:
        packed = np.zeros((len(active), PACKED), np.uint8)
        packed[:, : len(rows)] = rows.T
        numbers, weights = np.unique(packed.view(np.uint64), return_counts=True)
        rows = numbers.view(np.uint8).reshape(-1, PACKED).T[: len(rows)]
    return rows[:-1].astype(np.float64), rows[-1].astype(np.int64), weights


def write(found: Found, shares: Path, blends: Path, provenance: Provenance | None = None) -> None:
    """Write the best shares (JSON: shares, score, nested, by_fold, equal_shares_score, written_shares_score) and the
    scores of all candidates (BLENDS)."""

    def named(values: Shares) -> dict[str, float]:
        # In the order of the runs, which those who read the shares rely on.
        return dict(zip(found.names, values.tolist(), strict=True))

    chosen = {
        "shares": named(found.best),
        "score": found.score,
        "nested": found.nested,
        "by_fold": {str(fold): named(values) for fold, values in found.by_fold.items()},
        "equal_shares_score": found.equal_shares_score,
        "written_shares_score": found.written_shares_score,
    }
    LOG.info("best shares %s: %.4f, nested %.4f", chosen["shares"], found.score, found.nested)
    schema = pa.schema([*((name, pa.float64()) for name in found.names), *BLENDS])
    write_table(blends, pa.table([*found.shares.T, found.scores], schema=schema), provenance)
    with atomic(shares) as temporary:
        temporary.write_text(json.dumps(chosen, indent=1), encoding="utf-8")
