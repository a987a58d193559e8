import numpy as np
import pytest

from stagepipe import scores
from stagepipe.errors import ArtefactError
from stagepipe.tables import CASES

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
    return scores.cases("stage1", "run", folds, "train", MAPS.items(), TRUTHS.__getitem__, 0.5, 1, **options)


def test_hand_worked_cases():
    table = single()
    assert table.schema == CASES
    rows = [tuple(row.values()) for row in table.to_pylist()]
    assert rows[0] == (
        "stage1",
        "run",
        0,
        "train",
        "a",
        pytest.approx(0.4),
        pytest.approx(0.8),
        pytest.approx(2 / 3),
        0.5,
        0.75,
    )
    assert rows[1][4:] == ("b", 1.0, 1.0, 1.0, 0.0, 0.0)
    assert rows[2][2:] == (1, "train", "c", 0.0, 0.0, 0.0, 0.25, 0.25)
    # The all-empty prediction: right on b alone.
    assert [row[1] for row in rows[3:]] == ["all_empty"] * 3
    assert [row[5] for row in rows[3:]] == [0.0, 1.0, 0.0]
    assert [row[9] for row in rows[3:]] == [0.0] * 3


def test_all_empty_can_be_left_out():
    assert single(all_empty=False).equals(single().slice(0, 3))


def test_hand_worked_summary():
    frame = scores.summary(single())
    assert list(frame.columns) == ["stage", "run", "fold", "split", "metric", "value"]
    value = frame.set_index(["run", "fold", "metric"])["value"]
    assert value["run", "0", "mean_precision"] == pytest.approx(0.7)
    assert value["run", "1", "iou"] == 0
    # Pooled over images, not over folds.
    assert value["run", "all", "dice"] == pytest.approx(1.8 / 3)
    assert value["all_empty", "all", "mean_precision"] == pytest.approx(1 / 3)
    assert len(frame) == 2 * 3 * 3
    assert set(frame["stage"]) == {"stage1"}
    assert set(frame["split"]) == {"train"}


def test_several_classes_without_ignored_pixels():
    truth = np.array([[0, 1, 2, 9]], np.uint8)
    maps = {"a": np.array([[[250, 0, 0, 0]], [[0, 250, 250, 0]], [[0, 0, 0, 250]]], np.uint8)}  # predicts 0, 1, 1, 2
    table = scores.cases("s", "r", {"a": 3}, "train", maps.items(), lambda _: truth, None, 3, ignore_index=9)
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
    assert empty["iou"] == pytest.approx(1 / 9)
    assert empty["predicted"] == 0
    assert set(scores.summary(table)["metric"]) == {"dice", "iou"}


def test_a_map_that_does_not_fit_and_a_sample_without_fold_are_named():
    maps = [("a", np.zeros((1, 2, 2), np.uint8))]
    with pytest.raises(ArtefactError, match=r"sample 'a': the map is \(1, 2, 2\) for a mask \(1, 4\)"):
        scores.cases("s", "r", {"a": 0}, "train", maps, TRUTHS.__getitem__, 0.5, 1)
    with pytest.raises(ArtefactError, match="fold None"):
        scores.cases("s", "r", {}, "train", MAPS.items(), TRUTHS.__getitem__, 0.5, 1)


def test_no_prediction_is_an_empty_table():
    table = scores.cases("s", "r", {}, "train", [], TRUTHS.__getitem__, 0.5, 1)
    assert table.schema == CASES
    assert table.num_rows == 0
    assert scores.summary(table).empty
