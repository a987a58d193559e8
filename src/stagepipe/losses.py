"""Losses over logits, each a plain function, and their weighted sum. All of them compute in float32.

A network with one channel of logits has a sigmoid and a target of 0..1, which may be soft after resizing; one with
several has a softmax and a target of class indices, and pixels whose target is `ignore_index` have no part in the loss
and get no gradient. Nothing here makes the host wait for the device.
"""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stagepipe.errors import RecipeError
from stagepipe.recipe.model import SIGMOID_LOSSES, SOFTMAX_LOSSES, WEIGHTED_LOSSES, LossTerm
from stagepipe.topology import topology, vgg_features


def total_loss(
    terms: Mapping[str, LossTerm],
    logits: Tensor,
    target: Tensor,
    ignore_index: int | None = None,
    classes: Sequence[str] = (),
) -> Tensor:
    """Sum of weight times loss over the terms of a recipe, a scalar of float32 (float64 for logits of float64).

    logits: [B, C, H, W], any float dtype. target: [B, H, W], float in 0..1 for one channel, class index for several.
    `classes` names the channels, for class weights. Raises RecipeError for a loss that doesn't fit the number of
    channels, and for an argument or a class weight that the loss doesn't take.
    """
    for name, term in terms.items():
        _check(name, term, logits.shape[1], classes)
    with torch.autocast(logits.device.type, enabled=False):
        # Half precision sums 16,384 pixels with an error of several pixels.
        full = logits.to(torch.promote_types(logits.dtype, torch.float32))
        losses = [
            term.weight
            * LOSSES[name](full, target, ignore_index, **term.arguments, **_class_weights(term, classes, full))
            for name, term in terms.items()
        ]
        return torch.stack(losses).sum()


def prepare(terms: Mapping[str, LossTerm], device: torch.device) -> None:
    """Load what losses need besides logits; RecipeError before any work if it can't be had."""
    if "topology" in terms:
        vgg_features(device)


def _class_weights(term: LossTerm, classes: Sequence[str], logits: Tensor) -> dict[str, Tensor]:
    """The keyword argument of a loss that has class weights, else none."""
    if not term.class_weights:
        return {}
    return {"class_weights": _weights(tuple(term.class_weights.get(name, 1.0) for name in classes), logits.device)}


@lru_cache
def _weights(values: tuple[float, ...], device: torch.device) -> Tensor:
    # Kept, since the host waits for a copy to the device.
    return torch.tensor(values, device=device)


def _check(name: str, term: LossTerm, channels: int, classes: Sequence[str]) -> None:
    if channels == 1 and name in SOFTMAX_LOSSES:
        raise RecipeError(f"loss: {name} needs several classes and there is one; write bce or lovasz_hinge instead")
    if channels > 1 and name in SIGMOID_LOSSES:
        raise RecipeError(
            f"loss: {name} needs a single class and there are {channels}; write cross_entropy or lovasz_softmax instead"
        )
    unknown = set(term.arguments) - set(ARGUMENTS[name])
    if unknown:
        known = ", ".join(ARGUMENTS[name]) or "none"
        raise RecipeError(f"loss: {name} has no argument {min(unknown)}; its arguments are: {known}")
    if term.class_weights and (channels == 1 or name not in WEIGHTED_LOSSES):
        able = ", ".join(sorted(WEIGHTED_LOSSES))
        raise RecipeError(f"loss: {name} takes no class_weights; they are for several classes, of {able}")
    if strangers := sorted(set(term.class_weights) - set(classes)):
        raise RecipeError(
            f"loss: class_weights of {name} name {strangers[0]}; the classes are {', '.join(classes) or 'not given'}"
        )


# ------------------------------------------------------------------------------------------------------------ per pixel


def bce(logits: Tensor, target: Tensor, ignore_index: int | None = None) -> Tensor:
    """Binary cross entropy, mean over pixels: max(x, 0) - x y + log(1 + exp(-|x|)).

    Computed from logits, so it goes on where the form on probabilities clipped to 1e-7 (Keras) ends at 16.1 and has
    no gradient.
    """
    return F.binary_cross_entropy_with_logits(logits[:, 0], target.to(logits.dtype))


def cross_entropy(
    logits: Tensor, target: Tensor, ignore_index: int | None = None, *, class_weights: Tensor | None = None
) -> Tensor:
    """-log p of the true class, mean over the pixels that count, weighted by their class; 0 if there are none."""
    log_probability, counts = _log_probability(logits, target, ignore_index, class_weights)
    return _mean(-log_probability, counts)


def focal(
    logits: Tensor,
    target: Tensor,
    ignore_index: int | None = None,
    *,
    gamma: float = 2.0,
    hardest: float = 1.0,
    detached: bool = False,
    class_weights: Tensor | None = None,
) -> Tensor:
    """-(1 - p)^gamma log p, mean over the pixels that count; p is the probability of the truth (Lin et al. 2017).

    `detached`: no gradient goes through (1 - p)^gamma (Signate street scenes 2018). Pixels count as much as their class
    does; there is no other weight alpha. For a soft target y of a single class p is y s + (1 - y) (1 - s), s the
    sigmoid.
    `hardest` takes the mean over that share of the batch's pixels, those with the largest loss (TGS salt 2018, 5th
    place: gamma 0.5, a quarter); where fewer pixels count, over these.
    """
    if not 0 < hardest <= 1:
        raise RecipeError(
            f"loss: hardest of focal is {hardest}; write a share of the pixels above 0, 1 for all of them"
        )
    log_probability, counts = _log_probability(logits, target, ignore_index, class_weights)
    # Where p rounds to 1 the gradient of a power below 1 would be infinite.
    complement = -torch.expm1(log_probability.clamp(max=-1e-12))
    factor = complement**gamma
    loss = -(factor.detach() if detached else factor) * log_probability
    return _mean(loss, counts) if hardest == 1 else _mean_of_hardest(loss, counts, hardest)


