"""AlbuNet, two of the four experiments of the SIIM-ACR pneumothorax 2019 1st place (Anuar Aimoldin)."""

from torch import nn

from stagepipe.networks.albunet import Albunet, Upsampling


class SiimAlbunet(Albunet):
    """AlbuNet whose encoder's first pooling is 2x2 in place of 3x3, with bilinear upsampling.

    Published with resnet34 (github.com/sneddy/pneumothorax-segmentation, ternausnets.py, AlbuNet) as 34,604,897
    parameters, and 513,000 of the encoder's classifier that have no use.
    """

    upsamplings = ("bilinear", "transposed")

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
        super().__init__(encoder_name, encoder_weights, in_channels, classes, filters, upsampling)
        self.encoder.maxpool = nn.MaxPool2d(2)
