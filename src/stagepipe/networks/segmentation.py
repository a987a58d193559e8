"""Build a network, segmentation_models_pytorch's or one of our own, from its part of the recipe."""

import inspect
from pathlib import Path
from typing import Any

import segmentation_models_pytorch as smp
import timm
from segmentation_models_pytorch.encoders import encoders as smp_encoders
from torch import nn

from stagepipe.errors import RecipeError
from stagepipe.networks import weights
from stagepipe.networks.architecture import Architecture
from stagepipe.networks.geometry import Geometry
from stagepipe.networks.inputs import InputChannels
from stagepipe.networks.network import SegmentationNetwork
from stagepipe.networks.salt_5th import Salt5th
from stagepipe.networks.salt_15th import Salt15th
from stagepipe.networks.salt_attention import SaltAttention
from stagepipe.networks.salt_hypercolumn import SaltHypercolumn
from stagepipe.networks.salt_unet import SaltUnet
from stagepipe.networks.siim_albunet import SiimAlbunet
from stagepipe.networks.siim_unet import SiimUnet
from stagepipe.networks.street_unet import StreetUnet
from stagepipe.networks.street_wide_unet import StreetWideUnet
from stagepipe.recipe.model import Network, Pad, WeightsFile
from stagepipe.suggestions import unknown

# Our own architectures, made with the words of smp's: encoder_name, encoder_weights, in_channels, classes.
OWN: dict[str, Any] = {
    "salt_unet": SaltUnet,
    "salt_hypercolumn": SaltHypercolumn,
    "salt_attention": SaltAttention,
    "salt_5th": Salt5th,
    "salt_15th": Salt15th,
    "siim_albunet": SiimAlbunet,
    "siim_unet": SiimUnet,
    "street_unet": StreetUnet,
    "street_wide_unet": StreetWideUnet,
}
ARCHITECTURES: dict[str, Any] = {**smp.MODEL_ARCHITECTURES_MAPPING, **OWN}

# Arguments of these classes that the recipe says elsewhere, with what to do instead.
RESERVED = {
    "encoder_name": "write `encoder` of the network",
    "encoder_weights": "write `weights` of the network",
    "in_channels": "they follow from `channels` of the network and of the dataset",
    "classes": "they follow from `classes` of the dataset",
    "activation": "networks give logits; leave it out",
    "aux_params": "there is no loss for a classification head; leave it out",
}


def build(
    network: Network,
    outputs: int,
    stored_channels: int,
    phase_resize: tuple[int, int] | None = None,
    phase_pad: Pad | None = None,
    pretrained: bool = True,
    crop: tuple[int, int] | None = None,
) -> SegmentationNetwork:
    """The network with `outputs` logit channels for images of `stored_channels`.

    `phase_resize` and `phase_pad` replace the network's own; with a `crop` training images are windows of that size,
    without resize or pad. `pretrained=False` leaves the encoder's weights random, for weights that come from elsewhere.
    Random weights are drawn from torch's generator: seed it before. RecipeError for names, arguments, weights or sizes
    that don't work.
    """
    validate_names(network)
    geometry = Geometry(phase_resize or network.resize, phase_pad or network.pad, outputs == 1, network.mask == "hard")
    inputs = InputChannels(network.channels, network.normalise, stored_channels)
    module = _module(network, outputs, inputs.count, pretrained)
    built = SegmentationNetwork(module, geometry, inputs, stored_channels, crop, network.restore)
    known = geometry.resize or (geometry.pad.to if geometry.pad else None)
    if known:
        built.check_size(*known)
    if crop:
        built.check_window(crop, "phase.crop")
    return built


