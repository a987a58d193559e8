import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from stagepipe import postprocess
from stagepipe.recipe.model import Contours, MinimumSize, Postprocess

MASKS = arrays.arrays(np.uint8, arrays.array_shapes(min_dims=2, max_dims=2, max_side=7), elements=st.integers(0, 2))


def step(pixels, per="mask"):
    return Postprocess(minimum_size=MinimumSize(pixels=pixels, per=per))


def contours(area, size=None):
    return Postprocess(contours=Contours(area=area, size=size))


def blocks(*squares, size=64):
    """A mask of squares (value, row, column, edge), the later over the earlier."""
    mask = np.zeros((size, size), np.uint8)
    for value, row, column, edge in squares:
        mask[row : row + edge, column : column + edge] = value
    return mask


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


def test_a_square_of_k_pixels_has_a_contour_of_k_minus_one_squared():
    for edge in range(1, 40):
        mask = blocks((1, 10, 12, edge))
        for area in {(edge - 1) ** 2 - 1, (edge - 1) ** 2} - {-1}:
            kept = postprocess.apply(mask, [contours(area)])
            np.testing.assert_array_equal(kept, mask if area < (edge - 1) ** 2 else 0 * mask)
    # As published: 121 pixels vanish, 144 stay.
    assert not postprocess.apply(blocks((1, 5, 5, 11)), [contours(100)]).any()
    assert postprocess.apply(blocks((1, 5, 5, 12)), [contours(100)]).sum() == 144


def test_lines_vanish_but_a_line_on_a_square_stays():
    straight, slanted = np.zeros((2, 30, 30), np.uint8)
    straight[7, 2:28] = 1
    slanted[range(2, 28), range(28, 2, -1)] = 1
    for line in (straight, straight.T, slanted):
        assert not postprocess.apply(line, [contours(0)]).any()
    straight[7:14, 5:12] = 1
    np.testing.assert_array_equal(postprocess.apply(straight, [contours(35)]), straight)


def test_small_holes_are_filled_and_large_ones_stay():
    # A hole of k x k has the contour of the pixels around it without its corners: (k + 1)^2 - 2.
    for edge in range(1, 30):
        mask = blocks((1, 4, 4, 50), (0, 10, 10, edge))
        area = (edge + 1) ** 2 - 2
        np.testing.assert_array_equal(postprocess.apply(mask, [contours(area - 1)]), mask)
        np.testing.assert_array_equal(postprocess.apply(mask, [contours(area)]), blocks((1, 4, 4, 50)))


def test_islands_in_holes_are_measured_by_themselves():
    hole = blocks((1, 2, 2, 60), (0, 10, 10, 40))
    large, small = blocks((1, 20, 20, 12)), blocks((1, 36, 36, 11))
    kept = postprocess.apply(hole | large | small, [contours(100)])
    np.testing.assert_array_equal(kept, hole | large)
    # A hole in the island is too small, and an island in it smaller still.
    island = blocks((1, 20, 20, 12), (0, 23, 23, 7), (1, 25, 25, 3))
    np.testing.assert_array_equal(postprocess.apply(hole | island, [contours(100)]), hole | large)


def test_borders_of_the_image_are_no_special_case():
    for row, column in [(0, 0), (0, 40), (52, 52), (30, 0)]:
        mask = blocks((1, row, column, 12))
        np.testing.assert_array_equal(postprocess.apply(mask, [contours(100)]), mask)
        assert not postprocess.apply(blocks((1, row, column, 11)), [contours(121)]).any()
    whole = np.ones((20, 30), np.uint8)
    np.testing.assert_array_equal(postprocess.apply(whole, [contours(19 * 29 - 1)]), whole)
    assert not postprocess.apply(whole, [contours(19 * 29)]).any()
    assert not postprocess.apply(0 * whole, [contours(0)]).any()


@given(arrays.arrays(np.uint8, (9, 11), elements=st.integers(0, 1)))
def test_at_area_zero_only_what_encloses_nothing_is_lost(mask):
    kept = postprocess.apply(mask, [contours(0)])
    assert not (kept & ~mask & 1).any()
    for component in flood(mask):
        at = tuple(np.array(list(component)).T)
        # Three pixels of a square of four are the smallest that enclose an area, of one half.
        rows = {(row, column) for row, column in component}
        corner = any(
            sum((row + i, column + j) in rows for i in (0, 1) for j in (0, 1)) >= 3
            for row in range(-1, 9) for column in range(-1, 11)
        )  # fmt: skip
        if corner:
            assert kept[at].all()
        assert len(set(kept[at].tolist())) == 1


def test_the_area_follows_the_size_it_was_chosen_for():
    # 12 x 12 of 64 x 64 is 121 square pixels; the limit of 100 at 128 x 128 is 25 here, at 32 x 64 it is 200.
    mask, small = blocks((1, 5, 5, 12)), blocks((1, 30, 30, 6))
    for size, kept in [(None, mask), (64, mask), (128, mask), ((32, 64), 0 * mask)]:
        np.testing.assert_array_equal(postprocess.apply(mask | small, [contours(100, size)]), kept)
    np.testing.assert_array_equal(postprocess.apply(mask | small, [contours(96, 128)]), mask | small)


@pytest.mark.parametrize("per", ["mask", "component"])
def test_the_given_mask_stays_and_all_foreground_is_no_special_case(per):
    mask = np.ones((3, 4), np.uint8)
    mask.flags.writeable = False
    assert postprocess.apply(mask, [step(12, per)]).all()
    assert not postprocess.apply(mask, [step(13, per)]).any()
    assert mask.all()


def test_contours_leave_the_given_mask_and_follow_other_steps():
    mask = blocks((1, 5, 5, 12), (1, 30, 30, 6))
    mask.flags.writeable = False
    assert postprocess.apply(mask, [contours(100)]).dtype == np.uint8
    assert mask.sum() == 180
    assert not postprocess.apply(mask, [contours(100), step(145)]).any()
    assert postprocess.apply(mask, [step(145), contours(100)]).sum() == 144


def test_steps_follow_one_another_and_none_is_nothing():
    mask = np.array([[1, 1, 0, 1]], np.uint8)
    assert not postprocess.apply(mask, [step(2, "component"), step(3)]).any()
    assert postprocess.apply(mask, [step(3), step(2, "component")]).tolist() == [[1, 1, 0, 0]]
    assert postprocess.apply(mask, []) is mask
