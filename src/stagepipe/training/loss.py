"""The loss of a phase: the weighted losses of all heads of a network."""

from collections.abc import Mapping

import torch

from stagepipe import losses
from stagepipe.networks import SegmentationNetwork
from stagepipe.recipe.parts import TrainPart


def prepare(part: TrainPart, network: SegmentationNetwork, device: torch.device) -> None:
    """Load what the losses need and see that the network has the heads; RecipeError before any work."""
    network.check_heads(part.phase.deep_supervision)
    for terms in (part.phase.loss, *part.phase.deep_supervision.values()):
        losses.prepare(terms, device)


def phase_loss(
    part: TrainPart, network: SegmentationNetwork, heads: Mapping[str, torch.Tensor], masks: torch.Tensor
) -> torch.Tensor:
    """Sum of the losses of all heads, a scalar.

    heads: as of `network.heads`, the logits on its grid. masks: [B, H, W] as augmented, uint8. Each head's target is
    the mask on that grid, but that of `empty`, which is asked of the mask before resize and padding.
    """
    pixels = masks.float() if len(part.classes) == 1 else masks.long()
    target = network.geometry.mask(pixels, part.ignore_index or 0)
    total = losses.total_loss(part.phase.loss, heads["logits"], target, part.ignore_index, part.classes)
    for name, terms in part.phase.deep_supervision.items():
        wanted = (pixels.amax(dim=(1, 2), keepdim=True) == 0).float() if name == "empty" else target
        total = total + losses.total_loss(terms, heads[name], wanted, part.ignore_index, part.classes)
    return total
