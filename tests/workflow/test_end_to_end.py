"""The whole recipe on tiny synthetic data: it makes what it promises, once, and always with the same bits."""

import subprocess
import sys

import pytest
from project import FAST, PLAIN

from stagepipe.artefacts import read_table, verify
from stagepipe.recipe.check import RESERVED


def test_every_promised_file_is_there_and_whole(finished):
    made = {path.relative_to(finished.results).as_posix() for path in finished.results.rglob("*") if path.is_file()}
    assert {"submission.csv", "scores.csv", "report.html", "report/scores.png", "submission/threshold.json"} <= made
    sealed = [path for path in finished.results.rglob("*") if path.suffix in (".parquet", ".safetensors")]
    assert len(sealed) > 40
    for path in sealed:
        verify(path)
    assert not [name for name in made if name.endswith((".part", ".tmp"))]


def test_submission_has_a_row_per_test_image(finished):
    samples = read_table(finished.results / "data" / "samples.parquet", ["sample_id", "split"]).to_pylist()
    lines = finished.submission.decode().splitlines()
    assert lines[0] == "id,rle_mask"
    assert sorted(line.split(",")[0] for line in lines[1:]) == [s["sample_id"] for s in samples if s["split"] == "test"]


def test_nothing_is_written_outside_results(finished):
    assert {path.name for path in finished.folder.iterdir()} == {"results", ".snakemake"}
    assert not [path for path in finished.checkout.rglob("*") if path.name in ("results", ".snakemake")]


def test_no_stage_may_take_the_name_of_anything_beside_the_stages(finished):
    beside = {path.name for path in finished.results.iterdir()} - {"stage1", "stage2", "stage3"}
    assert {name.removesuffix(".csv").removesuffix(".html") for name in beside} <= RESERVED


def test_second_run_has_nothing_to_do(finished):
    done = finished.snakemake(*PLAIN)
    assert done.returncode == 0
    assert "Nothing to be done" in done.stdout
    assert "other code" not in done.stdout


HOLD = """
import sys, time
from pathlib import Path
from stagepipe.workflow import plan
plan([sys.argv[1]], {}, Path(sys.argv[2])).hold()
print("held", flush=True)
time.sleep(60)
"""


def test_one_run_of_a_recipe_at_a_time(copy):
    (copy.results / "scores.csv").unlink()
    words = [sys.executable, "-c", HOLD, str(copy.recipe), str(copy.checkout)]
    with subprocess.Popen(words, cwd=copy.folder, env=copy.environment(), stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        busy = copy.snakemake(*PLAIN)
        other.kill()
    assert busy.returncode != 0
    assert f"results/tiny: process {other.pid} on " in busy.stdout
    assert "is running this recipe; wait for it or stop it" in busy.stdout
    assert "Traceback" not in busy.stdout
    assert not (copy.results / "scores.csv").exists()
    # A killed holder holds nothing.
    assert copy.snakemake("results/tiny/scores.csv", *PLAIN).returncode == 0
    assert (copy.results / "scores.csv").exists()


@pytest.mark.slow
def test_any_number_of_workers_gives_the_same_bytes(empty, finished, tmp_path):
    project = empty.copy(tmp_path / "folder").with_changes({"runtime": {"workers": 2}}, tmp_path / "workers.yaml")
    done = project.snakemake(*FAST)
    assert done.returncode == 0, done.stdout
    assert project.submission == finished.submission
    for name in ("stage3/tiny/first/fold_1/weights.safetensors", "submission/test.parquet"):
        assert (project.results / name).read_bytes() == (finished.results / name).read_bytes()
