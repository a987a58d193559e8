"""The networks of the SIIM-ACR pneumothorax 2019 1st place: counts, and layers against a plain restatement."""

from collections.abc import Iterator

import pytest
import torch
from siim_example import NARROW, SE, TINY, fewer_units, small
from torch import nn
from torch.nn import functional

from stagepipe.networks.blocks import ScSE
from stagepipe.networks.siim_albunet import SiimAlbunet
from stagepipe.networks.siim_unet import SiimUnet

SCSE = {"decoder_channels": [64, 128, 256, 384], "last_channels": 32, "attention": "scse"}


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture(params=TINY)
def tiny(request) -> nn.Module:
    return small(request.param)


@pytest.fixture
def shallow(monkeypatch) -> None:
    fewer_units(monkeypatch)


# ----------------------------------------------------------------------------------------------------------- parameters

# torchvision's numbers less those of the classifiers
RESNET34 = 21_797_672 - (512 * 1000 + 1000)
RESNET50 = 25_557_032 - (2048 * 1000 + 1000)
RESNEXT50 = 25_028_904 - (2048 * 1000 + 1000)


def conv(inputs: int, outputs: int, kernel: int = 3, bias: bool = True) -> int:
    return inputs * outputs * kernel**2 + outputs * bias


def squeeze(channels: int, reduction: int) -> int:
    return conv(channels, channels // reduction, 1) + conv(channels // reduction, channels, 1)


def published(architecture: type[nn.Module], encoder: str, **arguments) -> nn.Module:
    """Sizes without memory."""
    with torch.device("meta"):
        return architecture(encoder, None, **arguments)


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_albunet_has_the_published_parameters():
    blocks = [(512, 512, 256), (768, 512, 256), (512, 512, 256), (384, 256, 64), (128, 128, 128), (128, 128, 32)]
    decoder = sum(conv(before, between) + conv(between, after) for before, between, after in blocks)
    found = count(published(SiimAlbunet, "resnet34"))
    assert found == RESNET34 + decoder + conv(32, 32) + conv(32, 1, 1) == 34_604_897
    assert found + 512 * 1000 + 1000 == 35_117_897
    transposed = sum(conv(before, between) + conv(between, after, 4) for before, between, after in blocks)
    found = count(published(SiimAlbunet, "resnet34", upsampling="transposed"))
    assert found == RESNET34 + transposed + conv(32, 32) + conv(32, 1, 1)


def test_resnet50_unet_has_the_published_parameters():
    up = conv(2048, 256) + conv(256, 256) + conv(256, 128) + conv(128, 64) + conv(64, 64)
    merge = conv(256 + 1024, 256) + conv(256 + 512, 256) + conv(128 + 256, 128) + conv(64 + 64, 64)
    assert count(published(SiimUnet, "resnet50")) == RESNET50 + up + merge + conv(64, 1, 1) == 34_458_177


def test_scse_unet_has_the_published_parameters():
    stages = ((3, 256), (4, 512), (6, 1024), (3, 2048))
    encoder = RESNEXT50 + sum(units * squeeze(channels, 16) for units, channels in stages)
    up = conv(2048, 384) + conv(384, 256) + conv(256, 128) + conv(128, 64) + conv(64, 32)
    merge = conv(384 + 1024, 384) + conv(256 + 512, 256) + conv(128 + 256, 128) + conv(64 + 64, 64)
    gates = sum(squeeze(channels, 2) + channels for channels in (384, 256, 128, 64))
    model = published(SiimUnet, SE, **SCSE)
    assert count(model.encoder) == encoder
    assert count(model) == encoder + up + merge + gates + conv(32, 1, 1) == 41_249_489


def test_decoders_have_biases_and_no_normalisation(tiny):
    decoder = [module for name, module in tiny.named_modules() if not name.startswith("encoder")]
    assert not any(isinstance(module, nn.BatchNorm2d | nn.Dropout2d) for module in decoder)
    bare = [layer for layer in decoder if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d) and layer.bias is None]
    assert bare == [module.spatial for module in decoder if isinstance(module, ScSE)]


def test_every_parameter_learns(tiny):
    tiny(torch.randn(4, 3, 64, 64)).square().sum().backward()
    assert all(value.grad is not None for value in tiny.parameters())
    still = {name for name, value in tiny.named_parameters() if not value.grad.any()}
    assert still == set()


