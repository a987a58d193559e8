import numpy as np
import pytest

from stagepipe import binarise, mean_scores, scores
from stagepipe.errors import ArtefactError
from stagepipe.tables import CASES, CONFUSION

TRUTHS = {
    "a": np.array([[1, 1, 0, 0]], np.uint8),
    "b": np.array([[0, 0, 0, 0]], np.uint8),
    "c": np.array([[1, 0, 0, 0]], np.uint8),
}
MAPS = {
    "a": np.array([[[200, 200, 200, 0]]], np.uint8),  # IoU 2/3: above 0.50, 0.55, 0.60, 0.65
    "b": np.array([[[0, 0, 0, 127]]], np.uint8),  # rightly empty: 127/255 isn't above 0.5
    "c": np.array([[[0, 0, 0, 255]]], np.uint8),  # all wrong
}


def single(**options):
    folds = {"a": 0, "b": 0, "c": 1}
    masks = ((name, binarise.apply(quantised, 0.5)) for name, quantised in MAPS.items())
    return scores.score("stage1", "run", folds, masks, TRUTHS.__getitem__, ["salt"], **options).cases


def test_hand_worked_cases():
    table = single()
    assert table.schema == CASES
    rows = [tuple(row.values()) for row in table.to_pylist()]
    assert rows[0] == (
        "stage1",
        "run",
        0,
        "out_of_fold",
        "a",
        pytest.approx(0.4),
        pytest.approx(0.8),
        pytest.approx(2 / 3),
        None,
        0.5,
        0.75,
    )
    assert rows[1][4:] == ("b", 1.0, 1.0, 1.0, None, 0.0, 0.0)
    assert rows[2][2:] == (1, "out_of_fold", "c", 0.0, 0.0, 0.0, None, 0.25, 0.25)
    # The all-empty prediction: right on b alone.
    assert [row[1] for row in rows[3:]] == ["all_empty"] * 3
    assert [row[5] for row in rows[3:]] == [0.0, 1.0, 0.0]
    assert [row[10] for row in rows[3:]] == [0.0] * 3


def test_all_empty_can_be_left_out():
    assert single(all_empty=False).equals(single().slice(0, 3))


def test_hand_worked_summary():
    frame = mean_scores.summary(single())
    assert list(frame.columns) == ["stage", "run", "fold", "split", "metric", "value"]
    value = frame.set_index(["run", "fold", "metric"])["value"]
    assert value["run", "0", "mean_precision"] == pytest.approx(0.7)
    assert value["run", "1", "iou"] == 0
    # Pooled over images, not over folds.
    assert value["run", "all", "dice"] == pytest.approx(1.8 / 3)
    assert value["all_empty", "all", "mean_precision"] == pytest.approx(1 / 3)
    assert len(frame) == 2 * 3 * 3
    assert set(frame["stage"]) == {"stage1"}
    assert set(frame["split"]) == {"out_of_fold"}


def test_several_classes_without_ignored_pixels():
    truth = np.array([[0, 1, 2, 9]], np.uint8)
    masks = [("a", np.array([[0, 1, 1, 2]], np.uint8))]
    table = scores.score("s", "r", {"a": 3}, masks, lambda _: truth, ["x", "y", "z"], ignore_index=9).cases
    predicted, empty = table.to_pylist()
    # IoU: class 0 1/1, class 1 1/2, class 2 0/1; dice 1, 2/3, 0.
    assert predicted["mean_precision"] is None
    assert predicted["iou"] == pytest.approx(0.5)
    assert predicted["dice"] == pytest.approx(5 / 9)
    assert (predicted["fold"], predicted["coverage"], predicted["predicted"]) == (
        3,
        pytest.approx(2 / 3),
        pytest.approx(2 / 3),
    )
    # All 0: class 0 1/3, the others 0.
    assert empty["iou"] == empty["truth_iou"] == pytest.approx(1 / 9)
    assert empty["dice"] == pytest.approx((2 / 4) / 3)
    assert empty["predicted"] == 0
    assert set(mean_scores.summary(table)["metric"]) == {"dice", "iou", "truth_iou"}


def test_all_empty_is_the_score_of_masks_of_zeros():
    random = np.random.default_rng(0)
    truths = dict(zip("abc", random.integers(0, 4, (3, 6, 5)).astype(np.uint8), strict=True))
    masks = [(name, random.integers(0, 4, (6, 5)).astype(np.uint8)) for name in truths]
    for classes, ignore_index in ((["x", "y", "z", "w"], None), (["x", "y", "z", "w"], 2), (["x"], None)):
        arguments = {"truths": truths.__getitem__, "classes": classes, "ignore_index": ignore_index}
        folds = dict.fromkeys(truths, 0)
        both = scores.score("s", "r", folds, masks, **arguments).cases.slice(3).drop_columns("run")
        zeros = [(name, mask * 0) for name, mask in masks]
        empty = scores.score("s", "r", folds, zeros, **arguments, all_empty=False).cases
        assert both.equals(empty.drop_columns("run"))


def test_a_mask_that_does_not_fit_and_a_sample_without_fold_are_named():
    masks = [("a", np.zeros((2, 2), np.uint8))]
    with pytest.raises(ArtefactError, match=r"sample 'a': the prediction is \(2, 2\) for a mask \(1, 4\)"):
        scores.score("s", "r", {"a": 0}, masks, TRUTHS.__getitem__, ["salt"])
    with pytest.raises(ArtefactError, match="fold None"):
        scores.score("s", "r", {}, [("a", TRUTHS["a"])], TRUTHS.__getitem__, ["salt"])


def test_no_prediction_is_an_empty_table():
    of = scores.score("s", "r", {}, [], TRUTHS.__getitem__, ["salt"])
    assert (of.cases.schema, of.confusion.schema) == (CASES, CONFUSION)
    assert of.cases.num_rows == of.confusion.num_rows == 0
    assert mean_scores.summary(of.cases, of.confusion, ["salt"]).empty
