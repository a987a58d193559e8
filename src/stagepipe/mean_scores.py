"""Means of scores over the images of each fold and of all, as one CSV file."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from stagepipe import metrics
from stagepipe.artefacts import read_table
from stagepipe.scores import SPLIT
from stagepipe.storage import atomic


def summary(cases: pa.Table, confusion: pa.Table | None = None, scored: Sequence[str] = ()) -> pd.DataFrame:
    """Mean scores over the images of each fold, and of all folds pooled (fold "all").

    Columns stage, run, fold (string), split, metric, value; metrics that no image of a group has are left out. A table
    of schema CONFUSION and the names of the `scored` classes add `dataset_iou`, the mean over those classes of the IoU
    of all images' pixels together.
    """
    keys = ["stage", "run", "fold", "split"]
    long = _pooled(cases).melt(id_vars=keys, value_vars=list(metrics.METRICS), var_name="metric").dropna(subset="value")
    means = long.groupby([*keys, "metric"], as_index=False)["value"].mean()
    if confusion is not None and confusion.num_rows:
        means = pd.concat([means, _dataset_ious(confusion, scored)], ignore_index=True)
    return means.sort_values([*keys, "metric"], ignore_index=True).astype({"value": float})


def _pooled(table: pa.Table) -> pd.DataFrame:
    """All rows twice: in their fold, as a string, and in the fold "all"."""
    frame = table.to_pandas()
    return pd.concat([frame.assign(fold=frame["fold"].astype(str)), frame.assign(fold="all")])


def _dataset_ious(confusion: pa.Table, scored: Sequence[str]) -> pd.DataFrame:
    rows = []
    for (stage, run, fold), group in _pooled(confusion).groupby(["stage", "run", "fold"]):
        pixels = group.pivot_table(index="truth", columns="predicted", values="pixels", aggfunc="sum")
        counts = metrics.confusion_counts(pixels.to_numpy(np.int64))
        value = metrics.dataset_iou(counts[None], pixels.index.get_indexer(list(scored)))
        rows.append((stage, run, fold, SPLIT, "dataset_iou", value))
    return pd.DataFrame(rows, columns=["stage", "run", "fold", "split", "metric", "value"])


def write_summary(cases: Sequence[Path], confusions: Sequence[Path], scored: Sequence[str], path: Path) -> None:
    """Write the means of several tables of cases, each with its confusions, as one CSV file (see `summary`).

    `scored`: names of the classes that `dataset_iou` is the mean of; none: it is left out.
    """
    pairs = zip(cases, confusions, strict=True)
    means = [summary(read_table(table), read_table(pixels) if scored else None, scored) for table, pixels in pairs]
    with atomic(path) as temporary:
        pd.concat(means, ignore_index=True).to_csv(temporary, index=False, lineterminator="\n")
