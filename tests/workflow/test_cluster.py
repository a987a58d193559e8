"""What a cluster's jobs ask for, and what becomes of them when Snakemake is gone; on a real cluster: test_slurm.py."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from project import CHECKOUT

from stagepipe import slurm

RULES = {
    name: body
    for file in sorted((CHECKOUT / "workflow" / "rules").glob("*.smk"))
    for name, body in re.findall(r"^ *rule (\w+):\n(.*?)(?=^ *rule |\Z)", file.read_text(), re.MULTILINE | re.DOTALL)
}
GPU_RULES = {"train", "predict"}

# ------------------------------------------------------------------------------------------------------------- profile


@pytest.fixture(scope="module")
def profile() -> dict:
    return yaml.safe_load((CHECKOUT / "profiles" / "slurm" / "config.yaml").read_text(encoding="utf-8"))


def test_only_training_and_prediction_hold_a_gpu_and_all_else_runs_in_groups(profile):
    assert {name for name, body in RULES.items() if " gpu=1," in body} == GPU_RULES
    grouped = dict(group.split("=") for group in profile["groups"])
    assert grouped.keys() == RULES.keys() - GPU_RULES


@pytest.mark.parametrize("name", RULES)
def test_every_rule_says_what_memory_and_time_it_needs(name):
    assert re.search(r" mem_mb=by_attempt\(\d+\),", RULES[name])
    # A training is not given more time but goes on in another job.
    assert re.search(r" runtime=24 \* 60," if name == "train" else r" runtime=by_attempt\([\d *]+\),", RULES[name])


def test_the_profile_plans_groups_of_jobs_without_a_cluster(empty):
    done = empty.snakemake("--dry-run", "--profile", str(empty.checkout / "profiles" / "slurm"))
    assert done.returncode == 0, done.stdout
    groups = re.findall(r"Group job (\w+) ", done.stdout)
    assert {group: groups.count(group) for group in set(groups)} == {"data": 1, "average": 4, "submission": 1}


SLURM = {  # it takes every job, and each fails
    "sbatch": 'echo "$@" >> "$ASKED"; echo 1',
    "squeue": 'echo "1|FAILED"',
    "scontrol": 'echo "MinJobAge = 300 sec"',
} | dict.fromkeys(["sinfo", "sacct", "sacctmgr", "sshare", "scancel"], "exit 0")


def test_a_training_asks_for_what_rule_and_site_say_and_for_more_memory_when_it_is_tried_again(copy, tmp_path):
    text = (CHECKOUT / "profiles" / "slurm" / "config.yaml").read_text(encoding="utf-8")
    head, site, rest = re.split(r"^# -{20,}.*\n", text, flags=re.MULTILINE)
    settings = re.sub(r"^#(?! Remove)", "", site, flags=re.MULTILINE)
    (tmp_path / "config.yaml").write_text(head + settings + rest, encoding="utf-8")
    programs = tmp_path / "programs"
    programs.mkdir()
    for name, body in SLURM.items():
        (programs / name).write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
        (programs / name).chmod(0o755)
    target = "stage1/tiny/first/fold_0/weights.safetensors"
    (copy.results / target).unlink()
    path = os.pathsep.join([str(programs), copy.environment()["PATH"]])
    words = ("--profile", str(tmp_path), "--retries", "1", "--slurm-init-seconds-before-status-checks", "1")
    done = copy.snakemake(f"results/tiny/{target}", *words, PATH=path, ASKED=str(tmp_path / "asked"))
    assert done.returncode != 0
    assert (tmp_path / "asked").exists(), done.stdout[-1500:]
    first, second = re.findall(r"^--parsable.*", (tmp_path / "asked").read_text(encoding="utf-8"), re.MULTILINE)
    for asked, memory in ((first, 16000), (second, 32000)):
        said = " -A my_account -p my_gpu_partition -t 240 ", f" --mem {memory} ", " --cpus-per-task=8 ", "--gpus=a100:1"
        assert [words for words in (*said, " --requeue ", " --signal=USR1@300 ") if words not in asked] == [], asked


# ------------------------------------------------------------------------------------------ jobs that lost their driver


def test_a_job_of_a_run_that_was_replaced_does_nothing(empty, tmp_path):
    project = empty.copy(tmp_path / "folder")
    old = project.begin()
    assert project.dry_run(STAGEPIPE_FROZEN_RECIPE=old).returncode == 0
    new = project.begin()
    before = {path: path.stat().st_mtime_ns for path in project.results.rglob("*")}
    done = project.snakemake("--cores", "1", STAGEPIPE_FROZEN_RECIPE=old)
    assert done.returncode != 0
    assert "sent by a run of Snakemake that has ended; a later one does its work" in done.stdout
    assert "Traceback" not in done.stdout
    assert {path: path.stat().st_mtime_ns for path in project.results.rglob("*")} == before
    assert project.dry_run(STAGEPIPE_FROZEN_RECIPE=new).returncode == 0


def test_a_dry_run_beside_a_run_disowns_no_job(empty, tmp_path):
    project = empty.copy(tmp_path / "folder")
    running = project.begin()
    project.dry_run()
    assert project.dry_run(STAGEPIPE_FROZEN_RECIPE=running).returncode == 0


WORK = """
import sys, time
from stagepipe import script
from stagepipe.artefacts import write_table
from stagepipe.recipe.averages import EnsemblePart
import pyarrow as pa
work = script.start("Test.", EnsemblePart, inputs=["tables"], outputs=["table"])
print("begins", flush=True)
sys.stdin.readline()
write_table(work.path("table"), pa.table({"x": [1]}), work.provenance)
"""
PART = json.dumps({"runs": [{"weight": 1}], "split": "test"})


def work(folder: Path, log: str, part: str = PART) -> subprocess.Popen[str]:
    words = ["--part", part, "--table", "table.parquet", "--state", "state", "--log", log]
    streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    return subprocess.Popen([sys.executable, "-c", WORK, *words], cwd=folder, text=True, **streams)


def wait_for(log: Path, text: str) -> None:
    end = time.monotonic() + 60
    while not (log.exists() and text in log.read_text(encoding="utf-8")):
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize("ending", ["done", "killed"])
def test_two_jobs_never_do_the_same_work_at_once(ending, tmp_path):
    first = work(tmp_path, "first.log")
    assert first.stdout.readline() == "begins\n"
    second = work(tmp_path, "second.log")
    wait_for(tmp_path / "second.log", "still works here; waiting for it to end")
    if ending == "done":
        first.communicate("\n")
        assert second.communicate("\n")[0] == ""  # nothing was left to do
        assert "it has made all" in (tmp_path / "second.log").read_text(encoding="utf-8")
    else:
        first.kill()
        first.communicate()
        assert second.communicate("\n")[0] == "begins\n"
    assert second.returncode == 0
    assert (tmp_path / "table.parquet").exists()


def test_jobs_of_other_parts_do_not_wait_for_each_other(tmp_path):
    first = work(tmp_path, "first.log")
    assert first.stdout.readline() == "begins\n"
    other = work(tmp_path, "other.log", PART.replace("test", "out_of_fold"))
    assert other.communicate("\n")[0] == "begins\n"
    first.communicate("\n")


# ------------------------------------------------------------------------------------------------------- time limit


@pytest.fixture
def scontrol(tmp_path, monkeypatch):
    """A program of that name that notes what it is asked, and fails where the file `refuse` is there."""
    program = tmp_path / "scontrol"
    program.write_text('#!/bin/sh\necho "$@" >> asked\n[ ! -e refuse ] || { echo "not allowed" >&2; exit 1; }\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_job_of_slurm_is_queued_again(scontrol, monkeypatch, caplog):
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    slurm.queue_again()
    assert (scontrol / "asked").read_text() == "requeue 17\n"
    assert "SLURM queues job 17 again" in caplog.text


def test_a_site_that_forbids_it_is_heard(scontrol, monkeypatch, caplog):
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    (scontrol / "refuse").touch()
    slurm.queue_again()
    assert "SLURM does not queue job 17 again: not allowed" in caplog.text


def test_without_slurm_nothing_is_asked(scontrol, monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    slurm.queue_again()
    assert not (scontrol / "asked").exists()
