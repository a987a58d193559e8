"""What a network costs for each image, counted on a network without numbers (torch's meta device)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from segmentation_models_pytorch.encoders.vgg import cfg
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.vgg import make_layers

from stagepipe.networks import Geometry, build
from stagepipe.plan.images import Size
from stagepipe.plan.kinds import PredictKind, TrainKind
from stagepipe.recipe.model import Network, Pad, Phase
from stagepipe.topology import TAPS, VggFeatures

TRAINING_TO_FORWARD = 3
"""FLOPs of a training pass in forward passes: the forward one, the gradient of its inputs, that of its weights.

The counter's own number for the backward pass is not used: of a convolution in groups it takes the gradient of the
weights for one without groups, 2.3 forward passes too many of a ResNeXt50 U-Net."""
TOPOLOGY_TO_FORWARD = 3
"""FLOPs of the topology-aware loss in passes of its VGG19: target, prediction, gradient of the prediction"""
BATCH = 2
"""images that are counted: batch normalisation of a single pixel needs two"""
OPTIMIZER_STATES = {"sgd": 1, "adam": 2, "adamw": 2, "rmsprop": 1}
"""copies of the parameters that an optimiser keeps; RMSprop with a momentum keeps one more"""


@dataclass(frozen=True)
class Cost:
    """What one image costs, and the network's size."""

    parameters: int
    forward: float
    """FLOPs of a forward pass; two for each multiplication with its addition"""
    saved: float
    """bytes that a forward pass in float32 keeps for the backward pass"""
    loss: float = 0.0
    """FLOPs of a loss that is a network itself, its gradient included"""

    @property
    def training(self) -> float:
        """FLOPs of a forward and a backward pass."""
        return TRAINING_TO_FORWARD * self.forward + self.loss


def train_cost(kind: TrainKind) -> Cost:
    """An image of training, with all heads that the phase trains."""
    phase, crop = kind.phase, kind.phase.crop.size if kind.phase.crop else None
    text, size = kind.network.model_dump_json(), crop or kind.size
    cost = _cost(text, kind.outputs, kind.stored_channels, size, phase.resize, _text(phase.pad), crop)
    if "topology" not in phase.loss:
        return cost
    grid = size if crop else Geometry(phase.resize, phase.pad).padded_size(*size)
    return replace(cost, loss=TOPOLOGY_TO_FORWARD * _vgg_flops(grid))


def predict_cost(kind: PredictKind) -> Cost:
    """An image or window of prediction."""
    window = kind.predict.windows or kind.predict.voting
    size, text = window.size if window else kind.size, kind.network.model_dump_json()
    return _cost(text, kind.outputs, kind.stored_channels, size, kind.resize, _text(kind.pad), None)


def _text(pad: Pad | None) -> str | None:
    return pad.model_dump_json() if pad else None


@lru_cache
def _cost(
    network: str, outputs: int, channels: int, size: Size, resize: Size | None, pad: str | None, crop: Size | None
) -> Cost:
    """Of a network and a pad as JSON, so that what was counted is found again; with a `crop` in training mode."""
    with torch.device("meta"):
        padding = Pad.model_validate_json(pad) if pad else None
        spec = Network.model_validate_json(network)
        built = build(spec, outputs, channels, resize, padding, pretrained=False, crop=crop)
    built = built.to("meta")  # encoders for other than three channels make their first weights on the CPU
    images = torch.zeros(BATCH, *size, channels, dtype=torch.uint8, device="meta")
    own = {parameter.untyped_storage()._cdata for parameter in built.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage.nbytes()
        return tensor

    with FlopCounterMode(display=False) as counter, saved_tensors_hooks(note, lambda tensor: tensor):
        heads = built.heads(images)
    saved = sum(size for storage, size in kept.items() if storage not in own)
    del heads
    parameters = sum(parameter.numel() for parameter in built.parameters())
    return Cost(parameters, counter.get_total_flops() / BATCH, saved / BATCH)


@lru_cache
def _vgg_flops(grid: Size) -> float:
    """FLOPs of an image of that size through the VGG19 of the topology-aware loss."""
    with torch.device("meta"):
        features = VggFeatures(make_layers(cfg["E"], batch_norm=False)[: TAPS[-1] + 1])
        maps = torch.zeros(1, 1, *grid)
    with FlopCounterMode(display=False) as counter:
        features(maps)
    return float(counter.get_total_flops())


def optimizer_states(phase: Phase) -> int:
    """Copies of the parameters that the optimiser of a phase keeps."""
    rmsprop = phase.optimizer.rmsprop
    return OPTIMIZER_STATES[phase.optimizer.choice] + bool(rmsprop and rmsprop.momentum)
