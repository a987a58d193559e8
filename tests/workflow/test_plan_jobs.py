"""The plan beside Snakemake: as many jobs by rule as a dry run has, and what a run then leaves behind."""

import re
from collections import Counter
from dataclasses import replace

import pytest
from project import Project

from stagepipe.plan import Options, plan, summary
from stagepipe.plan.jobs import jobs
from stagepipe.recipe.load import load

RECIPES, OVERLAYS = "config/recipes", "config/overlays"
LAYERS = {
    "the built-in recipe": ["config/config.yaml"],
    "tgs_salt_1st": [f"{RECIPES}/tgs_salt_1st.yaml", f"{OVERLAYS}/synthetic.yaml"],
    "tgs_salt_5th": [f"{RECIPES}/tgs_salt_5th.yaml", f"{OVERLAYS}/synthetic.yaml"],
    "siim_pneumothorax_1st": [
        f"{RECIPES}/siim_pneumothorax_1st.yaml", f"{OVERLAYS}/synthetic_siim.yaml", f"{OVERLAYS}/siim_search.yaml",
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", LAYERS)
def test_jobs_by_rule_are_those_of_a_dry_run(empty: Project, name):
    recipe, *overlays = (empty.checkout / layer for layer in LAYERS[name])
    shown = replace(empty, recipe=recipe, overlays=tuple(overlays)).dry_run().stdout
    counted = {rule: int(count) for rule, count in re.findall(r"^(\w+) +(\d+)$", shown, flags=re.MULTILINE)}
    planned = Counter(job.rule for job in jobs(load(recipe, overlays)))
    assert planned == {rule: count for rule, count in counted.items() if rule not in ("all", "total")}


def test_a_finished_run_stands_beside_its_plan(finished: Project):
    recipe = load(finished.recipe)
    made = plan(recipe, Options(device="GTX 1080 Ti"), finished.folder)
    assert made.images.source.endswith("results/tiny/data/samples.parquet")
    for line in summary.lines(made):
        assert line.took and line.took.jobs == line.jobs and line.took.seconds > 0
        labels = all(phase.data == "labels" for stage in recipe.stages for phase in stage.runs["tiny"].phases
                     if stage.name == line.stage)  # fmt: skip
        if line.rule == "train" and labels:
            assert line.took.train == line.train
