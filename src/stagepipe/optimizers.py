"""Optimisers of a phase: each part of the network is a group of parameters, which may have a rate of its own."""

from typing import Any

from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop

from stagepipe.networks import SegmentationNetwork
from stagepipe.recipe.model import Phase

# Device types with a fused (one kernel for all parameters) SGD, Adam and AdamW in torch >= 2.10.
FUSED = {"cpu", "cuda", "mps", "xpu"}


def base_rates(phase: Phase, network: SegmentationNetwork) -> list[float]:
    """What the schedule of each group of parameters starts from: the part's rate of `part_lr`, or the phase's.

    The last one, of what belongs to no part, is the phase's. RecipeError for parts that the network lacks.
    """
    network.check_parts(phase.part_lr)
    return [phase.part_lr.get(name, phase.lr) for name in network.parts()]


def build(phase: Phase, network: SegmentationNetwork) -> Optimizer:
    """A fresh optimiser over all parameters of the network, on the device they are on now.

    Groups are the network's parts in their order, also where all rates are equal: fused SGD takes no group in which
    some parameters have a momentum and others, of an encoder that was frozen so far, have none. Weight decay reaches
    every parameter, normalisation and biases included, as the published recipes have it.
    """
    rates = base_rates(phase, network)
    groups: list[dict[str, Any]] = [
        {"params": parameters, "lr": rate} for parameters, rate in zip(network.parts().values(), rates, strict=True)
    ]
    fused = next(network.parameters()).device.type in FUSED
    options = getattr(phase.optimizer, phase.optimizer.choice).model_dump()
    if phase.optimizer.sgd:
        return SGD(groups, fused=fused, **options)
    if phase.optimizer.adam:
        return Adam(groups, fused=fused, **options)
    if phase.optimizer.adamw:
        return AdamW(groups, fused=fused, **options)
    return RMSprop(groups, foreach=True, **options)  # has no fused form
