"""Hypercolumn networks of the TGS salt 2018 1st place (phalanx, stages 1 to 3)."""

from typing import Literal

import torch
from torch import Tensor, nn
from torchvision.ops import Conv2dNormActivation

from stagepipe.networks.blocks import (
    DeepSupervisionHead,
    FeaturePyramidAttention,
    ResNetArchitecture,
    ScSE,
    gated_features,
    hypercolumn,
    resize_to,
    scse_gates,
)


class SaltHypercolumn(ResNetArchitecture):
    """ResNet with scSE after each layer and no max pooling, feature pyramid attention, hypercolumn of all blocks.

    Published with resnet34 as three settings:

    | stage | arguments                                                            | parameters |
    |-------|----------------------------------------------------------------------|------------|
    | 1     | the defaults                                                         | 35,409,412 |
    | 2     | {deep_supervision: true, dropout: 0.4}                               | 35,516,165 |
    | 3     | {stem: conv3x3, full_resolution: false, head_channels: 32}           | 35,253,376 |

    Stage 3's published dropout of 0.4 never dropped anything (its version of PyTorch took it for evaluation), so there
    it is 0. Its published module also keeps the pretrained first convolution, unused: 9,408 parameters more.
    """

    def __init__(
        self,
        encoder_name: str = "resnet34",
        encoder_weights: str | None = "imagenet",
        in_channels: int = 3,
        classes: int = 1,
        stem: Literal["encoder", "conv3x3"] = "encoder",
        full_resolution: bool = True,
        deep_supervision: bool = False,
        head_channels: int = 64,
        dropout: float = 0.0,
        decoder_channels: int = 64,
        centre_channels: int = 256,
        pyramid_channels: int = 512,
    ):
        """`stem`: the encoder's 7x7 convolution of stride 2, or a new 3x3 one of stride 1 before the pretrained norm.

        `full_resolution`: a further block at the size of the input; without it the encoder's stem gives logits at half
        the size, resized. `deep_supervision`: see DeepSupervisionHead. `dropout`: of whole channels of the hypercolumn,
        and of the image's features. `decoder_channels`: of every block, even. `centre_channels`, `pyramid_channels`: of
        the feature pyramid attention and of its levels.
        """
        super().__init__(encoder_name, encoder_weights, in_channels)
        if stem not in ("encoder", "conv3x3"):
            raise ValueError(f"stem is encoder or conv3x3, not {stem!r}")
        if stem == "conv3x3" and full_resolution:
            raise ValueError("stem conv3x3 is at full resolution already; write full_resolution: false")
        self.stem: nn.Conv2d | None = None
        if stem == "conv3x3":
            self._replace_stem(in_channels)
        self.divisor = 32 if stem == "encoder" else 16
        self.gates = scse_gates(self.encoder)
        skips = self.encoder.out_channels[2:]
        self.centre = nn.Sequential(
            FeaturePyramidAttention(skips[-1], centre_channels, pyramid_channels), nn.MaxPool2d(2, 2)
        )
        inputs = [decoder_channels, decoder_channels, decoder_channels, centre_channels]
        self.decoder = nn.ModuleList(DecoderBlock(*pair, decoder_channels) for pair in zip(inputs, skips, strict=True))
        self.full = FullResolutionBlock(decoder_channels) if full_resolution else None
        width = (5 if full_resolution else 4) * decoder_channels
        self.dropout = nn.Dropout2d(dropout)
        self.head: DeepSupervisionHead | nn.Sequential
        if deep_supervision:
            self.head = DeepSupervisionHead(width, skips[-1], head_channels, classes, dropout)
            self.head_names = DeepSupervisionHead.names
        else:
            self.head = _plain_head(width, head_channels, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Input channels [B, in_channels, H, W] -> logits [B, classes, H, W]."""
        pixels, image = self._features(images)
        deep = isinstance(self.head, DeepSupervisionHead)
        logits = self.head(pixels, image) if deep else self.head(pixels)
        return resize_to(logits, images)

    def heads(self, images: Tensor) -> dict[str, Tensor]:
        """`logits`, and with deep supervision `nonempty` of the same shape and `empty` [B, 1, 1, 1]."""
        if not isinstance(self.head, DeepSupervisionHead):
            return {"logits": self(images)}
        heads = self.head.heads(*self._features(images))
        return {name: head if name == "empty" else resize_to(head, images) for name, head in heads.items()}

    def _features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The hypercolumn, and the deepest map of the encoder."""
        skips = gated_features(self.encoder, self.stem or self.encoder.conv1, self.gates, images)
        maps = self.centre(skips[-1])
        columns: list[Tensor] = []
        for block, skip in zip(reversed(self.decoder), reversed(skips), strict=True):
            maps = block(maps, skip)
            columns.insert(0, maps)
        if self.full is not None:
            columns.insert(0, self.full(maps, images))
        return self.dropout(hypercolumn(columns)), skips[-1]

    def _replace_stem(self, in_channels: int) -> None:
        """A random convolution in place of the pretrained one, which leaves the encoder."""
        self.stem = nn.Conv2d(in_channels, self.encoder.conv1.out_channels, 3, padding=1, bias=False)
        del self.encoder.conv1
        self.unused_encoder_weights = frozenset({"conv1.weight"})


class DecoderBlock(nn.Module):
    """Transposed 2x2 convolution of the deeper map beside a 1x1 convolution of the skip, half each, then scSE."""

    def __init__(self, in_channels: int, skip_channels: int, channels: int):
        super().__init__()
        if channels % 2:
            raise ValueError(
                f"decoder_channels: a block gives half to the skip, so write an even number, not {channels}"
            )
        self.up = nn.ConvTranspose2d(in_channels, channels // 2, 2, stride=2)
        self.skip = nn.Conv2d(skip_channels, channels // 2, 1, bias=False)
        self.norm = nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(inplace=True))
        self.scse = ScSE(channels, reduction=16)

    def forward(self, maps: Tensor, skip: Tensor) -> Tensor:
        """[B, in_channels, H, W] and [B, skip_channels, 2 H, 2 W] -> [B, channels, 2 H, 2 W]."""
        return self.scse(self.norm(torch.cat([self.up(maps), self.skip(skip)], dim=1)))


class FullResolutionBlock(nn.Module):
    """Bilinear resize, two 3x3 convolutions through half the channels, scSE; there is no skip at this size."""

    def __init__(self, channels: int):
        super().__init__()
        self.convs = nn.Sequential(
            Conv2dNormActivation(channels, channels // 2, 3, activation_layer=nn.ELU),
            Conv2dNormActivation(channels // 2, channels, 3, activation_layer=nn.ELU),
        )
        self.scse = ScSE(channels, reduction=16)

    def forward(self, maps: Tensor, images: Tensor) -> Tensor:
        """[B, channels, h, w] -> [B, channels, H, W], H and W the images'."""
        return self.scse(self.convs(resize_to(maps, images)))


def _plain_head(in_channels: int, channels: int, classes: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, 3, padding=1),
        nn.ELU(inplace=True),
        nn.Conv2d(channels, classes, 1, bias=False),
    )
