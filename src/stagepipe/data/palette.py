"""Masks whose pixels are colours: the class of each exact colour."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from stagepipe.recipe.model import Dataset

Colour = tuple[int, int, int]
UNKNOWN = -1
SHOWN = 8


def values(dataset: Dataset) -> dict[Colour, int]:
    """The mask value of every colour (red, green, blue) of a dataset's palette."""
    found = {colour: index for index, name in enumerate(dataset.classes) for colour in dataset.palette[name]}
    if dataset.ignore_index is not None:
        found |= dict.fromkeys(dataset.ignored_colours, dataset.ignore_index)
    return found


def indices(pixels: np.ndarray, known: dict[Colour, int]) -> np.ndarray:
    """Mask uint8 [H, W] of pixels uint8 [H, W, 3] in the order red, green, blue. ValueError lists unknown colours."""
    codes = _codes(pixels)
    found = _table(tuple(known.items()))[codes]
    wrong = found == UNKNOWN
    if wrong.any():
        raise ValueError(_unknown(codes, wrong))
    return found.astype(np.uint8)


def _codes(pixels: np.ndarray) -> np.ndarray:
    """A number for every colour, int32 [H, W]."""
    red, green, blue = (pixels[..., channel].astype(np.int32) for channel in range(3))
    return (red << 16) | (green << 8) | blue


@lru_cache(maxsize=2)
def _table(known: tuple[tuple[Colour, int], ...]) -> np.ndarray:
    """Mask value by the number of a colour: one look-up a pixel, however many classes there are."""
    table = np.full(1 << 24, UNKNOWN, np.int16)
    for (red, green, blue), value in known:
        table[(red << 16) | (green << 8) | blue] = value
    return table


def _unknown(codes: np.ndarray, wrong: np.ndarray) -> str:
    """The most frequent unknown colours, and where each of them is first."""
    places = np.flatnonzero(wrong)
    colours, first, counts = np.unique(codes.ravel()[places], return_index=True, return_counts=True)
    texts = []
    for number in np.argsort(-counts, kind="stable")[:SHOWN]:
        code = int(colours[number])
        row, column = divmod(int(places[first[number]]), codes.shape[1])
        colour = [code >> 16, code >> 8 & 255, code & 255]
        texts.append(f"{colour} ({counts[number]} pixels, the first in row {row}, column {column})")
    more = f" and {len(colours) - SHOWN} more" if len(colours) > SHOWN else ""
    return f"{', '.join(texts)}{more}"
