"""Where torch.compile keeps what it makes, so that jobs that train or predict with one network compile it once."""

import fcntl
import hashlib
import logging
import os
import platform
from pathlib import Path

from stagepipe.errors import StorageError
from stagepipe.recipe.model import Runtime
from stagepipe.storage import user_cache

LOG = logging.getLogger(__name__)
VARIABLE = "TORCHINDUCTOR_CACHE_DIR"
INSTRUCTIONS = ("model name", "flags", "Features", "CPU implementer", "CPU part")
"""How lines of /proc/cpuinfo begin that say which instructions a processor has, x86's and ARM's"""


def share(runtime: Runtime, cpuinfo: Path = Path("/proc/cpuinfo")) -> None:
    """Keep compiled kernels in the user's cache folder, which the nodes of a cluster share, for all jobs and recipes.

    Comes before torch is imported: with torchvision it fixes the folder, by default one in the node's own /tmp. Not
    below `results/`: other recipes train the same networks, and what is kept is code that runs, so nobody else may
    write it. Does nothing if the variable is set, or if nothing is to be compiled.
    """
    if not runtime.compile or VARIABLE in os.environ:
        return
    try:
        folder = kept(cpuinfo)
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)  # an error if it is somebody else's
        # torch locks files there with flock, which some file systems don't have.
        with (folder / "lock").open("a", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH)
    except (OSError, StorageError) as error:
        LOG.info("compiled kernels stay on this node (%s); %s names a folder that jobs share", error, VARIABLE)
        return
    os.environ[VARIABLE] = str(folder)


def kept(cpuinfo: Path = Path("/proc/cpuinfo")) -> Path:
    """`~/.cache/stagepipe/compiled/` (below $XDG_CACHE_HOME where that is set) and a name for this processor.

    torch tells GPUs and its own versions apart, but not processors: it compiles with -march=native, and what one makes
    may be an illegal instruction on another. StorageError if there is no home.
    """
    return user_cache() / "compiled" / _processor(cpuinfo)


def _processor(cpuinfo: Path) -> str:
    try:
        first = cpuinfo.read_text(encoding="utf-8").split("\n\n")[0]
    except OSError:  # not Linux
        return platform.machine()
    lines = "\n".join(line for line in first.splitlines() if line.startswith(INSTRUCTIONS))
    return f"{platform.machine()}-{hashlib.sha256(lines.encode()).hexdigest()[:12]}"
