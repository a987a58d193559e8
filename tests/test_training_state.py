"""A training killed at any moment ends with the bits of one that was never stopped."""

import logging
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest
import tiny
from tiny import Trained

from stagepipe.locks import held
from stagepipe.training import loop
from stagepipe.training.state import TrainingState

EPOCHS, STEPS = 4, 4
# Cycles, momentum, a schedule that looks back at scores, random depth: everything that a resume could lose.
PART = tiny.part(
    batch=3,
    epochs=2,
    cycles=2,
    optimizer="adamw",
    schedule={"plateau": {"factor": 0.5, "patience": 1}},
    select={"top": {"k": 2}},
    freeze_encoder=1,
    network=tiny.network(arguments=tiny.network().arguments | {"drop_path_rate": 0.5}),
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny.survey(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory) -> Trained:
    """Trained without a stop."""
    done = tiny.train(tmp_path_factory.mktemp("whole"), data, PART)
    assert [row["epoch"] for row in done.history] == list(range(EPOCHS))
    return done


def process(target, *arguments) -> multiprocessing.Process:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["stagepipe.training", "stagepipe.data.ingest", "stagepipe.data.synthetic"])
    started = context.Process(target=target, args=arguments)
    started.start()
    return started


def epochs_said(text: str) -> list[int]:
    return [int(line.split()[1]) for line in text.splitlines() if line.startswith("epoch ")]


def same(one: Trained, other: Trained) -> bool:
    return one.bits() == other.bits() and one.losses() == other.losses()


def log_of(caplog) -> str:
    return "\n".join(record.getMessage() for record in caplog.records)


# ------------------------------------------------------------------------------------------------------------- signals


def test_a_killed_process_loses_no_more_than_its_epoch(data, whole, tmp_path, caplog):
    child = process(tiny.train_signalled, tmp_path, data, PART, 2, signal.SIGKILL, 2, 1)
    child.join(60)
    assert child.exitcode == -signal.SIGKILL
    assert epochs_said((tmp_path / "log").read_text()) == [1, 2]
    (tmp_path / "state" / ".epoch_00002.safetensors.x.part").mkdir()
    caplog.set_level(logging.INFO)
    done = tiny.train(tmp_path, data, PART)
    # The dead process's loader workers live on for seconds; the lock must not be theirs.
    assert "still works here" not in log_of(caplog)
    assert "resuming, epoch 3, 0 of 4 batches done" in log_of(caplog)
    assert epochs_said(log_of(caplog)) == [3, 4]
    assert same(done, whole)
    assert sorted(path.name for path in done.state.iterdir()) == ["history.parquet", "lock", "weights.safetensors"]


def test_a_terminated_process_saves_in_mid_epoch_and_exits_with_75(data, whole, tmp_path, caplog):
    child = process(tiny.train_signalled, tmp_path, data, PART, 2, signal.SIGTERM, 1, 2)
    child.join(60)
    assert child.exitcode == 75
    assert "SIGTERM: progress is saved, epoch 2, 3 of 4 batches done" in (tmp_path / "log").read_text()
    caplog.set_level(logging.INFO)
    done = tiny.train(tmp_path, data, PART)
    assert "resuming, epoch 2, 3 of 4 batches done" in log_of(caplog)
    assert same(done, whole)


@pytest.mark.parametrize(
    ("number", "epoch", "step"),
    [
        (signal.SIGUSR1, 0, 0),
        (signal.SIGTERM, 1, STEPS - 1),  # the last batch of a cycle: only validation is left
        (signal.SIGUSR1, 2, 0),  # the first of the next cycle
        (signal.SIGTERM, EPOCHS - 1, STEPS - 1),
    ],
)
def test_a_signal_at_any_batch_changes_nothing(number, epoch, step, data, whole, tmp_path):
    handlers = [signal.getsignal(name) for name in (signal.SIGTERM, signal.SIGUSR1)]
    with tiny.signalled(number, epoch, step), pytest.raises(SystemExit) as stopped:
        tiny.train(tmp_path, data, PART)
    assert stopped.value.code == 75
    assert handlers == [signal.getsignal(name) for name in (signal.SIGTERM, signal.SIGUSR1)]
    assert not (tmp_path / "weights.safetensors").exists()
    assert same(tiny.train(tmp_path, data, PART), whole)


