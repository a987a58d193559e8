"""The training step of each published network: the plain loop, the Trainer's with its loader, and on one batch.

On a GPU at the published sizes and batches; on a CPU with batches of one to eight images, the largest at half their
size.
"""

import multiprocessing
import statistics
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from benchmarks import published
from benchmarks.loops import PLAIN_WORKERS, machine_here, serve
from benchmarks.published import CASES
from benchmarks.tiles import Tiles
from stagepipe.recipe.parts import TrainPart
from stagepipe.runtime import Machine

WAYS = {"plain": "plain", "ours": "ours", "resident": "ours"}
"""each way and the process that it runs in"""


@dataclass(frozen=True)
class Amount:
    """How long it is measured."""

    first: int
    """steps before anything is timed, that compile"""
    warm: int
    """steps right before the clock starts, that use up what the loaders prepared meanwhile"""
    steps: int
    rounds: int


CPU, GPU = Amount(1, 0, 1, 3), Amount(5, 20, 20, 3)


@dataclass(frozen=True)
class Measured:
    """What the loops told."""

    facts: dict[str, float]
    taken: dict[str, dict[str, float]]
    """medians of each way"""


def measure(part: TrainPart, data: Tiles, files: Path, amount: Amount, gpu: bool) -> Measured:
    """Every loop in a process of its own, taking turns."""
    spawn, pipes, processes = multiprocessing.get_context("spawn"), {}, []
    for name in dict.fromkeys(WAYS.values()):
        pipes[name], theirs = spawn.Pipe()
        processes.append(spawn.Process(target=serve, args=(theirs, name, part, data, files, gpu)))
        processes[-1].start()
        theirs.close()
    try:
        measured = told(pipes, amount)
    except (EOFError, OSError) as error:  # one has failed and said why; the others wait for us
        raise RuntimeError(f"{part.stage}/{part.run}: a loop has ended before its time") from error
    finally:
        for pipe in pipes.values():
            pipe.close()
        for process in processes:
            process.join()
    return measured


def told(pipes: dict[str, Connection], amount: Amount) -> Measured:
    """What the loops tell of themselves and of the steps that they take in turn."""
    facts: dict[str, float] = {}
    for pipe in pipes.values():
        facts |= pipe.recv()
    ways = {way: pipes[name] for way, name in WAYS.items()}
    for way, pipe in ways.items():
        ask(pipe, way, amount.first)
    facts |= ask(pipes["ours"], "matrix", 1)
    return Measured(facts, in_turn(ways, amount))


def ask(pipe: Connection, way: str, steps: int) -> dict[str, float]:
    """Let a loop take steps and hear what they took."""
    pipe.send((way, steps))
    return pipe.recv()


def in_turn(pipes: dict[str, Connection], amount: Amount) -> dict[str, dict[str, float]]:
    """Medians over the rounds of what each way's steps took."""
    taken: dict[str, list[dict[str, float]]] = {way: [] for way in pipes}
    for _ in range(amount.rounds):
        for way, pipe in pipes.items():
            ask(pipe, way, amount.warm)
            taken[way].append(ask(pipe, way, amount.steps))
    return {way: {key: statistics.median(row[key] for row in rows) for key in rows[0]} for way, rows in taken.items()}


def rows(name: str, part: TrainPart, measured: Measured, amount: Amount, machine: Machine, note: str) -> list[dict]:
    """Beside the plain loop, and beside the same steps without a loader."""
    batch, height, width = part.phase.batch, int(measured.facts["height"]), int(measured.facts["width"])
    seconds = {way: taken["seconds"] for way, taken in measured.taken.items()}
    rates = {way: amount.steps * batch / value for way, value in seconds.items()}
    details = {
        "batch": batch,
        "height": height,
        "width": width,
        "images_per_second": rates,
        "waited_share": measured.taken["ours"]["waited"] / seconds["ours"],
        "tera_flops": amount.steps * measured.facts["flops"] / 1e12 / seconds["resident"],
        "matrix_tera_flops": measured.facts["matrix"],
        "peak_mib": {way: measured.taken[way]["peak"] for way in ("plain", "ours")},
    }
    share = details["tera_flops"] / details["matrix_tera_flops"]
    precision = "bf16" if machine.bf16 else "float32"
    told = (
        f"{details['waited_share']:.1%} of it waiting for data; {details['tera_flops']:.3g} TFLOP/s, {share:.0%} of "
        f"what {precision} matrix products reach; peak {details['peak_mib']['ours']:,.0f} MiB, plain "
        f"{details['peak_mib']['plain']:,.0f}; {note}ours: {precision}{', compiled' if machine.compile else ''}, "
        f"workers: {machine.workers}; plain: float32 NCHW, losses of smp, files, workers: "
        f"{PLAIN_WORKERS[machine.device.type]}; threads: {torch.get_num_threads()}"
    )
    notes = {"plain": told, "resident": "plain: the same step on one batch where the network is"}
    label = f"{name}, {height} x {width}, batch {batch}"
    labels = {"plain": label, "resident": f"{label}: what the loader costs"}
    return [
        {"name": labels[way], "plain": rates[way], "ours": rates["ours"], "unit": "images/s"}
        | {"ratio": rates["ours"] / rates[way], "note": notes[way], "details": details}
        for way in notes
    ]


def run(gpu: bool) -> Iterator[dict]:
    machine, amount = machine_here(gpu), GPU if gpu else CPU
    for recipe in dict.fromkeys(case.recipe for case in CASES):
        cases = [case for case in CASES if case.recipe == recipe]
        with tempfile.TemporaryDirectory() as temporary:
            folder, loaded = Path(temporary), cases[0].loaded()
            data = published.write(loaded, folder)
            files = published.write_files(data, folder / "plain", loaded.dataset.format == "street")
            for case in cases:
                print(f"  {case.name}", file=sys.stderr, flush=True)
                part = case.part(published=gpu)
                measured = measure(part, data, files, amount, gpu)
                twice = " at twice the size" if not gpu and "resize" in case.cpu else ""
                note = "" if gpu else f"published batch {case.part().phase.batch}{twice}; "
                yield from rows(case.name, part, measured, amount, machine, note)


if __name__ == "__main__":
    print(*run(gpu=False), sep="\n")
