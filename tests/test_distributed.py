"""One training in two processes: the same losses, scores and weights as in one, and nothing lost when it is stopped."""

import itertools
import json
import logging
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import astuple
from pathlib import Path

import pytest
import tiny
import torch
from tiny import Trained
from torch import nn

from stagepipe import distributed, launch
from stagepipe.artefacts import load_weights
from stagepipe.distributed import Ranks, SharedOrders
from stagepipe.errors import TrainingError
from stagepipe.networks import build
from stagepipe.recipe.model import Network, Sampler

CHECKOUT = Path(__file__).resolve().parents[1]
SGD = {"optimizer": {"sgd": {"momentum": 0.9}}, "lr": 0.02}
EVERYTHING = tiny.part(
    # Losses that are no means over images, batches that don't divide evenly, an encoder that is frozen for an epoch.
    loss={"lovasz_hinge": 1, "dice": 1, "focal": {"weight": 1, "arguments": {"hardest": 0.25}}},
    batch=5,
    epochs=3,
    accumulate=2,
    freeze_encoder=1,
    **SGD | {"lr": 0.005},
)
STOPPED = tiny.part(batch=4, epochs=2, cycles=2, optimizer="adamw")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny.survey(tmp_path_factory.mktemp("data"))


# ----------------------------------------------------------------------------------------------------------- processes


def be_rank(folder: Path, data: tiny.Data, part, rank: int, port: int, listener, stop: tuple | None) -> None:
    """Body of one of two processes, perhaps with a signal right after a step."""
    place = launch.Place(rank, 2, port, listener.fileno() if listener else -1, os.getppid())
    os.environ |= {
        launch.VARIABLE: " ".join(map(str, astuple(place))),
        "GLOO_SOCKET_IFNAME": "lo",
        "TORCH_CPP_LOG_LEVEL": "ERROR",
    }
    logging.basicConfig(filename=folder / f"log{rank}", level=logging.INFO, format="%(message)s", force=True)
    logging.captureWarnings(True)
    ranks = distributed.join()
    if stop is None:
        tiny.train(folder, data, part, ranks=ranks)
    else:
        with tiny.signalled(*stop):
            tiny.train(folder, data, part, ranks=ranks)


