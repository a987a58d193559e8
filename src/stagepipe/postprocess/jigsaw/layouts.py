"""Mosaics that others have published, as CSV or JSON.

The CSV files of the TGS salt 2018 1st place (and of the public kernel behind them) have one known fault: coordinates
went through factors of R, so that files of more than ten columns have them in the order of their numbers as text, 0, 1,
10, 11, ..., 2, 3. Nothing in such a file tells, but the borders of the tiles do. The rules for masks work on columns
and don't mind the order, pictures do.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from stagepipe.csvfiles import listed, repeated
from stagepipe.errors import DataError

Cell = tuple[int, int]
Grid = dict[Cell, str]
Rows = list[list[str | None]]

MISSING = {"", "NA"}


class Layout(NamedTuple):
    """One mosaic of a file."""

    grid: Grid
    columns: int
    """how many the file has, empty ones included"""

    def reordered(self) -> Layout:
        """The mosaic if its columns lie in the order of their numbers as text: 0, 1, 10, 11, ..., 2, 3."""
        order = sorted(range(self.columns), key=str)
        return Layout({(row, order[column]): tile for (row, column), tile in self.grid.items()}, self.columns)


LARGEST = 64 << 20
"""bytes of a JSON file that are read at most"""
LAYOUTS = "write a folder of CSV files (rows of ids, top row first, empty or NA where a tile is missing) or a JSON file"


def read(path: Path) -> list[Layout]:
    """All mosaics in a folder of CSV files or in one JSON file, as grids (row, column) -> sample id.

    CSV: a mosaic a file, no header, ids in quotes or not, missing cells empty or NA. JSON: {name: rows of ids or null}.
    Only files that lie in the folder itself are read, no links. DataError lists what is wrong: file, row and value.
    """
    path = Path(path)
    if not path.is_dir() and not (path.is_file() and path.suffix.lower() == ".json"):
        raise DataError(f"{path}: is no folder and no JSON file; {LAYOUTS}")
    tables = dict(_csv_tables(path) if path.is_dir() else _json_tables(path))
    if not tables:
        raise DataError(f"{path}: holds no mosaic; {LAYOUTS}")
    faults = [f"{name}: {fault}" for name, rows in tables.items() for fault in _faults(rows)]
    twice = repeated(tile for rows in tables.values() for row in rows for tile in row if tile is not None)
    faults += [f"{tile} lies in {_places(tables, tile)}; keep one" for tile in twice]
    if faults:
        raise DataError(f"{path}: {listed(faults)}")
    return [Layout(_grid(rows), len(rows[0])) for rows in tables.values()]


def _csv_tables(folder: Path) -> Iterator[tuple[str, Rows]]:
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() == ".csv")
    for file in files:
        if file.is_symlink() or not file.is_file():
            raise DataError(f"{file}: is a link or no file; put the CSV file itself into the folder")
        try:
            # Line by line: in a file of one column a missing cell is an empty line, which a CSV reader skips.
            text = file.read_text(encoding="utf-8-sig")
            if "\0" in text:
                raise DataError(f"{file}: row {text[: text.index(chr(0))].count(chr(10)) + 1} holds a NUL; {LAYOUTS}")
            lines = text.splitlines()
            rows = [next(csv.reader([line], strict=True), []) or [""] for line in lines]
        except (UnicodeDecodeError, csv.Error) as error:
            raise DataError(f"{file}: isn't a CSV file in UTF-8 ({error}); {LAYOUTS}") from error
        yield file.name, [[None if cell.strip() in MISSING else cell.strip() for cell in row] for row in rows]


def _json_tables(file: Path) -> Iterator[tuple[str, Rows]]:
    if file.stat().st_size > LARGEST:
        raise DataError(f"{file}: is {file.stat().st_size:,} bytes long, more than {LARGEST:,}; {LAYOUTS}")
    try:
        content = json.loads(file.read_text(encoding="utf-8"), object_pairs_hook=_each_name_once)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file}: isn't JSON in UTF-8 ({error}); write {{name: rows of ids or null}}") from error
    if not isinstance(content, dict):
        raise DataError(f"{file}: holds {type(content).__name__}; write {{name: rows of ids or null}}")
    for name, rows in content.items():
        if not isinstance(rows, list) or not all(isinstance(row, list) for row in rows):
            raise DataError(f"{file}: {name}: isn't a list of rows; write rows of ids or null")
        wrong = [cell for row in rows for cell in row if not isinstance(cell, str | None)]
        if wrong:
            raise DataError(f"{file}: {name}: holds {json.dumps(wrong[0])}; write ids as text, in quotes, or null")
        yield name, rows


def _each_name_once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """A JSON object; ValueError for a name written twice, of which one mosaic would be lost."""
    if twice := repeated(name for name, _ in pairs):
        raise ValueError(f"the names {listed(twice)} are written twice; give each mosaic another")
    return dict(pairs)


def _faults(rows: Rows) -> Iterator[str]:
    """What is wrong with the shape of one mosaic."""
    if not rows or not rows[0]:
        yield "holds no row; write rows of ids"
        return
    for number, row in enumerate(rows, start=1):
        if len(row) != len(rows[0]):
            yield f"row {number}: {len(row)} cells, row 1 has {len(rows[0])}; write NA for a missing tile"


def _places(tables: dict[str, Rows], tile: str) -> str:
    return listed(
        f"{name} row {number}" for name, rows in tables.items() for number, row in enumerate(rows, 1) if tile in row
    )


def _grid(rows: Rows) -> Grid:
    return {(r, c): tile for r, row in enumerate(rows) for c, tile in enumerate(row) if tile is not None}
