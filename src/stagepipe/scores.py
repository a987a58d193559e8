"""Scores of out-of-fold predictions, a case per image."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from stagepipe import metrics
from stagepipe.artefacts import read_table
from stagepipe.binarise import apply as binarise
from stagepipe.data.labels import label_reader
from stagepipe.errors import ArtefactError
from stagepipe.probabilities import iterate
from stagepipe.recipe.parts import ScorePart
from stagepipe.tables import CASES, CONFUSION

Mask = NDArray[np.uint8]
Counts = NDArray[np.int64]
ALL_EMPTY = "all_empty"
SPLIT = "out_of_fold"


@dataclass(frozen=True)
class Scored:
    """What the masks of a run, or of several, score."""

    cases: pa.Table
    """of schema CASES"""
    confusion: pa.Table
    """of schema CONFUSION"""


def score(
    stage: str,
    run: str,
    folds_of: Mapping[str, int],
    masks: Iterable[tuple[str, Mask]],
    truths: Callable[[str], Mask],
    classes: Sequence[str],
    evaluated: Sequence[str] = (),
    ignore_index: int | None = None,
    all_empty: bool = True,
) -> Scored:
    """Score out-of-fold masks (sample_id, uint8 [height, width]) against truths(sample_id), a case per image.

    `evaluated`: names of the classes that a score is the mean of; none: all but the ignored one. `all_empty` adds the
    cases of the run "all_empty", whose masks are all 0: the score that costs nothing. Foreground shares count what
    isn't 0, among pixels that aren't ignored. ArtefactError if a mask and its truth differ in size or the sample has no
    fold.
    """
    names = list(classes) if len(classes) > 1 else ["background", *classes]
    sums: dict[int, Counts] = {}
    ids, counts = [], []
    for sample_id, mask in masks:
        truth = truths(sample_id)
        if mask.shape != truth.shape or sample_id not in folds_of:
            raise ArtefactError(
                f"sample {sample_id!r}: the prediction is {mask.shape} for a mask {truth.shape}, fold "
                f"{folds_of.get(sample_id)}; predict again"
            )
        pixels = metrics.confusion(truth, mask, len(classes), ignore_index)
        sums[folds_of[sample_id]] = sums.get(folds_of[sample_id], 0) + pixels
        ids.append(sample_id)
        counts.append(metrics.confusion_counts(pixels))
    stacked = np.array(counts, np.int64).reshape(-1, len(names), 3)
    folds = [folds_of[sample_id] for sample_id in ids]
    scored = metrics.scored_indices(classes, evaluated, ignore_index) if len(classes) > 1 else None
    rows = [_cases(stage, run, folds, ids, stacked, scored)]
    if all_empty:
        rows.append(_cases(stage, ALL_EMPTY, folds, ids, _all_empty(stacked), scored))
    return Scored(pa.concat_tables(rows), _confusion(stage, run, dict(sorted(sums.items())), names))


def _all_empty(counts: Counts) -> Counts:
    """The same truths against masks that are all 0."""
    result = counts * np.array([0, 1, 0])
    result[:, 0, 0], result[:, 0, 2] = counts[:, 0, 1], counts[:, :, 1].sum(axis=1)
    return result


def _cases(
    stage: str, run: str, folds: list[int], ids: list[str], counts: Counts, scored: Sequence[int] | None
) -> pa.Table:
    """Cases of counts [N, classes, 3]; `scored` is None for a single class, whose background comes first."""
    values = metrics.scores(counts[:, 1:] if scored is None else counts, scored)
    columns = {name: values[name] if name in values else pa.nulls(len(ids)) for name in metrics.METRICS}
    counted = np.maximum(counts[:, :, 1].sum(axis=1), 1)
    columns |= {"coverage": counts[:, 1:, 1].sum(axis=1) / counted, "predicted": counts[:, 1:, 2].sum(axis=1) / counted}
    same = {"stage": stage, "run": run, "split": SPLIT}
    columns |= {"fold": folds, "sample_id": ids} | {name: [value] * len(ids) for name, value in same.items()}
    # A score that is not a number is none.
    arrays = [pa.array(columns[column.name], column.type, from_pandas=True) for column in CASES]
    return pa.table(arrays, schema=CASES)


def _confusion(stage: str, run: str, sums: Mapping[int, Counts], names: Sequence[str]) -> pa.Table:
    """Rows of the confusion [names, names] of each fold."""
    fold, truth, predicted = np.indices((len(sums), len(names), len(names))).reshape(3, -1)
    columns = {"stage": [stage] * len(fold), "run": [run] * len(fold), "fold": np.array(list(sums), np.int32)[fold]}
    columns |= {"truth": np.array(names)[truth], "predicted": np.array(names)[predicted]}
    return pa.table(columns | {"pixels": np.array(list(sums.values()), np.int64).ravel()}, schema=CONFUSION)


def stage_scores(part: ScorePart, samples: Path, pixels: Path, folds: Path, tables: Sequence[Path]) -> Scored:
    """Score every run of a stage and its ensemble out of fold.

    `tables` holds every fold's table of the first run, then of the next, and last the ensemble's table. A single class
    is cut at 0.5. Cases of "all_empty" come once.
    """
    truths = label_reader(samples, pixels)
    fold_of = folds_by_id(folds)
    count = (len(tables) - 1) // (len(part.runs) - 1)
    groups = [list(tables[start : start + count]) for start in range(0, len(tables) - 1, count)] + [[tables[-1]]]
    found = [
        score(
            part.stage, run, fold_of, _masks(group, len(part.classes)), truths, part.classes, part.evaluated,
            part.ignore_index, all_empty=run == "ensemble",
        )
        for run, group in zip(part.runs, groups, strict=True)
    ]  # fmt: skip
    cases, confusions = [run.cases for run in found], [run.confusion for run in found]
    return Scored(pa.concat_tables(cases), pa.concat_tables(confusions))


def _masks(tables: Sequence[Path], classes: int) -> Iterator[tuple[str, Mask]]:
    """The most probable class of each pixel; of a single class what is above 0.5."""
    for sample_id, quantised in chain.from_iterable(map(iterate, tables)):
        if len(quantised) != classes:
            raise ArtefactError(
                f"sample {sample_id!r}: the map has {len(quantised)} channels for {classes} classes; predict again"
            )
        yield sample_id, binarise(quantised, 0.5 if classes == 1 else None)


def folds_by_id(folds: Path) -> dict[str, int]:
    """Fold of every labelled sample."""
    table = read_table(folds)
    return dict(zip(table["sample_id"].to_pylist(), table["fold"].to_pylist(), strict=True))
