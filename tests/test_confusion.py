"""What is taken for what: of two masks, and of the out-of-fold masks of a run."""

import numpy as np
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import confusion_matrix

from stagepipe import mean_scores, metrics, scores
from stagepipe.artefacts import write_table
from stagepipe.errors import ArtefactError
from stagepipe.probabilities import ProbabilityWriter
from stagepipe.recipe.parts import ScorePart
from stagepipe.tables import CASES, CONFUSION


def masks_of(highest: int, *more: int):
    return arrays(np.uint8, (4, 7), elements=st.sampled_from([*range(highest + 1), *more]))


@given(masks_of(4, 255), masks_of(4), st.sampled_from([255, 2]))
def test_it_is_that_of_scikit_learn_among_pixels_that_count(truth, predicted, ignore_index):
    truth[truth == 255] = ignore_index
    counted = truth != ignore_index
    expected = np.zeros((5, 5), int)
    if counted.any():
        expected = confusion_matrix(truth[counted], predicted[counted], labels=range(5))
    found = metrics.confusion(truth, predicted, 5, ignore_index)
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found, expected)


@given(masks_of(3), masks_of(3), st.sampled_from([None, 3]))
def test_a_single_class_has_a_background(truth, predicted, ignore_index):
    counted = truth != (9 if ignore_index is None else ignore_index)
    pairs = list(zip(truth[counted] > 0, predicted[counted] > 0, strict=True))
    expected = [[pairs.count((wanted, found)) for found in (False, True)] for wanted in (False, True)]
    found = metrics.confusion(truth, predicted, 1, ignore_index)
    assert found.tolist() == expected
    counts = metrics.intersections(truth, predicted, 1, ignore_index)
    assert counts.tolist() == [[expected[1][1], sum(expected[1]), expected[0][1] + expected[1][1]]]


def test_counts_of_several_confusions_at_once():
    pixels = np.arange(18).reshape(2, 3, 3)
    counts = metrics.confusion_counts(pixels)
    for one, expected in zip(pixels, counts, strict=True):
        np.testing.assert_array_equal(metrics.confusion_counts(one), expected)
        assert expected.tolist() == [[one[k, k], one[k].sum(), one[:, k].sum()] for k in range(3)]


def test_256_classes_and_masks_in_any_order_of_memory():
    truth, predicted = np.meshgrid(np.arange(256, dtype=np.uint8), np.arange(256, dtype=np.uint8), indexing="ij")
    np.testing.assert_array_equal(metrics.confusion(truth, predicted, 256), np.ones((256, 256)))
    assert metrics.confusion(truth, predicted, 256, 255)[255].sum() == 0
    odd = np.asfortranarray(truth[:100, :90] % 3), predicted[5:105, 7:97] % 3
    np.testing.assert_array_equal(metrics.confusion(*odd, 3), metrics.confusion(*(mask.copy("C") for mask in odd), 3))


@pytest.mark.parametrize(("truth", "predicted", "highest"), [([[7]], [[0]], 7), ([[0]], [[3]], 3), ([[9]], [[12]], 12)])
def test_an_index_that_is_no_class_is_refused_where_it_counts(truth, predicted, highest):
    masks = np.array(truth, np.uint8), np.array(predicted, np.uint8)
    with pytest.raises(ValueError, match=f"holds class {highest}; expected classes 0 to 2"):
        metrics.confusion(*masks, 3)
    assert metrics.confusion(np.full((1, 1), 255, np.uint8), masks[1], 3, 255).sum() == 0


# ---------------------------------------------------------------------------------------------------------- as a table

CLASSES = ["road", "car", "tree"]
TRUTHS = {
    "a": np.array([[0, 1, 2, 9]], np.uint8),
    "b": np.array([[0, 0, 2, 2]], np.uint8),
    "c": np.array([[2, 2, 9, 9]], np.uint8),
}
MASKS = {
    "a": np.array([[0, 2, 2, 1]], np.uint8),
    "b": np.array([[0, 1, 2, 1]], np.uint8),
    "c": np.array([[2, 2, 0, 0]], np.uint8),
}
FOLDS = {"a": 1, "b": 0, "c": 1}


