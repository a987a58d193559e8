"""The two U-Nets of the TGS salt 2018 5th place, one class: with gates only, and with object context as well."""

from collections.abc import Sequence
from typing import ClassVar, Literal

import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import Conv2dNormActivation

from stagepipe.networks.blocks import ScSE, resize_to

ACTIVATIONS: dict[str, type[nn.Module]] = {"elu": nn.ELU, "relu": nn.ReLU}


class Salt5th(nn.Module):
    """A U-Net on an encoder without its first pooling, with gated decoders and a hypercolumn.

    The encoder's features are at 1/2, 1/2, 1/4, 1/8 and 1/16 of the input, the centre behind them at 1/32: heights and
    widths are multiples of 32. Decoders are listed from the deepest, 5, to 1, which has no skip and the full size.

    The defaults are Unet34_scSE_hyper. The network with object context (SE-ResNeXt50) drops the stem from the
    hypercolumn, gates without normalisation and adds object context to decoders 5 and 4. A gate with normalisation sees
    one value per channel and image: it can't train on a batch of one image.
    """

    requires_divisible_input_shape: ClassVar[bool] = True
    divisor: ClassVar[int] = 32
    head_names: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        encoder_name: str = "resnet34",
        encoder_weights: str | None = "imagenet",
        in_channels: int = 3,
        classes: int = 1,
        *,
        centre_channels: Sequence[int] = (512, 256),
        decoder_channels: Sequence[int] = (512, 256, 128, 64, 32),
        feature_channels: int = 64,
        gate_reduction: int = 2,
        gate_normalised: bool = True,
        context_dilations: Sequence[Sequence[int]] = (),
        context_key_channels: int = 32,
        context_dropout: float = 0.1,
        stem_in_hypercolumn: bool = True,
        hypercolumn_dropout: float = 0.0,
        hidden_activation: Literal["elu", "relu"] = "elu",
    ):
        """Build the network; random weights are torch's defaults.

        centre_channels, decoder_channels: outputs of the centre's two convolutions and of each decoder's first one;
        `feature_channels` those of each decoder's second one and of the last hidden layer, whose activation is
        `hidden_activation`. gate_reduction: divides the channels in the gates' hidden layer. context_dilations: rates
        for decoder 5, 4, ...; decoders beyond the list have no object context. hypercolumn_dropout: share of the
        hypercolumn's channels dropped in training; published are 0.5 and, with object context, 0.2, by a call that
        didn't drop anything before PyTorch 1.0 and always drops, at inference as well, since; so the default is none.
        ValueError for arguments that don't fit.
        """
        super().__init__()
        if len(centre_channels) != 2 or len(decoder_channels) != 5 or len(context_dilations) > 5:
            raise ValueError("centre_channels has 2 numbers, decoder_channels 5, context_dilations 5 lists at the most")
        if hidden_activation not in ACTIVATIONS:
            raise ValueError(f"hidden_activation is {' or '.join(ACTIVATIONS)}, not {hidden_activation}")
        self.encoder = smp.encoders.get_encoder(encoder_name, in_channels, depth=5, weights=encoder_weights)
        _remove_pooling(self.encoder, encoder_name)
        stem, *skips = self.encoder.out_channels[1:]
        first, below = centre_channels
        self.centre = nn.Sequential(
            Conv2dNormActivation(skips[-1], first, 3), Conv2dNormActivation(first, below, 3), nn.MaxPool2d(2)
        )
        self.decoders = nn.ModuleList()
        rates = [*context_dilations, *[None] * (5 - len(context_dilations))]
        for skip, middle, dilations in zip([*reversed(skips), 0], decoder_channels, rates, strict=True):
            gate = _gate(feature_channels, gate_reduction, gate_normalised)
            context = (
                None
                if dilations is None
                else ObjectContext(feature_channels, dilations, context_key_channels, context_dropout)
            )
            self.decoders.append(Decoder(below + skip, middle, feature_channels, gate, context))
            below = feature_channels * (1 if context is None else 2)
        self.stem_in_hypercolumn = stem_in_hypercolumn
        columns = feature_channels * (5 + len(context_dilations)) + stem * stem_in_hypercolumn
        self.head = nn.Sequential(
            nn.Dropout2d(hypercolumn_dropout),
            nn.Conv2d(columns, feature_channels, 3, padding=1),
            ACTIVATIONS[hidden_activation](),
            nn.Conv2d(feature_channels, classes, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Images [B, in_channels, H, W] -> logits [B, classes, H, W] in the dtype of the parameters or autocast's."""
        _, stem, *skips = self.encoder(x)
        x = self.centre(skips[-1])
        columns = [stem] if self.stem_in_hypercolumn else []
        for decoder, skip in zip(self.decoders, [*reversed(skips), None], strict=True):
            x = decoder(x, skip)
            columns.append(x)
        size = x.shape[-2:]
        hypercolumn = [F.interpolate(column, size, mode="bilinear", align_corners=False) for column in columns]
        return self.head(torch.cat(hypercolumn, dim=1))


def _remove_pooling(encoder: nn.Module, name: str) -> None:
    """Keep the size between the stem and the first stage; no parameter and no name of one changes."""
    for pooling in ("maxpool", "layer0_pool"):  # of smp's ResNets and of its SENets
        if hasattr(encoder, pooling):
            setattr(encoder, pooling, nn.Identity())
            return
    raise ValueError(f"{name} has no pooling behind its stem to leave out; choose a resnet, resnext or se_resnext")


def _gate(channels: int, reduction: int, normalised: bool) -> ScSE:
    return NormalisedScSE(channels, reduction) if normalised else ScSE(channels, reduction, spatial_bias=True)


def _linear(inputs: int, outputs: int) -> nn.Conv2d:
    """1x1 convolution without a bias, which the batch normalisation further on would take out."""
    return nn.Conv2d(inputs, outputs, 1, bias=False)


class Decoder(nn.Module):
    """Twice the size, beside the skip; two convolutions; the gate; object context of what enters the gate beside it."""

    def __init__(self, inputs: int, middle: int, outputs: int, gate: nn.Module, context: nn.Module | None):
        super().__init__()
        self.convolutions = nn.Sequential(
            Conv2dNormActivation(inputs, middle, 3), Conv2dNormActivation(middle, outputs, 3)
        )
        self.gate = gate
        self.context = context

    def forward(self, x: Tensor, skip: Tensor | None) -> Tensor:
        """[B, C, H, W] and a skip [B, S, 2 H, 2 W] -> [B, outputs, 2 H, 2 W], twice the channels with context."""
        x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
        x = self.convolutions(x if skip is None else torch.cat([x, skip], dim=1))
        return self.gate(x) if self.context is None else torch.cat([self.gate(x), self.context(x)], dim=1)


class NormalisedScSE(ScSE):
    """scSE with batch normalisation behind each of its 1x1 convolutions, in place of their biases."""

    def __init__(self, channels: int, reduction: int):
        super().__init__(channels, reduction)
        squeezed = max(1, channels // reduction)
        self.channel = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            Conv2dNormActivation(channels, squeezed, 1),
            Conv2dNormActivation(squeezed, channels, 1, activation_layer=None),
        )
        self.spatial = Conv2dNormActivation(channels, 1, 1, activation_layer=None)


class ObjectContext(nn.Module):
    """Self-attention, a 1x1 and three dilated 3x3 convolutions side by side (ASP-OC, Yuan and Wang 2018)."""

    def __init__(self, channels: int, dilations: Sequence[int], key_channels: int, dropout: float):
        super().__init__()
        attention = SelfAttention(channels, key_channels)
        self.branches = nn.ModuleList([nn.Sequential(Conv2dNormActivation(channels, channels, 3), attention)])
        self.branches.append(Conv2dNormActivation(channels, channels, 1))
        self.branches.extend(Conv2dNormActivation(channels, channels, 3, dilation=dilation) for dilation in dilations)
        self.fusion = nn.Sequential(
            Conv2dNormActivation(channels * len(self.branches), channels, 1), nn.Dropout2d(dropout)
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> the same shape."""
        return self.fusion(torch.cat([branch(x) for branch in self.branches], dim=1))


class SelfAttention(nn.Module):
    """Every pixel of a map pooled to half its size, as a mean of all of them weighted by likeness.

    With keys k [pixels, K] and values v the weights are softmax(k k^T / sqrt K): the keys are the queries as well. The
    output convolution starts at zero, so the context starts as none.
    """

    def __init__(self, channels: int, key_channels: int):
        super().__init__()
        self.keys = Conv2dNormActivation(channels, key_channels, 1)
        self.values = _linear(channels, channels)
        self.output = _linear(channels, channels)
        nn.init.zeros_(self.output.weight)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> the same shape."""
        pooled = F.max_pool2d(x, 2)
        keys = self.keys(pooled).flatten(2).transpose(1, 2)
        values = self.values(pooled).flatten(2).transpose(1, 2)
        context = F.scaled_dot_product_attention(keys, keys, values).transpose(1, 2).reshape_as(pooled)
        return resize_to(self.output(context), x)
