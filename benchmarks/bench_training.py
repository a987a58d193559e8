"""The training step of plain U-Nets of 128 px, in the same ways as those of the published networks."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks import published, tiles
from benchmarks.bench_steps import Amount, measure, rows
from benchmarks.loops import machine_here
from stagepipe.recipe.model import Phase
from stagepipe.recipe.parts import TrainPart

CASES = (("resnet34", "lovasz_hinge"), ("resnet18", {"bce": 1, "dice": 1}))
"""encoder and loss"""
BATCH = {"cpu": 16, "cuda": 64}
CPU, GPU = Amount(1, 1, 2, 5), Amount(5, 50, 200, 5)


def part(encoder: str, loss: str | dict[str, float], batch: int) -> TrainPart:
    phase = {"name": "phase", "loss": loss, "batch": batch, "augment": "tgs_phalanx", "lr": 1e-4, "epochs": 10**6}
    return TrainPart(
        seed=0, stage="stage", run="run", fold="0", fold_count=5, classes=["salt"], stored_channels=1,
        network=tiles.network(encoder), phase=Phase.model_validate(phase),
    )  # fmt: skip


def run(gpu: bool) -> Iterator[dict]:
    machine, amount = machine_here(gpu), GPU if gpu else CPU
    with tempfile.TemporaryDirectory() as folder:
        data = tiles.write(Path(folder), train=1000, test=1)
        files = published.write_files(data, Path(folder) / "plain", photographs=False)
        for encoder, loss in CASES:
            phase = part(encoder, loss, BATCH[machine.device.type])
            measured = measure(phase, data, files, amount, gpu)
            name = f"train U-Net {encoder} scse, {' + '.join(phase.phase.loss)}"
            yield from rows(name, phase, measured, amount, machine, note="")


if __name__ == "__main__":
    print(*run(gpu=False), sep="\n")
