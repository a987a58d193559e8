"""AlbuNet (Shvets et al. 2018), a U-Net on a ResNet that two published systems have, each in a form of its own."""

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from stagepipe.networks.blocks import ResNetArchitecture, ScSE, plain_convolution

Upsampling = Literal["bilinear", "nearest", "transposed"]
Attention = Literal["none", "scse"]


class Albunet(ResNetArchitecture):
    """U-Net on a ResNet, with a centre at 1/64 of the size and no normalisation in the decoder.

    A block doubles the size of its input and gives it to two convolutions; with resnet34 and F = `filters`:

    | block     | of                          | channels                 | stride |
    |-----------|-----------------------------|--------------------------|--------|
    | centre    | layer4 through 2x2 pooling  | 512, 16 F, 8 F           | 32     |
    | decoder 5 | centre, layer4              | 8 F + 512, 16 F, 8 F     | 16     |
    | decoder 4 | decoder 5, layer3           | 8 F + 256, 16 F, 8 F     | 8      |
    | decoder 3 | decoder 4, layer2           | 8 F + 128, 8 F, 2 F      | 4      |
    | decoder 2 | decoder 3, layer1           | 2 F + 64, 4 F, 4 F       | 2      |
    | decoder 1 | decoder 2                   | 4 F, 4 F, F              | 1      |
    | head      | 3x3 and 1x1 convolution     | F, F, classes            | 1      |

    Random weights are torch's defaults, as published.
    """

    divisor = 64
    upsamplings: ClassVar[tuple[Upsampling, ...]]
    """those that the published system has"""

    def __init__(
        self,
        encoder_name: str,
        encoder_weights: str | None,
        in_channels: int,
        classes: int,
        filters: int,
        upsampling: Upsampling,
        attention: Attention = "none",
    ):
        """`upsampling`: of `doubling_block`. `attention`: `scse` gates what each block of the decoder gives."""
        super().__init__(encoder_name, encoder_weights, in_channels)
        if upsampling not in self.upsamplings:
            raise ValueError(f"upsampling is {' or '.join(self.upsamplings)}, not {upsampling!r}")
        if attention not in ("none", "scse"):
            raise ValueError(f"attention is none or scse, not {attention!r}")
        layer1, layer2, layer3, layer4 = self.encoder.out_channels[2:]
        f = filters
        self.centre = nn.Sequential(nn.MaxPool2d(2), *doubling_block(layer4, 16 * f, 8 * f, upsampling))
        self.decoder = nn.ModuleList(
            nn.Sequential(*doubling_block(*channels, upsampling), *_gate(channels[-1], attention))
            for channels in (
                (8 * f + layer4, 16 * f, 8 * f),
                (8 * f + layer3, 16 * f, 8 * f),
                (8 * f + layer2, 8 * f, 2 * f),
                (2 * f + layer1, 4 * f, 4 * f),
            )
        )
        self.full = nn.Sequential(*doubling_block(4 * f, 4 * f, f, upsampling), *_gate(f, attention))
        self.head = nn.Sequential(plain_convolution(f, f), nn.Conv2d(f, classes, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Input channels [B, in_channels, H, W] -> logits [B, classes, H, W]."""
        _, _, *skips = self.encoder(images)
        maps = self.centre(skips[-1])
        for block, skip in zip(self.decoder, reversed(skips), strict=True):
            maps = block(torch.cat([maps, skip], dim=1))
        return self.head(self.full(maps))


def doubling_block(inputs: int, middle: int, outputs: int, upsampling: Upsampling) -> list[nn.Module]:
    """Modules from [B, inputs, H, W] to [B, outputs, 2 H, 2 W], without normalisation.

    Bilinear or nearest pixels before the first of two convolutions, or a `transposed` convolution as the second.
    """
    if upsampling == "transposed":
        up = nn.ConvTranspose2d(middle, outputs, 4, stride=2, padding=1)
        return [plain_convolution(inputs, middle), up, nn.ReLU(inplace=True)]
    return [
        nn.Upsample(scale_factor=2, mode=upsampling, align_corners=False if upsampling == "bilinear" else None),
        plain_convolution(inputs, middle),
        plain_convolution(middle, outputs),
    ]


def _gate(channels: int, attention: Attention) -> list[nn.Module]:
    """scSE with the reduction and the sum of smp's, if wanted."""
    return [ScSE(channels, reduction=16)] if attention == "scse" else []
