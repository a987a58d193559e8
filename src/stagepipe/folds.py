"""Cross-validation folds of the labelled samples."""

import logging
from collections.abc import Collection
from pathlib import Path, PurePath

import numpy as np
import pyarrow as pa
import pyarrow.compute
from numpy.typing import NDArray

from stagepipe.csvfiles import listed, read_strings, repeated
from stagepipe.errors import DataError, RecipeError, shortened
from stagepipe.recipe.model import Folds
from stagepipe.seeding import generator, key
from stagepipe.tables import FOLDS

LOG = logging.getLogger(__name__)
Codes = NDArray[np.int64]


def split(samples: pa.Table, folds: Folds, quarantined: Collection[str] = ()) -> pa.Table:
    """Give every labelled sample (split `train`) a fold 0..count-1; rows that always train get -1.

    Returns a table of schema FOLDS sorted by sample_id, the same for any order of the rows. Stratification columns come
    in order of importance: where their combination has fewer samples than folds, the last columns are let go. A sample
    without a group value is a group of its own. A folds file may hold more ids than there are samples: published ones
    cover a whole data set; those that aren't `quarantined` are logged.
    RecipeError names an option that doesn't fit the samples table; DataError lists all faults of a folds file.
    """
    train = samples.filter(pa.compute.equal(samples["split"], "train")).sort_by("sample_id")
    ids = np.array(train["sample_id"].to_pylist(), dtype=object)
    always = _always_train(train, folds)
    number = np.full(len(ids), -1, np.int32)
    free = np.flatnonzero(~always)
    if folds.file:
        number[free] = _from_file(folds, ids, free, set(quarantined))
    elif folds.deal:
        dealt = _dealt(samples, folds, folds.deal)
        number[free] = [dealt[sample_id] for sample_id in ids[free]]
    else:
        number[free] = _by_rule(train.take(free), folds)
    empty = sorted(set(range(folds.count)) - set(number.tolist()))
    if empty:
        raise RecipeError(
            f"folds.count: of {folds.count} folds, {listed(empty)} would hold no sample; write a smaller count"
        )
    return pa.table({"sample_id": ids.tolist(), "fold": number, "always_train": always}, schema=FOLDS)


def _column(train: pa.Table, option: str, name: str) -> pa.ChunkedArray:
    if name not in train.column_names:
        raise RecipeError(
            f"{option}: the samples table has no column {name!r}; write one of {', '.join(train.column_names)}"
        )
    return train[name]


def _always_train(train: pa.Table, folds: Folds) -> NDArray[np.bool_]:
    if folds.always_train is None:
        return np.zeros(train.num_rows, bool)
    column = _column(train, "folds.always_train", folds.always_train)
    if not pa.types.is_boolean(column.type):
        raise RecipeError(
            f"folds.always_train: column {folds.always_train!r} holds {column.type}; write a column of true and false"
        )
    return np.array([value is True for value in column.to_pylist()], bool)


def _dealt(samples: pa.Table, folds: Folds, name: str) -> dict[str, int]:
    """Fold of every sample by id: its rank by the column (equal values by id), modulo the number of folds."""
    values = _column(samples, "folds.deal", name)
    if values.null_count:
        raise RecipeError(f"folds.deal: column {name!r} lacks {values.null_count} values; write a column without gaps")
    ranked = samples.sort_by([(name, "ascending"), ("sample_id", "ascending")])["sample_id"].to_pylist()
    return {sample_id: rank % folds.count for rank, sample_id in enumerate(ranked)}


def _by_rule(train: pa.Table, folds: Folds) -> Codes:
    """Fold of each row by stratification and groups."""
    from sklearn.model_selection import GroupKFold, StratifiedGroupKFold, StratifiedKFold

    if train.num_rows < folds.count:
        raise RecipeError(
            f"folds.count: {train.num_rows} labelled samples can't fill {folds.count} folds; write a smaller count"
        )
    columns = [_codes(_column(train, "folds.stratify", name), folds.bins) for name in folds.stratify]
    strata = _strata(np.stack(columns, axis=1) if columns else np.zeros((train.num_rows, 0), np.int64), folds.count)
    groups = None if folds.group is None else _groups(_column(train, "folds.group", folds.group), folds)
    state = key("folds", folds.seed) % 2**32
    if groups is None:
        splitter = StratifiedKFold(folds.count, shuffle=True, random_state=state)
    elif folds.stratify:
        splitter = StratifiedGroupKFold(folds.count, shuffle=True, random_state=state)
    else:
        splitter = GroupKFold(folds.count)
    # Neighbouring strata in a row share out their remainders, which keeps the first column even by itself.
    order = np.argsort(strata, kind="stable")
    number = np.empty(train.num_rows, np.int64)
    for fold, (_, validation) in enumerate(
        splitter.split(order, strata[order], None if groups is None else groups[order])
    ):
        number[order[validation]] = fold
    return number


