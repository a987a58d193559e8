"""The losses of a recipe by name, and their weighted sum."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

import torch
from torch import Tensor

from stagepipe.errors import RecipeError
from stagepipe.losses.lovasz import (
    lovasz_hinge,
    lovasz_hinge_elu,
    lovasz_hinge_nonempty,
    lovasz_softmax,
    lovasz_softmax_all,
)
from stagepipe.losses.overlap import dice, dice_per_image, jaccard, jaccard_log
from stagepipe.losses.per_pixel import bce, cross_entropy, focal
from stagepipe.recipe.model import SIGMOID_LOSSES, SOFTMAX_LOSSES, WEIGHTED_LOSSES, LossTerm
from stagepipe.topology import topology, vgg_features

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
