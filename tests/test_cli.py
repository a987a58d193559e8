import hashlib
import json
import subprocess
import sys

import pytest
import yaml
from data_layouts import write_tgs
from recipe_example import at

from stagepipe.cli import main

RECIPE = """
name: tiny
dataset: {{format: tgs, root: {root}}}
folds: {{count: 2}}
networks:
  r: {{encoder: resnet18, resize: 64, arguments: {{encoder_depth: 3, decoder_channels: [8, 8, 8]}}}}
stages:
  - name: s
    runs:
      r: {{phases: [{{name: p, loss: bce, epochs: 1}}]}}
submission: {{blend: {{s: 1}}}}
"""
PHASE = "stages.s.runs.r.phases.p"
LINKNET = {"architecture": "linknet", "arguments": {}}


@pytest.fixture
def check(tmp_path, capsys):
    """Checks a small recipe with values changed at some keys: exit status, standard output, lines of faults."""
    root = write_tgs(tmp_path / "raw")

    def run(*options, **edits):
        data = yaml.safe_load(RECIPE.format(root=root))
        for key, values in edits.items():
            at(data, key.replace("__", ".") if key != "recipe" else "").update(values)
        path = tmp_path / "tiny.yaml"
        path.write_text(yaml.safe_dump(data), encoding="utf-8")
        before = sorted(tmp_path.rglob("*"))
        status = main(["check", str(path), *map(str, options)])
        assert sorted(tmp_path.rglob("*")) == before, "a check writes nothing"
        captured = capsys.readouterr()
        return status, captured.out, [line.removeprefix(f"{path}: ") for line in captured.err.splitlines()]

    run.root = root
    return run


def test_a_sound_recipe_over_sound_data(check):
    status, out, faults = check()
    assert (status, faults) == (0, [])
    assert "tiny: 1 stages, 1 phases, 2 trainings\ndataset: 6 sound samples, 0 faults\nno faults\n" in out


def test_recipe_only_looks_at_no_data(check):
    status, out, faults = check("--recipe-only", dataset={"root": "nowhere"})
    assert (status, faults) == (0, [])
    assert "dataset" not in out


def test_faults_of_the_recipe_are_one_line_each(check, tmp_path):
    status, out, faults = check(recipe={"seed": "x", "zzz": 1})
    assert (status, out) == (1, "")
    assert faults[0] == 'seed: must be a whole number (found "x")'
    assert faults[1].startswith("zzz: unknown key; the keys here are name, seed")
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text("seed: y", encoding="utf-8")
    status, _, faults = check(overlay)
    assert status == 1
    assert "overlay.yaml: seed: must be a whole number" in faults[0]


def test_every_faulty_file_is_listed(check):
    (check.root / "train/images/t0.png").write_bytes(b"no image")
    (check.root / "train/masks/t1.png").unlink()
    (check.root / "train.csv").unlink()
    status, out, faults = check()
    assert status == 1
    assert len(faults) == 2
    assert any("train/images/t0.png: " in line for line in faults)
    assert any("t1" in line and "missing_mask" in line for line in faults)
    assert "no faults" not in out
    status, out, faults = check(dataset={"faults": "quarantine"})
    assert (status, faults) == (0, [])
    assert "train/images/t0.png: " in out


def test_a_missing_root_says_what_is_expected(check):
    status, _, faults = check(dataset={"root": "nowhere"})
    assert (status, len(faults)) == (1, 1)
    assert faults[0].startswith("dataset.root: nowhere does not exist; the tgs format expects there train/images/")


@pytest.mark.parametrize(
    "edits, message",
    [
        ({"networks__r": {"encoder": "resnet19"}}, "networks.r.encoder: resnet19 is unknown; write one of resnet18"),
        ({"networks__r": {"architecture": "unett"}}, "networks.r.architecture: unett is unknown; write one of unet"),
        ({"networks__r": {"arguments": {"depth": 3}}}, "networks.r.arguments: depth is unknown"),
        ({"networks__r": LINKNET | {"resize": 60}}, "networks.r: Linknet takes heights and widths divisible by 32"),
        ({"networks__r": LINKNET | {"resize": None}}, "24 x 24 after resize and pad; write `pad: {to: [32, 32"),
        ({"networks__r": {"resize": None}}, None),
        ({"networks__r": {"resize": None, "pad": {"to": 16}}}, "networks.r.pad: to [16, 16] is smaller than the image"),
        ({"networks__r": LINKNET, PHASE: {"resize": 44}}, f"{PHASE}: Linknet takes heights and widths"),
        ({PHASE: {"loss": {"focal": {"arguments": {"gama": 1}}}}}, f"{PHASE}.loss: focal has no argument gama"),
        ({PHASE: {"deep_supervision": {"empty": "bce"}}}, f"{PHASE}.deep_supervision.empty: Unet has no such head"),
        ({"submission": {"postprocess": [{"jigsaw": {"file": "none.json"}}]}}, "none.json: is no folder and no JSON"),
        ({"submission": {"postprocess": ["jigsaw"]}}, None),
        ({PHASE: {"augment": [{"name": "HorizontalFlop"}]}}, f"{PHASE}.augment[0]: HorizontalFlop is unknown"),
        ({"folds": {"stratify": ["dept"]}}, "folds.stratify: the samples table will have no column 'dept'"),
        ({"folds": {"stratify": ["depth", "coverage"]}}, None),
        ({"folds": {"file": "none.csv"}}, "none.csv: is no file"),
        ({"submission": {"rows": "none.csv"}}, "submission.rows: none.csv: is no file"),
        ({"networks__r": {"weights": {"file": "none.st", "sha256": "0" * 64}}}, "r.weights: none.st can't be read"),
    ],
)  # fmt: skip
def test_what_a_recipe_names_must_work(check, edits, message):
    status, _, faults = check(**edits)
    if message is None:
        assert (status, faults) == (0, [])
    else:
        assert status == 1
        assert len(faults) == 1, faults
        assert message in faults[0]


