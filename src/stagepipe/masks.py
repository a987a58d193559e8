"""From blended probabilities to final masks: the threshold, postprocessing, and their scores out of fold."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from stagepipe import binarise, postprocess, submission
from stagepipe.artefacts import Provenance, atomic, read_table, write_table
from stagepipe.data.labels import label_reader
from stagepipe.probabilities import iterate
from stagepipe.recipe.model import Submission
from stagepipe.recipe.parts import BinarisePart, SubmitPart
from stagepipe.scores import cases, folds_by_id
from stagepipe.tables import THRESHOLDS

Map = NDArray[np.uint8]


def final_masks(
    maps: Iterator[tuple[str, Map]], threshold: float | None, rule: Submission, black: set[str]
) -> Iterator[tuple[str, Map]]:
    """(sample_id, mask uint8 [H, W]) of maps [C, H, W]: binarised, black images emptied if asked, postprocessed."""
    for sample_id, quantised in maps:
        mask = binarise.apply(quantised, threshold)
        if rule.black_is_empty and sample_id in black:
            mask = np.zeros_like(mask)
        yield sample_id, postprocess.apply(mask, rule.postprocess)


def fix_threshold(
    part: BinarisePart,
    samples: Path,
    pixels: Path,
    folds: Path,
    table: Path,
    threshold: Path,
    thresholds: Path,
    scored: Path,
    provenance: Provenance | None = None,
) -> None:
    """Choose the threshold on pooled out-of-fold predictions, and score the masks it gives.

    Writes `threshold` (JSON: chosen and, of a single class, best, in_sample, nested, by_fold), `thresholds` (the whole
    curve) and `scored` (CASES of the blend). Several classes take the most probable one, so their curve is empty.
    """
    rule, fold_of = part.submission, folds_by_id(folds)
    truths = label_reader(samples, pixels)
    chosen: dict[str, Any] = {"chosen": None}
    curve = THRESHOLDS.empty_table()
    if len(part.classes) == 1:
        found = binarise.search(iterate(table), truths, rule.threshold.metric)
        nested = binarise.nested(found, fold_of)
        curve = found.table()
        fixed = rule.threshold.value
        chosen = {
            "chosen": found.threshold if fixed is None else fixed,
            "searched": fixed is None,
            "metric": rule.threshold.metric,
            "best": found.threshold,
            "in_sample": nested.score,
            "nested": nested.nested_score,
            "by_fold": {str(fold): value for fold, value in sorted(nested.thresholds.items())},
        }
    masks = final_masks(iterate(table), chosen["chosen"], rule, black_images(samples))
    levels = ((sample_id, _as_map(mask, len(part.classes))) for sample_id, mask in masks)
    cut = None if chosen["chosen"] is None else 0.5
    rows = cases(
        "submission", "blend", fold_of, "out_of_fold", levels, truths, cut, len(part.classes), part.ignore_index
    )
    write_table(thresholds, curve, provenance)
    write_table(scored, rows, provenance)
    with atomic(threshold) as temporary:
        temporary.write_text(json.dumps(chosen, indent=1), encoding="utf-8")


def submit(part: SubmitPart, samples: Path, table: Path, threshold: Path, rows: Path | None, path: Path) -> None:
    """Write the submission file from the blended test table and the fixed threshold."""
    value = json.loads(threshold.read_text(encoding="utf-8"))["chosen"]
    masks = final_masks(iterate(table), value, part.submission, black_images(samples))
    submission.write(path, masks, part.submission.encode, rows, part.classes)


def black_images(samples: Path) -> set[str]:
    """Ids of the images that have one single value."""
    table: pa.Table = read_table(samples, ["sample_id", "black"])
    return set(table.filter(table["black"])["sample_id"].to_pylist())


def _as_map(mask: Map, classes: int) -> Map:
    """A mask as certain probabilities, uint8 [classes, H, W] of 0 and 255."""
    values = [1] if classes == 1 else range(classes)
    return np.stack([(mask == value) * np.uint8(255) for value in values])
