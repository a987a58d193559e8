"""Each job its own GPU: a free one is claimed with a lock of the kernel, which ends with the job's process.

Devices are known by their UUIDs, so that jobs whose device is called 0 alike (as SLURM calls them) don't stand in each
other's way. Nothing here imports torch or touches a device: what is claimed becomes the only thing that CUDA sees, and
CUDA reads that once, when it starts.
"""

import errno
import fcntl
import logging
import os
import re
import shutil
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

from stagepipe.errors import StagepipeError
from stagepipe.recipe.model import Runtime

LOG = logging.getLogger(__name__)
VISIBLE = "CUDA_VISIBLE_DEVICES"
UNITS = 720720
"""Bytes of a device's lock file: a number that 1, 2, ... 16 jobs can share evenly."""
POLL = 1.0
"""seconds between two looks for a free device"""
FLOCK = "hhqqi4x"
"""struct flock of 64-bit Linux: type, whence, start, length, process"""
DRIVER = Path("/proc/driver/nvidia")


@contextmanager
def claimed(runtime: Runtime, count: int) -> Iterator[list[str]]:
    """Hold `count` devices, wait until they are free, and make them the only ones that CUDA sees; yield their UUIDs.

    Must come before CUDA starts. Up to `runtime.jobs_per_gpu` jobs share a device, each with devices that fewer others
    use where there are such. Several devices are taken all at once or not at all. Where there are none, or with
    `runtime.device: cpu`, nothing is claimed. StagepipeError if fewer than `count` are there, or if they are slices of
    a GPU (MIG), of which CUDA gives a process one.
    """
    found = [] if runtime.device == "cpu" else visible()
    if not found:
        yield []
        return
    _check(found, count)
    with ExitStack() as stack:
        mine = _wait_for(found, count, runtime.jobs_per_gpu, stack)
        os.environ[VISIBLE] = ",".join(mine)
        LOG.info("GPU %s", ", ".join(mine))
        yield mine


def visible() -> list[str]:
    """UUIDs of the GPUs, or of their MIG slices, that this process may use, in order.

    Numbers in CUDA_VISIBLE_DEVICES count as nvidia-smi counts. StagepipeError for what it doesn't list.
    """
    installed = _installed()
    wanted = os.environ.get(VISIBLE)
    if wanted is None or not installed:
        return [uuid for slices in installed for uuid in slices]
    chosen: list[str] = []
    for entry in filter(None, wanted.replace(" ", "").split(",")):
        if entry == "-1":  # CUDA stops here
            break
        chosen += [uuid for uuid in _named(entry, installed) if uuid not in chosen]
    return chosen


def _named(entry: str, installed: Sequence[Sequence[str]]) -> Sequence[str]:
    if entry.startswith("MIG-"):
        return [entry]
    if entry.isdigit() and int(entry) < len(installed):
        return installed[int(entry)]
    matching = [uuid for slices in installed for uuid in slices if not entry.isdigit() and uuid.startswith(entry)]
    if len(matching) != 1:
        there = ", ".join(f"{index}: {slices[0]}" for index, slices in enumerate(installed))
        raise StagepipeError(
            f"{VISIBLE}: {entry!r} names {len(matching)} devices; write a number or UUID that `nvidia-smi -L` lists "
            f"({there}), or unset it"
        )
    return matching


def _installed() -> list[list[str]]:
    """UUIDs by GPU: its own, or those of its MIG slices where it has been cut into some."""
    if not shutil.which("nvidia-smi"):
        if DRIVER.exists():
            LOG.warning("nvidia-smi is not on PATH: jobs can't tell the GPUs apart, and all use the first")
        return []
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    if listed.returncode:
        LOG.warning("nvidia-smi lists no devices: %s", (listed.stderr or listed.stdout).strip())
        return []
    devices: list[list[str]] = []
    whole = ""
    for name, uuid in re.findall(r"^\s*(GPU|MIG)\b.*\(UUID: ([^)\s]+)\)", listed.stdout, re.MULTILINE):
        if name == "GPU":
            whole = uuid
            devices.append([whole])
        else:
            devices[-1] = [*(other for other in devices[-1] if other != whole), uuid]
    return devices


def _check(found: Sequence[str], count: int) -> None:
    if count > len(found):
        raise StagepipeError(
            f"a job wants {count} GPUs and {len(found)} can be used here ({', '.join(found)}); write --set-resources "
            f"train:gpu={len(found)} (or the same in the profile)"
        )
    if count > 1 and any(uuid.startswith("MIG-") for uuid in found):
        raise StagepipeError(
            f"a job wants {count} GPUs, but these are slices of GPUs (MIG), of which CUDA gives a process one; write "
            "--set-resources train:gpu=1"
        )


def _wait_for(found: Sequence[str], count: int, sharing: int, stack: ExitStack) -> list[str]:
    folder = _folder()
    # The older form of a slice's name has slashes in it.
    names = {uuid: re.sub(r"[^\w.-]", "_", uuid) for uuid in found}
    files = {uuid: stack.enter_context((folder / name).open("a+b")) for uuid, name in names.items()}
    waiting = False
    while True:
        if mine := _take(folder, files, count, sharing):
            return mine
        if not waiting:
            holders = "; ".join(f"{uuid}: {_holders(file)}" for uuid, file in files.items())
            LOG.warning("no GPU is free for this job (%s); waiting for one", holders)
        waiting = True
        time.sleep(POLL)


def _take(folder: Path, files: Mapping[str, IO[bytes]], count: int, sharing: int) -> list[str]:
    """Lock a share of `count` devices, those in use by the fewest; if that many aren't free, of none."""
    share = UNITS // sharing
    mine: dict[str, int] = {}
    # One process looks at a time: two that want two devices each must not take one each, over and over.
    with (folder / "claim").open("a+b") as claim:
        fcntl.lockf(claim, fcntl.LOCK_EX)
        for start in range(0, sharing * share, share):
            for uuid, file in files.items():
                if len(mine) < count and uuid not in mine and _locked(file, share, start):
                    mine[uuid] = start
        if len(mine) == count:
            return list(mine)
        for uuid, start in mine.items():
            fcntl.lockf(files[uuid], fcntl.LOCK_UN, share, start)
    return []


def _locked(file: IO[bytes], length: int, start: int) -> bool:
    """Lock a range of the file, or say that another process has some of it."""
    # A record lock, not flock: loader workers would inherit that one and hold the device after a killed job's end.
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, length, start)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            return False
        raise
    os.utime(file.name)  # or what cleans up temporary folders would remove a file that is in use
    return True


def _holders(file: IO[bytes]) -> str:
    """The processes that hold some of a device, as the kernel knows them."""
    processes, start = [], 0
    while start < UNITS:
        asked = struct.pack(FLOCK, fcntl.F_WRLCK, os.SEEK_SET, start, UNITS - start, 0)
        kind, _, at, length, process = struct.unpack(FLOCK, fcntl.fcntl(file, fcntl.F_GETLK, asked))
        if kind == fcntl.F_UNLCK:
            break
        processes.append(process)
        start = at + length
    return "process " + ", ".join(map(str, processes)) if processes else "free"


def _folder() -> Path:
    """The lock files of this user's jobs on this machine. StagepipeError if others could put something in."""
    folder = Path(tempfile.gettempdir()) / f"stagepipe-gpus-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if folder.is_symlink() or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise StagepipeError(
            f"{folder}: holds the locks of GPUs, but belongs to user {found.st_uid} with the permissions "
            f"{found.st_mode & 0o777:o}; remove it, or set TMPDIR to a folder of your own"
        )
    return folder
