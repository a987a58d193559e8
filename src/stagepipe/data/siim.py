"""The layout of the SIIM-ACR Pneumothorax Segmentation challenge (Kaggle 2019), as its archives unpack.

    dicom-images-train/.../<id>.<dcm|png>   labelled films, in folders of any depth
    dicom-images-test/.../<id>.<dcm|png>    optional: films of the first stage's test set
    stage_2_images/.../<id>.<dcm|png>       optional: films of the second stage's test set, unlabelled
    stage_2_train.csv or train-rle.csv      ImageId,EncodedPixels: a row per instance, -1 for none; of both the first
    masks/<id>.png                          in place of the table or beside it: one mask per film

An id is a file name without its last suffix. The second stage labels the first one's test films: those with a row or a
mask are labelled samples, with true in the column `second_stage`; without, they are test images, unless there is
stage_2_images. The mask of a film is the union of its instances. A mask file may have grey borders, as resizing leaves
them: what lies above half of its range is foreground.
"""

from __future__ import annotations

import os
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

from stagepipe.data.raw import (
    PNG,
    Findings,
    Format,
    RawSample,
    RunLengths,
    Scan,
    find_images,
    read_table,
    report_bad_id,
    report_rows_without_image,
    report_shared,
    require_one_class,
)
from stagepipe.errors import DataError

if TYPE_CHECKING:
    from stagepipe.recipe.model import Dataset

TRAIN, FIRST_TEST, SECOND_TEST, MASKS = "dicom-images-train", "dicom-images-test", "stage_2_images", "masks"
TABLES = ("stage_2_train.csv", "train-rle.csv")
"""The first one that exists is read; that of the second stage holds the rows of the other, too."""
FILMS = PNG | {".dcm"}


def scan(dataset: Dataset, root: Path) -> Scan:
    """Pair films, masks and run lengths."""
    require_one_class(dataset)
    table = next((root / name for name in TABLES if os.path.lexists(root / name)), None)
    if table is None and not (root / MASKS).is_dir():
        raise DataError(
            f"dataset.root: {root} has none of {', '.join(TABLES)} and {MASKS}/; one of them must label films"
        )
    findings = Findings(root)
    train, first, second = (
        find_images(folder, FILMS, findings, deep=True) for folder in (TRAIN, FIRST_TEST, SECOND_TEST)
    )
    for images, others in combinations((train, first, second), 2):
        report_shared(images, others, findings)
    masks = find_images(MASKS, PNG, findings)
    runs = _runs(table, findings) if table else {}
    films, tests = train | first, second
    if not (root / SECOND_TEST).is_dir():
        tests = {sample_id: path for sample_id, path in first.items() if sample_id not in masks.keys() | runs.keys()}
        films = {sample_id: path for sample_id, path in films.items() if sample_id not in tests}
    if table:
        report_rows_without_image(runs, films | tests, table, findings)
    _report_labels(films, tests, masks, runs, findings)
    samples = [
        RawSample(name, "train", path, masks.get(name), runs.get(name), {"second_stage": name in first})
        for name, path in films.items()
    ] + [RawSample(name, "test", path, metadata={"second_stage": False}) for name, path in tests.items()]
    return findings.keep(samples)


def _report_labels(
    films: dict[str, Path],
    tests: dict[str, Path],
    masks: dict[str, Path],
    runs: dict[str, RunLengths],
    findings: Findings,
) -> None:
    """Labelled films without a label, masks without a film and test images with a label are faults."""
    for sample_id in sorted(films.keys() - masks.keys() - runs.keys()):
        detail = f"neither a row of {' or '.join(TABLES)} nor {MASKS}/ labels this film; add one or remove the film"
        findings.add(sample_id, films[sample_id], "missing_mask", detail)
    for sample_id in sorted(masks.keys() - films.keys() - tests.keys()):
        findings.add(sample_id, masks[sample_id], "missing_image", "a mask without a film; add the film or remove it")
    for sample_id in sorted(tests.keys() & (masks.keys() | runs.keys())):
        detail = f"is a test image, but has a label; move it to {TRAIN} or remove its row and its mask"
        findings.add(sample_id, tests[sample_id], "bad_value", detail)


def _runs(table: Path, findings: Findings) -> dict[str, RunLengths]:
    """Run lengths by id, a text per instance."""
    from stagepipe.rle import EMPTY

    texts: dict[str, list[str]] = {}
    for line, row in enumerate(read_table(table.name, ("ImageId", "EncodedPixels"), findings) or (), start=2):
        if not report_bad_id(row["ImageId"], table, line, findings):
            texts.setdefault(row["ImageId"], []).append(row["EncodedPixels"])
    for sample_id, instances in texts.items():
        empty = sum(text.strip() == EMPTY for text in instances)
        if empty and len(instances) > 1:
            detail = f"{sample_id!r} has {len(instances)} rows, {empty} of them {EMPTY} (no foreground); keep one kind"
            findings.add(sample_id, table, "bad_rle", detail)
    return {sample_id: RunLengths(tuple(instances), "siim") for sample_id, instances in texts.items()}


FORMAT = Format(
    folders=(TRAIN, FIRST_TEST, SECOND_TEST, MASKS),
    required=(TRAIN,),
    tables=TABLES,
    scan=scan,
    grey_masks=True,
)
