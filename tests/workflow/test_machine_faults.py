"""The machine's faults: a full disk, results that can't be written, stale locks, two runs at once, a wrong clock."""

import os
import re
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from processes import children, kill, run_job, start, wait_for
from project import PLAIN, Project

FULL = re.compile(r"results/tiny/\S+: the disk is full; make room, then run the same command again")
MOUNT = 200 * 2**20
YEAR = 366 * 24 * 3600

# ------------------------------------------------------------------------------------------------------------ full disk


@contextmanager
def mounted(folder: Path, *words: str) -> Iterator[None]:
    """A mount at the folder for a while; the test is skipped where this user may not mount."""
    done = subprocess.run(["mount", *words, str(folder)], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"this user can't mount a file system: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def on_small_disk(finished, tmp_path) -> Iterator[Project]:
    """A finished project on a disk of its own, Snakemake's notes and log included."""
    disk = tmp_path / "disk"
    disk.mkdir()
    with mounted(disk, "-t", "tmpfs", "-o", f"size={MOUNT}", "tmpfs"):
        yield finished.copy(disk / "folder")


def fill(disk: Path, but: int = 0) -> Path:
    """Fill a disk up to some bytes; returns the file to remove again."""
    filler = disk / "filler"
    free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, free - but)
    return filler


def leftovers(project: Project) -> list[Path]:
    return [path for path in project.results.rglob("*") if path.name.endswith(".part") or path.name.startswith(".tmp")]


JOBS = {
    "ingest": ("data/pixels.bin", "data/samples.parquet", "data/faults.parquet"),
    "predict/stage1/tiny/fold_0": ("stage1/tiny/fold_0/out_of_fold.parquet", "stage1/tiny/fold_0/test.parquet"),
}


@pytest.mark.parametrize("job", JOBS)
def test_a_job_that_fills_the_disk_says_so_and_leaves_nothing(on_small_disk, finished, commands, job):
    for name in JOBS[job]:
        (on_small_disk.results / name).unlink()
    filler = fill(on_small_disk.folder.parent, but=24 * 1024)  # room for the log and the lock
    done = run_job(on_small_disk, commands[job])
    assert done.returncode != 0
    assert len(FULL.findall(done.stderr)) == 1, done.stderr
    assert "Traceback" not in done.stderr
    whole = [name for name in JOBS[job] if (on_small_disk.results / name).exists()]
    assert len(whole) < len(JOBS[job])
    assert all((on_small_disk.results / name).read_bytes() == (finished.results / name).read_bytes() for name in whole)
    assert leftovers(on_small_disk) == []
    filler.unlink()
    done = run_job(on_small_disk, commands[job])
    assert done.returncode == 0, done.stderr
    for name in JOBS[job]:
        assert (on_small_disk.results / name).read_bytes() == (finished.results / name).read_bytes()


def test_a_training_on_a_full_disk_keeps_its_progress(on_small_disk, finished, tmp_path):
    results, weights = on_small_disk.results, "stage3/tiny/first/fold_0/weights.safetensors"
    for folder in ("state/stage3", "stage3/tiny/first/fold_0"):
        shutil.rmtree(results / folder)
    target, log = f"results/tiny/{weights}", results / "logs" / "train/stage3/tiny/first/fold_0.log"
    log.unlink()
    said = tmp_path / "said.txt"
    with said.open("wb") as output, start(on_small_disk, target, *PLAIN, output=output) as driver:
        wait_for(log, "epoch 2 of 4", driver)
        processes = children(driver.pid)
        try:
            for process in processes:
                os.kill(process, signal.SIGSTOP)
            assert "epoch 4 of 4" not in log.read_text(encoding="utf-8")
            filler = fill(on_small_disk.folder.parent)
            for process in processes:
                os.kill(process, signal.SIGCONT)
            assert driver.wait(120) != 0
        finally:
            kill(processes)
    text = said.read_text(encoding="utf-8")
    assert len(FULL.findall(text)) == 1, text
    assert "Traceback" not in text
    assert not (results / weights).exists()
    assert leftovers(on_small_disk) == []
    filler.unlink()
    done = on_small_disk.snakemake(target, *PLAIN)
    assert done.returncode == 0, done.stdout
    assert re.search(r"resuming, epoch [2-4]", done.stdout), done.stdout
    assert (results / weights).read_bytes() == (finished.results / weights).read_bytes()


def test_a_file_above_the_limit_of_its_user_is_a_sentence(copy, commands):
    weights = copy.results / "stage1/tiny/first/fold_0/weights.safetensors"
    weights.unlink()
    shutil.rmtree(copy.results / "state")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    command = f"ulimit -f 64; {commands['train/stage1/tiny/first/fold_0']}"  # KiB
    done = run_job(copy, command)
    assert resource.getrlimit(resource.RLIMIT_FSIZE) == before
    assert done.returncode == 1
    assert re.search(r"results/tiny/state/\S+: is larger than files may become here", done.stderr), done.stderr
    assert "Traceback" not in done.stderr
    assert not weights.exists()
    assert leftovers(copy) == []


# ------------------------------------------------------------------------------------------------------------ read-only


