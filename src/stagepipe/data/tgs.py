"""The layout of the TGS Salt Identification Challenge (Kaggle 2018).

    train/images/<id>.png   labelled tiles          train.csv    id,rle_mask (optional if every tile has a mask file)
    train/masks/<id>.png    masks of any bit depth  depths.csv   id,z        (optional; z becomes the column depth)
    test/images/<id>.png    unlabelled tiles

Non-empty masks of the original data have 16 bits, empty ones 8, so a pixel is salt if its value is above 0.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from stagepipe.data.raw import (
    PNG,
    Findings,
    Format,
    RawSample,
    RunLengths,
    Scan,
    Value,
    find_images,
    number,
    read_rows,
    report_rows_without_image,
    report_shared,
    require_one_class,
)
from stagepipe.errors import shortened

if TYPE_CHECKING:
    from stagepipe.recipe.model import Dataset


def scan(dataset: Dataset, root: Path) -> Scan:
    """Pair tiles, masks, run lengths and depths."""
    require_one_class(dataset)
    findings = Findings(root)
    train = find_images("train/images", PNG, findings)
    masks = find_images("train/masks", PNG, findings)
    test = find_images("test/images", PNG, findings)
    report_shared(train, test, findings)
    runs = _runs(train, findings)
    depths = _depths(train.keys() | test.keys(), findings)
    for sample_id in sorted(masks.keys() - train.keys()):
        findings.add(
            sample_id, masks[sample_id], "missing_image", "a mask without an image; add the image or remove it"
        )
    for sample_id in sorted(train.keys() - masks.keys() - runs.keys()):
        detail = "neither train/masks nor train.csv labels this image; add a mask or move it to test/images"
        findings.add(sample_id, train[sample_id], "missing_mask", detail)
    samples = [
        RawSample(sample_id, "train", path, masks.get(sample_id), runs.get(sample_id), depths.get(sample_id, {}))
        for sample_id, path in train.items()
    ] + [RawSample(sample_id, "test", path, metadata=depths.get(sample_id, {})) for sample_id, path in test.items()]
    return findings.keep(samples)


def _runs(train: dict[str, Path], findings: Findings) -> dict[str, RunLengths]:
    """Run lengths by id."""
    rows = read_rows("train.csv", ("id", "rle_mask"), findings)
    if rows is None:
        return {}
    report_rows_without_image(rows, train, findings.root / "train.csv", findings)
    return {sample_id: RunLengths((row["rle_mask"],), "tgs") for sample_id, row in rows.items()}


def _depths(images: set[str], findings: Findings) -> dict[str, dict[str, Value]]:
    """The metadata column `depth` by id."""
    path = findings.root / "depths.csv"
    rows = read_rows(path.name, ("id", "z"), findings)
    if rows is None:
        return {}
    report_rows_without_image(rows, images, path, findings)
    for sample_id in sorted(images - rows.keys()):
        findings.add(sample_id, path, "missing_metadata", f"has no row for {sample_id!r}; add one with its depth z")
    depths: dict[str, int | float] = {}
    for sample_id, row in rows.items():
        depth = number(row["z"])
        if depth is None or not math.isfinite(depth):
            detail = f"z of {sample_id!r} is {shortened(row['z'])!r}; write a number"
            findings.add(sample_id, path, "bad_value", detail)
        else:
            depths[sample_id] = depth
    # One fraction makes a column of fractions, which can't hold every whole number as it is.
    kind = float if any(isinstance(depth, float) for depth in depths.values()) else int
    return {sample_id: {"depth": kind(depth)} for sample_id, depth in depths.items()}


FORMAT = Format(
    folders=("train/images", "train/masks", "test/images"),
    required=("train/images", "test/images"),
    tables=("train.csv", "depths.csv"),
    scan=scan,
)
