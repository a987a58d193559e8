"""Images a second of trainings that share one GPU (`runtime.jobs_per_gpu`), beside one that has it alone."""

import multiprocessing
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path

from benchmarks import published
from benchmarks.bench_steps import Amount
from benchmarks.loops import serve
from benchmarks.published import CASES, Published
from benchmarks.tiles import Tiles

SHARED = ("TGS 15th, guided upsampling", "TGS 1st, ResNet34 at 128 px", "TGS 1st, ResNeXt50 U-Net")
"""published networks, the smallest step first"""
JOBS = (2, 3, 5)
AMOUNT = Amount(5, 20, 40, 2)


def take(pipes: Sequence[Connection], steps: int) -> list[float]:
    """Let all of these processes take so many steps at the same time; the seconds of each."""
    for pipe in pipes:
        pipe.send(("ours", steps))
    return [pipe.recv()["seconds"] for pipe in pipes]


def rate(pipes: Sequence[Connection], batch: int) -> float:
    """Images a second of all processes together, median over the rounds."""
    found = []
    for _ in range(AMOUNT.rounds):
        take(pipes, AMOUNT.warm)
        found.append(sum(AMOUNT.steps * batch / seconds for seconds in take(pipes, AMOUNT.steps)))
    return statistics.median(found)


def rates(case: Published, data: Tiles) -> dict[int, float]:
    """Images a second of one training alone, and of several together, each a process of its own."""
    spawn, pipes, processes = multiprocessing.get_context("spawn"), [], []
    for jobs in (1, *[max(JOBS)] * max(JOBS)):
        mine, theirs = spawn.Pipe()
        pipes.append(mine)
        processes.append(spawn.Process(target=serve, args=(theirs, "ours", case.part(), data, data.raw, True, jobs)))
        processes[-1].start()
        theirs.close()
    try:
        for pipe in pipes:
            pipe.recv()
        take(pipes, AMOUNT.first)
        alone, *together = pipes
        batch = case.part().phase.batch
        return {1: rate([alone], batch)} | {jobs: rate(together[:jobs], batch) for jobs in JOBS}
    except (EOFError, OSError) as error:  # one has failed and said why; the others wait for us
        raise RuntimeError(f"{case.name}: a training has ended before its time") from error
    finally:
        for pipe in pipes:
            pipe.close()
        for process in processes:
            process.join()


def run(gpu: bool) -> Iterator[dict]:
    if not gpu:
        print("sharing: needs a CUDA device, `--gpu`; on a CPU `threads` says how jobs share cores", file=sys.stderr)
        return
    for case in (case for name in SHARED for case in CASES if case.name == name):
        with tempfile.TemporaryDirectory() as folder:
            found = rates(case, published.write(case.loaded(), Path(folder)))
        for jobs in JOBS:
            yield {
                "name": f"{jobs} trainings side by side: {case.name}, batch {case.part().phase.batch}",
                "plain": found[1], "ours": found[jobs], "unit": "images/s", "ratio": found[jobs] / found[1],
                "note": "of all together; plain: one that has the GPU alone; loaders included",
            }  # fmt: skip


if __name__ == "__main__":
    print(*run(gpu=True), sep="\n")
