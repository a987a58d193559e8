"""Masks that follow from labelled neighbours: hand-made columns, the real labels, and honesty out of fold."""

import csv
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pytest

from stagepipe.artefacts import read_table, write_table
from stagepipe.data.store import writing
from stagepipe.metrics import intersections, scores
from stagepipe.postprocess.jigsaw.mosaics import as_table, find, read
from stagepipe.postprocess.jigsaw.rules import Replacement, is_half_vertical, is_vertical, replacements
from stagepipe.postprocess.jigsaw.tables import applied, effect_rows, read_replacements, write_replacements
from stagepipe.recipe.model import Jigsaw
from stagepipe.rle import decode
from stagepipe.tables import FOLDS, JIGSAW, JIGSAW_EFFECTS, SAMPLES

SIZE = 7
NONE = Jigsaw(vertical_below=False, half_vertical_below=False, vertical_above=False, empty_below=False)


def mask(*rows: str) -> np.ndarray:
    """A mask of the rows given, the last of them repeated down to the lower edge."""
    lines = [*rows, *[rows[-1]] * (SIZE - len(rows))]
    return np.array([[character == "#" for character in line] for line in lines], np.uint8)


VERTICAL, HALF, OTHER = mask("..##..."), mask(".......", "..#....", "..##...", "#......"), mask("###....", ".......")
FULL_BOTTOM, EMPTY = mask(".......", "#######"), mask(".......")


def column(*tiles: str) -> pa.Table:
    """One mosaic of one column; "" is a hole."""
    return as_table([{(row, 0): tile for row, tile in enumerate(tiles) if tile}])


def given(mosaics: pa.Table, labels: dict[str, np.ndarray], step: Jigsaw | None = None, black: tuple[str, ...] = ()):
    """The masks that are applied."""
    found = replacements(mosaics, labels, black, step or Jigsaw())
    chosen = [one for one in found if one.applied]
    assert len({one.sample_id for one in chosen}) == len(chosen)
    return {one.sample_id: (one.rule, one.source, one.mask.tolist()) for one in chosen}


def test_vertical_and_half_vertical_masks() -> None:
    assert [is_vertical(m) for m in (VERTICAL, HALF, OTHER, EMPTY, mask("#######"), FULL_BOTTOM)] == [True] + [
        False
    ] * 5
    half = [is_half_vertical(m) for m in (VERTICAL, mask("#......", "..#....", "#......", "#......", "##....."))]
    assert half == [True, True] and is_half_vertical(VERTICAL * 255) and is_half_vertical(VERTICAL.astype(bool))
    assert not is_half_vertical(mask("#......", "#......", "#......", "#......", "#......", "##....."))
    assert not any(is_half_vertical(m) for m in (EMPTY, FULL_BOTTOM, mask("#######"), OTHER))
    # the last H // 2 rows: 50 of 101, 3 of 7
    odd = np.zeros((101, 4), np.uint8)
    odd[51:, 0] = 1
    assert is_half_vertical(odd) and not is_half_vertical(np.roll(odd, 1, axis=0))


def test_all_tiles_below_get_the_last_row_and_the_one_above_the_first() -> None:
    mosaics = column("a", "b", "c", "V", "d", "", "O", "e")
    below, above = ("vertical_below", "V", VERTICAL.tolist()), ("vertical_above", "V", VERTICAL.tolist())
    assert given(mosaics, {"V": VERTICAL, "O": OTHER}) == {"c": above, "d": below, "e": below}


def test_half_vertical_gives_its_last_row_below_and_nothing_above() -> None:
    found = given(column("a", "b", "c", "H", "d"), {"H": HALF})
    assert found == {"d": ("half_vertical_below", "H", mask("#......").tolist())}


def test_walk_stops_at_the_first() -> None:
    labels = {"H": HALF, "V": VERTICAL}
    assert set(given(column("a", "b", "c", "H", "d", "V", "e"), labels)) == {"d", "e"}
    assert {r[1] for r in given(column("a", "b", "c", "H", "d", "V", "e"), labels).values()} == {"H"}
    only = NONE.model_copy(update={"vertical_below": True})
    assert given(column("H", "d", "V", "e"), labels, only) == {}  # a rule that is off still ends the walk


@pytest.mark.parametrize(("row", "expected"), [(2, set()), (3, {"t"})])
def test_above_needs_three_rows_of_the_mosaic(row: int, expected: set[str]) -> None:
    """Holes count as rows, and a tile right above must be there."""
    mosaics = as_table([{(row - 1, 4): "t", (row, 4): "V", (row, 5): "x"}])
    assert set(given(mosaics, {"V": VERTICAL})) == expected
    assert given(as_table([{(row - 2, 0): "t", (row, 0): "V"}]), {"V": VERTICAL}) == {}


def test_empty_below_a_last_row_of_salt() -> None:
    found = given(column("a", "F", "b", "", "c"), {"F": FULL_BOTTOM})
    assert found == dict.fromkeys("bc", ("empty_below", "F", EMPTY.tolist()))
    assert given(column("F", "a"), {"F": mask("#######")})["a"][0] == "empty_below"


