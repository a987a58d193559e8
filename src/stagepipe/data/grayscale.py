"""From the stored values of a grayscale DICOM to eight bits, as PS3.3 of the standard has it.

Stored value -> modality value (a table, or slope and intercept) -> display value (a table, a window, or as it is)
-> 0..255, upside down where the smallest value is white. All of it is a function of the stored value alone, which has
16 bits at most: so it is worked out once for each stored value, and an image is then one look-up.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Table:
    """A look-up table (C.11.1.1): entries for the values first, first + 1, ...; the end ones serve all beyond them."""

    first: int
    bits: int
    """of an entry, which lies in 0 .. 2^bits - 1"""
    entries: NDArray[np.uint16]


@dataclass(frozen=True)
class Rescale:
    """Modality value = slope x stored value + intercept (C.11.1.1.2)."""

    slope: float = 1.0
    intercept: float = 0.0


@dataclass(frozen=True)
class Window:
    """The part of the values that is spread over black to white (C.11.2.1.2 and C.11.2.1.3)."""

    center: float
    width: float
    """at least 1 for `LINEAR`, above 0 for the others"""
    function: str = "LINEAR"
    """`LINEAR`, `LINEAR_EXACT` or `SIGMOID`"""


@dataclass(frozen=True)
class Grayscale:
    """What a stored value means."""

    bits: int
    """that are stored, 1..16"""
    signed: bool = False
    modality: Table | Rescale = Rescale()
    display: Table | Window | None = None
    """None: black is the least modality value that stored ones can have, white the greatest; they must differ"""
    inverted: bool = False
    """the smallest value is white (MONOCHROME1)"""


def to_gray(pixels: NDArray[np.integer], meaning: Grayscale) -> NDArray[np.uint8]:
    """Gray levels, uint8 of the shape of `pixels`, which are 8- or 16-bit integers.

    Bits above the stored ones, which may hold an overlay or a repeated sign, don't count.
    """
    patterns = pixels.view(f"u{pixels.dtype.itemsize}")
    return levels(meaning)[patterns & patterns.dtype.type(2**meaning.bits - 1)]


def levels(meaning: Grayscale) -> NDArray[np.uint8]:
    """Gray level of every pattern of the stored bits, uint8 [2^bits], rounded to the nearest."""
    values = modality_values(meaning)
    if isinstance(meaning.display, Window):
        shares = windowed(values, meaning.display)
    elif meaning.display:
        shares = looked_up(values, meaning.display) / (2**meaning.display.bits - 1)
    else:
        shares = (values - values.min()) / np.ptp(values)
    gray = np.rint(255 * shares).astype(np.uint8)
    return 255 - gray if meaning.inverted else gray


def modality_values(meaning: Grayscale) -> Values:
    """The modality value of every pattern of the stored bits, [2^bits]."""
    values = np.arange(2**meaning.bits, dtype=np.float64)
    if meaning.signed:  # two's complements
        values[values >= 2 ** (meaning.bits - 1)] -= 2**meaning.bits
    if isinstance(meaning.modality, Table):
        return looked_up(values, meaning.modality)
    return meaning.modality.slope * values + meaning.modality.intercept


def looked_up(values: Values, table: Table) -> Values:
    """The table's entry for each value, rounded to a whole number."""
    indices = np.clip(np.rint(values) - table.first, 0, len(table.entries) - 1).astype(np.int64)
    return table.entries[indices].astype(np.float64)


def windowed(values: Values, window: Window) -> Values:
    """Share of white, 0..1, of each value."""
    center, width = window.center, window.width
    if window.function == "SIGMOID":
        return 1 / (1 + np.exp(np.clip(-4 * (values - center) / width, -700, 700)))
    if window.function == "LINEAR":
        center, width = center - 0.5, width - 1
    if width == 0:
        return (values > center).astype(np.float64)
    return np.clip((values - center) / width + 0.5, 0, 1)
