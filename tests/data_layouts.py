"""Tiny raw layouts to be spoilt by tests of ingest."""

import csv
from pathlib import Path

import cv2
import numpy as np

from stagepipe.data.ingest import IngestSummary, check, ingest
from stagepipe.recipe.model import Dataset
from stagepipe.rle import encode

SIZE = 24


def tgs(faults: str = "strict", limit: int | None = None) -> Dataset:
    return Dataset(format="tgs", root="raw", faults=faults, limit=limit)


def street(**changes: object) -> Dataset:
    return Dataset(
        **({"format": "folder", "root": "raw", "classes": ["road", "car", "tree"], "channels": "rgb"} | changes)
    )


def picture(seed: int, channels: int = 3, size: int = SIZE) -> np.ndarray:
    gray = np.random.default_rng(seed).integers(1, 255, (size, size), dtype=np.uint8)
    return np.repeat(gray[..., None], channels, axis=2) if channels > 1 else gray


def save(path: Path, pixels: np.ndarray, suffix: str | None = None) -> bytes:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = cv2.imencode(suffix or path.suffix, pixels)[1].tobytes()
    path.write_bytes(content)
    return content


def salt(seed: int) -> np.ndarray:
    """16-bit mask with a corner of salt."""
    mask = np.zeros((SIZE, SIZE), np.uint16)
    mask[seed + 2 :, : seed + 5] = 65535
    return mask


def write_rows(path: Path, *rows: tuple[str, ...]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)


def write_tgs(root: Path) -> Path:
    """A sound tgs layout: t0..t3 labelled (t3 empty, 8 bits), u0 and u1 not."""
    runs = [("id", "rle_mask")]
    for number in range(4):
        mask = salt(number) if number < 3 else np.zeros((SIZE, SIZE), np.uint8)
        save(root / f"train/images/t{number}.png", picture(number))
        save(root / f"train/masks/t{number}.png", mask)
        runs.append((f"t{number}", encode(mask > 0)))
    for number in range(2):
        save(root / f"test/images/u{number}.png", picture(10 + number))
    write_rows(root / "train.csv", *runs)
    ids = [name for name, _ in runs[1:]] + ["u0", "u1"]
    write_rows(root / "depths.csv", ("id", "z"), *((name, str(100 + row)) for row, name in enumerate(ids)))
    return root


def codes(dataset: Dataset, root: Path) -> list[tuple[str, str, str]]:
    """Faults as (sample_id, path, code)."""
    return sorted((fault.sample_id, fault.path, fault.fault) for fault in check(dataset, root))


def run(dataset: Dataset, root: Path, out: Path) -> IngestSummary:
    return ingest(dataset, root, out / "samples.parquet", out / "pixels.bin", out / "faults.parquet")


def outputs(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []
