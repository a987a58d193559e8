"""The threshold, postprocessing and scores of the blend, on maps made by hand."""

import json

import numpy as np
import pyarrow as pa
import pytest
from maps_example import SIZE, TRUTHS, data_of, fixed, maps_of, rule, square, triplet, write_maps

from stagepipe import rle
from stagepipe.artefacts import read_table, write_table
from stagepipe.masks import Sources, black_images, chosen_threshold, final_masks, fix_threshold, score_jigsaw
from stagepipe.recipe.model import Postprocess
from stagepipe.recipe.submission_parts import BinarisePart
from stagepipe.tables import JIGSAW as JIGSAW_TABLE
from stagepipe.tables import TRIPLETS
from stagepipe.triplets import Triplet

JIGSAW = Postprocess(jigsaw={})


def test_a_searched_threshold_separates_what_a_fixed_one_does_not(tmp_path):
    data = data_of(tmp_path, TRUTHS)
    maps = maps_of(TRUTHS, inside=100, outside=60)  # all below one half
    searched, rows, length = fixed(
        tmp_path, data, maps, BinarisePart(submission=rule(threshold={"value": None}), classes=["salt"])
    )
    assert searched["searched"] and searched["chosen"] == searched["best"]
    assert 60 / 255 < searched["chosen"] < 100 / 255
    assert searched["in_sample"] == searched["nested"] == 1
    assert set(searched["by_fold"]) == {"0", "1"} and length == 256
    assert [row["mean_precision"] for row in rows] == [1, 1, 1, 1]
    held, rows, length = fixed(tmp_path, data, maps, BinarisePart(submission=rule(), classes=["salt"]))
    assert not held["searched"] and held["chosen"] == 0.5 and held["best"] == searched["best"] and length == 256
    assert {row["sample_id"]: row["iou"] for row in rows} == {"a": 0, "b": 0, "c": 1, "d": 0}
    assert [row["fold"] for row in rows] == [0, 1, 0, 1]


# In "c", which is empty, a false alarm of four pixels.
ALARMED = TRUTHS | {"c": square(2)}


def test_several_triplets_are_searched(tmp_path):
    data = data_of(tmp_path, TRUTHS)
    grid = [triplet([0.9, 0.6], [2, 6], [0.7, 0.3])]
    part = BinarisePart(submission=rule(threshold={"metric": "dice"}, triplets=grid), classes=["salt"])
    found, rows, length = fixed(tmp_path, data, maps_of(ALARMED, 160, 50), part)  # p is 0.63 inside, 0.20 outside
    # Above 0.9 and 0.7 is nothing. (0.6, 2, 0.3) keeps the false alarm of "c", which fold 1 (b, d) doesn't show.
    best, alarmed = triplet(0.6, 6, 0.3), triplet(0.6, 2, 0.3)
    assert found == {
        "chosen": best, "searched": True, "metric": "dice", "best": best, "in_sample": 1, "nested": 0.75,
        "by_fold": {"0": alarmed, "1": best},
    }  # fmt: skip
    assert [row["dice"] for row in rows] == [1, 1, 1, 1]
    curve = read_table(tmp_path / "thresholds.parquet")
    assert (length, curve.schema.names) == (8, TRIPLETS.names)
    assert curve.to_pylist()[-3:] == [
        {"top": 0.6, "area": 2, "bottom": 0.3, "score": 0.75},
        {"top": 0.6, "area": 6, "bottom": 0.7, "score": 0.25},
        {"top": 0.6, "area": 6, "bottom": 0.3, "score": 1},
    ]
    assert chosen_threshold(tmp_path / "threshold.json") == Triplet(0.6, 6, 0.3, (SIZE, SIZE))


def test_a_single_triplet_is_fixed(tmp_path):
    data = data_of(tmp_path, TRUTHS)
    one = {"area": 10, "bottom": 0.3}  # a doublet
    part = BinarisePart(submission=rule(threshold={"metric": "iou"}, triplets=[one]), classes=["salt"])
    found, rows, length = fixed(tmp_path, data, maps_of(ALARMED, 160, 50), part)
    doublet = {"top": 0.3, "area": 10, "bottom": 0.3, "size": None}
    assert (found["searched"], found["chosen"], found["best"]) == (False, doublet, doublet)
    assert (found["in_sample"], found["nested"]) == (0.75, 0.75)  # "d" has nine pixels
    assert (found["by_fold"], length) == ({"0": doublet, "1": doublet}, 1)
    assert {row["sample_id"]: row["iou"] for row in rows} == {"a": 1, "b": 1, "c": 1, "d": 0}
    assert chosen_threshold(tmp_path / "threshold.json") == Triplet(0.3, 10, 0.3)


@pytest.mark.parametrize("chosen", [0.3, None])
def test_thresholds_and_their_absence_are_read_too(tmp_path, chosen):
    (tmp_path / "threshold.json").write_text(json.dumps({"chosen": chosen}))
    assert chosen_threshold(tmp_path / "threshold.json") == chosen


def test_contours_follow_the_emptiness_rule_and_may_empty_what_passed_it():
    maps = list(maps_of({"a": square(4), "b": square(6)}, 200, 100).items())
    contours = [Postprocess(contours={"area": 9})]

    def pixels(cut: Triplet, **changes: object) -> list[int]:
        return [int(mask.sum()) for _, mask in final_masks(maps, cut, rule(**changes))]

    assert pixels(Triplet(0.7, 17, 0.5)) == [0, 36]
    assert pixels(Triplet(0.7, 16, 0.5)) == [16, 36]
    assert pixels(Triplet(0.7, 16, 0.5), postprocess=contours) == [0, 36]  # 4 x 4 pixels have an area of 9
    assert pixels(Triplet(0.7, 16, 0.3), postprocess=contours) == [64, 64]