def found(evaluated=(), classes=CLASSES, ignore_index=9, masks=MASKS):
    return scores.score(
        "stage1", "run", FOLDS, masks.items(), TRUTHS.__getitem__, classes, evaluated, ignore_index, all_empty=False
    )


def test_pixels_of_each_fold_by_name():
    table = found().confusion
    assert table.schema == CONFUSION
    assert table.num_rows == 2 * 9
    rows = {(row["fold"], row["truth"], row["predicted"]): row["pixels"] for row in table.to_pylist()}
    assert {key: pixels for key, pixels in rows.items() if pixels} == {
        (0, "road", "road"): 1, (0, "road", "car"): 1, (0, "tree", "tree"): 1, (0, "tree", "car"): 1,
        (1, "road", "road"): 1, (1, "car", "tree"): 1, (1, "tree", "tree"): 3,
    }  # fmt: skip
    assert list(rows) == sorted(rows, key=lambda key: (key[0], CLASSES.index(key[1]), CLASSES.index(key[2])))


def test_a_single_class_has_a_background_in_the_table():
    masks = {name: (mask == 1).astype(np.uint8) for name, mask in MASKS.items()}
    truths = {name: (mask == 2).astype(np.uint8) for name, mask in TRUTHS.items()}
    scored = scores.score("s", "r", FOLDS, masks.items(), truths.__getitem__, ["tree"])
    rows = [tuple(row.values())[2:] for row in scored.confusion.to_pylist() if row["fold"] == 0]
    assert rows == [
        (0, "background", "background", 1),
        (0, "background", "tree", 1),
        (0, "tree", "background", 1),
        (0, "tree", "tree", 1),
    ]
    assert scored.cases["truth_iou"].null_count == 6


def test_cases_have_the_evaluated_classes_alone():
    every, some = found().cases, found(["car"]).cases
    assert every.schema == CASES
    # a: road 1, car 0, tree 1/2; b: road 1/2, tree 1/2, car only predicted; c: tree 1.
    assert every["iou"].to_pylist() == pytest.approx([1.5 / 3, 1 / 3, 1])
    assert every["truth_iou"].to_pylist() == pytest.approx([1.5 / 3, 1 / 2, 1])
    assert some["iou"].to_pylist() == [0, 0, 1]
    assert some["truth_iou"].to_pylist() == [0, None, None]
    # Shares of the foreground don't depend on what is evaluated.
    assert some["coverage"].equals(every["coverage"]) and some["predicted"].equals(every["predicted"])


def test_one_evaluated_class_of_two_isn_t_a_single_class():
    masks = {name: mask % 2 for name, mask in MASKS.items()}
    truths = {name: mask % 2 for name, mask in TRUTHS.items()}
    scored = scores.score("s", "r", FOLDS, masks.items(), truths.__getitem__, ["road", "car"], ["car"])
    assert scored.cases["mean_precision"].null_count == 6
    assert set(scored.confusion["truth"].to_pylist()) == {"road", "car"}


