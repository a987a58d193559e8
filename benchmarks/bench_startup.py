"""Seconds from the start of a process to its first work, beside a process that does as much with torch alone.

The jobs are the scripts that Snakemake starts, on a few tiles. What plain torch needs before a step can't be spared:
its own import, the one of its compiler that any optimiser brings, and on a GPU the start of CUDA. A ratio below 1 says
what stagepipe adds, and the note says it in seconds.
"""

import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks import tiles
from stagepipe.artefacts import read_table, save_weights
from stagepipe.compile_cache import VARIABLE
from stagepipe.networks import build
from stagepipe.probabilities import ProbabilityWriter
from stagepipe.recipe.averages import EnsemblePart
from stagepipe.recipe.model import Network, Phase
from stagepipe.recipe.part import Part
from stagepipe.recipe.parts import MemberPart, PredictPart, TrainPart

SCRIPTS = Path(__file__).resolve().parent.parent / "workflow" / "scripts"
REPEATS = 5
TORCH = """
import sys, torch
device = "cuda" if sys.argv[1] == "gpu" else "cpu"
torch.set_num_threads(1)
network = torch.nn.Conv2d(1, 1, 3, padding=1).to(device)
images = torch.zeros(4, 1, 128, 128, device=device)
"""
STEP = """
optimizer = torch.optim.Adam(network.parameters())
loss = network(images).mean()
loss.backward()
optimizer.step()
if device == "cuda": torch.cuda.synchronize()
import os
os._exit(0)
"""
PLAIN = {
    "train": TORCH + STEP,
    "predict": TORCH + "with torch.inference_mode(): network(images).cpu()",
    "ensemble": "import numpy, pyarrow.parquet",
}
JOB = """
import runpy, sys
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
FIRST_STEP = """
import os
from stagepipe.script import importing
with importing():
    from stagepipe.training import Trainer
step = Trainer.train_step
def first(*arguments):
    step(*arguments).item()  # which waits for the device
    os._exit(0)
Trainer.train_step = first
"""
OURS = {"train": FIRST_STEP + JOB, "predict": JOB, "ensemble": JOB}
"""Until the first batch is trained on, and until the whole job is done"""
NAMES = {
    "train": "from process start to the first step of a training",
    "predict": "a prediction job of 8 tiles, start to end",
    "ensemble": "an ensemble job of two tables of 32 tiles, start to end",
}


@dataclass(frozen=True)
class Took:
    """Seconds from a process's start to its end."""

    wall: float
    cpu: float
    """of all threads, and of processes that it started"""


def took(code: str, arguments: Sequence[str], **environment: str) -> Took:
    """Run a process; RuntimeError with what it says if it fails."""
    path = os.pathsep.join([str(SCRIPTS.parent.parent / "src"), os.environ.get("PYTHONPATH", "")])
    variables = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path} | environment
    before, start = cpu_of_children(), time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], env=variables, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(done.stderr)
    return Took(time.perf_counter() - start, cpu_of_children() - before)


def cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def median(found: Sequence[Took]) -> Took:
    return Took(statistics.median(each.wall for each in found), statistics.median(each.cpu for each in found))


# ----------------------------------------------------------------------------------------------------------------- jobs


def small() -> Network:
    """A U-Net of 90,000 parameters."""
    arguments = {"encoder_depth": 3, "decoder_channels": [16, 16, 16]}
    return Network.model_validate({"encoder": "tu-test_resnet", "arguments": arguments, "pad": {"to": 128}})


def train_part() -> TrainPart:
    keys = {"name": "phase", "loss": "bce", "batch": 8, "lr": 1e-3, "epochs": 1, "augment": "tgs_phalanx"}
    return TrainPart(
        seed=0, stage="stage", run="run", fold="0", fold_count=5, classes=["salt"], stored_channels=1,
        network=small(), phase=Phase.model_validate(keys),
    )  # fmt: skip


def predict_part() -> PredictPart:
    return PredictPart(
        stage="stage", run="run", fold="0", classes=["salt"], stored_channels=1, network=small(),
        members=[MemberPart(phase="phase", member="0", weight=1)],
    )  # fmt: skip


