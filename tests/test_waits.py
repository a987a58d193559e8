"""The device never waits: no value is read in a step, nothing is compiled twice, and waits are noted."""

import logging
import time

import numpy as np
import pytest
import tiny
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from stagepipe import members
from stagepipe.artefacts import save_weights
from stagepipe.data import training as training_data
from stagepipe.members import Ensemble
from stagepipe.networks import build
from stagepipe.recipe.parts import MemberPart, PredictPart
from stagepipe.runtime import Machine

READS = {"_local_scalar_dense", "nonzero", "is_nonzero", "item", "equal", "masked_select", "unique"}
"""Operators for whose result the host waits for the device"""
LOSSES = ["lovasz_hinge", "lovasz_hinge_elu", "lovasz_hinge_nonempty", "lovasz_softmax_all",
          {"bce": 1, "dice": 1, "dice_per_image": 1, "jaccard": 1, "jaccard_log": 1},
          {"focal": {"weight": 1, "arguments": {"gamma": 0.5, "hardest": 0.25}}}]  # fmt: skip


class Watch(TorchDispatchMode):
    """Notes operators that read values."""

    def __init__(self):
        super().__init__()
        self.read, self.seen = [], 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.seen += 1
        name = function.overloadpacket.__name__
        if name in READS:
            self.read.append(name)
        return function(*args, **(kwargs or {}))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny.survey(tmp_path_factory.mktemp("data"))


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw", "rmsprop"])
def test_a_step_reads_no_value_back(optimizer, data, tmp_path):
    trainer = tiny.trainer(tmp_path, data, tiny.part(batch=3, optimizer=optimizer, clip_norm=1.0))
    batches = iter(trainer._batches((0, 0), 1))
    trainer.train_step(batches, 0, trainer._rates(0))  # the optimiser makes its state
    with Watch() as watch:
        trainer.train_step(batches, 1, trainer._rates(1))
    assert watch.seen > 100 and not watch.read


@pytest.mark.parametrize("loss", LOSSES, ids=str)
def test_no_loss_reads_a_value_back(loss, data, tmp_path):
    trainer = tiny.trainer(tmp_path, data, tiny.part(batch=3, loss=loss))
    batch = next(trainer._batches((0, 0), 1))  # a loader that begins reads a seed
    with Watch() as watch:
        trainer.train_step(iter([batch]), 0, trainer._rates(0))
    assert watch.seen > 100 and not watch.read


def test_the_watch_sees_what_waits():
    with Watch() as watch:
        float(torch.ones(2).sum())
        torch.ones(2)[torch.ones(2) > 0]
    assert "_local_scalar_dense" in watch.read


def test_validation_reads_once_at_its_end(data, tmp_path):
    trainer = tiny.trainer(tmp_path, data, tiny.part(batch=2))
    with Watch() as watch:
        trainer.validate()
    assert not watch.read  # what is read at the end is one copy of all counts


def test_waiting_for_the_loader_is_in_the_history_and_in_the_log(data, tmp_path, caplog, monkeypatch):
    original = training_data.collate

    def slow(samples):
        time.sleep(0.05)
        return original(samples)

    monkeypatch.setattr(training_data, "collate", slow)
    caplog.set_level(logging.INFO)
    done = tiny.train(tmp_path, data, tiny.part(batch=3, epochs=2))
    for row in done.history:
        steps = row["images"] // 3
        assert steps * 0.05 <= row["waited"] <= row["seconds"]
    assert "% of it waiting for data" in caplog.text


# ------------------------------------------------------------------------------------------------------------- compiled


class Counting(Machine):
    """Compiles with a backend that only counts."""

    graphs = 0

    def compiled(self, function):
        def backend(graph, _):
            Counting.graphs += 1
            return graph.forward

        torch._dynamo.reset()
        Counting.graphs = 0
        return torch.compile(function, dynamic=False, backend=backend)


def test_members_of_one_network_are_compiled_once_and_a_short_batch_not_anew(data, tmp_path, monkeypatch):
    network = tiny.network()
    weights_of = {}
    for name in ("0", "1", "2"):
        torch.manual_seed(int(name))
        weights_of[name] = build(network, 1, 1).module.state_dict()
        weights_of[name]["segmentation_head.0.weight"] *= 30
    weights = tmp_path / "weights.safetensors"
    save_weights(weights, weights_of)
    part = PredictPart(
        stage="stage", run="run", fold="0", classes=["salt"], stored_channels=1, network=network, tta=["hflip"],
        members=[MemberPart(phase="phase", member=name, weight=1) for name in weights_of],
    )  # fmt: skip
    monkeypatch.setitem(members.PIXELS_PER_BATCH, "cpu", 4 * 2 * 32 * 32)
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 32, 32, 1), dtype=np.uint8))
    eager = Ensemble(part, {"phase": weights}, tiny.machine())
    compiled = Ensemble(part, {"phase": weights}, Counting(torch.device("cpu"), False, True, 0))
    for count in (3, 2, 1):
        torch.testing.assert_close(compiled.predict(images[:count]), eager.predict(images[:count]), rtol=0, atol=1e-6)
    assert Counting.graphs == 1


def test_rows_are_filled_up_only_for_what_is_compiled():
    rows = torch.arange(6).reshape(3, 2)
    machine = Machine(torch.device("cpu"), False, True, 0)
    assert machine.filled(rows, 5).tolist() == [[0, 1], [2, 3], [4, 5], [4, 5], [4, 5]]
    assert machine.filled(rows, 3) is rows
    assert Machine(torch.device("cpu"), False, False, 0).filled(rows, 5) is rows
