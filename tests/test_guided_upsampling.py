import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from stagepipe.networks.guided_upsampling import GuidedUpsampling, UpsampledConvolution, interpolation, moved


def plain(maps, weight, size):
    """Resize, then convolve, as published."""
    return F.conv2d(F.interpolate(maps, size=size, mode="bilinear", align_corners=True), weight, padding=2, dilation=2)


@settings(max_examples=20, deadline=None)
@given(st.tuples(*[st.integers(1, 9)] * 2), st.tuples(*[st.integers(1, 40)] * 2), st.integers(0, 10**6))
def test_the_convolution_of_a_resized_map(small, large, seed):
    torch.manual_seed(seed)
    ours = UpsampledConvolution(3, 4).double()
    maps = torch.randn(2, 3, *small, dtype=torch.float64, requires_grad=True)
    expected, found = plain(maps, ours.weight, large), ours(maps, large)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    inputs, direction = (maps, ours.weight), torch.randn_like(expected)
    for own, reference in zip(
        torch.autograd.grad(found, inputs, direction), torch.autograd.grad(expected, inputs, direction), strict=True
    ):
        torch.testing.assert_close(own, reference, rtol=1e-9, atol=1e-9)


def test_the_published_size_in_single_precision():
    torch.manual_seed(0)
    ours = UpsampledConvolution(128, 128)
    maps = torch.randn(1, 128, 17, 17)
    torch.testing.assert_close(ours(maps, (129, 129)), plain(maps, ours.weight, (129, 129)), rtol=1e-4, atol=1e-5)


def test_its_weights_are_those_of_a_convolution():
    convolution = torch.nn.Conv2d(5, 7, 3, padding=2, dilation=2, bias=False)
    ours = UpsampledConvolution(5, 7)
    ours.load_state_dict(convolution.state_dict())
    maps = torch.randn(2, 5, 4, 6)
    resized = F.interpolate(maps, size=(25, 41), mode="bilinear", align_corners=True)
    torch.testing.assert_close(ours(maps, (25, 41)), convolution(resized), rtol=1e-4, atol=1e-5)


def test_the_matrix_resizes_an_axis():
    values = torch.randn(2, 3, 5)
    expected = F.interpolate(values, size=17, mode="linear", align_corners=True)
    torch.testing.assert_close(values @ interpolation(5, 17, values.device).T, expected)


def test_without_offsets_it_is_a_bilinear_resize():
    maps = torch.randn(2, 3, 17, 17)
    expected = F.interpolate(maps, size=(129, 129), mode="bilinear", align_corners=True)
    found = moved(maps, torch.zeros(2, 2, 129, 129))
    assert (found - expected).abs().max() < 1e-5
    regular = F.affine_grid(torch.eye(2, 3).repeat(2, 1, 1), (2, 3, 129, 129), align_corners=True)
    other = F.grid_sample(maps, regular, align_corners=False)
    assert (other - expected).abs().max() > 0.1  # what the other reading of corners would give


@pytest.mark.parametrize(("channel", "axis"), [(0, 3), (1, 2)])
def test_offsets_are_in_output_pixels_x_before_y(channel, axis):
    maps = torch.randn(1, 2, 9, 9)
    offsets = torch.zeros(1, 2, 33, 33)
    offsets[:, channel] = 3
    still, shifted = moved(maps, torch.zeros_like(offsets)), moved(maps, offsets)
    kept = 33 - 3
    torch.testing.assert_close(shifted.narrow(axis, 0, kept), still.narrow(axis, 3, kept), rtol=1e-4, atol=1e-5)
    # what is read well outside the map is 0
    offsets[:, channel] = 40
    assert not moved(maps, offsets).any()


def published(module, maps, guidance):
    """Step by step, all of it at the full size, which is 33."""
    up = F.interpolate(maps, size=(33, 33), mode="bilinear", align_corners=True)
    resized = module.resized_norm(F.conv2d(up, module.resized.weight, padding=2, dilation=2))
    offsets = module.offsets(F.relu(module.guidance(guidance) + resized)).permute(0, 2, 3, 1) / 16
    axis = torch.arange(33) / 32 * 2 - 1
    grid = torch.stack([axis.expand(33, 33), axis[:, None].expand(33, 33)], dim=2) + offsets
    return module.projection(F.grid_sample(maps, grid, align_corners=True))


def test_the_module_restates_the_published_steps():
    """Training: batch statistics, the gradients of all parameters and of both inputs; the places are far from 0."""
    torch.manual_seed(0)
    module = GuidedUpsampling(16, 6, 4).double()
    module.offsets[2][1].weight.data.fill_(9)
    maps, guidance = (torch.randn(2, *shape).double().requires_grad_() for shape in ((16, 5, 5), (6, 33, 33)))
    expected, found = published(module, maps, guidance), module(maps, guidance)
    assert found.shape == (2, 4, 33, 33)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    inputs = (maps, guidance, *module.parameters())
    direction = torch.randn_like(found)
    for own, reference in zip(
        torch.autograd.grad(found, inputs, direction), torch.autograd.grad(expected, inputs, direction), strict=True
    ):
        torch.testing.assert_close(own, reference, rtol=1e-8, atol=1e-8)


def test_half_precision_reads_the_right_places():
    """Positions in bfloat16 would be off by half a pixel of 129."""
    maps = torch.randn(1, 2, 17, 17)
    offsets = torch.randn(1, 2, 129, 129)
    exact = moved(maps, offsets.bfloat16().float())
    torch.testing.assert_close(moved(maps, offsets.bfloat16()), exact)
