"""The networks of the SIIM-ACR pneumothorax 2019 1st place: counts, decoders against a plain restatement, weights."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import segmentation_models_pytorch as smp
import torch
from segmentation_models_pytorch.encoders import encoders
from segmentation_models_pytorch.encoders._utils import patch_first_conv
from torch import nn
from torch.nn import functional

from stagepipe.errors import RecipeError
from stagepipe.networks import build, validate_names
from stagepipe.networks.blocks import SENETS, ScSE
from stagepipe.networks.segmentation import ARCHITECTURES
from stagepipe.networks.siim_albunet import SiimAlbunet
from stagepipe.networks.siim_unet import SiimUnet
from stagepipe.recipe.model import Network

SE = "se_resnext50_32x4d"
SCSE = {"decoder_channels": [64, 128, 256, 384], "last_channels": 32, "attention": "scse"}
NARROW = {"decoder_channels": [8, 8, 16, 16], "last_channels": 8}
TINY = {
    "albunet": ("siim_albunet", "resnet18", {"filters": 4}),
    "transposed": ("siim_albunet", "resnet18", {"filters": 4, "upsampling": "transposed"}),
    "unet": ("siim_unet", "resnet18", NARROW),
    "gated unet": ("siim_unet", "resnet18", {**NARROW, "attention": "scse"}),
}


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture(params=TINY)
def tiny(request) -> nn.Module:
    return small(request.param)


def small(name: str, in_channels: int = 3, classes: int = 1) -> nn.Module:
    architecture, encoder, arguments = TINY[name]
    return ARCHITECTURES[architecture](encoder, None, in_channels, classes, **arguments)


def recipe(name: str = "gated unet", **keys) -> Network:
    architecture, encoder, arguments = TINY[name]
    entries = {"architecture": architecture, "encoder": encoder, "arguments": arguments, "channels": ["image"] * 3}
    return Network.model_validate({**entries, **keys})


def images(*shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))


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


# -------------------------------------------------------------------------------------------------------- restatement


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


# --------------------------------------------------------------------------------------------------- sizes and modes


@pytest.mark.parametrize(("name", "divisor"), [("albunet", 64), ("transposed", 64), ("unet", 32), ("gated unet", 32)])
def test_logits_have_the_size_of_the_images(name, divisor):
    model = small(name, in_channels=2, classes=3).eval()
    assert (model.divisor, model.requires_divisible_input_shape, model.head_names) == (divisor, True, ())
    with torch.no_grad():
        for size in [(divisor, 3 * divisor), (2 * divisor, divisor)]:
            assert model(torch.randn(1, 2, *size)).shape == (1, 3, *size)


@pytest.mark.parametrize(
    ("name", "size", "pad"),
    [("albunet", 96, 128), ("albunet", 160, 192), ("albunet", 200, 256), ("unet", 48, 64), ("unet", 200, 224)],
)
def test_sizes_that_dont_fit_say_what_to_pad_to(name, size, pad):
    architecture, divisor = ("SiimAlbunet", 64) if name == "albunet" else ("SiimUnet", 32)
    message = (
        rf"{architecture} takes .* divisible by {divisor}, .* {size} x {size} .* `pad: \{{to: \[{pad}, {pad}\]\}}`"
    )
    with pytest.raises(RecipeError, match=message):
        build(recipe(name, resize=size), 1, 1)
    with pytest.raises(RecipeError, match=message):
        build(recipe(name), 1, 1)(images(1, size, size, 1))
    assert build(recipe(name, resize=size, pad={"to": pad}), 1, 1).geometry.padded_size(64, 64) == (pad, pad)


def test_an_image_is_alone_in_evaluation_and_not_in_training(tiny):
    pixels = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        tiny.eval()
        torch.testing.assert_close(tiny(pixels)[:1], tiny(pixels[:1]), atol=1e-5, rtol=1e-4)
        tiny.train()
        together, alone = tiny(pixels)[:1], tiny(torch.cat([pixels[:1], pixels[:1]]))[:1]
    assert (together - alone).abs().max() > 1e-4


def test_channels_last_and_half_precision(tiny):
    tiny.eval()
    pixels = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = tiny(pixels)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            half = tiny(pixels)
        last = tiny.to(memory_format=torch.channels_last)(pixels.contiguous(memory_format=torch.channels_last))
    assert half.dtype == torch.bfloat16
    assert (half.float() - expected).abs().max() < 0.05 * (1 + expected.abs().max())
    torch.testing.assert_close(last, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", TINY)
def test_state_dict_round_trip(name):
    first, second = small(name).eval(), small(name).eval()
    second.load_state_dict(first.state_dict())
    with torch.no_grad():
        assert torch.equal(first(torch.ones(1, 3, 64, 64)), second(torch.ones(1, 3, 64, 64)))


def test_a_frozen_encoder_leaves_the_decoder_to_learn():
    model = build(recipe(), 1, 1)
    model.set_encoder_frozen(True)
    model.train()
    model(images(2, 32, 32, 1)).sum().backward()
    assert all(parameter.grad is None for parameter in model.parts()["encoder"])
    learning = {name.split(".")[0] for name, value in model.module.named_parameters() if value.grad is not None}
    assert learning == {"decoder", "full", "head"}


# ------------------------------------------------------------------------------------------------------------ weights


@pytest.fixture
def shallow(monkeypatch) -> None:
    """The se_resnext50_32x4d with a unit in each layer in place of 16, under the same names: a quarter of the file."""
    monkeypatch.setitem(encoders[SE]["params"], "layers", [1, 1, 1, 1])


def stored(folder: Path, encoder: str = SE) -> dict[str, torch.Tensor]:
    """smp's encoder in a file with its checksum beside it, with the classifier that published files hold too."""
    module = smp.encoders.get_encoder(encoder, weights=None)
    state, width = dict(module.state_dict()), module.out_channels[-1]
    classifier = "last_linear" if encoder in SENETS else "fc"
    path = folder / f"{encoder}.safetensors"
    extra = {f"{classifier}.weight": torch.zeros(1000, width), f"{classifier}.bias": torch.zeros(1000)}
    safetensors.torch.save_file({**state, **extra}, path)
    Path(f"{path}.sha256").write_text(hashlib.sha256(path.read_bytes()).hexdigest())
    return state


