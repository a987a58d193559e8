"""Blocks of our own networks that segmentation_models_pytorch and torchvision lack.

Maps are float [B, channels, height, width]. Bilinear resizing of maps is `align_corners=True`, as the published TGS
salt networks have it, and always to the size of another map, so that odd sizes work.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from segmentation_models_pytorch.encoders import encoders, get_encoder
from segmentation_models_pytorch.encoders.resnet import ResNetEncoder
from segmentation_models_pytorch.encoders.senet import SENetEncoder
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import Conv2dNormActivation

from stagepipe.networks.architecture import Architecture

SpatialGate = Literal["single", "channels"]
CombinedGates = Literal["sum", "max"]

# smp's encoders that are made of torchvision's residual blocks: stem conv1, bn1, relu, then layer1 to layer4.
RESNETS = frozenset(name for name, entry in encoders.items() if entry["encoder"] is ResNetEncoder)
# Its residual networks with squeeze and excitation: stem layer0, pooling layer0_pool, then layer1 to layer4.
SENETS = frozenset(name for name, entry in encoders.items() if entry["encoder"] is SENetEncoder)


class ResNetArchitecture(Architecture):
    """Base of our own architectures that have a residual network of smp's as `encoder`.

    Parameters below `encoder.` are the pretrained ones; blocks that a network adds between the layers live outside.
    """

    encoder: ResNetEncoder | SENetEncoder
    encoder_names = RESNETS

    def __init__(self, encoder_name: str, encoder_weights: str | None, in_channels: int):
        super().__init__()
        if encoder_name not in self.encoder_names:
            raise ValueError(f"encoder {encoder_name} is none of {', '.join(sorted(self.encoder_names))}")
        self.encoder = get_encoder(encoder_name, in_channels=in_channels, depth=5, weights=encoder_weights)


class ScSE(nn.Module):
    """Concurrent spatial and channel squeeze and excitation (Roy et al. 2018), x c + x s or the larger of the two.

    c = sigmoid(W2 relu(W1 mean(x) + b1) + b2), one number per channel, with channels / reduction values in between.
    s = sigmoid(1x1 convolution of x), one map for all channels (`single`, the paper) or one per channel (`channels`).
    """

    def __init__(
        self,
        channels: int,
        reduction: int,
        spatial_gate: SpatialGate = "single",
        spatial_bias: bool = False,
        combined: CombinedGates = "sum",
    ) -> None:
        super().__init__()
        if spatial_gate not in ("single", "channels"):
            raise ValueError(f"spatial_gate is single or channels, not {spatial_gate!r}")
        self.combined = combined
        squeezed = max(1, channels // reduction)
        self.channel = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, squeezed, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(squeezed, channels, 1),
        )
        self.spatial = nn.Conv2d(channels, channels if spatial_gate == "channels" else 1, 1, bias=spatial_bias)

    def gates(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """c [B, C, 1, 1] and s [B, 1 or C, H, W] of maps [B, C, H, W], in 0..1."""
        return self.channel(maps).sigmoid(), self.spatial(maps).sigmoid()

    def gate(self, maps: Tensor) -> Tensor:
        """c + s of maps [B, C, H, W], in 0..2, of the same shape."""
        channel, spatial = self.gates(maps)
        return channel + spatial

    def forward(self, maps: Tensor) -> Tensor:
        """Maps [B, C, H, W] through both of their own gates, of the same shape."""
        if self.combined == "sum":
            return maps * self.gate(maps)
        channel, spatial = self.gates(maps)
        return torch.maximum(maps * channel, maps * spatial)


class FeaturePyramidAttention(nn.Module):
    """Feature pyramid attention (Li et al. 2018) without its 7x7 level, as the TGS salt 2018 1st place has it.

    out = pixel(x) * pyramid(x) + image(x): a 1x1 convolution, weighted per pixel by a pyramid of a 5x5 and a 3x3 level
    at a half and a quarter of the size, plus the global mean through a 1x1 convolution, which alone has neither
    normalisation nor activation.
    """

    def __init__(self, in_channels: int, out_channels: int, pyramid_channels: int):
        super().__init__()
        self.down5 = _elu(in_channels, pyramid_channels, 5, stride=2)
        self.down3 = _elu(pyramid_channels, pyramid_channels, 3, stride=2)
        self.level5 = _elu(pyramid_channels, out_channels, 5)
        self.level3 = _elu(pyramid_channels, out_channels, 3)
        self.pixel = _elu(in_channels, out_channels, 1)
        self.image = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(in_channels, out_channels, 1, bias=False))

    def forward(self, maps: Tensor) -> Tensor:
        """[B, in_channels, H, W] -> [B, out_channels, H, W], any H and W."""
        half = self.down5(maps)
        quarter = self.level3(self.down3(half))
        pyramid = resize_to(quarter, half) + self.level5(half)
        return self.pixel(maps) * resize_to(pyramid, maps) + self.image(maps)


def _elu(in_channels: int, out_channels: int, kernel_size: int, stride: int = 1) -> nn.Module:
    return Conv2dNormActivation(in_channels, out_channels, kernel_size, stride, activation_layer=nn.ELU)


class GlobalConvolution(nn.Module):
    """Global convolutional network block (Peng et al. 2017): a dense k x k window at the cost of k x 1 and 1 x k.

    Two linear branches, (k x 1, 1 x k) and (1 x k, k x 1), added. No biases: a normalisation follows.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int):
        super().__init__()
        if kernel_size % 2 == 0:
            raise ValueError(f"a global convolution keeps the size with an odd kernel size only, not {kernel_size}")
        tall, wide = (kernel_size, 1), (1, kernel_size)
        self.tall_wide = nn.Sequential(
            _plain(in_channels, out_channels, tall), _plain(out_channels, out_channels, wide)
        )
        self.wide_tall = nn.Sequential(
            _plain(in_channels, out_channels, wide), _plain(out_channels, out_channels, tall)
        )

    def forward(self, maps: Tensor) -> Tensor:
        """[B, in_channels, H, W] -> [B, out_channels, H, W], any H and W."""
        return self.tall_wide(maps) + self.wide_tall(maps)