def _codes(column: pa.ChunkedArray, bins: int) -> Codes:
    """Stratum 0, 1, ... of each value: quantile bins of numbers (lists by their first entry), else one per distinct
    value."""
    kind = column.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        column, kind = pa.compute.list_element(column, 0), kind.value_type
    distinct, codes = np.unique([repr(value) for value in column.to_pylist()], return_inverse=True)
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)) or len(distinct) <= bins:
        return codes.astype(np.int64)
    values = column.cast(pa.float64(), safe=False).to_numpy()
    edges = np.unique(np.nanquantile(values, np.linspace(0, 1, bins + 1)[1:-1]))
    # A value on an edge falls below it, so that many equal values (empty masks) make a bin of their own; missing ones
    # come last.
    return np.where(np.isnan(values), len(edges) + 1, np.searchsorted(edges, values, side="left"))


def _strata(codes: Codes, count: int) -> Codes:
    """One stratum per combination of codes [N, columns]; combinations rarer than `count` let the last columns go."""
    strata = np.zeros(len(codes), np.int64)
    rest = np.arange(len(codes))
    made = 0
    for kept in range(codes.shape[1], 0, -1):
        _, inverse, sizes = np.unique(codes[rest, :kept], axis=0, return_inverse=True, return_counts=True)
        large = sizes >= count
        numbers = np.where(large, made + np.cumsum(large), 0)
        strata[rest] = numbers[inverse.ravel()]
        made += int(large.sum())
        rest = rest[strata[rest] == 0]
    if 0 < len(rest) < count and made:
        strata[rest] = made
    return strata


def _groups(column: pa.ChunkedArray, folds: Folds) -> Codes:
    values = column.to_pylist()
    names = [f"row {row}" if value is None else f"value {value!r}" for row, value in enumerate(values)]
    distinct, codes = np.unique(names, return_inverse=True)
    if len(distinct) < folds.count:
        raise RecipeError(
            f"folds.group: column {folds.group!r} has {len(distinct)} distinct values, too few for "
            f"{folds.count} folds; write a smaller count or another column"
        )
    # Groups of equal size are dealt out in the order of their codes: the seed decides that order.
    return generator("folds", folds.seed).permutation(len(distinct))[codes]


def _from_file(folds: Folds, ids: NDArray[np.object_], free: Codes, quarantined: set[str]) -> Codes:
    """Fold of each free row as the CSV file says; the fold of any other id isn't read."""
    table = read_strings(Path(str(folds.file)), ["fold"])
    listed_ids, numbers = _file_ids(table, folds), table["fold"].to_pylist()
    known = dict(zip(listed_ids, numbers, strict=True))
    wanted, allowed = set(ids[free]), {str(number) for number in range(folds.count)}
    wrong = [
        f"{name} ({number})"
        for name, number in zip(listed_ids, numbers, strict=True)
        if name in wanted and number not in allowed
    ]
    if others := sorted(set(known) - set(ids) - quarantined):
        LOG.info("%s: %d ids are no labelled sample here: %s", folds.file, len(others), listed(others))
    faults = {
        "labelled samples without a row": [name for name in ids[free] if name not in known],
        "ids with several rows": repeated(listed_ids),
        f"folds that are no integer 0..{folds.count - 1}": wrong,
    }
    found = [f"{fault}: {listed(names)}" for fault, names in faults.items() if names]
    if found:
        raise DataError(f"folds.file: {folds.file}: {'; '.join(found)}. Write one row `id,fold` per labelled sample")
    return np.array([int(known[name]) for name in ids[free]], np.int64)


def _file_ids(table: pa.Table, folds: Folds) -> list[str]:
    """The column `id`, or `fname` without the last suffixes."""
    if "id" in table.column_names:
        return table["id"].to_pylist()
    if "fname" not in table.column_names:
        names = shortened(",".join(table.column_names))
        raise DataError(f"folds.file: {folds.file}: its header is {names!r}; write a column id, or fname of file names")
    return [PurePath(name).stem for name in table["fname"].to_pylist()]
