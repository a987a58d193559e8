"""Scores per image, and their counts on a device."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from stagepipe import metrics
from stagepipe.device_metrics import batch_counts


def scores_of(truth, predicted, classes=1, ignore_index=None):
    counts = metrics.intersections(np.array(truth, np.uint8), np.array(predicted, np.uint8), classes, ignore_index)
    return {name: float(value[0]) for name, value in metrics.scores(counts[None]).items()}


def test_hand_worked_single_class():
    assert scores_of([[1, 1, 1, 0]], [[0, 1, 1, 1]]) == {"mean_precision": 0.0, "dice": 2 / 3, "iou": 0.5}
    assert scores_of([[1, 1, 1, 0]], [[0, 1, 1, 0]]) == {"mean_precision": 0.4, "dice": 0.8, "iou": 2 / 3}


def test_empty_masks():
    empty, full = [[0, 0]], [[1, 1]]
    assert scores_of(empty, empty) == {"mean_precision": 1.0, "dice": 1.0, "iou": 1.0}
    assert scores_of(empty, full) == scores_of(full, empty) == {"mean_precision": 0.0, "dice": 0.0, "iou": 0.0}


@pytest.mark.parametrize("twentieths", range(10, 20))
def test_mean_precision_is_strict_at_every_threshold(twentieths):
    intersection = twentieths * 7
    counts = np.array([[[intersection, 140, intersection]], [[intersection + 1, 140, intersection + 1]]])
    at, above = metrics.scores(counts)["mean_precision"]
    assert round(at * 10) == twentieths - 10
    assert round(above * 10) == twentieths - 9


def test_mean_precision_keeps_the_shape():
    np.testing.assert_allclose(metrics.mean_precision([[0.0, 0.5], [0.51, 1.0]]), [[0, 0], [0.1, 1]])


def test_several_classes_average_those_that_are_there():
    # class 0: I 2, T 3, P 2; class 1: I 1, T 1, P 2; class 2 is in neither
    result = scores_of([[0, 0, 0, 1]], [[0, 0, 1, 1]], classes=3)
    iou = (2 / 3 + 1 / 2) / 2
    assert result == pytest.approx({"dice": (4 / 5 + 2 / 3) / 2, "iou": iou, "truth_iou": iou})


def test_truth_iou_looks_at_the_classes_of_the_truth_alone():
    # class 0: I 2, U 4; class 1: I 1, U 2; class 2, only predicted, costs what it takes from the others.
    truth, predicted = [[0, 0, 0, 0, 1, 1]], [[0, 0, 2, 2, 1, 2]]
    assert scores_of(truth, predicted, 3) == pytest.approx(
        {"dice": (4 / 6 + 2 / 3 + 0) / 3, "iou": (1 / 2 + 1 / 2 + 0) / 3, "truth_iou": 1 / 2}
    )
    # A class that is missed counts 0.
    assert scores_of([[0, 1]], [[0, 0]], 3)["truth_iou"] == pytest.approx((1 / 2 + 0) / 2)


def test_only_scored_classes_count():
    counts = np.array([[[5, 9, 6], [1, 2, 4], [0, 0, 3]], [[8, 8, 8], [0, 0, 0], [0, 0, 0]]])
    some = metrics.scores(counts, [1, 2])
    assert some["iou"].tolist() == [1 / 5 / 2, 1]
    assert some["dice"].tolist() == [2 / 6 / 2, 1]
    assert some["truth_iou"][0] == 1 / 5 and np.isnan(some["truth_iou"][1])
    assert list(some) == list(metrics.scores(counts, [2])) == ["dice", "iou", "truth_iou"]
    for name, values in metrics.scores(counts, [0, 1, 2]).items():
        np.testing.assert_array_equal(values, metrics.scores(counts)[name])
    of_single = metrics.scores(counts[:, :1], [0])
    assert list(of_single) == ["mean_precision", "dice", "iou"]


def test_scored_indices():
    classes = ["car", "lane", "sky", "own"]
    assert metrics.scored_indices(classes, [], None) == metrics.scored_indices(classes, [], 255) == [0, 1, 2, 3]
    assert metrics.scored_indices(classes, [], 3) == [0, 1, 2]
    assert metrics.scored_indices(classes, ["sky", "car"], 3) == [0, 2]
    assert metrics.scored_indices(["salt"], [], None) == [0]


def test_dataset_iou_is_of_all_pixels_together():
    counts = np.array([[[5, 9, 6], [1, 2, 4], [0, 0, 0]], [[3, 3, 3], [4, 4, 8], [0, 0, 0]]])
    # class 0: I 8, U 12 + 9 - 8; class 1: I 5, U 6 + 12 - 5; class 2 is nowhere.
    np.testing.assert_array_equal(metrics.class_ious(counts), [8 / 13, 5 / 13, np.nan])
    assert metrics.dataset_iou(counts, [0, 1, 2]) == pytest.approx((8 / 13 + 5 / 13) / 2)
    assert metrics.dataset_iou(counts, [1, 2]) == 5 / 13
    assert metrics.dataset_iou(counts, [2]) == 1
    assert metrics.dataset_iou(counts[:0], [0, 1]) == 1
    # Unlike the mean over images.
    assert metrics.dataset_iou(counts, [0, 1]) != pytest.approx(metrics.scores(counts)["iou"].mean())


def test_ignored_pixels_count_nowhere():
    assert scores_of([[0, 255, 255, 1]], [[0, 0, 1, 1]], 2, 255) == {"dice": 1.0, "iou": 1.0, "truth_iou": 1.0}
    nothing = scores_of([[255, 255]], [[0, 1]], 2, 255)
    assert nothing == {"dice": 1.0, "iou": 1.0, "truth_iou": pytest.approx(np.nan, nan_ok=True)}
    counts = metrics.intersections(np.array([[0, 0, 1]], np.uint8), np.array([[0, 1, 1]], np.uint8), 2, ignore_index=0)
    assert counts.tolist() == [[0, 0, 0], [1, 1, 1]]


@given(
    arrays(np.uint8, (5, 6), elements=st.sampled_from([0, 1, 2, 255])),
    arrays(np.uint8, (5, 6), elements=st.integers(0, 2)),
)
def test_intersections_agree_with_a_loop(truth, predicted):
    expected = np.zeros((3, 3), int)
    for wanted, found in zip(truth.flat, predicted.flat, strict=True):
        if wanted != 255:
            expected[wanted] += [wanted == found, 1, 0]
            expected[found] += [0, 0, 1]
    counts = metrics.intersections(truth, predicted, 3, 255)
    assert counts.dtype == np.int64
    np.testing.assert_array_equal(counts, expected)


def test_unfit_masks_are_refused():
    with pytest.raises(ValueError, match="holds class 3; expected classes 0 to 2"):
        metrics.intersections(np.array([[3]], np.uint8), np.array([[0]], np.uint8), 3)
    with pytest.raises(ValueError, match="shape"):
        metrics.intersections(np.zeros((2, 2), np.uint8), np.zeros((2, 3), np.uint8), 1)


def test_names():
    assert tuple(metrics.scores(np.zeros((0, 1, 3), np.int64))) == metrics.METRICS[:3]
    assert tuple(metrics.scores(np.zeros((0, 4, 3), np.int64))) == metrics.METRICS[1:]


def test_counts_on_a_device_single_class():
    generator = torch.Generator().manual_seed(0)
    probabilities = torch.rand(4, 1, 9, 7, generator=generator)
    target = torch.rand(4, 9, 7, generator=generator)
    counts = batch_counts(probabilities, target, 0.7)
    assert counts.dtype == torch.int64
    for index in range(4):
        expected = metrics.intersections((target[index] > 0.5).numpy(), (probabilities[index, 0] > 0.7).numpy(), 1)
        np.testing.assert_array_equal(counts[index], expected)
    assert batch_counts(torch.full((1, 1, 1, 1), 0.5), torch.full((1, 1, 1), 0.5), 0.5).tolist() == [[[0, 0, 0]]]


@pytest.mark.parametrize("ignore_index", [None, 0, 255])
def test_counts_on_a_device_several_classes(ignore_index):
    generator = torch.Generator().manual_seed(0)
    probabilities = torch.rand(3, 4, 9, 7, generator=generator).softmax(dim=1)
    target = torch.randint(0, 4, (3, 9, 7), generator=generator)
    if ignore_index == 255:
        target[:, 2:4] = 255
    counts = batch_counts(probabilities, target, 0.5, ignore_index)
    predicted = probabilities.numpy().argmax(axis=1).astype(np.uint8)
    for index in range(3):
        truth = target[index].numpy().astype(np.uint8)
        np.testing.assert_array_equal(counts[index], metrics.intersections(truth, predicted[index], 4, ignore_index))
