import pytest
import segmentation_models_pytorch as smp
import torch
from precision import check_formats
from salt_example import EVERY, STAGE_1, STAGE_2, STAGE_3, TINY_STAGES, TINY_UNET, images
from torch import nn

from stagepipe.networks import segmentation
from stagepipe.networks.inputs import IMAGENET, InputChannels
from stagepipe.networks.salt_attention import SaltAttention
from stagepipe.networks.salt_hypercolumn import SaltHypercolumn
from stagepipe.networks.salt_unet import InputNorm, SaltUnet


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture(params=EVERY)
def tiny(request) -> nn.Module:
    architecture, arguments = EVERY[request.param]
    return segmentation.OWN[architecture]("resnet18", None, 3, 1, **arguments)


def full(architecture: type[nn.Module], encoder: str, **arguments) -> nn.Module:
    return architecture(encoder, None, 3, 1, **arguments).eval()


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


# ----------------------------------------------------------------------------------------------------------- parameters

RESNET34 = 21_797_672 - (512 * 1000 + 1000)  # torchvision's number less that of its classifier
RESNEXT50 = 25_028_904 - (2048 * 1000 + 1000)


def conv(inputs: int, outputs: int, kernel: int, bias: bool = False) -> int:
    return inputs * outputs * kernel**2 + outputs * bias


def norm(channels: int) -> int:
    return 2 * channels


def scse(channels: int, reduction: int, gates: int = 1, bias: bool = False) -> int:
    squeezed = channels // reduction
    return conv(channels, squeezed, 1, True) + conv(squeezed, channels, 1, True) + conv(channels, gates, 1, bias)


ENCODER_GATES = sum(scse(channels, 4) for channels in (64, 128, 256, 512))
DECODER = sum(
    conv(inputs, 32, 2, True) + conv(skip, 32, 1) + norm(64) + scse(64, 16)
    for inputs, skip in ((256, 512), (64, 256), (64, 128), (64, 64))
)
FULL_RESOLUTION = conv(64, 32, 3) + norm(32) + conv(32, 64, 3) + norm(64) + scse(64, 16)
DEEP_SUPERVISION = (
    norm(64) + conv(64, 1, 1)  # pixels, after the 3x3 convolution
    + conv(512, 64, 1, True) + conv(64, 1, 1, True)  # image
    + conv(128, 64, 3) + conv(64, 1, 1)  # both
)  # fmt: skip
BODY = RESNET34 + ENCODER_GATES + 13_635_072 + DECODER


@pytest.mark.parametrize(
    ("arguments", "by_hand", "exact", "millions"),
    [
        (STAGE_1, BODY + FULL_RESOLUTION + conv(320, 64, 3, True) + conv(64, 1, 1), 35_409_412, 35.41),
        (STAGE_2, BODY + FULL_RESOLUTION + conv(320, 64, 3) + DEEP_SUPERVISION, 35_516_165, 35.52),
        # the published number holds the pretrained 7x7 convolution as well, which that module keeps without a use
        (STAGE_3, BODY - conv(3, 64, 7) + conv(3, 64, 3) + conv(256, 32, 3, True) + conv(32, 1, 1), 35_253_376, 35.25),
    ],
    ids=["stage 1", "stage 2", "stage 3"],
)
def test_hypercolumn_networks_have_the_published_parameters(arguments, by_hand, exact, millions):
    model = full(SaltHypercolumn, "resnet34", **arguments)
    assert count(model) == by_hand == exact
    assert round(exact / 1e6, 2) == millions
    assert count(model.centre) == 13_635_072
    assert round((35_253_376 + conv(3, 64, 7)) / 1e6, 2) == 35.26


def test_salt_unet_parameters():
    blocks = [
        conv(inputs, outputs, 4) + norm(outputs) + conv(outputs + skip, outputs, 3) + norm(outputs)
        + scse(outputs, 2, gates=outputs, bias=True)
        for inputs, skip, outputs in ((2048, 1024, 128), (128, 512, 64), (64, 256, 32), (32, 64, 16), (16, 0, 8))
    ]  # fmt: skip
    model = full(SaltUnet, "resnext50_32x4d")
    assert count(model.encoder) == RESNEXT50
    assert [count(block) for block in model.decoder] == blocks == [5_555_008, 471_456, 117_968, 20_328, 2_804]
    assert count(model) == RESNEXT50 + sum(blocks) + 3 + conv(8, 1, 1, True) == 29_147_480


