"""Images a second of small trainings on one GPU: side by side, as `runtime.jobs_per_gpu` lets them, and in turn."""

import multiprocessing
import sys
import tempfile
from multiprocessing.connection import Connection
from pathlib import Path

from benchmarks import tiles
from benchmarks.bench_training import Case, serve
from benchmarks.timing import interleave

JOBS = (2, 4)
CASE = Case("resnet18", "bce_dice", 16, 50, 200, 5)


def take(pipes: list[Connection], steps: int) -> None:
    """Let all of these processes take so many steps at the same time."""
    for pipe in pipes:
        pipe.send(steps)
    for pipe in pipes:
        pipe.recv()


def rates(case: Case, data: tiles.Tiles, jobs: int, gpu: bool) -> dict[str, float]:
    """Images a second of several trainings together, each a process of its own."""
    spawn, pipes, processes = multiprocessing.get_context("spawn"), [], []
    for _ in range(jobs):
        mine, theirs = spawn.Pipe()
        pipes.append(mine)
        processes.append(spawn.Process(target=serve, args=(theirs, "ours", case, data, gpu)))
        processes[-1].start()
        theirs.close()
    ways = {
        "in turn": lambda: [take([pipe], case.steps) for pipe in pipes],
        "side by side": lambda: take(pipes, case.steps),
    }
    # What the loaders prepared before the clock starts is used up first.
    seconds = interleave(ways, case.rounds, before=lambda _: take(pipes, case.warm))
    for pipe, process in zip(pipes, processes, strict=True):
        pipe.send(0)
        process.join()
    return {way: jobs * case.steps * case.batch / value for way, value in seconds.items()}


def run(gpu: bool) -> list[dict]:
    if not gpu:
        print("sharing: needs a CUDA device, `--gpu`; on a CPU `threads` says how jobs share cores", file=sys.stderr)
        return []
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        data = tiles.write(Path(folder), train=1000, test=1)
        for jobs in JOBS:
            rate = rates(CASE, data, jobs, gpu)
            numbers = {"plain": rate["in turn"], "ours": rate["side by side"], "unit": "images/s"}
            note = "plain: one after the other; ours: side by side on one GPU; loaders included"
            name = f"{jobs} trainings of U-Net {CASE.encoder} scse, 128 px, batch {CASE.batch}"
            rows.append({"name": name, **numbers, "ratio": numbers["ours"] / numbers["plain"], "note": note})
    return rows


if __name__ == "__main__":
    print(*run(gpu=True), sep="\n")
