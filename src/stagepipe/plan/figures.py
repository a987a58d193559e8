"""What a device takes for each image: measured on this machine and kept in the user's cache, or stored by name."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
from importlib.metadata import version
from pathlib import Path

from pydantic import ValidationError

from stagepipe.errors import StagepipeError
from stagepipe.recipe.model import Runtime, Section
from stagepipe.recipe.model.section import NotNegative, Positive
from stagepipe.storage import atomic, user_cache
from stagepipe.suggestions import unknown

VERSIONED = ("stagepipe", "torch", "segmentation-models-pytorch", "albumentations")
"""packages whose other versions may be faster or slower"""


class Start(Section):
    """Seconds from the start of a job's process to where its own work begins: imports, most of all."""

    train: NotNegative = 0.0
    predict: NotNegative = 0.0
    other: NotNegative = 0.0


class TrainFigure(Section):
    """Of one kind of training."""

    prepare: NotNegative = 0.0
    """seconds to build the network and take the first step, compilation included"""
    image: Positive
    """seconds for each image of a step"""
    validation: Positive
    """seconds for each image of a validation"""
    copy_state: NotNegative = 0.0
    """seconds that the end of an epoch takes before the next one begins"""
    save_state: NotNegative = 0.0
    """seconds in which the state of an epoch is on the disk, written beside the next epoch"""
    memory: NotNegative = 0.0
    """peak in MiB: of what the process holds on a GPU, or of the process where a CPU trains"""


class PredictFigure(Section):
    """Of one kind of prediction."""

    prepare: NotNegative = 0.0
    """seconds to load the network and predict the first batch, compilation included"""
    network_pass: Positive
    """seconds for each network input, its map's way into the table included"""
    memory: NotNegative = 0.0
    """the same of prediction"""


class Figures(Section):
    """All that is known of a device."""

    device: str
    source: str
    """when and how they were found"""
    versions: dict[str, str] = {}
    threads: int = 1
    gpu: bool = True
    """it is one: else jobs train and predict on a CPU"""
    bf16: bool = False
    """activations of training have two bytes"""
    start: Start = Start()
    train_tflops: Positive
    """10^12 FLOPs a second that training reaches, counted as `networks.Cost` does; for kinds that weren't measured"""
    predict_tflops: Positive
    training: dict[str, TrainFigure] = {}
    """by the fingerprint of the kind"""
    prediction: dict[str, PredictFigure] = {}


def machine(runtime: Runtime) -> str:
    """Name of the device that jobs run on here."""
    import torch

    if runtime.device != "cpu" and torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return cpu_name()


def cpu_name() -> str:
    """Name of the processor."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:  # not Linux
        return platform.processor() or platform.machine()
    found = re.search(r"^model name\s*: (.+)$", text, flags=re.MULTILINE)
    return found[1].strip() if found else platform.machine()


def versions() -> dict[str, str]:
    """Versions of the packages that make the time."""
    return {name: version(name) for name in VERSIONED}


def kept(runtime: Runtime, threads: int) -> Path:
    """`~/.cache/stagepipe/figures/` (below $XDG_CACHE_HOME where that is set) and a name for what times depend on: this
    machine, the versions, the threads and the recipe's `runtime`.

    StorageError if there is no home.
    """
    device = machine(runtime)
    identity = json.dumps([device, os.cpu_count(), versions(), threads, runtime.model_dump()], sort_keys=True)
    name = re.sub(r"\W+", "_", device).strip("_")
    return user_cache() / "figures" / f"{name}-{hashlib.sha256(identity.encode()).hexdigest()[:12]}.json"


def load(path: Path) -> Figures | None:
    """The figures of a file; None if there is none, StagepipeError if it holds something else."""
    if not path.is_file():
        return None
    try:
        return Figures.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise StagepipeError(f"{path}: {where}: {first['msg']}; delete it and measure again (--measure)") from error


def save(path: Path, figures: Figures) -> None:
    """Write figures; StorageError if the disk or its permissions don't allow it."""
    with atomic(path) as temporary:
        temporary.write_text(figures.model_dump_json(indent=1), encoding="utf-8")


def joined(before: Figures | None, now: Figures) -> Figures:
    """Today's figures, and those of kinds that were measured before and not today."""
    if before is None:
        return now
    kinds = {"training": before.training | now.training, "prediction": before.prediction | now.prediction}
    return now.model_copy(update=kinds)


def stored(name: str) -> Figures:
    """The figures of a named device; StagepipeError lists the names there are."""
    from stagepipe.plan.devices import STORED

    matching = {key.casefold(): figures for key, figures in STORED.items()}
    if name.casefold() not in matching:
        raise StagepipeError(f"--device: {unknown(name, STORED)}; or leave it out, for this machine's own")
    return matching[name.casefold()]