def test_random_weights_are_as_published():
    unet = SiimUnet("resnet18", None, decoder_channels=[64] * 4, attention="scse")
    decoder = [(name, value) for name, value in unet.named_parameters() if not name.startswith("encoder.")]
    assert not any(value.any() for name, value in decoder if name.endswith("bias"))
    for name, value in decoder:
        if name.endswith("weight") and value.numel() > 4000:  # Kaiming: 2 by the number of inputs of an output
            assert value.std().item() == pytest.approx((2 / value[0].numel()) ** 0.5, rel=0.05), name
    albunet = SiimAlbunet("resnet18", None, filters=8)
    weight = albunet.decoder[0][1][0].weight  # torch's default: uniform within 1 / sqrt of that number
    assert weight.abs().max().item() == pytest.approx(weight[0].numel() ** -0.5, rel=0.01)


# ---------------------------------------------------------------------------------------------------------- restatement


def watched(model: nn.Module, parts: list[nn.Module], pixels: torch.Tensor) -> list[torch.Tensor]:
    """Outputs of the parts, and of the model at the end."""
    seen: list[torch.Tensor] = []
    for part in [*parts, model]:
        part.register_forward_hook(lambda *arguments: seen.append(arguments[2].clone()))
    with torch.no_grad():
        model(pixels)
    return seen


def decoder_weights(model: nn.Module) -> Iterator[torch.Tensor]:
    """Kernel, bias, kernel, bias in the order of the published table."""
    state = model.state_dict()
    return iter([value.clone() for name, value in state.items() if not name.startswith("encoder.")])


def batch_norm(norm: nn.BatchNorm2d, maps: torch.Tensor) -> torch.Tensor:
    return functional.batch_norm(maps, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)


def shaken(model: nn.Module) -> nn.Module:
    """Statistics and biases other than zero and one, so that leaving one out shows."""
    for name, value in model.state_dict().items():
        if name.endswith(("running_var", "bn1.weight")):
            value.uniform_(0.5, 1.5)
        elif name.endswith(("running_mean", "bias")):
            value.uniform_(-0.2, 0.2)
    return model.eval()


