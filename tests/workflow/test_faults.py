"""Kills, damaged files, mixed recipes, bad input: work goes on where it was, or a message says what is wrong."""

import json
import os
import re
import shutil
import signal
from pathlib import Path

import pytest
import yaml
from processes import children, kill, run_job, start, wait_for
from project import PLAIN, Project, tree

from stagepipe.artefacts import read_table

TRAINING = "train/stage3/tiny/first/fold_0"

# ---------------------------------------------------------------------------------------------------------------- kills


@pytest.fixture
def said(tmp_path) -> Path:
    """File for what a killed snakemake says."""
    return tmp_path / "said.txt"


@pytest.fixture
def untrained(copy, tmp_path) -> Project:
    """A finished project but for one fold of its last stage, and with another number of loader workers."""
    for folder in ("state", "stage3/tiny/first/fold_0", "stage3/tiny/fold_0", "submission"):
        shutil.rmtree(copy.results / folder)
    for name in (f"logs/{TRAINING}.log", "submission.csv"):
        (copy.results / name).unlink()
    return copy.with_changes({"runtime": {"workers": 1}}, tmp_path / "workers.yaml")


def test_the_same_command_goes_on_after_a_kill_and_ends_with_the_same_bytes(untrained, finished, said):
    log = untrained.results / "logs" / f"{TRAINING}.log"
    with said.open("wb") as output, start(untrained, *PLAIN, output=output) as driver:
        wait_for(log, "epoch 2 of 4", driver)
        kill(children(driver.pid))
    assert driver.returncode == -signal.SIGKILL
    reached = max(map(int, re.findall(r"epoch (\d) of 4", log.read_text(encoding="utf-8"))))
    assert reached < 4
    done = untrained.snakemake(*PLAIN)
    assert done.returncode == 0, done.stdout
    text = log.read_text(encoding="utf-8")
    assert "resuming" in text
    # An epoch's line is written a moment before its progress is saved.
    assert int(re.findall(r"epoch (\d) of 4", text)[0]) >= reached
    assert untrained.submission == finished.submission
    assert untrained.plan() == set()


def test_a_job_that_outlives_its_driver_is_waited_for(untrained, finished, said):
    log = untrained.results / "logs" / f"{TRAINING}.log"
    weights = "results/tiny/stage3/tiny/first/fold_0/weights.safetensors"
    with said.open("wb") as output, start(untrained, weights, *PLAIN, output=output) as driver:
        wait_for(log, "epoch 1 of 4", driver)
        orphans = children(driver.pid)[1:]
        for orphan in orphans:
            os.kill(orphan, signal.SIGSTOP)
        os.kill(driver.pid, signal.SIGKILL)
    try:
        with said.open("wb") as output, start(untrained, weights, *PLAIN, output=output) as second:
            wait_for(log, "still works here; waiting for it to end", second)
            for orphan in orphans:
                os.kill(orphan, signal.SIGCONT)
            assert second.wait(120) == 0
    finally:
        kill(orphans)
    assert "epoch" not in log.read_text(encoding="utf-8").partition("waiting")[2]
    assert (untrained.folder / weights).read_bytes() == (finished.folder / weights).read_bytes()


# -------------------------------------------------------------------------------------------------------- damaged files


