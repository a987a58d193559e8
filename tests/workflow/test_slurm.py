"""The built-in recipe, small, on a real SLURM whose jobs are cancelled, run out of time and lose their node.

`bash tests/workflow/slurm` starts such a cluster, runs this and stops it again.
"""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from processes import command_line, kill, start
from project import CHECKOUT, FAST, Project, copy_checkout

pytestmark = pytest.mark.slurm

RECIPE = CHECKOUT / "config" / "config.yaml"
SMALL = Path(__file__).with_name("demo_small.yaml")
# Small numbers where a cluster has large ones: the node has two CPUs, and nobody waits for it.
PROFILE = (
    *("--profile", str(CHECKOUT / "profiles" / "slurm"), "--slurm-init-seconds-before-status-checks", "2"),
    *("--latency-wait", "10", "--set-threads", "train=1", "predict=1", "ingest=1"),
)


def slurm(*words: str) -> str:
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()


def until(true: Callable[[], object], what: str, seconds: float = 240) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"waited {seconds} s for {what}"
        time.sleep(0.02)


class Cluster:
    """A run of Snakemake on the cluster, and its trainings there, named as their logs are."""

    def __init__(self, project: Project, output: Path) -> None:
        self.project, self.output = project, output
        self.results = project.folder / "results" / "demo"

    def launch(self) -> None:
        self.driver = start(self.project, *PROFILE, output=self.output.open("ab"))

    def said(self, training: str) -> str:
        log = self.results / "logs" / "train" / f"{training}.log"
        return log.read_text(encoding="utf-8") if log.exists() else ""

    def wait_for(self, training: str, text: str) -> None:
        def there() -> bool:
            assert self.driver.poll() is None, self.output.read_text(encoding="utf-8")
            return text in self.said(training)

        until(there, f"{text!r} in the log of {training}")

    def process(self, training: str) -> int:
        """The training's Python."""
        log = f"--log results/demo/logs/train/{training}.log "
        for process in filter(str.isdigit, os.listdir("/proc")):
            line = command_line(int(process))
            if log in line and line.split()[1].endswith("train.py") and self.owns(process):
                return int(process)
        raise AssertionError(f"{training} does not run")

    def owns(self, process: str) -> bool:
        """Whether it is a process of this run, not of another one on this machine."""
        try:
            return Path(f"/proc/{process}/cwd").resolve() == self.project.folder.resolve()
        except OSError:  # it has ended
            return False

    def jobs(self, training: str) -> list[str]:
        """Numbers of its jobs, the last one first."""
        comment = f"rule_train_wildcards_{training.replace('/fold_', '_').replace('/', '_')}"
        lines = [line.split() for line in slurm("squeue", "--noheader", "--states=all", "--format=%i %k").splitlines()]
        return sorted((number for number, about in lines if about == comment), key=int, reverse=True)

    def state(self, job: str) -> str:
        return slurm("squeue", "--noheader", "--states=all", f"--jobs={job}", "--format=%T")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Project:
    """The same recipe on this machine, without a cluster."""
    base = tmp_path_factory.mktemp("slurm")
    (base / "local").mkdir()
    project = Project(copy_checkout(CHECKOUT, base / "checkout"), base / "local", RECIPE, (SMALL,))
    done = project.snakemake(*FAST)
    assert done.returncode == 0, done.stdout
    return project


def test_cancelled_late_and_without_its_node_a_run_ends_with_the_same_bytes(undisturbed, tmp_path):
    (tmp_path / "cluster").mkdir()
    cluster = Cluster(replace(undisturbed, folder=tmp_path / "cluster"), tmp_path / "said.txt")
    cluster.launch()
    try:
        cancel(cluster, "stage1/resnet18/bce_dice/fold_0")
        run_out_of_time(cluster, "stage2/resnet18/pretrain/fold_shared")
        lose_node(cluster, "stage2/resnet18/finetune/fold_1")
        lose_driver(cluster, "stage3/resnet18/finetune/fold_0")
        assert cluster.driver.wait(600) == 0, cluster.output.read_text(encoding="utf-8")
    finally:
        kill([cluster.driver.pid])
    compare(cluster.results, undisturbed.folder / "results" / "demo")
    assert "Nothing to be done" in cluster.project.dry_run("--set-threads", "train=1", "predict=1", "ingest=1").stdout


def cancel(cluster: Cluster, training: str) -> None:
    """Someone cancels a job: another one is sent in its place and goes on where it was."""
    cluster.wait_for(training, "epoch 1 of")
    (job,) = cluster.jobs(training)
    assert "gpu:1" in slurm("scontrol", "show", "job", job)
    slurm("scancel", job)
    cluster.wait_for(training, "resuming, ")
    assert cluster.jobs(training)[0] != job


def run_out_of_time(cluster: Cluster, training: str) -> None:
    """SLURM warns a training before its time limit: it saves, is queued again under its number and goes on."""
    cluster.wait_for(training, "epoch 1 of")
    process = cluster.process(training)
    # A stopped training stands for a long one.
    os.kill(process, signal.SIGSTOP)
    (job,) = cluster.jobs(training)
    # The rule asks for the warning five minutes before the end: that is now.
    slurm("scontrol", "update", f"JobId={job}", "TimeLimit=5")
    # SLURM also wakes what it warns.
    cluster.wait_for(training, "SIGUSR1: progress is saved")
    cluster.wait_for(training, "resuming, ")
    assert cluster.jobs(training) == [job]
    assert "Restarts=1" in slurm("scontrol", "show", "job", job)


def lose_node(cluster: Cluster, training: str) -> None:
    """A node's daemon dies while its training works on: SLURM queues the job again when the node is back."""
    cluster.wait_for(training, "epoch 1 of")
    process = cluster.process(training)
    os.kill(process, signal.SIGSTOP)
    (job,) = cluster.jobs(training)
    slurm("pkill", "--signal", "KILL", "--exact", "slurmd")
    until(lambda: "down" in slurm("sinfo", "--noheader", "--format=%T"), "the loss of the node")
    os.kill(process, signal.SIGCONT)
    slurm("slurmd")
    until(lambda: cluster.state(job) == "RUNNING", "the job's return")
    assert "Restarts=1" in slurm("scontrol", "show", "job", job)


def lose_driver(cluster: Cluster, training: str) -> None:
    """Snakemake dies, its jobs work on: those of the next run wait for them, those in the queue do nothing any more."""
    cluster.wait_for(training, "epoch 1 of")
    process = cluster.process(training)
    os.kill(process, signal.SIGSTOP)
    (old,) = cluster.jobs(training)
    kill([cluster.driver.pid])
    cluster.driver.wait()
    cluster.launch()
    cluster.wait_for(training, "still works here; waiting for it to end")
    os.kill(process, signal.SIGCONT)
    until(lambda: cluster.state(old) == "COMPLETED", "the end of the job that lost its driver")
    assert "epoch" not in cluster.said(training)
    # As if it had been in the queue until now.
    slurm("scontrol", "requeue", old)
    until(lambda: cluster.state(old) == "FAILED", "the refusal of a job of the dead driver")


def compare(ours: Path, theirs: Path) -> None:
    """Every file but what tells of times is the same, byte for byte."""
    names = [
        path.relative_to(theirs)
        for path in sorted(theirs.rglob("*"))
        if path.suffix in {".csv", ".parquet", ".safetensors", ".bin"} and path.name != "history.parquet"
    ]
    names = [name for name in names if name.parts[0] != "state"]
    assert len(names) > 40
    assert [str(name) for name in names if (ours / name).read_bytes() != (theirs / name).read_bytes()] == []
