"""The networks of the TGS salt 1st place as small as they get, and as published."""

import numpy as np
import torch

from stagepipe.recipe.model import Network

STAGE_1: dict = {}
STAGE_2 = {"deep_supervision": True, "dropout": 0.4}
STAGE_3 = {"stem": "conv3x3", "full_resolution": False, "head_channels": 32}

TINY_UNET = {"decoder_channels": [8, 8, 4, 4, 4]}
TINY = {"decoder_channels": 8, "head_channels": 8}
TINY_HYPERCOLUMN = {**TINY, "centre_channels": 8, "pyramid_channels": 8}
TINY_STAGES = {
    "stage 1": {**STAGE_1, **TINY_HYPERCOLUMN},
    "stage 2": {**STAGE_2, **TINY_HYPERCOLUMN},
    "stage 3": {**STAGE_3, **TINY_HYPERCOLUMN},
    "half": {"full_resolution": False, "deep_supervision": True, **TINY_HYPERCOLUMN},
}
EVERY = {
    "unet": ("salt_unet", TINY_UNET),
    "unet, one gate": ("salt_unet", {**TINY_UNET, "spatial_gate": "single", "input_norm": False}),
    "attention": ("salt_attention", {**TINY, "kernel_size": 3}),
    **{name: ("salt_hypercolumn", arguments) for name, arguments in TINY_STAGES.items()},
}


def network(architecture: str, arguments: dict, **keys) -> Network:
    entries = {"architecture": architecture, "encoder": "resnet18", "arguments": arguments, "normalise": "none", **keys}
    return Network.model_validate({"channels": ["image"] * 3, **entries})


def images(*shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))
