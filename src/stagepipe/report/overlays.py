"""Chosen cases as strips of image, truth and prediction."""

import colorsys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stagepipe import probabilities, rle, seeding
from stagepipe.data.store import PixelStore
from stagepipe.masks import final_masks
from stagepipe.report.collect import Collected, ReportInputs
from stagepipe.report.summaries import HEADLINE_RUNS

Picture = NDArray[np.uint8]
"""uint8 [H, W, 3]"""

EACH = 6
"""cases of a kind"""
LONGEST = 180
"""pixels of the longer side of a pane"""
GAP = 6
AGREED, WRONG, MISSED = (42, 157, 143), (231, 111, 36), (123, 79, 168)
PANES = {True: ("image", "truth", "prediction against truth"), False: ("image", "truth", "prediction")}
IGNORED = (70, 70, 70)
FIRST_COLOURS = (
    (66, 129, 164), (228, 146, 64), (88, 148, 92), (190, 74, 82), (128, 100, 162),
    (214, 192, 72), (84, 178, 178), (160, 112, 82), (214, 124, 164), (128, 138, 146),
)  # fmt: skip


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


def class_colours(count: int) -> list[tuple[int, int, int]]:
    """As many distinct RGB colours, 0..255; the first ten are named, the rest walk round the colour circle."""
    golden = 0.618034
    walked = (colorsys.hsv_to_rgb((index * golden) % 1.0, 0.55, 0.8) for index in range(max(0, count - 10)))
    return [*FIRST_COLOURS[:count], *((int(r * 255), int(g * 255), int(b * 255)) for r, g, b in walked)]


def chosen_cases(found: Collected) -> pd.DataFrame:
    """Out-of-fold cases to show: `kind`, sample_id, `score` and coverage, without repetition.

    The best are the best with foreground (an empty mask that stays empty shows nothing), the worst prefer large masks
    among equals, the random ones are drawn by a fixed key.
    """
    cases = _headline_cases(found).assign(score=lambda rows: rows[found.metric]).dropna(subset=["score"])
    # IoU moves in finer steps than mean precision, so it ranks among equals.
    worst = cases.sort_values(["score", "iou", "coverage", "sample_id"], ascending=[True, True, False, True])[:EACH]
    rest = cases[~cases["sample_id"].isin(worst["sample_id"])]
    best = rest[rest["coverage"] > 0].sort_values(["score", "iou", "sample_id"], ascending=[False, False, True])[:EACH]
    rest = rest[~rest["sample_id"].isin(best["sample_id"])].sort_values("sample_id")
    draw = seeding.generator("report", "random cases").permutation(len(rest))[:EACH]
    parts = {"worst": worst, "best": best, "random": rest.iloc[np.sort(draw)]}
    return pd.concat([part.assign(kind=kind) for kind, part in parts.items()])[
        ["kind", "sample_id", "score", "coverage"]
    ]


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
    draw = seeding.generator("report", "test samples").permutation(len(tests))[:EACH]
    return tests["sample_id"].iloc[np.sort(draw)].tolist()


def show(inputs: ReportInputs, found: Collected) -> tuple[list[Case], NDArray[np.int64]]:
    """Strips of the chosen cases: out of fold (worst, best, random), then test; and how sure the out-of-fold blend is.

    The second is the int64 [256] histogram of quantised probabilities of all pixels, each of its likeliest class.
    """
    store = PixelStore(inputs.pixels, found.table)
    places = {name: place for place, name in enumerate(found.table["sample_id"].to_pylist())}
    chosen, tests = chosen_cases(found), chosen_tests(found)
    maps, histogram = read_maps(inputs.blend_out_of_fold, set(chosen["sample_id"]))
    maps |= read_maps(inputs.blend_test, set(tests))[0]
    predicted = submitted_masks(found, maps)

    def case(kind: str, name: str, score: float | None = None, coverage: float | None = None) -> Case:
        place, mask = places[name], predicted[name]
        truth = store.mask(place) if score is not None else None
        strip = draw_strip(store.image(place), truth, mask, len(found.classes), found.recipe.dataset.ignore_index)
        return Case(kind, name, score, coverage, float((mask > 0).mean()), strip)

    cases = [
        case(row.kind, row.sample_id, row.score, row.coverage) for row in chosen.itertuples() if row.sample_id in maps
    ]
    return cases + [case("test", name) for name in tests if name in maps], histogram


def read_maps(path: Path, wanted: set[str]) -> tuple[dict[str, NDArray[np.uint8]], NDArray[np.int64]]:
    """Quantised maps uint8 [classes, H, W] of the wanted samples, and the histogram of all pixels' highest value."""
    kept, histogram = {}, np.zeros(256, np.int64)
    for name, quantised in probabilities.iterate(path):
        histogram += np.bincount(quantised.max(axis=0).ravel(), minlength=256)
        if name in wanted:
            kept[name] = quantised.copy()
    return kept, histogram


def submitted_masks(
    found: Collected, maps: Mapping[str, NDArray[np.uint8]], replaced: bool = True
) -> dict[str, NDArray[np.uint8]]:
    """Masks uint8 [H, W] of quantised maps as they are submitted; not `replaced`: without the jigsaw step."""
    replacements = _replacements(found, set(maps)) if replaced else {}
    rule = found.recipe.submission
    return dict(final_masks(maps.items(), found.chosen_threshold, rule, found.empty, replacements))


def _replacements(found: Collected, wanted: set[str]) -> dict[str, NDArray[np.uint8]]:
    """Masks that rules which are switched on put in the place of the predictions of the wanted samples."""
    rows = found.replacements[found.replacements["sample_id"].isin(wanted)]
    return {row.sample_id: rle.decode_runs(row.lengths, row.values, row.height, row.width) for row in rows.itertuples()}


# -------------------------------------------------------------------------------------------------------------- drawing


def draw_strip(
    image: NDArray[np.uint8],
    truth: NDArray[np.uint8] | None,
    predicted: NDArray[np.uint8],
    classes: int,
    ignore_index: int | None = None,
) -> Picture:
    """Panes side by side: image [H, W, K], truth if there is one, prediction (masks uint8 [H, W])."""
    picture = _scaled(rgb(image), smooth=True)
    masks = [_scaled(mask, smooth=False, size=picture.shape[:2]) for mask in (truth, predicted) if mask is not None]
    panes = [picture]
    if classes > 1:
        colours = np.array(class_colours(classes), np.uint8)
        panes += [_paint_classes(picture, mask, colours, ignore_index) for mask in masks]
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


def _scaled(pixels: NDArray[np.uint8], smooth: bool, size: tuple[int, int] | None = None) -> NDArray[np.uint8]:
    factor = LONGEST / max(pixels.shape[:2])
    fitting = max(1, round(pixels.shape[0] * factor)), max(1, round(pixels.shape[1] * factor))
    return resized(pixels, size or fitting, smooth)


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


def _paint_classes(
    picture: Picture, mask: NDArray[np.uint8], colours: NDArray[np.uint8], ignore_index: int | None
) -> Picture:
    table = np.tile(np.array(IGNORED, np.uint8), (256, 1))
    table[: len(colours)] = colours
    if ignore_index is not None:
        table[ignore_index] = IGNORED
    return (0.35 * picture + 0.65 * table[mask]).astype(np.uint8)
