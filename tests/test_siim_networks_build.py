"""The networks of the SIIM-ACR pneumothorax 2019 1st place through the builder: sizes, modes, weights, faults."""

import hashlib
from pathlib import Path

import pytest
import safetensors.torch
import segmentation_models_pytorch as smp
import torch
from precision import check_formats
from segmentation_models_pytorch.encoders._utils import patch_first_conv
from siim_example import SE, TINY, fewer_units, images, recipe, small
from torch import nn

from stagepipe.errors import RecipeError
from stagepipe.networks import build, validate_names
from stagepipe.networks.blocks import SENETS
from stagepipe.recipe.model import Network


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture(params=TINY)
def tiny(request) -> nn.Module:
    return small(request.param)


@pytest.fixture
def shallow(monkeypatch) -> None:
    fewer_units(monkeypatch)


# ------------------------------------------------------------------------------------------------------ sizes and modes


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
    check_formats(tiny, torch.randn(2, 3, 64, 64))


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


# -------------------------------------------------------------------------------------------------------------- weights


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


# --------------------------------------------------------------------------------------------------------------- faults


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
