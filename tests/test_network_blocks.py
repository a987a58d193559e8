import pytest
import torch
from segmentation_models_pytorch.base.modules import SCSEModule
from torch import nn
from torch.nn import functional

from stagepipe.networks.blocks import (
    DeepSupervisionHead,
    FeaturePyramidAttention,
    GlobalAttentionUpsample,
    GlobalConvolution,
    ScSE,
    hypercolumn,
    resize_to,
)

ODD = [(16, 16), (7, 7), (5, 9), (1, 2)]


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


# ----------------------------------------------------------------------------------------------------------------- scSE


def test_scse_by_hand():
    block = ScSE(2, reduction=2)
    for parameter, values in (
        (block.channel[1].weight, [[1.0, 2.0]]),  # 2 channels -> 1: mean 2 + 2 * 1 + 0.5
        (block.channel[1].bias, [0.5]),
        (block.channel[3].weight, [[1.0], [-1.0]]),
        (block.channel[3].bias, [0.0, 1.0]),
        (block.spatial.weight, [[0.5, -1.0]]),
    ):
        parameter.data = torch.tensor(values).view_as(parameter)
    maps = torch.tensor([[[[0.0, 4.0]], [[2.0, 0.0]]]])  # means 2 and 1
    channel = torch.tensor([4.5, 1 - 4.5]).sigmoid().view(1, 2, 1, 1)
    spatial = torch.tensor([0.5 * 0 - 2, 0.5 * 4 - 0]).sigmoid().view(1, 1, 1, 2)
    torch.testing.assert_close(block.gate(maps), channel + spatial)
    torch.testing.assert_close(block(maps), maps * channel + maps * spatial)


def test_scse_is_that_of_smp():
    theirs = SCSEModule(32, reduction=16)
    ours = ScSE(32, reduction=16, spatial_bias=True)
    names = {"channel.1": "cSE.1", "channel.3": "cSE.3", "spatial": "sSE.0"}
    state = theirs.state_dict()
    ours.load_state_dict(
        {f"{our}.{kind}": state[f"{their}.{kind}"] for our, their in names.items() for kind in ("weight", "bias")}
    )
    maps = torch.randn(2, 32, 5, 6)
    torch.testing.assert_close(ours(maps), theirs(maps))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        # channel gate 64 -> 16 -> 64 with biases, spatial gate 64 -> 1 without
        ({"reduction": 4}, 64 * 16 + 16 + 16 * 64 + 64 + 64),
        ({"reduction": 16}, 644),
        (
            {"reduction": 2, "spatial_gate": "channels", "spatial_bias": True},
            64 * 32 + 32 + 32 * 64 + 64 + 64 * 64 + 64,
        ),
        ({"reduction": 1000}, 64 + 1 + 64 + 64 + 64),
    ],
)
def test_scse_parameters(arguments, expected):
    block = ScSE(64, **arguments)
    assert count(block) == expected
    maps = torch.randn(1, 64, 3, 5)
    assert block(maps).shape == block.gate(maps).shape == maps.shape


def test_a_spatial_gate_per_channel_is_its_own_convolution():
    block = ScSE(4, reduction=2, spatial_gate="channels", spatial_bias=True)
    maps = torch.randn(1, 4, 3, 3)
    spatial = functional.conv2d(maps, block.spatial.weight, block.spatial.bias).sigmoid()
    assert spatial.shape == maps.shape
    torch.testing.assert_close(block(maps), maps * block.channel(maps).sigmoid() + maps * spatial)
    with pytest.raises(ValueError, match="spatial_gate is single or channels, not 'double'"):
        ScSE(4, reduction=2, spatial_gate="double")  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------------------ attention


def test_feature_pyramid_attention_has_the_published_parameters():
    convolutions = (
        512 * 512 * 25  # down to a half
        + 512 * 512 * 9  # down to a quarter
        + 512 * 256 * 9
        + 512 * 256 * 25
        + 512 * 256  # pixels
        + 512 * 256  # image
    )
    norms = 2 * (512 + 512 + 256 + 256 + 256)
    found = count(FeaturePyramidAttention(512, 256, 512))
    assert found == convolutions + norms == 13_635_072
    assert round(found / 1e6, 2) == 13.64


@pytest.mark.parametrize("size", ODD)
def test_feature_pyramid_attention_takes_any_size(size):
    block = FeaturePyramidAttention(6, 4, 8).eval()
    assert block(torch.randn(2, 6, *size)).shape == (2, 4, *size)


