"""From raw files to artefacts: every file is verified and decoded once, into the pixel store and the samples table."""

from __future__ import annotations

import csv
import logging
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from stagepipe import rle
from stagepipe.artefacts import Provenance, TableWriter
from stagepipe.data import palette, store
from stagepipe.data.decode import FileFault, read_colour_mask, read_image, read_mask
from stagepipe.data.formats import FORMATS, scan
from stagepipe.data.labels import resized
from stagepipe.data.raw import Fault, RawSample, RunLengths, Scan, storable
from stagepipe.errors import DataError, shortened
from stagepipe.storage import atomic
from stagepipe.tables import FAULTS, FOLDS, SAMPLES

if TYPE_CHECKING:
    from stagepipe.recipe.model import Dataset

LOG = logging.getLogger(__name__)
SHOWN = 50
OWN = {*SAMPLES.names, *FOLDS.names}
"""names that metadata can't have: the report puts both tables side by side"""


@dataclass(frozen=True)
class IngestSummary:
    """What an ingest came to."""

    samples: int
    faults: int


@dataclass(frozen=True)
class Decoded:
    """One verified sample; pixels are None if a file of it is faulty."""

    sample: RawSample
    image: np.ndarray | None
    """uint8 [H, W, channels]"""
    mask: np.ndarray | None
    """uint8 [H, W]; None without a label"""
    faults: list[Fault]


def ingest(
    dataset: Dataset,
    root: Path,
    samples_path: Path,
    pixels_path: Path,
    faults_path: Path,
    provenance: Provenance | None = None,
    threads: int | None = None,
) -> IngestSummary:
    """Verify and decode all raw data; write the pixel store, the samples table and the table of faults.

    With `dataset.faults` strict any fault raises DataError with all of them listed and writes nothing but that list, as
    CSV beside `faults_path`; with quarantine faulty samples are left out. The CSV files of a format are read whole, but
    pixels a few samples at a time. `threads`: as many as the process may use, by default.
    """
    found = scan(dataset, root)
    schema = _schema(found, root)
    rows: list[dict[str, Any]] = []
    faults = list(found.faults)
    with (
        TableWriter(samples_path, schema, provenance) as samples_table,
        TableWriter(faults_path, FAULTS, provenance) as faults_table,
        store.writing(pixels_path) as append,
    ):
        for decoded in _visible(_decode_all(found.samples, dataset, root, threads), len(found.samples)):
            faults += decoded.faults
            if decoded.image is not None:
                rows.append(_row(decoded, dataset, root, append))
        listing = faults_path.with_suffix(".strict.csv")
        listing.unlink(missing_ok=True)
        if faults and dataset.faults == "strict":
            _write_csv(listing, faults)
            advice = "Correct them, or write `faults: quarantine` in the dataset to go on without these samples"
            raise DataError(_message(faults, root, listing, advice))
        if not any(row["split"] == "train" for row in rows):
            _write_csv(listing, faults)
            raise DataError(_message(faults, root, listing, "There is no labelled image without a fault; correct some"))
        samples_table.write(pa.Table.from_pylist(rows, schema=schema))
        faults_table.write(pa.Table.from_pylist([vars(fault) for fault in faults], schema=FAULTS))
    LOG.info("ingest: %d samples, %d faults", len(rows), len(faults))
    return IngestSummary(len(rows), len(faults))


def check(dataset: Dataset, root: Path, threads: int | None = None) -> list[Fault]:
    """All faults of the raw data, found by the same checks as `ingest`, writing nothing."""
    found = scan(dataset, root)
    _schema(found, root)
    decoded = _visible(_decode_all(found.samples, dataset, root, threads), len(found.samples))
    return found.faults + [fault for sample in decoded for fault in sample.faults]


# --------------------------------------------------------------------------------------------------------------- verify


