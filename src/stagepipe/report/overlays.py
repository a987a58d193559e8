"""Chosen cases as strips of image, truth and prediction."""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stagepipe import probabilities, rle, seeding
from stagepipe.data.store import PixelStore
from stagepipe.masks import final_masks
from stagepipe.report.collect import Collected
from stagepipe.report.inputs import ReportInputs
from stagepipe.report.summaries import HEADLINE_RUNS
from stagepipe.report.triptychs import Colour, Picture, class_colours, paint_classes, worst_class

EACH, EACH_OF_SEVERAL = 6, 4
"""cases of a kind, of a single class and of several, which are drawn larger"""
LONGEST, LONGEST_OF_SEVERAL = 180, 306
"""pixels of the longer side of a pane"""
GAP = 6
AGREED, WRONG, MISSED = (42, 157, 143), (231, 111, 36), (123, 79, 168)
PANES = {True: ("image", "truth", "prediction against truth"), False: ("image", "truth", "prediction")}


@dataclass(frozen=True)
class Case:
    """One sample to look at."""

    kind: str
    """worst, best, random or test"""
    sample_id: str
    score: float | None
    coverage: float | None
    """true foreground share"""
    predicted: float
    """predicted foreground share"""
    strip: Picture
    worst_class: tuple[str, float] | None = None
    """of several classes: the one of the truth that is predicted worst, and its IoU"""


def chosen_cases(found: Collected) -> pd.DataFrame:
    """Out-of-fold cases to show: `kind`, sample_id, `score` and coverage, without repetition.

    The best of a single class are the best with foreground (an empty mask that stays empty shows nothing), the worst
    prefer large masks among equals, the random ones are drawn by a fixed key.
    """
    each = _each(found)
    cases = _headline_cases(found).assign(score=lambda rows: rows[found.metric]).dropna(subset=["score"])
    # IoU moves in finer steps than mean precision, so it ranks among equals.
    worst = cases.sort_values(["score", "iou", "coverage", "sample_id"], ascending=[True, True, False, True])[:each]
    rest = cases[~cases["sample_id"].isin(worst["sample_id"])]
    shows = rest[rest["coverage"] > 0] if found.single else rest
    best = shows.sort_values(["score", "iou", "sample_id"], ascending=[False, False, True])[:each]
    rest = rest[~rest["sample_id"].isin(best["sample_id"])].sort_values("sample_id")
    draw = seeding.generator("report", "random cases").permutation(len(rest))[:each]
    parts = {"worst": worst, "best": best, "random": rest.iloc[np.sort(draw)]}
    return pd.concat([part.assign(kind=kind) for kind, part in parts.items()])[
        ["kind", "sample_id", "score", "coverage"]
    ]


def _each(found: Collected) -> int:
    return EACH if found.single else EACH_OF_SEVERAL


def _headline_cases(found: Collected) -> pd.DataFrame:
    """Cases of the submission's blend, else of the last stage's ensemble."""
    for stage in ["submission", *reversed(found.stages)]:
        for run in HEADLINE_RUNS:
            cases = found.cases[(found.cases["stage"] == stage) & (found.cases["run"] == run)]
            if len(cases):
                return cases
    return found.cases[:0]


def chosen_tests(found: Collected) -> list[str]:
    """Ids of test images to show, drawn by a fixed key among those that are not black."""
    tests = found.samples[(found.samples["split"] == "test") & ~found.samples["black"]]
    draw = seeding.generator("report", "test samples").permutation(len(tests))[: _each(found)]
    return tests["sample_id"].iloc[np.sort(draw)].tolist()


def show(inputs: ReportInputs, found: Collected) -> tuple[list[Case], NDArray[np.int64]]:
    """Strips of the chosen cases: out of fold (worst, best, random), then test; and how sure the out-of-fold blend is.

    The second is the int64 [256] histogram of quantised probabilities of all pixels, each of its likeliest class.
    """
    store = PixelStore(inputs.pixels, found.table)
    places = {name: place for place, name in enumerate(found.table["sample_id"].to_pylist())}
    chosen, histogram = chosen_cases(found), np.zeros(256, np.int64)
    tests = pd.DataFrame({"kind": "test", "sample_id": chosen_tests(found), "score": None, "coverage": None})
    labelled, others = set(chosen["sample_id"]), set(tests["sample_id"])
    predicted = submitted_masks(found, wanted_maps(inputs.blend_out_of_fold, labelled, histogram), labelled)
    predicted |= submitted_masks(found, wanted_maps(inputs.blend_test, others), others)
    cases = [
        _case(store, places[row.sample_id], row, predicted[row.sample_id], found)
        for row in [*chosen.itertuples(), *tests.itertuples()]
        if row.sample_id in predicted
    ]
    return cases, histogram


