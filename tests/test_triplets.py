import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stagepipe import binarise, triplets
from stagepipe.recipe.model import TripletGrid
from stagepipe.triplets import Triplet, expand, image_scores, thresholds

METRICS = ("dice", "iou", "mean_precision")
STEPS = (0.0, 0.2, 51 / 255, 0.3, 0.6, 153 / 255, 0.7, 0.75, 1.0)
"""some lie on steps of quantised maps: 0.2 is 51, 0.6 is 153"""


def literal_mask(quantised, triplet):
    """The published rule, pixel by pixel, in fractions of 255 so that 0.6 is 153."""
    values = quantised.ravel().tolist()
    above = sum(value * 10**6 > round(triplet.top * 255 * 10**6) for value in values)
    height, width = triplet.size or (1, 1)
    if above * height * width < triplet.area * (len(values) if triplet.size else 1):
        return np.zeros(quantised.shape, bool)
    inside = [value * 10**6 > round(triplet.bottom * 255 * 10**6) for value in values]
    return np.array(inside).reshape(quantised.shape)


def literal_score(mask, truth, metric):
    inside, total = int((mask & truth).sum()), int(mask.sum() + truth.sum())
    if total == 0:
        return 1.0
    iou = inside / (total - inside)
    precision = sum(iou > k / 20 for k in range(10, 20)) / 10
    return {"dice": 2 * inside / total, "iou": iou, "mean_precision": precision}[metric]


def images(seed, count, shapes=((4, 5), (3, 3), (6, 2))):
    """Quantised maps that know something of their truths, half of which are empty, of several sizes."""
    random = np.random.default_rng(seed)
    maps, truths = {}, {}
    for number in range(count):
        shape = shapes[number % len(shapes)]
        truth = (random.random(shape) < random.choice([0, 0, 0.3, 0.7])).astype(np.uint8)
        noisy = np.clip(40 + 140 * truth + random.normal(0, 70, shape), 0, 255)
        steps = random.choice([0, 51, 52, 76, 77, 153, 154, 255], shape)
        maps[f"{number:03}"] = np.where(random.random(shape) < 0.4, steps, noisy).astype(np.uint8)[None]
        truths[f"{number:03}"] = truth
    return maps, truths


def literal(maps, truths, candidates, metric):
    """[N, len(candidates)], an image and a triplet at a time."""
    return np.array(
        [
            [literal_score(literal_mask(maps[name][0], triplet), truths[name] > 0, metric) for triplet in candidates]
            for name in maps
        ]
    )


def drawn(seed, count):
    """Triplets of all kinds: doublets, small and large areas, with and without a size."""
    random = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        top, bottom = random.choice(STEPS, 2).tolist()
        size = [None, (4, 5), (8, 10), (3, 4)][random.integers(4)]
        found.append(Triplet(top if random.random() < 0.7 else bottom, int(random.integers(0, 12)), bottom, size))
    return found


def counts_of(maps, truths, candidates):
    """What `image_scores` wants, counted plainly."""
    at = thresholds(candidates)
    levels = [round(threshold * 255 * 10**6) for threshold in at]
    above = {
        name: [quantised[0].astype(np.int64) * 10**6 > level for level in levels] for name, quantised in maps.items()
    }
    predicted = np.array([[mask.sum() for mask in above[name]] for name in maps])
    inside = np.array([[(mask & (truths[name] > 0)).sum() for mask in above[name]] for name in maps])
    truth = np.array([truths[name].sum(dtype=np.int64) for name in maps])
    return predicted, inside, truth, np.array([quantised.size for quantised in maps.values()])


# ------------------------------------------------------------------------------------------------------------- the rule


