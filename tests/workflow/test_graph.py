"""The graph of jobs: what a target needs, how fast a large recipe is read, and the files around it."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml
from project import CHECKOUT, Project, jobs

from stagepipe import code
from stagepipe.artefacts import Provenance, save_weights, write_table
from stagepipe.workflow import FROZEN, Plan, plan


def test_a_stage_is_a_target_that_needs_nothing_of_later_ones(empty):
    first = jobs(
        "synthesise", "ingest", "split_folds", "train/stage1/tiny/first/fold_{0,1}", "predict/stage1/tiny/fold_{0,1}"
    )
    assert empty.plan("stage1") == first | jobs("ensemble/stage1/{out_of_fold,test}", "score/stage1")
    second = jobs(
        "ensemble/stage1/test",
        "select_pseudolabels/stage2",
        "train/stage2/tiny/{pretrain/fold_shared,finetune/fold_0,finetune/fold_1}",
        "predict/stage2/tiny/fold_{0,1}",
        "ensemble/stage2/{out_of_fold,test}",
        "score/stage2",
    )
    assert empty.plan("stage2") == first | second


def test_only_what_starts_from_weights_reads_them(empty):
    """Snakemake hashes every input of a job once for each output: large ones belong to rules with few of them."""
    commands = empty.shell_commands()
    assert {job.split("/")[0] for job, command in commands.items() if ".safetensors" in command} == {"train", "predict"}
    assert "report" in commands


# ------------------------------------------------------------------------------------------------------- a large recipe


def runs(*phases: dict[str, Any]) -> dict[str, Any]:
    return {f"run{number}": {"network": "resnet18", "phases": list(phases)} for number in range(4)}


def large_recipe() -> dict[str, Any]:
    """Five folds, three stages of four runs: 187 jobs."""
    labels = [{"name": name, "loss": "bce", "epochs": 10} for name in ("first", "second", "third")]
    shared = {"name": "pretrain", "data": "pseudolabels", "folds": "shared", "loss": "bce", "epochs": 10}
    finetune = {"name": "finetune", "loss": "lovasz_hinge", "epochs": 10}
    return {
        "name": "tiny",
        "dataset": {"format": "synthetic"},
        "networks": {"resnet18": {"encoder": "resnet18"}},
        "stages": [
            {"name": "stage1", "runs": runs(*labels), "ensemble": {"run0": 1, "run1": 1, "run2": 1, "run3": 1}},
            {"name": "stage2", "pseudolabels": {"stage": "stage1"}, "runs": runs(shared, finetune)},
            {"name": "stage3", "pseudolabels": {"stage": "stage2"}, "runs": runs(shared, finetune)},
        ],
        "submission": {"blend": {"stage2": 0.5, "stage3": 0.5}},
    }


def make_up(made: Plan) -> None:
    """Every output of a recipe, as small as it gets, with the provenance that the real one would have."""
    import torch

    for path, (rule, part) in made.parts.items():
        provenance = Provenance(part.fingerprint(), {}, code.fingerprint(made.script(rule)))
        if path.endswith(".parquet"):
            write_table(path, pa.table({"value": [1]}), provenance)
        else:
            save_weights(path, {"0": {"value": torch.zeros(1)}}, provenance)
    names = [
        "data/pixels.bin",
        "data/raw.sha256",
        "submission/threshold.json",
        "submission.csv",
        "scores.csv",
        "report.html",
    ]
    pictures = [
        "data_overview",
        "fold_balance",
        "learning_curves",
        "pseudolabels",
        "scores",
        "thresholds",
        "cases",
        "cost",
    ]
    for name in [*names, *(f"report/{picture}.png" for picture in pictures)]:
        (made.results / name).parent.mkdir(parents=True, exist_ok=True)
        (made.results / name).write_text(name, encoding="utf-8")
    (made.results / "raw").mkdir()


@pytest.fixture(scope="module")
def large(empty, tmp_path_factory) -> Project:
    """A large recipe in an empty folder."""
    base = tmp_path_factory.mktemp("large")
    (base / "folder").mkdir()
    project = Project(empty.checkout, base / "folder", empty.recipe)
    return project.with_recipe(yaml.safe_dump(large_recipe()), base / "large.yaml")


@pytest.fixture
def made(large, monkeypatch) -> Project:
    """A large recipe with all its outputs there, without the days of training."""
    if not (large.results / "submission.csv").exists():
        monkeypatch.setenv(FROZEN, "")
        monkeypatch.chdir(large.folder)
        make_up(plan([large.recipe], {}, large.checkout))
        done = large.snakemake("--touch", "--cores", "1")
        assert done.returncode == 0, done.stdout
    return large


def timed(project: Project, what: str) -> subprocess.CompletedProcess[str]:
    """A dry run; prints what it took (pytest -s shows it)."""
    before, began = os.times(), time.monotonic()
    done = project.snakemake("--cores", "1", "--dry-run")
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    print(f"\n{what}: {time.monotonic() - began:.1f} s, of which {cpu:.1f} s on the CPU")  # noqa: T201
    return done


def test_a_large_recipe_is_planned_from_nothing(large):
    done = timed(large, "187 jobs from nothing")
    assert done.returncode == 0, done.stdout
    assert len(large.plan()) == 187


def test_a_large_recipe_with_nothing_to_do(made):
    done = timed(made, "187 jobs, nothing to be done")
    assert "Nothing to be done" in done.stdout
    assert "other code" not in done.stdout


def test_a_run_without_weight_takes_no_part(made, tmp_path):
    again = jobs(
        "ensemble/stage1/{out_of_fold,test}",
        "score/stage1",
        "select_pseudolabels/stage{2,3}",
        "train/stage{2,3}/run{0,1,2,3}/pretrain/fold_shared",
        "train/stage{2,3}/run{0,1,2,3}/finetune/fold_{0,1,2,3,4}",
        "predict/stage{2,3}/run{0,1,2,3}/fold_{0,1,2,3,4}",
        "ensemble/stage{2,3}/out_of_fold",
        "ensemble/stage2/test",
        "score/stage{2,3}",
        "blend/{out_of_fold,test}",
        "binarise",
        "submit",
        "collect_scores",
        "report",
    )
    changes = {"stages": [{"name": "stage1", "ensemble": {"run0": 1, "run1": 1, "run2": 1}}]}
    assert made.with_changes(changes, tmp_path / "weights.yaml").plan() == again


def test_weights_of_the_blended_stages_train_nothing(made, tmp_path):
    changes = {"stages": [{"name": "stage3", "ensemble": {"run0": 3, "run1": 1, "run2": 1, "run3": 1}}]}
    planned = made.with_changes(changes, tmp_path / "weights.yaml").plan()
    end = jobs("blend/{out_of_fold,test}", "binarise", "submit", "collect_scores", "report")
    assert planned == end | jobs("ensemble/stage3/out_of_fold", "score/stage3")


def test_no_command_of_a_large_recipe_is_too_long_for_the_shell(large):
    # Linux refuses a single argument of 128 KiB, and `bash -c` takes the command as one.
    assert max(map(len, large.shell_commands().values())) < 100_000


def test_the_graph_is_read_without_torch_and_opencv():
    heavy = "{'torch', 'cv2', 'pandas', 'albumentations', 'segmentation_models_pytorch', 'matplotlib', 'sklearn'}"
    words = f"import sys, stagepipe.workflow; print(*({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


# ------------------------------------------------------------------------------------------------------------- profiles


def profile(name: str) -> dict[str, Any]:
    return yaml.safe_load((CHECKOUT / "profiles" / name / "config.yaml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", ["workstation", "slurm"])
def test_no_profile_sets_what_the_default_profile_would_override(name):
    assert not set(profile(name)) & set(profile("default"))


def test_a_cluster_has_no_limit_on_gpu_jobs_and_a_workstation_has():
    # `gpu` counts over all jobs: a limit of 1 would run a cluster's jobs one after the other.
    assert "resources" not in profile("slurm")
    assert "gpu=1" in profile("workstation")["resources"]


def test_the_workstation_profile_runs(empty):
    done = empty.snakemake("--dry-run", "--profile", str(empty.checkout / "profiles" / "workstation"))
    assert done.returncode == 0, done.stdout


# ----------------------------------------------------------------------------------------------------------------- lint


def test_snakemake_finds_nothing_to_lint(empty):
    done = empty.snakemake("--lint")
    assert done.returncode == 0, done.stdout


def test_snakefiles_are_formatted():
    snakefmt = Path(sys.executable).with_name("snakefmt")
    done = subprocess.run(
        [snakefmt, "--check", "Snakefile", "workflow"], cwd=CHECKOUT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
