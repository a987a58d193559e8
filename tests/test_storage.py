"""Files and folders appear whole or not at all; what a killed writer left goes; a full disk is a sentence."""

import errno
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Never

import pyarrow as pa
import pytest
from safetensors import SafetensorError

from stagepipe import storage
from stagepipe.artefacts import TableWriter, verify, write_table
from stagepipe.errors import StorageError
from stagepipe.storage import (
    atomic,
    atomic_folder,
    check_writable,
    explained,
    fault,
    forget_the_future,
    publish,
)


def failing(error: Exception) -> Callable[..., Never]:
    """A function that takes anything and raises."""

    def fail(*_: object, **__: object) -> Never:
        raise error

    return fail


def test_a_file_is_there_whole_or_not_at_all(tmp_path):
    with pytest.raises(ZeroDivisionError), atomic(tmp_path / "f") as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())
    with atomic(tmp_path / "f") as temporary:
        temporary.write_text("whole")
        assert not (tmp_path / "f").exists()
    assert os.listdir(tmp_path) == ["f"]
    assert (tmp_path / "f").read_text() == "whole"


def test_a_folder_is_there_whole_or_not_at_all(tmp_path):
    with pytest.raises(ZeroDivisionError), atomic_folder(tmp_path / "raw") as temporary:
        (temporary / "images").mkdir(parents=True)
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())
    with atomic_folder(tmp_path / "raw") as temporary:
        temporary.mkdir()
        (temporary / "a").write_text("x")
    assert os.listdir(tmp_path) == ["raw"]
    assert os.listdir(tmp_path / "raw") == ["a"]


def test_files_follow_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        with atomic(tmp_path / "f") as temporary:
            temporary.write_text("x")
    finally:
        os.umask(before)
    assert (tmp_path / "f").stat().st_mode & 0o777 == 0o640


def test_publishing_shares_the_bytes_and_falls_back_to_a_copy(tmp_path, monkeypatch):
    table = tmp_path / "t.parquet"
    write_table(table, pa.table({"x": [1]}))
    publish(table, tmp_path / "link.parquet")
    assert (tmp_path / "link.parquet").stat().st_ino == table.stat().st_ino
    monkeypatch.setattr(storage.os, "link", failing(OSError("other device")))
    publish(table, tmp_path / "copy.parquet")
    assert verify(tmp_path / "copy.parquet") == verify(table)
    assert len(list(tmp_path.iterdir())) == 3


# -------------------------------------------------------------------------------------------------------- other writers

