import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stagepipe import binarise
from stagepipe.errors import ArtefactError
from stagepipe.tables import THRESHOLDS


def literal_score(quantised, truth, threshold, metric):
    """One image at one threshold, in plain words of the definitions."""
    predicted = quantised[0].astype(np.int64) * 2 > round(threshold * 510)  # GRID lies on half steps
    inside = int((predicted & (truth > 0)).sum())
    union = int((predicted | (truth > 0)).sum())
    total = int(predicted.sum() + (truth > 0).sum())
    if metric == "dice":
        return 1.0 if total == 0 else 2 * inside / total
    iou = 1.0 if union == 0 else inside / union
    return iou if metric == "iou" else sum(iou > k / 20 for k in range(10, 20)) / 10


def images(seed, count, height=9, width=11):
    """Maps that know something of their truths, a third of which are empty."""
    random = np.random.default_rng(seed)
    maps, truths = {}, {}
    for i in range(count):
        truth = (random.random((height, width)) < random.choice([0, 0.3, 0.7])).astype(np.uint8)
        noise = random.normal(0, 60, truth.shape)
        maps[f"{i:03}"] = np.clip(60 + 120 * truth + noise, 0, 255).astype(np.uint8)[None]
        truths[f"{i:03}"] = truth
    return maps, truths


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), count=st.integers(1, 4), metric=st.sampled_from(["mean_precision", "dice", "iou"]))
def test_equals_the_literal_loop(seed, count, metric):
    maps, truths = images(seed, count, 5, 4)
    found = binarise.search(maps.items(), truths.__getitem__, metric)
    literal = [
        np.mean([literal_score(maps[name], truths[name], threshold, metric) for name in maps])
        for threshold in binarise.GRID[:-1]
    ]
    np.testing.assert_allclose(found.curve[:-1], literal, rtol=0, atol=1e-12)
    empty = np.mean([not truth.any() for truth in truths.values()])
    assert found.curve[-1] == pytest.approx(empty, abs=1e-12)


def test_hand_worked_search():
    # True pixels at 200 and 90, false ones at 100 and 10. IoU: 2/3 below 90, 1/2 for 100..199, 1/3 for 90..99.
    maps = {"a": np.array([[[200, 90, 100, 10]]], np.uint8)}
    found = binarise.search(maps.items(), lambda _: np.array([[1, 1, 0, 0]], np.uint8), "iou")
    for level, score in [
        (5, 1 / 2),
        (10, 2 / 3),
        (89, 2 / 3),
        (90, 1 / 3),
        (99, 1 / 3),
        (100, 1 / 2),
        (199, 1 / 2),
        (200, 0),
    ]:
        assert found.curve[level] == pytest.approx(score)
    assert found.threshold == 89.5 / 255
    assert found.score == pytest.approx(2 / 3)


def test_of_equal_thresholds_the_one_nearest_to_a_half_is_taken():
    maps = {"a": np.array([[[255, 0]]], np.uint8)}
    found = binarise.search(maps.items(), lambda _: np.array([[1, 0]], np.uint8), "dice")
    assert (found.threshold, found.score) == (0.5, 1.0)


def test_curve_as_a_table():
    maps, truths = images(0, 5)
    table = binarise.search(maps.items(), truths.__getitem__, "iou").table()
    assert table.schema == THRESHOLDS
    assert table.num_rows == 256
    thresholds = table["threshold"].to_numpy()
    assert (np.diff(thresholds) > 0).all()
    assert 0.5 in thresholds
    assert thresholds[-1] == 1


def test_nested_scores_each_fold_at_the_threshold_of_the_others():
    maps, truths = images(1, 60)
    folds = {name: i % 3 for i, name in enumerate(maps)}
    found = binarise.search(maps.items(), truths.__getitem__, "mean_precision")
    result = binarise.nested(found, folds)
    total = 0.0
    for fold in range(3):
        others = {name: maps[name] for name in maps if folds[name] != fold}
        own = {name: maps[name] for name in maps if folds[name] == fold}
        threshold = binarise.search(others.items(), truths.__getitem__, "mean_precision").threshold
        assert result.thresholds[fold] == threshold
        level = list(binarise.GRID).index(threshold)
        total += binarise.search(own.items(), truths.__getitem__, "mean_precision").image_scores[:, level].sum()
    assert result.nested_score == pytest.approx(total / 60, abs=1e-12)
    assert (result.threshold, result.score) == (found.threshold, found.score)
    assert result.score >= result.nested_score


def test_a_search_shows_how_it_flatters_itself():
    # Two images that want opposite thresholds: chosen on one, the other is all wrong.
    maps = {"a": np.array([[[50, 0]]], np.uint8), "b": np.array([[[250, 50]]], np.uint8)}
    truths = {"a": np.array([[1, 0]], np.uint8), "b": np.array([[1, 0]], np.uint8)}
    found = binarise.search(maps.items(), truths.__getitem__, "mean_precision")
    result = binarise.nested(found, {"a": 0, "b": 1})
    assert result.thresholds == {0: 0.5, 1: 49.5 / 255}
    assert (result.score, result.nested_score) == (0.5, 0.0)
    with pytest.raises(ValueError, match="two folds"):
        binarise.nested(found, {"a": 0, "b": 0})


@given(st.integers(0, 255), st.integers(0, 255))
def test_applied_grid_thresholds_split_at_their_level(value, level):
    mask = binarise.apply(np.array([[[value]]], np.uint8), float(binarise.GRID[level]))
    assert mask.dtype == np.uint8
    assert mask.item() == (value > level)


def test_applied_search_gives_the_score_it_promises():
    maps, truths = images(2, 20)
    found = binarise.search(maps.items(), truths.__getitem__, "iou")
    scores = []
    for name, quantised in maps.items():
        mask = binarise.apply(quantised, found.threshold)
        union = np.count_nonzero(mask | truths[name])
        scores.append(np.count_nonzero(mask & truths[name]) / union if union else 1.0)
    assert np.mean(scores) == pytest.approx(found.score, abs=1e-12)


def test_several_classes_take_the_highest_and_the_first_of_equals():
    quantised = np.array([[[10, 90, 5]], [[20, 90, 5]], [[225, 75, 245]]], np.uint8)
    assert binarise.apply(quantised).tolist() == [[2, 0, 2]]


@pytest.mark.parametrize(("classes", "threshold"), [(1, None), (3, 0.5)])
def test_a_threshold_belongs_to_a_single_class(classes, threshold):
    with pytest.raises(ValueError, match=f"{classes} classes with threshold"):
        binarise.apply(np.zeros((classes, 2, 2), np.uint8), threshold)


@pytest.mark.parametrize(
    ("shape", "kind", "message"),
    [((3, 4, 4), ValueError, "'a' has 3 classes"), ((1, 4, 5), ArtefactError, r"map is \(4, 5\), its mask \(4, 4\)")],
)
def test_maps_that_do_not_fit_are_named(shape, kind, message):
    with pytest.raises(kind, match=message):
        binarise.count([("a", np.zeros(shape, np.uint8))], lambda _: np.zeros((4, 4), np.uint8))


def test_no_map_is_an_error():
    with pytest.raises(ArtefactError, match="no out-of-fold map"):
        binarise.search([], lambda _: np.zeros((1, 1), np.uint8), "iou")
