"""Processes that belong together: started, told of signals, ended together, with one exit status."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress

import pytest

from stagepipe import launch

# Each process writes its id to the folder, then does what the test says for its rank.
RANK = """
import os, signal, sys, time
from pathlib import Path
from stagepipe import launch
launch.end_with_parent()
place, folder = launch.place(), Path(sys.argv[1])
signals = []


def gone(rank):
    try:
        state = Path(f"/proc/{(folder / f'rank{rank}').read_text()}/stat").read_text()
        return state.rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return (folder / f"rank{rank}").exists()


for number in launch.FORWARDED:
    signal.signal(number, lambda number, frame: signals.append(number))
assert (place.rank == 0) == os.path.exists(f"/proc/self/fd/{place.listener}")
(folder / f"{place.rank}.new").write_text(str(os.getpid()))
(folder / f"{place.rank}.new").rename(folder / f"rank{place.rank}")
exec(sys.argv[2 + place.rank])
"""
PARENT = """
import sys
from stagepipe import launch
sys.exit(launch.run(sys.argv[1:], 2))
"""
WAIT = "time.sleep(60)"
FOLLOW = "while not gone(1): time.sleep(0.01)\ntime.sleep(0.3)\nsys.exit(1)"
LEAVE = "while not signals: time.sleep(0.01)\nsys.exit(75)"


def command(folder, *ranks: str) -> list[str]:
    return [sys.executable, "-c", RANK, str(folder), *ranks]


def parent(folder, *ranks: str) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", PARENT, *command(folder, *ranks)])


def processes(folder) -> list[int]:
    """Ids of both ranks, once they are there."""
    deadline = time.monotonic() + 30
    paths = [folder / f"rank{rank}" for rank in range(2)]
    while not all(path.exists() for path in paths) and time.monotonic() < deadline:
        time.sleep(0.01)
    return [int(path.read_text()) for path in paths]


def gone(process: int, seconds: float = 10) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return True
        with suppress(FileNotFoundError), open(f"/proc/{process}/stat") as state:
            if state.read().rpartition(")")[2].split()[0] == "Z":  # dead, and only not yet waited for
                return True
        time.sleep(0.01)
    return False


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("", "", 0),
        ("time.sleep(0.5)", "", 0),  # the others end as soon as all epochs are done
        ("sys.exit(75)", "sys.exit(75)", 75),
        ("time.sleep(0.5); sys.exit(75)", "", 75),
        ("sys.exit(75)", "time.sleep(0.5); sys.exit(3)", 3),
        ("sys.exit(1)", WAIT, 1),
    ],
)
def test_one_status_stands_for_all(first, second, expected, tmp_path, monkeypatch):
    monkeypatch.setattr(launch, "GRACE", 0.5)
    assert launch.run(command(tmp_path, first, second), 2) == expected


def test_a_process_that_dies_is_named_and_ends_the_others(tmp_path, monkeypatch, caplog):
    # The other one ends by what follows from that, a little later: it isn't the first.
    status = launch.run(command(tmp_path, FOLLOW, "os.kill(os.getpid(), signal.SIGKILL)"), 2)
    assert status == 128 + signal.SIGKILL
    assert "process 2 of 2 was ended by SIGKILL" in caplog.text
    assert all(gone(process) for process in processes(tmp_path))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_reaches_all(number, tmp_path):
    job = parent(tmp_path, LEAVE, LEAVE)
    processes(tmp_path)
    job.send_signal(number)
    assert job.wait(30) == 75


def test_a_signal_before_they_can_save_ends_them(tmp_path):
    job = parent(tmp_path, f"signal.signal(signal.SIGTERM, signal.SIG_DFL); (folder / 'ready').touch(); {WAIT}", LEAVE)
    ranks = processes(tmp_path)
    while not (tmp_path / "ready").exists():
        time.sleep(0.01)
    job.send_signal(signal.SIGTERM)
    assert job.wait(30) == 128 + signal.SIGTERM
    assert all(gone(process) for process in ranks)


def test_a_killed_parent_takes_them_with_it(tmp_path):
    job = parent(tmp_path, WAIT, WAIT)
    ranks = processes(tmp_path)
    job.kill()
    job.wait()
    assert all(gone(process) for process in ranks)


def test_a_process_of_its_own_has_no_place():
    assert launch.place() is None
    launch.end_with_parent()