def test_salt_attention_parameters():
    def global_convolution(inputs: int) -> int:
        return 2 * (7 * inputs * 64 + 7 * 64 * 64) + norm(64)

    centre = conv(512, 64, 3) + norm(64) + global_convolution(64)
    decoder = sum(global_convolution(channels) + scse(64, 16) for channels in (256, 128, 64))
    head = conv(64, 64, 3) + DEEP_SUPERVISION
    expected = RESNET34 + ENCODER_GATES + centre + decoder + head
    assert count(full(SaltAttention, "resnet34")) == expected == 22_590_269


def test_the_encoder_is_smps_and_holds_all_of_its_parameters(tiny):
    theirs = set(smp.encoders.get_encoder("resnet18", weights=None).state_dict())
    assert set(tiny.encoder.state_dict()) == theirs - tiny.unused_encoder_weights
    assert (tiny.unused_encoder_weights == {"conv1.weight"}) == (getattr(tiny, "stem", None) is not None)


def test_every_parameter_learns(tiny):
    tiny.train()
    pixels = torch.randn(4, 3, 32, 32)
    outputs = tiny.heads(pixels) if tiny.head_names else {"logits": tiny(pixels)}
    sum(value.square().sum() for value in outputs.values()).backward()
    still = {name for name, value in tiny.named_parameters() if value.grad is None or not value.grad.any()}
    # the one hidden unit of so narrow a gate may be closed for these images
    assert all(".scse.channel." in name for name in still)
    assert all(value.grad is not None for value in tiny.parameters())


# --------------------------------------------------------------------------------------------------------------- shapes


@pytest.mark.parametrize(
    ("architecture", "encoder", "arguments", "size"),
    [
        (SaltUnet, "resnext50_32x4d", {}, 224),
        (SaltHypercolumn, "resnet34", STAGE_1, 256),
        (SaltHypercolumn, "resnet34", STAGE_2, 256),
        (SaltHypercolumn, "resnet34", STAGE_3, 128),
        (SaltAttention, "resnet34", {}, 128),
    ],
    ids=["unet", "stage 1", "stage 2", "stage 3", "attention"],
)
def test_published_sizes(architecture, encoder, arguments, size):
    model = full(architecture, encoder, **arguments)
    with torch.no_grad():
        assert model(torch.randn(1, 3, size, size)).shape == (1, 1, size, size)


@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize("name", EVERY)
def test_any_size_that_the_divisor_allows(name, classes):
    architecture, arguments = EVERY[name]
    model = segmentation.OWN[architecture]("resnet18", None, 2, classes, **arguments).eval()
    assert model.divisor == {"stage 3": 16, "attention": 1}.get(name, 32)
    sizes = [(51, 38), (7, 64)] if name == "attention" else [(model.divisor, 3 * model.divisor)]
    with torch.no_grad():
        for size in sizes:
            assert model(torch.randn(1, 2, *size)).shape == (1, classes, *size)


def test_encoders_of_wider_blocks():
    with torch.no_grad():
        for architecture, arguments in (EVERY["unet"], EVERY["stage 2"], EVERY["attention"]):
            model = segmentation.OWN[architecture]("resnet50", None, 3, 1, **arguments).eval()
            assert model(torch.randn(1, 3, 32, 32)).shape == (1, 1, 32, 32)


# -------------------------------------------------------------------------------------------------------------- encoder


def skips_of(model: SaltUnet, pixels: torch.Tensor) -> list[torch.Tensor]:
    """What the decoder's blocks get beside the deeper map."""
    found: list[torch.Tensor] = []
    for block in model.decoder:
        block.register_forward_pre_hook(lambda _, arguments: found.append(arguments[1]))
    with torch.no_grad():
        model(pixels)
    return found


