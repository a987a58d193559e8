"""Files and folders that appear whole or not at all, and what keeps them from being written, in plain words.

What is being written lies in a private folder beside its target, `.<name>.<random>.part`, and moves out of it when it
is whole. The writer holds a lock of the kernel in that folder, which ends with its process: so the next writer of the
same target knows what a killed one has left, and removes it.
"""

import errno
import fcntl
import glob
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from stagepipe.errors import StorageError

AGAIN = "then run the same command again"
FAULTS = {
    errno.ENOSPC: f"the disk is full; make room, {AGAIN}",
    errno.EDQUOT: f"your quota of this disk is used up; make room, {AGAIN}",
    errno.EFBIG: f"is larger than files may become here; raise the limit (`ulimit -f`), {AGAIN}",
    errno.EROFS: f"can't be written, its file system is read-only; make it writable, {AGAIN}",
    errno.EACCES: f"can't be opened, this user lacks the permission; correct it, {AGAIN}",
    errno.EPERM: f"can't be changed, this user lacks the permission; correct it, {AGAIN}",
    errno.EIO: f"the disk can't read or write it (input/output error); check the disk, {AGAIN}",
}


def fault(error: BaseException, path: Path | str | None = None) -> str | None:
    """The message for an error of the disk or its permissions, None for any other error.

    `path` is the file at hand, for errors that don't name theirs.
    """
    number = error.errno if isinstance(error, OSError) else None
    # safetensors wraps the system's error in one of its own.
    if number is None and (found := re.search(r"\(os error (\d+)\)", str(error))):
        number = int(found[1])
    if number not in FAULTS:
        return None
    named = getattr(error, "filename2", None) or getattr(error, "filename", None)
    # Nobody knows the private folder that the file lay in.
    if named is None or any(piece.startswith(".") and piece.endswith(".part") for piece in Path(str(named)).parts):
        named = path or "a file"
    return f"{named}: {FAULTS[number]}"


@contextmanager
def explained(path: Path | str) -> Iterator[None]:
    """Raise errors of the disk as a StorageError that names the file; `path`, where they don't name their own."""
    try:
        yield
    except Exception as error:
        if message := fault(error, path):
            raise StorageError(message) from error
        raise


@contextmanager
def atomic(path: Path | str) -> Iterator[Path]:
    """Yield a path to write to; at success flush it to disk and rename it to `path`, at failure remove it.

    StorageError names `path` where the disk is full, read-only or lacks the permission.
    """
    path = Path(path)
    with explained(path), _private_folder(path) as folder:
        temporary = folder / path.name
        yield temporary
        with temporary.open("rb+") as written:
            os.fsync(written.fileno())
        # Some libraries make private files; artefacts follow the user's umask like any other file.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
        _sync_folder(path.parent)


@contextmanager
def atomic_folder(path: Path | str) -> Iterator[Path]:
    """Yield a folder still to be made that becomes `path` at success and vanishes at failure; StorageError as above."""
    path = Path(path)
    with explained(path), _private_folder(path) as folder:
        temporary = folder / path.name
        yield temporary
        temporary.replace(path)


def user_cache() -> Path:
    """`~/.cache/stagepipe`, below $XDG_CACHE_HOME where that is set. StorageError if there is no home."""
    cache = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(cache) if cache else Path.home() / ".cache") / "stagepipe"
    except RuntimeError as error:
        raise StorageError("there is no home folder; set XDG_CACHE_HOME to a folder for what may be deleted") from error


def check_writable(folder: Path) -> None:
    """StorageError if no file can be made in `folder`, or beside it while it isn't there yet."""
    place = folder if folder.is_dir() else folder.parent
    with explained(place), tempfile.TemporaryFile(prefix=".", suffix=".part", dir=place):
        pass


def forget_the_future(folder: Path | str) -> None:
    """Set the times of files below `folder` that lie ahead of the clock, which was wrong then or is now, to now.

    Snakemake takes no output from a job that is older than an input.
    """
    now = time.time()
    for parent, _, names in os.walk(folder):
        for path in (os.path.join(parent, name) for name in names):
            with suppress(FileNotFoundError):
                if os.lstat(path).st_mtime > now:
                    os.utime(path)


def publish(source: Path | str, target: Path | str) -> None:
    """Make `source` appear whole at `target` too, without a second copy on disk where the file system can."""
    with atomic(target) as temporary:
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)


@contextmanager
def _private_folder(path: Path) -> Iterator[Path]:
    """A new folder beside `path` that this process alone writes to; what killed ones have left is removed first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
        # Its writer lives, or has just ended, or is another user.
        with suppress(BlockingIOError, FileNotFoundError, PermissionError):
            if (lock := _lock(left)) is not None:
                shutil.rmtree(left, ignore_errors=True)
                os.close(lock)
    folder, lock = _locked_folder(path)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _locked_folder(path: Path) -> tuple[Path, int | None]:
    while True:
        folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent))
        # Before the lock was there, another writer of the same target may have taken the folder for one that is left:
        # it has the lock and removes the folder, or has done so.
        with suppress(BlockingIOError, FileNotFoundError):
            lock = _lock(folder)
            if folder.exists():
                return folder, lock
            if lock is not None:
                os.close(lock)


def _lock(folder: Path) -> int | None:
    """An open lock on the folder; None where the file system has no locks.

    BlockingIOError if another writer has it, FileNotFoundError if the folder is gone.
    """
    handle = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        # A lock of the open file, not of the process: closing another handle of it must not end it.
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(handle)
        if isinstance(error, BlockingIOError):
            raise
        return None
    return handle


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
