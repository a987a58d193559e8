"""Scores of a submission file against a solution file."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stagepipe import metrics, rle
from stagepipe.csvfiles import LARGEST, listed, read_strings, repeated
from stagepipe.data.decode import DICOM, MAX_PIXELS, FileFault, image_size
from stagepipe.data.raw import IMAGES
from stagepipe.errors import DataError, shortened
from stagepipe.street_contest import ContestScore, contest_score
from stagepipe.submission import HEADERS

Size = tuple[int, int]


@dataclass(frozen=True)
class Evaluation:
    """What a submission scores, and what empty masks everywhere would."""

    ids: list[str]
    """of the images, sorted"""
    counts: NDArray[np.int64]
    """[images, 1, 3] pixels: intersection, truth, predicted"""

    @cached_property
    def cases(self) -> pd.DataFrame:
        """Columns id, mean_precision, dice, iou; a row per image, sorted by id."""
        return pd.DataFrame({"id": self.ids} | metrics.scores(self.counts))

    @property
    def mean(self) -> dict[str, float]:
        """Mean over images of each metric."""
        return {name: float(values.mean()) for name, values in metrics.scores(self.counts).items()}

    @property
    def all_empty(self) -> dict[str, float]:
        """The same of empty masks: the score that costs nothing."""
        empty = metrics.scores(self.counts * np.array([0, 1, 0]))
        return {name: float(values.mean()) for name, values in empty.items()}


def evaluate(submission: Path, solution: Path, size: Size | Path) -> Evaluation:
    """Score one CSV file against another one, as the TGS and SIIM competitions did.

    A file with the columns `id,rle_mask` holds a row an image; with `ImageId,EncodedPixels` it may hold several, which
    are united. `size` is (height, width) of all images, or the folder of the images, named by id. One DataError lists
    ids that are missing, unknown or come twice, images that are missing or broken, and masks that don't decode; another
    one names a solution without rows, or a size that no mask has.
    """
    sent, solved = _read(submission), _read(solution)
    if not solved.texts:
        raise DataError(f"{solution}: has no row below its header; write one for each image to score")
    broken: list[str] = []
    if isinstance(size, Path):
        sizes, broken = _image_sizes(size)
    elif min(size) < 1 or size[0] * size[1] > MAX_PIXELS:
        raise DataError(f"size: is {size[0]} x {size[1]} pixels; write height and width, at most {MAX_PIXELS:,} pixels")
    else:
        sizes = dict.fromkeys(solved.texts, size)
    ids = sorted(set(sent.texts) & set(solved.texts) & set(sizes))
    counts, broken_sent, broken_solved = _counts(ids, sent, solved, sizes)
    faults = {
        f"{submission}: ids that are missing": sorted(set(solved.texts) - set(sent.texts)),
        f"{submission}: ids that aren't in {solution}": sorted(set(sent.texts) - set(solved.texts)),
        f"{submission}: ids with several rows": sent.repeated,
        f"{solution}: ids with several rows": solved.repeated,
        f"{size}: images that are broken": broken,
        f"{size}: images that are missing": sorted(set(solved.texts) - set(sizes)),
        f"{submission}: masks that don't decode": broken_sent,
        f"{solution}: masks that don't decode": broken_solved,
    }
    found = [f"{fault}: {listed(names)}" for fault, names in faults.items() if names]
    if found:
        raise DataError("; ".join(found))
    return Evaluation(ids, np.array(counts, np.int64).reshape(-1, 1, 3))


def evaluate_street(submission: Path, solution: Path) -> ContestScore:
    """Score one JSON file of street runs against another one, as the Signate contest of 2018 did (`contest_score`).

    One DataError lists images that are missing or unknown, another one runs that can't be read.
    """
    sent, solved = _read_runs(submission), _read_runs(solution)
    faults = {
        f"{submission}: images that are missing": sorted(set(solved) - set(sent)),
        f"{submission}: images that aren't in {solution}": sorted(set(sent) - set(solved)),
    }
    found = [f"{fault}: {listed(names)}" for fault, names in faults.items() if names]
    if found:
        raise DataError("; ".join(found))
    return contest_score(solved, sent, (str(solution), str(submission)))


def _read_runs(path: Path) -> dict[str, Any]:
    """The object in a JSON file."""
    if not os.path.isfile(path):
        raise DataError(f"{path}: is no file; write the path of a JSON file of street runs")
    if (size := path.stat().st_size) > LARGEST:
        raise DataError(f"{path}: is {size:,} bytes long; at most {LARGEST:,} are read")
    try:
        found = json.loads(path.read_bytes(), object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: isn't readable JSON ({shortened(str(error))}); write it anew") from error
    if not isinstance(found, dict):
        raise DataError(f"{path}: holds {type(found).__name__}, not runs by the names of images; write an object")
    return found


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The pairs of a JSON object; ValueError for a key that stands twice, whose first value JSON would drop."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError(f"the key {repeated(key for key, _ in pairs)[0]!r} stands twice in an object")
    return found


@dataclass(frozen=True)
class _Masks:
    """The encoded masks of a file."""

    texts: Mapping[str, Sequence[str]]
    """by id, one a row"""
    repeated: list[str]
    """ids with several rows in a dialect of one row an image"""
    decode: Callable[[Sequence[str], int, int], NDArray[np.uint8]]
    """(texts, height, width) to a mask"""


def _read(path: Path) -> _Masks:
    """Masks in the dialect that the header shows; SIIM's own files have a space in it."""
    table = read_strings(path)
    columns = {name.strip(): table[name].to_pylist() for name in table.column_names}
    dialect = next((name for name, header in HEADERS.items() if set(header) <= set(columns)), None)
    if dialect is None:
        wanted = " or ".join(",".join(header) for header in HEADERS.values())
        found = shortened(",".join(table.column_names))
        raise DataError(f"{path}: lacks the columns {wanted}; its header is {found!r}")
    ids, texts = (columns[name] for name in HEADERS[dialect])
    rows: dict[str, list[str]] = {sample_id: [] for sample_id in ids}
    for sample_id, text in zip(ids, texts, strict=True):
        rows[sample_id].append(text)
    if dialect == "siim":
        return _Masks(rows, [], rle.unite_relative)
    return _Masks(rows, repeated(ids), lambda encoded, height, width: rle.decode(encoded[0], height, width))


