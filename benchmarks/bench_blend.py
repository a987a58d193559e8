"""Blending chest films of 1024 x 1024: memory and speed of the blend job, and the search of its shares.

`python -m benchmarks.bench_blend --images 3205` blends as many as the second test set of SIIM-ACR Pneumothorax has.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.timing import compare

IMAGES, PART = 640, 64  # blended by stagepipe and the plain way
SHARES = {"albunet_public": 0.4, "albunet_valid": 0.2, "seunet": 0.2, "resnet50": 0.2}
FOLDS, SIZE, DISTINCT = 5, 1024, 32
SEARCHED, FILMS = 32, 10_679  # images of the search that is timed, and of the published training set
TIMED = 4  # candidates of the literal search that are timed; the rest takes as long

# Each way runs in a process of its own. Linux keeps ru_maxrss over fork and exec, so a child would report its parent's
# peak: the high-water mark of the process itself is read.
MEASURE = """
import json, sys, time
from pathlib import Path
import numpy as np
from stagepipe import ensemble
from stagepipe.probabilities import iterate
from stagepipe.recipe.averages import EnsemblePart

def peak():
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024

def plain(tables, shares):
    blend = {}
    for run, share in zip(ensemble.by_run(tables, len(shares)), shares):
        mean = {}
        for table in run:
            for name, quantised in iterate(table):
                mean[name] = mean.get(name, 0) + quantised.astype(np.float32) / np.float32(255 * len(run))
        for name, values in mean.items():
            blend[name] = blend.get(name, 0) + share * values
    return ((name, (255 * values + 0.5).astype(np.uint8)) for name, values in sorted(blend.items()))

def ours(tables, shares):
    return ensemble.average_runs(tables, EnsemblePart(runs=[{"weight": share} for share in shares], split="test"))

way, folder, shares, folds = sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3]), int(sys.argv[4])
tables = [table for table in sorted(folder.glob("run*.parquet")) for _ in range(folds)]
before, start = peak(), time.perf_counter()
ensemble.write(folder / "blend.parquet", {"plain": plain, "ours": ours}[way](tables, shares))
print(json.dumps([before, peak(), time.perf_counter() - start]))
"""


def _films(run: int) -> tuple[np.ndarray, np.ndarray]:
    """Maps uint8 [DISTINCT, SIZE, SIZE] of one run and their truths: a quarter have a collapse, the rest nothing."""
    import cv2

    random, truths_random = np.random.default_rng(run), np.random.default_rng(99)
    rows, columns = np.mgrid[:SIZE, :SIZE]
    maps, truths = np.empty((2, DISTINCT, SIZE, SIZE), np.uint8)
    for number in range(DISTINCT):
        row, column, radius = truths_random.integers((200, 200, 20), (800, 800, 120))
        distance = np.hypot(rows - row, 1.5 * (columns - column)) - radius
        if number % 4:
            distance = np.full_like(distance, SIZE)
        logit = np.clip(-distance / 12, -5, 5) + cv2.resize(random.normal(0, 1, (64, 64)), (SIZE, SIZE))
        maps[number], truths[number] = np.round(255 / (1 + np.exp(-logit))), distance < 0
    return maps, truths


def _write(folder: Path, images: int) -> None:
    """One table a run, its few maps again and again."""
    from stagepipe.probabilities import ProbabilityWriter

    for run in range(len(SHARES)):
        maps, _ = _films(run)
        with ProbabilityWriter(folder / f"run{run}.parquet") as writer:
            for number in range(images):
                writer.add_quantised(f"{number:05}", maps[None, number % DISTINCT])


def _blended(way: str, images: int) -> tuple[float, float, float]:
    """Peak memory before and after in MiB, and seconds; every fold of a run reads the same table."""
    with tempfile.TemporaryDirectory() as folder:
        _write(Path(folder), images)
        command = [sys.executable, "-c", MEASURE, way, folder, json.dumps([*SHARES.values()]), str(FOLDS)]
        return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def blend(images: int) -> list[dict]:
    """Memory and speed of the blend job."""
    before, measured, plain_seconds = _blended("plain", PART)
    _, peak, seconds = _blended("ours", images)
    one_dict = images * SIZE * SIZE * 4 / 2**20
    name = f"blend of {len(SHARES) * FOLDS} tables, {images} maps {SIZE} x {SIZE}"
    rates = {"plain": PART / plain_seconds, "ours": images / seconds}
    return [
        {
            "name": f"{name}: memory",
            "plain": one_dict,
            "ours": peak,
            "unit": "MiB",
            "ratio": one_dict / peak,
            "note": "peak of the whole process; plain, computed: one dict of float32 maps; published code holds two, "
            f"which took {measured - before:,.0f} MiB on {PART} maps, measured",
        },
        {
            "name": f"{name}: speed",
            **rates,
            "unit": "images/s",
            "ratio": rates["ours"] / rates["plain"],
            "note": f"from tables to a table; plain: dicts of float32 maps, on {PART} maps",
        },
    ]


def search() -> dict:
    """Speed of the search of the blend's shares."""
    from stagepipe import binarise, blend_search, ensemble, metrics, triplets
    from stagepipe.recipe.model import Submission

    grid = {"top": [0.6, 0.7, 0.75], "area": [600, 1000], "bottom": [0.3, 0.4], "size": SIZE}
    rule = Submission(blend={"any": 1.0}, threshold={"metric": "dice"}, triplets=[grid])
    names = [f"{number:05}" for number in range(SEARCHED)]
    truths, folds = dict(zip(names, _films(0)[1], strict=True)), {name: int(name) % FOLDS for name in names}
    shares = blend_search.candidates(len(SHARES), 0.1)
    with tempfile.TemporaryDirectory() as folder:
        _write(Path(folder), SEARCHED)
        tables = [[table] for table in sorted(Path(folder).glob("run*.parquet"))]

        def literal() -> list[np.ndarray]:
            found = []
            for candidate in shares[:TIMED]:
                masks = [
                    [(truths[name], binarise.apply(quantised, triplet)) for triplet in triplets.expand(rule.triplets)]
                    for name, quantised in ensemble.average(tables, candidate.tolist())
                ]
                counts = [[metrics.intersections(*pair, 1) for pair in of_image] for of_image in masks]
                scores = [metrics.scores(np.stack(of_image))["dice"] for of_image in counts]
                found.append(np.mean(scores, axis=0).max())
            return found

        def ours() -> np.ndarray:
            return blend_search.search(tables, SHARES, truths.__getitem__, folds, rule, 0.1).scores

        difference = np.abs(ours()[:TIMED] - literal()).max()
        row = compare("", literal, ours, repeats=3)
    plain, seconds = row["plain"] * len(shares) / TIMED / 1e3, row["ours"] / 1e3
    return {
        "name": f"search of shares, {len(SHARES)} runs, {SEARCHED} maps {SIZE} x {SIZE}",
        "plain": plain,
        "ours": seconds,
        "unit": "s",
        "ratio": plain / seconds,
        "note": f"{len(shares)} blends at 12 triplets; plain: literal loop, {TIMED} blends timed and scaled; scores "
        f"differ by {difference:.1e}; {FILMS:,} maps would take us {seconds * FILMS / SEARCHED / 60:.0f} minutes",
    }


def run(gpu: bool) -> list[dict]:
    return [*blend(IMAGES), search()]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=IMAGES, help="maps to blend (default: %(default)s)")
    print(*blend(parser.parse_args().images), search(), sep="\n")
