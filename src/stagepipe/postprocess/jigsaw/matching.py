"""Which tile borders continue one another.

Tiles are contrast-normalised one by one, so differences of gray values mislead and correlations don't. Each side of a
tile is described by the line one pixel outside, extrapolated linearly from the tile's last two lines; two sides match
as well as these lines correlate. (Generate_Mosaic.R of the TGS salt 2018 1st place, after V. Gaitan's public kernel;
there the lines are standardised over the data set first, which the real tiles don't need.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Line = NDArray[np.float32]
Indices = NDArray[np.int64]

FREQUENCIES = 48
"""cosine waves that describe a line: on the real tiles (101 pixels) they find as much as all 100, in half the time"""

BLOCK = 512
"""sides compared with all others at a time: 512 x 22,000 correlations are 45 MB"""

DETAIL = 1e-2
"""gray levels; a line whose deviations are shorter than this is constant and matches nothing"""

USUAL = 0.5
"""a correlation that arbitrary lines reach among thousands; among few tiles no pair stands out for want of others"""

EQUAL = 1e-5
"""correlations closer than this are the same one, rounded in another order"""


class Side(NamedTuple):
    """One side of N tiles. Lines are float32 [N, K], mean 0 and length 1, or all 0 where a line is constant."""

    line: Line
    """one pixel outside the tile"""
    far: Line
    """two pixels outside"""
    smoothness: Line
    """float32 [N], Fisher's z of the correlation between the tile's last two lines"""

    def take(self, order: Indices) -> Side:
        """The sides of some of the tiles, in the order given."""
        return Side(*(values[order] for values in self))


class Borders(NamedTuple):
    """All four sides of N tiles."""

    left: Side
    right: Side
    top: Side
    bottom: Side

    def take(self, order: Indices) -> Borders:
        """The borders of some of the tiles, in the order given."""
        return Borders(*(side.take(order) for side in self))


def borders(tiles: NDArray[np.uint8]) -> Borders:
    """Borders of tiles uint8 [N, H, W] of at least 2 x 2 pixels. Raises ValueError for other shapes."""
    if tiles.ndim != 3 or min(tiles.shape[1:]) < 2:
        raise ValueError(f"tiles: have shape {tiles.shape}; expected [tiles, height, width], 2 or more pixels each way")
    return Borders(
        left=_side(tiles[:, :, 0], tiles[:, :, 1]),
        right=_side(tiles[:, :, -1], tiles[:, :, -2]),
        top=_side(tiles[:, 0], tiles[:, 1]),
        bottom=_side(tiles[:, -1], tiles[:, -2]),
    )


def _side(edge: NDArray[np.uint8], inner: NDArray[np.uint8]) -> Side:
    """Side of tiles with a last and a last but one line, both [N, L]."""
    last, before = _waves(edge), _waves(inner)
    return Side(
        line=_unit(2 * last - before),
        far=_unit(3 * last - 2 * before),
        smoothness=_fisher(np.einsum("ij,ij->i", _unit(last), _unit(before))),
    )


def _waves(lines: NDArray[np.uint8]) -> Line:
    """The lowest frequencies of lines [N, L], without the mean: float32 [N, K], K < L (orthonormal DCT-II)."""
    length = lines.shape[1]
    frequencies = np.arange(1, min(length, FREQUENCIES + 1))
    cosines = np.cos(np.pi / length * np.outer(np.arange(length) + 0.5, frequencies)) * np.sqrt(2 / length)
    return lines.astype(np.float32) @ cosines.astype(np.float32)


def _unit(lines: Line) -> Line:
    lengths = np.linalg.norm(lines, axis=1, keepdims=True)
    return np.divide(lines, lengths, out=np.zeros_like(lines), where=lengths > DETAIL)


def _fisher(correlation: Line) -> Line:
    """Fisher's z, arctanh, of correlations no nearer to 1 than gray values of 8 bits can tell."""
    return np.arctanh(np.clip(correlation, -0.99, 0.999))


