"""Run-length codes."""

import csv
import random

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from stagepipe import rle

MASKS = arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=12), elements=st.integers(0, 1))
INDEX_MASKS = arrays(
    np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=12), elements=st.sampled_from([0, 1, 7, 255])
)


def encode_slowly(mask: np.ndarray) -> str:
    """Pixel by pixel, as a reader of the competition's page would write it."""
    runs, previous = [], -2
    for position in np.flatnonzero(mask.flatten(order="F")):
        if position > previous + 1:
            runs.extend([position + 1, 0])
        runs[-1] += 1
        previous = position
    return " ".join(map(str, runs))


def decode_relative_slowly(text: str, height: int, width: int) -> np.ndarray:
    """Run by run, as the competition's page gives it: rows are columns until the transpose at the end."""
    flat, position = np.zeros(height * width, np.uint8), 0
    numbers = [] if text == "-1" else [int(number) for number in text.split()]
    for offset, length in zip(numbers[::2], numbers[1::2], strict=True):
        position += offset
        flat[position : position + length] = 1
        position += length
    return flat.reshape(width, height).T


@given(MASKS)
def test_decode_inverts_encode(mask):
    decoded = rle.decode(rle.encode(mask), *mask.shape)
    assert decoded.dtype == np.uint8
    assert decoded.flags.c_contiguous
    np.testing.assert_array_equal(decoded, mask)


@given(MASKS)
def test_encode_agrees_with_a_loop_over_pixels(mask):
    assert rle.encode(mask) == encode_slowly(mask)
    assert rle.encode(mask.astype(bool)) == encode_slowly(mask)
    assert rle.encode(np.asfortranarray(mask) * np.uint8(255)) == encode_slowly(mask)


def test_hand_worked_texts():
    mask = np.array([[0, 1, 1], [1, 1, 0], [0, 0, 1]], np.uint8)
    assert rle.encode(mask) == "2 1 4 2 7 1 9 1"
    assert rle.encode(np.zeros((4, 5))) == ""
    assert rle.encode(np.ones((4, 5))) == "1 20"
    assert rle.encode(np.array([[0, 0], [0, 1]])) == "4 1"
    np.testing.assert_array_equal(rle.decode("1 2 3 1", 2, 2), [[1, 1], [1, 0]])  # touching runs are one
    np.testing.assert_array_equal(rle.decode(" ", 2, 3), np.zeros((2, 3)))


def test_tall_mask_is_decoded_across_blocks():
    mask = np.random.default_rng(0).integers(0, 2, (70, 101), dtype=np.uint8)
    np.testing.assert_array_equal(rle.decode(rle.encode(mask), 70, 101), mask)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 2 3", "odd count of numbers, 3"),
        ("1 two", "'two' is not a number"),
        ("1.0 2", "'1.0' is not a number"),
        ("1_0 2", "'1_0' is not a number"),
        ("+1 2", "'+1' is not a number"),
        ("1 " + "9" * 5000, "is not a number"),
        ("0 2", '"0 2", starts before the first pixel'),
        ("-1 2", '"-1 2", starts before the first pixel'),
        ("1 1 3 0", 'run 2, "3 0", has no pixel'),
        ("1 3 3 2", 'run 2, "3 2", starts before the run ahead of it ends'),
        ("5 1 1 1", 'run 2, "1 1", starts before the run ahead of it ends'),
        ("9 2", '"9 2", leaves the image; expected it to end at pixel 9'),
        ("1 99999999999999999999", "leaves the image"),
        (float("nan"), "nan is not text"),
    ],
)
def test_broken_texts_are_refused(text, message):
    with pytest.raises(ValueError, match=r"^rle: ") as error:
        rle.decode(text, 3, 3)
    assert message in str(error.value)


# ----------------------------------------------------------------------------------------------------- the SIIM dialect


@given(MASKS)
def test_relative_texts_round_trip_and_agree_with_a_loop_over_runs(mask):
    text = rle.encode_relative(mask)
    decoded = rle.decode_relative(text, *mask.shape)
    assert decoded.dtype == np.uint8 and decoded.flags.c_contiguous
    np.testing.assert_array_equal(decoded, mask)
    np.testing.assert_array_equal(decode_relative_slowly(text, *mask.shape), mask)
    assert rle.encode_relative(np.asfortranarray(mask) * np.uint8(255)) == text == rle.encode_relative(mask > 0)


@given(MASKS)
def test_both_dialects_name_the_same_runs(mask):
    absolute, position = [], 0
    numbers = [int(number) for number in rle.encode_relative(mask).split()] if mask.any() else []
    for offset, length in zip(numbers[::2], numbers[1::2], strict=True):
        absolute += [position + offset + 1, length]
        position += offset + length
    assert " ".join(map(str, absolute)) == rle.encode(mask)


