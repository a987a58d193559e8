"""AlbuNet, two of the four experiments of the SIIM-ACR pneumothorax 2019 1st place (Anuar Aimoldin)."""

from typing import Literal

import torch
from torch import Tensor, nn

from stagepipe.networks.blocks import ResNetArchitecture, plain_convolution

Upsampling = Literal["bilinear", "transposed"]


class SiimAlbunet(ResNetArchitecture):
    """U-Net on a ResNet, with a centre at 1/64 of the size and no normalisation in the decoder.

    Published with resnet34 (github.com/sneddy/pneumothorax-segmentation, ternausnets.py, AlbuNet) as 34,604,897
    parameters, and 513,000 of the encoder's classifier that have no use. The encoder's first pooling is 2x2 in place of
    3x3. A block doubles the size of its input and gives it to two convolutions; with resnet34 and F = `filters`:

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

    def __init__(
        self,
        encoder_name: str = "resnet34",
        encoder_weights: str | None = "imagenet",
        in_channels: int = 3,
        classes: int = 1,
        filters: int = 32,
        upsampling: Upsampling = "bilinear",
    ):
        """`upsampling`: bilinear before a block's first convolution, or a `transposed` convolution as its second."""
        super().__init__(encoder_name, encoder_weights, in_channels)
        if upsampling not in ("bilinear", "transposed"):
            raise ValueError(f"upsampling is bilinear or transposed, not {upsampling!r}")
        self.encoder.maxpool = nn.MaxPool2d(2)
        layer1, layer2, layer3, layer4 = self.encoder.out_channels[2:]
        f = filters
        self.centre = nn.Sequential(nn.MaxPool2d(2), *_block(layer4, 16 * f, 8 * f, upsampling))
        self.decoder = nn.ModuleList(
            nn.Sequential(*_block(*channels, upsampling))
            for channels in (
                (8 * f + layer4, 16 * f, 8 * f),
                (8 * f + layer3, 16 * f, 8 * f),
                (8 * f + layer2, 8 * f, 2 * f),
                (2 * f + layer1, 4 * f, 4 * f),
            )
        )
        self.full = nn.Sequential(*_block(4 * f, 4 * f, f, upsampling))
        self.head = nn.Sequential(plain_convolution(f, f), nn.Conv2d(f, classes, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Input channels [B, in_channels, H, W] -> logits [B, classes, H, W]."""
        _, _, *skips = self.encoder(images)
        maps = self.centre(skips[-1])
        for block, skip in zip(self.decoder, reversed(skips), strict=True):
            maps = block(torch.cat([maps, skip], dim=1))
        return self.head(self.full(maps))


def _block(inputs: int, middle: int, outputs: int, upsampling: Upsampling) -> list[nn.Module]:
    """Modules from [B, inputs, H, W] to [B, outputs, 2 H, 2 W]."""
    if upsampling == "transposed":
        up = nn.ConvTranspose2d(middle, outputs, 4, stride=2, padding=1)
        return [plain_convolution(inputs, middle), up, nn.ReLU(inplace=True)]
    return [
        nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False),
        plain_convolution(inputs, middle),
        plain_convolution(middle, outputs),
    ]