def together(folder: Path, data: tiny.Data, part, stop: tuple | None = None, whom: int = 0) -> list[int | None]:
    """Train in two processes; the exit statuses."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "state").mkdir(exist_ok=True)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["stagepipe.training", "stagepipe.data.ingest", "stagepipe.data.synthetic"])
    with socket.create_server(("127.0.0.1", 0)) as listener:
        started = []
        for rank in range(2):
            mine = (rank, listener.getsockname()[1], None if rank else listener, stop if rank == whom else None)
            started.append(context.Process(target=be_rank, args=(folder, data, part, *mine)))
            started[-1].start()
        for process in started:
            process.join(240)
    return [process.exitcode for process in started]


def logs(folder: Path) -> list[str]:
    return [(folder / f"log{rank}").read_text() for rank in range(2)]


def assert_equal(one: Trained, two: Trained, tolerance: float = 1e-4) -> None:
    """Equal up to rounding: sums are made in another order."""
    for expected, found in zip(one.losses(), two.losses(), strict=True):
        assert found == pytest.approx(expected, rel=tolerance)
    for member in ("0", "last"):
        expected, found = load_weights(one.weights, member), load_weights(two.weights, member)
        assert list(expected) == list(found)
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=tolerance, atol=tolerance, msg=lambda m, n=name: n + m)


# ------------------------------------------------------------------------------------------------------------- equality


def test_two_processes_train_what_one_does(data, tmp_path):
    one = tiny.train(tmp_path / "one", data, EVERYTHING)
    assert together(tmp_path / "two", data, EVERYTHING) == [0, 0]
    two = Trained(tmp_path / "two")
    assert_equal(one, two)
    assert [row["images"] for row in two.history] == [10, 10, 10]
    assert sorted(path.name for path in two.state.iterdir()) == ["history.parquet", "weights.safetensors"]
    assert "epoch 3 of 3" in logs(tmp_path / "two")[0]
    before = tiny.snapshot(tiny.trainer(tmp_path / "fresh", data, EVERYTHING).network)
    after = load_weights(two.weights, "last")
    assert not torch.equal(before["encoder.model.conv1.0.weight"], after["encoder.model.conv1.0.weight"])


def test_heads_without_a_loss_and_layers_that_none_uses(data, tmp_path):
    network = Network.model_validate(
        {
            "architecture": "salt_hypercolumn", "encoder": "resnet18", "resize": 48, "pad": {"to": 64, "mode": "edge"},
            "arguments": {"decoder_channels": 4, "centre_channels": 8, "head_channels": 4, "deep_supervision": True},
        }
    )  # fmt: skip
    deep = {"empty": {"bce": 0.5}}
    part = tiny.part(network=network, deep_supervision=deep, batch=6, epochs=1, **SGD | {"lr": 1e-3})
    one = tiny.train(tmp_path / "one", data, part)
    assert together(tmp_path / "two", data, part) == [0, 0]
    assert_equal(one, Trained(tmp_path / "two"))


def test_normalisation_with_activation_and_averaged_weights(data, tmp_path):
    part = tiny.part(
        network=tiny.network(encoder="tu-test_efficientnet"),
        select={"top": {"k": 2, "average": "weights"}},
        batch=6,
        clip_norm=0.1,
        **SGD,
    )
    one = tiny.train(tmp_path / "one", data, part)
    assert together(tmp_path / "two", data, part) == [0, 0]
    assert_equal(one, Trained(tmp_path / "two"))
    first, second = logs(tmp_path / "two")
    assert "mean weights of the epochs" in first and "mean weights" not in second


# ---------------------------------------------------------------------------------------------------------------- stops


@pytest.mark.parametrize(("whom", "number"), [(0, signal.SIGTERM), (1, signal.SIGUSR1)])
def test_a_signal_to_one_stops_both_at_the_same_step_and_they_go_on(whom, number, data, tmp_path):
    assert together(tmp_path, data, STOPPED, (number, 1, 1), whom) == [75, 75]
    assert f"{number.name}: progress is saved, epoch 2, 2 of 3 batches done" in logs(tmp_path)[0]
    assert "progress" not in logs(tmp_path)[1]
    assert not Trained(tmp_path).weights.exists()
    assert together(tmp_path, data, STOPPED) == [0, 0]
    assert "resuming, epoch 2, 2 of 3 batches done" in logs(tmp_path)[0]
    whole = tmp_path / "whole"
    assert together(whole, data, STOPPED) == [0, 0]
    assert (Trained(tmp_path).bits(), Trained(tmp_path).losses()) == (Trained(whole).bits(), Trained(whole).losses())


def test_the_script_in_two_processes_stops_and_goes_on_in_one(data, tmp_path):
    """train.py --gpus 2 as Snakemake calls it, a SIGTERM to it alone, then without --gpus."""
    part = tiny.part(batch=4, epochs=400, **SGD)
    command = [
        sys.executable, str(CHECKOUT / "workflow/scripts/train.py"), "--part", part.text(), "--threads", "2",
        "--runtime", json.dumps({"device": "cpu", "precision": "fp32", "workers": 1}), "--log", str(tmp_path / "log"),
        "--state", str(tmp_path / "state"), "--samples", str(data.samples), "--pixels", str(data.pixels),
        "--folds", str(data.folds), "--weights", str(tmp_path / "weights.safetensors"),
        "--history", str(tmp_path / "history.parquet"),
    ]  # fmt: skip
    job = subprocess.Popen([*command, "--gpus", "2"])
    log, deadline = tmp_path / "log", time.monotonic() + 120
    while not (log.exists() and "epoch 2 of 400" in log.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    job.terminate()
    assert job.wait(60) == 75
    text = log.read_text()
    assert text.count("epoch 1 of 400") == 1 and text.count("SIGTERM: progress is saved") == 1
    assert "Traceback" not in text and "Warning" not in text
    assert not (tmp_path / "weights.safetensors").exists()
    (state,) = (tmp_path / "state").iterdir()
    done = tiny.trainer(state, data, part)
    done._resume()
    assert len(done.progress.history) >= 2


# --------------------------------------------------------------------------------------------------------------- pieces


def test_every_row_of_every_batch_is_some_processs_own():
    arguments = (Sampler(shuffle={}), torch.arange(23).numpy() % 2 == 0, 5, (0, "stage", "run", "phase", "0"), 3)
    whole = SharedOrders(*arguments)
    shares = [SharedOrders(*arguments, Ranks(rank, 3)) for rank in range(3)]
    for epoch in range(3):
        for batch, *own in zip(whole.batches(epoch), *(share.batches(epoch) for share in shares), strict=True):
            assert [len(rows) for rows in own] == [2, 2, 1]
            assert sorted(itertools.chain(*own)) == sorted(batch)
        assert {share.batch_size(epoch) for share in shares} == {5}


def test_a_batch_with_fewer_rows_than_processes_is_refused():
    arguments = (Sampler(shuffle={}), torch.zeros(23).numpy() > 0, 2, (0, "stage", "run", "phase", "0"), 3)
    with pytest.raises(
        TrainingError, match="stage/run/phase, fold 0: a batch of 2 can't be divided among 3 GPUs; write"
    ):
        SharedOrders(*arguments, Ranks(0, 3))


@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_every_process_validates_equally_many_rows(count):
    rows = [7, 3, 5]
    shares = [Ranks(rank, count).own(Ranks(rank, count).padded(rows)) for rank in range(count)]
    assert len({len(share) for share in shares}) == 1
    interleaved = [share[index] for index in range(len(shares[0])) for share in shares]
    assert interleaved[:3] == rows and set(interleaved) == set(rows)


def test_on_cuda_normalisation_becomes_torchs_own_and_keeps_names_and_activations():
    torch.manual_seed(0)
    network = build(tiny.network(encoder="tu-test_efficientnet"), 1, 1, pretrained=False).eval()
    images = torch.randint(0, 255, (2, 32, 32, 1), dtype=torch.uint8)
    names, parameters, expected = list(network.state_dict()), list(network.parameters()), network(images)
    distributed._normalise_together(network, torch.device("cuda"))
    layers = [layer for layer in network.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    assert layers and all(isinstance(layer, nn.SyncBatchNorm) for layer in layers)
    assert list(network.state_dict()) == names
    assert all(one is other for one, other in zip(parameters, network.parameters(), strict=True))
    torch.testing.assert_close(network(images), expected)
