"""One network of several: the mean of weights along a training (Izmailov et al. 2018, stochastic weight averaging)."""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

Weights = dict[str, Tensor]


def mean_weights(members: Sequence[Weights]) -> Weights:
    """Mean of each tensor, summed in float64; counters and other integers are those of the first member."""
    first = members[0]
    return {
        name: torch.stack([member[name].double() for member in members]).mean(dim=0).to(value.dtype)
        if value.is_floating_point()
        else value
        for name, value in first.items()
    }


@torch.no_grad()
def estimate_statistics(network: nn.Module, forward: Callable[[Tensor], object], batches: Iterable[Tensor]) -> None:
    """Set the running statistics of batch normalisation anew, to their plain mean over batches of images.

    What torch.optim.swa_utils.update_bn does, for the layers that training mode reaches (a frozen encoder keeps its
    own) and with all heads, `forward`. Without such a layer no batch is drawn. Leaves the network in training mode.
    """
    network.train()
    layers = [layer for layer in network.modules() if isinstance(layer, _BatchNorm) and layer.training]
    momenta = [layer.momentum for layer in layers]
    if not layers:
        return
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None
    for images in batches:
        forward(images)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