def test_hand_worked_image_of_four_by_four():
    quantised = np.zeros((1, 4, 4), np.uint8)
    quantised[0, :2, :2] = [[230, 200], [180, 100]]  # p: 0.902, 0.784, 0.706, 0.392
    truth = np.zeros((4, 4), np.uint8)
    truth[:2, 0] = 1  # 230 and 180
    candidates = [
        Triplet(0.75, 2, 0.3),  # two pixels above 0.75 are two: four pixels, two of them true
        Triplet(0.75, 3, 0.3),  # two are fewer than three: empty
        Triplet(0.7, 3, 0.75),  # three above 0.7; above 0.75 are 230 and 200, one of them true
        Triplet(0.75, 2, 0.3, (4, 4)),  # the same size
        Triplet(0.75, 4, 0.3, (8, 4)),  # half as many pixels: 2 of 2
        Triplet(0.75, 5, 0.3, (8, 4)),  # 2 of 2.5
        Triplet(0.95, 0, 0.7),  # no pixel is enough: three, two of them true
    ]
    predicted, inside, _, _ = counts_of({"a": quantised}, {"a": truth}, candidates)
    assert thresholds(candidates) == [0.3, 0.7, 0.75, 0.95]
    assert (predicted.tolist(), inside.tolist()) == ([[4, 3, 2, 0]], [[2, 2, 1, 0]])
    two, sixteen = np.array([2]), np.array([16])
    dice = image_scores(predicted, inside, two, sixteen, candidates, "dice")
    assert dice.tolist() == [[4 / 6, 0, 2 / 4, 4 / 6, 4 / 6, 0, 4 / 5]]
    iou = image_scores(predicted, inside, two, sixteen, candidates, "iou")
    assert iou.tolist() == [[2 / 4, 0, 1 / 3, 2 / 4, 2 / 4, 0, 2 / 3]]
    precision = image_scores(predicted, inside, two, sixteen, candidates, "mean_precision")
    assert precision.tolist() == [[0, 0, 0, 0, 0, 0, 0.4]]
    # Of an image without a mask the empty ones are right.
    nothing = image_scores(predicted, 0 * inside, 0 * two, sixteen, candidates, "dice")
    assert nothing.tolist() == [[0, 1, 0, 0, 0, 1, 0]]
    masks = [int(binarise.apply(quantised, triplet).sum()) for triplet in candidates]
    assert masks == [4, 0, 2, 4, 4, 0, 3]


@settings(max_examples=40)
@given(seed=st.integers(0, 10**6), metric=st.sampled_from(METRICS))
def test_scores_and_masks_equal_the_literal_loop(seed, metric):
    maps, truths = images(seed, 6)
    candidates = drawn(seed, 15)
    expected = literal(maps, truths, candidates, metric)
    found = image_scores(*counts_of(maps, truths, candidates), candidates, metric)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
    for name, triplet in itertools.product(maps, candidates):
        mask = binarise.apply(maps[name], triplet)
        assert mask.dtype == np.uint8
        np.testing.assert_array_equal(mask, literal_mask(maps[name][0], triplet))


@given(above=st.integers(0, 2**21), pixels=st.integers(1, 2**22), area=st.integers(0, 2**20), edge=st.integers(1, 2048))
def test_area_is_scaled_without_rounding(above, pixels, area, edge):
    from fractions import Fraction

    enough = Fraction(above, pixels) >= Fraction(area, edge * edge)
    assert Triplet(0.5, area, 0.5, (edge, edge)).keeps(above, pixels) == enough
    arrays = Triplet(0.5, area, 0.5, (edge, edge)).keeps(np.array([above]), np.array([pixels]))
    assert arrays.tolist() == [enough]
    assert Triplet(0.5, area, 0.5).keeps(above, pixels) == (above >= area)


def test_a_triplet_without_an_area_is_a_plain_threshold_and_a_doublet_has_one():
    maps, _ = images(3, 9)
    for quantised in maps.values():
        for threshold in STEPS:
            plain = binarise.apply(quantised, threshold)
            np.testing.assert_array_equal(binarise.apply(quantised, Triplet(0.9, 0, threshold)), plain)
            doublet = binarise.apply(quantised, Triplet(threshold, 5, threshold))
            np.testing.assert_array_equal(doublet, plain if plain.sum() >= 5 else 0 * plain)


def test_counts_at_other_thresholds_are_refused():
    with pytest.raises(ValueError, match="counts at 3 thresholds; expected 2"):
        counts = np.zeros((1, 3), np.int64)
        image_scores(counts, counts, counts[:, 0], counts[:, 0], [Triplet(0.7, 1, 0.3)], "dice")


# ------------------------------------------------------------------------------------------------------------ the grids


def test_grids_are_written_out_in_order_and_each_triplet_once():
    published = [
        TripletGrid(top=0.75, area=[1000, 2000], bottom=[0.3, 0.4], size=1024),
        TripletGrid(top=0.6, area=[2000, 3000], bottom=[0.3, 0.4], size=1024),
        TripletGrid(top=[0.6, 0.75], area=2000, bottom=0.3, size=1024),
    ]
    found = expand(published)
    assert [(triplet.top, triplet.area, triplet.bottom) for triplet in found] == [
        (0.75, 1000, 0.3), (0.75, 1000, 0.4), (0.75, 2000, 0.3), (0.75, 2000, 0.4),
        (0.6, 2000, 0.3), (0.6, 2000, 0.4), (0.6, 3000, 0.3), (0.6, 3000, 0.4),
    ]  # fmt: skip
    assert {triplet.size for triplet in found} == {(1024, 1024)}
    assert thresholds(found) == [0.3, 0.4, 0.6, 0.75]


