"""Resize and pad before the network, crop and resize back after it; all on the device the maps are on.

Bilinear resizing is `align_corners=False` without antialiasing, which is OpenCV's INTER_LINEAR. Padding is split
evenly and an odd pixel goes to the bottom and the right, so 101 -> 128 adds 13 above and 14 below. Padding copies
source pixels by an index map per axis, which works for any margin, also one wider than the image.
"""

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional

from stagepipe.errors import RecipeError
from stagepipe.recipe.model import Pad


@dataclass(frozen=True)
class Geometry:
    """Input geometry of a network: an optional resize, then an optional pad."""

    resize: tuple[int, int] | None = None
    """height and width before padding; none keeps the image's"""
    pad: Pad | None = None
    single_class: bool = True
    """masks are shares of one class (bilinear, may become soft) rather than class indices (nearest)"""
    hard_mask: bool = False
    """a resized mask of one class is set where above one half"""

    def of_crops(self) -> Self:
        """The geometry of images that have the network's size already: masks as here, no resize and no pad."""
        return replace(self, resize=None, pad=None)

    def resized_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width after the resize of an image of that size."""
        return self.resize or (height, width)

    def padded_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width that the network sees for an image of that size; RecipeError if the pad is smaller."""
        inner = self.resized_size(height, width)
        if self.pad is None:
            return inner
        if inner[0] > self.pad.to[0] or inner[1] > self.pad.to[1]:
            enough = [max(pair) for pair in zip(inner, self.pad.to, strict=True)]
            raise RecipeError(
                f"pad: to {list(self.pad.to)} is smaller than the image before padding, {list(inner)}; "
                f"write `pad: {{to: {enough}}}` or a smaller `resize`"
            )
        return self.pad.to

    def apply(self, maps: Tensor) -> Tensor:
        """Resize and pad [B, C, H, W] -> [B, C, H', W']; the dtype stays, but a resize turns integers into float32."""
        height, width = maps.shape[-2:]
        inner = self.resized_size(height, width)
        return self._padded(_bilinear(maps, inner), self.padded_size(height, width))

    def mask(self, target: Tensor, fill: int = 0) -> Tensor:
        """Masks [B, H, W] -> the padded grid [B, H', W'].

        Single class: float32, soft (0..1) where a resize blends the border, unless the mask is to be hard. Several:
        int64 class indices, nearest pixel (by pixel centres, as the image). `fill` is what `zero` padding writes: give
        the ignore index so that the padding doesn't count.
        """
        height, width = target.shape[-2:]
        if self.single_class:
            inner = _bilinear(target[:, None].float(), self.resized_size(height, width))
            inner = (inner > 0.5).float() if self.hard_mask else inner
        else:
            inner = _nearest(target[:, None].long(), self.resized_size(height, width))
        return self._padded(inner, self.padded_size(height, width), fill)[:, 0]

    def undo(self, maps: Tensor, height: int, width: int) -> Tensor:
        """Float maps [B, C, H', W'] -> [B, C, height, width]: crop the padding, then bilinear back to the image's size.

        Without a resize this is the exact inverse of `apply`.
        """
        rows, columns = self.resized_size(height, width)
        top, left = (maps.shape[-2] - rows) // 2, (maps.shape[-1] - columns) // 2
        return _bilinear(maps[..., top : top + rows, left : left + columns], (height, width))

    def _padded(self, maps: Tensor, size: tuple[int, int], fill: int = 0) -> Tensor:
        """Pad [B, C, H, W] to `size` by the recipe's mode; `fill` is used by `zero` only."""
        if self.pad is None or tuple(maps.shape[-2:]) == size:
            return maps
        if self.pad.mode == "zero":
            (top, bottom), (left, right) = (_margins(*pair) for pair in zip(maps.shape[-2:], size, strict=True))
            return functional.pad(maps, (left, right, top, bottom), value=fill)
        for axis in (-2, -1):
            source = _source_pixels(maps.shape[axis], size[axis], self.pad.mode, maps.device)
            maps = maps.index_select(axis, source)
        return maps


def _margins(size: int, padded: int) -> tuple[int, int]:
    """Pixels added before and after an axis; the odd one comes after."""
    before = (padded - size) // 2
    return before, padded - size - before


def _source_pixels(size: int, padded: int, mode: str, device: torch.device) -> Tensor:
    """The source pixel of every pixel of a padded axis, int64 [padded]."""
    before, after = _margins(size, padded)
    index = torch.arange(-before, size + after, device=device)
    if mode == "edge":
        return index.clamp(0, size - 1)
    if mode == "symmetric":  # dcba|abcd|dcba: period 2 size
        index = index.remainder(2 * size)
        return torch.minimum(index, 2 * size - 1 - index)
    period = max(2 * size - 2, 1)  # reflect, dcb|abcd|cba; a single pixel has only itself to show
    index = index.remainder(period)
    return torch.minimum(index, period - index)


def _bilinear(maps: Tensor, size: tuple[int, int]) -> Tensor:
    if tuple(maps.shape[-2:]) == size:
        return maps
    maps = maps if maps.is_floating_point() else maps.float()
    return functional.interpolate(maps, size=size, mode="bilinear", align_corners=False, antialias=False)


def _nearest(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """The pixel whose area holds the centre of the new one."""
    for axis, new in zip((-2, -1), size, strict=True):
        old = maps.shape[axis]
        if old != new:
            # floor((i + 1/2) old / new) in integers, so that no rounding error moves a pixel
            source = (2 * torch.arange(new, device=maps.device) + 1) * old // (2 * new)
            maps = maps.index_select(axis, source)
    return maps
