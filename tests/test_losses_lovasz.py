"""Lovasz losses: parity with a loop and with smp, hand-worked numbers, gradients."""

import pytest
import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
from losses_example import IGNORE, assert_same, batch, value_and_gradient

from stagepipe import losses


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