def _log_probability(
    logits: Tensor, target: Tensor, ignore_index: int | None, class_weights: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Logarithm of the probability that the truth has, and how much each pixel counts, both [B, H, W]."""
    if logits.shape[1] == 1:
        truth, logit = target.to(logits.dtype).clamp(0, 1), logits[:, 0]  # interpolation may end a rounding above 1
        foreground, background = truth.log() + F.logsigmoid(logit), (-truth).log1p() + F.logsigmoid(-logit)
        return torch.logaddexp(foreground, background), torch.ones_like(truth)
    valid = torch.ones_like(target, dtype=torch.bool) if ignore_index is None else target != ignore_index
    index = torch.where(valid, target, 0).long().unsqueeze(1)
    counts = valid.to(logits.dtype)
    if class_weights is not None:
        counts = counts * class_weights.to(logits.dtype)[index.squeeze(1)]
    return logits.log_softmax(dim=1).gather(1, index).squeeze(1), counts


def _mean(loss: Tensor, counts: Tensor) -> Tensor:
    total = counts.sum()
    # Weights may sum to less than 1; where nothing counts at all the mean is 0.
    return (loss * counts).sum() / torch.where(total > 0, total, 1)


def _mean_of_hardest(loss: Tensor, valid: Tensor, share: float) -> Tensor:
    # The number follows from the shape: for the number of pixels that count, the host would wait for the device.
    count = max(1, round(share * loss.numel()))
    ranked = torch.where(valid > 0, loss.detach(), -math.inf).flatten()
    chosen = ranked.topk(count, sorted=False).indices
    return _mean(loss.flatten()[chosen], valid.flatten()[chosen])


# -------------------------------------------------------------------------------------------------------------- overlap


def dice(logits: Tensor, target: Tensor, ignore_index: int | None = None, *, smooth: float = 1.0) -> Tensor:
    """1 - (2 sum(y p) + smooth) / (sum y + sum p + smooth), sums over the whole batch; mean over classes."""
    probability, truth = _probability_and_truth(logits, target, ignore_index)
    return _dice((probability * truth).sum((0, 2)), probability.sum((0, 2)) + truth.sum((0, 2)), smooth)


def dice_per_image(logits: Tensor, target: Tensor, ignore_index: int | None = None, *, smooth: float = 1.0) -> Tensor:
    """`dice` with the sums over each image; mean over images and classes."""
    probability, truth = _probability_and_truth(logits, target, ignore_index)
    return _dice((probability * truth).sum(2), probability.sum(2) + truth.sum(2), smooth)


def _dice(intersection: Tensor, total: Tensor, smooth: float) -> Tensor:
    return (1 - (2 * intersection + smooth) / (total + smooth)).mean()


def jaccard(logits: Tensor, target: Tensor, ignore_index: int | None = None, *, smooth: float = 1.0) -> Tensor:
    """1 - (I + smooth) / (U + smooth), I = sum(y p), U = sum y + sum p - I, over the whole batch; mean over classes."""
    probability, truth = _probability_and_truth(logits, target, ignore_index)
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
    probability, truth = _probability_and_truth(logits, target, ignore_index)
    intersection, area = (probability * truth).sum((0, 2)), truth.sum((0, 2))
    union = probability.sum((0, 2)) + area - intersection
    counted = torch.ones_like(area) if absent or len(area) == 1 else (area > 0).to(area.dtype)
    if class_weights is not None:
        counted = counted * class_weights.to(area.dtype)
    # Where a class doesn't count, its ratio is set to 1, so that no infinite gradient is multiplied by 0.
    ratio = torch.where(counted > 0, (intersection + smooth) / (union + smooth), 1)
    return _mean(-ratio.log(), counted)


def _probability_and_truth(logits: Tensor, target: Tensor, ignore_index: int | None) -> tuple[Tensor, Tensor]:
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


# --------------------------------------------------------------------------------------------------------------- Lovasz


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
    probability, truth = _probability_and_truth(logits, target, ignore_index)
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
    probability, truth = _probability_and_truth(logits, target, ignore_index)
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


LOSSES: dict[str, Callable[..., Tensor]] = {
    "bce": bce,
    "dice": dice,
    "dice_per_image": dice_per_image,
    "focal": focal,
    "jaccard": jaccard,
    "jaccard_log": jaccard_log,
    "cross_entropy": cross_entropy,
    "lovasz_hinge": lovasz_hinge,
    "lovasz_hinge_elu": lovasz_hinge_elu,
    "lovasz_hinge_nonempty": lovasz_hinge_nonempty,
    "lovasz_softmax": lovasz_softmax,
    "lovasz_softmax_all": lovasz_softmax_all,
    "topology": topology,
}
"""Every loss by its name in a recipe: f(logits, target, ignore_index, **arguments) -> scalar."""

ARGUMENTS: dict[str, tuple[str, ...]] = {
    name: tuple(
        p.name
        for p in inspect.signature(loss).parameters.values()
        if p.kind is p.KEYWORD_ONLY and p.name != "class_weights"
    )
    for name, loss in LOSSES.items()
}
"""The arguments that each loss takes in a recipe."""
