"""The network of the TGS salt 15th place, by the numbers of its publication."""

import pytest
import torch
import torch.nn.functional as F

from stagepipe.errors import RecipeError
from stagepipe.networks import build
from stagepipe.networks.salt_15th import Salt15th, _PyramidPooling, _ScSE
from stagepipe.recipe.model import Network

DEAD = 2 * 66_048
"""parameters of the two shortcuts that were built and never used"""
ROWS = {
    "encoder.stem": (32, 129, 352), "encoder.layer1": (64, 65, 15_296), "encoder.gate1": (64, 65, 4_354),
    "encoder.layer2": (128, 33, 59_776), "encoder.gate2": (128, 33, 16_898),
    "encoder.layer3": (256, 17, 236_288), "encoder.gate3": (256, 17, 66_562),
    "encoder.layer4": (256, 17, 277_248 - 66_048), "encoder.layer5": (256, 17, 277_248 - 66_048),
    "auxiliary": (2, 17, 36_930), "pyramid": (512, 17, 66_048), "bottom": (128, 17, 590_080),
    "guided_upsampling": (16, 129, 244_996 + 2_080), "gate3": (128, 17, 16_898),
    "decoder2": (64, 33, 63_360), "gate2": (64, 33, 4_354), "decoder1": (32, 65, 16_064), "gate1": (32, 65, 1_154),
    "decoder0": (16, 129, 4_128), "gate0": (16, 129, 322), "logits": (2, 129, 34),
}  # fmt: skip
"""channels, size and parameters of each part, for an input of 129"""


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def test_every_part_has_the_published_shape_and_parameters():
    network, shapes = Salt15th().eval(), {}
    for name in ROWS:
        network.get_submodule(name).register_forward_hook(
            lambda _, __, out, name=name: shapes.update({name: out.shape})
        )
    with torch.no_grad():
        heads = network.heads(torch.randn(2, 1, 129, 129))
    assert {name: (shapes[name][1], shapes[name][2], count(network.get_submodule(name))) for name in ROWS} == ROWS
    assert {name: tuple(head.shape) for name, head in heads.items()} == {
        "logits": (2, 1, 129, 129), "auxiliary": (2, 1, 129, 129),
    }  # fmt: skip


def test_parameters_to_the_number():
    assert count(Salt15th()) == 2_000_470 - DEAD == 1_868_374
    assert count(Salt15th(feature_scale=1)) == 504_486 - 2 * (128 * 128 + 2 * 128)
    used = count(Salt15th()) - count(Salt15th().auxiliary)
    assert used == 1_831_444
    buffers = sum(value.numel() for value in Salt15th().buffers())
    assert buffers == 15_924 - 2 * (2 * 256 + 1)  # the dead shortcuts had statistics, too


def test_a_single_class_is_the_softmax_of_two():
    network = Salt15th(feature_scale=1).eval()
    two = []
    network.logits.register_forward_hook(lambda _, __, out: two.append(out))
    with torch.no_grad():
        logits = network(torch.randn(2, 1, 33, 33))
    torch.testing.assert_close(logits.sigmoid()[:, 0], two[0].softmax(1)[:, 1])
    assert Salt15th(classes=2, feature_scale=1)(torch.randn(2, 1, 33, 33)).shape == (2, 2, 33, 33)


def test_evaluation_leaves_the_auxiliary_head_out():
    network = Salt15th(feature_scale=1).eval()
    network.auxiliary.register_forward_hook(lambda *_: pytest.fail("the auxiliary head was computed"))
    network(torch.randn(1, 1, 33, 33))


def test_every_parameter_gets_a_gradient():
    network = Salt15th(feature_scale=1)
    heads = network.heads(torch.randn(2, 1, 33, 33))
    (heads["logits"].square().mean() + heads["auxiliary"].square().mean()).backward()
    assert [name for name, parameter in network.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize("size", [(33, 41), (40, 30), (101, 101)])
def test_any_size_will_do(size):
    assert Salt15th(feature_scale=1).eval()(torch.randn(1, 1, *size)).shape == (1, 1, *size)


def test_a_smaller_network_has_a_part_of_the_grown_ones_weights():
    residual = Salt15th(scse=False, guided_upsampling=False).state_dict()
    gated, guided = Salt15th(guided_upsampling=False).state_dict(), Salt15th().state_dict()
    for smaller, larger in ((residual, gated), (gated, guided)):
        assert all(larger[name].shape == value.shape for name, value in smaller.items())
    assert {name.split(".")[0] for name in set(guided) - set(gated)} == {"guided_upsampling"}
    assert all("gate" in name for name in set(gated) - set(residual))


def test_windows_of_pyramid_pooling_overlap():
    """On 17 pixels: windows and strides of 7 and 2, 7 and 5, 9 and 8, 17; the adaptive pooling has others."""
    pooling = _PyramidPooling(1, 1).eval()
    maps = torch.randn(1, 1, 17, 17)
    seen = []
    for branch in pooling.branches:
        branch.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    pooling(maps)
    for pooled, (bins, window, stride) in zip(seen, ((6, 7, 2), (3, 7, 5), (2, 9, 8), (1, 17, 17)), strict=True):
        torch.testing.assert_close(pooled, F.avg_pool2d(maps, window, stride))
        assert pooled.shape[-1] == bins
    assert not torch.allclose(seen[0], F.adaptive_avg_pool2d(maps, 6))


def test_gates_are_summed():
    gate = _ScSE(8).eval()
    maps = torch.randn(2, 8, 5, 5)
    channel, spatial = gate.channel(maps).sigmoid(), gate.spatial(maps).sigmoid()
    torch.testing.assert_close(gate(maps), maps * channel + maps * spatial)
    assert channel.shape == (2, 8, 1, 1) and spatial.shape == (2, 1, 5, 5)


def test_the_builder_knows_its_parts_and_wants_no_encoder():
    network = build(Network(architecture="salt_15th", encoder=None), 1, 1)
    parts = network.parts()
    assert list(parts) == ["encoder", "guided_upsampling", "other"]
    assert sum(map(len, parts.values())) == len(list(network.parameters()))
    assert sum(parameter.numel() for parameter in parts["guided_upsampling"]) == 244_996 + 2_080
    with pytest.raises(RecipeError, match="write `encoder: null`"):
        build(Network(architecture="salt_15th"), 1, 1)
