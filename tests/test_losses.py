"""Losses: parity with other implementations, hand-worked numbers, gradients."""

import math

import pytest
import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
from pydantic import TypeAdapter

from stagepipe import losses
from stagepipe.errors import RecipeError
from stagepipe.recipe.model import LOSSES, SIGMOID_LOSSES, SOFTMAX_LOSSES, LossTerm
from stagepipe.recipe.model.choices import Loss

IGNORE = 255
SINGLE = sorted(set(LOSSES) - SOFTMAX_LOSSES - {"topology"})  # which needs weights: test_topology.py
SEVERAL = sorted(set(LOSSES) - SIGMOID_LOSSES)


def batch(classes=1, soft=False, dtype=torch.float32, size=(3, 9, 7), ignored=False):
    """Logits with gradient and a target that fits them."""
    generator = torch.Generator().manual_seed(classes)
    logits = 2 * torch.randn(size[0], classes, *size[1:], generator=generator, dtype=dtype)
    if classes == 1:
        target = torch.rand(size, generator=generator, dtype=dtype)
        target = target if soft else (target > 0.6).to(dtype)
    else:
        target = torch.randint(0, classes, size, generator=generator)
        if ignored:
            target[:, 1:3] = IGNORE
    return logits.requires_grad_(), target


def value_and_gradient(function, logits, target):
    value = function(logits, target)
    return value.detach(), torch.autograd.grad(value, logits)[0]


def assert_same(ours, theirs, logits, target, tolerance=1e-6):
    for found, expected in zip(
        value_and_gradient(ours, logits, target), value_and_gradient(theirs, logits, target), strict=True
    ):
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


def lovasz_hinge_slowly(logits, target, shape):
    """Berman et al. 2018, algorithm 1, pixel by pixel in Python numbers; `shape` is relu or elu + 1."""
    total = torch.zeros((), dtype=logits.dtype)
    for logit, mask in zip(logits.flatten(1), target.flatten(1), strict=True):
        errors = [1 - x * (2 * y - 1) for x, y in zip(logit, mask.tolist(), strict=True)]
        order = sorted(range(len(errors)), key=lambda pixel: -errors[pixel].item())
        truth = sum(mask.tolist())
        intersection, union, before = truth, truth, 0.0
        for pixel in order:
            intersection -= mask[pixel].item()
            union += 1 - mask[pixel].item()
            total = total + shape(errors[pixel]) * (1 - intersection / union - before)
            before = 1 - intersection / union
    return total / len(logits)


# ------------------------------------------------------------------------------------------------------------- Lovasz


@pytest.mark.parametrize("size", [(3, 9, 7), (2, 40, 50), (1, 1, 1)])
def test_lovasz_hinge_equals_smp_on_hard_masks(size):
    logits, target = batch(size=size)
    target[0] = 0
    theirs = smp.losses.LovaszLoss(mode="binary", per_image=True)
    assert_same(losses.lovasz_hinge, theirs, logits, target)


HINGES = [(losses.lovasz_hinge, F.relu), (losses.lovasz_hinge_elu, lambda error: F.elu(error) + 1)]


@pytest.mark.parametrize(("loss", "shape"), HINGES)
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("empty", [[], [1], [0, 1, 2]])
def test_lovasz_hinge_equals_a_loop_in_values_and_gradients(loss, shape, soft, empty):
    logits, target = batch(soft=soft, dtype=torch.float64)
    target[empty] = 0
    assert_same(loss, lambda x, y: lovasz_hinge_slowly(x, y, shape), logits, target)


def test_lovasz_hinge_hand_worked():
    # errors 2 (truth 0), 0.5 (truth 1), -1 (truth 0): J = 1/2, 1, 1, so g = 1/2, 1/2, 0
    logits = torch.tensor([[[[1.0, 0.5, -2.0]]]])
    target = torch.tensor([[[0.0, 1.0, 0.0]]])
    assert losses.lovasz_hinge(logits, target).item() == pytest.approx(0.5 * 2 + 0.5 * 0.5)
    assert losses.lovasz_hinge_elu(logits, target).item() == pytest.approx(0.5 * 3 + 0.5 * 1.5)


