"""Where the time of a training step goes: `python -m benchmarks.profile [--gpu] [--only WORDS] [--folder FOLDER]`.

torch.profiler watches the Trainer's steps of each published network, loader included. What it sees is told by part of
the step, by kind of work and by operator, in a table and a picture. On a CPU a time is that of the operator itself, on
a GPU that of the kernels that it starts.
"""

import argparse
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile, record_function

from benchmarks import published
from benchmarks.__main__ import gpu_name
from benchmarks.__main__ import machine as facts
from benchmarks.loops import OurLoop, machine_here
from benchmarks.published import CASES, Published
from benchmarks.tiles import Tiles
from stagepipe.losses import lovasz
from stagepipe.plan.figures import cpu_name
from stagepipe.plan.trial import synchronise
from stagepipe.report import style
from stagepipe.runtime import Machine
from stagepipe.training import loop

PICTURES = Path(__file__).resolve().parent.parent / "docs" / "pictures"
WARM, STEPS = {"cpu": 1, "cuda": 10}, {"cpu": 1, "cuda": 10}
SHOWN = 10
"""operators of each network in the table"""
SORT, IDLE, OTHER = "sort of the loss", "waiting", "other"
PARTS = ("forward", "loss", "backward", "optimiser", IDLE, OTHER)
KINDS = {
    "convolution": r"conv|addmm|::b?mm$|::linear$|gemm",
    "normalisation": r"norm",
    "interpolation": r"upsample|grid_sampl|interpolate",
    "copies": r"copy|::to$|clone|contiguous|::cat|index|empty|fill|zero|Memcpy|Memset",
    "activation, elementwise": r"relu|elu|sigmoid|threshold|dropout|pool|triton|::(add|sub|mul|div|neg|mean|sum|where)",
}
"""operators of each kind, the first that fits; what a compiler has put together is elementwise"""
ORDER = ("convolution", "normalisation", "activation, elementwise", "interpolation", "loss", SORT)
ORDER += ("optimiser", "copies", IDLE, OTHER)
COLOURS = dict(zip(ORDER, (*style.SERIES, style.LINE, style.MUTED), strict=True))


@dataclass(frozen=True)
class Profile:
    """Seconds of a step, by part, by kind and by operator; each adds up to the whole step."""

    name: str
    batch: int
    seconds: float
    parts: Counter[str]
    kinds: Counter[str]
    operators: Counter[str]


# --------------------------------------------------------------------------------------------------------- the watching


def marked(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, seen by the profiler under that name."""

    def call(*arguments: object, **named: object) -> object:
        with record_function(name):
            return function(*arguments, **named)

    return call


@contextmanager
def marks(trainer: loop.Trainer) -> Iterator[None]:
    """Name the parts of the Trainer's step while this lasts; the optimiser and the loader have names of their own."""
    clip = torch.nn.utils.clip_grad_norm_
    with (
        patch.object(trainer.replica, "forward", marked("forward", trainer.replica.forward)),
        patch.object(trainer.replica, "backward", marked("backward", trainer.replica.backward)),
        patch.object(loop, "phase_loss", marked("loss", loop.phase_loss)),
        patch.object(lovasz, "_descending", marked("sort", lovasz._descending)),
        patch.object(torch.nn.utils, "clip_grad_norm_", marked("Optimizer.clip", clip)),
    ):
        yield


def watch(case: Published, data: Tiles, machine: Machine) -> Profile:
    """Profile the steps of one network."""
    device, part = machine.device.type, case.part(published=machine.device.type == "cuda")
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device == "cuda" else [])]
    with closing(OurLoop(part, data, machine)) as loop, marks(loop.trainer):
        loop.take("ours", WARM[device])
        with profile(activities=activities) as profiler:
            began = time.perf_counter()
            for _ in range(STEPS[device]):
                loop.step("ours")
            synchronise(machine)
            seconds = (time.perf_counter() - began) / STEPS[device]
        height, width = loop.size
    parts, kinds, operators = shares(profiler.events(), device, STEPS[device])
    for counter in (parts, kinds, operators):
        counter[IDLE if device == "cuda" else OTHER] += max(0.0, seconds - counter.total())
    name = f"{case.name}, {height} x {width}, batch {part.phase.batch}"
    return Profile(name, part.phase.batch, seconds, parts, kinds, operators)


# -------------------------------------------------------------------------------------------------------- the reckoning


def shares(events: Sequence[FunctionEvent], device: str, steps: int) -> tuple[Counter[str], Counter[str], Counter[str]]:
    """Seconds a step by part, by kind and by operator."""
    parts, kinds, operators = Counter[str](), Counter[str](), Counter[str]()
    seen = [(event, lineage(event)) for event in events if event.device_type == torch.autograd.DeviceType.CPU]
    of_loss = {event.sequence_nr for event, names in seen if "loss" in names and event.sequence_nr >= 0}
    for event, names in seen:
        own = event.self_device_time_total if device == "cuda" else event.self_cpu_time_total
        part = part_of(event, names, of_loss)
        parts[part] += own / 1e6 / steps
        kinds[kind_of(event.name, names, part)] += own / 1e6 / steps
        operators[event.name.partition("#")[0]] += own / 1e6 / steps
    return parts, kinds, operators


def lineage(event: FunctionEvent) -> list[str]:
    """Names of an event and of all that it happened in."""
    names, current = [], event
    while current is not None:
        names.append(current.name)
        current = current.cpu_parent
    return names


