"""What a change makes Snakemake run again: exactly what it reaches, and for most changes nothing."""

import os
import re
import subprocess
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from project import TINY, Project, jobs, tree

from stagepipe.artefacts import metadata
from stagepipe.recipe.load import load

FOLDS = jobs("split_folds")
STAGE1 = jobs("train/stage1/tiny/first/fold_{0,1}")
PREDICT1 = jobs("predict/stage1/tiny/fold_{0,1}", "ensemble/stage1/{out_of_fold,test}", "score/stage1")
SELECT = jobs("select_pseudolabels/stage2")
STAGE2 = jobs("train/stage2/tiny/{pretrain/fold_shared,finetune/fold_0,finetune/fold_1}")
FINETUNE2 = jobs("train/stage2/tiny/finetune/fold_{0,1}")
PREDICT2 = jobs("predict/stage2/tiny/fold_{0,1}", "ensemble/stage2/out_of_fold", "score/stage2")
STAGE3 = jobs("train/stage3/tiny/first/fold_{0,1}")
PREDICT3 = jobs("predict/stage3/tiny/fold_{0,1}", "ensemble/stage3/out_of_fold", "score/stage3")
BLEND = jobs("blend/{out_of_fold,test}")
END = jobs("binarise", "submit", "collect_scores", "report")

FROM_STAGE3 = STAGE3 | PREDICT3 | BLEND | END
FROM_STAGE2 = STAGE2 | PREDICT2 | FROM_STAGE3
FROM_STAGE1 = STAGE1 | PREDICT1 | SELECT | FROM_STAGE2


def phase(stage: str, name: str, **keys: Any) -> dict[str, Any]:
    """Overlay on one phase."""
    return {"stages": [{"name": stage, "runs": {"tiny": {"phases": [{"name": name, **keys}]}}}]}


def stage(name: str, **keys: Any) -> dict[str, Any]:
    return {"stages": [{"name": name, **keys}]}


# Overlay on the recipe, and the jobs it makes anew.
CHANGES: dict[str, tuple[dict[str, Any], set[str]]] = {
    "learning rate of the last phase": (phase("stage3", "first", lr=5e-4), FROM_STAGE3),
    "a phase in the middle": (phase("stage2", "finetune", epochs=2), FINETUNE2 | PREDICT2 | FROM_STAGE3),
    "one loss weight of stage 1": (phase("stage1", "first", loss={"dice": 0.5}), FROM_STAGE1),
    "one augmentation of stage 1": (phase("stage1", "first", augment="none"), FROM_STAGE1),
    "pseudolabels' minimum confidence": (
        stage("stage2", pseudolabels={"minimum_confidence": 0.5}),
        SELECT | FROM_STAGE2,
    ),
    "weight of a member": (phase("stage2", "finetune", member=0.5), PREDICT2 | BLEND | END),
    "views of the last stage": (stage("stage3", tta=["vflip"]), PREDICT3 | BLEND | END),
    "views of the stage that labels": (stage("stage1", tta=["vflip"]), PREDICT1 | SELECT | FROM_STAGE2),
    "blend": ({"submission": {"blend": {"stage2": 0.25, "stage3": 0.75}}}, BLEND | END),
    "threshold": ({"submission": {"threshold": {"value": 0.5}}}, END),
    "postprocessing": ({"submission": {"postprocess": [{"minimum_size": {"pixels": 9}}]}}, END),
    "split": ({"folds": {"seed": 1}}, FOLDS | FROM_STAGE1),
    "seed": ({"seed": 1}, FROM_STAGE1),
    "data": ({"dataset": {"synthetic": {"seed": 1}}}, jobs("synthesise", "ingest") | FOLDS | FROM_STAGE1),
    "loader workers": ({"runtime": {"workers": 2}}, set()),
    "device and precision": ({"runtime": {"device": "cpu", "precision": "fp32", "deterministic": True}}, set()),
    "what happens to older code": ({"code": "rerun"}, set()),
}


def reversed_keys(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: reversed_keys(inner) for key, inner in reversed(value.items())}
    return [reversed_keys(inner) for inner in value] if isinstance(value, list) else value


# Other words for the same recipe.
SAME = {
    "a comment": "# better than the last one\n" + TINY.read_text(encoding="utf-8"),
    "keys in reverse": yaml.safe_dump(reversed_keys(tree()), sort_keys=False),
    "keys sorted": yaml.safe_dump(tree(), sort_keys=True),
    "defaults written out": yaml.safe_dump(load(TINY).model_dump(mode="json")),
}


@pytest.fixture(scope="module")
def plans(finished, tmp_path_factory) -> Iterator[dict[str, Future[set[str]]]]:
    """Dry runs of all changed recipes, two at a time."""
    folder = tmp_path_factory.mktemp("recipes")
    projects = {
        name: finished.with_changes(changes, folder / f"change_{number}.yaml")
        for number, (name, (changes, _)) in enumerate(CHANGES.items())
    }
    for number, (name, text) in enumerate(SAME.items()):
        projects[name] = finished.with_recipe(text, folder / f"same_{number}.yaml")
    with ThreadPoolExecutor(2) as pool:
        yield {name: pool.submit(project.plan) for name, project in projects.items()}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_makes_anew_exactly_what_it_reaches(plans, name):
    assert plans[name].result() == CHANGES[name][1]


