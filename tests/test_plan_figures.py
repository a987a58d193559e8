"""What networks cost, what devices reach, and what a run took: the numbers that a plan is made from."""

import json
import math
import sys
from pathlib import Path

import pyarrow as pa
import pytest
import torch
import yaml
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from stagepipe.artefacts import write_table
from stagepipe.cli import main
from stagepipe.errors import StagepipeError
from stagepipe.networks import build
from stagepipe.plan import Options, figures, measure, networks, page, passes, plan, summary, trial
from stagepipe.plan.devices import STORED
from stagepipe.plan.estimate import estimates
from stagepipe.plan.figures import Figures, PredictFigure, Start, TrainFigure
from stagepipe.plan.images import images_of
from stagepipe.plan.jobs import Job, jobs
from stagepipe.plan.kinds import predict_kind, predict_kinds, train_kind, train_kinds
from stagepipe.plan.process import Reply
from stagepipe.recipe.load import load
from stagepipe.recipe.model import Recipe
from stagepipe.recipe.parts import predict_part, train_part
from stagepipe.runtime import configure
from stagepipe.tables import HISTORY

CONFIG = Path(__file__).resolve().parents[1] / "config"
# A network whose steps take milliseconds.
SMALL = {
    "resize": 32,
    "arguments": {"encoder_depth": 3, "decoder_channels": [16, 8, 8], "decoder_attention_type": None},
}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Not the figures of whoever runs the tests."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def demo(**changes: object) -> Recipe:
    return load(CONFIG / "config.yaml", [], {"networks": {"resnet18": SMALL}, **changes})


def kind_of(recipe: Recipe, stage: str, run: str, phase: str):
    return train_kind(train_part(recipe, stage, run, phase, "0"), images_of(recipe))


# ------------------------------------------------------------------------------------------------------------- networks


def multiplications(module: nn.Module, images: torch.Tensor) -> int:
    """Of all convolutions and linear layers, from the sizes of their outputs and weights."""
    found = 0

    def note(layer: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        nonlocal found
        if isinstance(layer, nn.ConvTranspose2d):  # each input pixel is multiplied by each weight of its group
            found += inputs[0].numel() * math.prod(layer.weight.shape[1:])
        elif isinstance(layer, nn.Conv2d):
            found += output.numel() * math.prod(layer.weight.shape[1:])
        else:
            found += output.numel() * layer.in_features

    hooks = [
        layer.register_forward_hook(note)
        for layer in module.modules()
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear)
    ]
    with torch.no_grad():
        module.heads(images)
    for hook in hooks:
        hook.remove()
    return found


@pytest.mark.parametrize("name", ["salt_unet in groups, with transposed convolutions", "the built-in U-Net"])
def test_flops_are_twice_the_multiplications_of_all_layers(name):
    if name.startswith("salt"):
        recipe = load(CONFIG / "recipes" / "tgs_salt_1st.yaml")
        kind = kind_of(recipe, "stage1", "resnext50", "lovasz")
    else:
        kind = kind_of(demo(), "stage1", "resnet18", "lovasz")
    phase = kind.phase
    built = build(kind.network, 1, 1, phase.resize, phase.pad, pretrained=False).train()
    counted = 2 * multiplications(built, torch.zeros(2, *kind.size, 1, dtype=torch.uint8)) / 2
    cost = networks.train_cost(kind)
    assert cost.forward == pytest.approx(counted, rel=1e-6)
    assert cost.parameters == sum(parameter.numel() for parameter in built.parameters())


