"""From stored pixels to a network's input channels, on the device and inside the network."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from stagepipe.errors import RecipeError
from stagepipe.recipe.model import Normalise

# Mean and standard deviation of ImageNet's training images (RGB, 0..1), as torchvision and timm use them.
IMAGENET = Normalise(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])


class InputChannels(nn.Module):
    """Pixels 0..255 -> normalised image channels, row ramp and product, in the order the recipe lists them.

    Normalised by `none`, image channels stay 0..255, for a network that begins with a normalisation of its own.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        channels: Sequence[Literal["image", "row_ramp", "product"]],
        normalise: Literal["imagenet", "none"] | Normalise,
        stored_channels: int,
    ):
        super().__init__()
        self.as_stored = normalise == "none"
        self.channels = tuple(channels)
        self.count = sum(stored_channels if channel == "image" else 1 for channel in channels)
        mean, std = _mean_and_std(normalise, stored_channels, self.channels.count("image"))
        # not persistent: they come from the recipe, weights files hold the network alone
        self.register_buffer("mean", torch.tensor(mean).view(1, len(mean), 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, len(std), 1, 1), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels [B, K, H, W], uint8 or float 0..255, already padded -> float32 [B, count, H, W].

        `row_ramp` goes 0..1 from the first to the last row of the padded image; `product` is the mean of the stored
        channels (0..1, before normalisation) times the ramp (TGS salt 2018, 1st place).
        """
        image = pixels.float() / 255
        batch, _, height, width = image.shape
        ramp = torch.linspace(0, 1, height, device=image.device).view(1, 1, height, 1).expand(batch, 1, height, width)
        normalised = pixels.float() if self.as_stored else image
        copies = normalised.repeat(1, self.channels.count("image"), 1, 1).sub(self.mean).div(self.std)
        images = iter(copies.split(image.shape[1], dim=1))
        parts = []
        for channel in self.channels:
            if channel == "image":
                parts.append(next(images))
            else:
                parts.append(ramp if channel == "row_ramp" else image.mean(dim=1, keepdim=True) * ramp)
        return torch.cat(parts, dim=1)


def _mean_and_std(
    normalise: Literal["imagenet", "none"] | Normalise, stored_channels: int, copies: int
) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of the stored channels of every copy of the image, one copy after the other.

    RecipeError unless the recipe gives one number, one a stored channel, or one for each of them in every copy.
    """
    wanted = stored_channels * copies
    values = normalise if isinstance(normalise, Normalise) else IMAGENET if normalise == "imagenet" else Normalise()
    result = []
    for key, numbers in (("mean", values.mean), ("std", values.std)):
        if len(numbers) in (1, stored_channels, wanted):
            result.append(numbers * (wanted // len(numbers)))
        elif isinstance(normalise, str):  # gray images take ImageNet's averages
            result.append([sum(numbers) / len(numbers)] * wanted)
        else:
            raise RecipeError(
                f"normalise: {key} has {len(numbers)} numbers, the stored images have {stored_channels} channels; "
                f"write {_counts(stored_channels, wanted)} numbers"
            )
    return result[0], result[1]


def _counts(stored_channels: int, wanted: int) -> str:
    return " or ".join(map(str, sorted({1, stored_channels, wanted})))