@pytest.mark.usefixtures("shallow")
@pytest.mark.parametrize("channels", [["image"] * 3, ["image"], ["image", "row_ramp", "product", "image"]])
def test_imagenet_weights_of_a_se_encoder_from_the_local_folder(channels, tmp_path, monkeypatch):
    state = stored(tmp_path)
    monkeypatch.setenv("STAGEPIPE_WEIGHTS", str(tmp_path))
    model = build(recipe(encoder=SE, weights="imagenet", channels=channels), 1, 1)
    theirs = smp.encoders.get_encoder(SE, weights=None)
    theirs.load_state_dict(dict(state))
    if len(channels) != 3:
        patch_first_conv(theirs, len(channels))
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(model.module.encoder.state_dict()[name], value, msg=name)


@pytest.mark.usefixtures("shallow")
@pytest.mark.parametrize(("name", "encoder"), [("albunet", "resnet18"), ("unet", "resnet18"), ("gated unet", SE)])
def test_a_weights_file_is_loaded_in_full_and_nothing_else(name, encoder, tmp_path):
    state = stored(tmp_path, encoder)
    path = tmp_path / f"{encoder}.safetensors"

    def file() -> dict[str, str]:
        return {"file": str(path), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}

    loaded = build(recipe(name, encoder=encoder, weights=file()), 1, 1).module.encoder.state_dict()
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[key], value) for key, value in state.items())
    del state["layer1.0.conv1.weight"]
    safetensors.torch.save_file(state, path)
    with pytest.raises(RecipeError, match=r"doesn't hold the weights of this encoder (.|\n)*layer1.0.conv1.weight"):
        build(recipe(name, encoder=encoder, weights=file()), 1, 1)


@pytest.mark.usefixtures("shallow")
@pytest.mark.parametrize("encoder", [SE, "resnet18"])
def test_imagenet_weights_are_downloaded_by_smp(encoder, tmp_path, monkeypatch):
    state = stored(tmp_path, encoder)
    asked = []

    def hub(name: str, filename: str, revision: str) -> str:
        asked.append((name, filename, len(revision)))
        return str(tmp_path / f"{encoder}.safetensors")

    monkeypatch.delenv("STAGEPIPE_WEIGHTS", raising=False)
    monkeypatch.setattr(smp.encoders, "hf_hub_download", hub)
    loaded = build(recipe(encoder=encoder, weights="imagenet"), 1, 1).module.encoder.state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in state.items())
    assert asked[-1] == (f"smp-hub/{encoder}.imagenet", "model.safetensors", 40)


@pytest.mark.usefixtures("shallow")
def test_a_failed_download_names_the_repository(monkeypatch):
    def closed(*_, **__):
        raise OSError("no route to host")

    monkeypatch.delenv("STAGEPIPE_WEIGHTS", raising=False)
    monkeypatch.setattr(smp.encoders, "hf_hub_download", closed)
    with pytest.raises(RecipeError, match=rf"smp-hub/{SE}.imagenet into a folder as {SE}.safetensors"):
        build(recipe(encoder=SE, weights="imagenet"), 1, 1)


# -------------------------------------------------------------------------------------------------------------- faults


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"encoder": "resnet34"}, None),
        ({"encoder": "senet154", "weights": "imagenet"}, None),
        ({"encoder": "resnext101_32x8d"}, None),
        ({"encoder": "vgg11"}, r"network.encoder: siim_unet isn't made for vgg11; .*resnet50, .*se_resnext50_32x4d"),
        (
            {"architecture": "siim_albunet", "encoder": SE, "arguments": {}},
            rf"network.encoder: siim_albunet isn't made for {SE}; write one of resnet101, .*resnet34",
        ),
        ({"encoder": "resnext101_32x4d", "weights": "imagenet"}, "resnext101_32x4d has no imagenet weights"),
        ({"architecture": "siim_albunett"}, "siim_albunett is unknown; write one of siim_albunet"),
        ({"arguments": {"atention": "scse"}}, "network.arguments: atention is unknown; write one of attention"),
        ({"arguments": {"in_channels": 3}}, "in_channels can't be set here"),
    ],
)
def test_names_are_checked_without_building(keys, message):
    network = Network.model_validate({"architecture": "siim_unet", "encoder": "resnet50", **keys})
    if message is None:
        validate_names(network)
        return
    with pytest.raises(RecipeError, match=message):
        validate_names(network)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("unet", {"decoder_channels": [8] * 5}, "decoder_channels takes 4 numbers, from stride 2 to 16, not 5"),
        ("unet", {"attention": "se"}, "attention is none or scse, not 'se'"),
        ("albunet", {"upsampling": "nearest"}, "upsampling is bilinear or transposed, not 'nearest'"),
    ],
)
def test_arguments_that_dont_work_are_named(name, arguments, message):
    with pytest.raises(RecipeError, match=rf"network.arguments: siim_{name} with encoder resnet18 .*{message}"):
        build(recipe(name, arguments=arguments), 1, 1)
