"""Global convolutions and global attention upsampling: `resnet_34_resize_128` of the TGS salt 2018 1st place."""

from torch import Tensor, nn
from torchvision.ops import Conv2dNormActivation

from stagepipe.networks.blocks import (
    DeepSupervisionHead,
    GlobalAttentionUpsample,
    ResNetArchitecture,
    gated_features,
    global_convolution,
    resize_to,
    scse_gates,
)


class SaltAttention(ResNetArchitecture):
    """ResNet with scSE after each layer and no max pooling, global convolutions, global attention upsampling.

    Its authors described it in a few lines and published no code. What the lines say: resnet34 with scSE, the first max
    pooling removed; a centre of a 3x3 convolution and a global convolutional network; a decoder of global attention
    upsamples with scSE for the gate and a global convolution for the 3x3 convolution; deep supervision. What they leave
    open, and what stands here:

    * Kernel size 7. The global convolutional network takes one size for all levels, about that of its smallest map (15
      for 16x16). Here an input of 128 has a smallest map of 8x8, and 7 is the largest odd number that fits.
    * 64 channels in the centre, the decoder and the head, as in the decoders the author published.
    * Batch normalisation and ReLU after every global convolution, as after the 3x3 convolution that it replaces. No
      boundary refinement: nothing says that it was taken over, too.
    * The gate is computed from the deeper map and applied to the shallower one. That is what makes it global attention
      upsampling; scSE on the shallower map alone would be an ordinary scSE decoder.
    * Reductions of scSE: 4 in the encoder, 16 in the decoder, as in the author's other networks.
    * The decoder takes layer3, layer2 and layer1 as shallower maps. Its last map, at half the size of the input, is
      resized bilinearly. No hypercolumn: the author lists it for other networks, not for this one.
    * Deep supervision, its head and its dropout of 0.4: those of the author's stage 2 (DeepSupervisionHead).
    """

    requires_divisible_input_shape = False
    divisor = 1
    head_names = DeepSupervisionHead.names

    def __init__(
        self,
        encoder_name: str = "resnet34",
        encoder_weights: str | None = "imagenet",
        in_channels: int = 3,
        classes: int = 1,
        decoder_channels: int = 64,
        kernel_size: int = 7,
        head_channels: int = 64,
        dropout: float = 0.4,
    ):
        """`kernel_size`: of the global convolutions, odd. `dropout`: as in SaltHypercolumn with deep supervision."""
        super().__init__(encoder_name, encoder_weights, in_channels)
        self.gates = scse_gates(self.encoder)
        *shallow, deepest = self.encoder.out_channels[2:]
        self.centre = nn.Sequential(
            Conv2dNormActivation(deepest, decoder_channels, 3),
            global_convolution(decoder_channels, decoder_channels, kernel_size),
        )
        self.decoder = nn.ModuleList(
            GlobalAttentionUpsample(channels, decoder_channels, kernel_size, reduction=16)
            for channels in reversed(shallow)
        )
        self.dropout = nn.Dropout2d(dropout)
        self.head = DeepSupervisionHead(decoder_channels, deepest, head_channels, classes, dropout)

    def forward(self, images: Tensor) -> Tensor:
        """Input channels [B, in_channels, H, W] -> logits [B, classes, H, W], any H and W."""
        return self.head(*self._features(images))

    def heads(self, images: Tensor) -> dict[str, Tensor]:
        """`logits` and `nonempty` [B, classes, H, W], `empty` [B, 1, 1, 1]."""
        return self.head.heads(*self._features(images))

    def _features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The decoder's last map at the size of the input, and the deepest map of the encoder."""
        *shallow, deepest = gated_features(self.encoder, self.encoder.conv1, self.gates, images)
        maps = self.centre(deepest)
        for block, low in zip(self.decoder, reversed(shallow), strict=True):
            maps = block(low, maps)
        return self.dropout(resize_to(maps, images)), deepest
