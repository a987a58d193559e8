"""Peak memory of averaging probability tables, beside loading them whole."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

TABLES, SIZE, SIZES = 4, 101, (1_000, 10_000)

# Each way runs in a process of its own; what its imports take is measured before and left out. Linux keeps ru_maxrss
# over fork and exec, so a child would report its parent's peak: the high-water mark of the process itself is read.
MEASURE = """
import json, sys
from pathlib import Path
import numpy as np, pandas
from stagepipe import ensemble, probabilities

def peak():
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024

def plain(tables):
    maps = [np.stack([quantised for _, quantised in probabilities.iterate(table)]) for table in tables]
    return np.round(np.stack(maps).astype(np.float32).mean(axis=0)).astype(np.uint8)

way, folder = sys.argv[1], Path(sys.argv[2])
tables = sorted(folder.glob("table*.parquet"))
before = peak()
if way == "plain":
    plain(tables)
elif way == "ours":
    ensemble.write(folder / "mean.parquet", ensemble.average([[table] for table in tables], [1.0] * len(tables)))
print(json.dumps([before, peak()]))
"""


def _write(folder: Path, images: int) -> None:
    from stagepipe.probabilities import ProbabilityWriter

    for table in range(TABLES):
        random = np.random.default_rng(table)
        coarse = random.integers(0, 256, (images, 1, 5, 5), dtype=np.uint8)
        with ProbabilityWriter(folder / f"table{table}.parquet") as writer:
            for number in range(images):
                tile = np.kron(coarse[number], np.ones((1, 21, 21), np.uint8))[:, :SIZE, :SIZE]
                writer.add_quantised(f"{number:06}", tile ^ random.integers(0, 4, tile.shape, dtype=np.uint8))


def _peak(way: str, folder: Path) -> float:
    """MiB above what the process holds after its imports."""
    command = [sys.executable, "-c", MEASURE, way, str(folder)]
    before, after = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return after - before


def run(gpu: bool) -> list[dict]:
    rows = []
    for images in SIZES:
        with tempfile.TemporaryDirectory() as folder:
            _write(Path(folder), images)
            plain, ours = _peak("plain", Path(folder)), _peak("ours", Path(folder))
        rows.append(
            {
                "name": f"ensemble of {TABLES} tables, {images} images",
                "plain": plain,
                "ours": ours,
                "unit": "MiB",
                "ratio": plain / ours,
                "note": f"peak memory above the imports, {SIZE} x {SIZE}; plain: all tables in memory as float32",
            }
        )
    return rows


if __name__ == "__main__":
    print(*run(gpu=False), sep="\n")
