"""Reading samples from the pixel store against decoding PNG files each time, and what verified ingest costs."""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from stagepipe.artefacts import read_table
from stagepipe.data import synthetic
from stagepipe.data.ingest import ingest
from stagepipe.data.store import PixelStore
from stagepipe.recipe.model import Dataset, Synthetic

ROUNDS = 5


def rates(count: int, plain: Callable[[], object], ours: Callable[[], object]) -> tuple[float, float]:
    """Items a second of both ways: the best of several rounds, taken in turns."""
    seconds: dict[Callable[[], object], list[float]] = {plain: [], ours: []}
    for _ in range(ROUNDS):
        for way, taken in seconds.items():
            start = time.perf_counter()
            way()
            taken.append(time.perf_counter() - start)
    return count / min(seconds[plain]), count / min(seconds[ours])


def row(name: str, plain: float, ours: float, unit: str, note: str) -> dict:
    return {"name": name, "plain": plain, "ours": ours, "unit": unit, "ratio": ours / plain, "note": note}


def measure(size: int, count: int) -> list[dict]:
    dataset = Dataset(format="synthetic")
    with tempfile.TemporaryDirectory() as temporary:
        root, out = Path(temporary) / "raw", Path(temporary) / "out"
        synthetic.write(root, Synthetic(train=count, test=count // 2, size=size))
        paths = [out / name for name in ("samples.parquet", "pixels.bin", "faults.parquet")]
        files = sorted(root.glob("*/*/*.png"))
        masked = sorted((root / "train/images").iterdir())

        def read_all() -> None:
            for path in files:
                cv2.imread(str(path), cv2.IMREAD_UNCHANGED)

        def from_png() -> None:
            for path in masked:
                cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
                _ = cv2.imread(str(path.parents[1] / "masks" / path.name), cv2.IMREAD_UNCHANGED) > 0

        ingested = rates(len(files), read_all, lambda: ingest(dataset, root, *paths))
        samples = read_table(paths[0])
        store = PixelStore(paths[1], samples)
        rows = np.flatnonzero(samples["mask_offset"].is_valid().to_numpy()).tolist()

        def from_store() -> None:
            for index in rows:
                store.image(index)
                store.mask(index)

        read = rates(len(rows), from_png, from_store)
    tile = f"{size} x {size}"
    return [
        row(f"read image and mask, {tile}", *read, "samples/s", "PNG decoded each time; the store, checksums verified"),
        row(
            f"ingest, {tile}",
            *ingested,
            "files/s",
            "cv2.imread on one thread, no checks; every check, all cores, written",
        ),
    ]


def run(gpu: bool) -> list[dict]:
    """Rows of the report; the GPU plays no part."""
    return measure(101, 600) + measure(512, 48)


if __name__ == "__main__":
    for line in run(gpu=False):
        print("{name}: {plain:,.0f} -> {ours:,.0f} {unit} (x{ratio:.2f}); {note}".format(**line))