def test_a_training_pass_is_three_forward_passes_and_keeps_what_autograd_keeps():
    kind = kind_of(demo(), "stage1", "resnet18", "lovasz")
    built = build(kind.network, 1, 1, kind.phase.resize, kind.phase.pad, pretrained=False).train()
    own = {parameter.data_ptr() for parameter in built.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with FlopCounterMode(display=False) as counter, saved_tensors_hooks(note, lambda tensor: tensor):
        built.heads(torch.zeros(2, 101, 101, 1, dtype=torch.uint8))["logits"].sum().backward()
    cost = networks.train_cost(kind)
    assert cost.training == pytest.approx(counter.get_total_flops() / 2, rel=0.05)
    saved = sum(storage.nbytes() for pointer, storage in kept.items() if pointer not in own)
    assert cost.saved == pytest.approx(saved / 2, rel=0.1)


def test_the_topology_aware_loss_is_a_network_too():
    recipe = load(CONFIG / "recipes" / "tgs_salt_15th.yaml")
    plain, looking = (kind_of(recipe, "residual", "residual", phase) for phase in ("steps", "topology"))
    assert plain.fingerprint() != looking.fingerprint()
    plain_cost, cost = networks.train_cost(plain), networks.train_cost(looking)
    assert plain_cost.loss == 0 and plain_cost.forward == cost.forward
    # VGG19 from conv1_1 to conv3_4 in multiplications a pixel of the image, once each for target, map and gradient
    pixel = 9 * (3 * 64 + 64 * 64 + (64 * 128 + 128 * 128) / 4 + (128 * 256 + 3 * 256 * 256) / 16)
    assert cost.loss == pytest.approx(3 * 2 * pixel * 129 * 129, rel=0.05)


def test_kinds_differ_in_what_a_step_costs_alone():
    recipe = load(CONFIG / "recipes" / "tgs_salt_1st.yaml")
    found, images = jobs(recipe), images_of(recipe)
    trainings = [(part.run, part.phase.batch) for part in train_kinds(found, images).values()]
    assert trainings == [
        ("resnext50", 24),
        ("resnet34_256", 18),
        ("resnext50", 28),
        ("resnet34_256_deep", 18),
        ("resnet34_pad128", 64),
        ("resnet34_resize128", 64),
    ]
    predictions = [part.run for part in predict_kinds(found, images).values()]
    assert predictions == ["resnext50", "resnet34_256", "resnet34_256_deep", "resnet34_pad128", "resnet34_resize128"]


# ----------------------------------------------------------------------------------------------------- figures and jobs


def made_up(recipe: Recipe, **changes: object) -> Figures:
    """Figures of every kind of a recipe."""
    found, images = jobs(recipe), images_of(recipe)
    one = TrainFigure(prepare=3, image=0.01, validation=0.002, copy_state=0.1, save_state=0.5, memory=2000)
    return Figures(
        device="made up",
        source="a test",
        start=Start(train=5, predict=4, other=1),
        train_tflops=1,
        predict_tflops=2,
        training=dict.fromkeys(train_kinds(found, images), one),
        prediction=dict.fromkeys(
            predict_kinds(found, images), PredictFigure(prepare=2, network_pass=0.001, memory=900)
        ),
    ).model_copy(update=changes)


def planned(monkeypatch, recipe: Recipe, known: Figures):
    monkeypatch.setitem(STORED, "made up", known)
    return plan(recipe, Options(device="Made up"))


def test_measured_jobs_take_their_start_their_passes_and_their_epochs(monkeypatch):
    recipe = demo()
    made = planned(monkeypatch, recipe, made_up(recipe))
    first = next(estimate for estimate in made.estimates if estimate.job.rule == "train")
    # 14 epochs of 96 images and 100 to validate: 1.16 s each, longer than the writing of the state beside them
    assert first.seconds == pytest.approx(5 + 3 + 14 * (0.1 + 0.96 + 0.2) + 0.5)
    assert first.measured and first.gpu_memory == 2000 * 2**20
    predict = next(estimate for estimate in made.estimates if estimate.job.rule == "predict")
    assert predict.seconds == pytest.approx(4 + 2 + 0.001 * 2 * 500)
    slow = made_up(recipe).training.popitem()[1].model_copy(update={"save_state": 3.0})
    known = made_up(recipe, training=dict.fromkeys(made_up(recipe).training, slow))
    waiting = next(e for e in planned(monkeypatch, recipe, known).estimates if e.job.rule == "train")
    assert waiting.seconds == pytest.approx(5 + 3 + 14 * (0.1 + 3.0) + 3.0)


def test_kinds_that_were_not_measured_take_their_flops(monkeypatch):
    recipe = demo()
    made = planned(monkeypatch, recipe, made_up(recipe, training={}, prediction={}))
    first = next(estimate for estimate in made.estimates if estimate.job.rule == "train")
    cost = networks.train_cost(kind_of(recipe, "stage1", "resnet18", "bce_dice"))
    assert not first.measured
    assert first.seconds == pytest.approx(5 + 14 * (96 * cost.training + 100 * cost.forward) / 1e12)
    assert f"~{page.duration(summary.lines(made)[3].seconds)}" in page.text(made)
    assert any("TFLOP/s" in assumption for assumption in summary.assumptions(made))


def test_weights_and_tables_take_the_disk_that_they_take(monkeypatch):
    recipe = demo()
    made = planned(monkeypatch, recipe, made_up(recipe))
    kept = {(line.stage, line.rule): line.kept for line in summary.lines(made)}
    parameters = networks.train_cost(kind_of(recipe, "stage1", "resnet18", "bce_dice")).parameters
    # a pretraining and two finetunings: the best and the last epoch, or the ends of two cycles, the last of them too
    assert kept["stage2", "train"] == 3 * 2 * 4 * parameters
    assert kept["stage3", "train"] == (2 + 2 * 2) * 4 * parameters
    assert kept["data", "ingest"] == 101 * 101 * (600 + 200)
    assert kept["stage1", "predict"] == pytest.approx(2 * 500 * 101 * 101 * 0.6)


def test_figures_are_kept_and_read_again(tmp_path):
    recipe = demo()
    path = figures.kept(recipe.runtime, 1)
    assert path.is_relative_to(tmp_path / "cache") and path != figures.kept(recipe.runtime, 2)
    assert figures.load(path) is None
    figures.save(path, made_up(recipe))
    assert figures.load(path) == made_up(recipe)
    made = plan(recipe)
    assert made.figures == made_up(recipe) and all(estimate.seconds is not None for estimate in made.estimates)


def test_what_was_measured_before_stays_and_what_is_measured_again_is_replaced():
    recipe = demo()
    before = made_up(recipe)
    name, figure = next(iter(before.training.items()))
    faster = figure.model_copy(update={"image": 0.001})
    now = made_up(recipe, training={name: faster}, prediction={}, train_tflops=3.0)
    joined = figures.joined(before, now)
    assert joined.training[name] == faster and joined.prediction == before.prediction and joined.train_tflops == 3
    assert figures.joined(None, now) == now


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"device": 3}', "{" * 1000])
def test_a_damaged_file_of_figures_says_what_to_do(capsys, content):
    path = figures.kept(demo().runtime, 1)
    path.parent.mkdir(parents=True)
    path.write_text(content)
    with pytest.raises(StagepipeError, match="delete it and measure again"):
        figures.load(path)
    assert main(["plan", str(CONFIG / "config.yaml")]) == 1
    assert str(path) in capsys.readouterr().err


