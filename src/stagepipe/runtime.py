"""The machine a job runs on: device, precision, threads, loader workers. None of it is part of a result's identity."""

import ctypes
import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import cv2
import torch

from stagepipe.distributed import Ranks
from stagepipe.errors import StagepipeError
from stagepipe.recipe.model import Runtime

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Options of glibc's mallopt: bytes at the end of the heap before they are given back; blocks mapped one by one."""
FREE_SHARE = 0.8
"""Share of a device's free memory that a job plans with: blocks of different sizes leave gaps between them"""
Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class Machine:
    """What `Runtime` settings come to on this machine."""

    device: torch.device
    bf16: bool
    compile: bool
    workers: int
    ranks: Ranks = field(default_factory=Ranks)
    """this process and the others that train the same network, each with a device of its own"""
    jobs: int = 1
    """that may share the device"""
    cuda_graphs: bool = False
    """of what is compiled: kernels are launched together, as recorded once"""

    def autocast(self) -> AbstractContextManager[object]:
        """bfloat16 autocast where it is used, else nothing."""
        return torch.autocast(self.device.type, torch.bfloat16) if self.bf16 else nullcontext()

    def to_device(self, tensor: torch.Tensor) -> torch.Tensor:
        """Copy to the device without waiting for the copy."""
        return tensor.to(self.device, non_blocking=True)

    def compiled(self, function: Function) -> Function:
        """The function as torch.compile makes it, for each shape that it is called with, or as it is."""
        if not self.compile:
            return function
        mode = "reduce-overhead" if self.cuda_graphs else None
        return torch.compile(function, dynamic=False, mode=mode)  # type: ignore[return-value]

    def filled(self, rows: torch.Tensor, size: int) -> torch.Tensor:
        """Rows [N, ...] with the last one again up to `size`, so that nothing is compiled for a last batch alone.

        The same where nothing is compiled.
        """
        if not self.compile or len(rows) >= size:
            return rows
        return rows[torch.arange(size, device=rows.device).clamp(max=len(rows) - 1)]

    def affordable(self, work: Callable[[], object], count: int) -> int:
        """How much of what `work` does `count` of there is memory for on this CUDA device, shared with other jobs."""
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(self.device)
        before = torch.cuda.memory_allocated(self.device)
        work()
        taken = torch.cuda.max_memory_allocated(self.device) - before
        torch.cuda.empty_cache()
        free, total = torch.cuda.mem_get_info(self.device)
        return int(count * FREE_SHARE * min(free, total / self.jobs) / max(1, taken))


def configure(runtime: Runtime, threads: int, ranks: Ranks | None = None) -> Machine:
    """Set the process's threads and kernels once and return the machine.

    `threads` are for torch and for OpenCV alike. Of several `ranks` each gets the device of its number. StagepipeError
    if CUDA is asked for and absent.
    """
    ranks = ranks or Ranks()
    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)
    cuda = torch.cuda.is_available()
    if runtime.device == "cuda" and not cuda:
        raise StagepipeError("runtime.device: cuda is not available here; write auto or cpu")
    device = torch.device("cuda" if cuda and runtime.device != "cpu" else "cpu")
    if device.type == "cuda":
        device = torch.device("cuda", ranks.rank)
        torch.cuda.set_device(device)
        torch.backends.cudnn.benchmark = not runtime.deterministic
        torch.set_float32_matmul_precision("high")
        if runtime.deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            torch.use_deterministic_algorithms(True, warn_only=True)
    else:
        _reuse_freed_memory()
    trainings = ranks.count * (runtime.jobs_per_gpu if device.type == "cuda" else 1)
    return Machine(
        device=device,
        bf16=_multiplies_bf16(device) if runtime.precision == "auto" else runtime.precision == "bf16",
        # Batch normalisation over several devices ends a compiled graph at every layer.
        compile=device.type == "cuda" and ranks.count == 1 if runtime.compile == "auto" else bool(runtime.compile),
        workers=_workers(device, trainings) if runtime.workers == "auto" else runtime.workers,
        ranks=ranks,
        jobs=runtime.jobs_per_gpu,
        cuda_graphs=runtime.compile == "cuda_graphs",
    )


def _reuse_freed_memory() -> None:
    """Let glibc keep freed blocks of any size for the next step.

    By default it maps large ones anew each time, and filling the pages in took 10 to 16 % of the time of a training
    step on the CPU; peak memory grew by 0 to 4 % (docs/benchmarks.md).
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return
    mallopt(M_MMAP_MAX, 0)
    mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def _multiplies_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:  # not Linux: no way to ask
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def _workers(device: torch.device, trainings: int = 1) -> int:
    """Processes that augment for one of several trainings that share the cores: one core in two where the CPU also
    trains, up to eight where a GPU does."""
    cores = len(os.sched_getaffinity(0)) // trainings
    if device.type == "cuda":
        return max(1, min(8, cores - 1))
    return 1 if cores > 1 else 0
