"""U-Net on a ResNet of the AI Edge Contest 2018, segmentation of street scenes (Evgeny Kashin)."""

from stagepipe.networks.albunet import Albunet, Attention, Upsampling


class StreetUnet(Albunet):
    """AlbuNet with the ResNet as it is, its first pooling of 3x3 too, and maps doubled by repeating their pixels.

    Published (github.com/EvgenyKashin/signate_segmentation, ResnetUnet) with resnet18, 34, 50, 101 and 152. Of resnet34
    and 5 classes the encoder has 21.28 million parameters and the decoder 13.32 million, 16.33 if it is `transposed`;
    513,000 of the encoder's classifier have no use and aren't here. scSE was on the author's list of wishes.
    """

    upsamplings = ("nearest", "transposed")

    def __init__(
        self,
        encoder_name: str = "resnet34",
        encoder_weights: str | None = "imagenet",
        in_channels: int = 3,
        classes: int = 1,
        filters: int = 32,
        upsampling: Upsampling = "nearest",
        attention: Attention = "none",
    ):
        """`upsampling`: nearest before a block's first convolution, or a `transposed` convolution as its second.

        `attention`: `scse` gates what the blocks of the decoder give, after which come the skips.
        """
        super().__init__(encoder_name, encoder_weights, in_channels, classes, filters, upsampling, attention)
