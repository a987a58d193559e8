"""Losses: parity with other implementations, hand-worked numbers, gradients."""

import math

import pytest
import segmentation_models_pytorch as smp
import torch
from losses_example import IGNORE, SEVERAL, SINGLE, assert_same, batch, value_and_gradient

from stagepipe import losses
from stagepipe.errors import RecipeError
from stagepipe.recipe.model import LOSSES, LossTerm


@pytest.mark.parametrize(
    ("ours", "theirs", "smooth"),
    [(losses.dice, smp.losses.DiceLoss, 0.5), (losses.jaccard, smp.losses.JaccardLoss, 1.0)],  # smp halves Dice's sums
)
def test_dice_and_jaccard_equal_smp(ours, theirs, smooth):
    assert_same(ours, theirs(mode="binary", smooth=smooth), *batch())
    reference = theirs(mode="multiclass", smooth=smooth, ignore_index=IGNORE)
    assert_same(lambda x, y: ours(x, y, IGNORE), reference, *batch(4, ignored=True))


def test_dice_and_jaccard_hand_worked():
    logits = torch.zeros(2, 1, 1, 2)  # p = 1/2 everywhere
    target = torch.tensor([[[1.0, 1.0]], [[0.0, 0.0]]])
    assert losses.dice(logits, target).item() == pytest.approx(1 - 3 / 5)
    assert losses.dice(logits, target, smooth=0.0).item() == pytest.approx(1 - 2 / 4)
    assert losses.dice_per_image(logits, target).item() == pytest.approx(((1 - 3 / 4) + (1 - 1 / 2)) / 2)
    assert losses.jaccard(logits, target).item() == pytest.approx(1 - 2 / 4)


def test_dice_per_image_is_the_mean_of_single_images():
    logits, target = batch(3)
    singles = [losses.dice(logits[i : i + 1], target[i : i + 1]) for i in range(len(logits))]
    torch.testing.assert_close(losses.dice_per_image(logits, target), torch.stack(singles).mean())


@pytest.mark.parametrize("gamma", [0.5, 2.0, 3.0])
def test_focal_equals_smp(gamma):
    logits, target = batch()
    assert_same(
        lambda x, y: losses.focal(x, y, gamma=gamma), smp.losses.FocalLoss("binary", gamma=gamma), logits, target
    )


def test_focal_with_a_root_has_a_finite_gradient_where_it_is_sure():
    logits, target = torch.tensor([[[[200.0, -200.0, 0.0]]]], requires_grad=True), torch.tensor([[[1.0, 0.0, 1.0]]])
    _, gradient = value_and_gradient(lambda x, y: losses.focal(x, y, gamma=0.5), logits, target)
    assert gradient.isfinite().all()


def test_focal_hand_worked():
    logits, half = torch.zeros(1, 1, 1, 1), 0.25 * math.log(2)
    for target in (0.0, 1.0, 0.3, 1.0000001):  # at p = 1/2 softness makes no difference
        assert losses.focal(logits, torch.full((1, 1, 1), target)).item() == pytest.approx(half)
    several = losses.focal(torch.zeros(1, 4, 1, 1), torch.zeros(1, 1, 1, dtype=torch.int64))
    assert several.item() == pytest.approx(0.75**2 * math.log(4))


def focal_slowly(logits, target, ignore_index, gamma, hardest):
    """A pixel at a time: those that count, sorted by their loss, and the mean of the first of them."""
    each = []
    for image, mask in zip(logits, target, strict=True):
        for row, column in [(row, column) for row in range(mask.shape[0]) for column in range(mask.shape[1])]:
            pixel, truth = image[:, row, column], mask[row, column].item()
            if len(pixel) == 1:
                p = truth * pixel[0].sigmoid() + (1 - truth) * (1 - pixel[0].sigmoid())
            elif truth != ignore_index:
                p = pixel.softmax(0)[int(truth)]
            else:
                continue
            each.append(-((1 - p) ** gamma) * p.log())
    count = max(1, round(hardest * target.numel()))
    return torch.stack(sorted(each, key=lambda loss: -loss.item())[:count]).mean()


