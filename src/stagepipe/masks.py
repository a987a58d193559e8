"""From blended probabilities to final masks: the threshold, postprocessing, and their scores out of fold."""

import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from stagepipe import binarise, postprocess, submission
from stagepipe.artefacts import Provenance, atomic, read_table, write_table
from stagepipe.data.labels import label_reader
from stagepipe.postprocess.jigsaw.tables import applied, effect_rows, read_replacements
from stagepipe.probabilities import iterate
from stagepipe.recipe.model import Emptiness, Submission
from stagepipe.recipe.parts import BinarisePart, SubmitPart
from stagepipe.scores import cases, folds_by_id
from stagepipe.tables import THRESHOLDS

Map = NDArray[np.uint8]


@dataclass(frozen=True)
class Sources:
    """Files that final masks are made of."""

    samples: Path
    table: Path
    """the blend"""
    emptiness: Path | None = None
    """the blend that decides which masks are empty"""
    jigsaw: Path | None = None
    """masks that follow from labelled neighbours"""

    def empty(self, rule: Submission) -> set[str]:
        """Ids of the samples whose mask is empty whatever the blend says."""
        ids = black_images(self.samples) if rule.black_is_empty else set()
        if rule.emptiness and self.emptiness:
            ids |= empty_masks(self.emptiness, rule.emptiness)
        return ids

    def replaced(self, split: str) -> dict[str, Map]:
        """Masks of a split (`train`, `test`) that the jigsaw's rules give, by sample."""
        return applied(read_replacements(self.jigsaw, split)) if self.jigsaw else {}


def final_masks(
    maps: Iterable[tuple[str, Map]],
    threshold: float | None,
    rule: Submission,
    empty: Collection[str] = (),
    replaced: Mapping[str, Map] = MappingProxyType({}),
) -> Iterator[tuple[str, Map]]:
    """(sample_id, mask uint8 [H, W]) of maps [C, H, W]: binarised, emptied where asked, postprocessed.

    `empty` holds ids whose masks are empty, `replaced` the masks that a jigsaw step puts in the place of others.
    """
    for sample_id, quantised in maps:
        mask = binarise.apply(quantised, threshold)
        if sample_id in empty:
            mask = np.zeros_like(mask)
        yield sample_id, postprocess.apply(mask, rule.postprocess, replaced.get(sample_id))


def empty_masks(table: Path, rule: Emptiness) -> set[str]:
    """Ids of the samples whose mask another blend finds empty."""
    masks = ((sample_id, binarise.apply(quantised, rule.threshold)) for sample_id, quantised in iterate(table))
    return {sample_id for sample_id, mask in masks if np.count_nonzero(mask) < rule.minimum_pixels}


def fix_threshold(
    part: BinarisePart,
    sources: Sources,
    pixels: Path,
    folds: Path,
    threshold: Path,
    thresholds: Path,
    scored: Path,
    provenance: Provenance | None = None,
) -> None:
    """Choose the threshold on pooled out-of-fold predictions, and score the masks it gives.

    Writes `threshold` (JSON: chosen and, of a single class, best, in_sample, nested, by_fold), `thresholds` (the whole
    curve) and `scored` (CASES of the blend). Several classes take the most probable one, so their curve is empty. Masks
    that are empty or replaced whatever the threshold are scored as such, but the search sees the blend alone.
    """
    rule, fold_of = part.submission, folds_by_id(folds)
    truths = label_reader(sources.samples, pixels)
    chosen: dict[str, Any] = {"chosen": None}
    curve = THRESHOLDS.empty_table()
    if len(part.classes) == 1:
        found = binarise.search(iterate(sources.table), truths, rule.threshold.metric)
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
    masks = final_masks(iterate(sources.table), chosen["chosen"], rule, sources.empty(rule), sources.replaced("train"))
    levels = ((sample_id, _as_map(mask, len(part.classes))) for sample_id, mask in masks)
    cut = None if chosen["chosen"] is None else 0.5
    rows = cases(
        "submission", "blend", fold_of, "out_of_fold", levels, truths, cut, len(part.classes), part.ignore_index
    )
    write_table(thresholds, curve, provenance)
    write_table(scored, rows, provenance)
    with atomic(threshold) as temporary:
        temporary.write_text(json.dumps(chosen, indent=1), encoding="utf-8")


def score_jigsaw(
    part: BinarisePart,
    sources: Sources,
    pixels: Path,
    folds: Path,
    threshold: Path,
    path: Path,
    provenance: Provenance | None = None,
) -> None:
    """Write what the jigsaw's rules do to out-of-fold masks, as a table of schema JIGSAW_EFFECTS."""
    assert sources.jigsaw is not None
    rule, replacements = part.submission, read_replacements(sources.jigsaw, "train")
    touched = ((name, quantised) for name, quantised in iterate(sources.table) if name in replacements)
    masks = final_masks(touched, chosen_threshold(threshold), rule, sources.empty(rule))
    truths, fold_of = label_reader(sources.samples, pixels), folds_by_id(folds)
    write_table(path, effect_rows(replacements, fold_of, truths, masks, rule.threshold.metric), provenance)


def submit(part: SubmitPart, sources: Sources, threshold: Path, rows: Path | None, path: Path) -> None:
    """Write the submission file from the blended test table and the fixed threshold."""
    rule = part.submission
    masks = final_masks(
        iterate(sources.table), chosen_threshold(threshold), rule, sources.empty(rule), sources.replaced("test")
    )
    submission.write(path, masks, rule.encode, rows, part.classes)


def chosen_threshold(path: Path) -> float | None:
    """The threshold that `fix_threshold` has written; None for several classes."""
    chosen: float | None = json.loads(path.read_text(encoding="utf-8"))["chosen"]
    return chosen


def black_images(samples: Path) -> set[str]:
    """Ids of the images that have one single value."""
    table: pa.Table = read_table(samples, ["sample_id", "black"])
    return set(table.filter(table["black"])["sample_id"].to_pylist())


def _as_map(mask: Map, classes: int) -> Map:
    """A mask as certain probabilities, uint8 [classes, H, W] of 0 and 255."""
    values = [1] if classes == 1 else range(classes)
    return np.stack([(mask == value) * np.uint8(255) for value in values])