def _plain(in_channels: int, out_channels: int, kernel_size: tuple[int, int]) -> nn.Module:
    height, width = kernel_size
    return nn.Conv2d(in_channels, out_channels, kernel_size, padding=(height // 2, width // 2), bias=False)


def global_convolution(in_channels: int, out_channels: int, kernel_size: int) -> nn.Sequential:
    """A global convolution with normalisation and ReLU."""
    block = GlobalConvolution(in_channels, out_channels, kernel_size)
    return nn.Sequential(block, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True))


class GlobalAttentionUpsample(nn.Module):
    """Global attention upsample (Li et al. 2018) with a global convolution and scSE, out = up + low(x) gate(up).

    `up` is the deeper map at the size of the shallower one. It gates the shallower one's features and is added to them.
    In the paper `low` is a 3x3 convolution and the gate a number per channel (smp's GAUBlock); here they are a global
    convolution and the gate of scSE.
    """

    def __init__(self, low_channels: int, channels: int, kernel_size: int, reduction: int):
        super().__init__()
        self.low = global_convolution(low_channels, channels, kernel_size)
        self.scse = ScSE(channels, reduction)

    def forward(self, low: Tensor, high: Tensor) -> Tensor:
        """Shallow [B, low_channels, H, W] and deep [B, channels, h, w] -> [B, channels, H, W], any sizes."""
        up = resize_to(high, low)
        return up + self.low(low) * self.scse.gate(up)


class DeepSupervisionHead(nn.Module):
    """Logits from pixels and image together, supervised apart too (TGS salt 2018, 1st place, stage 2).

    `nonempty`: logits from the pixels alone, for the loss over images whose mask isn't empty. `empty`: the logit of
    'the mask is empty' from the image's mean features. The final logits see both: the image's features stand at every
    pixel beside the pixel's own.
    """

    names = ("empty", "nonempty")

    def __init__(self, pixel_channels: int, image_channels: int, channels: int, classes: int, dropout: float):
        super().__init__()
        self.pixel = _elu(pixel_channels, channels, 3)
        self.image = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Dropout(dropout), nn.Conv2d(image_channels, channels, 1), nn.ELU(inplace=True)
        )
        self.nonempty = nn.Conv2d(channels, classes, 1, bias=False)
        self.empty = nn.Conv2d(channels, 1, 1)
        self.logits = nn.Sequential(
            nn.Conv2d(2 * channels, channels, 3, padding=1, bias=False),
            nn.ELU(inplace=True),
            nn.Conv2d(channels, classes, 1, bias=False),
        )

    def forward(self, pixels: Tensor, image: Tensor) -> Tensor:
        """Pixel maps [B, P, H, W] and deepest encoder maps [B, I, h, w] -> logits [B, classes, H, W]."""
        return self._together(self.pixel(pixels), self.image(image))

    def heads(self, pixels: Tensor, image: Tensor) -> dict[str, Tensor]:
        """`logits` and `nonempty` [B, classes, H, W], `empty` [B, 1, 1, 1]; logits all of them."""
        pixel, whole = self.pixel(pixels), self.image(image)
        return {
            "logits": self._together(pixel, whole),
            "nonempty": self.nonempty(pixel),
            "empty": self.empty(whole),
        }

    def _together(self, pixel: Tensor, whole: Tensor) -> Tensor:
        return self.logits(torch.cat([pixel, whole.expand_as(pixel)], dim=1))


def plain_convolution(in_channels: int, out_channels: int) -> nn.Module:
    """3x3 convolution with a bias and ReLU, without normalisation: decoders of the SIIM networks are made of it."""
    return Conv2dNormActivation(in_channels, out_channels, 3, norm_layer=None)


def scse_gates(encoder: ResNetEncoder) -> nn.ModuleList:
    """scSE for the four layers of a ResNet encoder, with the published reduction of 4."""
    return nn.ModuleList(ScSE(channels, reduction=4) for channels in encoder.out_channels[2:])


def gated_features(encoder: ResNetEncoder, stem: nn.Module, gates: nn.ModuleList, maps: Tensor) -> list[Tensor]:
    """The maps of layer1 to layer4 of a ResNet, each through its gate, which the next layer sees.

    `stem` stands for the encoder's first convolution, and there is no max pooling after it: the published networks drop
    it, which makes every map twice as large.
    """
    maps = encoder.relu(encoder.bn1(stem(maps)))
    features = []
    for layer, gate in zip((encoder.layer1, encoder.layer2, encoder.layer3, encoder.layer4), gates, strict=True):
        maps = gate(layer(maps))
        features.append(maps)
    return features


def hypercolumn(maps: Sequence[Tensor]) -> Tensor:
    """All maps at the size of the first, channels in the given order (Hariharan et al. 2015)."""
    return torch.cat([resize_to(item, maps[0]) for item in maps], dim=1)


def resize_to(maps: Tensor, other: Tensor) -> Tensor:
    """Bilinear resize, corners aligned, to the height and width of another map."""
    if maps.shape[-2:] == other.shape[-2:]:
        return maps
    return functional.interpolate(maps, size=other.shape[-2:], mode="bilinear", align_corners=True)
