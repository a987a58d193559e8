"""The topology-aware loss (Mosinska et al. 2018): masks compared by what a VGG19 of ImageNet makes of them."""

from functools import lru_cache
from pathlib import Path

import torch
from segmentation_models_pytorch.encoders import get_encoder
from segmentation_models_pytorch.encoders.vgg import cfg
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.vgg import make_layers

from stagepipe.errors import RecipeError
from stagepipe.networks import weights

ENCODER = "vgg19"
TAPS = (2, 7, 16)
"""convolutions conv1_2, conv2_2 and conv3_4 in torchvision's `features`, before their ReLU"""


def topology(logits: Tensor, target: Tensor, ignore_index: int | None = None) -> Tensor:
    """Mean squared difference of the features of probabilities and target, summed over three depths of VGG19.

    logits: [B, 1, H, W]; target: [B, H, W] in 0..1. Both go in as three equal channels of 0..1, without ImageNet's
    normalisation, and features are taken before their ReLU (TGS salt 2018, 15th place). RecipeError without the
    weights of VGG19.
    """
    features = vgg_features(logits.device)
    with torch.no_grad():
        wanted = features(target[:, None].to(logits.dtype))
    found = features(logits.sigmoid())
    return torch.stack([functional.mse_loss(*pair) for pair in zip(found, wanted, strict=True)]).sum()


class VggFeatures(nn.Module):
    """The first convolutions of a VGG19, frozen, in one pass with three taps."""

    def __init__(self, layers: nn.Sequential):
        """`layers`: the first of `features`, up to the last tap."""
        super().__init__()
        # A ReLU in place would overwrite the tap before it.
        self.layers = nn.ModuleList(nn.ReLU() if isinstance(layer, nn.ReLU) else layer for layer in layers)
        self.requires_grad_(False)

    def forward(self, maps: Tensor) -> list[Tensor]:
        """Maps [B, 1, H, W], which stand for three equal channels -> three taps, at 1, 1/2 and 1/4 of the size."""
        taps = []
        maps = maps.expand(-1, 3, -1, -1)
        for index, layer in enumerate(self.layers):
            maps = layer(maps)
            if index in TAPS:
                taps.append(maps)
        return taps


@lru_cache
def vgg_features(device: torch.device) -> VggFeatures:
    """VGG19 with its ImageNet weights on a device, loaded once.

    They come from the folder of weights, or are downloaded; RecipeError if neither works.
    """
    local = weights.local_file(ENCODER)
    layers = _local_layers(local) if local else _downloaded_layers()
    return VggFeatures(layers).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def _local_layers(path: Path) -> nn.Sequential:
    layers: nn.Sequential = make_layers(cfg["E"], batch_norm=False)[: TAPS[-1] + 1]
    weights.load_encoder(nn.ModuleDict({"features": layers}), path, weights.recorded_checksum(path), part=True)
    return layers


def _downloaded_layers() -> nn.Sequential:
    try:
        layers: nn.Sequential = get_encoder(ENCODER, weights="imagenet").features[: TAPS[-1] + 1]
    except OSError as error:  # the hub's own errors are OSErrors, too
        raise RecipeError(
            f"loss.topology: {weights.missing(ENCODER, error)}; or leave the loss out, as "
            "config/overlays/tgs_salt_15th_no_topology.yaml does"
        ) from error
    return layers