def test_a_vertical_mask_wins_over_an_empty_one() -> None:
    found = given(column("F", "a", "b", "c", "V", "d"), {"F": FULL_BOTTOM, "V": VERTICAL})
    rules = {name: rule for name, (rule, _, _) in found.items()}
    assert rules == {"a": "empty_below", "b": "empty_below", "c": "vertical_above", "d": "vertical_below"}


def test_masks_that_are_not_applied_are_listed_too() -> None:
    step = Jigsaw().model_copy(update={"vertical_below": False})
    found = replacements(column("F", "V", "d"), {"F": FULL_BOTTOM, "V": VERTICAL}, (), step)
    assert [(one.sample_id, one.rule, one.applied) for one in found] == [
        ("d", "vertical_below", False),
        ("d", "empty_below", True),
    ]
    found = replacements(column("F", "V", "d"), {"F": FULL_BOTTOM, "V": VERTICAL}, (), Jigsaw())
    assert [one.applied for one in found] == [True, False]
    assert (found[0].mask == VERTICAL).all() and not found[1].mask.any()


def test_columns_and_mosaics_do_not_mix() -> None:
    mosaics = as_table([{(0, 0): "V", (1, 0): "a", (1, 1): "b"}, {(2, 0): "c", (1, 0): "d"}])
    assert set(given(mosaics, {"V": VERTICAL})) == {"a"}


def test_black_tiles_give_and_get_nothing() -> None:
    assert given(column("V", "a"), {"V": VERTICAL}, black=("V",)) == {}
    assert set(given(column("V", "a", "b"), {"V": VERTICAL}, black=("a",))) == {"b"}


@pytest.mark.parametrize("rule", list(Jigsaw.model_fields)[1:])
def test_each_rule_has_a_switch(rule: str) -> None:
    mosaics = as_table([dict(zip(((r, c) for r in range(6) for c in range(3)), "abcdefghijVHFnopqr", strict=False))])
    labels = {"V": VERTICAL, "H": HALF, "F": FULL_BOTTOM}
    one = given(mosaics, labels, NONE.model_copy(update={rule: True}))
    rest = given(mosaics, labels, Jigsaw().model_copy(update={rule: False}))
    assert one and {found[0] for found in one.values()} == {rule}
    assert rule not in {found[0] for found in rest.values()} and one | rest == given(mosaics, labels)
    assert given(mosaics, labels, NONE) == {}


# ------------------------------------------------------------------------------------------------------------ jobs


