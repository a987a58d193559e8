"""Threshold search from histograms beside the literal loop over thresholds and images."""

import numpy as np

from benchmarks.timing import compare
from stagepipe import binarise, metrics

IMAGES, SIZE = 500, 101
TIMED = 8  # thresholds of the literal loop that are timed; the rest takes as long


def _tiles():
    """Maps and truths like those of salt tiles: a third empty, soft borders, some noise."""
    random = np.random.default_rng(0)
    rows, columns = np.mgrid[:SIZE, :SIZE]
    for number in range(IMAGES):
        angle, shift = random.uniform(0, 2 * np.pi), random.uniform(-40, 40)
        distance = np.cos(angle) * (rows - 50) + np.sin(angle) * (columns - 50) - shift
        truth = np.zeros((SIZE, SIZE), np.uint8) if number % 3 == 0 else (distance > 0).astype(np.uint8)
        logit = (distance / 5 if number % 3 else -4) + random.normal(0, 1, truth.shape)
        yield f"{number:05}", np.round(255 / (1 + np.exp(-logit))).astype(np.uint8)[None], truth


def _literal(tiles, threshold):
    """Mean score over images of one threshold, as competition code writes it."""
    scores = []
    for _, quantised, truth in tiles:
        predicted, actual = quantised[0] / 255 > threshold, truth > 0
        union = np.logical_or(predicted, actual).sum()
        iou = 1.0 if union == 0 else np.logical_and(predicted, actual).sum() / union
        scores.append(np.mean([iou > bound for bound in metrics.THRESHOLDS]))
    return np.mean(scores)


def run(gpu: bool) -> list[dict]:
    tiles = list(_tiles())
    truths = {name: truth for name, _, truth in tiles}
    levels = np.linspace(0, len(binarise.GRID) - 1, TIMED).astype(int)

    def literal() -> list[float]:
        return [_literal(tiles, binarise.GRID[level]) for level in levels]

    def histograms() -> np.ndarray:
        maps = ((name, quantised) for name, quantised, _ in tiles)
        return binarise.search(maps, truths.__getitem__, "mean_precision").curve

    difference = np.abs(histograms()[levels] - literal()).max()
    note = (
        f"{IMAGES} images {SIZE} x {SIZE}, {len(binarise.GRID)} thresholds; "
        f"plain: literal loop, {TIMED} thresholds timed and scaled; scores differ by {difference:.1e}"
    )
    row = compare("threshold search", literal, histograms, note, repeats=5)
    scale = len(binarise.GRID) / TIMED
    return [row | {"plain": row["plain"] * scale, "ratio": row["ratio"] * scale}]


if __name__ == "__main__":
    print(*run(gpu=False), sep="\n")
