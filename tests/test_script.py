import json
import logging
import subprocess
import sys

import pyarrow as pa
import pytest

from stagepipe import script
from stagepipe.artefacts import Provenance, write_table
from stagepipe.errors import ArtefactError, RecipeError
from stagepipe.recipe.averages import EnsemblePart

PART = EnsemblePart(runs=[{"weight": 1}, {"weight": 2}], split="test")
RUN = """
import sys
from stagepipe import script
from stagepipe.errors import DataError
from stagepipe.recipe.averages import EnsemblePart
work = script.start("Test.", EnsemblePart, inputs=["tables"], outputs=["table"])
import warnings
if "fault" in work.part.split: raise DataError("line one\\nline two")
if "bug" in work.part.split: raise AssertionError
script.LOG.info("all is well")
warnings.warn("take care")
"""


@pytest.fixture(autouse=True)
def settings(monkeypatch):
    """What `start` sets for its process, set back."""
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(logging, "basicConfig", lambda **_: None)
    yield
    logging.captureWarnings(False)


def table(path, part=PART):
    write_table(path, pa.table({"x": [1, 2, 3]}), Provenance(part=part.fingerprint()))
    return path


def start(monkeypatch, *arguments, kind=EnsemblePart):
    monkeypatch.setattr(sys, "argv", ["script", *map(str, arguments)])
    return script.start("Test.", kind, inputs=["tables", "other"], outputs=["table"])


def test_a_job_has_its_part_its_files_and_its_provenance(tmp_path, monkeypatch):
    one, two = table(tmp_path / "1.parquet"), table(tmp_path / "2.parquet")
    arguments = ["--part", PART.text(), "--tables", one, two, "--table", "out", "--threads", 3, "--code", "abc"]
    work = start(monkeypatch, *arguments, "--runtime", '{"workers":2}')
    assert work.part == PART
    assert (work.paths["tables"], str(work.path("table")), work.optional("other")) == ([one, two], "out", None)
    assert (work.threads, work.runtime.workers) == (3, 2)
    assert (work.provenance.part, work.provenance.code) == (PART.fingerprint(), "abc")
    assert set(work.provenance.inputs) == {str(one), str(two)}


def test_state_is_named_by_what_the_job_does(tmp_path, monkeypatch):
    one = table(tmp_path / "1.parquet")
    other = EnsemblePart(runs=[{"weight": 2}], split="test")
    base = ["--part", PART.text(), "--tables", one]
    state = start(monkeypatch, *base).state
    assert start(monkeypatch, *base, "--threads", 7, "--runtime", '{"device":"cpu"}').state == state
    assert start(monkeypatch, "--part", other.text(), "--tables", one).state != state
    write_table(one, pa.table({"x": [4]}), Provenance(part=PART.fingerprint()))
    assert start(monkeypatch, *base).state != state


def test_an_option_without_its_file_is_named(tmp_path, monkeypatch):
    with pytest.raises(ArtefactError, match="--table: needs one file, found 0; write `--table FILE`"):
        start(monkeypatch, "--part", PART.text()).path("table")
    with pytest.raises(ArtefactError, match="--table: needs one file, found 2"):
        start(monkeypatch, "--part", PART.text(), "--table", "a", "b").path("table")


def test_a_part_that_does_not_fit_is_explained(monkeypatch):
    with pytest.raises(RecipeError, match=r"--part: run: unknown key; did you mean `runs`\?") as error:
        start(monkeypatch, "--part", '{"run": [1], "split": "test"}')
    assert "--part: runs: is missing" in str(error.value)
    with pytest.raises(RecipeError, match="--runtime: device: must be 'auto', 'cpu' or 'cuda'"):
        start(monkeypatch, "--part", PART.text(), "--runtime", '{"device": "tpu"}')
    with pytest.raises(RecipeError, match="--part: recipe: Invalid JSON"):
        start(monkeypatch, "--part", "{")


def test_inputs_of_another_recipe_are_refused(tmp_path, monkeypatch):
    path = table(tmp_path / "1.parquet")
    base = ["--part", PART.text(), "--tables", path, "--expect"]
    assert start(monkeypatch, *base, json.dumps({str(path): PART.fingerprint()})).part == PART
    with pytest.raises(ArtefactError, match=r"1\.parquet: was made by another recipe than this one .part "):
        start(monkeypatch, *base, json.dumps({str(path): "0" * 64}))


def test_damaged_and_missing_inputs_are_refused(tmp_path, monkeypatch):
    path = table(tmp_path / "1.parquet")
    content = bytearray(path.read_bytes())
    content[6] ^= 1
    path.write_bytes(content)
    with pytest.raises(ArtefactError, match=r"1\.parquet: does not match its own checksum"):
        start(monkeypatch, "--part", PART.text(), "--tables", path)
    with pytest.raises(ArtefactError, match=r"2\.parquet: is missing"):
        start(monkeypatch, "--part", PART.text(), "--tables", tmp_path / "2.parquet")


@pytest.mark.parametrize(
    "split, status, shown, hidden",
    [
        ("test", 0, ["all is well", "take care"], ["Traceback"]),
        ("fault", 1, ["line one\nline two"], ["Traceback"]),
        ("bug", 1, ["AssertionError", "Traceback"], []),
    ],
)
def test_what_happens_stands_on_the_terminal_and_in_the_log(tmp_path, split, status, shown, hidden):
    log, part = tmp_path / "logs" / "x.log", EnsemblePart(runs=[{"weight": 1}], split=split)
    command = [sys.executable, "-c", RUN, "--part", part.text(), "--log", str(log)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == status
    for text in (run.stderr, log.read_text(encoding="utf-8")):
        assert all(word in text for word in shown), text
        assert not any(word in text for word in hidden), text


def test_threads_are_set_before_anything_heavy_loads(monkeypatch):
    import os

    start(monkeypatch, "--part", PART.text(), "--threads", 3)
    assert os.environ["OMP_NUM_THREADS"] == "3"
    code = "import stagepipe.script, sys; assert not {'torch', 'cv2', 'pandas', 'sklearn'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
