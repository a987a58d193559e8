"""The two networks of the TGS salt 2018 5th place: sizes, blocks by hand, what trains and what doesn't at the start."""

import pytest
import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F

from stagepipe.networks.salt_5th import NormalisedScSE, ObjectContext, Salt5th, SelfAttention

TINY = {"centre_channels": [16, 8], "decoder_channels": [16, 8, 8, 8, 8], "feature_channels": 8}
OBJECT_CONTEXT = {
    "gate_normalised": False,
    "context_dilations": [[2, 4, 6], [4, 8, 12]],
    "stem_in_hypercolumn": False,
    "hidden_activation": "relu",
}
PUBLISHED_OBJECT_CONTEXT = {**OBJECT_CONTEXT, "centre_channels": [1024, 512], "gate_reduction": 16}
KINDS = [{}, {**OBJECT_CONTEXT, "context_key_channels": 4}]


def tiny(encoder="resnet18", in_channels=3, classes=1, **arguments) -> Salt5th:
    torch.manual_seed(0)
    return Salt5th(encoder, None, in_channels, classes, **{**TINY, **arguments})


def images(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


# ---------------------------------------------------------------------------------------------------------- published


def test_resnet34_has_the_published_number_of_parameters():
    ours = count(Salt5th("resnet34", None))
    assert ours == 30_231_819
    with_unused_classifier = ours + 512 * 1000 + 1000
    assert round(with_unused_classifier / 1e6, 1) == 30.7


def test_se_resnext50_has_the_published_number_of_parameters():
    network = Salt5th("se_resnext50_32x4d", None, **PUBLISHED_OBJECT_CONTEXT)
    ours, context = count(network), count(network.decoders[0].context)
    assert (ours, context) == (65_699_274, 183_104)
    # 68.3 M as built: with the unused classifier and object context in the three decoders that don't use it either
    assert round((ours + 2048 * 1000 + 1000 + 3 * context) / 1e6, 1) == 68.3


def test_channels_of_the_hypercolumns():
    network = Salt5th("resnet34", None)
    assert network.head[1].in_channels == 6 * 64
    assert [decoder.convolutions[0][0].in_channels for decoder in network.decoders] == [768, 320, 192, 128, 64]
    network = Salt5th("se_resnext50_32x4d", None, **PUBLISHED_OBJECT_CONTEXT)
    assert network.head[1].in_channels == 7 * 64
    assert [decoder.convolutions[0][0].in_channels for decoder in network.decoders] == [2560, 1152, 640, 320, 64]


@pytest.mark.parametrize("encoder", ["resnet34", "se_resnext50_32x4d"])
def test_the_encoder_is_that_of_smp_without_its_pooling(encoder):
    network, plain = tiny(encoder).eval(), smp.encoders.get_encoder(encoder, weights=None)
    network.encoder.load_state_dict(dict(plain.state_dict()), strict=True)
    assert [name for name, _ in network.encoder.named_parameters()] == [name for name, _ in plain.named_parameters()]
    with torch.inference_mode():
        features = network.encoder(images(1, 3, 64, 64))
    assert [feature.shape[-1] for feature in features] == [64, 32, 32, 16, 8, 4]


# ------------------------------------------------------------------------------------------------------------- whole


@pytest.mark.parametrize("arguments", KINDS)
@pytest.mark.parametrize("size", [(128, 128), (256, 256), (96, 160), (32, 64)])
def test_logits_have_the_size_of_the_images(arguments, size):
    network = tiny(in_channels=2, classes=3, **arguments).eval()
    with torch.inference_mode():
        assert network(images(2, 2, *size)).shape == (2, 3, *size)
    assert (network.divisor, network.head_names, network.requires_divisible_input_shape) == (32, (), True)


@pytest.mark.parametrize("arguments", KINDS)
def test_every_parameter_gets_a_gradient(arguments):
    network = tiny(**arguments)
    contexts = [decoder.context for decoder in network.decoders if decoder.context is not None]
    outputs = [context.branches[0][1].output.weight for context in contexts]
    network(images(4, 3, 64, 64)).square().sum().backward()
    # at the start keys and values wait for the output convolution, which is zero but learns
    assert all(weight.grad.any() for weight in outputs)
    for weight in outputs:
        torch.nn.init.normal_(weight)
    network.zero_grad()
    network(images(4, 3, 64, 64)).square().sum().backward()
    without = [name for name, value in network.named_parameters() if value.grad is None or not value.grad.any()]
    assert without == []


@pytest.mark.parametrize("arguments", KINDS)
def test_half_precision_is_near(arguments):
    network = tiny(**arguments).eval()
    with torch.inference_mode():
        expected = network(images(2, 3, 64, 64))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = network(images(2, 3, 64, 64))
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected, atol=0.02 * expected.abs().max().item(), rtol=0.05)


@pytest.mark.parametrize("arguments", KINDS)
def test_weights_go_into_another_network(arguments):
    trained = tiny(**arguments)
    trained(images(2, 3, 64, 64))  # moves the running statistics
    torch.manual_seed(7)
    other = Salt5th("resnet18", None, **{**TINY, **arguments})
    other.load_state_dict(trained.state_dict(), strict=True)
    with torch.inference_mode():
        assert torch.equal(other.eval()(images(1, 3, 64, 64)), trained.eval()(images(1, 3, 64, 64)))


