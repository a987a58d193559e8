"""Views of an image for test-time augmentation: flips and quarter turns, undone exactly on the maps."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class View:
    """A quarter turn (counter-clockwise, after the flips) and flips: lossless, so undone exactly."""

    turns: int = 0
    vertical: bool = False
    horizontal: bool = False

    def apply(self, images: torch.Tensor) -> torch.Tensor:
        """Turn images [B, H, W, K]."""
        flipped = images.flip([axis for axis, flip in ((1, self.vertical), (2, self.horizontal)) if flip])
        return flipped.rot90(self.turns, (1, 2))

    def undo(self, maps: torch.Tensor) -> torch.Tensor:
        """Turn maps [B, C, H, W] back."""
        turned = maps.rot90(-self.turns, (2, 3))
        return turned.flip([axis for axis, flip in ((2, self.vertical), (3, self.horizontal)) if flip])


def views(tta: Sequence[str]) -> list[View]:
    """The plain view and all combinations of hflip, vflip and rot90 (a quarter turn more) that are asked for."""
    turns = (0, 1) if "rot90" in tta else (0,)
    vertical = (False, True) if "vflip" in tta else (False,)
    horizontal = (False, True) if "hflip" in tta else (False,)
    return [View(*choice) for choice in itertools.product(turns, vertical, horizontal)]
