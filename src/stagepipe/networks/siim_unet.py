"""U-Nets without normalisation in the decoder of the SIIM-ACR pneumothorax 2019 1st place (Anuar Aimoldin)."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from stagepipe.networks.blocks import RESNETS, SENETS, ResNetArchitecture, ScSE, plain_convolution

Attention = Literal["none", "scse"]


class SiimUnet(ResNetArchitecture):
    """U-Net with one convolution before and one after each skip; maps are doubled by repeating their pixels.

    Published (github.com/sneddy/pneumothorax-segmentation, selim_zoo/unet.py, Resnet and SCSEUnet) as two settings:

    | encoder            | arguments                                                                  | parameters |
    |--------------------|----------------------------------------------------------------------------|------------|
    | resnet50           | the defaults                                                               | 34,458,177 |
    | se_resnext50_32x4d | {decoder_channels: [64, 128, 256, 384], last_channels: 32, attention: scse} | 41,249,489 |

    Skips are the encoder's maps at strides 16, 8, 4 and 2. Kernels of the decoder start as Kaiming normal, biases at 0.
    """

    encoder_names = RESNETS | SENETS
    divisor = 32

    def __init__(
        self,
        encoder_name: str = "resnet50",
        encoder_weights: str | None = "imagenet",
        in_channels: int = 3,
        classes: int = 1,
        decoder_channels: Sequence[int] = (64, 128, 256, 256),
        last_channels: int = 64,
        attention: Attention = "none",
    ):
        """`decoder_channels`: at strides 2, 4, 8 and 16, `last_channels` at 1. `attention`: `scse` gates each merge."""
        super().__init__(encoder_name, encoder_weights, in_channels)
        if len(decoder_channels) != 4:
            raise ValueError(f"decoder_channels takes 4 numbers, from stride 2 to 16, not {len(decoder_channels)}")
        if attention not in ("none", "scse"):
            raise ValueError(f"attention is none or scse, not {attention!r}")
        _, *skips, deepest = self.encoder.out_channels
        widths = [deepest, *reversed(decoder_channels)]
        self.decoder = nn.ModuleList(
            DecoderBlock(before, skip, after, attention)
            for (before, after), skip in zip(pairwise(widths), reversed(skips), strict=True)
        )
        self.full = _up(widths[-1], last_channels)
        self.head = nn.Conv2d(last_channels, classes, 1)
        self._initialise()

    def forward(self, images: Tensor) -> Tensor:
        """Input channels [B, in_channels, H, W] -> logits [B, classes, H, W]."""
        _, *skips, maps = self.encoder(images)
        for block, skip in zip(self.decoder, reversed(skips), strict=True):
            maps = block(maps, skip)
        return self.head(self.full(maps))

    def _initialise(self) -> None:
        for part in (self.decoder, self.full, self.head):
            for module in part.modules():
                if isinstance(module, nn.Conv2d):
                    nn.init.kaiming_normal_(module.weight)
                    if module.bias is not None:
                        nn.init.zeros_(module.bias)


class DecoderBlock(nn.Module):
    """Nearest pixel at twice the size and a convolution, the skip beside it, a convolution, scSE if wanted.

    scSE has a reduction of 2 and takes the larger of its two gated maps.
    """

    def __init__(self, in_channels: int, skip_channels: int, channels: int, attention: Attention):
        super().__init__()
        self.up = _up(in_channels, channels)
        self.merge = plain_convolution(channels + skip_channels, channels)
        self.scse = ScSE(channels, reduction=2, combined="max") if attention == "scse" else nn.Identity()

    def forward(self, maps: Tensor, skip: Tensor) -> Tensor:
        """[B, in_channels, H, W] and [B, skip_channels, 2 H, 2 W] -> [B, channels, 2 H, 2 W]."""
        return self.scse(self.merge(torch.cat([self.up(maps), skip], dim=1)))


def _up(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(nn.Upsample(scale_factor=2), plain_convolution(in_channels, out_channels))