@pytest.mark.parametrize("hardest", [1e-6, 0.25, 0.9, 1.0])  # at 0.9 more than count where some are ignored
@pytest.mark.parametrize(("classes", "soft", "ignored"), [(1, False, False), (1, True, False), (3, False, True)])
def test_focal_of_the_hardest_equals_a_loop(hardest, classes, soft, ignored):
    logits, target = batch(classes, soft=soft, dtype=torch.float64, ignored=ignored)
    assert_same(
        lambda x, y: losses.focal(x, y, IGNORE, gamma=0.5, hardest=hardest),
        lambda x, y: focal_slowly(x, y, IGNORE, 0.5, hardest),
        logits,
        target,
    )


def test_focal_of_the_hardest_hand_worked():
    # p of the truth 1/2, 1/4, 4/5, 9/10; the two hardest of four
    logits = torch.tensor([[[[1.0, 1 / 3], [4.0, 9.0]]]]).log().requires_grad_()
    value, gradient = value_and_gradient(
        lambda x, y: losses.focal(x, y, gamma=0.0, hardest=0.5), logits, torch.ones(1, 2, 2)
    )
    assert value.item() == pytest.approx((math.log(2) + math.log(4)) / 2)
    assert gradient.flatten().tolist() == pytest.approx([-1 / 4, -3 / 8, 0, 0])


def test_focal_of_the_hardest_of_all_pixels_is_the_plain_one():
    logits, target = batch(4, ignored=True)
    plain, hardest = (losses.focal(logits, target, IGNORE, **arguments) for arguments in ({}, {"hardest": 1.0}))
    assert torch.equal(plain, hardest)
    torch.testing.assert_close(losses.focal(logits, target, IGNORE, hardest=1 - 1e-9), plain)


@pytest.mark.parametrize("classes", [1, 3])
def test_focal_of_the_hardest_has_the_gradient_of_its_value(classes):
    logits, target = batch(classes, soft=True, dtype=torch.float64, size=(2, 3, 4), ignored=True)
    assert torch.autograd.gradcheck(lambda x: losses.focal(x, target, IGNORE, gamma=0.5, hardest=0.25), (logits,))


@pytest.mark.parametrize("hardest", [0.25, 0.99])
def test_focal_of_the_hardest_leaves_ignored_pixels_out(hardest):
    logits, target = batch(3, ignored=True)
    logits = torch.where((target == IGNORE).unsqueeze(1), 50 * logits, logits).detach().requires_grad_()
    _, gradient = value_and_gradient(lambda x, y: losses.focal(x, y, IGNORE, hardest=hardest), logits, target)
    assert (gradient.permute(0, 2, 3, 1)[target == IGNORE] == 0).all()
    assert losses.focal(logits, torch.full_like(target, IGNORE), IGNORE, hardest=hardest).item() == 0


@pytest.mark.parametrize("hardest", [0, -0.1, 1.5])
def test_a_share_of_the_hardest_outside_its_range_is_refused(hardest):
    with pytest.raises(RecipeError, match=f"hardest of focal is {hardest}; write a share of the pixels above 0"):
        losses.focal(*batch(), hardest=hardest)


def test_focal_without_gamma_is_cross_entropy():
    logits, target = batch()
    assert_same(lambda x, y: losses.focal(x, y, gamma=0.0), losses.bce, logits, target)
    logits, target = batch(4, ignored=True)
    reference = torch.nn.CrossEntropyLoss(ignore_index=IGNORE)
    assert_same(lambda x, y: losses.cross_entropy(x, y, IGNORE), reference, logits, target)
    assert_same(lambda x, y: losses.focal(x, y, IGNORE, gamma=0.0), reference, logits, target)


def test_bce_takes_soft_masks_and_large_logits():
    logits, target = batch(soft=True)
    p = logits.detach().sigmoid()[:, 0]
    expected = -(target * p.log() + (1 - target) * (1 - p).log()).mean()
    torch.testing.assert_close(losses.bce(logits, target).detach(), expected)
    assert losses.bce(torch.full((1, 1, 1, 1), -100.0), torch.ones(1, 1, 1)).item() == 100


