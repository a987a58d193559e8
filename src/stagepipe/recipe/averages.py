"""How probability tables are averaged: the runs of a stage, and the blends of a submission."""

from __future__ import annotations

from collections.abc import Mapping

from stagepipe.recipe.model import Recipe, Section, Stage
from stagepipe.recipe.part import Part

Blend = Mapping[str, float]
"""Shares of stages and of `stage/run`s, as a recipe gives them."""


class RunShare(Section):
    """One run in an average."""

    weight: float
    rescale: str = "none"


class EnsemblePart(Part):
    """For a job that averages the tables of several runs."""

    runs: list[RunShare]
    """in the order of the inputs"""
    split: str
    mean: str = "arithmetic"
    kept_classes: int | None = None
    """most probable classes of a pixel that tables keep; none: all"""


def run_weights(stage: Stage) -> dict[str, float]:
    """Share of each run with a weight in the stage's average, sorted by name; they sum to 1, so 1:1 and 2:2 agree."""
    ratios = stage.ensemble or dict.fromkeys(stage.runs, 1.0)
    total = sum(ratios.values())
    return {run: ratios[run] / total for run in sorted(stage.runs) if ratios.get(run, 0) > 0}


def stage_part(recipe: Recipe, stage: str, split: str) -> EnsemblePart:
    """How a stage averages its runs."""
    spec = recipe.stage(stage)
    shares = [RunShare(weight=weight, rescale=spec.runs[run].rescale) for run, weight in run_weights(spec).items()]
    return EnsemblePart(runs=shares, split=split, mean=spec.mean, kept_classes=recipe.kept_classes)


def submission_part(recipe: Recipe, split: str) -> EnsemblePart:
    """How the submission's blend is averaged; shares that are searched come from their own job."""
    part = blend_part(recipe, recipe.submission.blend, split)
    if recipe.submission.blend_search is None:
        return part
    return part.model_copy(update={"runs": [run.model_copy(update={"weight": 1.0}) for run in part.runs]})


def blend_part(recipe: Recipe, blend: Blend, split: str) -> EnsemblePart:
    """How a blend of stages and runs is averaged."""
    shares = [
        RunShare(weight=weight, rescale=recipe.stage(stage).runs[run].rescale)
        for (stage, run), weight in blend_weights(recipe, blend).items()
    ]
    return EnsemblePart(runs=shares, split=split, mean=recipe.submission.mean, kept_classes=recipe.kept_classes)


def blend_weights(recipe: Recipe, blend: Blend) -> dict[tuple[str, str], float]:
    """Share of every (stage, run) in a blend, sorted; a stage's share is split by its ensemble's ratios."""
    shares: dict[tuple[str, str], float] = {}
    for key, share in sorted(blend.items()):
        stage, _, run = key.partition("/")
        ratios = {run: 1.0} if run else run_weights(recipe.stage(stage))
        for name, ratio in ratios.items():
            shares[stage, name] = shares.get((stage, name), 0.0) + share * ratio
    return dict(sorted(shares.items()))
