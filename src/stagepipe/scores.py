"""Scores of out-of-fold predictions, per image and summed up."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from stagepipe import metrics
from stagepipe.artefacts import read_table
from stagepipe.binarise import apply as binarise
from stagepipe.data.labels import label_reader
from stagepipe.errors import ArtefactError
from stagepipe.probabilities import iterate
from stagepipe.recipe.parts import ScorePart
from stagepipe.storage import atomic
from stagepipe.tables import CASES

Mask = NDArray[np.uint8]
ALL_EMPTY = "all_empty"


def cases(
    stage: str,
    run: str,
    folds_of: Mapping[str, int],
    split: str,
    maps: Iterable[tuple[str, NDArray[np.uint8]]],
    truths: Callable[[str], Mask],
    threshold: float | None,
    classes: int,
    ignore_index: int | None = None,
    all_empty: bool = True,
) -> pa.Table:
    """Score maps (sample_id, uint8 [classes, height, width]) against truths(sample_id), one row of CASES per image.

    `classes` counts the channels of a map; a single class needs the threshold of its masks, several take None.
    `all_empty` adds the rows of the run "all_empty", whose masks are all 0: the score that costs nothing. Foreground
    shares count what isn't 0, among pixels that aren't ignored. ArtefactError if a map and its mask differ in size or
    the sample has no fold.
    """
    ids: list[str] = []
    predicted, empty = [], []
    for sample_id, quantised in maps:
        truth = truths(sample_id)
        if quantised.shape != (classes, *truth.shape) or sample_id not in folds_of:
            raise ArtefactError(
                f"sample {sample_id!r}: the map is {quantised.shape} for a mask {truth.shape} of {classes} classes, "
                f"fold {folds_of.get(sample_id)}; predict again"
            )
        ids.append(sample_id)
        predicted.append(_counts(truth, binarise(quantised, threshold), classes, ignore_index))
        empty.append(_counts(truth, np.zeros_like(truth), classes, ignore_index))
    numbers = [folds_of[sample_id] for sample_id in ids]
    rows = [_rows(stage, run, numbers, split, ids, predicted, classes)]
    if all_empty:
        rows.append(_rows(stage, ALL_EMPTY, numbers, split, ids, empty, classes))
    return pa.concat_tables(rows)


def _counts(truth: Mask, predicted: Mask, classes: int, ignore_index: int | None) -> NDArray[np.int64]:
    """Pixels (intersection, truth, predicted) per class; a last row (counted, true and predicted foreground)."""
    counted = np.ones(truth.shape, bool) if ignore_index is None else truth != ignore_index
    foreground = [counted.sum(), (truth[counted] > 0).sum(), (predicted[counted] > 0).sum()]
    return np.vstack([metrics.intersections(truth, predicted, classes, ignore_index), foreground])


def _rows(
    stage: str, run: str, folds: list[int], split: str, ids: list[str], counts: list[NDArray[np.int64]], classes: int
) -> pa.Table:
    stacked = np.array(counts, np.int64).reshape(-1, classes + 1, 3)
    values = metrics.scores(stacked[:, :-1])
    counted, true, predicted = stacked[:, -1].T
    columns = {name: values[name] if name in values else pa.nulls(len(ids)) for name in metrics.METRICS}
    columns |= {"coverage": true / np.maximum(counted, 1), "predicted": predicted / np.maximum(counted, 1)}
    same = {"stage": stage, "run": run, "split": split}
    columns |= {"fold": folds, "sample_id": ids} | {name: [value] * len(ids) for name, value in same.items()}
    return pa.table([pa.array(columns[column.name], column.type) for column in CASES], schema=CASES)


def summary(cases: pa.Table) -> pd.DataFrame:
    """Mean scores over the images of each fold, and of all folds pooled (fold "all").

    Columns stage, run, fold (string), split, metric, value; metrics that no image of a group has are left out.
    """
    frame = cases.to_pandas()
    pooled = pd.concat([frame.assign(fold=frame["fold"].astype(str)), frame.assign(fold="all")])
    keys = ["stage", "run", "fold", "split"]
    long = pooled.melt(id_vars=keys, value_vars=list(metrics.METRICS), var_name="metric").dropna(subset="value")
    means = long.groupby([*keys, "metric"], sort=True, as_index=False)["value"].mean()
    return means.astype({"value": float})


def stage_cases(part: ScorePart, samples: Path, pixels: Path, folds: Path, tables: Sequence[Path]) -> pa.Table:
    """Score every run of a stage and its ensemble out of fold.

    `tables` holds every fold's table of the first run, then of the next, and last the ensemble's table. A single class
    is cut at 0.5. Rows "all_empty" come once.
    """
    truths = label_reader(samples, pixels)
    fold_of = folds_by_id(folds)
    count = (len(tables) - 1) // (len(part.runs) - 1)
    groups = [list(tables[start : start + count]) for start in range(0, len(tables) - 1, count)] + [[tables[-1]]]
    threshold = 0.5 if len(part.classes) == 1 else None
    parts = [
        cases(
            part.stage, run, fold_of, "out_of_fold", chain.from_iterable(map(iterate, group)), truths, threshold,
            len(part.classes), part.ignore_index, all_empty=run == "ensemble",
        )
        for run, group in zip(part.runs, groups, strict=True)
    ]  # fmt: skip
    return pa.concat_tables(parts)


def folds_by_id(folds: Path) -> dict[str, int]:
    """Fold of every labelled sample."""
    table = read_table(folds)
    return dict(zip(table["sample_id"].to_pylist(), table["fold"].to_pylist(), strict=True))


def write_summary(cases: Sequence[Path], path: Path) -> None:
    """Write the means of several tables of cases as one CSV file (see `summary`)."""
    means = pd.concat([summary(read_table(table)) for table in cases], ignore_index=True)
    with atomic(path) as temporary:
        means.to_csv(temporary, index=False, lineterminator="\n")
