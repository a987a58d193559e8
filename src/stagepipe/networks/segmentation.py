"""Build a network, segmentation_models_pytorch's or one of our own, from its part of the recipe."""

import inspect
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

import segmentation_models_pytorch as smp
import timm
import torch
from segmentation_models_pytorch.encoders import encoders as smp_encoders
from torch import Tensor, nn

from stagepipe.errors import RecipeError
from stagepipe.networks import weights
from stagepipe.networks.blocks import ResNetArchitecture
from stagepipe.networks.geometry import Geometry
from stagepipe.networks.inputs import InputChannels
from stagepipe.networks.salt_5th import Salt5th
from stagepipe.networks.salt_attention import SaltAttention
from stagepipe.networks.salt_hypercolumn import SaltHypercolumn
from stagepipe.networks.salt_unet import SaltUnet
from stagepipe.networks.siim_albunet import SiimAlbunet
from stagepipe.networks.siim_unet import SiimUnet
from stagepipe.recipe.model import Network, Pad, WeightsFile
from stagepipe.suggestions import unknown

# Our own architectures, made with the words of smp's: encoder_name, encoder_weights, in_channels, classes.
OWN: dict[str, Any] = {
    "salt_unet": SaltUnet,
    "salt_hypercolumn": SaltHypercolumn,
    "salt_attention": SaltAttention,
    "salt_5th": Salt5th,
    "siim_albunet": SiimAlbunet,
    "siim_unet": SiimUnet,
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


class SegmentationNetwork(nn.Module):
    """A network (`module`), smp's or our own, behind its input geometry and input channels."""

    module: Any

    def __init__(self, module: nn.Module, geometry: Geometry, inputs: InputChannels, stored_channels: int):
        super().__init__()
        self.module = module.to(memory_format=torch.channels_last)
        self.geometry = geometry
        self.inputs = inputs
        self.stored_channels = stored_channels
        self._encoder_frozen = False

    def forward(self, images: Tensor) -> Tensor:
        """Images uint8 [B, H, W, K] -> logits [B, outputs, H', W'] on the padded grid.

        The dtype is the parameters' or autocast's. RecipeError if the architecture can't take the padded size,
        ValueError for another dtype or number of channels.
        """
        inputs = self._inputs(images)
        return self._checked(self.module(inputs), inputs)

    def heads(self, images: Tensor) -> dict[str, Tensor]:
        """Everything that has a loss: `logits` as `forward` gives them, and of a network with deep supervision also
        `nonempty` (logits of the pixels alone, of the same shape) and `empty` [B, 1, 1, 1] (logit of an empty mask).
        """
        if not self.head_names:
            return {"logits": self(images)}
        inputs = self._inputs(images)
        heads = self.module.heads(inputs)
        self._checked(heads["logits"], inputs)
        return heads

    @property
    def head_names(self) -> tuple[str, ...]:
        """What `heads` gives beside the logits; empty without deep supervision."""
        return getattr(self.module, "head_names", ())

    def check_heads(self, names: Iterable[str]) -> None:
        """RecipeError if a phase wants to train a head that the network doesn't have."""
        if absent := sorted(set(names) - set(self.head_names)):
            known = ", ".join(self.head_names) or "none"
            raise RecipeError(
                f"deep_supervision.{absent[0]}: {type(self.module).__name__} has no such head as it is made (heads: "
                f"{known}); leave it out, or write `arguments: {{deep_supervision: true}}` in a network that takes it"
            )

    def _inputs(self, images: Tensor) -> Tensor:
        """The module's input [B, channels, H', W'] in its parameters' dtype, channels last."""
        if images.dtype != torch.uint8 or images.shape[-1] != self.stored_channels:
            raise ValueError(
                f"images: {images.dtype} {list(images.shape)}; a network takes uint8 [B, H, W, {self.stored_channels}]"
            )
        self.check_size(*images.shape[1:3])
        # without a resize the padding works on uint8, a quarter of the bytes
        pixels = self.geometry.apply(images.permute(0, 3, 1, 2))
        dtype = next(self.module.parameters()).dtype
        return self.inputs(pixels).to(dtype).contiguous(memory_format=torch.channels_last)

    def _checked(self, logits: Tensor, inputs: Tensor) -> Tensor:
        if logits.shape[-2:] != inputs.shape[-2:]:
            raise RecipeError(
                f"network: gives {list(logits.shape[-2:])} for an input of {list(inputs.shape[-2:])}; pad to a "
                f"multiple of {self.module.encoder.output_stride} and leave `upsampling` out of network.arguments"
            )
        return logits

    @property
    def divisor(self) -> int:
        """What the padded height and width must be multiples of; 1 if any size will do."""
        if not self.module.requires_divisible_input_shape:
            return 1
        return int(getattr(self.module, "divisor", self.module.encoder.output_stride))

    def check_size(self, height: int, width: int) -> None:
        """RecipeError, with the pad to write, if the network can't take images of that size (before resize and pad)."""
        size, divisor = self.geometry.padded_size(height, width), self.divisor
        if any(edge % divisor for edge in size):
            better = [-(-edge // divisor) * divisor for edge in size]
            raise RecipeError(
                f"network: {type(self.module).__name__} takes heights and widths divisible by {divisor}, "
                f"the input is {size[0]} x {size[1]} after resize and pad; write `pad: {{to: {better}}}`"
            )

    def encoder_parameters(self) -> list[nn.Parameter]:
        """Parameters of the encoder."""
        return list(self.module.encoder.parameters())

    def other_parameters(self) -> list[nn.Parameter]:
        """Parameters of the decoder and the heads."""
        return [value for name, value in self.module.named_parameters() if not name.startswith("encoder.")]

    def set_encoder_frozen(self, frozen: bool) -> None:
        """Keep the encoder as it is: no gradients, normalisation by its running statistics also in training mode."""
        self._encoder_frozen = frozen
        for parameter in self.encoder_parameters():
            parameter.requires_grad_(not frozen)
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Training or evaluation mode; a frozen encoder stays in evaluation mode."""
        super().train(mode)
        self.module.encoder.train(mode and not self._encoder_frozen)
        return self


def probabilities(logits: Tensor) -> Tensor:
    """float32 probabilities [B, C, H, W] of logits: sigmoid of a single class, softmax over several."""
    logits = logits.float()
    return logits.sigmoid() if logits.shape[1] == 1 else logits.softmax(1)


def build(
    network: Network,
    outputs: int,
    stored_channels: int,
    phase_resize: tuple[int, int] | None = None,
    phase_pad: Pad | None = None,
    pretrained: bool = True,
) -> SegmentationNetwork:
    """The network with `outputs` logit channels for images of `stored_channels`.

    `phase_resize` and `phase_pad` replace the network's own. `pretrained=False` leaves the encoder's weights random,
    for weights that come from elsewhere. Random weights are drawn from torch's generator: seed it before. RecipeError
    for names, arguments, weights or sizes that don't work.
    """
    validate_names(network)
    geometry = Geometry(phase_resize or network.resize, phase_pad or network.pad, outputs == 1, network.mask == "hard")
    inputs = InputChannels(network.channels, network.normalise, stored_channels)
    module = _module(network, outputs, inputs.count, pretrained)
    built = SegmentationNetwork(module, geometry, inputs, stored_channels)
    known = geometry.resize or (geometry.pad.to if geometry.pad else None)
    if known:
        built.check_size(*known)
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
        if name not in allowed and (network.architecture in OWN or not network.encoder.startswith("tu-")):
            raise RecipeError(f"network.arguments: {unknown(name, allowed)}")


def _validate_encoder(network: Network) -> None:
    name = network.encoder
    architecture = ARCHITECTURES[network.architecture]
    if issubclass(architecture, ResNetArchitecture) and name not in architecture.encoder_names:
        raise RecipeError(
            f"network.encoder: {network.architecture} isn't made for {name}; "
            f"write one of {', '.join(sorted(architecture.encoder_names))}"
        )
    if name.startswith("tu-") and timm.is_model(name.removeprefix("tu-").split(".")[0]):
        return
    if name not in smp_encoders:
        known = [*smp_encoders, *(f"tu-{model}" for model in timm.list_models())]
        raise RecipeError(f"network.encoder: {unknown(name, known)}; with `tu-` before it any network of timm")
    if network.weights == "imagenet" and "imagenet" not in smp_encoders[name]["pretrained_settings"]:
        raise RecipeError(f"network.weights: {name} has no imagenet weights; write `weights: null` or a file")


def _module(network: Network, outputs: int, in_channels: int, pretrained: bool) -> nn.Module:
    """The bare network, its encoder with the weights the recipe names."""
    local = weights.local_file(network.encoder) if network.weights == "imagenet" else None
    download = pretrained and network.weights == "imagenet" and local is None
    module = _create(network, outputs, in_channels, download)
    encoder = module.get_submodule("encoder")
    unused = module.unused_encoder_weights if isinstance(module, ResNetArchitecture) else ()
    if pretrained and local:
        weights.load_encoder(encoder, local, weights.recorded_checksum(local), unused)
    if pretrained and isinstance(network.weights, WeightsFile):
        weights.load_encoder(encoder, Path(network.weights.file), network.weights.sha256, unused)
    return module


def _create(network: Network, outputs: int, in_channels: int, download: bool) -> nn.Module:
    # timm's encoders name their weights themselves (tu-<model>.<tag>)
    source = True if network.encoder.startswith("tu-") else "imagenet"
    try:
        return ARCHITECTURES[network.architecture](
            encoder_name=network.encoder,
            encoder_weights=source if download else None,
            in_channels=in_channels,
            classes=outputs,
            **network.arguments,
        )
    except OSError as error:  # the hub's own errors are OSErrors, too
        raise RecipeError(
            f"network.weights: the imagenet weights of {network.encoder} couldn't be downloaded ({str(error)[:200]}); "
            f"put {_origin(network.encoder)} into a folder as {network.encoder}.safetensors, its SHA-256 beside it in "
            f"{network.encoder}.safetensors.sha256, and name the folder in the environment variable {weights.FOLDER}; "
            "or write `weights: null`"
        ) from error
    except (TypeError, ValueError, KeyError, IndexError, RuntimeError, AssertionError) as error:
        raise RecipeError(
            f"network.arguments: {network.architecture} with encoder {network.encoder} "
            f"refuses {network.arguments or 'its defaults'}: {error}; correct or leave out what it names"
        ) from error


def _origin(encoder: str) -> str:
    """Where the weights file of an encoder comes from, in words."""
    if encoder in smp_encoders:
        repository = smp_encoders[encoder]["pretrained_settings"]["imagenet"]["repo_id"]
        return f"model.safetensors of huggingface.co/{repository}"
    return "the encoder's state dict"
