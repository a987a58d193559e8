"""CSV files that people write: read as plain text, so that an id like 0012 or NA stays what it is."""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.csv

from stagepipe.errors import DataError

SHOWN = 50


def read_strings(path: Path | str, columns: Sequence[str] = ()) -> pa.Table:
    """Read a CSV file with a header, every column as strings.

    DataError names a file that is missing, isn't a CSV file or lacks one of `columns`.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: is no file; write the path of a CSV file with a header")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            header = next(csv.reader([file.readline()]), [])
        missing = [name for name in columns if name not in header]
        if missing or not header:
            raise DataError(f"{path}: lacks the columns {listed(missing)}; its header is {','.join(header)!r}")
        return pyarrow.csv.read_csv(
            path,
            # One block: the mask of a large image makes a line longer than the reader's own block.
            pyarrow.csv.ReadOptions(block_size=max(1 << 20, path.stat().st_size + 1)),
            pyarrow.csv.ParseOptions(newlines_in_values=False),
            pyarrow.csv.ConvertOptions(column_types={name: pa.string() for name in header}, strings_can_be_null=False),
        )
    except (pa.ArrowInvalid, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: isn't a CSV file in UTF-8 ({error})") from error


def listed(values: Iterable[object]) -> str:
    """The values one after the other, the first 50 in full: `a, b, c and 7 more`."""
    texts = [str(value) for value in values]
    rest = len(texts) - SHOWN
    return ", ".join(texts[:SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def repeated(values: Iterable[str]) -> list[str]:
    """Values that come more than once, sorted."""
    seen: set[str] = set()
    twice: set[str] = set()
    for value in values:
        (twice if value in seen else seen).add(value)
    return sorted(twice)
