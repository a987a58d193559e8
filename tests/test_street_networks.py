"""The networks of the Signate street scenes 2018: counts of the published table, maps against a plain restatement."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from stagepipe.errors import RecipeError
from stagepipe.networks import build, validate_names
from stagepipe.networks.street_unet import StreetUnet
from stagepipe.networks.street_wide_unet import StreetWideUnet
from stagepipe.recipe.model import Network

WIDE38 = {"blocks": [3, 3, 6, 3], "channels": [[128, 128], [256, 256], [512, 512], [512, 1024]]}
SMALL = {"blocks": [1, 2, 1, 2], "channels": [[6, 8], [8, 8], [10, 12], [12, 16]], "filters": 2}


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def images(*shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))


def on_paper(architecture: type[nn.Module], encoder: str | None, **arguments) -> nn.Module:
    """Shapes without memory."""
    with torch.device("meta"):
        return architecture(encoder, None, **arguments)


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def shaken(module: nn.Module) -> nn.Module:
    """With statistics and biases that are no zeros and ones, in evaluation mode."""
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            for values in (layer.weight.data, layer.bias.data, layer.running_mean, layer.running_var):
                values.uniform_(0.5, 1.5)
    return module.eval()


def watched(model: nn.Module, layers: list[nn.Module], pixels: torch.Tensor) -> list[torch.Tensor]:
    """Outputs of some layers, then of the model."""
    seen: list[torch.Tensor] = []
    hooks = [layer.register_forward_hook(lambda *arguments: seen.append(arguments[2].clone())) for layer in layers]
    with torch.no_grad():
        seen.append(model(pixels))
    for hook in hooks:
        hook.remove()
    return seen


# ------------------------------------------------------------------------------------------------------ U-Net on ResNet


@pytest.mark.parametrize(
    ("encoder", "classifier", "total"),
    [
        ("resnet18", 513_000, 25.01),
        ("resnet34", 513_000, 35.12),
        ("resnet50", 2_049_000, 57.68),
        ("resnet101", 2_049_000, 76.67),
    ],
)
def test_unet_has_the_published_parameters(encoder, classifier, total):
    model = on_paper(StreetUnet, encoder, classes=5)
    assert round((count(model) + classifier) / 1e6, 2) == total


def test_decoders_have_the_published_parameters():
    nearest = on_paper(StreetUnet, "resnet34", classes=5)
    transposed = on_paper(StreetUnet, "resnet34", classes=5, upsampling="transposed")
    assert round(count(nearest.encoder) / 1e6, 2) == round(count(transposed.encoder) / 1e6, 2) == 21.28
    blocks = [(512, 512, 256), (768, 512, 256), (512, 512, 256), (384, 256, 64), (128, 128, 128), (128, 128, 32)]
    first = sum(9 * before * between + between for before, between, _ in blocks)
    second = sum(9 * between * after + after for _, between, after in blocks)
    fourfold = sum(16 * between * after + after for _, between, after in blocks)
    head = 9 * 32 * 32 + 32 + 32 * 5 + 5
    assert count(nearest) - count(nearest.encoder) == first + second + head == 13_320_357
    assert count(transposed) - count(transposed.encoder) == first + fourfold + head == 16_330_917
    gated = on_paper(StreetUnet, "resnet34", classes=5, attention="scse")
    # scSE: C / 16 values between two 1x1 convolutions, and one 1x1 convolution without a bias
    gates = sum(2 * c * (c // 16) + c // 16 + c + c for c in (256, 256, 64, 128, 32))
    assert count(gated) - count(nearest) == gates


@pytest.mark.parametrize("upsampling", ["nearest", "transposed"])
@pytest.mark.parametrize("attention", ["none", "scse"])
def test_unet_is_the_published_table(upsampling, attention):
    model = shaken(StreetUnet("resnet18", None, 3, 5, filters=4, upsampling=upsampling, attention=attention))
    encoder = model.encoder
    weights = iter(value for name, value in model.named_parameters() if not name.startswith("encoder."))

    def convolved(maps):
        return functional.conv2d(maps, next(weights), next(weights), padding=1).relu()

    def block(maps):
        if upsampling == "nearest":
            return convolved(convolved(maps.repeat_interleave(2, 2).repeat_interleave(2, 3)))
        maps = convolved(maps)
        return functional.conv_transpose2d(maps, next(weights), next(weights), stride=2, padding=1).relu()

    def gated(maps):
        if attention == "none":
            return maps
        inner = functional.conv2d(maps.mean((2, 3), keepdim=True), next(weights), next(weights)).relu()
        channel = functional.conv2d(inner, next(weights), next(weights)).sigmoid()
        return maps * channel + maps * functional.conv2d(maps, next(weights)).sigmoid()

    pixels = torch.randn(1, 3, 64, 128)
    with torch.no_grad():
        stem = encoder.bn1(encoder.conv1(pixels)).relu()
        skips = [functional.max_pool2d(stem, 3, 2, 1)]
        for layer in (encoder.layer1, encoder.layer2, encoder.layer3, encoder.layer4):
            skips.append(layer(skips[-1]))
        expected = [block(functional.max_pool2d(skips[4], 2))]
        expected += [gated(block(torch.cat([expected[-1], skips[4]], 1)))]
        expected += [gated(block(torch.cat([expected[-1], skips[3]], 1)))]
        expected += [gated(block(torch.cat([expected[-1], skips[2]], 1)))]
        expected += [gated(block(torch.cat([expected[-1], skips[1]], 1)))]
        expected += [gated(block(expected[-1]))]
        expected += [functional.conv2d(convolved(expected[-1]), next(weights), next(weights))]
    assert next(weights, None) is None
    found = watched(model, [model.centre, *model.decoder, model.full], pixels)
    strides, channels = [32, 16, 8, 4, 2, 1, 1], [32, 32, 32, 8, 16, 4, 5]
    for ours, theirs, stride, width in zip(found, expected, strides, channels, strict=True):
        assert theirs.shape == (1, width, 64 // stride, 128 // stride)
        torch.testing.assert_close(ours, theirs, atol=1e-5 * theirs.abs().max().item(), rtol=1e-4)


# --------------------------------------------------------------------------------------------------------- TernausNetV2


def test_wide_unet_has_the_published_parameters():
    model = on_paper(StreetWideUnet, None, classes=5)
    assert count(model) == 25_120_837
    assert round(count(on_paper(StreetWideUnet, None, classes=20)) / 1e6, 1) == 25.1
    # modules 1 to 5: convolutions without biases, two numbers per channel of a normalisation
    unit = [(64, 128), (128, 256), (256, 384), (384, 512), (512, 512), (512, 512)]
    convolutions = sum(9 * before * after + 9 * after * after for before, after in unit)
    projections = sum(before * after for before, after in unit if before != after)
    normalisations = sum(2 * (before + after) for before, after in unit)
    assert count(model.encoder) == 9 * 3 * 64 + convolutions + projections + normalisations


def test_the_standard_wide_encoder_can_be_written():
    encoder = on_paper(StreetWideUnet, None, **WIDE38).encoder
    assert encoder.out_channels == [64, 128, 256, 512, 1024]
    assert [sum(hasattr(unit, "convolutions") for unit in layer) for layer in encoder.layers] == [3, 3, 6, 3]


def test_wide_unet_is_the_published_table():
    model = shaken(StreetWideUnet(None, None, 3, 4, **SMALL))
    weights = iter(model.state_dict().values())

    def activated(maps):
        weight, bias, mean, variance, _ = (next(weights) for _ in range(5))
        normed = functional.batch_norm(maps, mean, variance, weight, bias)
        return torch.where(normed > 0, normed, 0.01 * normed)

    def residual(maps, projected):
        active = activated(maps)
        inner = functional.conv2d(active, next(weights), padding=1)
        inner = functional.conv2d(activated(inner), next(weights), padding=1)
        return inner + (functional.conv2d(active, next(weights)) if projected else maps)

    def convolved(maps):
        return functional.conv2d(maps, next(weights), next(weights), padding=1).relu()

    def block(maps):
        return convolved(convolved(maps.repeat_interleave(2, 2).repeat_interleave(2, 3)))

    pixels = torch.randn(2, 3, 64, 32)
    with torch.no_grad():
        modules = [functional.conv2d(pixels, next(weights), padding=1)]
        for units, changes in ((1, True), (2, False), (1, True), (2, True)):
            maps = functional.max_pool2d(modules[-1], 2)
            for index in range(units):
                maps = residual(maps, changes and index == 0)
            modules.append(maps)
        decoded = [block(functional.max_pool2d(modules[4], 2))]
        for skip in (4, 3, 2, 1):
            decoded.append(block(torch.cat([decoded[-1], modules[skip]], 1)))
        decoded.append(convolved(torch.cat([decoded[-1], modules[0]], 1)))
        decoded.append(functional.conv2d(decoded[-1], next(weights), next(weights)))
    assert next(weights, None) is None
    found = watched(
        model, [model.encoder.stem, *model.encoder.layers, model.centre, *model.decoder, model.full], pixels
    )
    strides = [1, 2, 4, 8, 16, 16, 8, 4, 2, 1, 1, 1]
    channels = [64, 8, 8, 12, 16, 16, 16, 16, 12, 4, 2, 4]
    for ours, theirs, stride, width in zip(found, modules + decoded, strides, channels, strict=True):
        assert theirs.shape == (2, width, 64 // stride, 32 // stride)
        torch.testing.assert_close(ours, theirs, atol=1e-5 * theirs.abs().max().item(), rtol=1e-4)


def test_dropout_takes_whole_channels_of_the_last_two_modules():
    model = StreetWideUnet(None, None, 3, 1, **SMALL, dropout=0.5)
    drops = [module for module in model.modules() if isinstance(module, nn.Dropout2d)]
    layers = [[m for m in layer.modules() if isinstance(m, nn.Dropout2d)] for layer in model.encoder.layers]
    assert [len(found) for found in layers] == [0, 0, 1, 2] and len(drops) == 3
    dropped = watched(model, drops, torch.randn(8, 3, 32, 32))[0]
    gone = (dropped == 0).flatten(2)
    assert torch.equal(gone.any(2), gone.all(2)) and 0.2 < gone.float().mean() < 0.8
    assert not watched(model.eval(), drops, torch.randn(8, 3, 32, 32))[0].eq(0).any()


# ------------------------------------------------------------------------------------------------------- what both take


@pytest.mark.parametrize(
    ("keys", "divisor", "size"),
    [
        ({"architecture": "street_unet", "arguments": {"filters": 2}}, 64, (64, 128)),
        ({"architecture": "street_wide_unet", "encoder": None, "arguments": SMALL}, 32, (32, 96)),
        # full frames of 1216 x 1984 are 19 x 31 times 64
        ({"architecture": "linknet"}, 32, (19 * 4, 31 * 4)),
        ({"architecture": "unet", "arguments": {"decoder_attention_type": "scse"}}, 1, (19 * 4, 31 * 4)),
    ],
)
def test_twenty_classes_of_colour_images(keys, divisor, size):
    network = Network.model_validate({"encoder": "resnet18", "normalise": "imagenet", **keys})
    model = build(network, 20, 3).eval()
    assert model.divisor == divisor
    fitting = [-(-edge // divisor) * divisor for edge in size]
    with torch.inference_mode():
        logits = model(images(1, *fitting, 3))
        assert logits.shape == (1, 20, *fitting)
        torch.testing.assert_close(model.restored(logits, *fitting).sum(1), torch.ones(1, *fitting))
    model.train()
    model(images(2, *fitting, 3)).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parts()["encoder"])


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"encoder": None}, None),
        ({"encoder": None, "weights": {"file": "wide.safetensors", "sha256": "0" * 64}}, None),
        ({}, "network.encoder: street_wide_unet has its own .found resnet34.; write `encoder: null`"),
        ({"encoder": None, "weights": "imagenet"}, "encoder of street_wide_unet has no imagenet weights"),
        ({"encoder": None, "arguments": {"block": [1]}}, "network.arguments: block is unknown; write one of blocks"),
        ({"architecture": "street_unet", "encoder": None}, "network.encoder: street_unet needs one; .* `encoder: resn"),
        ({"architecture": "unet", "encoder": None}, "network.encoder: unet needs one"),
        ({"architecture": "street_unet", "encoder": "vgg11"}, "street_unet isn't made for vgg11; .*resnet152"),
        *(({"architecture": "street_unet", "encoder": f"resnet{depth}"}, None) for depth in (18, 34, 50, 101, 152)),
    ],
)
def test_an_encoder_is_null_where_there_is_no_choice(keys, message):
    network = Network.model_validate({"architecture": "street_wide_unet", **keys})
    if message is None:
        validate_names(network)
        return
    with pytest.raises(RecipeError, match=message):
        validate_names(network)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"arguments": {"blocks": [1, 1, 1, 1, 3]}}, "null refuses .*modules 2 to 5, 4 each, not 5 and 4"),
        ({"arguments": {"blocks": [1, 0, 1, 1]}}, "a module has at least 1 block, not 0"),
        ({"architecture": "street_unet", "encoder": "resnet18", "arguments": {"upsampling": "bilinear"}},
         "upsampling is nearest or transposed, not 'bilinear'"),
        ({"architecture": "street_unet", "encoder": "resnet18", "arguments": {"attention": "se"}},
         "attention is none or scse, not 'se'"),
    ],
)  # fmt: skip
def test_arguments_that_dont_work_are_named(keys, message):
    network = Network.model_validate({"architecture": "street_wide_unet", "encoder": None, **keys})
    with pytest.raises(RecipeError, match=message):
        build(network, 2, 3)
