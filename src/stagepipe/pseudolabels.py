"""Training masks from confident test predictions of an earlier stage."""

import heapq
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stagepipe.artefacts import Provenance, read_table
from stagepipe.binarise import apply as binarise
from stagepipe.ensemble import average_runs
from stagepipe.probabilities import RowGroupWriter, highest_below, iterate, lowest_above
from stagepipe.recipe.model import Pseudolabels, SizeBin
from stagepipe.recipe.parts import PseudolabelsPart
from stagepipe.rle import encode_runs
from stagepipe.seeding import generator
from stagepipe.tables import PSEUDOLABELS

Map = NDArray[np.uint8]
Folds = tuple[int, ...]
Maps = Callable[[], Iterator[tuple[str, Map]]]


def select(
    maps: Mapping[Folds, Maps],
    spec: Pseudolabels,
    black: Collection[str],
    fold_count: int,
    seed: int,
    path: Path | str,
    provenance: Provenance | None = None,
    ignore_index: int | None = None,
) -> None:
    """Write the pseudolabels a recipe asks for as a table of schema PSEUDOLABELS, rows sorted by (sample_id, folds).

    `maps` gives the predictions by the folds that may train on them: one entry for all folds or, with `cross_fit`, one
    entry (k,) per fold, made only by networks of fold k (ValueError otherwise). An entry is a function that opens the
    stream of (sample_id, uint8 [classes, height, width]) in ascending order of ids, for example
    `partial(probabilities.iterate, path)`. It is called twice, to choose and to write, so that no more than numbers per
    sample stay in memory. `black` holds ids of images with one single value.
    `ignore_index` is the value of pixels that aren't sure; none: their most probable class.
    """
    expected = [(fold,) for fold in range(fold_count)] if spec.cross_fit else [tuple(range(fold_count))]
    if sorted(maps) != expected:
        raise ValueError(f"maps are given for the folds {sorted(maps)}; give them for {expected}")
    chosen = {
        folds: choose(statistics(open_maps(), spec, black), spec, folds, fold_count, seed)
        for folds, open_maps in maps.items()
    }
    rows = heapq.merge(*(_kept(maps[entry](), chosen[entry]) for entry in expected), key=lambda row: row[:2])
    with RowGroupWriter(path, PSEUDOLABELS, provenance) as writer:
        for sample_id, folds, quantised in rows:
            mask = binarise(quantised, 0.5 if len(quantised) == 1 else None)
            if ignore_index is not None:
                mask[~sure_pixels(quantised, spec)] = ignore_index
            lengths, values = encode_runs(mask)
            row = {
                "sample_id": sample_id,
                "confidence": confidence(quantised, spec),
                "source": spec.stage,
                "folds": list(folds),
            }
            row |= {"height": quantised.shape[1], "width": quantised.shape[2], "lengths": lengths, "values": values}
            writer.write(row, lengths.nbytes + values.nbytes)


def _kept(stream: Iterator[tuple[str, Map]], chosen: Mapping[str, Folds]) -> Iterator[tuple[str, Folds, Map]]:
    for sample_id, quantised in stream:
        if sample_id in chosen:
            yield sample_id, chosen[sample_id], quantised


def confidence(quantised: Map, spec: Pseudolabels) -> float:
    """Share of sure pixels of a map uint8 [classes, height, width]."""
    return float(sure_pixels(quantised, spec).mean())


def sure_pixels(quantised: Map, spec: Pseudolabels) -> NDArray[np.bool_]:
    """Which pixels of a map uint8 [classes, height, width] are sure: p < low or p > high; of several classes the
    highest p > high."""
    sure: NDArray[np.bool_] = quantised.max(axis=0) >= lowest_above(spec.high)
    if len(quantised) == 1:
        sure |= quantised[0].astype(np.int16) <= highest_below(spec.low)
    return sure


def statistics(maps: Iterator[tuple[str, Map]], spec: Pseudolabels, black: Collection[str]) -> pd.DataFrame:
    """What a choice is made on, a row per sample: sample_id, confidence, share (of the mask's pixels that aren't
    background), black.

    Background is the 0 of a single class, the first of several classes.
    """
    rows = []
    for sample_id, quantised in maps:
        mask = binarise(quantised, 0.5 if len(quantised) == 1 else None)
        rows.append((sample_id, confidence(quantised, spec), np.count_nonzero(mask) / mask.size, sample_id in black))
    return pd.DataFrame(rows, columns=["sample_id", "confidence", "share", "black"])