def part_of(event: FunctionEvent, names: list[str], of_loss: set[int]) -> str:
    """The part of the step that an event belongs to; the loss with the way back through it."""
    if any(name.startswith("Optimizer.") for name in names):
        return "optimiser"
    if any(name.startswith("enumerate(DataLoader)") for name in names):
        return IDLE
    if "backward" in names:
        return "loss" if of_loss & numbers(event) else "backward"
    return next((name for name in ("loss", "forward") if name in names), OTHER)


def numbers(event: FunctionEvent) -> set[int]:
    """Of the steps of autograd that an event happened in; each has the number of its operator on the way forward."""
    found, current = set(), event
    while current is not None:
        if current.name.startswith("autograd::engine::evaluate_function"):
            found.add(current.sequence_nr)
        current = current.cpu_parent
    return found


def kind_of(name: str, names: list[str], part: str) -> str:
    """The kind of work of an operator; of the loss, the optimiser and the loader all is of one kind."""
    if "sort" in names:
        return SORT
    if part in ("loss", "optimiser", IDLE):
        return part
    return next((kind for kind, pattern in KINDS.items() if re.search(pattern, name)), OTHER)


# ---------------------------------------------------------------------------------------------------------- the telling


def table(profiles: Sequence[Profile]) -> str:
    """Markdown: shares of each part and kind, then the operators of each network."""
    lines = []
    for counted, columns in (("parts", PARTS), ("kinds", ORDER)):
        lines += [f"| network | ms a step | {' | '.join(columns)} |", "|---|---:|" + "---:|" * len(columns)]
        for found in profiles:
            cells = [f"{getattr(found, counted)[column] / found.seconds:.1%}" for column in columns]
            lines.append(f"| {found.name} | {found.seconds * 1e3:,.0f} | {' | '.join(cells)} |")
        lines.append("")
    lines += ["| network | operators by their own time |", "|---|---|"]
    for found in profiles:
        most = [f"{name} {value / found.seconds:.1%}" for name, value in found.operators.most_common(SHOWN)]
        lines.append(f"| {found.name} | {', '.join(most)} |")
    return "\n".join(lines) + "\n"


def heading(found: dict[str, Any], where: str) -> str:
    """When, where and with what it was measured, as Markdown."""
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    return f"`python -m benchmarks.profile` on {found['date']}: {where}; load {found['load']:.1f}; {versions}.\n\n"


def picture(profiles: Sequence[Profile], title: str) -> bytes:
    """A PNG of one bar a network, in shares of its step."""
    with style.styled():
        figure, (axes,) = style.panels(1, 1, 10.5, 1.6 + 0.5 * len(profiles))
        left = [0.0] * len(profiles)
        for kind in ORDER:
            widths = [100 * found.kinds[kind] / found.seconds for found in profiles]
            bars = axes.barh(range(len(profiles)), widths, 0.62, left, color=COLOURS[kind], label=kind)
            axes.bar_label(
                bars, [f"{width:.0f}" if width >= 4 else "" for width in widths], label_type="center", color="white"
            )
            left = [before + width for before, width in zip(left, widths, strict=True)]
        labels = [f"{found.name}\n{found.seconds * 1e3 / found.batch:,.0f} ms an image" for found in profiles]
        axes.set_yticks(range(len(profiles)), labels)
        axes.set(xlim=(0, 100), xlabel="% of the training step", title=title)
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
        figure.legend(loc="outside lower center", ncols=5)
        return style.rendered(figure)


def profiles_of(cases: Sequence[Published], machine: Machine) -> Iterator[Profile]:
    """Profile after profile, the data of each recipe made once."""
    for recipe in dict.fromkeys(case.recipe for case in cases):
        of_recipe = [case for case in cases if case.recipe == recipe]
        with tempfile.TemporaryDirectory() as folder:
            data = published.write(of_recipe[0].loaded(), Path(folder))
            for case in of_recipe:
                print(f"{case.name} ...", file=sys.stderr, flush=True)
                yield watch(case, data, machine)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.profile", description=__doc__)
    parser.add_argument("--gpu", action="store_true", help="on the GPU, at the published sizes and batches")
    parser.add_argument("--only", default="", help="networks whose name holds these words")
    parser.add_argument("--folder", type=Path, default=PICTURES, help="of the table and picture (default: %(default)s)")
    options = parser.parse_args(arguments)
    cases = [case for case in CASES if options.only.lower() in case.name.lower()]
    if not cases:
        parser.error(f"--only: no network has {options.only!r} in its name; write words of {[c.name for c in CASES]}")
    if options.gpu and gpu_name() is None:
        parser.error("--gpu: torch sees no CUDA device here; leave it out to profile on the CPU")
    machine = machine_here(options.gpu)
    profiles, device = list(profiles_of(cases, machine)), machine.device.type
    precision = "bf16" if machine.bf16 else "float32"
    where = gpu_name() if options.gpu else f"{cpu_name()}, threads: {torch.get_num_threads()}"
    options.folder.mkdir(parents=True, exist_ok=True)
    name = {"cpu": "profile_cpu", "cuda": "profile_gpu"}[device]
    (options.folder / f"{name}.png").write_bytes(picture(profiles, f"{where}, {precision}"))
    told = heading(facts(gpu_name() if options.gpu else None), where) + table(profiles)
    (options.folder / f"{name}.md").write_text(told, encoding="utf-8")
    print(told)


if __name__ == "__main__":
    main()