@pytest.mark.parametrize("size", [(64, 64), (64, 128)])
@pytest.mark.parametrize("upsampling", ["bilinear", "transposed"])
def test_albunet_is_the_published_table(upsampling, size):
    model = shaken(SiimAlbunet("resnet18", None, filters=4, upsampling=upsampling))
    weights = decoder_weights(model)

    def convolved(maps):
        return functional.relu(functional.conv2d(maps, next(weights), next(weights), padding=1))

    def block(maps):
        if upsampling == "bilinear":
            maps = functional.interpolate(maps, scale_factor=2, mode="bilinear", align_corners=False)
            return convolved(convolved(maps))
        maps = convolved(maps)
        return functional.relu(functional.conv_transpose2d(maps, next(weights), next(weights), stride=2, padding=1))

    pixels, encoder = torch.randn(2, 3, *size), model.encoder
    with torch.no_grad():
        stem = functional.conv2d(pixels, encoder.conv1.weight, stride=2, padding=3)
        conv1 = functional.max_pool2d(functional.relu(batch_norm(encoder.bn1, stem)), 2, 2)
        conv2 = encoder.layer1(conv1)
        conv3 = encoder.layer2(conv2)
        conv4 = encoder.layer3(conv3)
        conv5 = encoder.layer4(conv4)
        centre = block(functional.max_pool2d(conv5, 2, 2))
        dec5 = block(torch.cat([centre, conv5], 1))
        dec4 = block(torch.cat([dec5, conv4], 1))
        dec3 = block(torch.cat([dec4, conv3], 1))
        dec2 = block(torch.cat([dec3, conv2], 1))
        dec1 = block(dec2)
        dec0 = convolved(dec1)
        final = functional.conv2d(dec0, next(weights), next(weights))
    assert next(weights, None) is None
    expected = [conv2, conv3, conv4, conv5, centre, dec5, dec4, dec3, dec2, dec1, dec0, final]
    layers = [encoder.layer1, encoder.layer2, encoder.layer3, encoder.layer4]
    found = watched(model, [*layers, model.centre, *model.decoder, model.full, model.head[0]], pixels)
    strides = [4, 8, 16, 32, 32, 16, 8, 4, 2, 1, 1, 1]
    channels = [64, 128, 256, 512, 32, 32, 32, 8, 16, 4, 4, 1]
    for ours, theirs, stride, width in zip(found, expected, strides, channels, strict=True):
        assert theirs.shape == (2, width, size[0] // stride, size[1] // stride)
        assert theirs.std() > 1e-3
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("encoder", "attention"), [("resnet18", "none"), ("resnet18", "scse"), ("resnet50", "none"), (SE, "scse")]
)
def test_unet_is_the_published_table(encoder, attention):
    model = shaken(SiimUnet(encoder, None, decoder_channels=[8, 12, 16, 20], last_channels=6, attention=attention))
    weights = decoder_weights(model)

    def convolved(maps):
        return functional.relu(functional.conv2d(maps, next(weights), next(weights), padding=1))

    def up(maps):
        return convolved(maps.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3))

    def merge(decoded, encoded):
        maps = convolved(torch.cat([decoded, encoded], 1))
        if attention == "none":
            return maps
        squeezed = functional.conv2d(maps.mean((2, 3), keepdim=True), next(weights), next(weights))
        channel = functional.conv2d(functional.relu(squeezed), next(weights), next(weights)).sigmoid()
        spatial = functional.conv2d(maps, next(weights)).sigmoid()
        return torch.max(channel * maps, maps * spatial)

    pixels = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        _, stride2, stride4, stride8, stride16, maps = model.encoder(pixels)
        expected = [maps := merge(up(maps), skip) for skip in (stride16, stride8, stride4, stride2)]
        expected.append(up(expected[-1]))
        expected.append(functional.conv2d(expected[-1], next(weights), next(weights)))
    assert next(weights, None) is None
    found = watched(model, [*model.decoder, model.full], pixels)
    for ours, theirs, stride, width in zip(found, expected, [16, 8, 4, 2, 1, 1], [20, 16, 12, 8, 6, 1], strict=True):
        assert theirs.shape == (1, width, 64 // stride, 96 // stride)
        assert theirs.std() > 1e-3
        torch.testing.assert_close(ours, theirs, atol=1e-5 * theirs.abs().max().item(), rtol=1e-5)


@pytest.mark.usefixtures("shallow")
@pytest.mark.parametrize("size", [(64, 96), (70, 90), (62, 34)])
def test_the_pooling_of_se_encoders_has_no_padding_and_a_ceiling(size):
    """Windows begin at 0, 2, 4, ...; one that begins inside counts. torchvision's begin at -1, 1, 3, ..."""
    model = SiimUnet(SE, None, **NARROW).eval()
    seen: list[torch.Tensor] = []
    model.encoder.layer0.register_forward_hook(lambda *arguments: seen.append(arguments[2].clone()))
    model.encoder.layer1.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0].clone()))
    with torch.no_grad():
        model.encoder(torch.randn(1, 3, *size))
    stem, pooled = (maps[0] for maps in seen)
    rows, columns = (range(0, edge - 1, 2) for edge in stem.shape[1:])
    expected = torch.stack([torch.stack([stem[:, y : y + 3, x : x + 3].amax((1, 2)) for x in columns]) for y in rows])
    assert torch.equal(pooled, expected.permute(2, 0, 1))
    assert stem.shape[1:] == (size[0] // 2, size[1] // 2)


def test_the_larger_gated_map_by_hand():
    block = ScSE(2, reduction=2, combined="max")
    for parameter, values in (
        (block.channel[1].weight, [[1.0, 2.0]]),  # 2 channels -> 1: mean 1 + 2 * 1 + 0.5
        (block.channel[1].bias, [0.5]),
        (block.channel[3].weight, [[1.0], [-1.0]]),
        (block.channel[3].bias, [0.0, 1.0]),
        (block.spatial.weight, [[0.5, -1.0]]),
    ):
        parameter.data = torch.tensor(values).view_as(parameter)
    maps = torch.tensor([[[[-2.0, 4.0]], [[2.0, 0.0]]]])  # means 1 and 1
    # gates of the channels sigmoid(3.5), sigmoid(-2.5), of the pixels sigmoid(-3), sigmoid(2): 0.97, 0.08, 0.05, 0.88
    assert block.channel(maps).flatten().tolist() == pytest.approx([3.5, -2.5])
    assert block.spatial(maps).flatten().tolist() == pytest.approx([-3.0, 2.0])
    expected = [[-2 * 0.04742587, 4 * 0.97068777], [2 * 0.07585818, 0.0]]
    torch.testing.assert_close(block(maps)[0, :, 0], torch.tensor(expected))
    torch.testing.assert_close(block.gate(maps), block.channel(maps).sigmoid() + block.spatial(maps).sigmoid())
