"""The benchmark runner, on a benchmark that takes no time."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks import __main__ as runner

STUB = """
def run(gpu):
    return [{"name": "a | b", "plain": 1500.0, "ours": 2.5, "unit": "ms", "ratio": 600.0, "note": str(gpu), "more": 1}]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "bench_stub.py").write_text(STUB)
    return tmp_path


def test_every_module_is_found_and_has_a_run():
    names = runner.modules()
    assert {"training", "prediction", "ensemble", "ingest", "losses", "rle", "threshold"} <= set(names)
    for name in names:
        assert "def run(gpu: bool) -> list[dict]:" in (runner.HERE / f"bench_{name}.py").read_text()


def test_rows_hardware_and_versions_are_written(folder, capsys):
    output = folder / "out.json"
    runner.main(["--output", str(output)], folder)
    report = json.loads(output.read_text())
    row = {"benchmark": "stub", "name": "a | b", "plain": 1500.0, "ours": 2.5, "unit": "ms", "ratio": 600.0}
    assert report["rows"] == [row | {"note": "False"}]
    assert set(report) == {"date", "hardware", "load", "versions", "rows"}
    assert set(report["hardware"]) == {"cpu", "cores", "gpu"}
    assert report["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert "| a / b | 1,500 | 2.5 | ms | 600.00 | False |" in capsys.readouterr().out


def test_a_failing_module_is_named_and_the_others_are_kept(folder, capfd):
    (folder / "bench_broken.py").write_text("def run(gpu):\n    raise ValueError('no luck')\n")
    with pytest.raises(SystemExit, match="the benchmark broken ended with status 1"):
        runner.main(["--output", str(folder / "out.json")], folder)
    assert "no luck" in capfd.readouterr().err
    assert [row["benchmark"] for row in json.loads((folder / "out.json").read_text())["rows"]] == ["stub"]


def test_only_takes_one_and_refuses_unknown_names(folder, capsys):
    (folder / "bench_broken.py").write_text("raise ValueError")
    runner.main(["--only", "stub", "--output", str(folder / "out.json")], folder)
    with pytest.raises(SystemExit):
        runner.main(["--only", "nothing"], folder)
    assert "invalid choice: 'nothing'" in capsys.readouterr().err


def test_gpu_without_a_gpu_is_one_clear_message(folder, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        runner.main(["--gpu"], folder)
    assert "--gpu: torch sees no CUDA device here" in capsys.readouterr().err


@pytest.mark.parametrize(("value", "text"), [(0.01234, "0.0123"), (99.44, "99.4"), (100.4, "100"), (12345.6, "12,346")])
def test_numbers_keep_three_digits(value, text):
    assert runner.number(value) == text