@pytest.mark.parametrize(("loss", "shape"), HINGES)
def test_lovasz_hinge_of_an_empty_mask_has_one_pixel_of_gradient(loss, shape):
    logits, target = batch(size=(1, 9, 7))
    value, gradient = value_and_gradient(loss, logits, torch.zeros_like(target))
    assert value.item() == pytest.approx(shape(1 + logits.max()).item())
    assert gradient.flatten().nonzero().flatten().tolist() == [logits.flatten().argmax().item()]


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("empty", [[], [1], [0, 2], [0, 1, 2]])
def test_lovasz_hinge_nonempty_is_a_sum_over_the_others_by_the_full_batch(soft, empty):
    logits, target = batch(soft=soft, dtype=torch.float64)
    target[empty] = 0
    others = [index for index in range(3) if index not in empty]

    def slowly(x, y):
        return sum((lovasz_hinge_slowly(x[[i]], y[[i]], F.relu) for i in others), 0 * x.sum()) / 3

    assert_same(losses.lovasz_hinge_nonempty, slowly, logits, target)
    _, gradient = value_and_gradient(losses.lovasz_hinge_nonempty, logits, target)
    assert (gradient[empty] == 0).all()


def test_lovasz_hinge_nonempty_hand_worked():
    # the first image is that of `test_lovasz_hinge_hand_worked`, 1.25; the second, empty, would cost relu(1 + 3) = 4
    logits = torch.tensor([[[[1.0, 0.5, -2.0]]], [[[3.0, 0.0, 0.0]]]])
    target = torch.tensor([[[0.0, 1.0, 0.0]], [[0.0, 0.0, 0.0]]])
    assert losses.lovasz_hinge_nonempty(logits, target).item() == pytest.approx(1.25 / 2)
    assert losses.lovasz_hinge(logits, target).item() == pytest.approx((1.25 + 4) / 2)


def test_lovasz_weights_keep_their_digits_in_a_large_image():
    generator = torch.Generator().manual_seed(0)
    errors = torch.randperm(500_000, generator=generator).float().unsqueeze(0)  # no two alike
    truth = (torch.rand(1, 500_000, generator=generator) < 0.3).float()
    weights = losses.lovasz_weights(errors, truth)
    order = errors[0].argsort(descending=True)
    y = truth[0, order].double()
    jaccard = 1 - (y.sum() - y.cumsum(0)) / (y.sum() + (1 - y).cumsum(0))
    expected = torch.diff(jaccard, prepend=torch.zeros(1, dtype=torch.float64))
    torch.testing.assert_close(weights[0, order].double(), expected, rtol=2e-6, atol=1e-15)


@pytest.mark.parametrize("ignored", [False, True])
def test_lovasz_softmax_equals_smp(ignored):
    logits, target = batch(5, ignored=ignored)
    target[0][target[0] == 3] = 1  # the first image has no class 3
    theirs = smp.losses.LovaszLoss(mode="multiclass", per_image=True, ignore_index=IGNORE)
    assert_same(lambda x, y: losses.lovasz_softmax(x, y, IGNORE), theirs, logits, target)


# -------------------------------------------------------------------------------------------------- overlap and pixels


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


# ------------------------------------------------------------------------------------ SIIM pneumothorax 2019, 1st place


def combined(bce: float, dice: float, focal: float, smooth: float = 1e-6) -> dict[str, LossTerm]:
    """The terms of a recipe's loss with these weights."""
    dice_term = {"weight": dice, "arguments": {"smooth": smooth}}
    return TypeAdapter(Loss).validate_python({"bce": bce, "dice": dice_term, "focal": focal})


def combined_slowly(logits, target, weights, eps):
    """The published formulas a pixel at a time, all images of the batch in one row; without the bound of 1e-5 below."""
    bce = focal = intersection = predicted = truth = 0.0
    for x, t in zip(logits.flatten(), target.flatten(), strict=True):
        s = x.sigmoid()
        bce = bce + x.clamp(min=0) - x * t + (1 + (-x.abs()).exp()).log()
        intersection, predicted, truth = intersection + s * t, predicted + s, truth + t
        inside, true = s.clamp(1e-8, 1 - 1e-8), t.clamp(1e-8, 1 - 1e-8)
        p = (1 - true) * (1 - inside) + true * inside
        focal = focal - (1 - p) ** 2 * p.log()
    dice = 1 - (2 * intersection + eps) / (predicted + truth + eps)
    return weights[0] * bce / target.numel() + weights[1] * dice + weights[2] * focal / target.numel()


