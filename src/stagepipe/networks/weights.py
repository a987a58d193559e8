"""Encoder weights from local safetensors files: verified, strict, adapted to the number of input channels."""

import hashlib
import os
from collections.abc import Collection, Mapping
from pathlib import Path

import safetensors
import safetensors.torch
from segmentation_models_pytorch.encoders import encoders
from torch import Tensor, nn

from stagepipe.errors import RecipeError

FOLDER = "STAGEPIPE_WEIGHTS"


def local_file(encoder: str) -> Path | None:
    """`<encoder>.safetensors` in the folder that the environment variable STAGEPIPE_WEIGHTS names, if it is there."""
    folder = os.environ.get(FOLDER)
    path = Path(folder) / f"{encoder}.safetensors" if folder else None
    return path if path and path.is_file() else None


def missing(encoder: str, error: Exception) -> str:
    """What to say when the ImageNet weights of an encoder can't be downloaded."""
    origin = "the encoder's state dict"
    if encoder in encoders:
        origin = (
            f"model.safetensors of huggingface.co/{encoders[encoder]['pretrained_settings']['imagenet']['repo_id']}"
        )
    return (
        f"the imagenet weights of {encoder} couldn't be downloaded ({str(error)[:200]}); put {origin} into a folder as "
        f"{encoder}.safetensors, its SHA-256 beside it in {encoder}.safetensors.sha256, and name the folder in the "
        f"environment variable {FOLDER}"
    )


def recorded_checksum(path: Path) -> str:
    """The SHA-256 in `<path>.sha256` (its first word, as `sha256sum` writes it); RecipeError if there is none."""
    record = Path(f"{path}.sha256")
    # What is no UTF-8 is no checksum either: it will differ.
    words = record.read_text(encoding="utf-8", errors="replace").split() if record.is_file() else []
    if not words:
        raise RecipeError(
            f"weights: {path} has no checksum beside it; write it with `sha256sum {path.name} > {record.name}`"
        )
    return words[0].lower()


def load_encoder(encoder: nn.Module, path: Path, sha256: str, unused: Collection[str] = (), part: bool = False) -> None:
    """Load a state dict of smp's encoder (its hub's `model.safetensors`) from a file with that checksum, strictly.

    A first convolution for three channels is adapted as smp does it. `unused` names parameters that the network has
    taken out of its encoder; all others must be there. With `part` the module is part of an encoder, and the file may
    hold more. RecipeError names the file and what doesn't fit.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise RecipeError(
            f"weights: {path} can't be read ({error.strerror}); write the path of a safetensors file"
        ) from error
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise RecipeError(
            f"weights: {path} has SHA-256 {found}, expected {sha256}; fetch the file again or correct the checksum"
        )
    try:
        expected = encoder.state_dict()
        state = {
            name: value
            for name, value in safetensors.torch.load(content).items()
            if name not in unused and (name in expected or not part)
        }
        encoder.load_state_dict(adapt_first_convolution(state, expected), strict=True)
    except (safetensors.SafetensorError, RuntimeError) as error:
        raise RecipeError(
            f"weights: {path} doesn't hold the weights of this encoder ({str(error)[:400]}); "
            "write the file of the same encoder, with the names smp gives its parameters"
        ) from error


def adapt_first_convolution(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Turn a convolution over three channels into one over as many as `expected` has.

    One channel: the sum over the three. More: the three in turn, scaled by 3 / channels, so that equal channels give
    the same output as before (segmentation_models_pytorch.encoders._utils.patch_first_conv, timm's adapt_input_conv).
    """
    adapted = dict(state)
    for name, weight in state.items():
        wanted = expected[name].shape if name in expected else weight.shape
        if weight.ndim == 4 and weight.shape[1] == 3 != wanted[1] and weight.shape[0] == wanted[0]:
            channels = wanted[1]
            turns = [channel % 3 for channel in range(channels)]
            adapted[name] = weight.sum(dim=1, keepdim=True) if channels == 1 else weight[:, turns] * (3 / channels)
    return adapted