def test_unet_skips_are_the_first_relu_inside_the_next_layer():
    model = full(SaltUnet, "resnext50_32x4d")
    # the input of the strided convolution is the ReLU after the 1x1 convolution
    strided = [layer[0].conv2 for layer in (model.encoder.layer4, model.encoder.layer3, model.encoder.layer2)]
    assert [layer.stride for layer in strided] == [(2, 2)] * 3
    inside: dict[nn.Module, torch.Tensor] = {}
    for layer in [*strided, model.encoder.maxpool]:
        layer.register_forward_pre_hook(lambda module, arguments: inside.update({module: arguments[0].clone()}))
    skips = skips_of(model, images(1, 3, 64, 64).float())
    shapes = [(1024, 4), (512, 8), (256, 16), (64, 32)]
    assert [tuple(skip.shape[1:3]) for skip in skips[:4]] == shapes
    assert skips[4] is None
    for skip, layer in zip(skips, [*strided, model.encoder.maxpool], strict=False):
        assert torch.equal(skip, inside[layer])
        assert skip.min() == 0 < skip.max()


def test_unet_skips_of_basic_blocks_are_the_inputs_of_the_layers():
    model = full(SaltUnet, "resnet18", **TINY_UNET, input_norm=False)
    pixels = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        _, stem, first, second, third, _ = model.encoder(pixels)
    skips = skips_of(model, pixels)
    for skip, expected in zip(skips, [third, second, first, stem, None], strict=True):
        assert expected is None if skip is None else torch.equal(skip, expected)


@pytest.mark.parametrize("encoder", ["resnet18", "resnext50_32x4d"])
def test_unet_encoder_computes_what_smps_does(encoder):
    model = full(SaltUnet, encoder)
    deepest: list[torch.Tensor] = []
    model.decoder[0].register_forward_pre_hook(lambda _, arguments: deepest.append(arguments[0]))
    pixels = images(1, 3, 64, 64).float()
    with torch.no_grad():
        model(pixels)
        torch.testing.assert_close(deepest[0], model.encoder(model.input_norm(pixels))[-1])


@pytest.mark.parametrize("name", ["stage 1", "stage 3", "attention"])
def test_gated_encoder_without_gates_computes_what_smps_does_without_pooling(name):
    architecture, arguments = EVERY[name]
    model = segmentation.OWN[architecture]("resnet18", None, 3, 1, **arguments).eval()
    gated: list[torch.Tensor] = []
    for position in range(4):
        model.gates[position] = nn.Identity()
        model.gates[position].register_forward_hook(lambda *arguments: gated.append(arguments[2]))
    pixels = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        model(pixels)
        if name == "stage 3":
            model.encoder.conv1 = model.stem
        model.encoder.maxpool = nn.Identity()
        for found, expected in zip(gated, model.encoder(pixels)[2:], strict=True):
            torch.testing.assert_close(found, expected)
    assert gated[0].shape[-1] == (32 if name == "stage 3" else 16)


def test_the_next_layer_sees_the_gated_map():
    model = full(SaltHypercolumn, "resnet18", **TINY_STAGES["stage 1"])
    seen: list[torch.Tensor] = []
    model.gates[0].register_forward_hook(lambda *arguments: seen.append(arguments[2]))
    model.encoder.layer2.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    model.decoder[0].register_forward_pre_hook(lambda _, arguments: seen.append(arguments[1]))
    with torch.no_grad():
        model(torch.randn(1, 3, 32, 32))
    assert torch.equal(seen[0], seen[1])
    assert torch.equal(seen[0], seen[2])


# ------------------------------------------------------------------------------------------------------ heads and modes


@pytest.mark.parametrize("name", ["stage 2", "half", "attention"])
def test_heads(name):
    architecture, arguments = EVERY[name]
    model = segmentation.OWN[architecture]("resnet18", None, 3, 1, **arguments).eval()
    pixels = torch.randn(2, 3, 32, 64)
    with torch.no_grad():
        found = model.heads(pixels)
        assert {key: tuple(value.shape) for key, value in found.items()} == {
            "logits": (2, 1, 32, 64),
            "nonempty": (2, 1, 32, 64),
            "empty": (2, 1, 1, 1),
        }
        assert model.head_names == ("empty", "nonempty")
        assert torch.equal(model(pixels), found["logits"])


