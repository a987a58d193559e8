"""Encoded submission files."""

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from stagepipe import rle
from stagepipe.csvfiles import listed, read_strings, repeated
from stagepipe.errors import DataError, RecipeError
from stagepipe.storage import atomic

Mask = NDArray[np.uint8]

HEADERS = {"tgs": ("id", "rle_mask"), "siim": ("ImageId", "EncodedPixels")}
"""columns of the CSV dialects"""


def write(
    path: Path | str,
    masks: Iterable[tuple[str, Mask]],
    encode: Literal["tgs", "siim", "runs"],
    rows: Path | None,
    classes: Sequence[str],
) -> None:
    """Write (sample_id, mask uint8 [height, width]) as a submission file, whole or not at all.

    `tgs`: CSV `id,rle_mask` of a single class (RecipeError for several), column-major runs counted from 1, empty for an
    empty mask.
    `siim`: CSV `ImageId,EncodedPixels` of a single class, column-major runs that start relative to the end of the run
    before, -1 for an empty mask.
    `runs`: JSON object, one line a sample: {id: {class: [[row, first column, column after the last], ...]}} counted
    from 0, runs in reading order, classes without a pixel left out; a single class is the mask's 1, of several the
    first is its 0.
    Rows come in the order of the first column of the CSV file `rows`, else sorted by id. Only encoded masks are held in
    memory.
    DataError lists ids of `rows` without a mask, masks without a row, and ids that come twice; for `siim` the file
    `rows` may name an id once for each of its annotations: the first sets its place.
    """
    if encode != "runs" and len(classes) > 1:
        raise RecipeError(
            f"submission.encode: {encode} holds a single class, not {', '.join(classes)}; write `encode: runs`"
        )
    encoded: dict[str, str] = {}
    for sample_id, mask in masks:
        if sample_id in encoded:
            raise DataError(f"sample {sample_id!r} has two masks; delete the predictions and run again")
        encoded[sample_id] = _encoded(mask, encode, classes)
    order = sorted(encoded) if rows is None else _order(rows, encoded, several=encode == "siim")
    text = _json(order, encoded) if encode == "runs" else _csv(HEADERS[encode], order, encoded)
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


def _encoded(mask: Mask, encode: str, classes: Sequence[str]) -> str:
    if encode == "runs":
        return json.dumps(row_runs(mask, classes), separators=(",", ":"))
    return rle.encode(mask) if encode == "tgs" else rle.encode_relative(mask)


def _csv(header: Sequence[str], order: Sequence[str], encoded: Mapping[str, str]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows((sample_id, encoded[sample_id]) for sample_id in order)
    return text.getvalue()


def _json(order: Sequence[str], encoded: Mapping[str, str]) -> str:
    lines = [f"{json.dumps(sample_id)}: {encoded[sample_id]}" for sample_id in order]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def row_runs(mask: Mask, classes: Sequence[str]) -> dict[str, list[list[int]]]:
    """Runs [row, first column, column after the last] of each class of a mask uint8 [height, width], counted from 0."""
    first = 1 if len(classes) == 1 else 0
    found = {}
    for value, name in enumerate(classes, start=first):
        # A wall of zeros on both sides makes every run start and end inside its row.
        inside = np.pad((mask == value).astype(np.int8), ((0, 0), (1, 1)))
        steps = np.diff(inside, axis=1)
        row, start = np.nonzero(steps == 1)
        end = np.nonzero(steps == -1)[1]
        if len(row):
            found[name] = np.stack([row, start, end], axis=1).tolist()
    return found


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
