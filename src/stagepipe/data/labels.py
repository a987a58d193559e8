"""Masks by sample id, and at another size."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from stagepipe.artefacts import read_table
from stagepipe.data.store import PixelStore


def label_reader(samples: Path, pixels: Path) -> Callable[[str], np.ndarray]:
    """A function that gives the mask uint8 [H, W] of a labelled sample."""
    table = read_table(samples)
    store = PixelStore(pixels, table)
    rows = {sample_id: row for row, sample_id in enumerate(table["sample_id"].to_pylist())}
    return lambda sample_id: store.mask(rows[sample_id])


def resized(mask: np.ndarray, height: int, width: int) -> np.ndarray:
    """A mask uint8 [H, W] of 0 and 1 at another size: 1 where more than half of a pixel is foreground.

    Where it shrinks a pixel counts the area that it covers, since a linear interpolation between four pixels would pass
    over whole strips of the mask; else it is interpolated linearly.
    """
    import cv2

    if mask.shape == (height, width):
        return mask
    shrinks = height <= mask.shape[0] and width <= mask.shape[1]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    shares = cv2.resize(mask.astype(np.float32), (width, height), interpolation=method)
    return (shares > 0.5).astype(np.uint8)
