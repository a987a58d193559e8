"""The jobs that a recipe comes to, one for one those of the Snakefile, without Snakemake and without data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import PurePosixPath

from stagepipe.recipe.graph import artefacts
from stagepipe.recipe.model import Recipe
from stagepipe.recipe.part import Part
from stagepipe.recipe.parts import collect_part, pseudolabel_sets, report_part, synthesise_part
from stagepipe.recipe.submission_parts import submit_part

ON_A_GPU = ("train", "predict")
"""rules whose jobs hold a GPU, where there is one"""
DATA, SUBMISSION = "data", "submission"
"""what comes before and after the stages, named by the folders of its artefacts"""


@dataclass(frozen=True)
class Job:
    """One job of the workflow."""

    rule: str
    stage: str
    """a stage of the recipe, `data` or `submission`"""
    part: Part
    """what of the recipe reaches it"""


def jobs(recipe: Recipe) -> list[Job]:
    """Every job that `snakemake all` runs where nothing is made yet, in the order of the recipe."""
    found = [Job("synthesise", DATA, synthesise_part(recipe))] if recipe.dataset.generated else []
    found += list(_sealing(recipe))
    found += [
        Job("submit", SUBMISSION, submit_part(recipe)),
        Job("collect_scores", SUBMISSION, collect_part(recipe)),
        Job("report", SUBMISSION, report_part(recipe)),
    ]
    order = {name: position for position, name in enumerate([DATA, *(stage.name for stage in recipe.stages)])}
    return sorted(found, key=lambda job: order.get(job.stage, len(order)))


def _sealing(recipe: Recipe) -> Iterator[Job]:
    """Jobs that make sealed artefacts. Tables that one job writes together lie in one folder and are of one part."""
    stages = {stage.name for stage in recipe.stages}
    sources = {spec.stage for spec in pseudolabel_sets(recipe).values() if not spec.cross_fit}

    def place(artefact: tuple[str, str, Part]) -> tuple[str, str, str, Part]:
        script, path, part = artefact
        folder = str(PurePosixPath(path).parent)
        return _rule(script, folder), folder, path if script == "ensemble" else "", part

    for (rule, folder, table, part), _ in groupby(artefacts(recipe, ""), key=place):
        owner = folder.split("/")[0]
        stage = owner if owner in stages | {DATA} else SUBMISSION
        # Nobody asks for the averaged test predictions of a stage that no pseudolabels come from.
        if rule != "ensemble" or not table.endswith("/test.parquet") or owner in sources:
            yield Job(rule, stage, part)


def _rule(script: str, folder: str) -> str:
    """Rule by script and folder: the Snakefile has three that average tables with one script."""
    if script == "ensemble" and folder == "submission":
        return "blend"
    return "blend_emptiness" if script == "ensemble" and folder == "submission/emptiness" else script
