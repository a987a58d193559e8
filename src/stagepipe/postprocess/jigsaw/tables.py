"""The tables JIGSAW and JIGSAW_EFFECTS: masks that the rules give, and what they do to predictions out of fold."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from stagepipe import metrics
from stagepipe.artefacts import Provenance, read_table, write_table
from stagepipe.data.store import PixelStore
from stagepipe.postprocess.jigsaw.rules import Label, Replacement, replacements
from stagepipe.recipe.model import Jigsaw
from stagepipe.rle import decode_runs, encode_runs
from stagepipe.tables import JIGSAW, JIGSAW_EFFECTS

Mask = NDArray[np.uint8]


def write_replacements(
    samples: Path,
    pixels: Path,
    folds: Path,
    mosaics: Path,
    step: Jigsaw,
    path: Path,
    provenance: Provenance | None = None,
) -> None:
    """Write the table JIGSAW: masks of the test split from all labels, and of each fold from the labels of the others.

    Samples that train in every fold count as known everywhere and get no mask; neither do those whose size is another
    than that of the label which their mask follows from. Raises ArtefactError for a damaged file.
    """
    table = read_table(samples)
    grids = read_table(mosaics)
    black = set(table.filter(table["black"])["sample_id"].to_pylist())
    split = read_table(folds).to_pylist()
    labels = _labels(PixelStore(pixels, table), table, set(grids["sample_id"].to_pylist()), split)
    rows_of_samples = table.select(["sample_id", "height", "width"]).to_pylist()
    sizes = {row["sample_id"]: (row["height"], row["width"]) for row in rows_of_samples}
    fold_of = {row["sample_id"]: None if row["always_train"] else row["fold"] for row in split}
    rows = []
    for fold in (None, *sorted({fold for fold in fold_of.values() if fold is not None})):
        known = {name: label for name, label in labels.items() if fold is None or fold_of[name] != fold}
        for found in replacements(grids, known, black, step):
            name = found.sample_id
            if (fold is None) == (name not in fold_of) and sizes[name] == found.mask.shape:
                rows.append(_row(found, fold))
    rows.sort(key=lambda row: row["sample_id"])  # stable: rules stay in their order
    write_table(path, pa.Table.from_pylist(rows, schema=JIGSAW), provenance)


def _labels(store: PixelStore, table: pa.Table, wanted: set[str], split: list[dict[str, Any]]) -> dict[str, Label]:
    """Masks of the wanted samples that have a fold."""
    place = {name: row for row, name in enumerate(table["sample_id"].to_pylist())}
    return {row["sample_id"]: store.mask(place[row["sample_id"]]) for row in split if row["sample_id"] in wanted}


def _row(found: Replacement, fold: int | None) -> dict[str, Any]:
    lengths, values = encode_runs(found.mask)
    height, width = found.mask.shape
    row = {"sample_id": found.sample_id, "split": "test" if fold is None else "train", "fold": fold}
    row |= {"rule": found.rule, "applied": found.applied, "source": found.source, "height": height, "width": width}
    return row | {"lengths": lengths, "values": values}


def read_replacements(path: Path, split: str) -> dict[str, list[Replacement]]:
    """Replacements by sample id, of one split (`test`, or `train` for those out of fold), applied or not."""
    found: dict[str, list[Replacement]] = {}
    for row in read_table(path).to_pylist():
        if row["split"] == split:
            mask = decode_runs(row["lengths"], row["values"], row["height"], row["width"])
            replacement = Replacement(row["sample_id"], row["rule"], row["applied"], row["source"], mask)
            found.setdefault(row["sample_id"], []).append(replacement)
    return found


def applied(found: Mapping[str, Sequence[Replacement]]) -> dict[str, Mask]:
    """The masks that take the place of predictions, by sample id."""
    return {name: one.mask for name, replacements in found.items() for one in replacements if one.applied}


def effect_rows(
    replaced: Mapping[str, Sequence[Replacement]],
    folds_of: Mapping[str, int],
    truths: Callable[[str], Mask],
    predicted: Iterable[tuple[str, Mask]],
    metric: str,
) -> pa.Table:
    """JIGSAW_EFFECTS: scores of predictions before and after a rule replaces them, or would, in the order they come.

    replaced: as of `read_replacements`. truths, predicted: masks [H, W] of one class; of the latter one is held at a
    time, and those without a replacement are passed over. metric: a name of `stagepipe.metrics.METRICS`.
    """
    rows = list(_effects(replaced, folds_of, truths, predicted, metric))
    return pa.Table.from_pylist(rows, schema=JIGSAW_EFFECTS)


def _effects(
    replaced: Mapping[str, Sequence[Replacement]],
    folds_of: Mapping[str, int],
    truths: Callable[[str], Mask],
    predicted: Iterable[tuple[str, Mask]],
    metric: str,
) -> Iterator[dict[str, Any]]:
    for name, mask in predicted:
        for one in replaced.get(name, ()):
            truth = truths(name)
            counts = np.stack([metrics.intersections(truth, chosen, 1) for chosen in (mask, one.mask)])
            before, after = metrics.scores(counts)[metric].tolist()
            row = {"sample_id": name, "fold": folds_of[name], "rule": one.rule, "applied": one.applied}
            yield row | {"before": before, "after": after}