@pytest.mark.parametrize("weights", [(3, 1, 4), (1, 1, 1), (2, 1, 2)])
@pytest.mark.parametrize(("soft", "empty", "smooth"), [(False, [1], 1e-6), (True, [], 1e-5), (False, [0, 1, 2], 1e-5)])
def test_combined_loss_equals_a_loop_over_the_published_formulas(weights, soft, empty, smooth):
    logits, target = batch(soft=soft, dtype=torch.float64)
    target[empty] = 0
    assert_same(
        lambda x, y: losses.total_loss(combined(*weights, smooth), x, y),
        lambda x, y: combined_slowly(x, y, weights, smooth),
        logits,
        target,
    )
    single = losses.total_loss(combined(*weights, smooth), logits.detach().float(), target.float()).double()
    torch.testing.assert_close(single, combined_slowly(logits, target, weights, smooth).detach(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("logit", "truth", "bce", "dice", "focal", "total"),
    [(0, 0, 0.69315, 1, 0.17329, 3.7726), (0, 1, 0.69315, 0.33333, 0.17329, 3.1059), (-10, 0, 0, 1, 0, 1.0001)],
)
def test_combined_loss_has_the_published_values(logit, truth, bce, dice, focal, total):
    logits, target = torch.full((2, 1, 64, 64), float(logit)), torch.full((2, 64, 64), float(truth))
    assert losses.bce(logits, target).item() == pytest.approx(bce, abs=5e-5)
    assert losses.dice(logits, target, smooth=1e-6).item() == pytest.approx(dice, abs=1e-5)
    assert losses.focal(logits, target).item() == pytest.approx(focal, abs=5e-6)
    assert losses.total_loss(combined(3, 1, 4), logits, target).item() == pytest.approx(total, abs=5e-5)


def test_dice_is_one_ratio_of_plain_sums_over_the_batch():
    logits = torch.tensor([[[[0.8, 0.4]]], [[[0.2, 0.6]]]]).logit()
    target = torch.tensor([[[1.0, 0.0]], [[0.0, 0.0]]])
    assert losses.dice(logits, target, smooth=0.0).item() == pytest.approx(1 - 2 * 0.8 / (2.0 + 1))
    # not with squares, 1 - 1.6 / 2.2, and not the mean of 1 - 1.6 / 2.2 and 1
    assert losses.dice(logits, target, smooth=1.0).item() == pytest.approx(1 - (2 * 0.8 + 1) / (2.0 + 1 + 1))


def test_an_empty_batch_teaches_nothing_through_dice_until_it_is_predicted_empty():
    def gradient(logit):
        logits = torch.full((2, 1, 64, 64), logit, dtype=torch.float64, requires_grad=True)
        target = torch.zeros(2, 64, 64, dtype=torch.float64)
        return [
            value_and_gradient(loss, logits, target)[1].sum().item()
            for loss in (lambda x, y: losses.dice(x, y, smooth=1e-6), losses.bce, losses.focal)
        ]

    # with a sum S of probabilities the gradients of all pixels together are eps (1 - s) S / (S + eps)^2 and s
    dice, bce, focal = gradient(0.0)
    assert dice == pytest.approx(1e-6 * 0.5 * 4096 / (4096 + 1e-6) ** 2)
    assert bce == pytest.approx(0.5)
    assert focal > 0.1
    assert gradient(math.log(1e-6 / 8192))[0] == pytest.approx(0.25)


def test_an_empty_image_learns_through_dice_beside_one_that_is_not():
    logits, target = batch(size=(2, 9, 7))
    target[1] = 0
    beside, alone = (
        value_and_gradient(lambda x, y, loss=loss: loss(x, y, smooth=1e-6), logits, target)[1][1]
        for loss in (losses.dice, losses.dice_per_image)
    )
    assert beside.abs().min() > 1e-5
    assert alone.abs().max() < 1e-8


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