def command(script: str, part: Part, runtime: dict[str, object], **files: Path | list[Path]) -> list[str]:
    """What follows the code of a process that runs a script."""
    words = [str(SCRIPTS / f"{script}.py"), "--part", part.text(), "--runtime", json.dumps(runtime)]
    for name, paths in files.items():
        words += [f"--{name.replace('_', '-')}", *map(str, paths if isinstance(paths, list) else [paths])]
    return words


def commands(folder: Path, runtime: dict[str, object]) -> dict[str, list[str]]:
    """Small jobs of three scripts, with what they read."""
    made = tiles.write(folder / "data", train=32, test=1)
    weights, tables = folder / "weights.safetensors", [folder / f"{number}.parquet" for number in range(2)]
    save_weights(weights, {"0": build(small(), 1, 1, None, None, pretrained=False).module.state_dict()})
    for number, path in enumerate(tables):
        with ProbabilityWriter(path) as writer:
            for sample_id in read_table(made.folds)["sample_id"].to_pylist():
                writer.add_quantised(sample_id, np.full((1, 101, 101), number, np.uint8))
    reads = {"samples": made.samples, "pixels": made.pixels, "folds": made.folds}
    trained = {"weights": folder / "trained.safetensors", "history": folder / "history.parquet"}
    predicted = {name: folder / f"{name}.parquet" for name in ("out_of_fold", "test")}
    mean = EnsemblePart.model_validate({"runs": [{"weight": 1}, {"weight": 1}], "split": "train"})
    return {
        "train": command("train", train_part(), runtime, **reads, **trained, state=folder / "state"),
        "predict": command("predict", predict_part(), runtime, **reads, weights=weights, **predicted),
        "ensemble": command("ensemble", mean, runtime, tables=tables, table=folder / "mean.parquet"),
    }


# ----------------------------------------------------------------------------------------------------------------- rows


def row(name: str, plain: Took, ours: Took, note: str) -> dict:
    return {
        "name": name, "plain": plain.wall, "ours": ours.wall, "unit": "s", "ratio": plain.wall / ours.wall,
        "note": f"{note}; CPU seconds {plain.cpu:.1f} and {ours.cpu:.1f}",
        "details": {"plain_cpu": plain.cpu, "ours_cpu": ours.cpu},
    }  # fmt: skip


def starts(jobs: dict[str, list[str]], device: str) -> list[dict]:
    """What each job takes, in turn with what torch or Arrow alone takes."""
    rows = []
    for name, words in jobs.items():
        plain, ours = [], []
        for _ in range(REPEATS + 1):
            plain.append(took(PLAIN[name], [device]))
            ours.append(took(OURS[name], words))
        before, after = median(plain[1:]), median(ours[1:])  # the first ones read their files from the disk
        alone = "import of numpy and pyarrow" if name == "ensemble" else "torch alone with one convolution"
        beyond = after.wall - before.wall
        rows.append(row(NAMES[name], before, after, f"{beyond:.1f} s beyond the plain process: {alone}"))
    return rows


def compiled_once(folder: Path, words: list[str]) -> list[dict]:
    """The first step of a training that has to compile its network, and of the next one, which finds it compiled."""
    with tempfile.TemporaryDirectory() as kept:
        first, second = (took(OURS["train"], words, **{VARIABLE: kept}) for _ in range(2))
    return [row("the same, compiled", first, second, "plain: the first job of a network; ours: each one after it")]


def run(gpu: bool) -> list[dict]:
    runtime = {"device": "cuda" if gpu else "cpu", "workers": 0, "compile": False}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        rows = starts(commands(folder, runtime), "gpu" if gpu else "cpu")
        if not gpu and shutil.which("g++") is None:
            print("startup: nothing is compiled on a CPU without g++", file=sys.stderr)
            return rows
        compiled = commands(folder / "compiled", runtime | {"compile": True})["train"]
        return [rows[0], *compiled_once(folder, compiled), *rows[1:]]


if __name__ == "__main__":
    print(*run(gpu=False), sep="\n")