LIVES = """
import sys, time
from stagepipe.storage import atomic
with atomic(sys.argv[1]) as temporary:
    temporary.write_text("other")
    print("writing", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def writer(tmp_path):
    """Another process in the middle of writing `f[1]`, a name that is a pattern, too."""
    words = [sys.executable, "-c", LIVES, str(tmp_path / "f[1]")]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
        yield process
        process.kill()


def test_what_a_killed_writer_left_is_removed_by_the_next(tmp_path, writer):
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    assert [name.endswith(".part") for name in os.listdir(tmp_path)] == [True]
    # A kill between the folder and its lock leaves a folder without one.
    (tmp_path / ".f[1].x.part").mkdir()
    (tmp_path / ".f.x.part").mkdir()
    with atomic(tmp_path / "f[1]") as temporary:
        temporary.write_text("mine")
    assert sorted(os.listdir(tmp_path)) == [".f.x.part", "f[1]"]


def test_a_living_writer_is_left_alone(tmp_path, writer):
    with atomic(tmp_path / "f[1]") as temporary:
        temporary.write_text("mine")
    assert (tmp_path / "f[1]").read_text() == "mine"
    writer.communicate("\n")
    assert writer.returncode == 0
    assert (tmp_path / "f[1]").read_text() == "other"
    assert os.listdir(tmp_path) == ["f[1]"]


def write_often(path: str, text: str) -> None:
    for _ in range(300):
        with atomic(path) as temporary:
            temporary.write_text(text)


def test_writers_of_one_target_never_disturb_one_another(tmp_path):
    processes = [
        get_context("fork").Process(target=write_often, args=(str(tmp_path / "f"), text * 1000)) for text in "ab"
    ]
    for process in processes:
        process.start()
    seen = set()
    while any(process.is_alive() for process in processes):
        if (tmp_path / "f").exists():
            seen.add((tmp_path / "f").read_text())
    assert [process.exitcode for process in processes] == [0, 0]
    assert seen <= {"a" * 1000, "b" * 1000}
    assert os.listdir(tmp_path) == ["f"]


@pytest.mark.parametrize("removed", [False, True])
def test_a_folder_that_another_writer_takes_for_a_left_one_is_not_used(removed, tmp_path, monkeypatch):
    """The other one has its lock and removes it: a moment later, or already."""
    made, taken, original = [], [], storage.tempfile.mkdtemp

    def mkdtemp(**keys: Any) -> str:
        made.append(Path(original(**keys)))
        if len(made) == 1:
            taken.append(os.open(made[0] / "lock", os.O_RDWR | os.O_CREAT))
            fcntl.flock(taken[0], fcntl.LOCK_EX)
            if removed:
                shutil.rmtree(made[0])
        return str(made[-1])

    monkeypatch.setattr(storage.tempfile, "mkdtemp", mkdtemp)
    with atomic(tmp_path / "f") as temporary:
        temporary.write_text("mine")
        assert temporary.parent == made[1]
        shutil.rmtree(made[0], ignore_errors=True)
    os.close(taken[0])
    assert (tmp_path / "f").read_text() == "mine" and os.listdir(tmp_path) == ["f"]


def test_what_another_user_left_stops_nobody(tmp_path, monkeypatch):
    (tmp_path / ".f.x.part").mkdir()
    original = os.open

    def open_own(path: Any, *arguments: Any, **keys: Any) -> int:
        if ".f.x.part" in str(path):
            raise PermissionError(errno.EACCES, "no", str(path))
        return original(path, *arguments, **keys)

    monkeypatch.setattr(storage.os, "open", open_own)
    with atomic(tmp_path / "f") as temporary:
        temporary.write_text("mine")
    assert sorted(os.listdir(tmp_path)) == [".f.x.part", "f"]


# ------------------------------------------------------------------------------------------------------- the disk's no


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENOSPC, "no"), "here: the disk is full; make room"),
        (OSError(errno.ENOSPC, "no", "a"), "a: the disk is full"),
        (OSError(errno.ENOSPC, "no", "source", None, "target"), "target: the disk is full"),
        (OSError(errno.ENOSPC, "no", "out/.a.x.part/a"), "here: the disk is full"),
        (PermissionError(errno.EACCES, "no", b"a"), "this user lacks the permission"),
        (OSError(errno.EROFS, "no"), "here: can't be written, its file system is read-only"),
        (SafetensorError("I/O error: No space left on device (os error 28)"), "here: the disk is full"),
        (FileNotFoundError(errno.ENOENT, "no", "a"), None),
        (ValueError("28"), None),
    ],
)
def test_errors_of_the_disk_are_sentences(error, message):
    found = fault(error, "here")
    assert found == message or message in found
    with pytest.raises(StorageError if message else type(error)), explained("here"):
        raise error


def test_a_table_whose_end_finds_no_room_leaves_nothing(tmp_path, monkeypatch):
    target = tmp_path / "t.parquet"
    write_table(target, pa.table({"x": [1]}))
    monkeypatch.setattr(pa.parquet.ParquetWriter, "close", failing(OSError(errno.ENOSPC, "no")))
    with pytest.raises(StorageError, match=r"t\.parquet: the disk is full"):
        write_table(target, pa.table({"x": [2]}))
    with pytest.raises(ZeroDivisionError), TableWriter(target, pa.schema({"x": pa.int64()})):
        raise ZeroDivisionError
    assert os.listdir(tmp_path) == ["t.parquet"]
    verify(target)


def test_a_table_that_cannot_begin_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(pa.parquet, "ParquetWriter", failing(OSError(errno.EDQUOT, "no")))
    with pytest.raises(StorageError, match="quota"):
        write_table(tmp_path / "t.parquet", pa.table({"x": [2]}))
    assert not list(tmp_path.iterdir())


def test_a_folder_to_write_to_is_tried(tmp_path, monkeypatch):
    check_writable(tmp_path)
    check_writable(tmp_path / "not yet")
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(storage.tempfile, "TemporaryFile", failing(OSError(errno.EROFS, "no", "/a/.x.part")))
    with pytest.raises(StorageError, match=r"^here: can't be written, its file system is read-only"):
        check_writable(Path("here") / "not yet")


def test_only_times_ahead_of_the_clock_are_set_back(tmp_path):
    for name, moment in (("past", 1000), ("future", time.time() + 1e6)):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (moment, moment))
    (tmp_path / "gone").symlink_to("nowhere")
    forget_the_future(tmp_path)
    assert (tmp_path / "past").stat().st_mtime == 1000
    assert 0 <= time.time() - (tmp_path / "future").stat().st_mtime < 60
