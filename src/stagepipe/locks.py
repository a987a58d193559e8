"""Locks of the kernel: whatever ends the process that holds one, it is free."""

import fcntl
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stagepipe.storage import explained

LOG = logging.getLogger(__name__)


@contextmanager
def held(folder: Path) -> Iterator[bool]:
    """Hold the folder alone; wait for a process that outlived its driver and still works there.

    Yields whether there was one. Locks of one process do not exclude one another. Where the file system has none, a
    warning says so.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("a+", encoding="utf-8") as lock:
        waited = False
        try:
            # A record lock, not flock: loader workers would inherit that one and hold it after a killed trainer's end.
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            waited = True
            lock.seek(0)
            LOG.warning("%s: %s still works here; waiting for it to end", folder, lock.read().strip())
            fcntl.lockf(lock, fcntl.LOCK_EX)
        except OSError as error:
            LOG.warning("%s: this file system has no locks (%s); run the recipe once at a time", folder, error)
        with explained(folder / "lock"):
            lock.truncate(0)
            lock.write(f"process {os.getpid()} on {socket.gethostname()}")
            lock.flush()
        yield waited