def test_results_that_cannot_be_written_are_one_sentence_before_any_work(copy, commands):
    for name in ("scores.csv", "report.html"):
        (copy.results / name).unlink()
    shutil.rmtree(copy.results / "report")
    folder = copy.folder / "results"
    with mounted(folder, "--bind", str(folder)):
        subprocess.run(["mount", "-o", "remount,ro,bind", str(folder)], check=True)
        planned = copy.plan()
        done = copy.snakemake(*PLAIN)
        again = copy.snakemake(*PLAIN, "--forcerun", "submit")
        job = run_job(copy, commands["collect_scores"])
    with mounted(copy.folder, "--bind", str(copy.folder)):
        subprocess.run(["mount", "-o", "remount,ro,bind", str(copy.folder)], check=True)
        whole = copy.snakemake(*PLAIN)
    assert planned == {"collect_scores", "report"}
    assert done.returncode != 0
    assert "results/tiny/lock: can't be written, its file system is read-only; make it writable" in done.stdout
    assert "Traceback" not in done.stdout
    assert "Finished jobid" not in done.stdout
    # Outputs that are there already Snakemake names itself.
    assert again.returncode != 0
    assert "Write-protected output files for rule submit" in again.stdout
    assert "Traceback" not in again.stdout
    assert whole.returncode != 0
    assert re.search(r"\.snakemake: can't be written, its file system is read-only", whole.stdout), whole.stdout
    assert "Traceback" not in whole.stdout
    assert job.returncode != 0
    assert re.search(r"results/tiny/\S+: can't be written, its file system is read-only", job.stderr), job.stderr
    assert "Traceback" not in job.stderr


# ---------------------------------------------------------------------------------------------------------------- locks


def test_what_a_crash_leaves_stops_nothing(copy, finished):
    (copy.results / "scores.csv").unlink()
    (copy.results / "lock").write_text("process 1 on elsewhere")
    for lock in (copy.results / "state").rglob("lock"):
        lock.write_text("process 1 on elsewhere")
    locks = copy.folder / ".snakemake" / "locks"
    locks.mkdir(exist_ok=True)
    (locks / "0.input.lock").write_text("results/tiny/submission/cases.parquet\n")
    (locks / "0.output.lock").write_text("results/tiny/scores.csv\nresults/tiny/report.html\n")
    half = copy.results / ".scores.csv.x.part"
    half.mkdir()
    (half / "scores.csv").write_text("stage,")
    (half / "lock").touch()
    for record in list((copy.folder / ".snakemake" / "metadata").iterdir())[::5]:
        record.write_text(record.read_text(encoding="utf-8")[:-40], encoding="utf-8")
    done = copy.snakemake(*PLAIN)
    assert done.returncode == 0, done.stdout
    assert (copy.results / "scores.csv").read_bytes() == (finished.results / "scores.csv").read_bytes()
    assert leftovers(copy) == []
    assert copy.plan() == set()


def test_a_second_run_is_refused_and_the_first_is_unharmed(copy, finished, tmp_path):
    target = "results/tiny/submission.csv"
    (copy.folder / target).unlink()
    said, log = tmp_path / "said.txt", copy.results / "logs" / "submit.log"
    log.unlink()
    with said.open("wb") as output, start(copy, target, *PLAIN, output=output) as first:
        while not log.exists():
            assert first.poll() is None, said.read_text(encoding="utf-8")
            time.sleep(0.01)
        processes = children(first.pid)
        try:
            for process in processes:
                os.kill(process, signal.SIGSTOP)
            second = copy.snakemake(target, *PLAIN)
            for process in processes:
                os.kill(process, signal.SIGCONT)
            assert first.wait(120) == 0, said.read_text(encoding="utf-8")
        finally:
            kill(processes)
    assert second.returncode != 0
    assert re.search(rf"results/tiny: process {first.pid} on \S+ is running this recipe; wait", second.stdout)
    assert "Traceback" not in second.stdout
    assert "Finished jobid" not in second.stdout
    assert copy.submission == finished.submission
    assert copy.plan() == set()


# ---------------------------------------------------------------------------------------------------------------- clock


def set_times(folder: Path, seconds: float) -> None:
    for path in folder.rglob("*"):
        os.utime(path, (seconds, seconds))


def test_what_is_missing_is_made_from_files_of_the_future_and_nothing_else(copy, finished):
    """All that was made, and Snakemake's notes of it, bear times ahead of the clock."""
    (copy.results / "submission.csv").unlink()
    set_times(copy.folder, time.time() + YEAR)
    done = copy.snakemake("results/tiny/submission.csv", *PLAIN)
    assert done.returncode == 0, done.stdout
    assert re.findall(r"\(Rule: (\w+)\)", done.stdout) == ["submit"], done.stdout
    assert copy.submission == finished.submission
    # The report shows the submission, whose bytes are what they were.
    assert copy.plan() == set()


def test_times_of_other_clocks_make_nothing_anew(copy):
    set_times(copy.folder, 0)
    assert copy.plan() == set()
    for index, path in enumerate(sorted(copy.results.rglob("*"))):
        moment = time.time() + YEAR * (1 if index % 2 else -1)
        os.utime(path, (moment, moment))
    assert copy.plan() == set()
