"""Mosaics of neighbouring tiles: found from the tiles' borders, or cut down to the tiles of a data set."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from stagepipe.artefacts import Provenance, read_table, write_table
from stagepipe.csvfiles import listed
from stagepipe.data.store import PixelStore, same_size_batches
from stagepipe.errors import DataError
from stagepipe.postprocess.jigsaw import layouts
from stagepipe.postprocess.jigsaw.assembly import Cell, assemble
from stagepipe.postprocess.jigsaw.layouts import Layout
from stagepipe.postprocess.jigsaw.matching import USUAL, Borders, Side, borders, match
from stagepipe.recipe.model import Jigsaw
from stagepipe.tables import MOSAICS

CHUNK = 1 << 24
"""pixels whose borders are taken at a time"""


def find(tiles: NDArray[np.uint8], sample_ids: Sequence[str]) -> pa.Table:
    """Mosaics of the tiles uint8 [N, H, W], a table of schema MOSAICS: the largest first, equal ones by their first id.

    Neither the order of the tiles nor gain and offset of each tile's gray values matter. Tiles of one single value take
    no part. Raises ValueError for ids that repeat, for more or fewer ids than tiles, and for tiles below 2 x 2.
    """
    if len(set(sample_ids)) != len(tiles) or len(sample_ids) != len(tiles):
        raise ValueError(f"sample_ids: {len(set(sample_ids))} different ones for {len(tiles)} tiles; give one for each")
    return _find(borders(tiles), sample_ids)


def _find(sides: Borders, sample_ids: Sequence[str]) -> pa.Table:
    order = np.array(sorted(range(len(sample_ids)), key=lambda index: sample_ids[index]), np.int64)
    sides = sides.take(order)
    grids = assemble(match(sides.right, sides.left), match(sides.bottom, sides.top))
    return as_table([{cell: sample_ids[order[tile]] for cell, tile in grid.items()} for grid in grids], trim=True)


def read(path: Path) -> pa.Table:
    """All mosaics of a folder of CSV files or of a JSON file as a table MOSAICS, rows and columns as in the file.

    DataError as `stagepipe.postprocess.jigsaw.layouts.read` says.
    """
    return as_table(layout.grid for layout in layouts.read(path))


def in_true_order(layout: Layout, sides: Borders, index: Mapping[str, int]) -> Layout:
    """The mosaic with its columns as they are or put in order, whichever makes its tiles continue one another.

    `index` gives the place in `sides` of the tiles whose borders are known. Without two such neighbours it stays as is.
    """
    other = layout.reordered()
    return max((layout, other), key=lambda order: _likeness(order.grid, sides, index))


def _likeness(grid: Mapping[Cell, str], sides: Borders, index: Mapping[str, int]) -> float:
    """How much the seams between tiles side by side correlate beyond what arbitrary ones do, summed."""
    places = {cell: index[tile] for cell, tile in grid.items() if tile in index}
    pairs = [(tile, places[row, column + 1]) for (row, column), tile in places.items() if (row, column + 1) in places]
    left, right = np.array(pairs, np.int64).reshape(-1, 2).T
    correlations = np.einsum("ij,ij->i", sides.right.line[left], sides.left.line[right])
    return float((correlations - USUAL).sum())


def as_table(grids: Iterable[Mapping[Cell, str]], trim: bool = False) -> pa.Table:
    """MOSAICS of grids (row, column) -> sample id, numbered from the largest. `trim` starts rows and columns at 0."""
    rows: list[tuple[int, int, int, str]] = []
    for number, grid in enumerate(sorted(filter(None, grids), key=lambda grid: (-len(grid), min(grid.values())))):
        top, left = (min(cell[i] for cell in grid) if trim else 0 for i in range(2))
        rows += [(number, row - top, column - left, name) for (row, column), name in sorted(grid.items())]
    columns = zip(*rows, strict=True) if rows else [[]] * len(MOSAICS)
    return pa.table(
        [pa.array(column, field.type) for column, field in zip(columns, MOSAICS, strict=True)], schema=MOSAICS
    )


def restrict(mosaics: pa.Table, known: Collection[str]) -> pa.Table:
    """The mosaics without tiles that aren't `known`, and without those that keep fewer than two.

    Tiles keep their row and column: a mosaic whose first rows are gone still starts where it did.
    """
    names = set(known)
    grids: dict[int, dict[Cell, str]] = {}
    for number, row, column, name in zip(*(mosaics[field].to_pylist() for field in MOSAICS.names), strict=True):
        if name in names:
            grids.setdefault(number, {})[row, column] = name
    return as_table(grid for grid in grids.values() if len(grid) > 1)


def write_mosaics(samples: Path, pixels: Path, step: Jigsaw, path: Path, provenance: Provenance | None = None) -> None:
    """Write the table MOSAICS of all samples: read from the file that the step names, or found from the tiles' borders.

    Only border lines are kept of the images, whose channels are averaged. Columns of a file are put in order if it has
    them in the order of their numbers as text. DataError if images differ in size, if no two samples lie in a mosaic of
    the file, and as `stagepipe.postprocess.jigsaw.layouts.read` says.
    """
    table = read_table(samples)
    ids = table["sample_id"].to_pylist()
    _check_size(table)
    sides = _stored_borders(PixelStore(pixels, table), len(ids))
    if step.file is None:
        write_table(path, _find(sides, ids), provenance)
        return
    index = {name: place for place, name in enumerate(ids)}
    known = (in_true_order(layout, sides, index).grid for layout in layouts.read(Path(step.file)))
    mosaics = restrict(as_table(known), ids)
    if not mosaics.num_rows:
        raise DataError(
            f"jigsaw.file: {step.file}: no mosaic holds two samples of the data set, such as {listed(ids[:3])}; "
            "write another file, or none to have mosaics found"
        )
    write_table(path, mosaics, provenance)


def _check_size(table: pa.Table) -> None:
    sizes = sorted(set(zip(table["height"].to_pylist(), table["width"].to_pylist(), strict=True)))
    if len(sizes) != 1 or min(sizes[0]) < 2:
        found = listed(f"{height} x {width}" for height, width in sizes)
        raise DataError(
            f"submission.postprocess: jigsaw: the images have {found} pixels; only tiles of one size, 2 x 2 or larger, "
            "make mosaics. Remove the step, or the images of other sizes"
        )


def _stored_borders(store: PixelStore, count: int) -> Borders:
    parts = []
    for _, images in same_size_batches(store, range(count), lambda height, width: max(1, CHUNK // (height * width))):
        parts.append(borders(images.mean(axis=3, dtype=np.float32).round().astype(np.uint8)))
    sides = (Side(*map(np.concatenate, zip(*side, strict=True))) for side in zip(*parts, strict=True))
    return Borders(*sides)
