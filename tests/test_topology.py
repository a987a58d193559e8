import pytest
import torch
import torch.nn.functional as F
import vgg_weights
from segmentation_models_pytorch.encoders import vgg as smp_vgg

from stagepipe import losses, topology
from stagepipe.errors import RecipeError
from stagepipe.recipe.model import LossTerm

TERMS = {"topology": LossTerm()}
CPU = torch.device("cpu")


@pytest.fixture
def vgg(tmp_path, monkeypatch):
    """Layers whose weights lie in the folder of weights."""
    monkeypatch.setenv("STAGEPIPE_WEIGHTS", str(tmp_path))
    topology.vgg_features.cache_clear()
    yield vgg_weights.write(tmp_path)
    topology.vgg_features.cache_clear()


def test_it_is_the_published_loss_of_three_passes(vgg):
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(2, 1, 33, 33, generator=generator, requires_grad=True)
    target = torch.randint(0, 2, (2, 33, 33), generator=generator).float()
    found = losses.total_loss(TERMS, logits, target)
    p, y = logits.sigmoid().expand(-1, 3, -1, -1), target[:, None].expand(-1, 3, -1, -1)
    # Slices that end before a ReLU: the published prefixes. Cloned, since the ReLUs within work in place.
    expected = sum(F.mse_loss(vgg[:end](p.clone()), vgg[:end](y.clone())) for end in (3, 8, 17))
    torch.testing.assert_close(found, expected)
    (own,), (reference,) = (torch.autograd.grad(loss, logits) for loss in (found, expected))
    torch.testing.assert_close(own, reference)
    assert own.abs().max() > 0
    assert not any(parameter.requires_grad for parameter in topology.vgg_features(CPU).parameters())


def test_masks_that_agree_cost_nothing(vgg):
    target = torch.zeros(1, 17, 17)
    target[:, 4:9] = 1
    sure = losses.total_loss(TERMS, (target[:, None] - 0.5) * 200, target)
    moved = losses.total_loss(TERMS, (target.roll(3, 1)[:, None] - 0.5) * 200, target)
    assert sure < 1e-8 < moved


def test_weights_are_loaded_once(vgg):
    losses.prepare(TERMS, CPU)
    assert topology.vgg_features(CPU) is topology.vgg_features(CPU)


def test_without_weights_it_is_refused_before_any_work(tmp_path, monkeypatch):
    def offline(*_, **__):
        raise OSError("no connection")

    monkeypatch.setenv("STAGEPIPE_WEIGHTS", str(tmp_path))
    monkeypatch.setattr(topology, "get_encoder", offline)
    topology.vgg_features.cache_clear()
    with pytest.raises(RecipeError, match=r"loss.topology: the imagenet weights of vgg19 .*_no_topology.yaml does"):
        losses.prepare(TERMS, CPU)


def test_the_rest_of_a_whole_vgg19_is_left(vgg, tmp_path):
    state = {f"features.{name}": value for name, value in vgg.state_dict().items()}
    vgg_weights.save(state | {"features.19.weight": torch.zeros(2), "classifier.0.bias": torch.zeros(3)}, tmp_path)
    losses.prepare(TERMS, CPU)
    torch.testing.assert_close(topology.vgg_features(CPU).layers[16].weight, vgg[16].weight, rtol=0, atol=0)


def test_a_missing_layer_is_named(vgg, tmp_path):
    vgg_weights.save(
        {f"features.{name}": value for name, value in vgg.state_dict().items() if name != "7.bias"}, tmp_path
    )
    with pytest.raises(RecipeError, match=r"(?s)vgg19.safetensors doesn't hold the weights .*features.7.bias"):
        losses.prepare(TERMS, CPU)


@pytest.mark.parametrize("content", [b"\xff\xfe\x00\x01", b"0" * 64])
def test_a_wrong_checksum_is_told(vgg, tmp_path, content):
    (tmp_path / "vgg19.safetensors.sha256").write_bytes(content)
    with pytest.raises(RecipeError, match=r"vgg19.safetensors has SHA-256 [0-9a-f]{64}, expected"):
        losses.prepare(TERMS, CPU)


def test_the_weights_have_the_names_of_smps_encoder(vgg):
    with torch.device("meta"):
        encoder = smp_vgg.VGGEncoder(out_channels=[64, 128, 256, 512, 512, 512], config=smp_vgg.cfg["E"])
    names = {name for name in encoder.state_dict() if int(name.split(".")[1]) < 17}
    assert names == {f"features.{name}" for name in vgg.state_dict()}