def test_without_deep_supervision_the_logits_are_all():
    model = full(SaltHypercolumn, "resnet18", **TINY_STAGES["stage 3"])
    pixels = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        assert model.head_names == ()
        heads = model.heads(pixels)
        assert torch.equal(heads["logits"], model(pixels))
    assert set(heads) == {"logits"}


@pytest.mark.parametrize("name", ["unet", "stage 2", "attention"])
def test_dropout_is_for_training_only(name):
    architecture, arguments = EVERY[name]
    model = segmentation.OWN[architecture]("resnet18", None, 3, 1, **arguments)
    pixels = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert not torch.equal(model(pixels), model(pixels))
        model.eval()
        assert torch.equal(model(pixels), model(pixels))


def test_stage_3_has_no_dropout():
    model = SaltHypercolumn("resnet18", None, **TINY_STAGES["stage 3"])
    pixels = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(model(pixels), model(pixels))


def test_channels_last_and_half_precision(tiny):
    check_formats(tiny, torch.randn(2, 3, 32, 32))


@pytest.mark.parametrize("name", EVERY)
def test_state_dict_round_trip(name):
    architecture, arguments = EVERY[name]
    first, second = (segmentation.OWN[architecture]("resnet18", None, 3, 1, **arguments).eval() for _ in range(2))
    second.load_state_dict(first.state_dict())
    with torch.no_grad():
        assert torch.equal(first(torch.ones(1, 3, 32, 32)), second(torch.ones(1, 3, 32, 32)))


# -------------------------------------------------------------------------------------------------------- normalisation


def test_input_norm_by_hand():
    layer = InputNorm(3, momentum=0.01)
    layer.bias.data = torch.tensor([0.0, 1.0, -1.0])
    pixels = images(4, 3, 8, 8).float()
    mean, variance = pixels.mean((0, 2, 3), keepdim=True), pixels.var((0, 2, 3), keepdim=True, unbiased=False)
    expected = (pixels - mean) / (variance + 2e-5).sqrt() + layer.bias.view(1, 3, 1, 1)
    torch.testing.assert_close(layer(pixels), expected)
    assert count(layer) == 3


def test_input_norm_starts_at_imagenet():
    layer = InputNorm(1, momentum=0.01).eval()
    gray = InputChannels(["image"], "imagenet", 1)
    pixels = images(1, 1, 4, 4)
    torch.testing.assert_close(layer(pixels.float()), gray(pixels), atol=1e-5, rtol=1e-5)
    assert sum(IMAGENET.mean) / 3 == pytest.approx(0.449)


def test_unet_norms_are_keras_and_the_encoders_torchvisions():
    model = SaltUnet("resnet18", None, **TINY_UNET)
    norms = {name: module for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)}
    kinds = {name.split(".")[0]: (module.eps, module.momentum) for name, module in norms.items()}
    assert kinds == {"encoder": (1e-5, 0.1), "input_norm": (2e-5, 0.01), "decoder": (1e-3, 0.01)}
    quick = SaltUnet("resnet18", None, **TINY_UNET, norm_momentum=0.1)
    assert {module.momentum for module in quick.modules() if isinstance(module, nn.BatchNorm2d)} == {0.1}


def test_pixels_as_stored():
    pixels = images(2, 2, 5, 4)
    inputs = InputChannels(["image", "row_ramp", "product", "image"], "none", 2)
    found = inputs(pixels)
    assert found.dtype == torch.float32
    assert torch.equal(found[:, :2], pixels.float())
    assert torch.equal(found[:, 4:], pixels.float())
    scaled = InputChannels(["row_ramp", "product"], "imagenet", 2)
    assert torch.equal(found[:, 2:4], scaled(pixels))  # 0..1 whatever the image's scale
