"""From blended probabilities to final masks: the threshold, postprocessing, and their scores out of fold."""

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from stagepipe import binarise, postprocess, submission
from stagepipe.artefacts import Provenance, is_share, read_json, read_table, write_table
from stagepipe.binarise import Rule
from stagepipe.data.labels import label_reader, resized
from stagepipe.errors import ArtefactError
from stagepipe.postprocess.jigsaw.tables import applied, effect_rows, read_replacements
from stagepipe.probabilities import iterate
from stagepipe.recipe.model import Emptiness, Submission
from stagepipe.recipe.submission_parts import BinarisePart, SubmitPart
from stagepipe.scores import folds_by_id, score
from stagepipe.storage import atomic
from stagepipe.tables import THRESHOLDS
from stagepipe.triplets import Triplet, expand

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
    threshold: Rule,
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
    confusion: Path,
    provenance: Provenance | None = None,
) -> None:
    """Choose the threshold or triplet on pooled out-of-fold predictions, and score the masks it gives.

    Writes `threshold` (JSON: chosen and, of a single class, searched, metric, best, in_sample, nested, by_fold),
    `thresholds` (the score of each), `scored` and `confusion` (CASES and CONFUSION of the blend). A triplet is a JSON
    object, and is searched if the recipe has several. Several classes take the most probable one, so there is no score
    to write. Masks that are empty or replaced whatever the threshold are scored as such, but the search sees the blend
    alone.
    """
    rule, fold_of = part.submission, folds_by_id(folds)
    truths = label_reader(sources.samples, pixels)
    chosen: dict[str, Any] = {"chosen": None}
    curve = THRESHOLDS.empty_table()
    if len(part.classes) == 1:
        choose = _chosen_triplet if rule.triplets else _chosen_threshold
        chosen, curve = choose(rule, iterate(sources.table), truths, fold_of)
    cut = read_rule(chosen["chosen"])
    masks = final_masks(iterate(sources.table), cut, rule, sources.empty(rule), sources.replaced("train"))
    found = score("submission", "blend", fold_of, masks, truths, part.classes, part.evaluated, part.ignore_index)
    write_table(thresholds, curve, provenance)
    write_table(scored, found.cases, provenance)
    write_table(confusion, found.confusion, provenance)
    with atomic(threshold) as temporary:
        temporary.write_text(json.dumps(chosen, indent=1), encoding="utf-8")


def _chosen_threshold(
    rule: Submission, maps: Iterable[tuple[str, Map]], truths: Callable[[str], Map], fold_of: Mapping[str, int]
) -> tuple[dict[str, Any], pa.Table]:
    """What `fix_threshold` says of a threshold, and the whole curve; a fixed one is beside the search's best."""
    found = binarise.search(maps, truths, rule.threshold.metric)
    nested = binarise.nested(found, fold_of)
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
    return chosen, found.table()


def _chosen_triplet(
    rule: Submission, maps: Iterable[tuple[str, Map]], truths: Callable[[str], Map], fold_of: Mapping[str, int]
) -> tuple[dict[str, Any], pa.Table]:
    """What `fix_threshold` says of triplets, and the score of each; a single one is the best of itself."""
    candidates = expand(rule.triplets)
    found = binarise.search_triplets(binarise.count(maps, truths), candidates, fold_of, rule.threshold.metric)
    best = asdict(found.triplet)
    chosen = {
        "chosen": best,
        "searched": len(candidates) > 1,
        "metric": rule.threshold.metric,
        "best": best,
        "in_sample": found.score,
        "nested": found.nested_score,
        "by_fold": {str(fold): asdict(triplet) for fold, triplet in found.by_fold.items()},
    }
    return chosen, found.table()


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
    """Write the submission file from the blended test table and the chosen threshold or triplet."""
    rule = part.submission
    masks = final_masks(
        iterate(sources.table), chosen_threshold(threshold), rule, sources.empty(rule), sources.replaced("test")
    )
    if rule.size is not None:
        size = rule.size
        masks = ((sample_id, resized(mask, *size)) for sample_id, mask in masks)
    submission.write(path, masks, rule.encode, rows, part.classes, part.evaluated)


def chosen_threshold(path: Path) -> Rule:
    """The threshold or triplet that `fix_threshold` has written; None for several classes. ArtefactError if damaged."""
    chosen = read_json(path).get("chosen", "nothing")
    if not _is_rule(chosen):
        raise ArtefactError(f"{path}: {chosen!r} is no threshold or triplet; delete it and run again")
    return read_rule(chosen)


def _is_rule(value: object) -> bool:
    if not isinstance(value, dict):
        return value is None or is_share(value)
    if value.keys() != {"top", "area", "bottom", "size"} or not isinstance(value["area"], int):
        return False
    size = value["size"]
    sized = size is None or (isinstance(size, list) and len(size) == 2 and all(isinstance(edge, int) for edge in size))
    return sized and is_share(value["top"]) and is_share(value["bottom"])


def read_rule(value: float | dict[str, Any] | None) -> Rule:
    """A threshold or triplet as `fix_threshold` writes it into JSON."""
    if not isinstance(value, dict):
        return value
    size = value["size"] and (value["size"][0], value["size"][1])
    return Triplet(value["top"], value["area"], value["bottom"], size)


def black_images(samples: Path) -> set[str]:
    """Ids of the images that have one single value."""
    table: pa.Table = read_table(samples, ["sample_id", "black"])
    return set(table.filter(table["black"])["sample_id"].to_pylist())