def bin_numbers(candidates: pd.DataFrame, spec: Pseudolabels) -> NDArray[np.int64]:
    """Bin of each candidate (columns of `statistics`), -1 if it isn't kept; all that is kept is bin 0 where no bins are
    asked for.

    A candidate belongs to the first bin that its size fits and must then pass that bin's bound of confidence, or else
    the general one. What `every` leaves out is not looked at here.
    """
    share, sure = candidates["share"].to_numpy(float), candidates["confidence"].to_numpy(float)
    usable = ~candidates["black"].to_numpy(bool) if spec.exclude_black else np.ones(len(candidates), bool)
    general = spec.minimum_confidence if spec.keep == "confident" else 0.0
    numbers = np.full(len(candidates), -1)
    if not spec.bins:
        numbers[usable & (sure >= general)] = 0
        return numbers
    free = usable
    for number, size_bin in enumerate(spec.bins):
        fits = free & _fits(share, size_bin)
        bound = general if size_bin.minimum_confidence is None else size_bin.minimum_confidence
        numbers[fits & (sure >= bound)] = number
        free = free & ~fits
    return numbers


def _fits(share: NDArray[np.float64], size_bin: SizeBin) -> NDArray[np.bool_]:
    if size_bin.empty:
        return share == 0
    return (share > 0) & (share > size_bin.above) & (share <= size_bin.up_to)


def choose(candidates: pd.DataFrame, spec: Pseudolabels, folds: Folds, fold_count: int, seed: int) -> dict[str, Folds]:
    """Which candidates (columns of `statistics`) are kept, and the folds that may train on each.

    `folds` may see these predictions. Of every bin a random one in `every` is kept. Without `disjoint` all folds get
    every kept candidate. With it every bin is dealt out at random, each candidate to one fold: evenly, a fold keeping
    at most `per_fold` of its part; or, where `per_fold` is a list, each fold takes its number in turn and the one with
    null what the others leave (if there are too few, in proportion).
    """
    numbers = bin_numbers(candidates, spec)
    ids = candidates["sample_id"].to_numpy(object)
    if spec.disjoint and spec.cross_fit:
        # Folds see different predictions of the same samples: who may have a sample is settled before looking at any
        # prediction.
        owned = generator(seed, "pseudolabels", spec.stage, "owners").permutation(sorted(ids))[folds[0] :: fold_count]
        numbers = np.where(np.isin(ids, owned), numbers, -1)
    kept: dict[str, Folds] = {}
    for number in range(max(1, len(spec.bins))):
        rule = spec.bins[number] if spec.bins else SizeBin()
        order = generator(seed, "pseudolabels", spec.stage, number).permutation(sorted(ids[numbers == number]))
        order = order[:: rule.every]
        if not spec.disjoint:
            kept |= dict.fromkeys(order.tolist(), folds)
            continue
        for fold, part in zip(folds, _dealt(order, rule.per_fold, folds), strict=True):
            kept |= dict.fromkeys(part.tolist(), (fold,))
    return kept


def _dealt(
    order: NDArray[np.object_], per_fold: int | list[int | None] | None, folds: Folds
) -> list[NDArray[np.object_]]:
    """What each fold gets of a bin's candidates, in random order."""
    if not isinstance(per_fold, list):
        return [part[:per_fold] for part in np.array_split(order, len(folds))]
    # A fold that is asked for alone (cross-fitting) has the candidates it owns and takes its number of them.
    wanted = [per_fold[fold] for fold in folds]
    rest = max(0, len(order) - sum(number or 0 for number in wanted))
    ends = np.cumsum([rest if number is None else number for number in wanted])
    if ends[-1] > len(order):
        ends = ends * len(order) // ends[-1]
    return np.split(order, ends)[: len(folds)]


def select_for_stage(
    part: PseudolabelsPart, samples: Path, tables: Sequence[Path], path: Path, provenance: Provenance | None = None
) -> None:
    """Write the pseudolabels of a stage.

    `tables` is the source stage's averaged test table or, with `cross_fit`, the test tables of every fold of its runs,
    run after run: then fold k's networks alone make the masks that fold k sees.
    """
    table = read_table(samples, ["sample_id", "black"])
    black = set(table.filter(table["black"])["sample_id"].to_pylist())
    count = part.fold_count
    maps: dict[Folds, Maps]
    if part.pseudolabels.cross_fit:
        # One table a run: the folds are not averaged.
        source = part.source.model_copy(update={"split": "out_of_fold"})
        maps = {(fold,): partial(average_runs, tables[fold::count], source) for fold in range(count)}
    else:
        maps = {tuple(range(count)): partial(iterate, tables[0])}
    select(maps, part.pseudolabels, black, count, part.seed, path, provenance, part.ignore_index)
