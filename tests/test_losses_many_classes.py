"""Losses of several classes: the Jaccard term, detached focal loss, class weights, Lovasz over all classes."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from stagepipe.errors import RecipeError
from stagepipe.losses import cross_entropy, focal, jaccard_log, lovasz_softmax_all, total_loss
from stagepipe.recipe.model import LOSSES, SIGMOID_LOSSES, LossTerm

CLASSES = ["sky", "road", "car", "sign"]
WEIGHTS = {"road": 2.0, "car": 3.0, "sign": 0.5}


def batch(ignored=255, seed=0, absent=3):
    """Logits [2, 4, 6, 5] and target [2, 6, 5] without class `absent`, two rows of it ignored."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, 4, 6, 5, generator=generator, requires_grad=True)
    target = torch.randint(0, 4, (2, 6, 5), generator=generator)
    target[target == absent] = 0
    target[:, :2] = ignored
    return logits, target


@pytest.mark.parametrize("ignored", [255, 3])
def test_cross_entropy_with_class_weights_is_torchs(ignored):
    logits, target = batch(ignored)
    found = total_loss({"cross_entropy": LossTerm(class_weights=WEIGHTS)}, logits, target, ignored, CLASSES)
    weight = torch.tensor([1.0, 2.0, 3.0, 0.5])
    torch.testing.assert_close(found, F.cross_entropy(logits, target, weight=weight, ignore_index=ignored))


def test_focal_with_class_weights_by_hand():
    logits, target = batch()
    found = total_loss({"focal": LossTerm(class_weights=WEIGHTS)}, logits, target, 255, CLASSES)
    weight, total, counted = [1.0, 2.0, 3.0, 0.5], 0.0, 0.0
    for image in range(2):
        for row in range(2, 6):
            for column in range(5):
                truth = int(target[image, row, column])
                p = float(logits[image, :, row, column].detach().softmax(0)[truth])
                total += -weight[truth] * (1 - p) ** 2 * math.log(p)
                counted += weight[truth]
    assert float(found.detach()) == pytest.approx(total / counted, rel=1e-5)


def test_the_detached_factor_has_no_gradient():
    logits, target = batch()
    attached, detached = focal(logits, target, 255), focal(logits, target, 255, detached=True)
    assert attached.item() == detached.item()
    (whole,), (part,) = torch.autograd.grad(attached, logits), torch.autograd.grad(detached, logits)
    probability = logits.detach().softmax(1)
    truth = F.one_hot(torch.where(target == 255, 0, target), 4).permute(0, 3, 1, 2)
    p = (probability * truth).sum(1, keepdim=True)
    valid = (target != 255)[:, None]
    torch.testing.assert_close(part, valid * (1 - p) ** 2 * (probability - truth) / valid.sum())
    assert not torch.allclose(whole, part)


def test_the_jaccard_term_by_hand():
    """Two pixels of two classes, sure to 0.8 and 0.6 of the truth: I = 0.8 and 0.6, U = 1.4 and 1.2."""
    probability = torch.tensor([[[[0.8, 0.4]], [[0.2, 0.6]]]])
    target = torch.tensor([[[0, 1]]])
    expected = -(math.log(0.8 / 1.4) + math.log(0.6 / 1.2)) / 2
    assert float(jaccard_log(probability.log(), target)) == pytest.approx(expected, rel=1e-6)


def test_an_absent_class_costs_as_much_as_published_or_nothing():
    logits, target = batch()
    present = jaccard_log(logits, target, 255)
    everything = jaccard_log(logits, target, 255, absent=True)
    probability, counted = logits.softmax(1), target != 255
    terms = []
    for index in range(4):
        p, y = probability[:, index][counted], (target[counted] == index).float()
        intersection = (p * y).sum()
        union = p.sum() + y.sum() - intersection
        terms.append(-torch.log((intersection + 1e-15) / (union + 1e-15)).item())
    assert terms[3] > 30  # -ln(1e-15 / sum p)
    assert present.item() == pytest.approx(np.mean(terms[:3]), rel=1e-5)
    assert everything.item() == pytest.approx(np.mean(terms), rel=1e-5)
    for loss in (present, everything):
        (gradient,) = torch.autograd.grad(loss, logits)
        assert gradient.isfinite().all() and (gradient[:, :, :2] == 0).all()


def test_the_jaccard_term_weighs_classes():
    logits, target = batch()
    term = {"jaccard_log": LossTerm(class_weights={"road": 0, "car": 0})}
    alone = total_loss(term, logits, target, 255, CLASSES)
    counted = target != 255
    p, y = logits.softmax(1)[:, 0][counted], (target[counted] == 0).float()
    torch.testing.assert_close(alone, -torch.log((p * y).sum() / (p.sum() + y.sum() - (p * y).sum())))