@pytest.mark.parametrize("known", STORED.values(), ids=STORED)
def test_stored_devices_say_where_their_figures_come_from(known):
    assert known.source and known.train_tflops > 0.1 and known.predict_tflops > 0.1


# ----------------------------------------------------------------------------------------------------- real measurement


def test_a_real_training_and_prediction_are_timed(monkeypatch):
    monkeypatch.setattr(trial, "WARM", 0.0)
    monkeypatch.setattr(trial, "LONG", 0.0)
    recipe = demo()
    machine = configure(recipe.runtime.model_copy(update={"device": "cpu", "workers": 0}), 1)
    part = train_part(recipe, "stage2", "resnet18", "pretrain", "shared")
    trained = trial.training(part, (101, 101), machine)
    assert 0 < trained.validation < trained.image < 5 and trained.save_state > 0
    assert trained.memory > 100
    single = predict_part(recipe, "stage1", "resnet18", "0")
    predicted = trial.prediction(single, (101, 101), machine)
    assert 0 < predicted.network_pass < trained.image
    assert list(Path().iterdir()) == []  # nothing is left in the working directory


@pytest.mark.slow
def test_what_processes_measure_is_kept_for_the_next_plan(tmp_path, capsys):
    small = tmp_path / "small.yaml"
    small.write_text(yaml.safe_dump({"networks": {"resnet18": SMALL}, "runtime": {"device": "cpu"}}))
    assert main(["plan", str(CONFIG / "config.yaml"), str(small), "--measure"]) == 0
    shown = capsys.readouterr()
    assert shown.err.splitlines() == [
        "measuring training of stage1/resnet18/bce_dice",
        "measuring prediction of stage1/resnet18/lovasz",
    ]
    assert "~" not in shown.out and "of training and prediction" in shown.out
    assert main(["plan", str(CONFIG / "config.yaml"), str(small)]) == 0
    assert capsys.readouterr().out == shown.out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "small.yaml"]


