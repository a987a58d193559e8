"""The raw layout of the SIIM-ACR challenge, made up: films of both stages and the table of their masks."""

from pathlib import Path

import cv2
import numpy as np
from data_layouts import write_rows
from dicom_files import dicom

from stagepipe import rle
from stagepipe.artefacts import read_table
from stagepipe.data.store import PixelStore
from stagepipe.recipe.model import Dataset

SIZE = 32
TRAIN, FIRST, SECOND = "dicom-images-train", "dicom-images-test", "stage_2_images"
HEADER = ("ImageId", " EncodedPixels")


def siim(**changes: object) -> Dataset:
    return Dataset(**({"format": "siim", "root": "raw", "classes": ["pneumothorax"]} | changes))


def film(seed: int, size: int = SIZE) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (size, size), dtype=np.uint8)


def box(top: int, left: int, edge: int = 6, size: int = SIZE) -> np.ndarray:
    mask = np.zeros((size, size), np.uint8)
    mask[top : top + edge, left : left + edge] = 1
    return mask


def save(root: Path, path: str, seed: int) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    if path.endswith(".dcm"):
        (root / path).write_bytes(dicom(film(seed)))
    else:
        cv2.imwrite(str(root / path), film(seed))


LABELS = {
    "1.2.1": [box(3, 4)],
    "1.2.2": [box(3, 4), box(6, 7), box(20, 1)],  # the first two overlap
    "1.2.3": [],
    "1.2.4": [box(26, 26)],  # down to the last pixel
    "1.2.5": [box(0, 0)],
}


def rows(names: str) -> list[tuple[str, str]]:
    """Rows of the label table for images by their last digit."""
    return [
        (f"1.2.{name}", rle.encode_relative(mask)) for name in names for mask in LABELS[f"1.2.{name}"] or [box(0, 0, 0)]
    ]


def write_siim(root: Path) -> Path:
    """The second stage: 1.2.1 to 1.2.3 are old labelled films, 1.2.4 and 1.2.5 were tests of the first stage."""
    for number, path in enumerate(("s1/e/1.2.1.dcm", "s2/1.2.2.dcm", "1.2.3.png"), start=1):
        save(root, f"{TRAIN}/{path}", number)
    save(root, f"{FIRST}/s4/e4/1.2.4.dcm", 4)
    save(root, f"{FIRST}/s5/1.2.5.dcm", 5)
    save(root, f"{SECOND}/ID_0.dcm", 6)
    save(root, f"{SECOND}/ID_1.png", 7)
    write_rows(root / "stage_2_train.csv", HEADER, *rows("12345"))
    return root


def table(out: Path) -> dict[str, dict[str, object]]:
    return {row["sample_id"]: row for row in read_table(out / "samples.parquet").to_pylist()}


def masks(out: Path) -> dict[str, np.ndarray]:
    samples = read_table(out / "samples.parquet")
    store = PixelStore(out / "pixels.bin", samples)
    names, splits = samples["sample_id"].to_pylist(), samples["split"].to_pylist()
    return {name: store.mask(row) for row, name in enumerate(names) if splits[row] == "train"}
