"""The network of one author of the TGS salt 2018 15th place (github.com/adam9500370/Kaggle-TGS)."""

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import Conv2dNormActivation

from stagepipe.networks.architecture import Architecture
from stagepipe.networks.blocks import resize_to
from stagepipe.networks.guided_upsampling import GuidedUpsampling

BINS = (6, 3, 2, 1)


class Salt15th(Architecture):
    """U-Net of bottlenecks with dilation, pyramid pooling, scSE and guided upsampling, on an encoder of its own.

    Published as 2,000,470 parameters (one input channel, `feature_scale` 2), of which 132,096 are two convolutions that
    are built and never used; they aren't here. `scse` and `guided_upsampling` can be left out: parameters keep their
    names, so that the weights of a smaller network start a grown one.

    A single class has two channels of logits there and a softmax; here their difference is its logit, whose sigmoid is
    that softmax. With f = `feature_scale` / 2 and an input of 129:

    | part           | of                            | channels | size |
    |----------------|-------------------------------|----------|------|
    | encoder.stem   | image                         | 32 f     | 129  |
    | encoder.layer1 | stem, then scSE               | 64 f     | 65   |
    | encoder.layer2 | layer1, then scSE             | 128 f    | 33   |
    | encoder.layer3 | layer2, then scSE             | 256 f    | 17   |
    | encoder.layer4 | layer3, dilation 2            | 256 f    | 17   |
    | encoder.layer5 | layer4, dilation 4            | 256 f    | 17   |
    | pyramid        | layer5 and four pooled copies | 512 f    | 17   |
    | bottom         | pyramid                       | 128 f    | 17   |
    | decoder3       | bottom through scSE           | 128 f    | 33   |
    | decoder2       | layer2, decoder3, then scSE   | 64 f     | 65   |
    | decoder1       | layer1, decoder2, then scSE   | 32 f     | 129  |
    | decoder0       | stem, decoder1, then scSE     | 16 f     | 129  |

    Guided upsampling of `bottom` by `stem` is added before the last scSE.
    """

    requires_divisible_input_shape = False
    divisor = 1
    head_names = ("auxiliary",)
    encoder: nn.ModuleDict

    def __init__(
        self,
        encoder_name: str | None = None,
        encoder_weights: str | None = None,
        in_channels: int = 1,
        classes: int = 1,
        feature_scale: int = 2,
        scse: bool = True,
        guided_upsampling: bool = True,
        dropout: float = 0.1,
    ):
        """`dropout`: of whole channels, before both heads."""
        super().__init__()
        if encoder_name or encoder_weights:
            raise ValueError("the encoder is its own and has no weights")
        width = 16 * feature_scale  # of the stem
        gate = _ScSE if scse else nn.Identity
        self.encoder = nn.ModuleDict(
            OrderedDict(
                stem=Conv2dNormActivation(in_channels, width, 3),
                layer1=_stage(width, width // 2, 2 * width, stride=2),
                gate1=gate(2 * width),
                layer2=_stage(2 * width, width, 4 * width, stride=2),
                gate2=gate(4 * width),
                layer3=_stage(4 * width, 2 * width, 8 * width, stride=2),
                gate3=gate(8 * width),
                layer4=_stage(8 * width, 2 * width, 8 * width, dilation=2),
                layer5=_stage(8 * width, 2 * width, 8 * width, dilation=4),
            )
        )
        self.single_class = classes == 1
        channels = 2 if self.single_class else classes
        self.auxiliary = _head(8 * width, width // 2, channels, dropout)
        self.pyramid = _PyramidPooling(8 * width, 2 * width)
        self.bottom = Conv2dNormActivation(16 * width, 4 * width, 3)
        self.gate3 = gate(4 * width)
        self.decoder2 = _stage(8 * width, width, 2 * width)
        self.gate2 = gate(2 * width)
        self.decoder1 = _stage(4 * width, width // 2, width)
        self.gate1 = gate(width)
        self.decoder0 = _stage(2 * width, width // 4, width // 2)
        self.gate0 = gate(width // 2)
        self.dropout = nn.Dropout2d(dropout)
        self.logits = nn.Conv2d(width // 2, channels, 1)
        self.part_names = ("guided_upsampling",) if guided_upsampling else ()
        self.guided_upsampling = GuidedUpsampling(4 * width, width, width // 2) if guided_upsampling else None

    def forward(self, images: Tensor) -> Tensor:
        """Input channels [B, in_channels, H, W] -> logits [B, classes, H, W], any H and W; published with 129."""
        return self._logits(self._features(images))

    def heads(self, images: Tensor) -> dict[str, Tensor]:
        """`logits` and `auxiliary`, from the encoder's layer3, both [B, classes, H, W]."""
        features = self._features(images)
        auxiliary = resize_to(self.auxiliary(features[-1]), images)
        return {"logits": self._logits(features), "auxiliary": self._of_classes(auxiliary)}

    def _features(self, images: Tensor) -> list[Tensor]:
        """Maps of the stem and of layer1 to layer3, through their gates."""
        encoder = self.encoder
        features = [encoder["stem"](images)]
        for level in (1, 2, 3):
            features.append(encoder[f"gate{level}"](encoder[f"layer{level}"](features[-1])))
        return features

    def _logits(self, features: list[Tensor]) -> Tensor:
        stem, layer1, layer2, layer3 = features
        deepest = self.encoder["layer5"](self.encoder["layer4"](layer3))
        bottom = self.bottom(self.pyramid(deepest))
        maps = resize_to(self.gate3(bottom), layer2)
        maps = resize_to(self.gate2(self.decoder2(torch.cat([layer2, maps], dim=1))), layer1)
        maps = resize_to(self.gate1(self.decoder1(torch.cat([layer1, maps], dim=1))), stem)
        maps = self.decoder0(torch.cat([stem, maps], dim=1))
        if self.guided_upsampling is not None:
            maps = maps + self.guided_upsampling(bottom, stem)
        return self._of_classes(self.logits(self.dropout(self.gate0(maps))))

    def _of_classes(self, logits: Tensor) -> Tensor:
        """Logits of background and a single class as one of the class alone; those of several classes as they are."""
        return logits[:, 1:] - logits[:, :1] if self.single_class else logits


class _Bottleneck(nn.Module):
    """1x1, 3x3 with the stride and the dilation, 1x1; added to the input, or to a 1x1 convolution of it."""

    def __init__(self, inputs: int, middle: int, outputs: int, stride: int = 1, dilation: int = 1):
        super().__init__()
        self.convolutions = nn.Sequential(
            Conv2dNormActivation(inputs, middle, 1),
            Conv2dNormActivation(middle, middle, 3, stride, dilation=dilation),
            Conv2dNormActivation(middle, outputs, 1, activation_layer=None),
        )
        self.shortcut: nn.Module = nn.Identity()
        if inputs != outputs:
            self.shortcut = Conv2dNormActivation(inputs, outputs, 1, stride, activation_layer=None)

    def forward(self, maps: Tensor) -> Tensor:
        return functional.relu(self.convolutions(maps) + self.shortcut(maps), inplace=True)


def _stage(inputs: int, middle: int, outputs: int, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    """Three bottlenecks, the first of which changes channels and size."""
    later = (_Bottleneck(outputs, middle, outputs, dilation=dilation) for _ in range(2))
    return nn.Sequential(_Bottleneck(inputs, middle, outputs, stride, dilation), *later)


class _ScSE(nn.Module):
    """Concurrent squeeze and excitation (Roy et al. 2018), x c + x s, with normalisation behind every convolution."""

    def __init__(self, channels: int):
        super().__init__()
        self.channel = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            Conv2dNormActivation(channels, channels // 2, 1),
            Conv2dNormActivation(channels // 2, channels, 1, activation_layer=None),
        )
        self.spatial = Conv2dNormActivation(channels, 1, 1, activation_layer=None)

    def forward(self, maps: Tensor) -> Tensor:
        return maps * (self.channel(maps).sigmoid() + self.spatial(maps).sigmoid())


class _PyramidPooling(nn.Module):
    """The map and four pooled copies of it, each of so many windows along an axis, which overlap.

    Of n pixels and b windows the stride is n // b and a window has n - stride (b - 1): not those of adaptive pooling.
    """

    def __init__(self, inputs: int, channels: int):
        super().__init__()
        self.branches = nn.ModuleList(Conv2dNormActivation(inputs, channels, 1) for _ in BINS)

    def forward(self, maps: Tensor) -> Tensor:
        pooled = [branch(_pooled(maps, bins)) for branch, bins in zip(self.branches, BINS, strict=True)]
        return torch.cat([maps, *(resize_to(item, maps) for item in pooled)], dim=1)


def _pooled(maps: Tensor, bins: int) -> Tensor:
    strides = [max(1, edge // bins) for edge in maps.shape[-2:]]
    windows = [max(1, edge - stride * (bins - 1)) for edge, stride in zip(maps.shape[-2:], strides, strict=True)]
    return functional.avg_pool2d(maps, windows, strides)


def _head(inputs: int, middle: int, outputs: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(Conv2dNormActivation(inputs, middle, 3), nn.Dropout2d(dropout), nn.Conv2d(middle, outputs, 1))
