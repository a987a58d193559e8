"""Encoded submission files."""

import csv
import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Literal, TextIO

import numpy as np
from numpy.typing import NDArray

from stagepipe import rle
from stagepipe.csvfiles import listed, read_strings, repeated
from stagepipe.errors import DataError, RecipeError
from stagepipe.storage import atomic

Mask = NDArray[np.uint8]

HEADERS = {"tgs": ("id", "rle_mask"), "siim": ("ImageId", "EncodedPixels")}
"""columns of the CSV dialects"""
SEPARATORS = {"runs": ("\n", ": ", ",\n"), "street": ("", ":", ",")}
"""of the JSON dialects: inside the outer braces, between a sample and its runs, between samples"""


def write(
    path: Path | str,
    masks: Iterable[tuple[str, Mask]],
    encode: Literal["tgs", "siim", "runs", "street"],
    rows: Path | None,
    classes: Sequence[str],
    evaluated: Sequence[str] = (),
) -> None:
    """Write (sample_id, mask uint8 [height, width]) as a submission file, whole or not at all.

    `tgs`: CSV `id,rle_mask` of a single class (RecipeError for several), column-major runs counted from 1, empty for an
    empty mask.
    `siim`: CSV `ImageId,EncodedPixels` of a single class, column-major runs that start relative to the end of the run
    before, -1 for an empty mask.
    `runs`: JSON object, one line a sample: {id: {class: [[row, first column, column after the last], ...]}} counted
    from 0, runs in reading order, classes without a pixel left out; a single class is the mask's 1, of several the
    first is its 0.
    `street`: JSON of the Signate contest of 2018, {id.jpg: {class: {row: [[first column, last column], ...]}}} counted
    from 0, without spaces and with sorted keys. It holds the `evaluated` classes (none: all) that have a pixel.
    Rows come in the order of the first column of the CSV file `rows`, else sorted by id; RecipeError for `rows` of
    `street`, whose keys are sorted. Only encoded masks are held in memory.
    DataError lists ids of `rows` without a mask, masks without a row, and ids that come twice; for `siim` the file
    `rows` may name an id once for each of its annotations: the first sets its place.
    """
    _check(encode, rows, classes)
    encoded: dict[str, str] = {}
    for sample_id, mask in masks:
        name = f"{sample_id}.jpg" if encode == "street" else sample_id
        if name in encoded:
            raise DataError(f"sample {sample_id!r} has two masks; delete the predictions and run again")
        encoded[name] = _encoded(mask, encode, classes, evaluated or classes)
    order = sorted(encoded) if rows is None else _order(rows, encoded, several=encode == "siim")
    with atomic(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        if encode in HEADERS:
            _write_csv(file, HEADERS[encode], order, encoded)
        else:
            _write_json(file, order, encoded, *SEPARATORS[encode])


def _check(encode: str, rows: Path | None, classes: Sequence[str]) -> None:
    if encode in HEADERS and len(classes) > 1:
        raise RecipeError(
            f"submission.encode: {encode} holds a single class, not {', '.join(classes)}; write `encode: runs`"
        )
    if encode == "street" and rows is not None:
        raise RecipeError(f"submission.rows: {rows}: street submissions have sorted keys, not rows; leave rows out")


def _encoded(mask: Mask, encode: str, classes: Sequence[str], kept: Collection[str]) -> str:
    if encode == "street":
        return json.dumps(street_runs(mask, classes, kept), separators=(",", ":"), sort_keys=True)
    if encode == "runs":
        return json.dumps(row_runs(mask, classes), separators=(",", ":"))
    return rle.encode(mask) if encode == "tgs" else rle.encode_relative(mask)


def _write_csv(file: TextIO, header: Sequence[str], order: Sequence[str], encoded: Mapping[str, str]) -> None:
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(header)
    writer.writerows((sample_id, encoded[sample_id]) for sample_id in order)


def _write_json(
    file: TextIO, order: Sequence[str], encoded: Mapping[str, str], edge: str, colon: str, comma: str
) -> None:
    file.write("{" + edge)
    for place, name in enumerate(order):
        file.write(f"{comma if place else ''}{json.dumps(name)}{colon}{encoded[name]}")
    file.write(edge + "}" + edge)


def row_runs(mask: Mask, classes: Sequence[str]) -> dict[str, list[list[int]]]:
    """Runs [row, first column, column after the last] of each class of a mask uint8 [height, width], counted from 0."""
    return {name: runs.tolist() for name, runs in _runs(mask, classes)}


def street_runs(mask: Mask, classes: Sequence[str], kept: Collection[str]) -> dict[str, dict[str, list[list[int]]]]:
    """Runs [first column, last column] of the `kept` classes of a mask uint8 [height, width], by class and row (as
    text), counted from 0."""
    found: dict[str, dict[str, list[list[int]]]] = {}
    for name, runs in _runs(mask, classes):
        if name in kept:
            rows, starts = np.unique(runs[:, 0], return_index=True)
            segments = (runs[:, 1:] - [0, 1]).tolist()
            bounds = [*starts.tolist(), len(segments)]
            found[name] = {str(row): segments[a:b] for row, (a, b) in zip(rows.tolist(), pairwise(bounds), strict=True)}
    return found


def _runs(mask: Mask, classes: Sequence[str]) -> Iterator[tuple[str, NDArray[np.int64]]]:
    """(class, its runs int64 [runs, 3]: row, first column, column after the last) of each class with a pixel.

    Runs are in reading order. Every row starts a run, so that none goes on into the next.
    """
    starts = np.ones(mask.shape, bool)
    starts[:, 1:] = mask[:, 1:] != mask[:, :-1]
    first = np.flatnonzero(starts)
    after = np.append(first, mask.size)[1:]
    row, column = np.divmod(first, mask.shape[1])
    runs, values = np.stack([row, column, column + after - first], axis=1), mask.reshape(-1)[first]
    for value, name in enumerate(classes, start=1 if len(classes) == 1 else 0):
        if len(own := runs[values == value]):
            yield name, own


def _order(rows: Path, encoded: Mapping[str, str], several: bool) -> list[str]:
    """Ids of the sample submission, each once; DataError unless they are just those that have a mask.

    `several`: an id may have several rows.
    """
    ids = read_strings(rows).column(0).to_pylist()
    faults = {
        "ids that have no mask": sorted(set(ids) - set(encoded)),
        "masks that have no row": sorted(set(encoded) - set(ids)),
        "ids with several rows": [] if several else repeated(ids),
    }
    found = [f"{fault}: {listed(names)}" for fault, names in faults.items() if names]
    if found:
        raise DataError(
            f"submission.rows: {rows}: {'; '.join(found)}. "
            "Write the sample submission of this test split, or leave rows out"
        )
    return list(dict.fromkeys(ids))
