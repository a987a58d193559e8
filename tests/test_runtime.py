import os
import platform
import resource

import cv2
import pytest
import torch

from stagepipe import runtime
from stagepipe.distributed import Ranks
from stagepipe.errors import StagepipeError
from stagepipe.recipe.model import Runtime
from stagepipe.runtime import Machine, configure


@pytest.fixture(autouse=True)
def threads():
    """Put back the process's threads."""
    before = torch.get_num_threads(), cv2.getNumThreads()
    yield
    torch.set_num_threads(before[0])
    cv2.setNumThreads(before[1])


def on_cpu(**options: object) -> Machine:
    return configure(Runtime(device="cpu", **options), threads=1)


def test_what_is_asked_for_is_what_comes():
    machine = on_cpu(precision="fp32", compile=False, workers=3)
    assert machine == Machine(torch.device("cpu"), bf16=False, compile=False, workers=3)
    assert on_cpu(precision="bf16", compile=True, workers=0) == Machine(torch.device("cpu"), True, True, 0)


def test_a_cpu_does_not_compile_by_itself():
    assert on_cpu().compile is False


def test_threads_are_those_of_the_job():
    configure(Runtime(device="cpu"), threads=2)
    assert (torch.get_num_threads(), cv2.getNumThreads()) == (2, 2)
    configure(Runtime(device="cpu"), threads=1)
    assert (torch.get_num_threads(), cv2.getNumThreads()) == (1, 1)


@pytest.mark.parametrize(("cores", "on_a_cpu", "on_a_gpu"), [(1, 0, 1), (2, 1, 1), (4, 1, 3), (64, 1, 8)])
def test_workers_follow_from_the_cores_of_the_allocation(cores, on_a_cpu, on_a_gpu, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    assert on_cpu().workers == on_a_cpu
    assert runtime._workers(torch.device("cuda")) == on_a_gpu


@pytest.mark.parametrize(("ranks", "on_a_cpu", "on_a_gpu"), [(2, 1, 7), (4, 1, 3), (16, 0, 1)])
def test_processes_that_train_together_divide_the_cores(ranks, on_a_cpu, on_a_gpu, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    machine = configure(Runtime(device="cpu"), threads=1, ranks=Ranks(0, ranks))
    assert (machine.workers, machine.ranks) == (on_a_cpu, Ranks(0, ranks))
    assert runtime._workers(torch.device("cuda"), ranks) == on_a_gpu


@pytest.mark.parametrize(
    ("flags", "expected"), [("sse2 avx512f", False), ("avx512_bf16", True), ("amx_bf16 amx_tile", True)]
)
def test_bf16_where_the_processor_multiplies_it(flags, expected, tmp_path, monkeypatch):
    (tmp_path / "cpuinfo").write_text(f"flags : {flags}\n")
    monkeypatch.setattr(runtime, "Path", lambda _: tmp_path / "cpuinfo")
    assert on_cpu().bf16 is expected
    monkeypatch.setattr(runtime, "Path", lambda _: tmp_path / "nothing")
    assert on_cpu().bf16 is False


def test_cuda_that_is_absent_is_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(StagepipeError, match="cuda is not available here; write auto or cpu"):
        configure(Runtime(device="cuda"), threads=1)
    assert configure(Runtime(), threads=1).device.type == "cpu"


def test_autocast_is_bf16_or_nothing():
    a = torch.ones(2, 2)
    with on_cpu(precision="bf16").autocast():
        assert (a @ a).dtype == torch.bfloat16
    with on_cpu(precision="fp32").autocast():
        assert (a @ a).dtype == torch.float32


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="an option of glibc")
def test_freed_memory_is_used_again_without_new_pages():
    on_cpu()
    faults = []
    for _ in range(20):  # the first few leave splinters, until glibc's own small caches are full
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.ones(16 * 2**20)  # 64 MiB, above what glibc keeps by itself: 16,384 pages
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    assert faults[-1] < 1000
