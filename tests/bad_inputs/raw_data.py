"""Sound raw data to be spoilt, and ingests of it that leave out what is faulty."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from stagepipe.artefacts import read_table
from stagepipe.data.ingest import ingest
from stagepipe.errors import DataError
from stagepipe.recipe.model import Dataset
from stagepipe.rle import encode_relative
from tests.bad_inputs import BadInput
from tests.data_layouts import SIZE, picture, salt, save, write_rows, write_tgs
from tests.dicom_files import dicom

Spoil = Callable[[Path], object]
"""changes sound raw data below a root"""
OUTPUTS = "output"
"""folder beside the input for all that is written"""
CLASSES = ["road", "car", "tree"]
COLOURS = {"road": [128, 64, 128], "car": [[0, 0, 142], [0, 0, 70]], "tree": [107, 142, 35]}
FILMS = ("dicom-images-train", "dicom-images-test")


def write_folder(root: Path) -> None:
    """The folder layout: a0, a1 labelled with three classes, b0 not, and a table of their hours."""
    for number in range(2):
        save(root / f"train/images/a{number}.png", picture(number))
        save(root / f"train/masks/a{number}.png", np.full((SIZE, SIZE), number, np.uint8))
    save(root / "test/images/b0.png", picture(5))
    write_rows(root / "metadata.csv", ("id", "hour"), ("a0", "1"), ("a1", "2"), ("b0", "3"))


def write_siim(root: Path) -> None:
    """The siim layout: f0 and f1 labelled, g0 not."""
    for folder, names in zip(FILMS, (("f0", "f1"), ("g0",)), strict=True):
        (root / folder).mkdir(parents=True)
        for name in names:
            (root / folder / f"{name}.dcm").write_bytes(dicom(picture(int(name[1]), 1)))
    rows = ((f"f{number}", encode_relative(salt(number))) for number in range(2))
    write_rows(root / "train-rle.csv", ("ImageId", "EncodedPixels"), *rows)


def write_street(root: Path) -> None:
    """The street layout: s0, s1 and s2 of one drive labelled with three colours, v0 not."""
    for number in range(3):
        save(root / f"seg_train_images/s{number}.jpg", picture(number))
        save(root / f"seg_train_annotations/s{number}.png", colours(number)[..., ::-1])
        described = {"attributes": {"route": "Tokyo1", "timeofday": "day"}, "frameIndex": 5 * number}
        (root / f"seg_train_annotations/s{number}.json").write_text(json.dumps(described), encoding="utf-8")
    save(root / "seg_test_images/v0.jpg", picture(5))


def colours(number: int) -> np.ndarray:
    """A mask of three colours, uint8 [SIZE, SIZE, 3], red, green, blue."""
    mask = np.full((SIZE, SIZE, 3), COLOURS["road"], np.uint8)
    mask[:8], mask[16:, number:12], mask[16:, 12:] = COLOURS["tree"], *COLOURS["car"]
    return mask


LAYOUTS: dict[str, tuple[Callable[[Path], object], set[str]]] = {
    "tgs": (write_tgs, {"t0", "t1", "t2", "t3", "u0", "u1"}),
    "folder": (write_folder, {"a0", "a1", "b0"}),
    "siim": (write_siim, {"f0", "f1", "g0"}),
    "street": (write_street, {"s0", "s1", "s2", "v0"}),
}
"""writes a sound layout; its ids"""
RGB = {"classes": CLASSES, "channels": "rgb"}
OPTIONS: dict[str, dict[str, Any]] = {"folder": RGB, "street": RGB | {"palette": COLOURS}}
"""what else the dataset of a layout says"""


def built(form: str, spoil: Spoil) -> Callable[[Path], None]:
    """Writes a sound layout into the folder `raw` and spoils it."""

    def build(folder: Path) -> None:
        write, _ = LAYOUTS[form]
        write(folder / "raw")
        spoil(folder / "raw")

    return build


def ingested(form: str, faults: str = "quarantine", **changes: Any) -> Callable[[Path], list[dict[str, str]]]:
    """An ingest that returns its table of faults; no sample without a fault may be lost."""
    dataset = Dataset(format=form, root="raw", faults=faults, **(OPTIONS.get(form, {}) | changes))

    def meet(folder: Path) -> list[dict[str, str]]:
        out = folder.parent / OUTPUTS
        paths = (out / "samples.parquet", out / "pixels.bin", out / "faults.parquet")
        ingest(dataset, folder / "raw", *paths, threads=1)
        found: list[dict[str, str]] = read_table(paths[2]).to_pylist()
        kept = read_table(paths[0])["sample_id"].to_pylist()
        lost = LAYOUTS[form][1] - {*kept} - {row["sample_id"] for row in found}
        assert not lost, f"{lost} are neither samples nor faults"
        return found

    return meet


def quarantine(name: str, form: str, spoil: Spoil, fault: str, *says: str) -> BadInput:
    """Spoilt raw data that ends as a row of the table of faults."""
    return BadInput(name, form, built(form, spoil), ingested(form), fault, says)


def refusal(name: str, form: str, spoil: Spoil, *says: str, **changes: Any) -> BadInput:
    """Spoilt raw data that an ingest refuses as a whole."""
    return BadInput(name, form, built(form, spoil), ingested(form, **changes), DataError, says)


def content(path: str, new: bytes | Callable[[bytes], bytes]) -> Spoil:
    """Gives a file other bytes."""

    def spoil(root: Path) -> None:
        file = root / path
        file.write_bytes(new if isinstance(new, bytes) else new(file.read_bytes()))

    return spoil


def flipped(old: bytes, position: int) -> bytes:
    """The bytes with one bit changed."""
    return old[:position] + bytes([old[position] ^ 4]) + old[position + 1 :]
