"""Losses that are a mean over pixels."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from stagepipe.errors import RecipeError


def bce(logits: Tensor, target: Tensor, ignore_index: int | None = None) -> Tensor:
    """Binary cross entropy, mean over pixels: max(x, 0) - x y + log(1 + exp(-|x|)).

    Computed from logits, so it goes on where the form on probabilities clipped to 1e-7 (Keras) ends at 16.1 and has
    no gradient.
    """
    return F.binary_cross_entropy_with_logits(logits[:, 0], target.to(logits.dtype))


def cross_entropy(
    logits: Tensor, target: Tensor, ignore_index: int | None = None, *, class_weights: Tensor | None = None
) -> Tensor:
    """-log p of the true class, mean over the pixels that count, weighted by their class; 0 if there are none."""
    log_probability, counts = _log_probability(logits, target, ignore_index, class_weights)
    return weighted_mean(-log_probability, counts)


def focal(
    logits: Tensor,
    target: Tensor,
    ignore_index: int | None = None,
    *,
    gamma: float = 2.0,
    hardest: float = 1.0,
    detached: bool = False,
    class_weights: Tensor | None = None,
) -> Tensor:
    """-(1 - p)^gamma log p, mean over the pixels that count; p is the probability of the truth (Lin et al. 2017).

    `detached`: no gradient goes through (1 - p)^gamma (Signate street scenes 2018). Pixels count as much as their class
    does; there is no other weight alpha. For a soft target y of a single class p is y s + (1 - y) (1 - s), s the
    sigmoid.
    `hardest` takes the mean over that share of the batch's pixels, those with the largest loss (TGS salt 2018, 5th
    place: gamma 0.5, a quarter); where fewer pixels count, over these.
    """
    if not 0 < hardest <= 1:
        raise RecipeError(
            f"loss: hardest of focal is {hardest}; write a share of the pixels above 0, 1 for all of them"
        )
    log_probability, counts = _log_probability(logits, target, ignore_index, class_weights)
    # Where p rounds to 1 the gradient of a power below 1 would be infinite.
    complement = -torch.expm1(log_probability.clamp(max=-1e-12))
    factor = complement**gamma
    loss = -(factor.detach() if detached else factor) * log_probability
    return weighted_mean(loss, counts) if hardest == 1 else _mean_of_hardest(loss, counts, hardest)


def _log_probability(
    logits: Tensor, target: Tensor, ignore_index: int | None, class_weights: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Logarithm of the probability that the truth has, and how much each pixel counts, both [B, H, W]."""
    if logits.shape[1] == 1:
        truth, logit = target.to(logits.dtype).clamp(0, 1), logits[:, 0]  # interpolation may end a rounding above 1
        foreground, background = truth.log() + F.logsigmoid(logit), (-truth).log1p() + F.logsigmoid(-logit)
        return torch.logaddexp(foreground, background), torch.ones_like(truth)
    valid = torch.ones_like(target, dtype=torch.bool) if ignore_index is None else target != ignore_index
    index = torch.where(valid, target, 0).long().unsqueeze(1)
    counts = valid.to(logits.dtype)
    if class_weights is not None:
        counts = counts * class_weights.to(logits.dtype)[index.squeeze(1)]
    return logits.log_softmax(dim=1).gather(1, index).squeeze(1), counts


def weighted_mean(loss: Tensor, counts: Tensor) -> Tensor:
    """Mean of a loss whose elements count so much, both of one shape; 0 where nothing counts."""
    total = counts.sum()
    # Weights may sum to less than 1.
    return (loss * counts).sum() / torch.where(total > 0, total, 1)


def _mean_of_hardest(loss: Tensor, valid: Tensor, share: float) -> Tensor:
    # The number follows from the shape: for the number of pixels that count, the host would wait for the device.
    count = max(1, round(share * loss.numel()))
    ranked = torch.where(valid > 0, loss.detach(), -math.inf).flatten()
    chosen = ranked.topk(count, sorted=False).indices
    return weighted_mean(loss.flatten()[chosen], valid.flatten()[chosen])