def test_folds_and_rows_must_be_of_these_samples(check, tmp_path):
    folds, rows = tmp_path / "folds.csv", tmp_path / "rows.csv"
    folds.write_text("id,fold\nt0,0\nt1,1\nt2,0\nt3,1\n", encoding="utf-8")
    rows.write_text("id,rle_mask\nu1,\nu0,\n", encoding="utf-8")
    edits = {"folds": {"file": str(folds)}, "submission": {"rows": str(rows)}}
    assert check(**edits)[0] == 0
    folds.write_text("id,fold\nt0,0\nt1,1\nt2,7\n", encoding="utf-8")
    rows.write_text("id,rle_mask\nu1,\nu1,\nu7,\n", encoding="utf-8")
    status, _, faults = check(**edits)
    assert status == 1
    assert "labelled samples without a row: t3; folds that are no integer 0..1: t2 (7)" in faults[0]
    assert [line.split(": ", 2)[2] for line in faults[1:]] == [
        "ids that are no test image: u7",
        "test images without a row: u0",
        "ids with several rows: u1",
    ]


def test_weights_must_have_their_checksum_and_fit(check, tmp_path):
    from safetensors.torch import save_file
    from segmentation_models_pytorch.encoders import get_encoder

    path = tmp_path / "weights.safetensors"
    save_file(get_encoder("resnet18", in_channels=3, depth=5, weights=None).state_dict(), path)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    network = {"weights": {"file": str(path), "sha256": sha256}, "arguments": {}}
    assert check(networks__r=network)[0] == 0
    network["weights"]["sha256"] = "0" * 64
    status, _, faults = check(networks__r=network)
    assert status == 1
    assert f"networks.r.weights: {path} has SHA-256 {sha256}, expected 000" in faults[0]


def test_weights_that_must_be_fetched_are_named(check):
    status, out, _ = check(networks__r={"weights": "imagenet"})
    assert status == 0
    assert "networks.r.weights: imagenet, which the first training downloads" in out


def test_evaluate_prints_means_and_writes_images(tmp_path, capsys):
    (tmp_path / "sent.csv").write_text("id,rle_mask\na,1 8\nmean,3 4\n", encoding="utf-8")
    (tmp_path / "solved.csv").write_text("id,rle_mask\nmean,3 4\na,1 10\n", encoding="utf-8")
    files = [str(tmp_path / name) for name in ("sent.csv", "solved.csv")]
    assert main(["evaluate", *files, "--size", "5", "4", "--output", str(tmp_path / "cases.csv")]) == 0
    lines = {name: rest for name, *rest in map(str.split, capsys.readouterr().out.splitlines())}
    # IoU 0.8 is above six of ten thresholds
    means = {"mean_precision": "0.800000", "dice": "0.944444", "iou": "0.900000"}
    empty = ["all-empty", "0.000000"]
    assert lines == {name: [mean, *empty] for name, mean in means.items()} | {"images": ["2"]}
    cases = (tmp_path / "cases.csv").read_text(encoding="utf-8").splitlines()
    assert cases[0] == "id,mean_precision,dice,iou"
    assert [line.split(",")[0] for line in cases[1:]] == ["a", "mean"]


def test_evaluate_takes_sizes_from_images(tmp_path, capsys):
    root = write_tgs(tmp_path)
    labels = str(root / "train.csv")
    assert main(["evaluate", labels, labels, "--images", str(root / "train/images")]) == 0
    assert "mean_precision  1.000000" in capsys.readouterr().out


def test_evaluate_says_what_is_wrong(tmp_path, capsys):
    missing = str(tmp_path / "none.csv")
    assert main(["evaluate", missing, missing, "--size", "5", "4"]) == 1
    assert capsys.readouterr().err == f"{missing}: is no file; write the path of a CSV file with a header\n"
    assert main(["evaluate", missing, missing, "--size", "0", "4"]) == 1
    assert "is no size; write height and width" in capsys.readouterr().err
    with pytest.raises(SystemExit) as error:
        main(["evaluate", missing, missing])
    assert error.value.code == 2
    assert "one of the arguments --images --size is required" in capsys.readouterr().err


def test_schema_is_printed_or_written(tmp_path, capsys):
    assert main(["schema"]) == 0
    text = capsys.readouterr().out
    assert json.loads(text)["title"] == "stagepipe recipe"
    assert main(["schema", "--output", str(tmp_path / "s.json")]) == 0
    assert (tmp_path / "s.json").read_text(encoding="utf-8") == text


@pytest.mark.parametrize("command", ["check", "evaluate", "schema"])
def test_help_has_examples(command, capsys):
    with pytest.raises(SystemExit) as error:
        main([command, "--help"])
    assert error.value.code == 0
    assert f"examples:\n  stagepipe {command} " in capsys.readouterr().out


def test_the_command_is_installed_and_light():
    from importlib.metadata import entry_points

    (command,) = entry_points(group="console_scripts", name="stagepipe")
    assert command.load() is main
    code = "import stagepipe.cli as c, sys; c.main(['schema']); sys.exit(bool({'torch', 'pandas'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0
