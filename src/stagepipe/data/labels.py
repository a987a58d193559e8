"""Masks by sample id."""

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