@dataclass(frozen=True)
class Facing:
    """How well facing sides of N tiles match: right with left sides, or bottoms with tops.

    ahead, behind: the sides that face right or down, and left or up. partner: int64 [N], whose `behind` correlates best
    with a tile's `ahead`. ahead_highest, behind_highest: float32 [2, N], the highest and second highest correlation of
    each side with those of all other tiles.
    """

    ahead: Side
    behind: Side
    partner: Indices
    ahead_highest: Line
    behind_highest: Line

    def correlations(self, first: Indices, second: Indices) -> Line:
        """How well the sides of each pair (first ahead of second) match, -1 to 1, float32 [pairs]."""
        correlation: Line = np.einsum("ij,ij->i", self.ahead.line[first], self.behind.line[second])
        return correlation

    def margins(self, first: Indices, second: Indices) -> NDArray[np.float64]:
        """How far each pair (first ahead of second) stands out among the other pairs of its two sides, float64 [pairs].

        With d = sqrt(1 - correlation), a distance between lines, it is 1 - d / (the smallest distance of another pair
        with one of the two sides): above 0 only for mutual best matches, at most 1, NaN where a line is constant. The
        other pair is taken to correlate by USUAL at least.
        """
        correlation = self.correlations(first, second)
        ahead_other = _highest_other(self.ahead_highest[:, first], correlation)
        behind_other = _highest_other(self.behind_highest[:, second], correlation)
        others = np.maximum(np.maximum(ahead_other, behind_other), USUAL)
        distance, other = (np.sqrt(np.maximum(1 - values.astype(float), EQUAL)) for values in (correlation, others))
        described = self.ahead.line[first].any(axis=1) & self.behind.line[second].any(axis=1)
        return np.where(described, 1 - distance / other, np.nan)

    def plainness(self, first: Indices, second: Indices) -> NDArray[np.float64]:
        """How much margin a single link must have before it means anything, float64 [pairs].

        Smooth borders match many others by chance. They are known by the likeness of the last two lines of each tile,
        and by lines that still correlate when extrapolated twice as far. The weights are those of a logistic regression
        of true links (published mosaics of 6,200 real TGS tiles) against links to tiles turned by half a turn, divided
        by the weight of the margin. What they are worth is measured by `python -m benchmarks --only jigsaw`.
        """
        far = _fisher(np.einsum("ij,ij->i", self.ahead.far[first], self.behind.far[second]))
        smoothness = self.ahead.smoothness[first] + self.behind.smoothness[second]
        return (0.21 * far + 0.07 * smoothness).astype(np.float64)

    def links(self) -> tuple[Indices, Indices]:
        """The pairs that are each other's best match, both int64 [links], by index of the first."""
        first = np.flatnonzero(self.ahead_highest[0] > 0)
        second = self.partner[first]
        mutual = self.ahead_highest[0, first] >= self.behind_highest[0, second]
        return first[mutual], second[mutual]


def _highest_other(highest: Line, correlation: Line) -> Line:
    """Highest correlation [pairs] of a side with any but the partner, whose `correlation` is given."""
    return np.where(correlation >= highest[0] - EQUAL, highest[1], highest[0])


def match(ahead: Side, behind: Side) -> Facing:
    """Match all sides that face one way with all that face back; no tile is its own neighbour."""
    count = len(ahead.line)
    partner = np.zeros(count, np.int64)
    ahead_highest, behind_highest = np.full((2, 2, count), -1, np.float32)
    opposite = np.ascontiguousarray(behind.line.T)
    # Fresh memory for each block would take longer than the comparisons in it.
    memory, spare = np.empty((BLOCK, count), np.float32), np.empty((BLOCK // 2, count), np.float32)
    for start in range(0, count, BLOCK):
        lines = ahead.line[start : start + BLOCK]
        correlations = np.matmul(lines, opposite, out=memory[: len(lines)])
        rows = np.arange(len(lines))
        correlations[rows, start + rows] = -1
        best = correlations.argmax(axis=1)
        highest = correlations[rows, best]
        partner[start + rows], ahead_highest[0, start + rows] = best, highest
        correlations[rows, best] = -1
        ahead_highest[1, start + rows] = correlations.max(axis=1)
        correlations[rows, best] = highest
        _raise_two_highest(behind_highest, correlations, spare)
    return Facing(ahead, behind, partner, ahead_highest, behind_highest)


def _raise_two_highest(highest: Line, values: Line, spare: Line) -> None:
    """Bring the two highest values of each column, [2, N], up to date with more rows [B, N], which are overwritten.

    Halves of the rows play against each other until one is left: whole rows at a time, far faster than to sort columns.
    """
    left = len(values)
    second = np.full_like(values[0], -1)
    while left > 1:
        half = left // 2
        one, other = values[:half], values[left - half : left]
        losers = np.minimum(one, other, out=spare[:half])
        np.maximum(one, other, out=one)
        np.maximum(second, losers.max(axis=0), out=second)
        left -= half
    np.maximum(second, np.minimum(highest[0], values[0]), out=second)
    np.maximum(highest[1], second, out=highest[1])
    np.maximum(highest[0], values[0], out=highest[0])
