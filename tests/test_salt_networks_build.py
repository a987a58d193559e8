"""Own architectures through the builder: weights, freezing, and the messages of what does not fit."""

import hashlib
from pathlib import Path

import pytest
import safetensors.torch
import segmentation_models_pytorch as smp
import torch
from salt_example import EVERY, TINY_HYPERCOLUMN, images, network

from stagepipe.errors import RecipeError
from stagepipe.networks import build, segmentation, validate_names
from stagepipe.networks.salt_unet import SaltUnet
from stagepipe.recipe.model import Network


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


# ---------------------------------------------------------------------------------------------------------------- build


def weights_file(folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """A state dict of smp's resnet18, and what a recipe writes to have it from a file."""
    state = smp.encoders.get_encoder("resnet18", weights=None).state_dict()
    path = folder / "resnet18.safetensors"
    safetensors.torch.save_file(state, path)
    return state, {"file": str(path), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


@pytest.mark.parametrize("name", EVERY)
def test_build_with_a_weights_file(name, tmp_path):
    state, file = weights_file(tmp_path)
    model = build(network(*EVERY[name], weights=file, pad={"to": 32}), 1, 1)
    for key, value in model.module.encoder.state_dict().items():
        assert torch.equal(value, state[key]), key
    raw = images(2, 30, 17, 1)
    with torch.no_grad():
        heads = model.eval().heads(raw)
        assert torch.equal(model(raw), heads["logits"])
    assert heads["logits"].shape == (2, 1, 32, 32)
    assert set(heads) == {"logits", *model.head_names}
    assert model.divisor == {"stage 3": 16, "attention": 1}.get(name, 32)


def test_a_replaced_stem_leaves_only_its_own_weight_unused(tmp_path):
    state, _ = weights_file(tmp_path)
    del state["bn1.weight"]
    path = tmp_path / "part.safetensors"
    safetensors.torch.save_file(state, path)
    file = {"file": str(path), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    with pytest.raises(RecipeError, match=r"doesn't hold the weights of this encoder (.|\n)*bn1.weight"):
        build(network(*EVERY["stage 3"], weights=file), 1, 1)
    safetensors.torch.save_file({**weights_file(tmp_path)[0], "conv9.weight": torch.zeros(1)}, path)
    file["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(RecipeError, match=r"doesn't hold the weights of this encoder (.|\n)*conv9.weight"):
        build(network(*EVERY["stage 3"], weights=file), 1, 1)


@pytest.mark.parametrize("channels", [["image"], ["image", "row_ramp", "product", "image"]])
def test_weights_from_the_local_folder_and_other_numbers_of_channels(channels, tmp_path, monkeypatch):
    state, file = weights_file(tmp_path)
    monkeypatch.setenv("STAGEPIPE_WEIGHTS", str(tmp_path))
    (tmp_path / "resnet18.safetensors.sha256").write_text(file["sha256"])
    model = build(network(*EVERY["stage 1"], weights="imagenet", channels=channels), 1, 1)
    assert model.module.encoder.conv1.in_channels == len(channels)
    pretrained = state["conv1.weight"]
    expected = pretrained.sum(1, keepdim=True) if len(channels) == 1 else pretrained[:, [0, 1, 2, 0]] * 3 / 4
    torch.testing.assert_close(model.module.encoder.conv1.weight, expected)
    replaced = build(network(*EVERY["stage 3"], weights="imagenet", channels=channels), 1, 1)
    assert replaced.module.stem.in_channels == len(channels)
    assert torch.equal(replaced.module.encoder.bn1.weight, state["bn1.weight"])


def test_a_download_goes_through_smp(monkeypatch):
    def closed(*_, **__):
        raise OSError("no route to host")

    monkeypatch.delenv("STAGEPIPE_WEIGHTS", raising=False)
    monkeypatch.setattr(smp.encoders, "hf_hub_download", closed)
    for name in ("unet", "stage 3", "attention"):
        wanted = network(*EVERY[name], weights="imagenet")
        with pytest.raises(RecipeError, match=r"smp-hub/resnet18.imagenet.* STAGEPIPE_WEIGHTS"):
            build(wanted, 1, 1)
        build(wanted, 1, 1, pretrained=False)


def test_a_frozen_encoder_leaves_gates_and_stem_to_learn():
    model = build(network(*EVERY["stage 3"]), 1, 1)
    model.set_encoder_frozen(True)
    model.train()
    model(images(2, 32, 32, 1)).sum().backward()
    assert all(parameter.grad is None for parameter in model.parts()["encoder"])
    learning = {name.split(".")[0] for name, value in model.module.named_parameters() if value.grad is not None}
    assert learning == {"stem", "gates", "centre", "decoder", "head"}
    assert sum(map(len, model.parts().values())) == len(list(model.parameters()))


def test_smps_networks_have_logits_alone():
    model = build(network("unet", {"decoder_channels": [8] * 5}), 1, 1).eval()
    assert model.head_names == ()
    with torch.no_grad():
        heads = model.heads(images(1, 32, 32, 1))
        assert torch.equal(heads["logits"], model(images(1, 32, 32, 1)))
    assert set(heads) == {"logits"}


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"architecture": "salt_unett"}, "network.architecture: salt_unett is unknown; write one of salt_unet"),
        ({"encoder": "se_resnet50"}, r"network.encoder: salt_unet isn't made for se_resnet50; write one of .*resnet34"),
        ({"encoder": "tu-resnet18"}, "network.encoder: salt_unet isn't made for tu-resnet18; write one of resnet101"),
        ({"encoder": "resnext101_32x4d", "weights": "imagenet"}, "resnext101_32x4d has no imagenet weights"),
        (
            {"arguments": {"decoder_chanels": 8}},
            "network.arguments: decoder_chanels is unknown; write .*decoder_channels",
        ),
        ({"arguments": {"classes": 8}}, "classes can't be set here"),
    ],
)
def test_names_are_checked_without_building(keys, message, monkeypatch):
    monkeypatch.setattr(segmentation, "_create", None)
    with pytest.raises(RecipeError, match=message):
        validate_names(Network.model_validate({"architecture": "salt_unet", "encoder": "resnet18", **keys}))


