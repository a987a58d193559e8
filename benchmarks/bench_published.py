"""The training step of the TGS salt 1st place's networks as its recipe has them, beside the same step written plainly.

On a GPU at the published sizes and batches. The plain way has its batch on the device too, so that the step alone
differs: float32 NCHW, not compiled, a read of the loss at every step, or the Trainer's.
"""

import dataclasses
import itertools
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import tiles
from benchmarks.bench_training import machine_here
from benchmarks.timing import interleave
from stagepipe import optimizers
from stagepipe.losses import total_loss
from stagepipe.networks import build
from stagepipe.recipe.load import load
from stagepipe.recipe.parts import TrainPart, train_part
from stagepipe.runtime import Machine
from stagepipe.training import Trainer, TrainInputs
from stagepipe.training_state import TrainingState

RECIPE = Path(__file__).resolve().parent.parent / "config" / "recipes" / "tgs_salt_1st.yaml"
PHASES = (
    ("stage1", "resnext50", "lovasz"),
    ("stage1", "resnet34_256", "cycles"),
    ("stage2", "resnet34_256_deep", "cycles"),
    ("stage3", "resnet34_pad128", "finetune"),
)
CPU_PHASES, CPU_BATCH, CPU_ROUNDS = (PHASES[0], PHASES[3]), 2, 2  # a step of the others takes half a minute
GPU_STEPS, GPU_ROUNDS = 50, 3


def part_of(stage: str, run: str, phase: str, gpu: bool) -> TrainPart:
    """The published phase with random weights; on a CPU with small batches."""
    part = train_part(load(RECIPE), stage, run, phase, "0")
    batch = part.phase.batch if gpu else CPU_BATCH
    changes = {"batch": batch, "data": "labels", "init": "encoder", "epochs": 10**6, "cycles": 1}
    network = part.network.model_copy(update={"weights": None})
    return part.model_copy(update={"phase": part.phase.model_copy(update=changes), "network": network})


def plain_step(part: TrainPart, images: torch.Tensor, masks: torch.Tensor, device: torch.device) -> Callable[[], float]:
    """One step in float32 and NCHW, not compiled, that reads its loss."""
    network = build(part.network, 1, 1, part.phase.resize, part.phase.pad, pretrained=False).to(device)
    network.module.to(memory_format=torch.contiguous_format)
    optimizer = optimizers.build(part.phase, network)
    target = network.geometry.mask(masks.float())

    def step() -> float:
        heads = network.heads(images)
        loss = total_loss(part.phase.loss, heads["logits"], target)
        for name, terms in part.phase.deep_supervision.items():
            empty = (masks.amax((1, 2), keepdim=True) == 0).float()
            loss = loss + total_loss(terms, heads[name], empty if name == "empty" else target)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return step


def row(names: tuple[str, str, str], data: tiles.Tiles, machine: Machine, gpu: bool) -> dict:
    part = part_of(*names, gpu)
    trainer = Trainer(part, TrainInputs(data.samples, data.pixels, data.folds), TrainingState(data.raw.parent), machine)
    trainer.network.train()
    samples = [trainer.samples[address] for address in trainer.orders.batches(0)[0]]
    images, masks = (torch.stack([torch.from_numpy(pair[i]) for pair in samples]).to(machine.device) for i in (0, 1))
    plain, resident = plain_step(part, images, masks, machine.device), itertools.repeat((images, masks))
    counter = FlopCounterMode(display=False)
    with counter:
        plain()
    steps = GPU_STEPS if gpu else 1

    def often(step: Callable[[], object]) -> Callable[[], None]:
        def run() -> None:
            for _ in range(steps):
                step()
            if gpu:
                torch.cuda.synchronize()

        return run

    ways = {"plain": often(plain), "ours": often(lambda: trainer.train_step(resident, 0, [1e-4]))}
    seconds = interleave(ways, GPU_ROUNDS if gpu else CPU_ROUNDS)
    rates = {way: steps * part.phase.batch / value for way, value in seconds.items()}
    flops = counter.get_total_flops() * steps / 1e12
    size = trainer.network.geometry.padded_size(101, 101)
    note = (
        f"batch {part.phase.batch} on the device; {flops / seconds['plain']:.3g} and {flops / seconds['ours']:.3g} "
        f"TFLOP/s; plain: float32 NCHW, loss.item(); ours: {'bf16' if machine.bf16 else 'float32'} channels_last"
        f"{', compiled' if machine.compile else ''}"
    )
    name = f"step of {names[0]}/{names[1]}, {size[0]} px"
    return {"name": name, **rates, "unit": "images/s", "ratio": rates["ours"] / rates["plain"], "note": note}


def run(gpu: bool) -> list[dict]:
    machine = machine_here(gpu)
    with tempfile.TemporaryDirectory() as folder:
        data = tiles.write(Path(folder), train=400, test=1)
        phases = PHASES if gpu else CPU_PHASES
        return [row(names, data, dataclasses.replace(machine, workers=0), gpu) for names in phases]


if __name__ == "__main__":
    print(*run(gpu=False), sep="\n")
