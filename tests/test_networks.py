import hashlib

import numpy as np
import pytest
import safetensors.torch
import segmentation_models_pytorch as smp
import torch
from segmentation_models_pytorch.encoders._utils import patch_first_conv

from stagepipe.errors import RecipeError
from stagepipe.networks import Geometry, SegmentationNetwork, build, segmentation, validate_names
from stagepipe.networks.inputs import InputChannels
from stagepipe.recipe.model import Network, Normalise, Pad

SMALL = {"encoder": "resnet18", "arguments": {"decoder_channels": [16, 16, 8, 8, 8]}}


def network(**keys) -> Network:
    return Network.model_validate({**SMALL, **keys})


def images(*shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))


@pytest.mark.parametrize(
    ("keys", "outputs", "stored", "size", "expected"),
    [
        (
            {"pad": {"to": 128, "mode": "edge"}, "channels": ["image", "row_ramp", "product"]},
            1,
            1,
            (101, 101),
            (128, 128),
        ),
        ({"resize": [48, 80], "pad": {"to": [64, 96]}, "normalise": "imagenet"}, 4, 3, (37, 61), (64, 96)),
        ({}, 1, 1, (101, 101), (101, 101)),  # Unet takes any size
        ({"architecture": "fpn", "arguments": {}, "resize": 64}, 2, 1, (20, 30), (64, 64)),
    ],
)
def test_logits_on_the_padded_grid_and_back(keys, outputs, stored, size, expected):
    model = build(network(**keys), outputs, stored).eval()
    with torch.inference_mode():
        logits = model(images(2, *size, stored))
    assert logits.shape == (2, outputs, *expected)
    assert model.geometry.padded_size(*size) == expected
    assert model.geometry.undo(logits, *size).shape == (2, outputs, *size)


