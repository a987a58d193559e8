"""Optimisers of a phase: the encoder's and the other parameters as two groups."""

from typing import Any

from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop

from stagepipe.networks import SegmentationNetwork
from stagepipe.recipe.model import Phase

# Device types with a fused (one kernel for all parameters) SGD, Adam and AdamW in torch >= 2.10.
FUSED = {"cpu", "cuda", "mps", "xpu"}


def build(phase: Phase, network: SegmentationNetwork) -> Optimizer:
    """A fresh optimiser over all parameters of the network, on the device they are on now.

    Group 0 holds the encoder's parameters, group 1 the others. A group's `lr_ratio` is what to multiply the scheduled
    learning rate by: encoder_lr / lr for the encoder (1 if the recipe names none), 1 for the others. Weight decay
    reaches every parameter, normalisation and biases included, as the published recipes have it.
    """
    ratio = 1.0 if phase.encoder_lr is None else phase.encoder_lr / phase.lr
    parts = ((network.encoder_parameters(), ratio), (network.other_parameters(), 1.0))
    groups: list[dict[str, Any]] = [
        {"params": parameters, "lr": phase.lr * ratio, "lr_ratio": ratio} for parameters, ratio in parts
    ]
    fused = groups[1]["params"][0].device.type in FUSED
    options = getattr(phase.optimizer, phase.optimizer.choice).model_dump()
    if phase.optimizer.sgd:
        return SGD(groups, fused=fused, **options)
    if phase.optimizer.adam:
        return Adam(groups, fused=fused, **options)
    if phase.optimizer.adamw:
        return AdamW(groups, fused=fused, **options)
    return RMSprop(groups, foreach=True, **options)  # has no fused form