def flip(path: Path, position: int | None = None) -> None:
    """Change one bit of a file, by default in its middle; its size and time stay."""
    times = path.stat()
    content = bytearray(path.read_bytes())
    content[len(content) // 2 if position is None else position] ^= 1
    path.unlink()  # a published file shares its content with the training's state
    path.write_bytes(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


READERS = {
    "data/samples.parquet": "split_folds",
    "data/faults.parquet": "split_folds",
    "data/folds.parquet": "score/stage1",
    "stage1/tiny/first/fold_0/weights.safetensors": "predict/stage1/tiny/fold_0",
    "stage2/tiny/pretrain/fold_shared/weights.safetensors": "train/stage2/tiny/finetune/fold_1",
    "stage1/tiny/fold_1/out_of_fold.parquet": "ensemble/stage1/out_of_fold",
    "stage1/ensemble/test.parquet": "select_pseudolabels/stage2",
    "stage2/pseudolabels.parquet": "train/stage2/tiny/pretrain/fold_shared",
    "stage3/cases.parquet": "collect_scores",
    "submission/out_of_fold.parquet": "binarise",
    "submission/test.parquet": "submit",
    "submission/thresholds.parquet": "report",
    "stage1/tiny/first/fold_0/history.parquet": "report",
}


@pytest.fixture(scope="module")
def damaged(finished, tmp_path_factory) -> Project:
    """A project for one damaged file after the other."""
    return finished.copy(tmp_path_factory.mktemp("damaged") / "folder")


@pytest.mark.parametrize("name", READERS)
def test_a_flipped_bit_is_an_error_that_names_the_file(damaged, commands, name):
    path = damaged.results / name
    whole = path.read_bytes()
    flip(path)
    done = run_job(damaged, commands[READERS[name]])
    path.write_bytes(whole)
    assert done.returncode != 0
    assert f"results/tiny/{name}: does not match its own checksum" in done.stderr
    assert "Traceback" not in done.stderr
    log = damaged.results / "logs" / f"{READERS[name]}.log"
    assert f"results/tiny/{name}: does not match" in log.read_text(encoding="utf-8")


@pytest.mark.parametrize(("kind", "job"), [("mask", "score/stage1"), ("image", "train/stage1/tiny/first/fold_0")])
def test_a_flipped_bit_of_a_pixel_names_file_and_sample(damaged, commands, kind, job):
    samples = read_table(damaged.results / "data" / "samples.parquet").to_pylist()
    sample = next(row for row in samples if row["mask_offset"] is not None)
    path = damaged.results / "data" / "pixels.bin"
    whole = path.read_bytes()
    flip(path, sample[f"{kind}_offset"])
    shutil.rmtree(damaged.results / "state", ignore_errors=True)
    done = run_job(damaged, commands[job])
    path.write_bytes(whole)
    assert done.returncode != 0
    assert "results/tiny/data/pixels.bin" in done.stderr
    assert sample["sample_id"] in done.stderr


def test_snakemake_stops_at_a_damaged_file_and_keeps_the_last_submission(copy):
    flip(copy.results / "submission" / "test.parquet")
    done = copy.snakemake(*PLAIN, "--forcerun", "submit")
    assert done.returncode != 0
    assert "results/tiny/submission/test.parquet: does not match its own checksum" in done.stdout


# -------------------------------------------------------------------------------------------------------- mixed recipes


def test_an_artefact_of_another_part_is_refused(damaged, commands):
    ours, other = (damaged.results / f"stage1/tiny/first/fold_{fold}/weights.safetensors" for fold in (0, 1))
    whole = ours.read_bytes()
    ours.unlink()
    shutil.copyfile(other, ours)
    done = run_job(damaged, commands["predict/stage1/tiny/fold_0"])
    ours.write_bytes(whole)
    assert done.returncode != 0
    assert "stage1/tiny/first/fold_0/weights.safetensors: was made by another recipe than this one" in done.stderr


def test_a_recipe_edited_while_jobs_wait_is_not_read(copy, tmp_path):
    frozen = copy.begin()
    edited = copy.with_recipe(yaml.safe_dump(tree() | {"seed": 5}), tmp_path / "edited.yaml")
    assert edited.plan()
    done = edited.dry_run(STAGEPIPE_FROZEN_RECIPE=frozen)
    assert "Nothing to be done" in done.stdout
    assert "seed" not in json.loads(frozen)["recipe"]


# ------------------------------------------------------------------------------------------------------------ bad input


def test_every_fault_of_a_recipe_is_one_line(empty, tmp_path):
    recipe = tree()
    recipe["stages"][0]["tta"] = ["hflop"]
    recipe["stages"][1]["runs"]["tiny"]["phases"][0]["epoch"] = 3
    recipe["submission"]["blend"] = {"stage2": 0.5, "stage3": 0.6}
    done = empty.with_recipe(yaml.safe_dump(recipe), tmp_path / "bad.yaml").snakemake("--cores", "1", "--dry-run")
    assert done.returncode != 0
    assert "Traceback" not in done.stdout
    lines = [line for line in done.stdout.splitlines() if line.startswith(str(tmp_path / "bad.yaml"))]
    assert len(lines) == 3
    assert any("hflop" in line for line in lines)
    assert any("unknown key" in line and "`epochs`" in line for line in lines)
    assert any("must sum to 1" in line for line in lines)


def test_ingest_lists_all_faults_at_once_and_writes_nothing(finished, tmp_path):
    folder = tmp_path / "folder"
    shutil.copytree(finished.results / "raw", folder / "raw")
    rows = (folder / "raw" / "train.csv").read_text(encoding="utf-8").splitlines()[1:]
    truncated, swapped, other = [row.split(",")[0] for row in rows if not row.endswith(",")][:3]  # three with salt
    image = folder / "raw" / "train" / "images" / f"{truncated}.png"
    image.write_bytes(image.read_bytes()[:60])
    masks = folder / "raw" / "train" / "masks"
    shutil.copyfile(masks / f"{other}.png", masks / f"{swapped}.png")
    recipe = tree() | {"dataset": {"format": "tgs", "root": "raw"}}
    project = Project(finished.checkout, folder, finished.recipe).with_recipe(
        yaml.safe_dump(recipe), tmp_path / "r.yaml"
    )
    done = project.snakemake("results/tiny/data/samples.parquet", *PLAIN)
    assert done.returncode != 0
    assert f"{truncated}.png: truncated" in done.stdout
    assert f"{swapped}.png: rle_mismatch" in done.stdout
    assert "Traceback" not in done.stdout
    assert {path.name for path in folder.iterdir()} == {"raw", "results", ".snakemake"}
    assert not list((folder / "results" / "tiny").rglob("*.parquet"))


def test_raw_data_that_is_not_there_is_one_line(empty, tmp_path):
    recipe = tree() | {"dataset": {"format": "tgs", "root": "nowhere"}}
    done = empty.with_recipe(yaml.safe_dump(recipe), tmp_path / "r.yaml").snakemake("--cores", "1", "--dry-run")
    assert done.returncode != 0
    assert "nowhere" in done.stdout
    assert "Traceback" not in done.stdout
