"""Weighted averages of probability tables, streamed."""

import heapq
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stagepipe.artefacts import Provenance, is_share, read_json
from stagepipe.errors import ArtefactError
from stagepipe.probabilities import HAIR, STEPS, ProbabilityWriter, iterate, keep_most_probable
from stagepipe.recipe.averages import EnsemblePart

Map = NDArray[np.uint8]
Row = tuple[str, Map, Path]
Range = tuple[float, float]
WHOLE: Range = (0.0, float(STEPS))
QUARTER_STEP = 0.25
"""What a quantised 0 stands for in a geometric mean, so that one member alone can't veto all others."""
HALF_UP = 0.5 + HAIR
"""Added to a mean in steps of 1/255 before its fraction is cut off: its hair makes halves round up although shares like
1/3 are inexact, whichever member comes first."""
BLOCK = 1 << 15
"""Pixels at once: float64 sums of so many stay in a core's cache."""


def average(
    members: Sequence[Sequence[Path]],
    weights: Sequence[float],
    mean: str = "arithmetic",
    ranges: Sequence[Range] | None = None,
) -> Iterator[tuple[str, Map]]:
    """Yield (sample_id, weighted mean of the members' maps as uint8 [classes, height, width]), ids ascending.

    A member is one or several tables that together cover the samples (the out-of-fold tables of all folds). Weights are
    ratios. `mean` is arithmetic or geometric. `ranges` says of each member which values (in steps of 1/255) become 0
    and 255; none: its maps stay as they are. The mean is rounded half up, the same for any order of the members. Each
    table holds one row group in memory. ArtefactError names the table and the first id where members differ, or the
    sample whose maps differ in shape; ValueError refuses weights that are no ratios.
    """
    if len(members) != len(weights) or not members or not all(members):
        raise ValueError(
            f"{len(members)} members and {len(weights)} weights; write one weight a member, each with tables"
        )
    if min(weights) < 0 or sum(weights) <= 0:
        raise ValueError(f"weights {list(weights)} are no ratios; write numbers >= 0, one of them above 0")
    shares = [weight / sum(weights) for weight in weights]
    means = _averages(members, shares, ranges or [WHOLE] * len(members), mean == "geometric")
    return (
        (name, np.add(total.clip(0, STEPS, out=total), HALF_UP, out=total).astype(np.uint8)) for name, total in means
    )


def _averages(
    members: Sequence[Sequence[Path]], shares: Sequence[float], ranges: Sequence[Range], geometric: bool
) -> Iterator[tuple[str, NDArray[np.float64]]]:
    """Means in steps of 1/255, not rounded."""
    for sample_id, maps in together(members):
        total = np.zeros(maps[0].shape)
        flat, planes = total.reshape(-1), [quantised.reshape(-1) for quantised in maps]
        for start in range(0, flat.size, BLOCK):
            block = slice(start, start + BLOCK)
            for plane, share, (low, high) in zip(planes, shares, ranges, strict=True):
                values = plane[block] if (low, high) == WHOLE else (plane[block] - low) * (STEPS / (high - low))
                flat[block] += share * (np.log(np.maximum(values, QUARTER_STEP)) if geometric else values)
        yield sample_id, np.exp(total) if geometric else total


def value_range(members: Sequence[Sequence[Path]]) -> Range:
    """Lowest and highest value of the members' plain mean over all samples and classes, in steps of 1/255.

    The whole range where all values are alike: there is nothing to stretch.
    """
    shares = [1 / len(members)] * len(members)
    low, high = float(STEPS), 0.0
    for _, mean in _averages(members, shares, [WHOLE] * len(members), geometric=False):
        low, high = min(low, float(mean.min())), max(high, float(mean.max()))
    return (low, high) if low < high else WHOLE


def together(members: Sequence[Sequence[Path]]) -> Iterator[tuple[str, list[Map]]]:
    """Yield (sample_id, every member's map), ids ascending; errors and memory are those of `average`."""
    for rows in zip_longest(*map(_member, members)):
        _check(rows, members)
        yield rows[0][0], [quantised for _, quantised, _ in rows]


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


def average_runs(
    tables: Sequence[Path], part: EnsemblePart, shares: Sequence[float] | None = None
) -> Iterator[tuple[str, Map]]:
    """`average` of several runs, whose tables come run after run, every fold's of each.

    Out of fold a run's tables together are one member; on the test split each fold's table is a member of its own, and
    the folds of a run weigh alike. `shares` stand in the place of the part's weights, one a run; a run that has none is
    not read.
    """
    members: list[list[Path]] = []
    weights, ranges = [], []
    shares = shares or [run.weight for run in part.runs]
    for own, run, share in zip(by_run(tables, len(part.runs)), part.runs, shares, strict=True):
        if share == 0:
            continue
        parts = [own] if part.split == "out_of_fold" else [[table] for table in own]
        members += parts
        weights += [share] * len(parts)
        ranges += [value_range(parts) if run.rescale == "minmax" else WHOLE] * len(parts)
    return average(members, weights, part.mean, ranges)


def by_run(tables: Sequence[Path], runs: int) -> list[list[Path]]:
    """Tables of each run, of tables that come run after run, as many of each."""
    folds = len(tables) // runs
    return [list(tables[start : start + folds]) for start in range(0, folds * runs, folds)]


def read_shares(path: Path) -> list[float]:
    """The shares that a search has found (blend_search.write), in the order of its runs; ArtefactError if damaged."""
    shares = read_json(path).get("shares")
    if not isinstance(shares, dict) or not all(is_share(share) for share in shares.values()):
        raise ArtefactError(f"{path}: holds no shares from 0 to 1 (found {shares!r}); delete it and run again")
    return list(shares.values())


def write(
    path: Path | str,
    maps: Iterator[tuple[str, Map]],
    kept_classes: int | None = None,
    provenance: Provenance | None = None,
) -> None:
    """Write averaged maps as a probability table, with the most probable classes of each pixel alone if so many."""
    with ProbabilityWriter(path, provenance) as writer:
        for sample_id, quantised in maps:
            writer.add_quantised(sample_id, keep_most_probable(quantised, kept_classes))
