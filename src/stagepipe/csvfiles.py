"""CSV files that people write: read as plain text, so that an id like 0012 or NA stays what it is."""

import csv
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.csv

from stagepipe.errors import DataError, shortened

SHOWN = 50
LARGEST = 1 << 30
"""bytes of a CSV file that are read at most"""
LONGEST_HEADER = 1 << 20
"""characters of the first line that are read at most"""


def read_strings(path: Path | str, columns: Sequence[str] = ()) -> pa.Table:
    """Read a CSV file with a header, every column as strings.

    DataError names a file that is missing, longer than LARGEST, isn't a CSV file, lacks one of `columns`, has one twice
    or a header longer than LONGEST_HEADER.
    """
    path = Path(path)
    if not os.path.isfile(path):
        raise DataError(f"{path}: is no file; write the path of a CSV file with a header")
    if (size := path.stat().st_size) > LARGEST:
        raise DataError(f"{path}: is {size:,} bytes long; at most {LARGEST:,} are read")
    try:
        header, rest = _header(path)
        missing = [name for name in columns if name not in header]
        if missing or not header:
            lacking = listed(missing) or "that its first line should name"
            raise DataError(f"{path}: lacks the columns {lacking}; its header is {shortened(','.join(header))!r}")
        if twice := repeated(header):
            raise DataError(f"{path}: {listed(twice)} stands twice in the header; rename one of the columns")
        return _rows(path, header, size) if rest else pa.table({name: pa.array([], pa.string()) for name in header})
    except (pa.ArrowException, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: isn't a CSV file in UTF-8 ({shortened(str(error))}); write it anew as one") from error


def _header(path: Path) -> tuple[list[str], bool]:
    """The names of the columns, and whether anything follows them."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        line = file.readline(LONGEST_HEADER + 1)
        if len(line.rstrip("\r\n")) > LONGEST_HEADER:  # a list of the names in it could fill the memory
            raise DataError(f"{path}: its first line has more than {LONGEST_HEADER:,} characters; write a header there")
        return next(csv.reader([line], strict=True), []), bool(file.read(1))


def _rows(path: Path, header: list[str], size: int) -> pa.Table:
    table = pyarrow.csv.read_csv(
        path,
        # One block: the mask of a large image makes a line longer than the reader's own block.
        pyarrow.csv.ReadOptions(block_size=max(1 << 20, size + 1)),
        pyarrow.csv.ParseOptions(newlines_in_values=False),
        pyarrow.csv.ConvertOptions(column_types={name: pa.string() for name in header}, strings_can_be_null=False),
    )
    if table.column_names != header:
        raise DataError(
            f"{path}: its header {shortened(','.join(header))!r} can be read in two ways; write plain names"
        )
    return table


def listed(values: Iterable[object]) -> str:
    """The values one after the other, the first 50 of them: `a, b, c and 7 more`. A long one is shortened."""
    texts = [str(value) for value in values]
    rest = len(texts) - SHOWN
    return ", ".join(shortened(text) for text in texts[:SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def repeated(values: Iterable[str]) -> list[str]:
    """Values that come more than once, sorted."""
    seen: set[str] = set()
    twice: set[str] = set()
    for value in values:
        (twice if value in seen else seen).add(value)
    return sorted(twice)