def test_a_signal_waits_for_the_end_of_accumulated_batches(data, tmp_path, caplog):
    accumulating = PART.model_copy(update={"phase": PART.phase.model_copy(update={"accumulate": 3, "epochs": 1})})
    never_stopped = tiny.train(tmp_path / "whole", data, accumulating)
    for step, saved in ((0, 3), (3, 4)):
        caplog.clear()
        with tiny.signalled(signal.SIGTERM, 0, step), pytest.raises(SystemExit):
            tiny.train(tmp_path / str(step), data, accumulating)
        assert f"epoch 1, {saved} of 4 batches done" in log_of(caplog)
        assert same(tiny.train(tmp_path / str(step), data, accumulating), never_stopped)


# --------------------------------------------------------------------------- epochs of sliding length, averaged weights

# An epoch of 2, 3 and 5 batches; the weights of two of them are averaged in the end.
SLIDING = tiny.part(
    batch=3,
    epochs=3,
    accumulate=2,
    schedule={"cosine": {"per": "step"}},
    sampler={"balanced": {"positive": [0.8, 0.4], "length": "positives"}},
    select={"top": {"k": 2, "average": "weights"}},
    network=tiny.network(arguments=tiny.network().arguments | {"drop_path_rate": 0.5}),
)


@pytest.fixture(scope="module")
def sliding(data, tmp_path_factory) -> Trained:
    """Trained without a stop."""
    done = tiny.train(tmp_path_factory.mktemp("sliding"), data, SLIDING)
    assert [row["images"] for row in done.history] == [6, 9, 15]
    return done


@pytest.mark.parametrize(
    ("epoch", "step", "position"),
    [(0, 1, "epoch 1, 2 of 2"), (1, 0, "epoch 2, 2 of 3"), (2, 3, "epoch 3, 4 of 5"), (2, 4, "epoch 3, 5 of 5")],
)
def test_a_signal_in_an_epoch_of_another_length_changes_nothing(epoch, step, position, data, sliding, tmp_path, caplog):
    with tiny.signalled(signal.SIGTERM, epoch, step), pytest.raises(SystemExit):
        tiny.train(tmp_path, data, SLIDING)
    assert f"SIGTERM: progress is saved, {position} batches done" in log_of(caplog)
    caplog.set_level(logging.INFO)
    assert same(tiny.train(tmp_path, data, SLIDING, workers=2), sliding)
    assert f"resuming, {position} batches done" in log_of(caplog)


def test_a_killed_process_goes_on_with_the_next_epochs_length(data, sliding, tmp_path):
    child = process(tiny.train_signalled, tmp_path, data, SLIDING, 2, signal.SIGKILL, 1, 1)
    child.join(60)
    assert child.exitcode == -signal.SIGKILL
    assert same(tiny.train(tmp_path, data, SLIDING), sliding)


def test_a_signal_while_weights_are_averaged_changes_nothing(data, sliding, tmp_path, monkeypatch, caplog):
    original = loop.estimate_statistics

    def estimate_statistics(network, forward, batches):
        def signalled():
            for images in batches:
                os.kill(os.getpid(), signal.SIGTERM)
                yield images

        original(network, forward, signalled())

    with monkeypatch.context() as patched, pytest.raises(SystemExit) as stopped:
        patched.setattr(loop, "estimate_statistics", estimate_statistics)
        tiny.train(tmp_path, data, SLIDING)
    assert stopped.value.code == 75
    assert "SIGTERM: progress is saved, all epochs done" in log_of(caplog)
    assert not (tmp_path / "weights.safetensors").exists()
    caplog.clear()
    caplog.set_level(logging.INFO)
    assert same(tiny.train(tmp_path, data, SLIDING), sliding)
    assert "resuming, all epochs done" in log_of(caplog) and epochs_said(log_of(caplog)) == []


@pytest.mark.parametrize("after", [False, True])
def test_a_crash_while_weights_are_averaged_changes_nothing(after, data, sliding, tmp_path):
    with pytest.MonkeyPatch.context() as patched:
        crash_at(patched, loop, "estimate_statistics", 0, after)
        with pytest.raises(Crash):
            tiny.train(tmp_path, data, SLIDING)
    assert same(tiny.train(tmp_path, data, SLIDING), sliding)


# ------------------------------------------------------------------------------------------------------------- crashes


class Crash(Exception):
    """Stands for the end of the process."""


def crash_at(monkeypatch, owner, name: str, call: int, after: bool) -> None:
    """Crash before or after the given call (from 0) of a function."""
    original, calls = getattr(owner, name), []

    def function(*arguments, **options):
        calls.append(name)
        if len(calls) - 1 == call and not after:
            raise Crash
        result = original(*arguments, **options)
        if len(calls) - 1 == call:
            raise Crash
        return result

    monkeypatch.setattr(owner, name, function)


