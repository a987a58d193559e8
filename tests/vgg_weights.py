"""A file of random weights in the place of VGG19's from ImageNet: the layers that the topology-aware loss needs."""

import hashlib
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.models.vgg import cfgs, make_layers


def layers() -> nn.Sequential:
    """torchvision's `features` of a VGG19 up to conv3_4, with ReLUs in place."""
    torch.manual_seed(0)
    return make_layers(cfgs["E"][:10], batch_norm=False)[:17]


def write(folder: Path) -> nn.Sequential:
    """Write the file and its checksum into a folder, and return the layers."""
    made = layers()
    save({f"features.{name}": value for name, value in made.state_dict().items()}, folder)
    return made


def save(state: dict[str, Tensor], folder: Path) -> None:
    """Write a state dict as the file of VGG19, with its checksum."""
    path = folder / "vgg19.safetensors"
    save_file(state, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    Path(f"{path}.sha256").write_text(f"{digest}  {path.name}\n")