def test_a_batch_in_which_nothing_counts_costs_nothing():
    logits, target = batch()[0], torch.full((2, 6, 5), 255)
    for loss in (cross_entropy, focal, jaccard_log):
        value = loss(logits, target, 255)
        (gradient,) = torch.autograd.grad(value, logits)
        assert value.item() == 0 and not gradient.any()


def published_lovasz(probability, target, classes):
    """Lovasz-softmax of one image as published: over all classes, absent ones too, in a plain loop."""
    losses = []
    for index in range(classes):
        truth = [float(value == index) for value in target]
        errors = [abs(y - p) for y, p in zip(truth, probability[index], strict=True)]
        order = sorted(range(len(errors)), key=lambda pixel: -errors[pixel])
        found = wrong = 0.0
        total, last, loss = sum(truth), 0.0, 0.0
        for pixel in order:
            found, wrong = found + truth[pixel], wrong + 1 - truth[pixel]
            jaccard = 1 - (total - found) / (total + wrong)
            loss += errors[pixel] * (jaccard - last)
            last = jaccard
        losses.append(loss)
    return sum(losses) / classes


@pytest.mark.parametrize("empty", [False, True])
def test_lovasz_over_all_classes_is_the_published_one(empty):
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(3, 2, 4, 5, generator=generator)
    target = torch.randint(0, 2, (3, 4, 5), generator=generator) * (not empty)
    expected = np.mean(
        [
            published_lovasz(image.softmax(0).flatten(1).tolist(), mask.flatten().tolist(), 2)
            for image, mask in zip(logits, target, strict=True)
        ]
    )
    assert float(lovasz_softmax_all(logits, target)) == pytest.approx(expected, rel=1e-5)
    single = logits[:, 1:] - logits[:, :1]
    assert float(lovasz_softmax_all(single, target.float())) == pytest.approx(expected, rel=1e-5)


def test_lovasz_over_all_classes_leaves_ignored_pixels_out():
    logits, target = batch()
    expected = np.mean(
        [
            published_lovasz(image.softmax(0)[:, mask != 255].tolist(), mask[mask != 255].tolist(), 4)
            for image, mask in zip(logits.detach(), target, strict=True)
        ]
    )
    assert lovasz_softmax_all(logits, target, 255).item() == pytest.approx(expected, rel=1e-5)


def test_both_sides_of_a_sigmoid_have_the_gradient_of_the_softmax():
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(2, 2, 4, 5, generator=generator, requires_grad=True)
    target = torch.randint(0, 2, (2, 4, 5), generator=generator)
    target[1] = 0
    (two,) = torch.autograd.grad(lovasz_softmax_all(logits, target), logits)
    (one,) = torch.autograd.grad(lovasz_softmax_all(logits[:, 1:] - logits[:, :1], target.float()), logits)
    torch.testing.assert_close(one, two)


@pytest.mark.parametrize("name", sorted(set(LOSSES) - SIGMOID_LOSSES))
def test_the_ignored_index_may_be_that_of_a_class(name):
    logits, target = batch()  # which has no class 3
    as_class = torch.where(target == 255, 3, target)
    found, expected = (
        total_loss({name: LossTerm()}, logits, mask, ignored) for mask, ignored in ((as_class, 3), (target, 255))
    )
    assert found.item() == expected.item()
    own, reference = (torch.autograd.grad(value, logits)[0] for value in (found, expected))
    assert torch.equal(own, reference) and not own[:, :, :2].any()


@pytest.mark.parametrize("smooth", [0, -1.0])
def test_a_jaccard_term_without_smoothing_is_refused(smooth):
    with pytest.raises(RecipeError, match=f"smooth of jaccard_log is {smooth}; write a number above 0"):
        jaccard_log(*batch(), 255, smooth=smooth)


@pytest.mark.parametrize(
    "terms, channels, message",
    [
        ({"dice": {"class_weights": {"car": 2}}}, 4, "dice takes no class_weights"),
        ({"focal": {"class_weights": {"car": 2}}}, 1, "focal takes no class_weights"),
        ({"focal": {"class_weights": {"bus": 2}}}, 4, "class_weights of focal name bus; the classes are sky, road"),
        ({"jaccard_log": {"arguments": {"class_weights": 1}}}, 4, "jaccard_log has no argument class_weights"),
        ({"topology": {}}, 4, "topology needs a single class"),
    ],
)
def test_what_a_loss_refuses(terms, channels, message):
    made = {name: LossTerm(**term) for name, term in terms.items()}
    with pytest.raises(RecipeError, match=message):
        total_loss(made, torch.zeros(1, channels, 2, 2), torch.zeros(1, 2, 2), None, CLASSES)
