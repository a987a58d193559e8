"""Learning rates of parts of a network, each scheduled by itself; starts from the weights of a smaller network."""

import logging
import signal

import pytest
import tiny
import torch
from torch import nn

from stagepipe import optimizers, schedules
from stagepipe.artefacts import load_weights
from stagepipe.errors import RecipeError, TrainingError
from stagepipe.networks import Geometry, SegmentationNetwork
from stagepipe.networks.inputs import InputChannels
from stagepipe.recipe.model import Normalise
from stagepipe.training import start


class ThreeParts(nn.Module):
    """An encoder, a module of its own rate and a head."""

    requires_divisible_input_shape = False
    divisor = 1
    part_names = ("gate",)

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(4, 1, 1)
        self.gate = nn.Conv2d(4, 4, 1)
        self.encoder = nn.Conv2d(1, 4, 3, padding=1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        pixels = self.encoder(images).relu()
        return self.head(pixels * self.gate(pixels).sigmoid())


def three_parts() -> SegmentationNetwork:
    torch.manual_seed(0)
    return SegmentationNetwork(ThreeParts(), Geometry(), InputChannels(["image"], Normalise(), 1), 1)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny.survey(tmp_path_factory.mktemp("data"))


@pytest.fixture
def parted(monkeypatch):
    """Let every trainer have the network of three parts."""
    monkeypatch.setattr(start, "build", lambda *_, **__: three_parts())


# --------------------------------------------------------------------------------------------------------------- rates


def test_groups_are_the_parts_in_the_networks_order():
    network, of = three_parts(), tiny.part(lr=0.1, part_lr={"gate": 0.01, "encoder": 0.02}).phase
    groups = optimizers.build(of, network).param_groups
    assert [group["lr"] for group in groups] == optimizers.base_rates(of, network) == [0.02, 0.01, 0.1]
    modules = (network.module.encoder, network.module.gate, network.module.head)
    for group, module in zip(groups, modules, strict=True):
        assert [id(parameter) for parameter in group["params"]] == [id(parameter) for parameter in module.parameters()]


def test_an_unknown_part_is_named_before_training(data, tmp_path, parted):
    with pytest.raises(RecipeError, match=r"part_lr\.decoder: .*write one of encoder, gate"):
        tiny.trainer(tmp_path, data, tiny.part(part_lr={"decoder": 0.1}))


@pytest.fixture
def rates(monkeypatch) -> list[list[float]]:
    """The rates of an optimiser's groups at each of its steps."""
    found, build = [], optimizers.build

    def watched(*arguments):
        optimizer = build(*arguments)
        optimizer.register_step_pre_hook(lambda *_: found.append([group["lr"] for group in optimizer.param_groups]))
        return optimizer

    monkeypatch.setattr(optimizers, "build", watched)
    return found


@pytest.mark.parametrize(
    "schedule",
    [
        {"cosine": {"per": "step", "floor": 1e-4}},
        {"cosine": {"floor": 1e-4}},
        {"plateau": {"factor": 0.1, "patience": 1, "floor": 1e-4}},
        {"step": {"every": 1}},
        "one_cycle",
        "constant",
    ],
)
def test_every_part_has_a_schedule_of_its_own(schedule, data, tmp_path, parted, rates):
    part = tiny.part(schedule=schedule, lr=1e-3, part_lr={"gate": 1e-4}, epochs=3, batch=4)
    trainer = tiny.trainer(tmp_path, data, part)
    trainer.run()
    scores = [row[3] for row in trainer.progress.history]
    assert rates == [
        [schedules.learning_rate(part.phase.schedule, base, epoch, step / 3, 3, scores[:epoch])
         for base in (1e-3, 1e-4, 1e-3)]
        for epoch in range(3) for step in range(3)
    ]  # fmt: skip
    if "cosine" in schedule:  # 15th place: with the floor as its rate guided upsampling stays at 1e-4
        assert {gate for _, gate, _ in rates} == {1e-4} and len({other for *_, other in rates}) >= 3
    assert [row["lr"] for row in trainer.progress.table(part).to_pylist()] == [rates[step][-1] for step in (2, 5, 8)]


def test_a_step_moves_every_part_by_its_own_rate(data, tmp_path, parted):
    moved = {}
    for name, rates in (("alike", {}), ("apart", {"gate": 0.01})):
        options = {"optimizer": {"sgd": {"momentum": 0}}, "lr": 0.1, "epochs": 1, "batch": 12, "part_lr": rates}
        trainer = tiny.trainer(tmp_path / name, data, tiny.part(**options))
        before = tiny.snapshot(trainer.network)
        trainer.run()
        after = tiny.snapshot(trainer.network)
        moved[name] = {key: after[key] - before[key] for key in after}
    for key, change in moved["alike"].items():
        factor = 0.1 if key.startswith("gate.") else 1
        assert change.abs().max() > 0
        torch.testing.assert_close(moved["apart"][key], factor * change, rtol=1e-3, atol=1e-7)


def test_a_resumed_phase_ends_with_the_bits_of_one_that_was_never_stopped(data, tmp_path, parted):
    part = tiny.part(
        part_lr={"gate": 1e-2, "encoder": 3e-3}, schedule={"cosine": {"per": "step", "floor": 1e-4}}, batch=3
    )
    expected = tiny.train(tmp_path / "whole", data, part)
    with tiny.signalled(signal.SIGTERM, 1, 1), pytest.raises(SystemExit):
        tiny.train(tmp_path / "stopped", data, part)
    resumed = tiny.train(tmp_path / "stopped", data, part)
    assert resumed.bits() == expected.bits() and resumed.losses() == expected.losses()


# -------------------------------------------------------------------------------------------------------- grown starts

SMALL = {"encoder_depth": 3, "decoder_channels": [16, 16, 16]}
GROWN = {"encoder_depth": 3, "decoder_channels": [16, 16, 16], "decoder_attention_type": "scse"}


@pytest.fixture(scope="module")
def small(data, tmp_path_factory):
    return tiny.train(tmp_path_factory.mktemp("small"), data, tiny.part(network=tiny.network(arguments=SMALL)))


def grown(**phase):
    keys = {"init": "stage/run/before", "init_grown": True} | phase
    return tiny.part(network=tiny.network(arguments=GROWN), **keys)


def test_a_grown_network_takes_what_agrees_and_starts_the_rest_fresh(data, small, tmp_path, caplog):
    with caplog.at_level(logging.INFO, "stagepipe.training.start"):
        started = tiny.snapshot(tiny.trainer(tmp_path / "grown", data, grown(), origin=small.weights).network)
    fresh = tiny.snapshot(tiny.trainer(tmp_path / "fresh", data, grown(init="encoder", init_grown=False)).network)
    origin = load_weights(small.weights, "0")
    new = started.keys() - origin.keys()
    assert origin.keys() < started.keys() and all(".attention" in name for name in new)
    for name, value in started.items():
        assert torch.equal(value, fresh[name] if name in new else origin[name])
    assert f"{len(origin)} of {len(started)} tensors start from {small.weights}: member '0'" in caplog.text


def test_tensors_of_another_shape_start_fresh(data, small, tmp_path):
    wider = tiny.part(
        network=tiny.network(arguments=SMALL | {"decoder_channels": [16, 16, 8]}), init="a/b/c", init_grown=True
    )
    started = tiny.snapshot(tiny.trainer(tmp_path, data, wider, origin=small.weights).network)
    origin = load_weights(small.weights, "0")
    other = [name for name in started if started[name].shape != origin[name].shape]
    assert other and all(torch.equal(started[name], origin[name]) for name in started if name not in other)


def test_a_grown_network_trains_from_the_last_weights_too(data, small, tmp_path):
    last = grown(init_weights="last")
    started = tiny.snapshot(tiny.trainer(tmp_path / "start", data, last, origin=small.weights).network)
    origin = load_weights(small.weights, "last")
    assert all(torch.equal(started[name], value) for name, value in origin.items())
    assert tiny.train(tmp_path / "train", data, last, origin=small.weights).history[-1]["loss"] > 0


def test_a_network_that_is_not_grown_has_to_fit(data, small, tmp_path):
    with pytest.raises(TrainingError, match="doesn't fit the network of stage/run/phase, fold 0"):
        tiny.trainer(tmp_path, data, grown(init_grown=False), origin=small.weights)


def test_a_start_without_any_weight_in_common_is_refused(data, tmp_path, parted, monkeypatch):
    strange = {"else": torch.zeros(3), "head.weight": torch.zeros(2, 2)}
    monkeypatch.setattr(start, "load_weights", lambda *_: strange)
    with pytest.raises(TrainingError, match=r"origin: member '0' has no tensor of the network of stage/run/phase"):
        tiny.trainer(tmp_path, data, tiny.part(init="a/b/c", init_grown=True), origin=tmp_path / "origin")


@pytest.mark.parametrize("init_grown", [True, False])
def test_encoder_weights_are_loaded_where_something_starts_fresh(init_grown, data, small, tmp_path, monkeypatch):
    asked, build = [], start.build
    monkeypatch.setattr(start, "build", lambda *a, **k: asked.append(k["pretrained"]) or build(*a, **k))
    part = grown(init_grown=init_grown).model_copy(update={"network": tiny.network(arguments=SMALL)})
    tiny.trainer(tmp_path, data, part, origin=small.weights)
    assert asked == [init_grown]
