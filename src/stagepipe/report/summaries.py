"""The numbers of the report: means by stage, run, fold and mask size, the balance of folds, what it all cost."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from stagepipe.metrics import METRICS
from stagepipe.report.collect import Collected
from stagepipe.scores import ALL_EMPTY
from stagepipe.triplets import Triplet

HEADLINE_RUNS = ("blend", "ensemble")
WORDS = {
    "mean_precision": "Mean precision",
    "dice": "Dice",
    "iou": "IoU",
    "truth_iou": "IoU of true classes",
    "dataset_iou": "IoU of all pixels",
}
RAREST = 8
"""classes whose share per fold is shown at most"""
BEFORE_STAGES = ("synthesise", "ingest", "split_folds", "find_mosaics")
"""rules that run before all stages; others without a stage run after"""


def score_table(found: Collected, by: Sequence[str] = ()) -> pd.DataFrame:
    """Mean metrics and count per stage, run and further columns of the cases; stages in the recipe's order."""
    keys = ["stage", "run", *by]
    groups = found.cases.groupby(keys, observed=True)
    means = groups[list(METRICS)].mean().assign(images=groups.size()).reset_index()
    order = {name: position for position, name in enumerate([*found.stages, "submission"])}
    last = {ALL_EMPTY: 2, "ensemble": 1, "blend": 1}
    means["order"] = means["stage"].map(order).fillna(len(order))
    means["last"] = means["run"].map(last).fillna(0)
    return means.sort_values(["order", "last", *keys[1:]]).drop(columns=["order", "last"]).reset_index(drop=True)


def headline_run(found: Collected, stage: str) -> str | None:
    """The run that speaks for a stage: its ensemble, or its only run; None if it has no scores."""
    runs = sorted(set(found.cases.loc[found.cases["stage"] == stage, "run"]) - {ALL_EMPTY})
    return next((run for run in HEADLINE_RUNS if run in runs), runs[0] if runs else None)


def mean_score(found: Collected, stage: str, run: str, metric: str | None = None) -> float:
    """Mean score of a run over its images; a stage without its own all-empty row takes another stage's."""
    cases = found.cases[found.cases["run"] == run]
    own = cases[cases["stage"] == stage]
    if run == ALL_EMPTY and own.empty and not cases.empty:
        own = cases[cases["stage"] == cases["stage"].iloc[0]]
    return float(own[metric or found.metric].mean())


def dataset_iou(found: Collected, stage: str, run: str) -> float:
    """Mean over the evaluated classes of the IoU of all images' pixels together, as scores.csv has it."""
    rows = found.scores[(found.scores["metric"] == "dataset_iou") & (found.scores["fold"] == "all")]
    values = rows.loc[(rows["stage"] == stage) & (rows["run"] == run), "value"]
    return float(values.mean())


def cost_table(found: Collected) -> pd.DataFrame:
    """Jobs, wall and CPU hours, peak memory in GiB per stage and rule."""
    groups = found.benchmarks.groupby(["stage", "rule"])
    table = pd.DataFrame(
        {
            "jobs": groups.size(),
            "wall": groups["s"].sum() / 3600,
            "cpu": groups["cpu_time"].sum() / 3600,
            "memory": groups["max_rss"].max() / 1024,
        }
    ).reset_index()
    order = {name: position for position, name in enumerate(found.stages)}
    first = table["rule"].isin(BEFORE_STAGES)
    table["order"] = table["stage"].map(order).fillna(len(order)).where(~first, -1)
    return table.sort_values(["order", "rule"]).drop(columns="order")


def training_rates(found: Collected) -> pd.DataFrame:
    """Epochs, training seconds, images a second and the share of time waiting for data, per stage and run."""
    groups = found.history.groupby(["stage", "run"], sort=False)
    sums = {name: (name, "sum") for name in ("seconds", "images", "waited")}
    rates = groups.agg(epochs=("epoch", "size"), **sums).reset_index()
    seconds = rates["seconds"].where(rates["seconds"] > 0)
    rates["rate"], rates["waiting"] = rates["images"] / seconds, rates["waited"] / seconds
    return rates


def fold_table(found: Collected) -> pd.DataFrame:
    """Per fold, and last for all: images, share of black ones, what masks hold, stratification means.

    Of a single class masks hold the share of empty ones and the mean foreground, of several the share of each evaluated
    class, at most the eight rarest. Images that always train lie in no fold and are left out.
    """
    rows = found.samples[found.samples["fold"] >= 0]
    known = {"black", "empty", "coverage"}
    means = [name for name in found.recipe.folds.stratify if name in rows and name not in known]
    means = [name for name in means if pd.api.types.is_numeric_dtype(rows[name])]

    def row(name: str, part: pd.DataFrame) -> dict[str, float | int | str]:
        shares: dict[str, float] = {"images": len(part)}
        shares |= {"empty share": part["empty"].astype(float).mean()} if found.single else {}
        shares |= {"black share": part["black"].astype(float).mean()}
        shares |= {"mean foreground": part["foreground"].mean()} if found.single else _rarest(found, part, rows)
        return {"fold": name} | shares | {f"mean {column}": part[column].astype(float).mean() for column in means}

    return pd.DataFrame([*(row(str(int(fold)), part) for fold, part in rows.groupby("fold")), row("all", rows)])


def class_pixels(found: Collected, samples: pd.DataFrame) -> pd.Series:
    """Mean over labelled samples of the share of pixels of each class, by name; not a number if there is none."""
    shares = [share for share in samples["coverage"] if share is not None]
    means = np.mean(shares, axis=0) if shares else np.full(len(found.classes), np.nan)
    return pd.Series(means, index=found.classes)


def _rarest(found: Collected, part: pd.DataFrame, everything: pd.DataFrame) -> dict[str, float]:
    names = class_pixels(found, everything)[found.recipe.dataset.scored].sort_values().index[:RAREST]
    own = class_pixels(found, part)
    return {f"{name} share": float(own[name]) for name in found.recipe.dataset.scored if name in set(names)}


def words(metric: str) -> str:
    """A metric's name as a person writes it."""
    return WORDS.get(metric, metric)


def in_words(triplet: Triplet) -> str:
    """What a triplet takes of a map."""
    above = f"above {triplet.bottom:g}"
    if triplet.area == 0:
        return above
    of = f"of {triplet.size[0]} x {triplet.size[1]} " if triplet.size else ""
    limit = f"fewer than {triplet.area:,} {of}pixels"
    if triplet.top == triplet.bottom:
        return f"{above}, and nothing where that is {limit}"
    return f"{above}, and nothing where {limit} are above {triplet.top:g}"
