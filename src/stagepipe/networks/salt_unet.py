"""U-Net with transposed convolutions and scSE of the TGS salt 2018 1st place (b.e.s., stages 1 and 2)."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.ops import Conv2dNormActivation

from stagepipe.networks.blocks import ResNetArchitecture, ScSE, SpatialGate
from stagepipe.networks.inputs import IMAGENET


class SaltUnet(ResNetArchitecture):
    """U-Net whose skips are taken inside the encoder's layers.

    Published with resnext50_32x4d. The skip of a decoder block is the ReLU after the first convolution of unit 1 of the
    next deeper layer, still at that layer's input size: 1024, 512 and 256 channels, then 64 of the stem. In a basic
    block (resnet18, resnet34) that convolution has the stride, so there the unit's input is taken, a ReLU too.

    The decoder's normalisation has Keras' epsilon of 1e-3 and Keras' momentum of 0.99, which is torch's 0.01
    (`norm_momentum`; give 0.1 for trainings of a few hundred steps). The encoder keeps torchvision's (1e-5 and 0.1; the
    published one has 2e-5 and 0.99), which its weights were trained with. Kernels of the decoder start as Keras' do.
    """

    divisor = 32

    def __init__(
        self,
        encoder_name: str = "resnext50_32x4d",
        encoder_weights: str | None = "imagenet",
        in_channels: int = 3,
        classes: int = 1,
        decoder_channels: Sequence[int] = (128, 64, 32, 16, 8),
        spatial_gate: SpatialGate = "channels",
        dropout: float = 0.2,
        input_norm: bool = True,
        norm_momentum: float = 0.01,
    ):
        """`spatial_gate`: of the decoder's scSE, one map per channel (published) or a `single` one for all.

        `dropout`: of whole channels before the last convolution. `input_norm`: see InputNorm.
        """
        super().__init__(encoder_name, encoder_weights, in_channels)
        if len(decoder_channels) != 5:
            raise ValueError(f"decoder_channels takes 5 numbers, one per block, not {len(decoder_channels)}")
        norm = partial(nn.BatchNorm2d, eps=1e-3, momentum=norm_momentum)
        self.input_norm = InputNorm(in_channels, norm_momentum) if input_norm else nn.Identity()
        widths = [self.encoder.out_channels[-1], *decoder_channels]
        skips = [_tap_channels(layer[0]) for layer in (self.encoder.layer4, self.encoder.layer3, self.encoder.layer2)]
        skips += [self.encoder.conv1.out_channels, 0]
        self.decoder = nn.ModuleList(
            DecoderBlock(before, skip, after, spatial_gate, norm)
            for (before, after), skip in zip(pairwise(widths), skips, strict=True)
        )
        self.head = nn.Sequential(nn.Dropout2d(dropout), nn.Conv2d(widths[-1], classes, 1))
        self._initialise()

    def forward(self, images: Tensor) -> Tensor:
        """Input channels [B, in_channels, H, W] -> logits [B, classes, H, W]."""
        maps, taps = self._encoded(self.input_norm(images))
        for block in self.decoder:
            maps = block(maps, taps.pop() if taps else None)
        return self.head(maps)

    def _encoded(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The deepest map, and the skips from the stem to the deepest."""
        encoder = self.encoder
        stem = encoder.relu(encoder.bn1(encoder.conv1(images)))
        maps, taps = encoder.layer1(encoder.maxpool(stem)), [stem]
        for layer in (encoder.layer2, encoder.layer3, encoder.layer4):
            tap, maps = _unit(layer[0], maps)
            taps.append(tap)
            maps = layer[1:](maps)
        return maps, taps

    def _initialise(self) -> None:
        """Keras' kernels, Glorot uniform with zero biases; the spatial gate's He normal, as published."""
        for part in (self.decoder, self.head):
            for module in part.modules():
                if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                    nn.init.xavier_uniform_(module.weight)
                    if module.bias is not None:
                        nn.init.zeros_(module.bias)
        for module in self.decoder.modules():
            if isinstance(module, ScSE):
                nn.init.kaiming_normal_(module.spatial.weight, nonlinearity="relu")


class InputNorm(nn.Module):
    """Batch normalisation without scale, for pixels 0..255: (x - mean) / sqrt(variance + 2e-5) + bias.

    The running statistics start at ImageNet's, as in the published encoder, which came with this layer.
    """

    def __init__(self, channels: int, momentum: float):
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, eps=2e-5, momentum=momentum, affine=False)
        self.bias = nn.Parameter(torch.zeros(channels))
        mean, std = (sum(numbers) / len(numbers) * 255 for numbers in (IMAGENET.mean, IMAGENET.std))
        nn.init.constant_(self.norm.get_buffer("running_mean"), mean)
        nn.init.constant_(self.norm.get_buffer("running_var"), std**2)

    def forward(self, images: Tensor) -> Tensor:
        """[B, channels, H, W] of the same shape."""
        return self.norm(images) + self.bias[:, None, None]


class DecoderBlock(nn.Module):
    """Transposed 4x4 convolution of stride 2, the skip beside it, 3x3 convolution, scSE with a reduction of 2."""

    def __init__(
        self, in_channels: int, skip_channels: int, channels: int, gate: SpatialGate, norm: Callable[..., nn.Module]
    ):
        super().__init__()
        # padding 1 cuts what Keras' `same` cuts of the 2 n + 2 pixels
        self.up = nn.Sequential(
            nn.ConvTranspose2d(in_channels, channels, 4, stride=2, padding=1, bias=False),
            norm(channels),
            nn.ReLU(inplace=True),
        )
        self.conv = Conv2dNormActivation(channels + skip_channels, channels, 3, norm_layer=norm)
        self.scse = ScSE(channels, reduction=2, spatial_gate=gate, spatial_bias=True)

    def forward(self, maps: Tensor, skip: Tensor | None = None) -> Tensor:
        """[B, in_channels, H, W] and [B, skip_channels, 2 H, 2 W] -> [B, channels, 2 H, 2 W]."""
        maps = self.up(maps)
        return self.scse(self.conv(maps if skip is None else torch.cat([maps, skip], dim=1)))


def _tap_channels(unit: BasicBlock | Bottleneck) -> int:
    return unit.conv1.out_channels if isinstance(unit, Bottleneck) else unit.conv1.in_channels


def _unit(unit: BasicBlock | Bottleneck, maps: Tensor) -> tuple[Tensor, Tensor]:
    """The tap and the output of a residual unit, of which torchvision's own forward gives only the latter."""
    if not isinstance(unit, Bottleneck):
        return maps, unit(maps)
    tap = unit.relu(unit.bn1(unit.conv1(maps)))
    residual = unit.bn3(unit.conv3(unit.relu(unit.bn2(unit.conv2(tap)))))
    return tap, unit.relu(residual + unit.downsample(maps))
