"""Read what the report tells: small tables whole, probability tables a row group at a time."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from stagepipe import artefacts, tables
from stagepipe.binarise import Rule
from stagepipe.masks import empty_masks, read_rule
from stagepipe.probabilities import lowest_above
from stagepipe.recipe.model import Jigsaw, Pseudolabels, Recipe
from stagepipe.recipe.parts import pseudolabel_sets
from stagepipe.recipe.submission_parts import jigsaw
from stagepipe.report.inputs import ReportInputs
from stagepipe.scores import ALL_EMPTY
from stagepipe.triplets import Triplet

COVERAGE_BINS = {
    "empty": (-1.0, 0.0),
    "up to 1 %": (0.0, 0.01),
    "1 to 10 %": (0.01, 0.1),
    "10 to 25 %": (0.1, 0.25),
    "25 to 50 %": (0.25, 0.5),
    "50 to 75 %": (0.5, 0.75),
    "over 75 %": (0.75, 1.0),
}
"""Bins of the true foreground share: above the first number, up to the second."""


@dataclass(frozen=True)
class Collected:
    """All the numbers of a report; pictures and page only show them."""

    recipe: Recipe
    metric: str
    """the score that the headline shows"""
    table: pa.Table
    """the samples table, in the order of the pixel store"""
    samples: pd.DataFrame
    """samples with `fold`, `always_train` and `foreground`"""
    faults: pd.DataFrame
    history: pd.DataFrame
    """with `position`: epochs counted over all phases of a run"""
    cases: pd.DataFrame
    """with `bin`: the coverage bin; of several classes without `all_empty`, as every pixel has a class"""
    scores: pd.DataFrame
    """rows of scores.csv, of several classes without `all_empty`"""
    confusions: pd.DataFrame
    """rows of CONFUSION; empty for a single class"""
    pseudolabels: pd.DataFrame
    """owner, sample_id, confidence, folds and the share of every class; with `cross_fit` a row a fold"""
    blend: dict[str, Any]
    """empty if the recipe gives the shares"""
    threshold: dict[str, Any]
    curve: pd.DataFrame
    """threshold, or top, area and bottom, and score; empty for several classes"""
    benchmarks: pd.DataFrame
    submission: dict[str, int]
    """rows, and rows with an empty mask if they can be told"""
    empty: set[str]
    """samples whose mask is empty whatever the blend says"""
    mosaics: pd.DataFrame
    """tiles that lie in a mosaic, with `labelled`; empty without a jigsaw step, like the next two"""
    jigsaw: pd.DataFrame
    effects: pd.DataFrame

    @property
    def classes(self) -> list[str]:
        """Names of the classes."""
        return self.recipe.dataset.classes

    @property
    def single(self) -> bool:
        """Whether there is one class, against background."""
        return self.recipe.dataset.outputs == 1

    @property
    def stages(self) -> list[str]:
        """Names of the stages, in order."""
        return [stage.name for stage in self.recipe.stages]

    @property
    def pseudolabel_sets(self) -> dict[str, Pseudolabels]:
        """Rules of selection by the `stage` or `stage/run` that trains on what they keep."""
        return pseudolabel_sets(self.recipe)

    @property
    def jigsaw_step(self) -> Jigsaw | None:
        """The jigsaw step of the recipe, if it has one."""
        return jigsaw(self.recipe)

    @property
    def rules_on(self) -> list[str]:
        """Names of the jigsaw rules that are switched on."""
        return [name for name, value in self.jigsaw_step or () if value is True]

    @property
    def replacements(self) -> pd.DataFrame:
        """Rows of `jigsaw` that are applied: the masks that are really replaced."""
        return self.jigsaw[self.jigsaw["applied"]]

    @property
    def chosen_threshold(self) -> Rule:
        """The threshold or triplet of the submission; None for several classes."""
        return read_rule(self.threshold["chosen"])

    @property
    def triplet(self) -> Triplet | None:
        """The triplet of the submission, if it has one."""
        return self.chosen_threshold if isinstance(self.chosen_threshold, Triplet) else None

    def score_at(self, threshold: float) -> float:
        """Score of the curve at a threshold: steps lie between quantised probabilities."""
        return float(self.curve["score"].iloc[min(lowest_above(threshold), len(self.curve)) - 1])


def collect(inputs: ReportInputs) -> Collected:
    """Read everything but probability maps; ArtefactError names a damaged table."""
    recipe = inputs.recipe
    given = {path is not None for path in (inputs.mosaics, inputs.jigsaw, inputs.jigsaw_effects)}
    if given != {jigsaw(recipe) is not None}:
        raise ValueError("mosaics, jigsaw, jigsaw_effects: give all three if the recipe has a jigsaw step, else none")
    single = recipe.dataset.outputs == 1
    table = artefacts.read_table(inputs.samples)
    samples = _samples(table, inputs.folds)
    return Collected(
        recipe=recipe,
        metric=recipe.submission.threshold.metric if single else "truth_iou",
        table=table,
        samples=samples,
        faults=artefacts.read_table(inputs.faults).to_pandas(),
        history=_history(inputs.histories, recipe),
        cases=_cases(inputs.cases, single),
        scores=_counting(pd.read_csv(inputs.scores_csv, dtype={"fold": str}), single),
        confusions=_whole([] if single else inputs.confusions, tables.CONFUSION),
        pseudolabels=_pseudolabels(inputs.pseudolabels, recipe.dataset.classes),
        blend=artefacts.read_json(inputs.blend) if inputs.blend else {},
        threshold=artefacts.read_json(inputs.threshold_summary),
        curve=artefacts.read_table(inputs.thresholds).to_pandas(),
        benchmarks=_benchmarks(inputs.benchmarks, [stage.name for stage in recipe.stages]),
        submission=_submission(inputs.submission),
        empty=_empty(inputs, samples),
        mosaics=_mosaics(inputs.mosaics, samples),
        jigsaw=_optional(inputs.jigsaw, tables.JIGSAW),
        effects=_optional(inputs.jigsaw_effects, tables.JIGSAW_EFFECTS),
    )


def foreground_share(coverage: Sequence[float] | None, single: bool) -> float:
    """Share of foreground pixels from the shares per class; not a number without a mask.

    Several classes have no background by nature, so all but class 0 count.
    """
    if coverage is None:
        return float("nan")
    return float(coverage[0] if single else sum(coverage[1:]))


def _samples(table: pa.Table, folds: Path) -> pd.DataFrame:
    samples = table.to_pandas()
    widest = max((len(share) for share in samples["coverage"] if share is not None), default=1)
    samples["foreground"] = [foreground_share(share, widest == 1) for share in samples["coverage"]]
    return samples.merge(artefacts.read_table(folds).to_pandas(), on="sample_id", how="left")


def _history(paths: Sequence[Path], recipe: Recipe) -> pd.DataFrame:
    """All histories in the order of the recipe; a phase starts where the longest fold of the one before ended."""
    whole = _whole(paths, tables.HISTORY)
    parts = [whole.iloc[:0].assign(position=0)]
    for stage in recipe.stages:
        for name, run in stage.runs.items():
            start = 0
            for phase in run.phases:
                own = (whole["stage"] == stage.name) & (whole["run"] == name) & (whole["phase"] == phase.name)
                part = whole[own].sort_values(["fold", "epoch"])
                parts.append(part.assign(position=part["epoch"] + start))
                start += int(part["epoch"].max()) + 1 if len(part) else 0
    return pd.concat([part for part in parts if len(part)] or parts[:1], ignore_index=True)


def _whole(paths: Sequence[Path], schema: pa.Schema) -> pd.DataFrame:
    """Tables of a schema one after another."""
    # Those that an earlier version wrote may lack a column.
    frames = [artefacts.read_table(path).to_pandas().reindex(columns=schema.names) for path in paths]
    return pd.concat(frames or [schema.empty_table().to_pandas()], ignore_index=True)


def _counting(rows: pd.DataFrame, single: bool) -> pd.DataFrame:
    """Rows whose score says something: an empty mask is a prediction of a single class alone."""
    return rows if single else rows[rows["run"] != ALL_EMPTY].reset_index(drop=True)


def _cases(paths: Sequence[Path], single: bool) -> pd.DataFrame:
    cases = _counting(_whole(paths, tables.CASES), single)
    edges = [low for low, _ in COVERAGE_BINS.values()] + [1.0 + 1e-6]
    cases["bin"] = pd.cut(cases["coverage"].astype(float), edges, labels=list(COVERAGE_BINS))
    return cases


def _pseudolabels(paths: Mapping[str, Path], classes: list[str]) -> pd.DataFrame:
    rows: list[dict[str, Any]] = []
    for owner, path in paths.items():
        for batch in artefacts.iterate_table(path, ["sample_id", "confidence", "folds", "lengths", "values"]):
            for row in batch.to_pylist():
                row |= dict(zip(classes, class_shares(row.pop("lengths"), row.pop("values"), classes), strict=True))
                rows.append({"owner": owner, **row})
    return pd.DataFrame(rows, columns=["owner", "sample_id", "confidence", "folds", *classes])


def class_shares(lengths: Sequence[int], values: Sequence[int], classes: Sequence[str]) -> NDArray[np.float64]:
    """Share of pixels of every class in a mask of runs; of a single class the share of foreground."""
    known = max(2, len(classes))
    pixels = np.bincount(np.asarray(values, np.int64), weights=np.asarray(lengths, np.float64), minlength=known)
    shares = pixels / max(pixels.sum(), 1.0)
    return shares[1:2] if len(classes) == 1 else shares[: len(classes)]


def _benchmarks(paths: Sequence[Path], stages: Sequence[str]) -> pd.DataFrame:
    columns = ["rule", "stage", "s", "max_rss", "cpu_time"]
    frames = []
    for path in sorted(paths):
        rule, stage = rule_and_stage(path, stages)
        frame = pd.read_csv(path, sep="\t", na_values=["-", "NA"]).reindex(columns=columns[2:])
        frames.append(frame.astype(float).assign(rule=rule, stage=stage)[columns])
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=columns)


def rule_and_stage(path: Path, stages: Sequence[str]) -> tuple[str, str]:
    """Rule (first part below `benchmarks`) and stage (first part that is a stage's name) of a benchmark file."""
    parts = list(path.with_suffix("").parts)
    below = parts[len(parts) - parts[::-1].index("benchmarks") :] if "benchmarks" in parts else parts[-2:]
    return below[0], next((part for part in below[1:] if part in stages), "")


def _optional(path: Path | None, schema: pa.Schema) -> pd.DataFrame:
    """A table of a step that the recipe may lack; without a path one without rows."""
    return (schema.empty_table() if path is None else artefacts.read_table(path)).to_pandas()


def _empty(inputs: ReportInputs, samples: pd.DataFrame) -> set[str]:
    """Black images, and what another blend finds empty, where the recipe says so."""
    rule = inputs.recipe.submission
    black = set(samples.loc[samples["black"], "sample_id"]) if rule.black_is_empty else set()
    decided = (empty_masks(path, rule.emptiness) for path in inputs.emptiness) if rule.emptiness else ()
    return black.union(*decided)


def _mosaics(path: Path | None, samples: pd.DataFrame) -> pd.DataFrame:
    """Tiles of all mosaics with `labelled`; a tile that is no sample (any more) leaves a hole."""
    tiles = _optional(path, tables.MOSAICS)
    known = samples.set_index("sample_id")["empty"].notna()
    tiles = tiles[tiles["sample_id"].isin(known.index)]
    return tiles.assign(labelled=known.reindex(tiles["sample_id"]).to_numpy(bool)).reset_index(drop=True)


def _submission(path: Path) -> dict[str, int]:
    if path.suffix == ".json":
        return {"rows": len(json.loads(path.read_text()))}
    rows = pd.read_csv(path, dtype=str)
    found = {"rows": len(rows)}
    if rows.shape[1] == 2:
        found["empty"] = int((rows.iloc[:, 1].isna() | (rows.iloc[:, 1] == "-1")).sum())
    return found
