"""A plain layout for own data: folders of images and masks that pair by name.

    train/images/<id>.<png|jpg|jpeg|tif|tiff>   labelled images
    train/masks/<id>.<png|tif|tiff|...>         one class: 0 and one other value; several classes: class indices
    test/images/<id>.<png|...>                  unlabelled images
    metadata.csv                                optional: id and any further columns, a row per image

Columns of metadata.csv become columns of the samples table: numbers if all their values are (and none has more than 18
digits), true and false as booleans, else text; an empty field is null. A column `split` is only compared with the
folder that the image lies in.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING

from stagepipe.data.raw import (
    IMAGES,
    Findings,
    Format,
    RawSample,
    Scan,
    Value,
    find_images,
    number,
    read_rows,
    report_rows_without_image,
    report_shared,
)
from stagepipe.errors import shortened

if TYPE_CHECKING:
    from stagepipe.recipe.model import Dataset


def scan(dataset: Dataset, root: Path) -> Scan:
    """Pair images, masks and rows of metadata.csv."""
    findings = Findings(root)
    train = find_images("train/images", IMAGES, findings)
    masks = find_images("train/masks", IMAGES, findings)
    test = find_images("test/images", IMAGES, findings)
    report_shared(train, test, findings)
    for sample_id in sorted(masks.keys() - train.keys()):
        findings.add(
            sample_id, masks[sample_id], "missing_image", "a mask without an image; add the image or remove it"
        )
    for sample_id in sorted(train.keys() - masks.keys()):
        detail = "has no mask of that name in train/masks; add one or move the image to test/images"
        findings.add(sample_id, train[sample_id], "missing_mask", detail)
    splits = dict.fromkeys(train, "train") | dict.fromkeys(test, "test")
    metadata = _metadata(splits, findings)
    images = train | test
    samples = [
        RawSample(sample_id, split, images[sample_id], masks.get(sample_id), metadata=metadata.get(sample_id, {}))
        for sample_id, split in splits.items()
    ]
    return findings.keep(samples)


def _metadata(splits: dict[str, str], findings: Findings) -> dict[str, dict[str, Value]]:
    path = findings.root / "metadata.csv"
    rows = read_rows(path.name, ("id",), findings)
    if rows is None:
        return {}
    report_rows_without_image(rows, splits, path, findings)
    for sample_id in sorted(splits.keys() - rows.keys()):
        findings.add(sample_id, path, "missing_metadata", f"has no row for {sample_id!r}; add one")
    for sample_id, row in rows.items():
        lies_in = splits.get(sample_id)
        if lies_in and row.pop("split", lies_in) != lies_in:
            detail = f"the split of {sample_id!r} is another than {lies_in}, where its image lies; correct or remove it"
            findings.add(sample_id, path, "bad_value", detail)
    names = [name for name in next(iter(rows.values()), {}) if name != "split"]
    columns = {name: _typed(name, {key: row[name] for key, row in rows.items()}, path, findings) for name in names}
    return {sample_id: {name: columns[name][sample_id] for name in names} for sample_id in rows}


def _typed(name: str, texts: dict[str, str], path: Path, findings: Findings) -> dict[str, Value]:
    """Values of one column by id: all booleans, all whole numbers, all numbers, or text; None for an empty field."""
    filled = {sample_id: text.strip() for sample_id, text in texts.items() if text.strip()}
    values: dict[str, Value] = dict.fromkeys(texts)
    if {text.lower() for text in filled.values()} <= {"true", "false"}:
        return values | {sample_id: text.lower() == "true" for sample_id, text in filled.items()}
    if any(re.fullmatch("[+-]?[0-9]{19,}", text) for text in filled.values()):
        return values | {sample_id: texts[sample_id] for sample_id in filled}  # as numbers, two names could be one
    numbers = {sample_id: number(text) for sample_id, text in filled.items()}
    finite = {key: value for key, value in numbers.items() if value is not None and math.isfinite(value)}
    if not finite or None in numbers.values():
        return values | {sample_id: texts[sample_id] for sample_id in filled}
    for sample_id in sorted(numbers.keys() - finite.keys()):
        value = shortened(texts[sample_id])
        detail = f"{shortened(name)} of {sample_id!r} is {value!r}; write a number or leave the field empty"
        findings.add(sample_id, path, "bad_value", detail)
    if any(isinstance(value, float) for value in finite.values()):
        return values | {sample_id: float(value) for sample_id, value in finite.items()}
    return values | finite


FORMAT = Format(
    folders=("train/images", "train/masks", "test/images"),
    required=("train/images", "train/masks", "test/images"),
    tables=("metadata.csv",),
    scan=scan,
)