def _decode_all(samples: list[RawSample], dataset: Dataset, root: Path, threads: int | None) -> Iterator[Decoded]:
    """Verified samples in the given order; at most two per thread are held at a time."""
    threads = threads or len(os.sched_getaffinity(0))
    pending: deque[Future[Decoded]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for sample in samples:
            pending.append(pool.submit(decode_sample, sample, dataset, root))
            if len(pending) >= 2 * threads:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def decode_sample(sample: RawSample, dataset: Dataset, root: Path) -> Decoded:
    """Read a sample's files with every check; each fault of each of them is found."""
    faults: list[Fault] = []

    def report(path: Path, fault: str, detail: str) -> None:
        faults.append(Fault(sample.sample_id, storable(path.relative_to(root).as_posix()), fault, detail))

    image = mask = None
    try:
        image = read_image(sample.image, dataset.channels)
    except FileFault as error:
        report(sample.image, error.fault, error.detail)
    if sample.mask:
        try:
            mask = _read_mask(sample.mask, dataset)
        except FileFault as error:
            report(sample.mask, error.fault, error.detail)
    if sample.mask and image is not None and mask is not None and mask.shape != image.shape[:2]:
        detail = f"is {_size(mask)} but its image is {_size(image)} (width x height)"
        report(sample.mask, "size_mismatch", detail)
    elif sample.runs is not None:
        mask = _compared(sample, sample.runs, image, mask, dataset.rle_size, report)
    return Decoded(sample, None if faults else image, None if faults else mask, faults)


def _read_mask(path: Path, dataset: Dataset) -> np.ndarray:
    if dataset.palette:
        return read_colour_mask(path, palette.values(dataset))
    return read_mask(path, len(dataset.classes), dataset.ignore_index, FORMATS[dataset.format].grey_masks)


def _compared(
    sample: RawSample,
    runs: RunLengths,
    image: np.ndarray | None,
    mask: np.ndarray | None,
    rle_size: tuple[int, int] | None,
    report: Callable[[Path, str, str], None],
) -> np.ndarray | None:
    """The mask of a sample with run lengths: drawn from them, or the one of its file if both agree."""
    sized = mask if image is None else image
    if sized is None:
        return None
    height, width = sized.shape[:2]
    try:
        mask_size = rle_size or (height, width)
        drawn = resized(draw(runs, *mask_size), height, width)
    except ValueError as error:
        advice = "correct" if rle_size else "if they are of images of another size, write"
        detail = (
            f"run lengths of {sample.sample_id!r} can't be read as a mask of {mask_size[1]} x {mask_size[0]} "
            f"(width x height); {advice} dataset.rle_size ({error})"
        )
        report(sample.image, "bad_rle", detail)
        return mask
    if sample.mask is None or mask is None:
        return drawn
    if different := int(np.count_nonzero(drawn != mask)):
        detail = f"differs from its run lengths in {different} of {mask.size} pixels; correct one of them"
        report(sample.mask, "rle_mismatch", detail)
    return mask


def draw(runs: RunLengths, height: int, width: int) -> np.ndarray:
    """Mask, uint8 [height, width] of 0 and 1, of run lengths. ValueError if they don't fit."""
    if runs.dialect == "siim":
        return rle.unite_relative(runs.texts, height, width)
    (text,) = runs.texts
    return rle.decode(text, height, width)


def _size(pixels: np.ndarray) -> str:
    return f"{pixels.shape[1]} x {pixels.shape[0]}"


def _visible(decoded: Iterator[Decoded], total: int) -> Iterator[Decoded]:
    """The same samples, with a bar on a terminal or a line every ten seconds in a log."""
    if sys.stderr.isatty():
        yield from tqdm(decoded, total=total, desc="ingest", unit=" samples")
        return
    started = said = time.monotonic()
    for done, sample in enumerate(decoded, start=1):
        yield sample
        now = time.monotonic()
        if now - said > 10:
            said = now
            LOG.info("ingest: %d of %d samples, %.0f a second", done, total, done / (now - started))


# --------------------------------------------------------------------------------------------------------------- tables


def _schema(found: Scan, root: Path) -> pa.Schema:
    """Columns of every samples table, then the format's metadata in the type of its values."""
    columns: dict[str, list[Any]] = {}
    for sample in found.samples:
        for name, value in sample.metadata.items():
            columns.setdefault(name, []).append(value)
    schema = SAMPLES
    for name, values in columns.items():
        if name in OWN:
            raise DataError(f"{root}: the metadata column {name!r} has the name of a column of our own; rename it")
        if not name or not name.isprintable():
            raise DataError(
                f"{root}: the metadata column {shortened(name)!r} has no plain name; write one in the header"
            )
        kind = pa.array(values).type
        schema = schema.append(pa.field(name, pa.string() if pa.types.is_null(kind) else kind))
    return schema


def _row(decoded: Decoded, dataset: Dataset, root: Path, append: store.Append) -> dict[str, Any]:
    """Store the pixels of a sample and describe them as a row of the samples table."""
    sample, image, mask = decoded.sample, decoded.image, decoded.mask
    assert image is not None
    image_offset, image_crc32 = append(image)
    row = {
        "sample_id": sample.sample_id,
        "split": sample.split,
        "image_path": sample.image.relative_to(root).as_posix(),
        "mask_path": sample.mask.relative_to(root).as_posix() if sample.mask else None,
        "height": image.shape[0],
        "width": image.shape[1],
        "channels": image.shape[2],
        "image_offset": image_offset,
        "image_crc32": image_crc32,
        "black": bool((image == image[0, 0]).all()),
    }
    if mask is not None:
        row["mask_offset"], row["mask_crc32"] = append(mask)
        row["coverage"] = coverage(mask, len(dataset.classes))
        row["empty"] = not any(
            share
            for index, share in enumerate(row["coverage"])
            if len(dataset.classes) == 1 or index not in (0, dataset.ignore_index)
        )
    return row | sample.metadata


def coverage(mask: np.ndarray, classes: int) -> list[float]:
    """Share of the pixels of a mask, uint8 [H, W], that are foreground (one class) or of each class (several)."""
    if classes == 1:
        return [float(mask.mean())]
    return (np.bincount(mask.ravel(), minlength=classes)[:classes] / mask.size).tolist()


# --------------------------------------------------------------------------------------------------------------- faults


def _message(faults: list[Fault], root: Path, listing: Path, advice: str) -> str:
    lines = [f"{fault.path}: {fault.fault}: {fault.detail}" for fault in faults[:SHOWN]]
    if len(faults) > SHOWN:
        lines.append(f"... and {len(faults) - SHOWN} more")
    return f"dataset.root: {root} has {len(faults)} faults, all listed in {listing}. {advice}.\n  " + "\n  ".join(lines)


def _write_csv(path: Path, faults: list[Fault]) -> None:
    with atomic(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(FAULTS.names)
        writer.writerows(astuple(fault) for fault in faults)
