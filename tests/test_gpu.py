"""On a GPU: nothing waits for it, compiled code and CUDA graphs compute what the layers do, a stopped training goes on.

`python -m pytest tests/test_gpu.py` on a machine that has one.
"""

import signal

import numpy as np
import pytest
import tiny
import torch

from stagepipe import training
from stagepipe.artefacts import save_weights
from stagepipe.members import Ensemble
from stagepipe.networks import build
from stagepipe.recipe.model import Runtime
from stagepipe.recipe.parts import MemberPart, PredictPart
from stagepipe.runtime import Machine, configure
from stagepipe.training import Trainer, TrainInputs, TrainOutputs
from stagepipe.training.state import TrainingState

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
LOSSES = ["lovasz_hinge", "lovasz_hinge_elu", {"bce": 1, "dice": 1, "jaccard_log": 1},
          {"focal": {"weight": 1, "arguments": {"gamma": 0.5, "hardest": 0.25}}}]  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny.survey(tmp_path_factory.mktemp("data"))


def gpu(**runtime: object) -> Machine:
    keys = {"device": "cuda", "compile": False, "workers": 0, "precision": "fp32"}
    return configure(Runtime.model_validate(keys | runtime), threads=1)


def trainer(folder, data, part, machine: Machine) -> Trainer:
    folder.mkdir(parents=True, exist_ok=True)
    return Trainer(part, TrainInputs(data.samples, data.pixels, data.folds), TrainingState(folder), machine)


def losses(trainer: Trainer, steps: int) -> list[float]:
    """Of so many steps on one batch."""
    trainer.network.train()
    batch = next(trainer._batches((0, 0), 1))
    return [float(trainer.train_step(iter([batch]), 0, trainer._rates(0))) for _ in range(steps)]


class forbidden_to_wait:
    """An error where the host waits for the device."""

    def __enter__(self) -> None:
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")

    def __exit__(self, *_: object) -> None:
        torch.cuda.set_sync_debug_mode("default")


# ------------------------------------------------------------------------------------------------------------- training


@pytest.mark.parametrize("loss", LOSSES, ids=str)
@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "rmsprop"])
def test_the_host_does_not_wait_in_a_step(loss, optimizer, data, tmp_path):
    part = tiny.part(batch=3, loss=loss, optimizer=optimizer, clip_norm=1.0)
    trained = trainer(tmp_path, data, part, gpu(precision="bf16"))
    batch = next(trained._batches((0, 0), 1))
    trained.train_step(iter([batch]), 0, trained._rates(0))  # the optimiser makes its state
    with forbidden_to_wait():
        loss_of_step = trained.train_step(iter([batch]), 0, trained._rates(0))
    assert bool(loss_of_step.isfinite())


def test_reading_a_value_is_seen():
    with pytest.raises(RuntimeError, match="synchroniz"), forbidden_to_wait():
        torch.ones(2, device="cuda").sum().item()


def test_a_step_is_that_of_the_cpu(data, tmp_path):
    """In float32; tensor cores round what they multiply to ten bits."""
    part = tiny.part(batch=6, lr=1e-2)
    on_cpu = losses(trainer(tmp_path / "cpu", data, part, tiny.machine()), 5)
    on_gpu = losses(trainer(tmp_path / "gpu", data, part, gpu()), 5)
    assert on_gpu == pytest.approx(on_cpu, rel=2e-3)
    assert on_cpu[-1] < on_cpu[0]


@pytest.mark.parametrize("how", [True, "cuda_graphs"])
def test_compiled_steps_are_those_of_the_layers(how, data, tmp_path):
    part = tiny.part(batch=6, lr=1e-2, loss={"bce": 1, "dice": 1})
    plain = losses(trainer(tmp_path / "plain", data, part, gpu()), 6)
    compiled = losses(trainer(tmp_path / "compiled", data, part, gpu(compile=how)), 6)
    assert compiled == pytest.approx(plain, rel=5e-3)


def test_half_precision_trains_like_float32(data, tmp_path):
    part = tiny.part(batch=6, lr=1e-3)
    full = losses(trainer(tmp_path / "full", data, part, gpu()), 5)
    half = losses(trainer(tmp_path / "half", data, part, gpu(precision="bf16")), 5)
    assert half == pytest.approx(full, rel=3e-2)


@pytest.mark.parametrize("compiled", [False, True, "cuda_graphs"])
def test_a_stopped_training_ends_with_the_bits_of_one_that_was_not(compiled, data, tmp_path):
    part = tiny.part(batch=3, epochs=3, optimizer="adamw")
    machine = gpu(deterministic=True, compile=compiled)

    def train(folder) -> tiny.Trained:
        done = tiny.Trained(folder)
        outputs = TrainOutputs(done.weights, folder / "history.parquet")
        training.train(part, TrainInputs(data.samples, data.pixels, data.folds), outputs, done.state, machine)
        return done

    whole, stopped = train(tmp_path / "whole"), tmp_path / "stopped"
    with tiny.signalled(signal.SIGTERM, epoch=1, step=1), pytest.raises(SystemExit):
        train(stopped)
    assert train(stopped).bits() == whole.bits()


# ----------------------------------------------------------------------------------------------------------- prediction


@pytest.fixture(scope="module")
def members(tmp_path_factory):
    """A part of two members and the file of their weights."""
    network = tiny.network()
    weights = {}
    for name in ("0", "1"):
        torch.manual_seed(int(name))
        weights[name] = build(network, 1, 1).module.state_dict()
        weights[name]["segmentation_head.0.weight"] *= 30  # a fresh head gives one half everywhere
    path = tmp_path_factory.mktemp("members") / "weights.safetensors"
    save_weights(path, weights)
    part = PredictPart(
        stage="stage", run="run", fold="0", classes=["salt"], stored_channels=1, network=network,
        tta=["hflip", "rot90"], members=[MemberPart(phase="phase", member=name, weight=1) for name in weights],
    )  # fmt: skip
    return part, {"phase": path}


def noise(count: int, side: int = 32) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (count, side, side, 1), dtype=np.uint8))


@pytest.mark.parametrize(
    ("runtime", "tolerance"),
    [({}, 5e-3), ({"precision": "bf16"}, 5e-2), ({"compile": True}, 5e-3), ({"compile": "cuda_graphs"}, 5e-3)],
    ids=str,
)
def test_maps_are_those_of_the_cpu(runtime, tolerance, members):
    part, weights = members
    expected = Ensemble(part, weights, tiny.machine()).predict(noise(5))
    assert expected.std() > 0.05
    ensemble = Ensemble(part, weights, gpu(**runtime))
    for count in (5, 3):
        found = ensemble.predict(noise(count)).cpu()
        torch.testing.assert_close(found, expected[:count], rtol=0, atol=tolerance)


def test_batches_follow_from_free_memory(members):
    part, weights = members
    machine = gpu()
    roomy = Ensemble(part, weights, machine).batch_size(512, 512)
    shared = Ensemble(part, weights, gpu(jobs_per_gpu=8))
    assert 1 <= shared.batch_size(512, 512) <= roomy
    free, _ = torch.cuda.mem_get_info()
    taken = torch.empty(free - (1 << 30), dtype=torch.uint8, device="cuda")
    try:
        ensemble = Ensemble(part, weights, machine)
        count = ensemble.batch_size(512, 512)
        assert 1 <= count < roomy
        assert ensemble.predict(noise(count, 512)).shape == (count, 1, 512, 512)
    finally:
        del taken
        torch.cuda.empty_cache()