def test_without_a_top_they_are_doublets():
    doublets = [Triplet(0.5, 10, 0.5), Triplet(0.3, 10, 0.3), Triplet(0.5, 20, 0.5), Triplet(0.3, 20, 0.3)]
    assert expand([TripletGrid(area=[10, 20], bottom=[0.5, 0.3])]) == doublets
    assert expand([TripletGrid(top=0.5, area=10, bottom=0.5), TripletGrid(area=10, bottom=0.5)]) == doublets[:1]
    assert thresholds(doublets) == [0.3, 0.5]


# ----------------------------------------------------------------------------------------------------------- the search


def searched(maps, truths, candidates, folds, metric="dice"):
    return binarise.search_triplets(binarise.count(maps.items(), truths.__getitem__), candidates, folds, metric)


@pytest.mark.parametrize("at_once", [5, 1024])
@pytest.mark.parametrize("metric", METRICS)
def test_search_and_nested_estimate_equal_slow_loops(metric, at_once, monkeypatch):
    monkeypatch.setattr(triplets, "IMAGES_AT_ONCE", at_once)
    maps, truths = images(16, 45)
    candidates = list(dict.fromkeys(drawn(5, 60)))
    folds = {name: (7, 0, 3)[number % 3] for number, name in enumerate(maps)}
    found = searched(maps, truths, candidates, folds, metric)
    scores = literal(maps, truths, candidates, metric)
    np.testing.assert_allclose(found.curve, scores.mean(axis=0), rtol=0, atol=1e-9)
    best = int(scores.mean(axis=0).argmax())
    assert found.triplet == candidates[best]
    assert found.score == pytest.approx(scores[:, best].mean(), abs=1e-12)
    number = np.array(list(folds.values()))
    nested = []
    for fold in (0, 3, 7):
        own, others = scores[number == fold], scores[number != fold]
        means = [sum(column) / len(column) for column in others.T.tolist()]
        choice = max(range(len(candidates)), key=lambda place: (round(means[place], 11), -place))
        assert found.by_fold[fold] == candidates[choice]
        nested += own[:, choice].tolist()
    assert list(found.by_fold) == [0, 3, 7]
    assert found.nested_score == pytest.approx(sum(nested) / 45, abs=1e-12)
    assert found.nested_score < found.score


def test_of_equals_the_first_in_the_order_written_is_taken():
    maps = {name: np.array([[[255, 0]]], np.uint8) for name in "abc"}
    truths = {name: np.array([[1, 0]], np.uint8) for name in "abc"}
    equals = [Triplet(0.9, 2, 0.5), Triplet(0.8, 1, 0.4), Triplet(0.4, 0, 0.3), Triplet(0.8, 1, 0.2)]
    for order in itertools.permutations(equals):
        found = searched(maps, truths, order, {"a": 0, "b": 1, "c": 1})
        first = next(triplet for triplet in order if triplet.area < 2)
        assert (found.triplet, found.score, found.nested_score) == (first, 1, 1)
        assert found.by_fold == {0: first, 1: first}


def test_a_search_shows_how_it_flatters_itself():
    # One image has a small mask, the other a false alarm of the same size: chosen on one, the other is all wrong.
    maps = {name: np.array([[[200, 0]]], np.uint8) for name in "ab"}
    truths = {"a": np.array([[1, 0]], np.uint8), "b": np.array([[0, 0]], np.uint8)}
    found = searched(maps, truths, [Triplet(0.5, 2, 0.5), Triplet(0.5, 1, 0.5)], {"a": 0, "b": 1})
    assert found.by_fold == {0: Triplet(0.5, 2, 0.5), 1: Triplet(0.5, 1, 0.5)}
    assert (found.score, found.nested_score) == (0.5, 0.0)
    alone = searched(maps, truths, [Triplet(0.5, 2, 0.5)], {"a": 3, "b": 3})
    assert alone.score == 0.5
    with pytest.raises(ValueError, match="two folds"):
        _ = alone.nested_score


@settings(max_examples=15)
@given(seed=st.integers(0, 10**6))
def test_doublets_without_an_area_score_as_the_plain_threshold_search(seed):
    maps, truths = images(seed, 8, shapes=((9, 11),))
    plain = binarise.search(maps.items(), truths.__getitem__, "iou")
    candidates = [Triplet(threshold, 0, threshold) for threshold in binarise.GRID.tolist()]
    found = searched(maps, truths, candidates, {name: int(name) % 2 for name in maps}, "iou")
    np.testing.assert_allclose(found.curve, plain.curve, rtol=0, atol=1e-12)
