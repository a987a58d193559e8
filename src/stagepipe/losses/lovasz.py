"""Lovasz losses: the Jaccard loss, extended from masks to errors of any size (Berman et al. 2018)."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stagepipe.losses.overlap import probability_and_truth


def lovasz_hinge(logits: Tensor, target: Tensor, ignore_index: int | None = None) -> Tensor:
    """Lovasz hinge (Berman et al. 2018, algorithm 1) of each image, mean over images: sum of relu(e) g.

    e = 1 - x (2 y - 1) are the errors; g, without gradient, the slope of the Jaccard loss at their order. On an empty
    mask only the pixel with the highest logit has a gradient.
    """
    errors, weights = _hinge(logits, target)
    return (F.relu(errors) * weights).sum(dim=1).mean()


def lovasz_hinge_elu(logits: Tensor, target: Tensor, ignore_index: int | None = None) -> Tensor:
    """`lovasz_hinge` with elu(e) + 1 in place of relu(e): pixels that are right by a margin keep a gradient."""
    errors, weights = _hinge(logits, target)
    return ((F.elu(errors) + 1) * weights).sum(dim=1).mean()


def lovasz_hinge_nonempty(logits: Tensor, target: Tensor, ignore_index: int | None = None) -> Tensor:
    """`lovasz_hinge` of the images whose mask isn't empty, their sum over the number of all images in the batch.

    An empty mask has a loss of 0 and no gradient (phalanx, TGS salt 2018, 1st place: the loss of the pixel branch).
    """
    errors, weights = _hinge(logits, target)
    nonempty = target.flatten(1).amax(dim=1) > 0
    return ((F.relu(errors) * weights).sum(dim=1) * nonempty).mean()


def lovasz_softmax(logits: Tensor, target: Tensor, ignore_index: int | None = None) -> Tensor:
    """Lovasz-softmax (Berman et al. 2018, section 4) of each image, mean over images.

    Of each image it is the mean over the classes that its target has, 0 if there are none.
    """
    probability, truth = probability_and_truth(logits, target, ignore_index)
    errors = (truth - probability).abs()
    # Pixels that don't count have no truth and an error of 0: they sort behind all that matter and change no weight.
    # A class at a time: sorting them together would take more memory and no less time.
    weights = [lovasz_weights(errors[:, index], truth[:, index]) for index in range(logits.shape[1])]
    losses = (errors * torch.stack(weights, dim=1)).sum(dim=2)
    present = truth.amax(dim=2)
    return ((losses * present).sum(dim=1) / present.sum(dim=1).clamp(min=1)).mean()


def lovasz_softmax_all(logits: Tensor, target: Tensor, ignore_index: int | None = None) -> Tensor:
    """Lovasz-softmax of each image, mean over images and all classes, those that its target lacks too.

    Of a single class the other one is the background: a softmax over two logits whose difference is the one here (TGS
    salt 2018, 15th place). The loss of a class that the image lacks is its highest probability.
    """
    probability, truth = probability_and_truth(logits, target, ignore_index)
    errors = (truth - probability).abs()
    if logits.shape[1] == 1:  # both sides have the same errors, in the same order
        error, side = errors[:, 0], truth[:, 0]
        order = _descending(error)
        return (error * (lovasz_weights(error, side, order) + lovasz_weights(error, 1 - side, order)) / 2).sum(1).mean()
    weights = [lovasz_weights(errors[:, index], truth[:, index]) for index in range(logits.shape[1])]
    return (errors * torch.stack(weights, dim=1)).sum(dim=2).mean()


def _hinge(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Errors and their weights, both [B, pixels]."""
    truth = target.to(logits.dtype).flatten(1)
    errors = 1 - logits.flatten(1) * (2 * truth - 1)
    return errors, lovasz_weights(errors, truth)


@torch.no_grad()
def lovasz_weights(errors: Tensor, truth: Tensor, order: Tensor | None = None) -> Tensor:
    """Slope of the Jaccard loss for every pixel of every row, [N, pixels], in the dtype of the errors.

    errors: [N, pixels]. truth: [N, pixels] in 0..1. order: the indices that sort the errors, if they are known. With
    the errors in descending order and I what is left of the truth y behind pixel k, the loss is J_k = 1 - I / (I + k).
    Its difference J_k - J_(k-1) equals (I + y k) / ((I + k) (I + k - 1 + y)), and J_1 = 1 / (I + 1): written like this
    it has no cancellation, which costs float32 most of its digits in a large image.
    """
    order = _descending(errors) if order is None else order
    y = truth.gather(1, order)
    # Integers add up exactly in any order, so a GPU gives the same bits every time; 2^-24 is float32's step below 1.
    units = (y * 2**24).round_().to(torch.int64)
    total = units.sum(dim=1, keepdim=True)
    # In place from here: on a CPU fresh memory for every step takes longer than the arithmetic.
    left = units.cumsum_(dim=1).neg_().add_(total).to(errors.dtype).div_(2**24)
    k = torch.arange(1, errors.shape[1] + 1, device=errors.device, dtype=errors.dtype)
    weights = torch.addcmul(left, y, k)
    union = left.add_(k)
    weights.div_(y.add_(union).sub_(1).mul_(union))
    weights[:, 0] = 1 / union[:, 0]
    return torch.empty_like(weights).scatter_(1, order, weights)


def _descending(errors: Tensor) -> Tensor:
    """Indices that sort every row in descending order."""
    if errors.device.type == "cpu":  # NumPy's sort uses vector instructions and takes a fifth of the time
        return torch.from_numpy(np.argsort(-errors.detach().numpy(), axis=1))
    return errors.detach().argsort(dim=1, descending=True)
