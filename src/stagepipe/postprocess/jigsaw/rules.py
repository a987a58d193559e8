"""Masks that follow from labelled neighbours in a mosaic.

Salt goes straight down: where a labelled tile has vertical walls, so have the tiles below it. (b.e.s. & phalanx, TGS
salt 2018, 1st place; published are the first three rules.) In order of precedence, with what they did on the labels of
all 4,000 tiles where a labelled tile lies in the way:

* `vertical_below`: below a mask whose rows are all equal, its last row all the way down; 23 of 23 exact
* `half_vertical_below`: the same below a mask whose lower half has equal rows; 8 of 8 exact
* `vertical_above`: the tile right above a mask whose rows are all equal, at least three rows down; 11 of 11 score 1
* `empty_below`: nothing below a mask whose last row is all foreground, all the way down, since a tile wholly inside
  salt is labelled empty; 34 of 34 exact (in the 3,200 that the tests read 17 of 17, from one to six rows below)

The last comes last because a vertical mask in its column refutes it. No column of the real data has both.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from stagepipe.recipe.model import Jigsaw

Mask = NDArray[np.uint8]
Label = NDArray[np.uint8] | NDArray[np.bool_]
Column = dict[int, str]
"""tiles of one column by their row in the mosaic"""

RULES = ("vertical_below", "half_vertical_below", "vertical_above", "empty_below")
"""in order of precedence"""

DEPTH = 3
"""rows above a vertical mask that make `vertical_above` hold: with fewer, 4 labelled tiles scored 0.60 on average"""


@dataclass(frozen=True)
class Replacement:
    """A mask that follows from the mosaic."""

    sample_id: str
    rule: str
    applied: bool
    """false: the rule is switched off, or one before it has something to say of the tile"""
    source: str
    """the labelled tile that it follows from"""
    mask: Mask
    """uint8 [H, W] of 0 and 1"""


def is_vertical(mask: Label) -> bool:
    """Whether all rows of a mask [H, W] are equal, hold foreground and background."""
    return _walls(mask)


def is_half_vertical(mask: Label) -> bool:
    """Whether the last H // 2 rows of a mask [H, W] are equal, hold foreground and background."""
    return _walls(mask[len(mask) - len(mask) // 2 :])


def _walls(rows: Label) -> bool:
    last = rows[-1:] != 0
    return bool(last.any() and not last.all() and ((rows != 0) == last).all())


def replacements(
    mosaics: pa.Table, labels: Mapping[str, Label], black: Collection[str], step: Jigsaw
) -> list[Replacement]:
    """Masks of unlabelled tiles by every rule, sorted by sample id, then as RULES.

    mosaics: schema MOSAICS, rows as in the mosaic even if the first ones are missing. labels: masks [H, W] of one class
    that may be used, non-zero is foreground. `black` tiles give and get no mask. Of the masks of a tile one is applied,
    that of the first rule of RULES that is switched on.
    """
    found: list[Replacement] = []
    applied: set[str] = set()
    for column in _columns(mosaics, black):
        known = {row: labels[tile] for row, tile in column.items() if tile in labels}
        for rule in RULES:
            for row, source, mask in FINDERS[rule](column, known):
                tile = column[row]
                if row not in known:
                    chosen = getattr(step, rule) and tile not in applied
                    found.append(Replacement(tile, rule, chosen, column[source], mask))
                    applied |= {tile} if chosen else set()
    return sorted(found, key=lambda replacement: replacement.sample_id)


def _columns(mosaics: pa.Table, black: Collection[str]) -> Iterator[Column]:
    """The columns of all mosaics, each from the top."""
    left_out = set(black)
    columns: dict[tuple[int, int], Column] = {}
    for row in mosaics.sort_by([("mosaic", "ascending"), ("row", "ascending"), ("column", "ascending")]).to_pylist():
        if row["sample_id"] not in left_out:
            columns.setdefault((row["mosaic"], row["column"]), {})[row["row"]] = row["sample_id"]
    return iter(columns.values())


Found = Iterator[tuple[int, int, Mask]]
"""row of a tile, row of the labelled one, mask"""


def _first_walls(known: Mapping[int, Label]) -> int | None:
    """Row of the first mask from the top with vertical walls down to its lower edge; later ones don't count."""
    return next((row for row, label in known.items() if is_half_vertical(label)), None)


def _below(column: Column, known: Mapping[int, Label], vertical: bool) -> Found:
    """The last row of the first mask with vertical walls, if these reach its upper edge or not, for all tiles below."""
    first = _first_walls(known)
    if first is not None and is_vertical(known[first]) == vertical:
        mask = _repeated(known[first], -1)
        yield from ((row, first, mask) for row in column if row > first)


def _above(column: Column, known: Mapping[int, Label]) -> Found:
    """The first row of the first mask with vertical walls, for the tile above."""
    first = _first_walls(known)
    if first is not None and is_vertical(known[first]) and first >= DEPTH and first - 1 in column:
        yield first - 1, first, _repeated(known[first], 0)


def _empty(column: Column, known: Mapping[int, Label]) -> Found:
    """Nothing below the first mask whose last row is all foreground."""
    first = next((row for row, label in known.items() if (label[-1] != 0).all()), None)
    if first is not None:
        mask = np.zeros(known[first].shape, np.uint8)
        yield from ((row, first, mask) for row in column if row > first)


def _repeated(label: Label, row: int) -> Mask:
    """A mask of the label's size whose rows all equal one of its rows."""
    return np.repeat((label[row : row + 1 or None] != 0).astype(np.uint8), len(label), axis=0)


FINDERS: dict[str, Callable[[Column, Mapping[int, Label]], Found]] = {
    "vertical_below": lambda column, known: _below(column, known, vertical=True),
    "half_vertical_below": lambda column, known: _below(column, known, vertical=False),
    "vertical_above": _above,
    "empty_below": _empty,
}