@pytest.mark.parametrize(
    ("architecture", "arguments", "message"),
    [
        ("salt_unet", {"decoder_channels": [8, 8]}, "decoder_channels takes 5 numbers, one per block, not 2"),
        ("salt_unet", {"spatial_gate": "none"}, "spatial_gate is single or channels, not 'none'"),
        ("salt_hypercolumn", {"stem": "conv7x7"}, "stem is encoder or conv3x3, not 'conv7x7'"),
        ("salt_hypercolumn", {"stem": "conv3x3"}, "write full_resolution: false"),
        ("salt_hypercolumn", {**TINY_HYPERCOLUMN, "decoder_channels": 7}, "write an even number, not 7"),
        ("salt_attention", {"kernel_size": 8}, "odd kernel size only, not 8"),
        ("salt_attention", {"dropout": 2}, "dropout probability"),
    ],
)
def test_arguments_that_dont_work_are_named(architecture, arguments, message):
    with pytest.raises(RecipeError, match=rf"network.arguments: {architecture} with encoder resnet18 .*{message}"):
        build(network(architecture, arguments), 1, 1)


def test_encoders_that_dont_fit_are_refused_by_the_class_too():
    with pytest.raises(ValueError, match=r"encoder vgg11 is none of resnet101, .*resnet34"):
        SaltUnet("vgg11", None)


def test_sizes_that_dont_fit_say_what_to_pad_to():
    message = r"SaltHypercolumn takes .* divisible by 16, the input is 101 x 96 .* write `pad: \{to: \[112, 96\]\}`"
    model = build(network(*EVERY["stage 3"]), 1, 1)
    with pytest.raises(RecipeError, match=message):
        model.heads(images(1, 101, 96, 1))
    build(network(*EVERY["attention"]), 1, 1).check_size(101, 96)