def test_feature_pyramid_attention_is_the_formula():
    block = FeaturePyramidAttention(6, 4, 8).eval()
    maps = torch.randn(2, 6, 16, 16)

    def level(part, inputs, stride=1):
        convolution, norm, _ = part
        assert convolution.bias is None
        outputs = functional.conv2d(inputs, convolution.weight, stride=stride, padding=convolution.kernel_size[0] // 2)
        return functional.elu(norm(outputs))

    def twice(inputs):
        return functional.interpolate(inputs, scale_factor=2, mode="bilinear", align_corners=True)

    half = level(block.down5, maps, stride=2)
    quarter = level(block.down3, half, stride=2)
    assert (half.shape[-1], quarter.shape[-1]) == (8, 4)
    pyramid = twice(twice(level(block.level3, quarter)) + level(block.level5, half))
    image = functional.conv2d(maps.mean((2, 3), keepdim=True), block.image[1].weight)
    torch.testing.assert_close(block(maps), level(block.pixel, maps) * pyramid + image)


@pytest.mark.parametrize("size", ODD)
def test_global_convolution_is_a_sum_of_dense_windows(size):
    block = GlobalConvolution(3, 2, 5)
    maps = torch.randn(2, 3, *size)
    assert count(block) == 2 * (3 * 2 * 5 + 2 * 2 * 5)
    # k x 1 then 1 x k is one k x k kernel: sum over the channel in between of column times row
    tall, wide = (part.weight for part in block.tall_wide)
    kernel = torch.einsum("mikz,omzl->oikl", tall, wide)
    wide, tall = (part.weight for part in block.wide_tall)
    kernel = kernel + torch.einsum("mizl,omkz->oikl", wide, tall)
    torch.testing.assert_close(block(maps), functional.conv2d(maps, kernel, padding=2))


def test_global_convolution_takes_odd_kernels_only():
    with pytest.raises(ValueError, match="odd kernel size only, not 6"):
        GlobalConvolution(3, 2, 6)


@pytest.mark.parametrize(("low", "high"), [((16, 16), (8, 8)), ((15, 9), (8, 5)), ((3, 3), (3, 3)), ((2, 1), (1, 1))])
def test_global_attention_gates_the_shallow_map_by_the_deep_one(low, high):
    block = GlobalAttentionUpsample(6, 4, 3, reduction=2).eval()
    shallow, deep = torch.randn(2, 6, *low), torch.randn(2, 4, *high)
    up = functional.interpolate(deep, size=low, mode="bilinear", align_corners=True)
    found = block(shallow, deep)
    assert found.shape == (2, 4, *low)
    torch.testing.assert_close(found, up + block.low(shallow) * block.scse.gate(up))
    assert not torch.equal(found, block(shallow, deep * 2))


# ---------------------------------------------------------------------------------------------------- heads and columns


def test_hypercolumn_keeps_order_and_aligns_corners():
    large, small = torch.zeros(1, 2, 1, 5), torch.tensor([[[[1.0, 3.0, 2.0]]]])
    found = hypercolumn([large, small])
    torch.testing.assert_close(found[0, :, 0], torch.tensor([[0.0] * 5, [0.0] * 5, [1.0, 2.0, 3.0, 2.5, 2.0]]))
    assert resize_to(large, large) is large


def test_deep_supervision_head_by_its_parts():
    head = DeepSupervisionHead(6, 5, 4, classes=1, dropout=0.5).eval()
    pixels, image = torch.randn(2, 6, 7, 9), torch.randn(2, 5, 3, 2)
    found = head.heads(pixels, image)
    assert {name: tuple(value.shape) for name, value in found.items()} == {
        "logits": (2, 1, 7, 9),
        "nonempty": (2, 1, 7, 9),
        "empty": (2, 1, 1, 1),
    }
    assert {*found} == {"logits", *head.names}
    linear = head.image[2]
    whole = functional.elu(image.mean((2, 3)) @ linear.weight[:, :, 0, 0].T + linear.bias)
    torch.testing.assert_close(found["empty"].flatten(), whole @ head.empty.weight.flatten() + head.empty.bias)
    pixel = head.pixel(pixels)
    torch.testing.assert_close(found["nonempty"], functional.conv2d(pixel, head.nonempty.weight))
    together = torch.cat([pixel, whole[:, :, None, None].expand(-1, -1, 7, 9)], dim=1)
    torch.testing.assert_close(found["logits"], head.logits(together))
    assert torch.equal(head(pixels, image), found["logits"])


def test_deep_supervision_head_forward_leaves_the_other_heads_out():
    head = DeepSupervisionHead(6, 5, 4, classes=1, dropout=0.0)
    head(torch.randn(2, 6, 7, 9), torch.randn(2, 5, 3, 2)).sum().backward()
    unused = {name.split(".")[0] for name, parameter in head.named_parameters() if parameter.grad is None}
    assert unused == {"nonempty", "empty"}