def test_dropout_of_the_hypercolumn_is_for_training_only():
    plain, dropping = tiny().eval(), tiny(hypercolumn_dropout=0.5).eval()
    with torch.inference_mode():
        assert torch.equal(plain(images(2, 3, 64, 64)), dropping(images(2, 3, 64, 64)))
        dropping.head.train()
        first, second = dropping(images(2, 3, 64, 64)), dropping(images(2, 3, 64, 64))
    assert not torch.equal(first, second)


@pytest.mark.parametrize("arguments", KINDS)
def test_the_hypercolumn_holds_the_outputs_of_all_decoders(arguments):
    network = tiny(**arguments).eval()
    seen = {}
    for index, decoder in enumerate(network.decoders):
        decoder.register_forward_hook(lambda module, inputs, output, index=index: seen.update({index: output}))
    network.head.register_forward_hook(lambda module, inputs, output: seen.update(column=inputs[0]))
    with torch.inference_mode():
        network(images(1, 3, 64, 64))
    assert [seen[index].shape[-1] for index in range(5)] == [4, 8, 16, 32, 64]
    parts = [F.interpolate(seen[index], (64, 64), mode="bilinear", align_corners=False) for index in range(5)]
    torch.testing.assert_close(seen["column"][:, -sum(part.shape[1] for part in parts) :], torch.cat(parts, 1))


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="centre_channels has 2 numbers, decoder_channels 5"):
        tiny(decoder_channels=[8, 8])
    with pytest.raises(ValueError, match="hidden_activation is elu or relu, not gelu"):
        tiny(hidden_activation="gelu")
    with pytest.raises(ValueError, match="vgg11 has no pooling behind its stem"):
        tiny("vgg11")


# ------------------------------------------------------------------------------------------------------------- blocks


def test_gate_by_hand():
    gate = NormalisedScSE(2, 2).eval()  # of the start, normalisation only divides by sqrt(1 + 1e-5)
    with torch.no_grad():
        gate.spatial[0].weight.copy_(torch.tensor([1.0, -1.0]).view(1, 2, 1, 1))
        gate.channel[1][0].weight.copy_(torch.tensor([2.0, 1.0]).view(1, 2, 1, 1))
        gate.channel[2][0].weight.copy_(torch.tensor([1.0, -1.0]).view(2, 1, 1, 1))
        x = torch.tensor([[[[1.0, 3.0]], [[0.0, 2.0]]]])
        # means 2 and 1, so 5 behind the ReLU and 5, -5 for the channels; 1 - 0 and 3 - 2 for the pixels
        pixel, channels = torch.tensor(1.0).sigmoid(), torch.tensor([5.0, -5.0]).sigmoid()
        expected = x * pixel + x * channels.view(1, 2, 1, 1)
        torch.testing.assert_close(gate(x), expected, rtol=1e-4, atol=1e-4)


def attention_slowly(attention: SelfAttention, x: torch.Tensor) -> torch.Tensor:
    """A pixel at a time on the pooled map, one image."""
    pooled = F.max_pool2d(x, 2)
    keys, values = attention.keys(pooled)[0].flatten(1).T, attention.values(pooled)[0].flatten(1).T
    rows = []
    for query in keys:
        likeness = torch.stack([(query * key).sum() / len(key) ** 0.5 for key in keys]).exp()
        rows.append(sum(weight * value for weight, value in zip(likeness / likeness.sum(), values, strict=True)))
    context = torch.stack(rows).T.reshape(1, -1, *pooled.shape[-2:])
    context = torch.einsum("oc,bchw->bohw", attention.output.weight[:, :, 0, 0], context)
    return F.interpolate(context, x.shape[-2:], mode="bilinear", align_corners=True)


def test_attention_equals_a_loop():
    torch.manual_seed(0)
    attention, x = SelfAttention(6, 4).eval(), 3 * images(1, 6, 8, 12)
    torch.nn.init.normal_(attention.output.weight)
    with torch.no_grad():
        found, expected = attention(x), attention_slowly(attention, x)
    assert expected.std() > 0.1
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_attention_starts_without_an_effect():
    torch.manual_seed(0)
    block, x = ObjectContext(6, [2, 4, 6], 4, 0.1).eval(), images(2, 6, 8, 8)
    with torch.no_grad():
        assert not block.branches[0](x).any()
        others = torch.cat([branch(x) for branch in block.branches[1:]], dim=1)
        convolution = block.fusion[0][0].weight[:, 6:]
        expected = F.relu(block.fusion[0][1](F.conv2d(others, convolution)))
        torch.testing.assert_close(block(x), expected)


def test_object_context_looks_as_far_as_its_rates():
    block = ObjectContext(1, [2, 4], 1, 0.1).eval()
    for parameter in block.parameters():
        torch.nn.init.ones_(parameter) if parameter.ndim > 1 else None
    torch.nn.init.zeros_(block.branches[0][1].output.weight)
    dot = torch.zeros(1, 1, 17, 17)
    dot[0, 0, 8, 8] = 1
    with torch.no_grad():
        rows, columns = block(dot)[0, 0].nonzero().T
    found = {(row - 8, column - 8) for row, column in zip(rows.tolist(), columns.tolist(), strict=True)}
    assert found == {(a * rate, b * rate) for rate in (2, 4) for a in (-1, 0, 1) for b in (-1, 0, 1)}
