"""A made-up salt survey in the raw `tgs` layout, for examples and tests.

Seismic panels of 4 x 4 tiles are drawn and cut, so that neighbouring tiles continue one another, and the tiles go at
random to train and test. As in the real data each tile has a contrast of its own. A tile wholly inside salt, which the
real data labels empty, is left out. The same specification gives the same bytes.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from stagepipe.data.panel import TILES, draw_panel
from stagepipe.errors import DataError
from stagepipe.recipe.model import Synthetic
from stagepipe.rle import encode
from stagepipe.seeding import generator
from stagepipe.storage import atomic, atomic_folder


@dataclass(frozen=True)
class Slot:
    """A tile still to be filled."""

    split: str
    black: bool = False


@dataclass(frozen=True)
class Tile:
    """A finished tile: image uint8 [size, size], mask bool [size, size]."""

    split: str
    image: np.ndarray
    mask: np.ndarray


def write(folder: Path, spec: Synthetic) -> None:
    """Write a raw `tgs` layout to a new or empty folder, whole or not at all. DataError if the folder holds files."""
    with new_folder(folder) as unfinished:
        _write_layout(unfinished, spec)


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Yield a folder still to be made that becomes `folder` at success and vanishes at failure.

    DataError if `folder` holds files.
    """
    folder = Path(folder)
    if folder.is_dir() and any(folder.iterdir()):
        raise DataError(f"{folder}: holds files already; delete it to have synthetic data written there")
    with atomic_folder(folder) as unfinished:
        yield unfinished


def write_csv(path: Path, header: tuple[str, str], rows: Iterable[tuple[str, object]]) -> None:
    """Write a CSV file of two columns."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def write_manifest(folder: Path, path: Path) -> None:
    """Write the SHA-256 of every file below a folder, sorted by name, as `sha256sum --check` reads it."""
    files = sorted(file.relative_to(folder).as_posix() for file in Path(folder).rglob("*") if file.is_file())
    lines = [f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n" for name in files]
    with atomic(path) as temporary:
        temporary.write_text("".join(lines), encoding="utf-8")


def _write_layout(folder: Path, spec: Synthetic) -> None:
    for name in ("train/images", "train/masks", "test/images"):
        (folder / name).mkdir(parents=True)
    random = generator("synthetic", spec.seed, "ids and depths")
    count = spec.train + spec.test
    ids = list(dict.fromkeys(f"{number:010x}" for number in random.integers(0, 16**10, size=2 * count).tolist()))
    depths = random.integers(50, 960, size=count).tolist()
    runs: dict[str, str] = {}
    rows: dict[str, str] = {}
    for sample_id, tile in zip(ids, tiles(spec), strict=False):
        image = np.repeat(tile.image[..., None], 3, axis=2)
        _write_png(folder / tile.split / "images" / f"{sample_id}.png", image)
        if tile.split == "test":
            rows[sample_id] = "1 1"
            continue
        runs[sample_id] = encode(tile.mask)
        # The original has 16-bit masks, but 8-bit ones where there is no salt.
        mask = tile.mask.astype(np.uint16) * 65535 if tile.mask.any() else np.zeros_like(tile.image)
        _write_png(folder / "train" / "masks" / f"{sample_id}.png", mask)
    write_csv(folder / "train.csv", ("id", "rle_mask"), sorted(runs.items()))
    write_csv(folder / "sample_submission.csv", ("id", "rle_mask"), sorted(rows.items()))
    write_csv(folder / "depths.csv", ("id", "z"), sorted(zip(ids, depths, strict=False)))


def tiles(spec: Synthetic) -> Iterator[Tile]:
    """Yield all tiles of a specification, panel by panel."""
    random = generator("synthetic", spec.seed, "tiles")
    slots = _slots(spec, random)
    panel = 0
    while any(slots.values()):
        style = "wall" if slots["vertical"] else "dome" if slots["salt"] else "layers"
        image, mask = draw_panel(generator("synthetic", spec.seed, "panel", panel), spec.size, style)
        for row, column in np.ndindex(TILES, TILES):
            place = np.s_[row * spec.size : (row + 1) * spec.size, column * spec.size : (column + 1) * spec.size]
            kind = _kind(mask[place])
            if slots.get(kind):
                slot = slots[kind].pop()
                pixels = np.zeros_like(image[place]) if slot.black else _contrast(image[place], random)
                yield Tile(slot.split, np.clip(np.rint(pixels), 0, 255).astype(np.uint8), mask[place])
        panel += 1


def _slots(spec: Synthetic, random: np.random.Generator) -> dict[str, list[Slot]]:
    """How many tiles of each kind both splits need, in random order."""
    slots: dict[str, list[Slot]] = {"empty": [], "vertical": [], "salt": []}
    for split, count in (("train", spec.train), ("test", spec.test)):
        black = round(spec.black * count)
        empty = max(black, round(spec.empty * count))
        vertical = min(round(spec.vertical * count), count - empty)
        slots["empty"] += [Slot(split, black=True)] * black + [Slot(split)] * (empty - black)
        slots["vertical"] += [Slot(split)] * vertical
        slots["salt"] += [Slot(split)] * (count - empty - vertical)
    return {kind: [waiting[i] for i in random.permutation(len(waiting))] for kind, waiting in slots.items()}


def _kind(mask: np.ndarray) -> str:
    if not mask.any():
        return "empty"
    if mask.all():
        return "full"
    return "vertical" if (mask == mask[0]).all() else "salt"


def _contrast(pixels: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Gray values of a tile with a gain and an offset of its own."""
    return (pixels - 128) * random.uniform(0.85, 1.2) + 128 + random.uniform(-15, 15)


def _write_png(path: Path, pixels: np.ndarray) -> None:
    path.write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
