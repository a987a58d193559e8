"""Weighted averages of probability tables, streamed."""

import heapq
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stagepipe.artefacts import Provenance
from stagepipe.errors import ArtefactError
from stagepipe.probabilities import HAIR, ProbabilityWriter, iterate

Map = NDArray[np.uint8]
Row = tuple[str, Map, Path]


def average(members: Sequence[Sequence[Path]], weights: Sequence[float]) -> Iterator[tuple[str, Map]]:
    """Yield (sample_id, weighted mean of the members' maps as uint8 [classes, height, width]), ids ascending.

    A member is one or several tables that together cover the samples (the out-of-fold tables of all folds). Weights are
    ratios. The mean is rounded half up, the same for any order of the members. Each table holds one row group in
    memory. ArtefactError names the table and the first id where members differ, or the sample whose maps differ in
    shape; ValueError refuses weights that are no ratios.
    """
    if len(members) != len(weights) or not members or not all(members):
        raise ValueError(
            f"{len(members)} members and {len(weights)} weights; write one weight a member, each with tables"
        )
    if min(weights) < 0 or sum(weights) <= 0:
        raise ValueError(f"weights {list(weights)} are no ratios; write numbers >= 0, one of them above 0")
    return _average(members, [weight / sum(weights) for weight in weights])


def _average(members: Sequence[Sequence[Path]], shares: Sequence[float]) -> Iterator[tuple[str, Map]]:
    streams = [_member(tables) for tables in members]
    for rows in zip_longest(*streams):
        _check(rows, members)
        total = np.zeros(rows[0][1].shape, np.float64)
        for (_, quantised, _), share in zip(rows, shares, strict=True):
            total += share * quantised
        # The hair makes halves round up although shares like 1/3 are inexact, whichever member comes first.
        yield rows[0][0], np.floor(total + (0.5 + HAIR)).astype(np.uint8)


def _table(path: Path) -> Iterator[Row]:
    for sample_id, quantised in iterate(path):
        yield sample_id, quantised, path


def _member(tables: Sequence[Path]) -> Iterator[Row]:
    """Rows of a member's tables merged by id."""
    last_id, last_path = None, None
    for sample_id, quantised, path in heapq.merge(*map(_table, tables), key=lambda row: row[0]):
        if sample_id == last_id:
            raise ArtefactError(f"{path}: holds sample {sample_id!r}, which {last_path} of the same member holds too")
        yield sample_id, quantised, path
        last_id, last_path = sample_id, path


def _check(rows: Sequence[Row | None], members: Sequence[Sequence[Path]]) -> None:
    first = next(row for row in rows if row is not None)
    for row, tables in zip(rows, members, strict=True):
        if row is None:
            names = ", ".join(map(str, tables))
            raise ArtefactError(
                f"{names}: lacks sample {first[0]!r}, which {first[2]} holds; predict both on the same samples"
            )
        if row[0] != first[0]:
            lacking, holding = (row, first) if row[0] > first[0] else (first, row)
            raise ArtefactError(
                f"{lacking[2]}: has sample {lacking[0]!r} where {holding[2]} has {holding[0]!r}; "
                "predict both on the same samples"
            )
        if row[1].shape != first[1].shape:
            raise ArtefactError(
                f"{row[2]}: sample {row[0]!r} is {row[1].shape} (classes, height, width), "
                f"but {first[1].shape} in {first[2]}; predict both at the same size"
            )


def write(
    path: Path | str, members: Sequence[Sequence[Path]], weights: Sequence[float], provenance: Provenance | None = None
) -> None:
    """Write the average of the members (see `average`) as a probability table."""
    with ProbabilityWriter(path, provenance) as writer:
        for sample_id, quantised in average(members, weights):
            writer.add_quantised(sample_id, quantised)


def members(tables: Sequence[Path], weights: Sequence[float], split: str) -> tuple[list[list[Path]], list[float]]:
    """Group the tables of several runs, every fold's of the first run first, into members and their weights.

    Out of fold a run's tables together are one member; on the test split each fold's table is a member of its own, and
    the folds of a run weigh alike.
    """
    folds = len(tables) // len(weights)
    runs = [list(tables[start : start + folds]) for start in range(0, len(tables), folds)]
    if split == "out_of_fold":
        return runs, list(weights)
    return [[table] for run in runs for table in run], [weight for weight in weights for _ in range(folds)]
