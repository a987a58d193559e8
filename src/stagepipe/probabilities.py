"""Probability tables: maps quantised to 8 bits, written and read a row group at a time.

A quantised value q stands for the probability q / 255. All decisions on probabilities (thresholds, confidence) are made
on these integers, so every job that reads a table decides alike.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from stagepipe.artefacts import Provenance, TableWriter, iterate_table
from stagepipe.errors import ArtefactError
from stagepipe.tables import PROBABILITIES

# An average holds a row group of every table at once: 20 members of 5 folds make 100 of them.
ROW_GROUP_BYTES = 4 * 2**20
STEPS = 255
LAST = 255
"""highest index of a class"""
BLOCK = 1 << 15
"""pixels at once: their ranks stay in a core's cache"""
# 255 * 0.6 in binary may fall a hair beside the integer it means.
HAIR = 1e-9


def quantise(probabilities: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Return round(255 p), halves up, as uint8 of the same shape; ValueError unless all p lie in 0..1."""
    if not (probabilities.min(initial=0) >= 0 and probabilities.max(initial=0) <= 1):
        raise ValueError("holds values that are no probabilities (not a number, or outside 0..1)")
    return np.floor(probabilities * np.float32(STEPS) + np.float32(0.5)).astype(np.uint8)


def lowest_above(threshold: float) -> int:
    """Smallest quantised value whose probability is above the threshold (256: none is)."""
    return math.floor(STEPS * threshold + HAIR) + 1


def highest_below(threshold: float) -> int:
    """Largest quantised value whose probability is below the threshold (-1: none is)."""
    return math.ceil(STEPS * threshold - HAIR) - 1


def most_probable(quantised: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Index uint8 [height, width] of the highest of several classes, the first of equals, of [classes, height, width].

    Value and class make up one number, whose maximum vector instructions find: a third of the time of argmax.
    """
    best = np.zeros(quantised.shape[1:], np.uint16)
    for index, plane in enumerate(quantised):
        np.maximum(best, _ranked(plane, index), out=best)
    return (LAST - (best & LAST)).astype(np.uint8)


def keep_most_probable(quantised: NDArray[np.uint8], count: int | None) -> NDArray[np.uint8]:
    """The map uint8 [classes, height, width] with all but the `count` most probable classes of each pixel set to 0.

    Of equals the first classes stay, so the most probable class stays what it is. None keeps all, in the same array.
    """
    if count is None or count >= len(quantised):
        return quantised
    kept = np.empty_like(quantised)
    flat, result = quantised.reshape(len(quantised), -1), kept.reshape(len(quantised), -1)
    for start in range(0, flat.shape[1], BLOCK):
        block = np.s_[:, start : start + BLOCK]
        ranks = np.stack([_ranked(plane, index) for index, plane in enumerate(flat[block])])
        lowest = ranks.max(axis=0)
        for _ in range(count - 1):
            lowest = np.where(ranks < lowest, ranks, 0).max(axis=0)
        result[block] = np.where(ranks >= lowest, flat[block], 0)
    return kept


def _ranked(plane: NDArray[np.uint8], index: int) -> NDArray[np.uint16]:
    """A number for value and class, the larger the higher the value and, of equal values, the earlier the class."""
    return (plane.astype(np.uint16) << np.uint16(8)) | np.uint16(LAST - index)


class RowGroupWriter:
    """Write rows one at a time; a row group is flushed before it holds more than 4 MiB (but holds one row at least)."""

    def __init__(self, path: Path | str, schema: pa.Schema, provenance: Provenance | None = None) -> None:
        self._schema = schema
        self._table = TableWriter(path, schema, provenance)
        self._rows: list[dict[str, Any]] = []
        self._bytes = 0

    def __enter__(self) -> Self:
        self._table.__enter__()
        return self

    def write(self, row: dict[str, Any], size: int) -> None:
        """Append one row that takes about `size` bytes."""
        if self._bytes + size > ROW_GROUP_BYTES:
            self._flush()
        self._rows.append(row)
        self._bytes += size

    def _flush(self) -> None:
        if self._rows:
            arrays = [pa.array([row[column.name] for row in self._rows], column.type) for column in self._schema]
            self._rows, self._bytes = [], 0
            self._table.write(pa.RecordBatch.from_arrays(arrays, schema=self._schema))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            try:
                self._flush()
            except BaseException as failure:
                self._table.__exit__(type(failure), failure, failure.__traceback__)
                raise
        self._table.__exit__(kind, error, trace)


class ProbabilityWriter:
    """Context manager that writes a probability table; ids must come in ascending order, each once (ValueError)."""

    def __init__(self, path: Path | str, provenance: Provenance | None = None) -> None:
        self._rows = RowGroupWriter(path, PROBABILITIES, provenance)
        self._last: str | None = None

    def __enter__(self) -> Self:
        self._rows.__enter__()
        return self

    def add(self, sample_id: str, probabilities: NDArray[np.floating]) -> None:
        """Append a map, float [classes, height, width] in 0..1; ValueError names a sample with other values."""
        try:
            quantised = quantise(probabilities)
        except ValueError as error:
            raise ValueError(f"the map of sample {sample_id!r} {error}") from error
        self.add_quantised(sample_id, quantised)

    def add_quantised(self, sample_id: str, quantised: NDArray[np.uint8]) -> None:
        """Append a map that is quantised already, uint8 [classes, height, width]."""
        if self._last is not None and sample_id <= self._last:
            raise ValueError(f"sample {sample_id!r} comes after {self._last!r}; add samples sorted by id, each once")
        if quantised.dtype != np.uint8 or quantised.ndim != 3:
            raise ValueError(
                f"sample {sample_id!r}: wants uint8 [classes, height, width], not {quantised.dtype} {quantised.shape}"
            )
        self._last = sample_id
        classes, height, width = quantised.shape
        row = {"sample_id": sample_id, "classes": classes, "height": height, "width": width}
        self._rows.write(row | {"probabilities": quantised.tobytes()}, quantised.nbytes)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._rows.__exit__(kind, error, trace)


def iterate(path: Path | str) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """Yield (sample_id, uint8 [classes, height, width]) in ascending order of ids, one row group in memory at a time.

    The maps are read-only views into their row group: copy what is kept. ArtefactError names a table that is damaged,
    whose ids aren't ascending or whose maps don't have the size they declare.
    """
    last: str | None = None
    for batch in iterate_table(path, PROBABILITIES.names):
        ids, *sizes = (batch.column(name).to_pylist() for name in PROBABILITIES.names[:4])
        for sample_id, shape, value in zip(ids, zip(*sizes, strict=True), batch.column("probabilities"), strict=True):
            if last is not None and sample_id <= last:
                raise ArtefactError(f"{path}: sample {sample_id!r} comes after {last!r}; delete it and run again")
            flat = np.frombuffer(value.as_buffer(), np.uint8)
            flat.flags.writeable = False
            if flat.size != math.prod(shape):
                raise ArtefactError(
                    f"{path}: sample {sample_id!r} holds {flat.size} values for a map of {shape}; "
                    "delete it and run again"
                )
            last = sample_id
            yield sample_id, flat.reshape(shape)