def _counts(
    ids: Sequence[str], sent: _Masks, solved: _Masks, sizes: Mapping[str, Size]
) -> tuple[list[NDArray[np.int64]], list[str], list[str]]:
    """Pixel counts [1, 3] of each id, and the masks of either file that don't decode."""
    counts = []
    broken: tuple[list[str], list[str]] = ([], [])
    for sample_id in ids:
        masks = []
        for file, faults in zip((sent, solved), broken, strict=True):
            try:
                masks.append(file.decode(file.texts[sample_id], *sizes[sample_id]))
            except ValueError as error:
                faults.append(f"{sample_id} ({error})")
        if len(masks) == 2:
            predicted, truth = masks
            counts.append(metrics.intersections(truth, predicted, 1))
    return counts, *broken


def _image_sizes(folder: Path) -> tuple[dict[str, Size], list[str]]:
    """(height, width) of the images in a folder by file name without its ending, from their headers; broken ones."""
    if not os.path.isdir(folder):
        raise DataError(f"{folder}: is no folder; write the folder of the images, or height and width")
    sizes: dict[str, Size] = {}
    broken = []
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in IMAGES | {DICOM}:
            continue
        try:
            if path.stem in sizes:
                raise FileFault("duplicate_id", "another image has its name; keep one of them")
            sizes[path.stem] = image_size(path)
        except FileFault as error:
            broken.append(f"{path.name} ({error})")
    return sizes, broken