def validate_names(network: Network) -> None:
    """RecipeError if there is no such architecture, encoder, ImageNet weights or argument; builds nothing."""
    if network.architecture not in ARCHITECTURES:
        raise RecipeError(f"network.architecture: {unknown(network.architecture, ARCHITECTURES)}")
    _validate_encoder(network)
    parameters = inspect.signature(ARCHITECTURES[network.architecture]).parameters
    allowed = [name for name, value in parameters.items() if name not in RESERVED and value.kind != value.VAR_KEYWORD]
    for name in network.arguments:
        if name in RESERVED:
            raise RecipeError(f"network.arguments: {name} can't be set here; {RESERVED[name]}")
        # smp hands further arguments to the encoder, where timm's take them and all others drop them without a word
        if name not in allowed and (network.architecture in OWN or not _of_timm(network.encoder)):
            raise RecipeError(f"network.arguments: {unknown(name, allowed)}")


def _validate_encoder(network: Network) -> None:
    name = network.encoder
    architecture = ARCHITECTURES[network.architecture]
    choice = architecture.encoder_names if issubclass(architecture, Architecture) else None
    if choice is not None and not choice:
        _validate_without_choice(network)
        return
    if name is None:
        raise RecipeError(f"network.encoder: {network.architecture} needs one; write, for example, `encoder: resnet34`")
    if choice and name not in choice:
        raise RecipeError(
            f"network.encoder: {network.architecture} isn't made for {name}; write one of {', '.join(sorted(choice))}"
        )
    if _of_timm(name) and timm.is_model(name.removeprefix("tu-").split(".")[0]):
        return
    if name not in smp_encoders:
        known = [*smp_encoders, *(f"tu-{model}" for model in timm.list_models())]
        raise RecipeError(f"network.encoder: {unknown(name, known)}; with `tu-` before it any network of timm")
    if network.weights == "imagenet" and "imagenet" not in smp_encoders[name]["pretrained_settings"]:
        raise RecipeError(f"network.weights: {name} has no imagenet weights; write `weights: null` or a file")


def _validate_without_choice(network: Network) -> None:
    """RecipeError unless the network leaves the encoder to the architecture, which has one of its own."""
    if network.encoder is not None:
        raise RecipeError(
            f"network.encoder: {network.architecture} has its own (found {network.encoder}); write `encoder: null`"
        )
    if network.weights == "imagenet":
        raise RecipeError(
            f"network.weights: the encoder of {network.architecture} has no imagenet weights; "
            "write `weights: null` or a file"
        )


def _of_timm(encoder: str | None) -> bool:
    return encoder is not None and encoder.startswith("tu-")


def _module(network: Network, outputs: int, in_channels: int, pretrained: bool) -> nn.Module:
    """The bare network, its encoder with the weights the recipe names."""
    imagenet = network.weights == "imagenet"
    local = weights.local_file(network.encoder) if imagenet and network.encoder else None
    download = pretrained and imagenet and local is None
    module = _create(network, outputs, in_channels, download)
    encoder = module.get_submodule("encoder")
    unused = module.unused_encoder_weights if isinstance(module, Architecture) else ()
    if pretrained and local:
        weights.load_encoder(encoder, local, weights.recorded_checksum(local), unused)
    if pretrained and isinstance(network.weights, WeightsFile):
        weights.load_encoder(encoder, Path(network.weights.file), network.weights.sha256, unused)
    return module


def _create(network: Network, outputs: int, in_channels: int, download: bool) -> nn.Module:
    # timm's encoders name their weights themselves (tu-<model>.<tag>)
    source = True if _of_timm(network.encoder) else "imagenet"
    try:
        return ARCHITECTURES[network.architecture](
            encoder_name=network.encoder,
            encoder_weights=source if download else None,
            in_channels=in_channels,
            classes=outputs,
            **network.arguments,
        )
    except OSError as error:  # the hub's own errors are OSErrors, too
        message = weights.missing(str(network.encoder), error)
        raise RecipeError(f"network.weights: {message}; or write `weights: null`") from error
    except (TypeError, ValueError, KeyError, IndexError, RuntimeError, AssertionError) as error:
        raise RecipeError(
            f"network.arguments: {network.architecture} with encoder {network.encoder or 'null'} "
            f"refuses {network.arguments or 'its defaults'}: {error}; correct or leave out what it names"
        ) from error
