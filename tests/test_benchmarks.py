"""The benchmark runner, on a benchmark that takes no time, and what the profile reckons."""

import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmarks import __main__ as runner
from benchmarks import bench_loader, loops, published
from benchmarks import profile as profiling
from stagepipe import losses
from stagepipe.augmentation_lists import NAMED
from stagepipe.recipe.model import LossTerm

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
        text = (runner.HERE / f"bench_{name}.py").read_text()
        assert re.search(r"^def run\(gpu: bool\) -> (list|Iterator)\[dict\]:$", text, re.MULTILINE)


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


def test_rows_before_a_failure_are_kept(folder, capfd):
    (folder / "bench_stub.py").write_text(STUB.replace("return [", "yield ").replace("1}]", "1}\n    raise ValueError"))
    with pytest.raises(SystemExit, match="the benchmark stub ended with status 1"):
        runner.main(["--output", str(folder / "out.json")], folder)
    assert [row["ratio"] for row in json.loads((folder / "out.json").read_text())["rows"]] == [600.0]
    assert "a | b 600.0" in capfd.readouterr().err


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


def test_details_go_to_the_file_alone(folder, capsys):
    stub = STUB.replace('"more": 1', '"details": {"waited_share": 0.25}')
    (folder / "bench_stub.py").write_text(stub)
    runner.main(["--output", str(folder / "out.json")], folder)
    assert json.loads((folder / "out.json").read_text())["rows"][0]["details"] == {"waited_share": 0.25}
    assert "waited_share" not in capsys.readouterr().out


# --------------------------------------------------------------------------------------------------- published networks


@pytest.mark.parametrize("case", published.CASES, ids=lambda case: case.name)
def test_a_published_phase_keeps_its_batch_and_what_a_cpu_takes_is_smaller(case):
    as_published, on_cpu = case.part(), case.part(published=False)
    expected = {
        "resnext50": 24,
        "resnet34_256": 18,
        "resnet34_pad128": 64,
        "albunet_valid": 2,
        "seunet": 2,
        "guided": 40,
    }
    assert as_published.phase.batch == expected.get(case.run, 3)
    assert on_cpu.phase.batch < as_published.phase.batch
    assert as_published.network == on_cpu.network
    assert as_published.network.weights is None
    assert "topology" not in as_published.phase.loss


def test_losses_of_smp_stand_for_ours_of_the_same_name():
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(2, 1, 9, 7, generator=generator)
    target = (torch.rand(2, 1, 9, 7, generator=generator) < 0.4).float()
    for name in ("bce", "lovasz_hinge"):
        terms = {name: LossTerm(weight=2.5)}
        torch.testing.assert_close(
            loops.plain_losses(terms)(logits, target), losses.total_loss(terms, logits, target[:, 0])
        )


def test_shares_of_a_list_multiply_down_its_blocks():
    shares = Counter[str]()
    for share, entry in bench_loader.leaves(NAMED["siim"]):
        shares[entry.name] += share
    # a flip in two, three tones in 0.3, and one in three of 0.3 is elastic, behind an affine that the end has in two
    assert shares["HorizontalFlip"] == 0.5
    assert shares["ElasticTransform"] == pytest.approx(0.1)
    assert shares["Affine"] == pytest.approx(0.6)
    assert shares["RandomGamma"] == pytest.approx(0.1)


# ---------------------------------------------------------------------------------------------------------- the profile


def event(name: str, parent: SimpleNamespace | None = None, own: float = 0.0, number: int = -1) -> SimpleNamespace:
    return SimpleNamespace(
        name=name, cpu_parent=parent, self_cpu_time_total=own, self_device_time_total=0.0, sequence_nr=number,
        device_type=torch.autograd.DeviceType.CPU,
    )  # fmt: skip


def test_every_microsecond_is_of_one_part_and_one_kind():
    forward, loss, back = event("forward", own=1), event("loss", own=2), event("backward", own=3)
    sort = event("sort", loss, 50)
    behind = [event("autograd::engine::evaluate_function: X", back, number=number) for number in (7, 8)]
    events = [
        forward, event("aten::mkldnn_convolution", forward, 100, 7), loss, event("aten::elu", loss, 20, 8), sort,
        back, *behind, event("aten::convolution_backward", behind[0], 200, 7), event("aten::mul", behind[1], 10, 8),
        event("Optimizer.step#SGD.step", own=5), event("aten::mm", event("enumerate(DataLoader)#x"), 4),
    ]  # fmt: skip
    parts, kinds, operators = profiling.shares(events, "cpu", steps=2)
    assert [counted.total() * 2e6 for counted in (parts, kinds, operators)] == pytest.approx([395] * 3)
    halves = {"forward": 101, "loss": 82, "backward": 203, "optimiser": 5, "waiting": 4}
    assert {name: value * 2e6 for name, value in parts.items() if value} == pytest.approx(halves)
    assert kinds["convolution"] * 2e6 == pytest.approx(300)
    assert kinds["loss"] * 2e6 == pytest.approx(32)
    assert kinds[profiling.SORT] * 2e6 == pytest.approx(50)


@pytest.mark.parametrize(
    ("operator", "kind"),
    [
        ("aten::native_batch_norm", "normalisation"),
        ("aten::convolution_backward", "convolution"),
        ("aten::upsample_bilinear2d_backward", "interpolation"),
        ("aten::threshold_backward", "activation, elementwise"),
        ("aten::add_", "activation, elementwise"),
        ("aten::copy_", "copies"),
        ("aten::view", "other"),
    ],
)
def test_kinds_of_operators(operator, kind):
    assert profiling.kind_of(operator, [operator], "forward") == kind


def test_the_table_has_the_shares_and_the_picture_is_small():
    counted = Counter({"convolution": 0.6, profiling.SORT: 0.15, profiling.OTHER: 0.25})
    parts = Counter({"forward": 0.3, "backward": 0.6, "loss": 0.1})
    found = profiling.Profile("one, 8 x 8, batch 2", 2, 1.0, parts, counted, Counter({"aten::mm": 0.6}))
    table = profiling.table([found, replace(found, name="two", seconds=2.0)])
    assert "| one, 8 x 8, batch 2 | 1,000 | 30.0% | 10.0% | 60.0% | 0.0% | 0.0% | 0.0% |" in table
    assert "| two | 2,000 | 30.0% | 0.0% | 0.0% | 0.0% | 0.0% | 7.5% |" in table
    assert "| one, 8 x 8, batch 2 | aten::mm 60.0% |" in table
    picture = profiling.picture([found] * 7, "a machine")
    assert picture.startswith(b"\x89PNG")
    assert len(picture) < 150_000
