"""Where the windows of a large image lie, and how much each of their pixels counts."""

import math
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

Size = tuple[int, int]
Place = tuple[int, int]
"""row and column of a window's first pixel"""


def overlapping(image: Size, window: Size, overlap: float) -> list[Place]:
    """Places of windows that cover an image at least as large, row by row.

    A window has at least a share `overlap` of its height and width in common with the next; the last ones of an axis
    are moved inward, so that they end where the image does.
    """
    rows, columns = (_starts(*edges, overlap) for edges in zip(image, window, strict=True))
    return [(row, column) for row in rows for column in columns]


def _starts(image: int, window: int, overlap: float) -> list[int]:
    step = max(1, math.floor(window * (1 - overlap) + 1e-9))
    return [*range(0, image - window, step), image - window]


def gaussian(window: Size) -> torch.Tensor:
    """Weights float32 [height, width]: exp(-d^2 / 2), d the distance from the centre in quarters of height and width.

    nnU-Net (Isensee et al. 2021) weights its windows by a Gaussian, too, of an eighth.
    """
    rows, columns = (torch.arange(edge) - (edge - 1) / 2 for edge in window)
    distance = (rows / (window[0] / 4))[:, None] ** 2 + (columns / (window[1] / 4)) ** 2
    return torch.exp(-distance / 2)


def weighted_means(
    found: Iterator[tuple[Place, torch.Tensor]], weight: torch.Tensor, size: tuple[int, int]
) -> Iterator[tuple[slice, torch.Tensor]]:
    """Yield (rows, weighted means float32 [classes, rows, width]) from the top of an image to its end.

    `found` are the places of `overlapping` windows in their order and maps float32 [classes, height, width], `weight`
    their weights [height, width], `size` classes and width of the image. No more than a band as high as a window is in
    memory; the means are a view into it, so use them up before the next.
    """
    height, columns = weight.shape
    totals, weights = torch.zeros(size[0], height, size[1]), torch.zeros(height, size[1])
    top = 0
    for (row, column), maps in found:
        if done := row - top:  # no later window reaches above this row
            yield slice(top, row), totals[:, :done].div_(weights[:done])
            for plane in (*totals, weights):
                plane[:-done] = plane[done:].clone()
                plane[-done:] = 0
            top = row
        here = np.s_[..., column : column + columns]
        totals[here].addcmul_(maps, weight)
        weights[here].add_(weight)
    yield slice(top, top + height), totals.div_(weights)


def tilings(image: Size, tile: Size, grids: int) -> list[list[Place]]:
    """Tilings of an image, each shifted against the one before by the same step; places may lie outside it.

    As published (Signate street scenes 2018, "crops with intersection"): around the image is a border as wide as a
    tile; starts lie a step of `tile // grids` apart, and tiling i has every `grids`-th of them from the i-th on, along
    both axes. Where `grids` doesn't divide the tile, tiles of a tiling overlap by the rest, and later ones count.
    """
    found = []
    for grid in range(grids):
        rows, columns = (_tiles(*edges, grids, grid) for edges in zip(image, tile, strict=True))
        found.append([(row, column) for row in rows for column in columns])
    return found


def _tiles(image: int, tile: int, grids: int, grid: int) -> list[int]:
    """Starts of the tiles of a tiling along an axis, from -tile; those that hold no pixel of the image are left out."""
    step = max(1, tile // grids)
    starts = [start - tile for start in range(0, image + tile + 1, step)][grid::grids]
    return [start for start in starts if -tile < start < image]


def padded(image: NDArray[np.uint8], size: Size) -> NDArray[np.uint8]:
    """Image [H, W, K] with a reflect-101 border on both sides where it is smaller than `size`, the rest after it."""
    around = [_margins(*edges) for edges in zip(image.shape[:2], size, strict=True)]
    return np.pad(image, (*around, (0, 0)), mode="reflect") if any(map(any, around)) else image


def unpadded(maps: NDArray[np.uint8], size: Size) -> NDArray[np.uint8]:
    """The part of maps [C, H, W] of a `padded` image that is the image, which had that size."""
    (top, _), (left, _) = (_margins(*edges) for edges in zip(size, maps.shape[1:], strict=True))
    return maps[:, top : top + size[0], left : left + size[1]]


def _margins(edge: int, padded_edge: int) -> tuple[int, int]:
    """Pixels added before and after an axis."""
    missing = max(0, padded_edge - edge)
    return missing // 2, missing - missing // 2