@pytest.mark.parametrize(
    ("owner", "name", "call", "after", "left"),
    [
        (TrainingState, "save_epoch", 1, True, [2, 3, 4]),  # weights that no progress names yet
        (TrainingState, "save", 0, False, [1, 2, 3, 4]),
        (TrainingState, "prune", 1, False, [3, 4]),
        (loop, "write_table", 0, False, []),
        (loop, "save_weights", 0, False, []),
        (loop, "save_weights", 0, True, []),  # finished, but not cleared
        (loop, "publish", 1, False, []),  # the history is out, the weights aren't
    ],
)
def test_a_crash_at_any_file_changes_nothing(owner, name, call, after, left, data, whole, tmp_path, caplog):
    with pytest.MonkeyPatch.context() as patched:
        crash_at(patched, owner, name, call, after)
        with pytest.raises(Crash):
            tiny.train(tmp_path, data, PART)
    assert not (tmp_path / "weights.safetensors").exists()
    caplog.set_level(logging.INFO)
    done = tiny.train(tmp_path, data, PART)
    assert epochs_said(log_of(caplog)) == left
    assert same(done, whole)
    assert sorted(path.name for path in done.state.iterdir()) == ["history.parquet", "lock", "weights.safetensors"]


def test_a_crash_while_progress_is_written_keeps_the_one_before(data, whole, tmp_path, monkeypatch, caplog):
    original, targets = Path.replace, []

    def replace(path: Path, target: Path) -> Path:
        targets.append(Path(target).name)
        if targets.count("progress.pt") == 3:
            raise Crash
        return original(path, target)

    with monkeypatch.context() as patched, pytest.raises(Crash):
        patched.setattr(Path, "replace", replace)
        tiny.train(tmp_path, data, PART)
    caplog.set_level(logging.INFO)
    assert same(tiny.train(tmp_path, data, PART), whole)
    assert epochs_said(log_of(caplog)) == [3, 4]


@pytest.mark.parametrize("name", ["progress.pt", "epoch_00001.safetensors"])
@pytest.mark.parametrize("damage", ["flipped", "truncated"])
def test_a_damaged_state_is_warned_of_and_trained_anew(name, damage, data, whole, tmp_path, caplog):
    with tiny.signalled(signal.SIGTERM, 2, 1), pytest.raises(SystemExit):
        tiny.train(tmp_path, data, PART)
    path = tmp_path / "state" / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content if damage == "flipped" else content[: len(content) // 2])
    caplog.clear()
    assert same(tiny.train(tmp_path, data, PART), whole)
    (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert str(path) in warning and "training starts from the beginning" in warning


# ------------------------------------------------------------------------------------------------------------ finished


def test_a_finished_phase_is_published_again_without_training(data, whole, tmp_path, monkeypatch):
    done = tiny.train(tmp_path, data, PART)
    done.weights.unlink()
    (tmp_path / "history.parquet").unlink()
    monkeypatch.setattr(loop, "Trainer", None)
    assert same(tiny.train(tmp_path, data, PART), whole)


def test_a_damaged_finished_phase_is_trained_anew(data, whole, tmp_path, caplog):
    done = tiny.train(tmp_path, data, PART)
    content = done.weights.read_bytes()
    done.weights.unlink()
    (done.state / "weights.safetensors").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert same(tiny.train(tmp_path, data, PART), whole)
    assert "does not match its own checksum" in log_of(caplog)


def test_a_second_process_waits_and_publishes_the_first_ones_result(data, whole, tmp_path):
    log = tmp_path / "log"
    with held(tmp_path / "state"):
        child = process(tiny.train_logged, tmp_path, data, PART)
        deadline = time.monotonic() + 60
        while not (log.exists() and "waiting" in log.read_text()) and time.monotonic() < deadline:
            time.sleep(0.02)
        for name in ("weights.safetensors", "history.parquet"):
            (tmp_path / "state" / name).write_bytes((whole.state / name).read_bytes())
    child.join(60)
    assert child.exitcode == 0
    assert f"process {os.getpid()} on" in log.read_text()
    assert epochs_said(log.read_text()) == []
    assert same(Trained(tmp_path), whole)


def test_what_another_recipe_finished_is_removed_and_what_it_began_is_kept(tmp_path):
    states = {name: TrainingState(tmp_path / "fold_0" / name) for name in ("finished", "begun", "mine")}
    for state in states.values():
        state.folder.mkdir(parents=True)
        state.save({"epoch": 1})
    states["finished"].weights.write_bytes(b"weights")
    states["mine"].weights.write_bytes(b"weights")
    states["mine"].remove_finished_siblings()
    assert sorted(path.name for path in (tmp_path / "fold_0").iterdir()) == ["begun", "mine"]
    assert states["begun"].load() == {"epoch": 1}