def _case(store: PixelStore, place: int, row: Any, mask: NDArray[np.uint8], found: Collected) -> Case:
    """A row of kind, sample_id, score and coverage with its strip; a test image has no truth."""
    dataset = found.recipe.dataset
    truth = None if row.kind == "test" else store.mask(place)
    colours = None if found.single else class_colours(dataset)
    return Case(
        kind=row.kind,
        sample_id=row.sample_id,
        score=row.score,
        coverage=row.coverage,
        predicted=float((mask > 0).mean()),
        strip=draw_strip(store.image(place), truth, mask, colours, dataset.ignore_index),
        worst_class=None if found.single or truth is None else worst_class(truth, mask, dataset),
    )


def wanted_maps(
    path: Path, wanted: Collection[str], histogram: NDArray[np.int64] | None = None
) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """Quantised maps uint8 [classes, H, W] of the wanted samples, one at a time: copy what is kept.

    Adds every pixel's highest value, of all samples, to the histogram (int64 [256]) if there is one.
    """
    for name, quantised in probabilities.iterate(path):
        if histogram is not None:
            histogram += np.bincount(quantised.max(axis=0).ravel(), minlength=256)
        if name in wanted:
            yield name, quantised


def submitted_masks(
    found: Collected,
    maps: Iterable[tuple[str, NDArray[np.uint8]]],
    wanted: Collection[str],
    replaced: bool = True,
) -> dict[str, NDArray[np.uint8]]:
    """Masks uint8 [H, W] of quantised maps as they are submitted; not `replaced`: without the jigsaw step."""
    replacements = _replacements(found, wanted) if replaced else {}
    return dict(final_masks(maps, found.chosen_threshold, found.recipe.submission, found.empty, replacements))


def _replacements(found: Collected, wanted: Collection[str]) -> dict[str, NDArray[np.uint8]]:
    """Masks that rules which are switched on put in the place of the predictions of the wanted samples."""
    rows = found.replacements[found.replacements["sample_id"].isin(wanted)]
    return {row.sample_id: rle.decode_runs(row.lengths, row.values, row.height, row.width) for row in rows.itertuples()}


# -------------------------------------------------------------------------------------------------------------- drawing


def draw_strip(
    image: NDArray[np.uint8],
    truth: NDArray[np.uint8] | None,
    predicted: NDArray[np.uint8],
    colours: list[Colour] | None = None,
    ignore_index: int | None = None,
) -> Picture:
    """Panes side by side: image [H, W, K], truth if there is one, prediction (masks uint8 [H, W]).

    `colours`: of each class of several; none: a single class, whose prediction is compared with the truth.
    """
    picture = _shrunk(rgb(image), LONGEST if colours is None else LONGEST_OF_SEVERAL)
    size = picture.shape[0], picture.shape[1]
    masks = [resized(mask, size, smooth=False) for mask in (truth, predicted) if mask is not None]
    panes = [picture]
    if colours is not None:
        panes += [paint_classes(picture, mask, colours, ignore_index) for mask in masks]
    elif truth is None:
        panes += [paint(picture, [(masks[0] > 0, AGREED)])]
    else:
        true, guess = masks[0] > 0, masks[1] > 0
        compared = [(true & guess, AGREED), (~true & guess, WRONG), (true & ~guess, MISSED)]
        panes += [paint(picture, [(true, AGREED)]), paint(picture, compared)]
    gap = np.full((picture.shape[0], GAP, 3), 255, np.uint8)
    return np.concatenate([part for pane in panes for part in (gap, pane)][1:], axis=1)


def rgb(image: NDArray[np.uint8]) -> Picture:
    """An image [H, W, K] as colours; of other than three channels the first, as gray."""
    return np.repeat(image[..., :1], 3, axis=2) if image.shape[2] != 3 else np.asarray(image)


def _shrunk(picture: Picture, longest: int) -> Picture:
    """The picture with so many pixels along its longer side; a smaller one is enlarged."""
    factor = longest / max(picture.shape[:2])
    size = max(1, round(picture.shape[0] * factor)), max(1, round(picture.shape[1] * factor))
    return resized(picture, size, smooth=True)


def resized(pixels: NDArray[np.uint8], size: tuple[int, int], smooth: bool) -> NDArray[np.uint8]:
    """An image, or (not smooth) a mask, as `size`: height and width."""
    from PIL import Image

    smaller = max(size) < max(pixels.shape[:2])
    # Box and bicubic filters cover every source pixel; nearest keeps class indices whole.
    method = Image.Resampling.NEAREST if not smooth else Image.Resampling.BOX if smaller else Image.Resampling.BICUBIC
    return np.asarray(Image.fromarray(np.ascontiguousarray(pixels)).resize(size[::-1], method))


def paint(picture: Picture, areas: list[tuple[NDArray[np.bool_], tuple[int, int, int]]]) -> Picture:
    """The picture with each area tinted and outlined in its colour."""
    painted = picture.astype(np.float32)
    for area, colour in areas:
        painted[area] = 0.5 * painted[area] + 0.5 * np.array(colour, np.float32)
        painted[outline(area)] = colour
    return painted.astype(np.uint8)


def outline(area: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Pixels of the area with a neighbour outside it; the frame of the picture is no border."""
    around = np.pad(area, 1, mode="edge")
    inside = around[:-2, 1:-1] & around[2:, 1:-1] & around[1:-1, :-2] & around[1:-1, 2:]
    return area & ~inside