def test_the_forward_is_that_of_smp_on_prepared_inputs():
    model = build(network(normalise={"mean": [0.5], "std": [0.25]}, pad={"to": 64, "mode": "zero"}), 1, 3).eval()
    plain = smp.create_model("unet", "resnet18", None, 3, 1, decoder_channels=[16, 16, 8, 8, 8]).eval()
    plain.load_state_dict(model.module.state_dict())
    raw = images(2, 64, 64, 3)
    with torch.inference_mode():
        expected = plain((raw.permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.25)
        torch.testing.assert_close(model(raw), expected, atol=1e-4, rtol=1e-4)


def test_a_phase_can_change_the_input_size_but_not_the_weights():
    model = network(resize=64)
    small = build(model, 1, 1, phase_resize=(32, 32), phase_pad=Pad(to=(64, 32)))
    assert small.geometry.padded_size(101, 101) == (64, 32)
    build(model, 1, 1).module.load_state_dict(small.module.state_dict())


def test_input_channels_by_hand():
    pixels = torch.tensor([[0, 255], [51, 102], [255, 0]], dtype=torch.uint8)[None, None]
    inputs = InputChannels(["image", "row_ramp", "product"], Normalise(mean=[0.5], std=[0.5]), 1)
    found = inputs(pixels)
    assert inputs.count == 3
    torch.testing.assert_close(found[0, 0], torch.tensor([[-1.0, 1.0], [-0.6, -0.2], [1.0, -1.0]]))
    torch.testing.assert_close(found[0, 1], torch.tensor([[0.0, 0.0], [0.5, 0.5], [1.0, 1.0]]))
    torch.testing.assert_close(found[0, 2], torch.tensor([[0.0, 0.0], [0.1, 0.2], [1.0, 0.0]]))


def test_copies_of_a_gray_image_may_have_a_normalisation_each():
    pixels = torch.full((1, 1, 2, 2), 255, dtype=torch.uint8)
    own = InputChannels(["image", "row_ramp", "image"], Normalise(mean=[0.5, 0.25], std=[0.5, 0.75]), 1)
    assert own(pixels)[0, :, 0, 0].tolist() == [1, 0, 1]
    imagenet = InputChannels(["image"] * 3, "imagenet", 1)
    expected = [(1 - mean) / std for mean, std in zip([0.485, 0.456, 0.406], [0.229, 0.224, 0.225], strict=True)]
    assert imagenet(pixels)[0, :, 0, 0].tolist() == pytest.approx(expected)
    with pytest.raises(RecipeError, match="mean has 2 numbers, the stored images have 1 channels; write 1 or 3 numb"):
        InputChannels(["image"] * 3, Normalise(mean=[0.1, 0.2]), 1)


def test_imagenet_normalisation_of_gray_takes_the_averages():
    gray = InputChannels(["image"], "imagenet", 1)
    assert (gray.mean.item(), gray.std.item()) == pytest.approx((0.449, 0.226))
    assert InputChannels(["image"], "imagenet", 3).mean.ravel().tolist() == pytest.approx([0.485, 0.456, 0.406])
    with pytest.raises(RecipeError, match="mean has 2 numbers, the stored images have 3 channels"):
        InputChannels(["image"], Normalise(mean=[0.1, 0.2]), 3)


def test_parameters_are_split_into_the_parts_that_have_a_rate():
    model = build(network(), 1, 1)
    parts = model.parts()
    assert list(parts) == ["encoder", "other"]
    assert [id(p) for p in parts["encoder"]] == [id(p) for p in model.module.encoder.parameters()]
    model.module.part_names = ("decoder", "absent")  # an architecture may be made without a part
    parts = model.parts()
    assert list(parts) == ["encoder", "decoder", "absent", "other"] and not parts["absent"]
    assert [id(p) for p in parts["other"]] == [id(p) for p in model.module.segmentation_head.parameters()]
    everything = [id(p) for found in parts.values() for p in found]
    assert len(everything) == len(set(everything)) == len(list(model.parameters()))


def test_parts_that_a_network_lacks_are_named():
    model = build(network(), 1, 1)
    model.check_parts(["encoder"])
    model.module.part_names = ("decoder", "absent")
    model.check_parts(["decoder", "encoder"])
    for name in ("absent", "other", "head"):
        with pytest.raises(
            RecipeError, match=rf"part_lr.{name}: Unet has no such part .* one of encoder, decoder, and"
        ):
            model.check_parts(["encoder", name])


@pytest.mark.parametrize("name", segmentation.OWN)
def test_our_own_architectures_say_what_the_builder_asks(name):
    kind = segmentation.OWN[name]
    encoder = min(getattr(kind, "encoder_names", ["resnet18"]), default=None)
    validate_names(network(architecture=name, encoder=encoder, arguments={}))
    with torch.device("meta"):  # shapes without memory
        module = kind(encoder, None, in_channels=3, classes=2)
    model = SegmentationNetwork(module, Geometry(single_class=False), InputChannels(["image"], Normalise(), 3), 3)
    assert model.divisor in (1, 8, 16, 32, 64)
    parts = model.parts()
    assert all(parts.values())
    model.check_parts([part for part in parts if part != "other"])
    model.set_encoder_frozen(True)
    assert not any(p.requires_grad for p in parts["encoder"]) and all(p.requires_grad for p in parts["other"])


@pytest.mark.parametrize(
    ("head", "advice"), [("empty", "arguments: {deep_supervision: true}"), ("auxiliary", "architecture: salt_15th")]
)
def test_heads_that_a_network_lacks_are_named(head, advice):
    model = build(network(), 1, 1)
    model.check_heads([])
    with pytest.raises(RecipeError, match=rf"deep_supervision.{head}: Unet has no such head .*heads: none.*{advice}"):
        model.check_heads([head])


def test_a_frozen_encoder_keeps_weights_and_statistics():
    model = build(network(resize=32), 1, 1)
    model.set_encoder_frozen(True)
    model.train()
    before = {name: value.clone() for name, value in model.module.state_dict().items()}
    model(images(4, 32, 32, 1)).sum().backward()
    assert all(parameter.grad is None for parameter in model.parts()["encoder"])
    assert any(parameter.grad is not None for parameter in model.parts()["other"])
    changed = {name for name, value in model.module.state_dict().items() if not torch.equal(value, before[name])}
    assert changed  # the decoder's statistics
    assert not any(name.startswith("encoder.") for name in changed)
    model.set_encoder_frozen(False)
    assert model.module.encoder.training
    assert all(parameter.requires_grad for parameter in model.parts()["encoder"])


@pytest.mark.parametrize("channels", [["image"], ["image", "row_ramp"], ["image", "row_ramp", "product"]])
def test_weights_file_is_adapted_as_smp_does(tmp_path, channels):
    torch.manual_seed(0)
    source = smp.encoders.get_encoder("resnet18", weights=None)
    path = tmp_path / "encoder.safetensors"
    safetensors.torch.save_file(source.state_dict(), path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    model = build(network(channels=channels, weights={"file": str(path), "sha256": digest}), 1, 1)
    if len(channels) != 3:
        patch_first_conv(source, len(channels))
    for name, value in source.state_dict().items():
        torch.testing.assert_close(model.module.encoder.state_dict()[name], value, msg=name)
    unread = network(weights={"file": "absent.safetensors", "sha256": digest})
    build(unread, 1, 1, pretrained=False)
    with pytest.raises(RecipeError, match=r"absent.safetensors can't be read"):
        build(unread, 1, 1)


def test_wrong_weights_files_are_named(tmp_path):
    path = tmp_path / "other.safetensors"
    safetensors.torch.save_file({"conv1.weight": torch.zeros(2)}, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(RecipeError, match=r"other.safetensors doesn't hold the weights of this encoder"):
        build(network(weights={"file": str(path), "sha256": digest}), 1, 1)
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    with pytest.raises(RecipeError, match=rf"has SHA-256 .* expected {digest}"):
        build(network(weights={"file": str(path), "sha256": digest}), 1, 1)


def test_imagenet_weights_come_from_the_local_folder_first(tmp_path, monkeypatch):
    monkeypatch.setenv("STAGEPIPE_WEIGHTS", str(tmp_path))
    source = smp.encoders.get_encoder("resnet18", weights=None)
    path = tmp_path / "resnet18.safetensors"
    safetensors.torch.save_file(source.state_dict(), path)
    with pytest.raises(RecipeError, match=r"sha256sum resnet18.safetensors > resnet18.safetensors.sha256"):
        build(network(weights="imagenet"), 1, 3)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    path.with_name("resnet18.safetensors.sha256").write_text(f"{digest}  resnet18.safetensors\n")
    model = build(network(weights="imagenet"), 1, 3)
    assert torch.equal(model.module.encoder.conv1.weight, source.conv1.weight)


def test_a_failed_download_says_what_to_do(monkeypatch):
    def closed(*_, **__):
        raise OSError("no route to host")

    monkeypatch.delenv("STAGEPIPE_WEIGHTS", raising=False)
    monkeypatch.setattr(smp.encoders, "hf_hub_download", closed)
    wanted = r"smp-hub/resnet18.imagenet.* resnet18.safetensors.*STAGEPIPE_WEIGHTS.*weights: null"
    with pytest.raises(RecipeError, match=wanted):
        build(network(weights="imagenet"), 1, 1)
    build(network(weights="imagenet"), 1, 1, pretrained=False)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"architecture": "unett"}, "network.architecture: unett is unknown; write one of unet"),
        ({"encoder": "resnet_34"}, "network.encoder: resnet_34 is unknown; write one of resnet34"),
        ({"encoder": "tu-resnet_18"}, "write one of tu-resnet18"),
        ({"encoder": "resnext101_32x8d", "weights": "imagenet"}, None),
        ({"encoder": "resnext101_32x4d", "weights": "imagenet"}, "resnext101_32x4d has no imagenet weights"),
        ({"encoder": "tu-resnet18"}, None),
        ({"arguments": {"decoder_atention_type": "scse"}}, "network.arguments: .* write one of decoder_attention_type"),
        ({"arguments": {"in_channels": 3}}, "in_channels can't be set here"),
        ({"arguments": {"aux_params": {"classes": 1}}}, "aux_params can't be set here"),
    ],
)
def test_names_are_checked_without_building(keys, message, monkeypatch):
    monkeypatch.setattr(segmentation, "_create", None)
    if message is None:
        validate_names(network(**keys))
        return
    with pytest.raises(RecipeError, match=message):
        validate_names(network(**keys))


def test_arguments_that_smp_refuses_name_the_key():
    with pytest.raises(RecipeError, match=r"network.arguments: unet with encoder resnet18 refuses .*decoder_channels"):
        build(network(arguments={"encoder_depth": 4}), 1, 1)


def test_a_size_the_architecture_cant_take_says_what_to_pad_to():
    unfit = {"architecture": "unetplusplus", "arguments": {}}
    message = r"UnetPlusPlus takes .* divisible by 32, the input is 101 x 96 .* write `pad: \{to: \[128, 96\]\}`"
    with pytest.raises(RecipeError, match=message):
        build(network(**unfit, resize=[101, 96]), 1, 1)
    model = build(network(**unfit), 1, 1)
    with pytest.raises(RecipeError, match=message):
        model(images(1, 101, 96, 1))


def test_smaller_logits_and_foreign_tensors_are_refused():
    with pytest.raises(RecipeError, match=r"gives \[16, 16\] for an input of \[64, 64\].*upsampling"):
        build(network(architecture="fpn", arguments={"upsampling": 1}), 1, 1)(images(2, 64, 64, 1))
    with pytest.raises(ValueError, match=r"takes uint8 \[B, H, W, 1\]"):
        build(network(), 1, 1)(images(2, 64, 64, 3))