class Survey:
    """Files of samples in one mosaic of two columns; F labels are known in every fold."""

    def __init__(self, folder: Path, masks: dict[str, np.ndarray | None], folds: dict[str, int]) -> None:
        self.samples, self.pixels, self.folds, self.mosaics, self.table = (
            folder / name
            for name in ("samples.parquet", "pixels.bin", "folds.parquet", "mosaics.parquet", "out.parquet")
        )
        rows = []
        with writing(self.pixels) as append:
            for name, label in sorted(masks.items(), key=lambda item: (item[1] is not None, item[0])):
                image = append(np.arange(SIZE * SIZE, dtype=np.uint8).reshape(SIZE, SIZE, 1))
                stored = (None, None) if label is None else append(label)
                rows.append(
                    {"sample_id": name, "split": "test" if label is None else "train", "height": SIZE, "width": SIZE}
                    | {"channels": 1, "black": False, "image_offset": image[0], "image_crc32": image[1]}
                    | {"mask_offset": stored[0], "mask_crc32": stored[1]}
                )
        write_table(self.samples, pa.Table.from_pylist(rows, schema=SAMPLES))
        split = [{"sample_id": n, "fold": f, "always_train": f < 0} for n, f in sorted(folds.items())]
        write_table(self.folds, pa.Table.from_pylist(split, schema=FOLDS))
        write_table(self.mosaics, as_table([{(i // 2, i % 2): name for i, name in enumerate(masks)}]))

    def run(self) -> list[dict]:
        write_replacements(self.samples, self.pixels, self.folds, self.mosaics, Jigsaw(), self.table)
        assert read_table(self.table).schema.equals(JIGSAW)
        return read_table(self.table).to_pylist()


MASKS = {
    "V0": VERTICAL,
    "F9": FULL_BOTTOM,
    "t1": None,
    "t2": None,
    "V1": VERTICAL,
    "O0": OTHER,
    "t0": None,
    "O1": OTHER,
}
FOLD_OF = {"V0": 0, "V1": 1, "O0": 0, "O1": 1, "F9": -1}


def test_test_masks_from_all_labels_and_train_masks_out_of_fold(tmp_path: Path) -> None:
    rows = Survey(tmp_path, MASKS, FOLD_OF).run()
    rows = [row for row in rows if row["applied"]]
    assert [(r["sample_id"], r["split"], r["fold"], r["rule"], r["source"]) for r in rows] == [
        ("O0", "train", 0, "empty_below", "F9"),
        ("O1", "train", 1, "empty_below", "F9"),
        ("V1", "train", 1, "vertical_below", "V0"),
        ("t0", "test", None, "vertical_below", "V0"),
        ("t1", "test", None, "vertical_below", "V0"),
        ("t2", "test", None, "empty_below", "F9"),
    ]
    tests = read_replacements(tmp_path / "out.parquet", "test")
    assert (tests["t0"][0].mask == VERTICAL).all() and tests["t0"][0].source == "V0"
    assert (applied(tests)["t1"] == VERTICAL).all() and not applied(tests)["t2"].any()
    assert set(read_replacements(tmp_path / "out.parquet", "train")) == {"O0", "O1", "V1"}


@pytest.mark.parametrize("fold", [0, 1])
def test_no_label_of_the_own_fold_has_a_part(tmp_path: Path, fold: int) -> None:
    def of_fold(folder: Path, masks: dict) -> list[dict]:
        folder.mkdir()
        return [row for row in Survey(folder, masks, FOLD_OF).run() if row["fold"] == fold]

    other = {name: mask("....#..") if FOLD_OF.get(name) == fold else label for name, label in MASKS.items()}
    assert of_fold(tmp_path / "before", MASKS) == of_fold(tmp_path / "after", other) != []


def test_effects_look_at_replaced_masks_alone() -> None:
    replaced = {
        "a": [Replacement("a", "empty_below", True, "x", EMPTY)],
        "b": [
            Replacement("b", "vertical_below", True, "x", VERTICAL),
            Replacement("b", "empty_below", False, "x", OTHER),
        ],
    }
    truths = {"a": EMPTY, "b": OTHER}
    stream = iter([("0", None), ("a", OTHER), ("b", OTHER), ("z", None)])
    table = effect_rows(replaced, {"a": 2, "b": 0}, truths.__getitem__, stream, "mean_precision")
    assert table.schema.equals(JIGSAW_EFFECTS)
    assert [tuple(row.values()) for row in table.to_pylist()] == [
        ("a", 2, "empty_below", True, 0.0, 1.0),
        ("b", 0, "vertical_below", True, 1.0, 0.0),
        ("b", 0, "empty_below", False, 1.0, 1.0),
    ]


# ------------------------------------------------------------------------------------------------------------ real data


@pytest.fixture(scope="module")
def labels(real_data: Path) -> dict[str, np.ndarray]:
    path = real_data / "tgs" / "train.csv"
    if not path.is_file():
        pytest.skip(f"no labels of TGS in {real_data}")
    with path.open(newline="") as file:
        return {row["id"]: decode(row["rle_mask"], 101, 101) for row in csv.DictReader(file)}


def test_vertical_masks_of_the_real_labels(labels: dict[str, np.ndarray]) -> None:
    """113 and 135 among all 4,000 (TGS salt 2018, 1st place); these are 3,200 of them."""
    assert len(labels) == 3200
    assert sum(map(is_vertical, labels.values())) == 88
    assert sum(map(is_half_vertical, labels.values())) == 104


def left_out(mosaics: pa.Table, labels: dict[str, np.ndarray]) -> dict[str, list[float]]:
    """Each label in turn is taken for unknown: scores of the masks that the others in its column give, by rule."""
    columns: dict[tuple[int, int], dict[tuple[int, int], str]] = {}
    for row in mosaics.to_pylist():
        columns.setdefault((row["mosaic"], row["column"]), {})[row["row"], 0] = row["sample_id"]
    by_rule: dict[str, list[float]] = {}
    for column in columns.values():
        for name in set(column.values()) & set(labels):
            others = {tile: labels[tile] for tile in column.values() if tile in labels and tile != name}
            for found in replacements(as_table([column]), others, (), Jigsaw()):
                if found.sample_id != name or not found.applied:
                    continue
                score = scores(intersections(labels[name], found.mask, 1)[None])["mean_precision"][0]
                by_rule.setdefault(found.rule, []).append(float(score))
    return by_rule


def test_rules_hold_in_published_mosaics(real_data: Path, labels: dict[str, np.ndarray]) -> None:
    by_rule = left_out(read(real_data / "tgs_mosaics.json"), labels)
    counts = {rule: len(values) for rule, values in by_rule.items()}
    assert counts == {"vertical_below": 15, "half_vertical_below": 2, "vertical_above": 6, "empty_below": 17}
    assert all(score == 1 for values in by_rule.values() for score in values)


def test_rules_hold_in_the_mosaics_that_are_found(real_data: Path, labels: dict[str, np.ndarray]) -> None:
    files = sorted((real_data / "tgs").glob("*/images/*.png"))
    tiles = np.stack([cv2.imread(str(file), cv2.IMREAD_GRAYSCALE) for file in files])
    by_rule = left_out(find(tiles, [file.stem for file in files]), labels)
    assert sum(map(len, by_rule.values())) >= 30 and len(by_rule) == 4
    assert all(score == 1 for values in by_rule.values() for score in values)