@pytest.mark.parametrize("name", SAME)
def test_the_same_recipe_in_other_words_makes_nothing_anew(plans, name):
    assert plans[name].result() == set()


# --------------------------------------------------------------------------------------------------- files and checkout


def touch(files: list[Path]) -> None:
    """Give files times of their own, in the order of the list."""
    for second, path in enumerate(files):
        os.utime(path, (1_600_000_000 + second, 1_600_000_000 + second))


@pytest.mark.parametrize("newest", ["results", "checkout", "oldest results"])
def test_a_touch_of_every_file_makes_nothing_anew(copy, tmp_path, newest):
    project = copy.with_checkout(tmp_path / "checkout")
    results = sorted((path for path in project.results.rglob("*")), key=lambda path: path.stat().st_mtime_ns)
    sources = sorted(project.checkout.rglob("*"))
    orders = {
        "results": [*sources, *results],
        "checkout": [*results, *sources],
        "oldest results": [*sources, *reversed(results)],  # every input is newer than what was made of it
    }
    touch(orders[newest])
    assert project.plan() == set()


def test_a_fresh_checkout_makes_nothing_anew(copy, tmp_path):
    assert copy.with_checkout(tmp_path / "checkout").plan() == set()


LOSSES = "losses/total.py"
# Edits that are none of its code: a comment, a docstring, layout.
WORDS = [
    ("\nimport torch\n", "\nimport torch  # the one we know\n"),
    ('"""', '"""Once more: '),
    ("\n\n\n", "\n\n\n\n\n"),
]


@pytest.mark.parametrize("code", ["warn", "rerun"])
def test_words_in_the_code_make_nothing_anew(finished, tmp_path, code):
    project = finished.with_checkout(tmp_path / "checkout")
    for old, new in WORDS:
        project.edit(LOSSES, old, new)
    done = project.dry_run("--config", f"code={code}")
    assert "Nothing to be done" in done.stdout
    assert "other code" not in done.stdout


@pytest.fixture
def other_losses(copy, tmp_path) -> Project:
    """A finished project in whose checkout a loss has changed."""
    project = copy.with_checkout(tmp_path / "checkout")
    project.edit(LOSSES, "import torch\n", "import torch\n\nEXTRA = 1\n")
    return project


def test_other_code_is_named_and_makes_nothing_anew(other_losses):
    done = other_losses.dry_run()
    assert "Nothing to be done" in done.stdout
    (warning,) = re.findall("artefacts made by other code than today's: (.*)", done.stdout)
    assert "4 of stage1 (train)" in warning
    assert "6 of stage2 (train)" in warning
    assert "4 of stage3 (train)" in warning
    assert not re.search(r"of (data|submission)|ensemble|select_pseudolabels", warning)
    assert "write `code: rerun`" in warning


def test_other_code_trains_anew_where_the_recipe_says_so(other_losses):
    assert other_losses.plan("--config", "code=rerun") == FROM_STAGE1
    # Also if it was seen, and kept, before.
    other_losses.dry_run()
    assert other_losses.plan("--config", "code=rerun") == FROM_STAGE1


def test_training_anew_does_not_take_the_old_state_for_its_own(other_losses):
    weights = "results/tiny/stage1/tiny/first/fold_0/weights.safetensors"
    before = metadata(other_losses.folder / weights)["code"]
    done = other_losses.snakemake(weights, "--cores", "1", "--config", "code=rerun")
    assert done.returncode == 0, done.stdout
    assert "epoch 1 of 2" in done.stdout
    assert metadata(other_losses.folder / weights)["code"] != before


# ------------------------------------------------------------------------------------------------------------- raw data


@pytest.fixture
def raw(finished, tmp_path) -> Project:
    """A project on raw files of the user's own, ingested and split."""
    (tmp_path / "folder").mkdir()
    subprocess.run(["cp", "-a", finished.results / "raw", tmp_path / "folder" / "raw"], check=True)
    recipe = tree() | {"dataset": {"format": "tgs", "root": "raw"}}
    project = replace(finished, folder=tmp_path / "folder").with_recipe(yaml.safe_dump(recipe), tmp_path / "raw.yaml")
    done = project.snakemake("results/tiny/data/folds.parquet", "--cores", "1")
    assert done.returncode == 0, done.stdout
    return project


def test_raw_files_are_compared_by_name_size_and_tables_by_content(raw):
    target = "results/tiny/data/folds.parquet"
    files = sorted((raw.folder / "raw").rglob("*"))
    touch(files)
    assert raw.plan(target) == set()
    for path in files:
        os.utime(path)
    assert raw.plan(target) == set()
    depths = raw.folder / "raw" / "depths.csv"
    text = depths.read_text(encoding="utf-8")
    depths.write_text(text.replace("1", "2", 1), encoding="utf-8")
    assert raw.plan(target) == jobs("ingest") | FOLDS
    depths.write_text(text, encoding="utf-8")
    assert raw.plan(target) == set()
    image = next((raw.folder / "raw" / "test" / "images").iterdir())
    image.with_name("another.png").write_bytes(image.read_bytes())
    assert raw.plan(target) == jobs("ingest") | FOLDS