def test_every_kind_is_asked_for_once_and_makes_the_fallback(monkeypatch):
    recipe, asked = demo(), []

    def reply(request):
        asked.append(request)
        known = made_up(recipe)
        training, prediction = next(iter(known.training.values())), next(iter(known.prediction.values()))
        found = {"train": training} if request.train else {"predict": prediction}
        return Reply(**found, gpu=True, bf16=True, imported=0.0), 7.0

    monkeypatch.setattr(measure, "_ask", reply)
    notes: list[str] = []
    found, images = jobs(recipe), images_of(recipe)
    known = measure.measure(recipe, found, images, 1, notes.append)
    assert notes == ["training of stage1/resnet18/bce_dice", "prediction of stage1/resnet18/lovasz"]
    assert [request.threads for request in asked] == [1, 1]
    assert known.bf16 and known.start.train == known.start.predict == 7 and known.start.other > 0
    cost = networks.train_cost(kind_of(recipe, "stage1", "resnet18", "bce_dice"))
    assert known.train_tflops == pytest.approx(cost.training / 0.01 / 1e12)
    assert set(known.training) == set(made_up(recipe).training)


def test_a_process_that_fails_says_of_what_and_why(tmp_path, monkeypatch):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho Traceback >&2; echo 'RecipeError: no weights' >&2; exit 1\n")
    python.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(python))
    recipe = demo()
    with pytest.raises(StagepipeError, match="--measure: stage1/resnet18 can't be measured here: RecipeError: no wei"):
        measure.measure(recipe, jobs(recipe), images_of(recipe), 1)


# ---------------------------------------------------------------------------------------------------------- after a run


def test_after_a_run_the_plan_stands_beside_what_it_took(monkeypatch):
    recipe = demo()
    benchmarks = {
        "ingest.tsv": 2.0,
        "train/stage1/resnet18/bce_dice/fold_0.tsv": 20.0,
        "train/stage1/resnet18/bce_dice/fold_1.tsv": 30.0,
        "blend/test.tsv": 3.0,
        "train/gone/resnet18/x/fold_0.tsv": 9.0,  # of a stage that the recipe has no more
        "dance.tsv": 9.0,  # of a rule that nobody knows
    }
    results = Path("results/demo")
    for name, seconds in benchmarks.items():
        path = results / "benchmarks" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"s\th:m:s\tmax_rss\tcpu_time\n{seconds}\t0:00:01\t{seconds * 10 if seconds > 2 else '-'}\t1\n")
    row = {field.name: "x" if field.type == pa.string() else 1 for field in HISTORY} | {"images": 96}
    write_table(results / "stage1/resnet18/bce_dice/fold_0/history.parquet", pa.Table.from_pylist([row] * 3, HISTORY))
    made = planned(monkeypatch, recipe, made_up(recipe))
    found = {(line.stage, line.rule): line for line in summary.lines(made) if line.took}
    assert set(found) == {("data", "ingest"), ("stage1", "train"), ("submission", "blend")}
    training = found["stage1", "train"]
    assert (training.jobs, training.took.jobs, training.took.seconds, training.took.train) == (4, 2, 50.0, 288)
    assert training.took.memory == 300 * 2**20 and found["data", "ingest"].took.memory == 0
    assert training.seconds_of_done == pytest.approx(training.seconds / 2)
    shown = next(row for row in page.text(made).splitlines() if row.startswith("stage1") and "train" in row)
    assert shown.split()[-4:] == ["288", "50", "s", f"{training.seconds / 2 / 50:.2f}"]
    assert json.loads(json.dumps(summary.tree(made)))["lines"][1]["took"]["seconds"] == 2.0


def test_prediction_of_each_member_goes_at_its_own_rate():
    recipe = load(CONFIG / "recipes" / "tgs_salt_5th.yaml")
    images = images_of(recipe)
    part = predict_part(recipe, "non_empty", "resnet34", "0")
    sizes = {predict_kind(part, member, images).fingerprint(): member.resize for member in part.members}
    assert sorted(sizes.values()) == [(128, 128), (256, 256)]
    known = made_up(demo())
    rates = {name: PredictFigure(network_pass=1e-3 * size[0]) for name, size in sizes.items()}
    job = Job("predict", "non_empty", part)
    (estimate,) = estimates(recipe, [job], images, known.model_copy(update={"prediction": rates}))
    maps = passes.prediction(part, images, 10).maps
    small = sum(member.resize == (128, 128) for member in part.members)
    large = len(part.members) - small
    assert estimate.seconds == pytest.approx(4 + maps * (0.128 * small + 0.256 * large))
