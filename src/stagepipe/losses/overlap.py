"""Losses of how much masks have in common: Dice and Jaccard."""

import torch
from torch import Tensor

from stagepipe.errors import RecipeError
from stagepipe.losses.per_pixel import weighted_mean


def dice(logits: Tensor, target: Tensor, ignore_index: int | None = None, *, smooth: float = 1.0) -> Tensor:
    """1 - (2 sum(y p) + smooth) / (sum y + sum p + smooth), sums over the whole batch; mean over classes."""
    probability, truth = probability_and_truth(logits, target, ignore_index)
    return _dice((probability * truth).sum((0, 2)), probability.sum((0, 2)) + truth.sum((0, 2)), smooth)


def dice_per_image(logits: Tensor, target: Tensor, ignore_index: int | None = None, *, smooth: float = 1.0) -> Tensor:
    """`dice` with the sums over each image; mean over images and classes."""
    probability, truth = probability_and_truth(logits, target, ignore_index)
    return _dice((probability * truth).sum(2), probability.sum(2) + truth.sum(2), smooth)


def _dice(intersection: Tensor, total: Tensor, smooth: float) -> Tensor:
    return (1 - (2 * intersection + smooth) / (total + smooth)).mean()


def jaccard(logits: Tensor, target: Tensor, ignore_index: int | None = None, *, smooth: float = 1.0) -> Tensor:
    """1 - (I + smooth) / (U + smooth), I = sum(y p), U = sum y + sum p - I, over the whole batch; mean over classes."""
    probability, truth = probability_and_truth(logits, target, ignore_index)
    intersection = (probability * truth).sum((0, 2))
    union = probability.sum((0, 2)) + truth.sum((0, 2)) - intersection
    return (1 - (intersection + smooth) / (union + smooth)).mean()


def jaccard_log(
    logits: Tensor,
    target: Tensor,
    ignore_index: int | None = None,
    *,
    smooth: float = 1e-15,
    absent: bool = False,
    class_weights: Tensor | None = None,
) -> Tensor:
    """-ln((I + smooth) / (U + smooth)), I = sum(y p), U = sum y + sum p - I, over the whole batch; mean over classes.

    The mean is over those classes that the batch has, weighted; 0 if there are none. With `absent` it is over all of
    them, as published (Signate street scenes 2018; Iglovikov et al. 2017), where a class that the batch lacks costs as
    much as all else: -ln(smooth / sum p).
    """
    if smooth <= 0:
        raise RecipeError(f"loss: smooth of jaccard_log is {smooth}; write a number above 0, such as 1e-15")
    probability, truth = probability_and_truth(logits, target, ignore_index)
    intersection, area = (probability * truth).sum((0, 2)), truth.sum((0, 2))
    union = probability.sum((0, 2)) + area - intersection
    counted = torch.ones_like(area) if absent or len(area) == 1 else (area > 0).to(area.dtype)
    if class_weights is not None:
        counted = counted * class_weights.to(area.dtype)
    # Where a class doesn't count, its ratio is set to 1, so that no infinite gradient is multiplied by 0.
    ratio = torch.where(counted > 0, (intersection + smooth) / (union + smooth), 1)
    return weighted_mean(-ratio.log(), counted)


def probability_and_truth(logits: Tensor, target: Tensor, ignore_index: int | None) -> tuple[Tensor, Tensor]:
    """Probabilities and target or one-hot target, both [B, C, pixels]; 0 in both where a pixel doesn't count."""
    channels = logits.shape[1]
    if channels == 1:
        return logits.sigmoid().flatten(2), target.to(logits.dtype).flatten(1).unsqueeze(1)
    index = target.flatten(1).unsqueeze(1)
    truth = index == torch.arange(channels, device=logits.device)[:, None]
    probability = logits.softmax(dim=1).flatten(2)
    if ignore_index is not None:
        valid = index != ignore_index
        probability, truth = probability * valid, truth & valid
    return probability, truth.to(logits.dtype)
