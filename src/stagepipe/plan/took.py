"""What the jobs of a run took: Snakemake's benchmark files, and how many images the histories were trained on."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from stagepipe.plan.jobs import Job
from stagepipe.recipe.model import Recipe
from stagepipe.report.collect import rule_and_stage

Place = tuple[str, str]
"""stage (or `data`, `submission`) and rule"""


@dataclass
class Took:
    """The finished jobs of a rule and stage that left a record."""

    jobs: int = 0
    seconds: float = 0.0
    memory: float = 0.0
    """peak of one of them in bytes, of the host"""
    train: int = 0
    """images trained on"""


def took(recipe: Recipe, jobs: Iterable[Job], folder: Path = Path()) -> dict[Place, Took]:
    """What is recorded below `folder`/results/<name>, by stage and rule; empty before a run.

    A job that was stopped and went on has a record of its last part alone.
    """
    results = folder / "results" / recipe.name
    stages = [stage.name for stage in recipe.stages]
    known = {(job.stage, job.rule) for job in jobs}
    outside = {rule: stage for stage, rule in known if stage not in stages}
    found: dict[Place, Took] = defaultdict(Took)
    for path in sorted((results / "benchmarks").rglob("*.tsv")):
        rule, stage = rule_and_stage(path, stages)
        place = stage or outside.get(rule, ""), rule
        if place not in known:
            continue  # of a recipe that had this job once
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file, delimiter="\t"):
                one = found[place]
                one.jobs += 1
                one.seconds += float(row["s"])
                one.memory = max(one.memory, _number(row["max_rss"]) * 2**20)
    for path in results.glob("*/*/*/fold_*/history.parquet"):
        stage = path.relative_to(results).parts[0]
        if stage in stages:
            found[stage, "train"].train += _images(path)
    return dict(found)


def _number(text: str) -> float:
    """A number of a benchmark file; 0 where nothing could be measured (`-`, `NA`)."""
    try:
        return float(text)
    except ValueError:
        return 0.0


def _images(history: Path) -> int:
    from stagepipe.artefacts import read_table

    return int(sum(read_table(history, ["images"])["images"].to_pylist()))
