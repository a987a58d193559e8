"""Random windows of training images, and the augmentation lists that came with them."""

import math
import pickle
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from stagepipe.augment import Augmentation, CropAndResize
from stagepipe.augmentation_lists import STREET, TGS_15TH
from stagepipe.crops import RandomWindow
from stagepipe.errors import RecipeError
from stagepipe.recipe.model import Transform
from stagepipe.seeding import key

RNG = np.random.default_rng(0)
PIXELS = np.arange(60 * 90, dtype=np.int64).reshape(60, 90)
IMAGE = np.stack([PIXELS // 256, PIXELS % 256, PIXELS * 0], axis=2).astype(np.uint8)
"""every pixel tells where it is"""


def place(image: np.ndarray) -> tuple[int, int]:
    """Where the first pixel of a window of IMAGE was."""
    return divmod(int(image[0, 0, 0]) * 256 + int(image[0, 0, 1]), 90)


def rare(ignored: int | None = None) -> np.ndarray:
    """A mask of class 0 with five pixels of class 3, one of class 7 and perhaps a large part to be ignored."""
    mask = np.zeros((60, 90), np.uint8)
    mask[2, 3:8], mask[59, 89] = 3, 7
    if ignored is not None:
        mask[20:50] = ignored
    return mask


# ------------------------------------------------------------------------------------------------------------- windows


@given(st.integers(1, 60), st.integers(1, 90), st.sampled_from([0.0, 0.5, 1.0]), st.integers(0, 2**62))
def test_a_window_is_the_same_part_of_image_and_mask(height, width, class_aware, seed):
    mask = RNG.integers(0, 9, (60, 90), dtype=np.uint8)
    window, part = Augmentation("none", RandomWindow(height, width, class_aware)).apply(IMAGE, mask, seed)
    top, left = place(window)
    assert np.array_equal(window, IMAGE[top : top + height, left : left + width])
    assert np.array_equal(part, mask[top : top + height, left : left + width])
    assert part.shape == (height, width)


def test_windows_lie_anywhere_each_place_as_likely():
    window = RandomWindow(58, 87)
    count = 4800
    places = Counter(window.place(rare(), np.random.default_rng(index)) for index in range(count))
    assert set(places) == {(top, left) for top in range(3) for left in range(4)}
    expected = count / 12
    assert sum((found - expected) ** 2 / expected for found in places.values()) < 31.3  # chi2, 11 degrees, p = 0.001


def test_the_share_of_windows_that_hold_a_class_is_that_of_the_recipe():
    mask, count = rare(), 3000
    held = dict.fromkeys((3, 7), 0)
    for index in range(count):
        _, part = RandomWindow(12, 12, 0.75).cut(IMAGE, mask, np.random.default_rng(index))
        for sought in held:
            held[sought] += bool((part == sought).any())
    # A third of the class-aware windows is for each of the three classes; of the others few hold a rare one.
    by_chance = {3: 3 * 15 / (49 * 79), 7: 1 / (49 * 79)}
    for sought, found in held.items():
        expected = 0.25 + 0.75 * by_chance[sought]
        assert found / count == pytest.approx(expected, abs=4 * math.sqrt(0.25 * 0.75 / count) + 0.002)


def test_the_pixel_sought_may_lie_anywhere_in_its_window():
    mask = np.zeros((60, 90), np.uint8)
    mask[30, 40] = 1
    window = RandomWindow(4, 5, 1.0)
    found = Counter()
    for index in range(2000):
        top, left = window.place(mask, np.random.default_rng(index))
        if 0 <= 30 - top < 4 and 0 <= 40 - left < 5:
            found[30 - top, 40 - left] += 1
    assert set(found) == {(row, column) for row in range(4) for column in range(5)}
    assert sum(found.values()) == pytest.approx(1000, abs=100)  # the other half seeks class 0
    assert max(found.values()) < 2 * min(found.values())


@pytest.mark.parametrize("ignored", [9, 255])
def test_what_is_ignored_is_never_sought(ignored):
    mask = np.full((60, 90), ignored, np.uint8)
    mask[0, 0] = 1
    window = RandomWindow(5, 5, 1.0, ignored)
    assert {window.place(mask, np.random.default_rng(index)) for index in range(50)} == {(0, 0)}
    mask[0, 0] = ignored
    assert len({window.place(mask, np.random.default_rng(index)) for index in range(50)}) > 30


def test_a_window_as_large_as_the_image_is_the_image():
    for index in range(20):
        image, mask = RandomWindow(60, 90, 0.5).cut(IMAGE, rare(), np.random.default_rng(index))
        assert np.array_equal(image, IMAGE) and np.array_equal(mask, rare())


def test_a_window_larger_than_the_image_is_named():
    message = r"phase.crop: size \[64, 32\] is larger than an image, 60 x 90; write a size that fits"
    with pytest.raises(RecipeError, match=message):
        Augmentation("none", RandomWindow(64, 32)).apply(IMAGE, rare(), 0)


def test_windows_are_cut_before_the_transforms_and_drawn_by_the_key():
    augmentation = Augmentation([Transform(name="VerticalFlip", arguments={"p": 1})], RandomWindow(20, 30, 0.5))
    alone = Augmentation("none", augmentation.crop)
    again = pickle.loads(pickle.dumps(augmentation))
    seen = set()
    for index in range(30):
        image, mask = augmentation.apply(IMAGE, rare(), key("crop", index))
        uncut, _ = alone.apply(IMAGE, rare(), key("crop", index))
        assert np.array_equal(image, uncut[::-1])
        assert np.array_equal(again.apply(IMAGE, rare(), key("crop", index))[1], mask)
        seen.add(image.tobytes())
    assert len(seen) > 15  # the window that holds the only pixel of class 7 comes often


# --------------------------------------------------------------------------------------------------------- tgs_15th

TILE = RNG.integers(0, 256, (101, 101, 1), dtype=np.uint8)
SALT = (RNG.random((101, 101)) > 0.5).astype(np.uint8)


def only(index: int) -> Augmentation:
    """One transform of the list, always applied."""
    transform = TGS_15TH[index]
    return Augmentation([Transform(name=transform.name, arguments={**transform.arguments, "p": 1})])


def test_the_list_is_flip_translation_and_crop_at_the_published_odds():
    assert [(transform.name, transform.arguments["p"]) for transform in TGS_15TH] == [
        ("HorizontalFlip", 0.25), ("Affine", 0.5), ("CropAndResize", 0.5),
    ]  # fmt: skip
    augmentation = Augmentation("tgs_15th")
    applied = []
    for index in range(2000):
        augmentation.apply(TILE, SALT, key("odds", index))
        applied.append([bool(transform.params) for transform in augmentation._compose.transforms])
    assert np.mean(applied, axis=0) == pytest.approx([0.25, 0.5, 0.5], abs=0.04)


def test_street_is_a_flip():
    assert [(transform.name, transform.arguments) for transform in STREET] == [("HorizontalFlip", {"p": 0.5})]


def test_translations_are_whole_pixels_with_a_reflected_border():
    augmentation, shifts = only(1), []
    padded = [np.pad(pixels, 20, mode="reflect") for pixels in (TILE[..., 0], SALT)]
    for index in range(1500):
        image, mask = augmentation.apply(TILE, SALT, key("shift", index))
        matrix = augmentation._compose.transforms[0].params["matrix"]
        dx, dy = (int(matrix[axis, 2]) for axis in (0, 1))
        shifts.append((dx, dy))
        rows, columns = slice(20 - dy, 121 - dy), slice(20 - dx, 121 - dx)
        if index < 200:
            assert np.array_equal(image[..., 0], padded[0][rows, columns])
            assert np.array_equal(mask, padded[1][rows, columns])
    for axis in np.array(shifts).T:
        assert set(axis) == set(range(-20, 21))
        assert np.bincount(axis + 20).std() < 1.6 * math.sqrt(1500 / 41)
    assert abs(np.corrcoef(np.array(shifts).T)[0, 1]) < 0.1


def test_windows_are_resized_as_pillow_does_it():
    augmentation = only(2)
    sides, places = [], []
    for index in range(400):
        image, mask = augmentation.apply(TILE, SALT, key("window", index))
        top, bottom, left, right = augmentation._compose.transforms[0].params["cuts"]
        side = 101 - top - bottom
        assert side == 101 - left - right
        sides.append(side)
        places.append((top, left))
        box = (left, top, left + side, top + side)
        whole = Image.fromarray(TILE[..., 0]).crop(box).resize((101, 101), Image.Resampling.BILINEAR)
        assert np.abs(image[..., 0].astype(int) - np.asarray(whole)).max() <= 1
        nearest = Image.fromarray(SALT).crop(box).resize((101, 101), Image.Resampling.NEAREST)
        assert np.array_equal(mask, np.asarray(nearest))
    assert (min(sides), max(sides)) == (81, 101)
    # area fraction uniform in 0.64..1: mean 0.82, standard deviation 0.36 / sqrt(12)
    areas = (np.array(sides) / 101) ** 2
    assert areas.mean() == pytest.approx(0.82, abs=0.02)
    assert areas.std() == pytest.approx(0.36 / math.sqrt(12), abs=0.01)
    ends = [place == 101 - side for side, where in zip(sides, places, strict=True) for place in where if side < 101]
    assert 0.02 < np.mean(ends) < 0.2


@pytest.mark.parametrize("area", [(0.0, 1.0), (0.9, 0.5), (0.5, 1.2)])
def test_areas_that_are_no_shares_are_refused(area):
    with pytest.raises(ValueError, match="not two shares"):
        CropAndResize(area)
    with pytest.raises(RecipeError, match=r"augment\[0\]: CropAndResize refuses"):
        Augmentation([Transform(name="CropAndResize", arguments={"area": list(area)})])
