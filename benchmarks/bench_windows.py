"""Overlapping windows over a 1936 x 1216 image of 20 classes: peak memory and time, and what tables take on disk."""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

CLASSES, HEIGHT, WIDTH, WINDOW, OVERLAP, KEPT = 20, 1216, 1936, 256, 0.5, 3

# Each way runs in a process of its own, imports and all: what counts is that a job gets by with so much memory. Linux
# keeps ru_maxrss over fork and exec, so the high-water mark of the process itself is read.
MEASURE = f"""
import json, sys, time
from pathlib import Path
import numpy as np, torch
from stagepipe import windows
from stagepipe.artefacts import save_weights
from stagepipe.inference import Predictor
from stagepipe.members import Ensemble
from stagepipe.networks import build
from stagepipe.recipe.model import Network, Predict, Runtime
from stagepipe.recipe.parts import MemberPart, PredictPart
from stagepipe.runtime import configure

way, weights, gpu = sys.argv[1], Path(sys.argv[2]), sys.argv[3] == "gpu"
machine = configure(Runtime(device="auto" if gpu else "cpu", precision="fp32", compile=False), threads=2)
network = Network(architecture="street_unet", encoder="resnet34", normalise="imagenet")
part = PredictPart(
    stage="stage", run="run", fold="0", classes=[str(index) for index in range({CLASSES})], stored_channels=3,
    network=network, members=[MemberPart(phase="phase", member="0", weight=1)],
    predict=Predict(windows={{"size": {WINDOW}, "overlap": {OVERLAP}}}),
)
if way == "make":
    torch.manual_seed(0)
    save_weights(weights, {{"0": build(network, {CLASSES}, 3, pretrained=False).module.state_dict()}})
    sys.exit()
ensemble = Ensemble(part, {{"phase": weights}}, machine)
image = np.random.default_rng(0).integers(0, 256, ({HEIGHT}, {WIDTH}, 3), dtype=np.uint8)

def plain():
    places = windows.overlapping(image.shape[:2], ({WINDOW}, {WINDOW}), {OVERLAP})
    cut = np.stack([image[row : row + {WINDOW}, column : column + {WINDOW}] for row, column in places])
    maps = [ensemble.predict(torch.from_numpy(window[None]))[0].cpu().numpy() for window in cut]
    weight = windows.gaussian(({WINDOW}, {WINDOW})).numpy()
    total, weights = np.zeros(({CLASSES}, *image.shape[:2])), np.zeros(image.shape[:2])
    for (row, column), found in zip(places, maps):
        total[:, row : row + {WINDOW}, column : column + {WINDOW}] += found * weight
        weights[row : row + {WINDOW}, column : column + {WINDOW}] += weight
    return np.floor(total / weights * 255 + 0.5).astype(np.uint8)

def ours():
    return next(Predictor(ensemble, part.predict, {CLASSES}).quantised([(None, image[None])]))[1][0]

began = time.perf_counter()
result = plain() if way == "plain" else ours()
status = Path("/proc/self/status").read_text()
print(json.dumps([int(status.split("VmHWM:")[1].split()[0]) / 1024, time.perf_counter() - began, int(result.sum())]))
"""


def _measured(way: str, weights: Path, gpu: bool) -> list[float]:
    """MiB at the peak, seconds, and the sum of the map."""
    command = [sys.executable, "-c", MEASURE, way, str(weights), "gpu" if gpu else "cpu"]
    done = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return json.loads(done) if done else []


def memory(gpu: bool) -> list[dict]:
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "weights.safetensors"
        _measured("make", weights, gpu)
        plain, ours = (_measured(way, weights, gpu) for way in ("plain", "ours"))
    if abs(plain[2] - ours[2]) > 1e-3 * plain[2]:
        raise RuntimeError(f"the two ways differ: {plain[2]} and {ours[2]}")
    what = f"{CLASSES} classes, {WIDTH} x {HEIGHT}, windows of {WINDOW} overlapping by {OVERLAP:.0%}"
    note = "plain: the maps of all windows, then a sum in float64"
    return [
        {
            "name": f"peak memory of the process, {what}",
            "plain": plain[0],
            "ours": ours[0],
            "unit": "MiB",
            "note": note,
        },
        {"name": f"time, {what}", "plain": plain[1], "ours": ours[1], "unit": "s", "note": note},
    ]


def scene_maps(seed: int) -> np.ndarray:
    """uint8 [classes, height, width]: a softmax over smooth random fields, sure in most places, not at borders."""
    random = np.random.default_rng(seed)
    coarse = random.normal(0, 6, (HEIGHT // 64, WIDTH // 64, CLASSES)).astype(np.float32)
    logits = cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    logits += random.normal(0, 0.3, logits.shape).astype(np.float32)
    logits = np.exp(logits - logits.max(axis=2, keepdims=True))
    return np.moveaxis(np.floor(logits / logits.sum(axis=2, keepdims=True) * 255 + 0.5).astype(np.uint8), 2, 0).copy()


def tables() -> list[dict]:
    from stagepipe.probabilities import ProbabilityWriter, keep_most_probable

    maps = scene_maps(0)
    sizes, seconds = [], []
    with tempfile.TemporaryDirectory() as folder:
        for kept in (None, KEPT):
            path = Path(folder) / f"{kept}.parquet"
            began = time.perf_counter()
            with ProbabilityWriter(path) as writer:
                writer.add_quantised("image", keep_most_probable(maps, kept))
            seconds.append(time.perf_counter() - began)
            sizes.append(path.stat().st_size / 2**20)
    what = f"a map of {CLASSES} classes, {WIDTH} x {HEIGHT}, {KEPT} kept"
    note = f"{maps.nbytes / 2**20:.0f} MiB before compression; plain: all classes"
    return [
        {"name": f"table, {what}", "plain": sizes[0], "ours": sizes[1], "unit": "MiB", "note": note},
        {"name": f"writing, {what}", "plain": seconds[0], "ours": seconds[1], "unit": "s", "note": note},
    ]


def run(gpu: bool) -> list[dict]:
    return [row | {"ratio": row["plain"] / row["ours"]} for row in [*memory(gpu), *tables()]]


if __name__ == "__main__":
    print(*run(gpu=False), sep="\n")
