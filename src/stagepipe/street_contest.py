"""Score of the Signate contest of 2018 (AI Edge Contest, segmentation of street scenes), from runs of pixels.

Truth and prediction are nested mappings {image: {category: {row: [[first, last], ...]}}}: rows are texts of whole
numbers from 0, as keys of JSON are, and runs hold the first and the last column from 0. Nothing given is changed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stagepipe.csvfiles import listed
from stagepipe.errors import DataError, shortened

Runs = Mapping[str, Mapping[str, Mapping[str, Sequence[Sequence[int]]]]]
Segments = NDArray[np.int64]
"""[runs, 2]: first pixel and the one after the last, on one line that all rows lie on one behind the other"""
EDGE = 1 << 30
"""pixels that an image is high and wide at most"""


@dataclass(frozen=True)
class ContestScore:
    """What a prediction scores."""

    ious: dict[str, dict[str, float]]
    """by image and category of its truth, in the order of the truth; images whose truth has no category are left out"""
    left_out: int
    """images whose truth has no category (the organisers' program divides by zero there)"""

    @cached_property
    def images(self) -> dict[str, float]:
        """Mean IoU of the categories that the truth has, by image."""
        return {image: sum(ious.values()) / len(ious) for image, ious in self.ious.items()}

    @property
    def mean(self) -> float:
        """The contest's score: the mean over images."""
        return sum(self.images.values()) / len(self.images)

    @property
    def categories(self) -> dict[str, float]:
        """Mean IoU of each category over the images whose truth has it, sorted by name."""
        return {name: float(mean) for name, mean in self._table().mean().sort_index().items()}

    @property
    def cases(self) -> pd.DataFrame:
        """Columns id, score and one a category, null where the truth lacks it; a row per image, sorted by id."""
        table = self._table()
        table = table[sorted(table.columns)]
        table.insert(0, "score", pd.Series(self.images))
        return table.rename_axis("id").sort_index().reset_index()

    def _table(self) -> pd.DataFrame:
        return pd.DataFrame.from_dict(self.ious, orient="index")


def contest_score(truth: Runs, prediction: Runs, sources: tuple[str, str] = ("truth", "prediction")) -> ContestScore:
    """Score a prediction as the organisers' program does.

    IoU of a category is |A and B| / |A or B|, counted in pixels; an image scores the sum of the IoU of the categories
    that both have, divided by the number of categories of its truth, so that a category that only the prediction has
    costs nothing. The score is the mean over the images of the truth; one that the prediction lacks scores 0. `sources`
    are what errors call the two. DataError lists runs that aren't in that form or overlap, categories of the truth
    without a pixel, and says if no image of the truth has a category.
    """
    wanted, found = (_parsed(runs, source) for runs, source in zip((truth, prediction), sources, strict=True))
    empty = [f"{image} {name}" for image, own in wanted.items() for name, segments in own.items() if not len(segments)]
    if empty:
        raise DataError(f"{sources[0]}: categories without a pixel: {listed(empty)}; leave them out")
    ious = {image: _ious(categories, found.get(image, {})) for image, categories in wanted.items() if categories}
    if not ious:
        raise DataError(f"{sources[0]}: no image has a category; write a solution with one")
    return ContestScore(ious, len(wanted) - len(ious))


def _ious(truth: Mapping[str, Segments], prediction: Mapping[str, Segments]) -> dict[str, float]:
    return {name: _iou(segments, prediction[name]) if name in prediction else 0.0 for name, segments in truth.items()}


def _iou(truth: Segments, prediction: Segments) -> float:
    common = int((_covered(prediction, truth[:, 1]) - _covered(prediction, truth[:, 0])).sum())
    areas = (int((segments[:, 1] - segments[:, 0]).sum()) for segments in (truth, prediction))
    return common / (sum(areas) - common)


def _covered(segments: Segments, places: NDArray[np.int64]) -> NDArray[np.int64]:
    """Pixels of sorted segments that lie before each place of the line."""
    if not len(segments):
        return np.zeros_like(places)
    lengths = segments[:, 1] - segments[:, 0]
    before = np.append(0, np.cumsum(lengths))
    last = np.searchsorted(segments[:, 0], places, side="right") - 1
    return before[last + 1] - np.where(last >= 0, np.maximum(segments[last, 1] - places, 0), 0)


# -------------------------------------------------------------------------------------------------------------- reading


def _parsed(runs: Any, source: str) -> dict[str, dict[str, Segments]]:
    """Sorted segments by image and category; DataError lists what isn't in the form of runs."""
    faults: list[str] = []
    parsed: dict[str, dict[str, Segments]] = {}
    if not isinstance(runs, Mapping):
        raise DataError(f"{source}: is {_shown(runs)}; write {{image: {{category: {{row: [[first, last], ...]}}}}}}")
    for image, categories in runs.items():
        parsed[image] = {}
        if not isinstance(categories, Mapping):
            faults.append(f"{image} (is {_shown(categories)}; write its categories)")
            continue
        for name, rows in categories.items():
            try:
                parsed[image][name] = _segments(rows)
            except ValueError as error:
                faults.append(f"{image} {name} ({error})")
    if faults:
        raise DataError(f"{source}: runs that can't be read: {listed(faults)}")
    return parsed


def _segments(rows: Any) -> Segments:
    """Sorted segments of {row: [[first, last], ...]}; ValueError says which row has what wrong."""
    if not isinstance(rows, Mapping):
        raise ValueError(f"is {_shown(rows)}; write its rows")
    numbers = np.array([_row(row) for row in rows], np.int64)
    counts = [_count(row, runs) for row, runs in rows.items()]
    flat = chain.from_iterable(chain.from_iterable(rows.values()))
    ends = np.fromiter(flat, np.int64, 2 * sum(counts)).reshape(-1, 2)
    line = np.repeat(numbers, counts)
    segments: Segments = line[:, None] * EDGE + ends + np.array([0, 1])
    order = np.argsort(segments[:, 0], kind="stable")
    segments = segments[order]
    overlapping = np.flatnonzero(segments[1:, 0] < segments[:-1, 1])
    if len(overlapping):
        one, two = ends[order][overlapping[0] : overlapping[0] + 2].tolist()
        raise ValueError(f"row {line[order][overlapping[0]]}: {one} and {two} overlap; count each pixel once")
    return segments


def _row(row: Any) -> int:
    # As Python and NumPy write it: "01" would be another key of the same row.
    if isinstance(row, str) and row.isascii() and row.isdigit() and len(row) < 10 and str(int(row)) == row:
        return int(row)
    raise ValueError(f"row {_shown(row)}: write a whole number from 0 as text")


def _count(row: str, runs: Any) -> int:
    """The number of runs of a row; ValueError unless each is [first, last], whole numbers, first <= last."""
    if not isinstance(runs, list | tuple):
        raise ValueError(f"row {row}: is {_shown(runs)}; write a list of runs [first, last]")
    for run in runs:
        ends = run if isinstance(run, list | tuple) else ()
        if len(ends) != 2 or type(ends[0]) is not int or type(ends[1]) is not int or not 0 <= ends[0] <= ends[1] < EDGE:
            raise ValueError(
                f"row {row}: {_shown(run)} is no run; write [first, last], columns from 0, the last one not before the "
                "first"
            )
    return len(runs)


def _shown(value: Any) -> str:
    """The value for a message, or its kind where it may be long."""
    return type(value).__name__ if isinstance(value, Mapping) else shortened(repr(value)[:1000])
