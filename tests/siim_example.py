"""The networks of the SIIM-ACR pneumothorax 2019 1st place as small as they get."""

import numpy as np
import pytest
import torch
from segmentation_models_pytorch.encoders import encoders
from torch import nn

from stagepipe.networks.segmentation import ARCHITECTURES
from stagepipe.recipe.model import Network

SE = "se_resnext50_32x4d"
NARROW = {"decoder_channels": [8, 8, 16, 16], "last_channels": 8}
TINY = {
    "albunet": ("siim_albunet", "resnet18", {"filters": 4}),
    "transposed": ("siim_albunet", "resnet18", {"filters": 4, "upsampling": "transposed"}),
    "unet": ("siim_unet", "resnet18", NARROW),
    "gated unet": ("siim_unet", "resnet18", {**NARROW, "attention": "scse"}),
}


def small(name: str, in_channels: int = 3, classes: int = 1) -> nn.Module:
    architecture, encoder, arguments = TINY[name]
    return ARCHITECTURES[architecture](encoder, None, in_channels, classes, **arguments)


def recipe(name: str = "gated unet", **keys) -> Network:
    architecture, encoder, arguments = TINY[name]
    entries = {"architecture": architecture, "encoder": encoder, "arguments": arguments, "channels": ["image"] * 3}
    return Network.model_validate({**entries, **keys})


def images(*shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))


def fewer_units(monkeypatch: pytest.MonkeyPatch) -> None:
    """The se_resnext50_32x4d with a unit in each layer in place of 16, under the same names: a quarter of the file."""
    monkeypatch.setitem(encoders[SE]["params"], "layers", [1, 1, 1, 1])
