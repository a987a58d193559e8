import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from stagepipe import postprocess
from stagepipe.recipe.model import MinimumSize, Postprocess

MASKS = arrays.arrays(np.uint8, arrays.array_shapes(min_dims=2, max_dims=2, max_side=7), elements=st.integers(0, 2))


def step(pixels, per="mask"):
    return Postprocess(minimum_size=MinimumSize(pixels=pixels, per=per))


def flood(mask):
    """Sets of pixels of one value that touch, diagonals included."""
    left = {tuple(at) for at in np.argwhere(mask > 0).tolist()}
    while left:
        found, edge = set(), [next(iter(left))]
        while edge:
            row, column = edge.pop()
            if (row, column) in left:
                left.remove((row, column))
                found.add((row, column))
                around = [(row + i, column + j) for i in (-1, 0, 1) for j in (-1, 0, 1)]
                edge += [at for at in around if at in left and mask[at] == mask[row, column]]
        yield found


def test_hand_worked_components():
    mask = np.array([[1, 0, 0, 1, 1], [0, 1, 0, 1, 0], [0, 0, 0, 0, 0], [1, 0, 0, 0, 0]], np.uint8)
    kept = postprocess.apply(mask, [step(3, "component")])
    assert kept.tolist() == [[0, 0, 0, 1, 1], [0, 0, 0, 1, 0], [0, 0, 0, 0, 0], [0, 0, 0, 0, 0]]
    assert postprocess.apply(mask, [step(6)]).tolist() == mask.tolist()
    assert not postprocess.apply(mask, [step(7)]).any()


@given(MASKS, st.integers(1, 9))
def test_components_equal_a_flood_fill(mask, pixels):
    expected = mask.copy()
    for component in flood(mask):
        if len(component) < pixels:
            expected[tuple(np.array(list(component)).T)] = 0
    np.testing.assert_array_equal(postprocess.apply(mask, [step(pixels, "component")]), expected)


@given(MASKS, st.integers(1, 9))
def test_each_class_is_measured_by_itself(mask, pixels):
    expected = mask.copy()
    for value in (1, 2):
        if (mask == value).sum() < pixels:
            expected[mask == value] = 0
    np.testing.assert_array_equal(postprocess.apply(mask, [step(pixels)]), expected)


@pytest.mark.parametrize("per", ["mask", "component"])
def test_the_given_mask_stays_and_all_foreground_is_no_special_case(per):
    mask = np.ones((3, 4), np.uint8)
    mask.flags.writeable = False
    assert postprocess.apply(mask, [step(12, per)]).all()
    assert not postprocess.apply(mask, [step(13, per)]).any()
    assert mask.all()


def test_steps_follow_one_another_and_none_is_nothing():
    mask = np.array([[1, 1, 0, 1]], np.uint8)
    assert not postprocess.apply(mask, [step(2, "component"), step(3)]).any()
    assert postprocess.apply(mask, [step(3), step(2, "component")]).tolist() == [[1, 1, 0, 0]]
    assert postprocess.apply(mask, []) is mask
