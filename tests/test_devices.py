"""Devices that real processes claim, one each or shared, from a fake nvidia-smi."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from stagepipe import devices
from stagepipe.errors import StagepipeError
from stagepipe.recipe.model import Runtime

A, B, C = (f"GPU-{letter * 8}-1111-2222-3333-444444444444" for letter in "abc")
SLICES = [f"MIG-{digit * 8}-5555-6666-7777-888888888888" for digit in "12"]
CLAIM = """
import logging, os, sys
from stagepipe.devices import claimed
from stagepipe.recipe.model import Runtime
logging.basicConfig(level=logging.WARNING, stream=sys.stdout, format="%(message)s")
count, sharing = map(int, sys.argv[1:])
with claimed(Runtime(jobs_per_gpu=sharing), count) as mine:
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ",".join(mine)
    if os.fork() == 0:  # as a loader worker does; it must not keep the device
        sys.stdin.read()
        os._exit(0)
    print(*mine, flush=True)
    sys.stdin.read()
"""


def listing(*uuids: str) -> str:
    """What `nvidia-smi -L` prints for these GPUs and slices of GPUs."""
    gpus = iter(range(len(uuids)))
    return "\n".join(
        f"  MIG 1g.10gb     Device  0: (UUID: {uuid})"
        if uuid.startswith("MIG")
        else f"GPU {next(gpus)}: NVIDIA H100 80GB HBM3 (UUID: {uuid})"
        for uuid in uuids
    )


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Say which GPUs there are; all locks lie in a folder of the test."""
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(devices.tempfile, "tempdir", None)
    monkeypatch.delenv(devices.VISIBLE, raising=False)

    def has(*uuids: str) -> None:
        program = tmp_path / "nvidia-smi"
        program.write_text(f'#!/bin/sh\n[ "$1" = -L ] || exit 2\ncat <<END\n{listing(*uuids)}\nEND\n')
        program.chmod(0o755)

    yield has
    monkeypatch.setattr(devices.tempfile, "tempdir", None)


class Job:
    """A process that claims devices and holds them until it is told to end."""

    def __init__(self, count: int = 1, sharing: int = 1) -> None:
        command = [sys.executable, "-c", CLAIM, str(count), str(sharing)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def says(self) -> str:
        """Its next line: the devices it got, or that it waits."""
        return self.process.stdout.readline().strip()

    def kill(self) -> None:
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def __enter__(self) -> "Job":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


def test_each_job_gets_a_device_of_its_own_and_the_next_waits_until_one_dies(machine):
    machine(A, B)
    with Job() as first, Job() as second:
        assert {first.says(), second.says()} == {A, B}
        with Job() as third:
            waits = third.says()
            assert "no GPU is free for this job" in waits and "waiting for one" in waits
            assert f"process {first.process.pid}" in waits and f"process {second.process.pid}" in waits
            held = devices.visible()
            second.kill()  # its child lives on, with all of its files open
            assert third.says() in held
            with Job() as fourth:
                assert f"process {third.process.pid}" in fourth.says()
                first.kill()
                assert fourth.says() in held


def test_jobs_share_a_device_once_every_device_has_one(machine):
    machine(A, B)
    with Job(sharing=2) as one, Job(sharing=2) as two:
        assert {one.says(), two.says()} == {A, B}
        with Job(sharing=2) as three, Job(sharing=2) as four:
            assert {three.says(), four.says()} == {A, B}
            with Job(sharing=2) as five:
                assert "waiting" in five.says()
                four.kill()
                assert five.says() in (A, B)


def test_a_job_that_does_not_share_waits_for_those_that_do(machine):
    machine(A)
    with Job(sharing=4) as small:
        assert small.says() == A
        with Job() as large:
            assert f"process {small.process.pid}" in large.says()
            small.kill()
            assert large.says() == A
            with Job(sharing=4) as next_one:
                assert f"process {large.process.pid}" in next_one.says()
                large.kill()
                assert next_one.says() == A


def test_several_devices_come_all_at_once_or_not_at_all(machine):
    machine(A, B, C)
    with Job(count=2) as pair:
        assert pair.says() == f"{A} {B}"
        with Job(count=2) as other:
            assert "waiting" in other.says()
            with Job() as single:  # what the waiting pair didn't keep
                assert single.says() == C
                pair.kill()
                assert other.says() == f"{A} {B}"


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        (None, [A, B]),
        ("1", [B]),
        ("1,0", [B, A]),
        (B, [B]),
        ("GPU-b", [B]),
        (SLICES[0], [SLICES[0]]),
        ("0,-1,1", [A]),
        ("", []),
    ],
)
def test_cuda_visible_devices_say_which_ones(visible, expected, machine, monkeypatch):
    machine(A, B)
    if visible is not None:
        monkeypatch.setenv(devices.VISIBLE, visible)
    assert devices.visible() == expected


def test_slices_stand_for_their_gpu(machine, monkeypatch):
    machine(A, *SLICES, B)
    assert devices.visible() == [*SLICES, B]
    monkeypatch.setenv(devices.VISIBLE, "0")
    assert devices.visible() == SLICES


@pytest.mark.parametrize("visible", ["2", "GPU-x", "GPU-"])
def test_a_device_that_is_not_there_is_named(visible, machine, monkeypatch):
    machine(A, B)
    monkeypatch.setenv(devices.VISIBLE, visible)
    with pytest.raises(
        StagepipeError, match=rf"CUDA_VISIBLE_DEVICES: '{visible}' names [02] devices; .*0: {A}, 1: {B}"
    ):
        devices.visible()


@pytest.mark.parametrize(
    ("there", "count", "message"),
    [
        ([A], 2, "a job wants 2 GPUs and 1 can be used here .*write --set-resources train:gpu=1"),
        ([A, *SLICES], 2, r"slices of GPUs \(MIG\).*write --set-resources train:gpu=1"),
    ],
)
def test_more_devices_than_there_are(there, count, message, machine):
    machine(*there)
    with pytest.raises(StagepipeError, match=message), devices.claimed(Runtime(), count):
        pass


def test_nothing_is_claimed_on_a_cpu(machine, tmp_path, monkeypatch, caplog):
    machine(A)
    with devices.claimed(Runtime(device="cpu"), 2) as mine:
        assert mine == []
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho no driver >&2\nexit 9\n")
    with devices.claimed(Runtime(), 2) as mine:
        assert mine == [] and "nvidia-smi lists no devices: no driver" in caplog.text
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(devices, "DRIVER", tmp_path)
    with devices.claimed(Runtime(), 1) as mine:
        assert mine == [] and "nvidia-smi is not on PATH" in caplog.text
    assert not list(tmp_path.glob("stagepipe-gpus-*"))


@pytest.mark.parametrize("trap", ["open to all", "a link"])
def test_a_folder_that_others_can_write_to_is_refused(trap, machine, tmp_path):
    machine(A)
    folder = tmp_path / f"stagepipe-gpus-{os.getuid()}"
    if trap == "a link":
        Path(tmp_path / "elsewhere").mkdir(mode=0o700)
        folder.symlink_to(tmp_path / "elsewhere")
    else:
        folder.mkdir()
        folder.chmod(0o777)
    with pytest.raises(StagepipeError, match="remove it, or set TMPDIR"), devices.claimed(Runtime(), 1):
        pass
