import math
from fractions import Fraction

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stagepipe.errors import RecipeError
from stagepipe.networks.geometry import Geometry
from stagepipe.recipe.model import Pad

BORDERS = {
    "reflect": cv2.BORDER_REFLECT_101,
    "symmetric": cv2.BORDER_REFLECT,
    "edge": cv2.BORDER_REPLICATE,
    "zero": cv2.BORDER_CONSTANT,
}
MODES = st.sampled_from(sorted(BORDERS))
EDGE = st.integers(1, 12)
MORE = st.integers(0, 40)


def pixels(*shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))


@settings(max_examples=60, deadline=None)
@given(height=EDGE, width=EDGE, more_height=MORE, more_width=MORE, mode=MODES)
def test_pad_is_copy_make_border_and_undone_bit_for_bit(height, width, more_height, more_width, mode):
    geometry = Geometry(pad=Pad(to=(height + more_height, width + more_width), mode=mode))
    maps = pixels(2, 3, height, width)
    padded = geometry.apply(maps)
    top, left = more_height // 2, more_width // 2
    expected = cv2.copyMakeBorder(
        np.ascontiguousarray(maps[0].permute(1, 2, 0).numpy()),
        *(top, more_height - top, left, more_width - left),
        BORDERS[mode],
        value=(0, 0, 0),
    )
    assert np.array_equal(padded[0].permute(1, 2, 0).numpy(), expected.reshape(*padded.shape[2:], 3))
    assert torch.equal(geometry.undo(padded.float(), height, width), maps.float())


def test_odd_pixel_goes_to_bottom_and_right():
    geometry = Geometry(pad=Pad(to=(128, 128), mode="zero"))
    padded = geometry.apply(torch.ones(1, 1, 101, 101))
    inside = torch.nonzero(padded[0, 0].sum(1)).ravel()
    assert (inside[0], 127 - inside[-1]) == (13, 14)
    assert geometry.padded_size(101, 101) == (128, 128)


@pytest.mark.parametrize("size", [(192, 192), (202, 150), (40, 37)])
def test_resize_is_opencv_linear(size):
    image = pixels(1, 1, 101, 97)
    resized = Geometry(resize=size).apply(image)[0, 0].numpy()
    expected = cv2.resize(image[0, 0].numpy().astype(np.float32), size[::-1], interpolation=cv2.INTER_LINEAR)
    assert resized.shape == size
    assert np.abs(resized - expected).max() < 5e-3  # of 255: both round the float32 source coordinate


def test_undo_crops_before_it_resizes():
    geometry = Geometry(resize=(192, 192), pad=Pad(to=(224, 224), mode="reflect"))
    ramp = torch.linspace(0, 1, 101).expand(1, 1, 101, 101)
    padded = geometry.apply(ramp)
    assert padded.shape[-2:] == geometry.padded_size(101, 101) == (224, 224)
    restored = geometry.undo(padded, 101, 101)
    expected = cv2.resize(cv2.resize(ramp[0, 0].numpy(), (192, 192)), (101, 101))
    assert np.abs(restored[0, 0].numpy() - expected).max() < 1e-6


def test_masks_of_one_class_are_soft_and_of_several_are_indices():
    square = torch.zeros(1, 20, 20, dtype=torch.uint8)
    square[:, 5:15, 5:15] = 1
    pad = Pad(to=(64, 64), mode="edge")
    soft = Geometry((48, 48), pad).mask(square)
    assert soft.dtype == torch.float32
    assert soft.min() >= 0 and soft.max() <= 1 and ((soft > 0) & (soft < 1)).any()
    classes = Geometry((48, 48), pad, single_class=False).mask(square * 7)
    assert classes.dtype == torch.int64
    assert set(classes.unique().tolist()) == {0, 7}
    assert ((classes == 7) == (soft > 0.5)).all()


def test_a_hard_mask_is_set_above_one_half_before_the_padding():
    square = torch.zeros(1, 20, 20, dtype=torch.uint8)
    square[:, 5:15, 5:15] = 1
    pad = Pad(to=(64, 64), mode="edge")
    hard = Geometry((48, 48), pad, hard_mask=True).mask(square)
    assert hard.dtype == torch.float32 and set(hard.unique().tolist()) == {0, 1}
    assert torch.equal(hard, (Geometry((48, 48), pad).mask(square) > 0.5).float())


@settings(max_examples=30, deadline=None)
@given(old=st.integers(1, 30), new=st.integers(1, 60))
def test_nearest_takes_the_pixel_that_holds_the_centre(old, new):
    mask = torch.arange(old)[None, :, None].expand(1, old, 3).contiguous()
    resized = Geometry((new, 3), single_class=False).mask(mask)
    centres = [math.floor(Fraction(2 * index + 1, 2) * old / new) for index in range(new)]
    assert resized[0, :, 0].tolist() == centres


def test_zero_padding_of_class_masks_can_be_ignored():
    geometry = Geometry(pad=Pad(to=(4, 4), mode="zero"), single_class=False)
    padded = geometry.mask(torch.ones(1, 2, 2, dtype=torch.uint8), fill=255)
    assert padded[0].tolist() == [[255] * 4, [255, 1, 1, 255], [255, 1, 1, 255], [255] * 4]


def test_a_pad_too_small_names_the_sizes_and_the_remedy():
    with pytest.raises(RecipeError, match=r"to \[128, 128\] is smaller .* \[192, 100\].*to: \[192, 128\]"):
        Geometry(resize=(192, 100), pad=Pad(to=(128, 128))).padded_size(101, 101)
