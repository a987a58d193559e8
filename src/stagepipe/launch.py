"""The processes that train one network together, one for each device: started, told of signals and ended together.

They are what torchrun would start, without torchrun: that has no exit status but 1 for a training that has saved its
state and left, prints a table of errors then, ends a process that needs longer than 30 seconds to save, and leaves its
processes behind when it is killed. Nothing here imports torch.
"""

import ctypes
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass, field
from types import FrameType

LOG = logging.getLogger(__name__)
INTERRUPTED = 75
"""Exit status after a signal, once progress is saved (EX_TEMPFAIL: run again)."""
VARIABLE = "STAGEPIPE_RANK"
FORWARDED = (signal.SIGTERM, signal.SIGUSR1)
GRACE = 10.0
"""seconds that the others have to say what they died of, once one has failed"""
POLL = 0.05
PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Place:
    """Which one of the processes this is, and where they meet."""

    rank: int
    count: int
    port: int
    """of 127.0.0.1"""
    listener: int
    """file descriptor of the socket that listens there, which rank 0 has"""
    parent: int
    """process that started them"""


def place() -> Place | None:
    """This process's place among those that `run` started; None for any other process."""
    text = os.environ.get(VARIABLE)
    return Place(*map(int, text.split())) if text else None


def end_with_parent() -> None:
    """In a process that `run` started: be killed when the parent ends, however it ends."""
    mine = place()
    if mine is None:
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != mine.parent:  # it ended before
        sys.exit(1)


@dataclass
class _Ranks:
    children: list[subprocess.Popen[bytes]] = field(default_factory=list)
    told: set[int] = field(default_factory=set)
    """signals that this process got and handed on"""

    def tell(self, number: int, _: FrameType | None) -> None:
        self.told.add(number)
        for child in self.children:
            child.send_signal(number)


def run(command: Sequence[str], count: int) -> int:
    """Run a command in `count` processes that know their `place`; return the exit status that stands for all.

    It is that of the first that fails, after which the others have ten seconds to end; else 75 if one has that, which
    means that progress is saved; else 0. SIGTERM and SIGUSR1 reach all of them. A process that dies of a signal is told
    of in the log; its status is 128 and the signal's number.
    """
    ranks = _Ranks()
    with _forwarding(ranks), socket.create_server(("127.0.0.1", 0)) as listener:
        try:
            for rank in range(count):
                mine = Place(rank, count, listener.getsockname()[1], listener.fileno(), os.getpid())
                ranks.children.append(_start(command, mine))
            for number in list(ranks.told):  # it may have come before all of them were there
                ranks.tell(number, None)
            return _outcome(ranks, _first_failure(ranks.children))
        finally:
            for child in ranks.children:
                child.kill()
                child.wait()


def _start(command: Sequence[str], mine: Place) -> subprocess.Popen[bytes]:
    # They are all on this machine, so no other may talk to them.
    local = {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {}
    # Of DistributedDataParallel's ways to be slower than it could be.
    quiet = {"TORCH_CPP_LOG_LEVEL": "ERROR"}
    environment = local | quiet | os.environ | {VARIABLE: " ".join(map(str, astuple(mine)))}
    return subprocess.Popen(command, env=environment, pass_fds=[mine.listener] if mine.rank == 0 else [])


@contextmanager
def _forwarding(ranks: _Ranks) -> Iterator[None]:
    before = {number: signal.signal(number, ranks.tell) for number in FORWARDED}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _first_failure(children: Sequence[subprocess.Popen[bytes]]) -> int | None:
    """Wait until all have ended, or one has failed and the others had their time; return the first that failed."""
    first, deadline = None, float("inf")
    while None in [child.poll() for child in children] and time.monotonic() < deadline:
        if first is None:
            first = _failed(children)
            deadline = deadline if first is None else time.monotonic() + GRACE
        time.sleep(POLL)
    return _failed(children) if first is None else first


def _failed(children: Sequence[subprocess.Popen[bytes]]) -> int | None:
    bad = [rank for rank, child in enumerate(children) if child.returncode not in (None, 0, INTERRUPTED)]
    return bad[0] if bad else None


def _outcome(ranks: _Ranks, failed: int | None) -> int:
    if failed is None:
        return INTERRUPTED if any(child.returncode == INTERRUPTED for child in ranks.children) else 0
    status = ranks.children[failed].returncode
    if status > 0:
        return status
    if -status not in ranks.told:
        LOG.error(
            "process %d of %d was ended by %s, as happens when memory runs out; run the same command again, and the "
            "training goes on where it was saved", failed + 1, len(ranks.children), signal.Signals(-status).name,
        )  # fmt: skip
    return 128 - status
