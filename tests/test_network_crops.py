"""What a network makes of the windows of a phase with a crop, and of logits on their way back to the image."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from stagepipe.errors import RecipeError
from stagepipe.networks import Geometry, SegmentationNetwork, build, probabilities
from stagepipe.networks.inputs import InputChannels
from stagepipe.recipe.model import Network, Normalise, Pad

FITS, WHOLE = (64, 128), Pad(to=(128, 192), mode="reflect")


def images(*shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))


def network(**keys) -> Network:
    entries = {"architecture": "street_unet", "encoder": "resnet18", "arguments": {"filters": 1}, **keys}
    return Network.model_validate(entries)


def plain(geometry: Geometry, restore: str = "probabilities", crop: tuple[int, int] | None = None):
    """A network of one pointwise convolution."""
    torch.manual_seed(0)
    module = torch.nn.Sequential()
    module.encoder = torch.nn.Conv2d(1, 4, 1)
    module.requires_divisible_input_shape = False
    return SegmentationNetwork(module, geometry, InputChannels(["image"], Normalise(), 1), 1, crop, restore)


# ---------------------------------------------------------------------------------------------------------------- crops


def test_crops_go_through_in_training_and_whole_images_in_evaluation():
    model = build(network(pad=WHOLE), 3, 3, crop=FITS)
    masks = torch.from_numpy(np.random.default_rng(1).integers(0, 3, (2, *FITS)))
    assert model(images(2, *FITS, 3)).shape == (2, 3, *FITS)
    assert model.heads(images(2, *FITS, 3))["logits"].shape == (2, 3, *FITS)
    assert torch.equal(model.geometry.mask(masks, 255), masks)
    model.eval()
    with torch.inference_mode():
        logits = model(images(1, 100, 150, 3))
    assert logits.shape == (1, 3, 128, 192)
    assert model.restored(logits, 100, 150).shape == (1, 3, 100, 150)
    assert model.geometry.mask(masks, 255).shape == (2, 128, 192)
    assert model.train().geometry.padded_size(*FITS) == FITS


def test_crops_are_what_the_module_sees():
    model = plain(Geometry((6, 6), Pad(to=(8, 8), mode="zero"), single_class=False), crop=(4, 5))
    crops = images(2, 4, 5, 1)
    torch.testing.assert_close(model(crops), model.module(crops.permute(0, 3, 1, 2).float() / 255))
    model.eval()
    assert model(crops).shape == (2, 4, 8, 8)


def test_masks_of_crops_keep_their_kind():
    soft = plain(Geometry((48, 48), single_class=True), crop=(4, 4)).geometry
    classes = plain(Geometry((48, 48), single_class=False), crop=(4, 4)).geometry
    mask = torch.tensor([[0, 1], [1, 0]], dtype=torch.uint8)[None]
    assert soft.mask(mask).dtype == torch.float32 and classes.mask(mask).dtype == torch.int64
    assert torch.equal(soft.mask(mask), mask.float()) and torch.equal(classes.mask(mask), mask.long())


@pytest.mark.parametrize(("size", "better"), [((100, 128), r"\[128, 128\]"), ((64, 65), r"\[64, 128\]")])
def test_a_crop_that_doesnt_fit_says_what_does(size, better):
    message = rf"StreetUnet takes .* divisible by 64, phase.crop is {size[0]} x {size[1]}; write `size: {better}`"
    with pytest.raises(RecipeError, match=message):
        build(network(pad=WHOLE), 3, 3, crop=size)
    build(network(architecture="unet", arguments={}), 3, 3, crop=size)  # takes any size


def test_another_size_than_the_crop_is_refused_in_training_alone():
    model = build(network(pad=WHOLE), 3, 3, crop=FITS)
    with pytest.raises(ValueError, match=r"images: 64 x 64; in training they are crops of \[64, 128\]"):
        model(images(2, 64, 64, 3))
    with torch.inference_mode():
        assert model.eval()(images(1, 64, 64, 3)).shape == (1, 3, 128, 192)


def test_a_frozen_encoder_trains_on_crops_too():
    model = build(network(pad=WHOLE), 3, 3, crop=FITS)
    model.set_encoder_frozen(True)
    assert model.train().geometry == Geometry(single_class=False)
    assert model(images(2, *FITS, 3)).shape == (2, 3, *FITS)
    assert not model.module.encoder.training


def test_compiled_heads_follow_the_mode():
    model = plain(Geometry(None, Pad(to=(8, 8)), single_class=False), crop=(4, 5))
    torch.compiler.reset()
    compiled = torch.compile(model.heads, backend="eager")
    assert compiled(images(2, 4, 5, 1))["logits"].shape == (2, 4, 4, 5)
    model.eval()
    assert compiled(images(2, 4, 5, 1))["logits"].shape == (2, 4, 8, 8)
    model.train()
    assert compiled(images(2, 4, 5, 1))["logits"].shape == (2, 4, 4, 5)


# ------------------------------------------------------------------------------------------------------------- restored


@pytest.mark.parametrize("classes", [1, 4])
@pytest.mark.parametrize("geometry", [Geometry(), Geometry((12, 20)), Geometry((12, 20), Pad(to=(16, 32)))])
def test_probabilities_are_restored_as_they_are(classes, geometry):
    model = plain(geometry)
    logits = torch.randn(2, classes, *geometry.padded_size(9, 14)) * 4
    found = model.restored(logits, 9, 14)
    assert torch.equal(found, geometry.undo(probabilities(logits), 9, 14))
    assert found.shape == (2, classes, 9, 14) and found.dtype == torch.float32


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_logits_are_resized_before_the_softmax(kind):
    geometry = Geometry((12, 20), Pad(to=(16, 32)), single_class=False)
    model = plain(geometry, "logits")
    logits = (torch.randn(2, 4, 16, 32) * 4).to(kind)
    cut = logits.float()[:, :, 2:14, 6:26]
    expected = functional.interpolate(cut, size=(9, 14), mode="bilinear", align_corners=False).softmax(1)
    found = model.restored(logits, 9, 14)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(found.sum(1), torch.ones(2, 9, 14))
    assert (found - plain(geometry).restored(logits, 9, 14)).abs().max() > 0.05
    # without a resize there is no difference
    padded = Geometry(None, Pad(to=(16, 32)), single_class=False)
    torch.testing.assert_close(plain(padded, "logits").restored(logits, 9, 14), plain(padded).restored(logits, 9, 14))


def test_the_recipe_says_what_is_restored():
    assert build(network(restore="logits", resize=64), 3, 3).restore == "logits"
    assert build(network(resize=64), 3, 3).restore == "probabilities"