def test_the_runs_of_a_stage_and_its_ensemble(tmp_path, monkeypatch):
    monkeypatch.setattr(scores, "label_reader", lambda *_: TRUTHS.__getitem__)
    monkeypatch.setattr(scores, "folds_by_id", lambda _: FOLDS)

    def table(name, masks, classes=3):
        with ProbabilityWriter(tmp_path / name) as writer:
            for sample_id, mask in masks.items():
                writer.add_quantised(sample_id, (mask == np.arange(classes)[:, None, None]).astype(np.uint8))
        return tmp_path / name

    fold_0, fold_1 = table("0", {"b": MASKS["b"]}), table("1", {"a": MASKS["a"], "c": MASKS["c"]})
    right = {name: np.where(truth == 9, 0, truth) for name, truth in TRUTHS.items()}
    part = ScorePart(stage="s", runs=["run", "ensemble"], classes=CLASSES, evaluated=["car"], ignore_index=9)
    of = scores.stage_scores(part, tmp_path, tmp_path, tmp_path, [fold_0, fold_1, table("all", right)])
    truth_iou = {(row["run"], row["sample_id"]): row["truth_iou"] for row in of.cases.to_pylist()}
    expected = {("run", "a"): 0, ("ensemble", "a"): 1, ("all_empty", "a"): 0}
    assert truth_iou == {(run, name): None for run in ("run", "ensemble", "all_empty") for name in "bc"} | expected
    mine = of.confusion.filter(pc.equal(of.confusion["run"], "run"))
    assert mine["pixels"].equals(found().confusion["pixels"])
    assert set(of.confusion["run"].to_pylist()) == {"run", "ensemble"}
    with pytest.raises(ArtefactError, match="sample 'b': the map has 4 channels for 3 classes; predict again"):
        scores.stage_scores(part, *[tmp_path] * 3, [table("4", {"b": MASKS["b"]}, 4), fold_1, fold_0])


def test_dataset_iou_is_of_all_pixels_of_a_fold_and_of_all_of_them():
    of = found()
    frame = mean_scores.summary(of.cases, of.confusion, ["road", "tree"]).set_index(["fold", "metric"])["value"]
    # fold 0: road 1/2, tree 1/2; fold 1: road 1, tree 3/4; all: road 2/3, tree 4/6.
    assert frame["0", "dataset_iou"] == pytest.approx(1 / 2)
    assert frame["1", "dataset_iou"] == pytest.approx((1 + 3 / 4) / 2)
    assert frame["all", "dataset_iou"] == pytest.approx((2 / 3 + 4 / 6) / 2)
    assert frame["all", "truth_iou"] == pytest.approx((1.5 / 3 + 1 / 2 + 1) / 3)
    assert set(frame.index.get_level_values("metric")) == {"dice", "iou", "truth_iou", "dataset_iou"}


@given(st.integers(0, 10**6))
def test_dataset_iou_of_the_table_is_that_of_the_counts(seed):
    random = np.random.default_rng(seed)
    truths = dict(zip("abc", random.integers(0, 4, (3, 5, 5)).astype(np.uint8), strict=True))
    masks = dict(zip("abc", random.integers(0, 4, (3, 5, 5)).astype(np.uint8), strict=True))
    names = ["z", "b", "y", "a"]  # not in the order of the alphabet
    of = scores.score("s", "r", FOLDS, masks.items(), truths.__getitem__, names, ["b", "a"], 2, all_empty=False)
    frame = mean_scores.summary(of.cases, of.confusion, ["b", "a"]).set_index(["fold", "metric"])["value"]
    counts = np.stack([metrics.intersections(truths[name], masks[name], 4, 2) for name in "abc"])
    assert frame["all", "dataset_iou"] == pytest.approx(metrics.dataset_iou(counts, [1, 3]))


def test_the_summary_of_several_tables_is_one_file(tmp_path):
    of, paths = found(), [tmp_path / "cases.parquet", tmp_path / "confusion.parquet"]
    for path, table in zip(paths, (of.cases, of.confusion), strict=True):
        write_table(path, table)
    cases, confusions = ([path] for path in paths)
    mean_scores.write_summary(cases, confusions, CLASSES, tmp_path / "scores.csv")
    lines = (tmp_path / "scores.csv").read_text().splitlines()
    assert lines[0] == "stage,run,fold,split,metric,value"
    assert [line.split(",")[2:5] for line in lines[1:5]] == [
        ["0", "out_of_fold", metric] for metric in ("dataset_iou", "dice", "iou", "truth_iou")
    ]
    assert len(lines) == 1 + 3 * 4
    mean_scores.write_summary(cases, confusions, [], tmp_path / "scores.csv")
    assert "dataset_iou" not in (tmp_path / "scores.csv").read_text()
