"""The combined loss of the SIIM pneumothorax 2019 1st place: its published formulas and values, gradients."""

import math

import pytest
import torch
from losses_example import assert_same, batch, value_and_gradient
from pydantic import TypeAdapter

from stagepipe import losses
from stagepipe.recipe.model import LossTerm
from stagepipe.recipe.model.choices import Loss


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
