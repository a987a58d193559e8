"""Samples and probability maps made by hand, and the threshold that is fixed on them."""

import json

import numpy as np
import pyarrow as pa
import tiny

from stagepipe.artefacts import read_table, write_table
from stagepipe.data.store import writing
from stagepipe.masks import Sources, fix_threshold
from stagepipe.probabilities import ProbabilityWriter
from stagepipe.recipe.model import Submission
from stagepipe.recipe.submission_parts import BinarisePart
from stagepipe.tables import FOLDS, SAMPLES

SIZE = 8


def rule(**changes: object) -> Submission:
    return Submission(blend={"any": 1.0}, **changes)


def square(edge: int, value: int = 1) -> np.ndarray:
    mask = np.zeros((SIZE, SIZE), np.uint8)
    mask[:edge, :edge] = value
    return mask


def maps_of(masks: dict[str, np.ndarray], inside: int, outside: int) -> dict[str, np.ndarray]:
    """Maps of one class with a value inside and another outside the masks."""
    return {name: np.where(mask > 0, inside, outside).astype(np.uint8)[None] for name, mask in masks.items()}


def data_of(folder, truths: dict[str, np.ndarray], black: set[str] = frozenset()) -> tiny.Data:
    """Labelled samples in folds 0, 1, 0, ..."""
    data = tiny.Data(folder / "samples.parquet", folder / "pixels.bin", folder / "folds.parquet")
    rows = []
    with writing(data.pixels) as append:
        for name, mask in truths.items():
            image_offset, image_crc32 = append(np.full((SIZE, SIZE, 1), 7, np.uint8))
            mask_offset, mask_crc32 = append(mask)
            rows.append(
                {"sample_id": name, "split": "train", "height": SIZE, "width": SIZE, "channels": 1}
                | {"image_offset": image_offset, "image_crc32": image_crc32, "black": name in black}
                | {"mask_offset": mask_offset, "mask_crc32": mask_crc32, "empty": not mask.any(), "coverage": []}
            )
    write_table(data.samples, pa.Table.from_pylist(rows, schema=SAMPLES))
    folds = [{"sample_id": name, "fold": index % 2, "always_train": False} for index, name in enumerate(truths)]
    write_table(data.folds, pa.Table.from_pylist(folds, schema=FOLDS))
    return data


def write_maps(path, maps: dict[str, np.ndarray]):
    with ProbabilityWriter(path) as writer:
        for name, quantised in sorted(maps.items()):
            writer.add_quantised(name, quantised)
    return path


def fixed(folder, data, maps, of: BinarisePart) -> tuple[dict, list[dict], int]:
    """(what the JSON holds, cases of the blend, length of the curve)."""
    names = [folder / name for name in ("threshold.json", "thresholds.parquet", "cases.parquet", "confusion.parquet")]
    sources = Sources(data.samples, write_maps(folder / "oof.parquet", maps))
    fix_threshold(of, sources, data.pixels, data.folds, *names)
    rows = [row for row in read_table(names[2]).to_pylist() if row["run"] == "blend"]
    return json.loads(names[0].read_text()), rows, read_table(names[1]).num_rows


TRUTHS = {"a": square(4), "b": square(5), "c": square(0), "d": square(3)}


def triplet(top: object, area: object, bottom: object) -> dict:
    return {"top": top, "area": area, "bottom": bottom, "size": [SIZE, SIZE]}