def test_black_images_and_postprocessing_reach_the_scores(tmp_path):
    data = data_of(tmp_path, TRUTHS, black={"c"})
    maps = maps_of(TRUTHS, 200, 10) | {"c": np.full((1, SIZE, SIZE), 200, np.uint8)}
    part = BinarisePart(
        submission=rule(black_is_empty=True, postprocess=[{"minimum_size": {"pixels": 10}}]), classes=["salt"]
    )
    _, rows, _ = fixed(tmp_path, data, maps, part)
    assert {row["sample_id"]: row["iou"] for row in rows} == {"a": 1, "b": 1, "c": 1, "d": 0}
    assert black_images(data.samples) == {"c"}


def test_steps_follow_one_another():
    maps = [("a", np.where(square(2), 200, 0).astype(np.uint8)[None]), ("b", np.full((1, SIZE, SIZE), 255, np.uint8))]
    small = [Postprocess(minimum_size={"pixels": 5})]

    def pixels(**changes: object) -> list[int]:
        return [int(mask.sum()) for _, mask in final_masks(maps, 0.5, rule(**changes), empty, replaced)]

    empty, replaced = set(), {}
    assert pixels() == [4, 64]
    assert pixels(postprocess=small) == [0, 64]
    empty = {"b"}
    assert pixels() == [4, 0]
    assert pixels(postprocess=small) == [0, 0]
    replaced = {"b": square(2)}
    assert pixels() == [4, 0]  # without a jigsaw step
    assert pixels(postprocess=[JIGSAW]) == [4, 4]
    assert pixels(postprocess=[JIGSAW, *small]) == [0, 0]
    assert pixels(postprocess=[*small, JIGSAW]) == [0, 4]


def jigsaw_table(path, masks: dict[str, list[tuple[str, bool, np.ndarray]]], split: str = "train"):
    """(rule, applied, mask) of each sample."""
    rows = []
    for name, replacements in masks.items():
        for by_rule, applied, mask in replacements:
            lengths, values = rle.encode_runs(mask)
            row = {"sample_id": name, "split": split, "fold": 0 if split == "train" else None, "rule": by_rule}
            row |= {"applied": applied, "source": "x", "height": SIZE, "width": SIZE}
            rows.append(row | {"lengths": lengths, "values": values})
    write_table(path, pa.Table.from_pylist(rows, schema=JIGSAW_TABLE))
    return path


def test_masks_from_neighbours_count_in_the_scores_and_their_effect_is_that_on_predictions(tmp_path):
    data = data_of(tmp_path, TRUTHS)
    predicted = TRUTHS | {"a": square(0), "b": square(2)}
    masks = {"a": [("vertical_below", True, square(4))], "b": [("empty_below", False, square(0))]}
    table = write_maps(tmp_path / "oof.parquet", maps_of(predicted, 200, 10))
    sources = Sources(data.samples, table, jigsaw=jigsaw_table(tmp_path / "jigsaw.parquet", masks))
    part = BinarisePart(submission=rule(postprocess=[JIGSAW]), classes=["salt"])
    names = [tmp_path / name for name in ("threshold.json", "thresholds.parquet", "cases.parquet", "confusion.parquet")]
    fix_threshold(part, sources, data.pixels, data.folds, *names)
    scores = {row["sample_id"]: row["iou"] for row in read_table(names[2]).to_pylist() if row["run"] == "blend"}
    assert scores == {"a": 1, "b": 4 / 25, "c": 1, "d": 1}
    score_jigsaw(part, sources, data.pixels, data.folds, names[0], tmp_path / "effects.parquet")
    effects = read_table(tmp_path / "effects.parquet").to_pylist()
    assert [(row["sample_id"], row["applied"], row["before"], row["after"]) for row in effects] == [
        ("a", True, 0, 1),
        ("b", False, 0, 0),
    ]
    # The test split has its own.
    tests = Sources(data.samples, table, jigsaw=jigsaw_table(tmp_path / "tests.parquet", masks, "test"))
    assert tests.replaced("train") == {} and list(tests.replaced("test")) == ["a"]


def test_several_classes_take_the_most_probable_one(tmp_path):
    truths = {name: square(edge, 2) for name, edge in (("a", 4), ("b", 5))}
    truths["a"][7] = 255  # ignored
    data = data_of(tmp_path, truths)
    maps = {name: np.stack([np.where(mask == value, 90, 80) for value in range(3)]).astype(np.uint8)
            for name, mask in truths.items()}  # fmt: skip
    part = BinarisePart(submission=rule(encode="runs"), classes=["road", "car", "tree"], ignore_index=255)
    chosen, rows, length = fixed(tmp_path, data, maps, part)
    assert chosen == {"chosen": None} and length == 0
    assert [(row["iou"], row["truth_iou"], row["mean_precision"]) for row in rows] == [(1, 1, None), (1, 1, None)]
    pixels = read_table(tmp_path / "confusion.parquet").to_pylist()
    counted = [row for row in pixels if row["pixels"]]
    assert {(row["stage"], row["run"]) for row in pixels} == {("submission", "blend")} and len(pixels) == 2 * 9
    assert [(row["fold"], row["truth"], row["predicted"], row["pixels"]) for row in counted] == [
        (0, "road", "road", 7 * 8 - 16),
        (0, "tree", "tree", 16),
        (1, "road", "road", 8 * 8 - 25),
        (1, "tree", "tree", 25),
    ]