# ------------------------------------------------------------------------------------------------------- all of them


def loss_of(name, logits, target, ignore_index=None):
    return losses.total_loss({name: LossTerm()}, logits, target, ignore_index)


def test_every_loss_of_a_recipe_is_there():
    assert set(losses.LOSSES) == set(LOSSES)


@pytest.mark.parametrize(("name", "classes"), [(name, 1) for name in SINGLE] + [(name, 3) for name in SEVERAL])
def test_gradients_are_those_of_the_value(name, classes):
    logits, target = batch(classes, soft=True, dtype=torch.float64, size=(2, 3, 4), ignored=True)
    assert torch.autograd.gradcheck(lambda x: loss_of(name, x, target, IGNORE if classes > 1 else None), (logits,))


@pytest.mark.parametrize(("name", "classes"), [(name, 1) for name in SINGLE] + [(name, 3) for name in SEVERAL])
def test_half_precision_logits_give_a_float32_loss(name, classes):
    logits, target = batch(classes, size=(2, 64, 64))
    half = logits.detach().bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = loss_of(name, half, target)
    assert loss.dtype == torch.float32
    assert loss.shape == ()
    torch.testing.assert_close(loss, loss_of(name, half.float(), target), rtol=0, atol=0)


@pytest.mark.parametrize("name", SEVERAL)
def test_ignored_pixels_have_no_part(name):
    logits, target = batch(3, ignored=True)
    value, gradient = value_and_gradient(lambda x, y: loss_of(name, x, y, IGNORE), logits, target)
    assert (gradient.permute(0, 2, 3, 1)[target == IGNORE] == 0).all()
    assert (gradient.permute(0, 2, 3, 1)[target != IGNORE] != 0).any()
    other = torch.where((target == IGNORE).unsqueeze(1), 5 * torch.ones_like(logits), logits)
    torch.testing.assert_close(loss_of(name, other, target, IGNORE).detach(), value)
    everything, none = value_and_gradient(
        lambda x, y: loss_of(name, x, y, IGNORE), logits, torch.full_like(target, IGNORE)
    )
    assert everything.isfinite()
    assert (none == 0).all()


@pytest.mark.parametrize("name", SINGLE)
def test_extreme_logits_stay_finite(name):
    logits = torch.tensor([[[[1e4, -1e4], [60.0, -60.0]]]], requires_grad=True)
    for target in (torch.zeros(1, 2, 2), torch.ones(1, 2, 2), torch.tensor([[[1.0, 0.0], [1.0, 0.0]]])):
        value, gradient = value_and_gradient(lambda x, y: loss_of(name, x, y), logits, target)
        assert value.isfinite()
        assert gradient.isfinite().all()


def test_total_is_the_weighted_sum():
    logits, target = batch()
    terms = {"bce": LossTerm(weight=3), "dice": LossTerm(arguments={"smooth": 0.5}), "focal": LossTerm(weight=4)}
    expected = (
        3 * losses.bce(logits, target) + losses.dice(logits, target, smooth=0.5) + 4 * losses.focal(logits, target)
    )
    torch.testing.assert_close(losses.total_loss(terms, logits, target), expected)


def test_wrong_terms_are_refused():
    logits, target = batch()
    with pytest.raises(RecipeError, match="focal has no argument gama; its arguments are: gamma, hardest"):
        losses.total_loss({"focal": LossTerm(arguments={"gama": 2})}, logits, target)
    with pytest.raises(RecipeError, match="bce has no argument smooth; its arguments are: none"):
        losses.total_loss({"bce": LossTerm(arguments={"smooth": 1})}, logits, target)
    with pytest.raises(RecipeError, match="cross_entropy needs several classes"):
        loss_of("cross_entropy", logits, target)
    with pytest.raises(RecipeError, match="lovasz_hinge needs a single class and there are 3"):
        loss_of("lovasz_hinge", *batch(3))
