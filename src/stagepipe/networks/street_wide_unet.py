"""TernausNetV2 as the AI Edge Contest 2018, segmentation of street scenes, has seen it (Evgeny Kashin)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from stagepipe.networks.albunet import doubling_block
from stagepipe.networks.architecture import Architecture
from stagepipe.networks.blocks import plain_convolution


class WiderResNet(nn.Module):
    """A 3x3 convolution and four modules of residual blocks, each after a 2x2 pooling (Wu et al. 2016).

    Dropout of whole channels is in the last two modules.
    """

    def __init__(
        self, in_channels: int, blocks: Sequence[int], channels: Sequence[tuple[int, int]], dropout: float
    ) -> None:
        super().__init__()
        self.out_channels = [64, *(last for _, last in channels)]
        self.stem = nn.Conv2d(in_channels, 64, 3, padding=1, bias=False)
        rates = [0.0] * (len(blocks) - 2) + [dropout] * 2
        self.layers = nn.ModuleList(
            _layer(before, count, middle, last, rate)
            for before, count, (middle, last), rate in zip(self.out_channels[:-1], blocks, channels, rates, strict=True)
        )

    def forward(self, images: Tensor) -> list[Tensor]:
        """[B, in_channels, H, W] -> the maps of module 1 to 5, at strides 1, 2, 4, 8 and 16."""
        maps = [self.stem(images)]
        for layer in self.layers:
            maps.append(layer(maps[-1]))
        return maps


class PreActivationBlock(nn.Module):
    """Residual block with activations before its convolutions (He et al. 2016), and dropout between these.

    The shortcut is the input itself or, where the number of channels changes, a 1x1 convolution of the activated input.
    """

    def __init__(self, in_channels: int, middle: int, out_channels: int, dropout: float):
        super().__init__()
        self.activation = _activation(in_channels)
        self.convolutions = nn.Sequential(
            nn.Conv2d(in_channels, middle, 3, padding=1, bias=False),
            *_activation(middle),
            *([nn.Dropout2d(dropout)] if dropout else []),
            nn.Conv2d(middle, out_channels, 3, padding=1, bias=False),
        )
        changes = in_channels != out_channels
        self.projection = nn.Conv2d(in_channels, out_channels, 1, bias=False) if changes else None

    def forward(self, maps: Tensor) -> Tensor:
        """[B, in_channels, H, W] -> [B, out_channels, H, W]."""
        active = self.activation(maps)
        shortcut = self.projection(active) if self.projection else maps
        return shortcut + self.convolutions(active)


def _layer(in_channels: int, blocks: int, middle: int, out_channels: int, dropout: float) -> nn.Sequential:
    inputs = [in_channels] + [out_channels] * (blocks - 1)
    return nn.Sequential(
        nn.MaxPool2d(2), *(PreActivationBlock(before, middle, out_channels, dropout) for before in inputs)
    )


def _activation(channels: int) -> nn.Sequential:
    return nn.Sequential(nn.BatchNorm2d(channels), nn.LeakyReLU(0.01, inplace=True))


class StreetWideUnet(Architecture):
    """U-Net on a WiderResNet without pretrained weights; no normalisation in the decoder, maps doubled by repetition.

    Published (github.com/EvgenyKashin/signate_segmentation, TernausNetV2) as 25.1 million parameters, and 45.9 of the
    encoder's last modules and classifier that have no use and aren't here. With F = `filters`:

    | block      | of                           | channels                    | stride |
    |------------|------------------------------|-----------------------------|--------|
    | module 1   | a 3x3 convolution            | 64                          | 1      |
    | module 2   | one residual block           | 64, 128, 128                | 2      |
    | module 3   | one                          | 128, 256, 256               | 4      |
    | module 4   | one, with dropout            | 256, 384, 384               | 8      |
    | module 5   | three, with dropout          | 384, 512, 512 (first block) | 16     |
    | centre     | module 5 through 2x2 pooling | 512, 8 F, 8 F               | 16     |
    | decoder 5  | centre, module 5             | 8 F + 512, 8 F, 8 F         | 8      |
    | decoder 4  | decoder 5, module 4          | 8 F + 384, 8 F, 8 F         | 4      |
    | decoder 3  | decoder 4, module 3          | 8 F + 256, 6 F, 6 F         | 2      |
    | decoder 2  | decoder 3, module 2          | 6 F + 128, 4 F, 2 F         | 1      |
    | decoder 1  | decoder 2, module 1          | 2 F + 64, F                 | 1      |
    | head       | 1x1 convolution              | F, classes                  | 1      |

    Random weights are torch's defaults.
    """

    encoder: WiderResNet
    divisor = 32

    def __init__(
        self,
        encoder_name: None = None,
        encoder_weights: None = None,
        in_channels: int = 3,
        classes: int = 1,
        filters: int = 32,
        blocks: Sequence[int] = (1, 1, 1, 3),
        channels: Sequence[tuple[int, int]] = ((128, 128), (256, 256), (384, 384), (512, 512)),
        dropout: float = 0.3,
    ):
        """`blocks` and `channels` of each (middle, last) of the modules 2 to 5; `dropout` in the last two of these.

        The standard WiderResNet38, [3, 3, 6, 3, 1, 1], is {blocks: [3, 3, 6, 3], channels: [[128, 128], [256, 256],
        [512, 512], [512, 1024]]}: its modules 6 and 7 have no part in a U-Net.
        """
        super().__init__()
        if len(blocks) != 4 or len(channels) != 4:
            raise ValueError(
                f"blocks and channels are those of the modules 2 to 5, 4 each, not {len(blocks)} and {len(channels)}"
            )
        if min(blocks) < 1:
            raise ValueError(f"a module has at least 1 block, not {min(blocks)}")
        self.encoder = WiderResNet(in_channels, blocks, channels, dropout)
        module1, module2, module3, module4, module5 = self.encoder.out_channels
        f = filters
        self.centre = nn.Sequential(nn.MaxPool2d(2), *doubling_block(module5, 8 * f, 8 * f, "nearest"))
        self.decoder = nn.ModuleList(
            nn.Sequential(*doubling_block(*widths, "nearest"))
            for widths in (
                (8 * f + module5, 8 * f, 8 * f),
                (8 * f + module4, 8 * f, 8 * f),
                (8 * f + module3, 6 * f, 6 * f),
                (6 * f + module2, 4 * f, 2 * f),
            )
        )
        self.full = plain_convolution(2 * f + module1, f)
        self.head = nn.Conv2d(f, classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Input channels [B, in_channels, H, W] -> logits [B, classes, H, W]."""
        full, *skips = self.encoder(images)
        maps = self.centre(skips[-1])
        for block, skip in zip(self.decoder, reversed(skips), strict=True):
            maps = block(torch.cat([maps, skip], dim=1))
        return self.head(self.full(torch.cat([maps, full], dim=1)))