def test_relative_texts_worked_by_hand():
    mask = np.zeros((4, 4), np.uint8)
    mask[1:3, 0] = mask[0, 1] = mask[2, 2] = 1
    assert rle.encode_relative(mask) == "1 2 1 1 5 1"
    mask[:, 0] = 1
    assert rle.encode_relative(mask) == "0 5 5 1"  # one run over the border of two columns
    assert rle.encode_relative(np.ones((4, 5))) == "0 20"  # still open at the last pixel
    assert rle.encode_relative(np.array([[0, 0], [0, 1]])) == "3 1"
    assert rle.encode_relative(np.zeros((4, 5))) == "-1"
    for empty in ("-1", " -1", "-1\n"):
        np.testing.assert_array_equal(rle.decode_relative(empty, 2, 3), np.zeros((2, 3)))
    np.testing.assert_array_equal(rle.decode_relative(" 1 1 0 1  0 1", 2, 3), [[0, 1, 0], [1, 1, 0]])  # runs that touch


def test_texts_of_one_image_are_united():
    united = rle.unite_relative(["0 3", "2 2", " -1"], 2, 3)
    np.testing.assert_array_equal(united, [[1, 1, 0], [1, 1, 0]])
    assert united.dtype == np.uint8 and united.flags.c_contiguous
    np.testing.assert_array_equal(rle.unite_relative([], 2, 3), np.zeros((2, 3)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the text is empty"),
        ("  ", "the text is empty"),
        ("1 2 3", "odd count of numbers, 3"),
        ("-1 -1 2", "odd count of numbers, 3"),
        ("1 two", "'two' is not a number"),
        ("1.0 2", "'1.0' is not a number"),
        ("-1 2", 'run 1, "-1 2", goes back'),
        ("1 1 -1 2", 'run 2, "-1 2", goes back'),
        ("1 1 3 0", 'run 2, "3 0", has no pixel'),
        ("1 1 3 -1", 'run 2, "3 -1", has no pixel'),
        ("4 6", 'run 1, "4 6", leaves the image; expected all runs to end within 9 pixels'),
        ("4 4 1 1", 'run 2, "1 1", leaves the image'),
        ("99999999999999999999 1", "leaves the image"),
        ("1 99999999999999999999 1 1", 'run 1, "1 99999999999999999999", leaves the image'),
        (float("nan"), "nan is not text"),
    ],
)
def test_broken_relative_texts_are_refused(text, message):
    with pytest.raises(ValueError, match=r"^rle: ") as error:
        rle.unite_relative(["0 1", text], 3, 3)
    assert message in str(error.value)


# ------------------------------------------------------------------------------------------------- runs of index masks


@given(INDEX_MASKS)
def test_runs_of_index_masks_round_trip(mask):
    lengths, values = rle.encode_runs(mask)
    assert (lengths.dtype, values.dtype) == (np.int32, np.uint8)
    assert (values[1:] != values[:-1]).all()
    np.testing.assert_array_equal(rle.decode_runs(lengths, values, *mask.shape), mask)
    np.testing.assert_array_equal(rle.decode_runs(lengths.tolist(), values.tolist(), *mask.shape), mask)


def test_runs_hand_worked():
    lengths, values = rle.encode_runs(np.array([[3, 3], [3, 0]], np.uint8))
    assert (lengths.tolist(), values.tolist()) == ([3, 1], [3, 0])


@pytest.mark.parametrize(
    ("lengths", "values", "message"),
    [
        ([4], [1, 2], "1 lengths and 2 values"),
        ([5, -1], [1, 2], "a length is -1"),
        ([1, 2], [1, 2], "3 pixels; expected 4 for an image of 2 x 2"),
    ],
)
def test_broken_runs_are_refused(lengths, values, message):
    with pytest.raises(ValueError, match=message):
        rle.decode_runs(lengths, values, 2, 2)


def test_images_are_no_masks():
    for function in (rle.encode, rle.encode_relative, rle.encode_runs):
        with pytest.raises(ValueError, match=r"shape \(2, 2, 3\)"):
            function(np.zeros((2, 2, 3), np.uint8))


def test_published_labels_equal_their_masks(real_data):
    with (real_data / "tgs" / "train.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["rle_mask"]]
    for row in random.Random(0).sample(rows, 50):
        mask = cv2.imread(str(real_data / "tgs" / "train" / "masks" / f"{row['id']}.png"), cv2.IMREAD_UNCHANGED)
        mask = (mask if mask.ndim == 2 else mask[..., 0]) > 0
        np.testing.assert_array_equal(rle.decode(row["rle_mask"], 101, 101), mask)
        assert rle.encode(mask) == row["rle_mask"]
