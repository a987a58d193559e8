"""Pixel counts of a batch where its predictions lie, for validation while training."""

from collections.abc import Sequence

import torch


@torch.no_grad()
def batch_counts(
    probabilities: torch.Tensor, target: torch.Tensor, threshold: float = 0.5, ignore_index: int | None = None
) -> torch.Tensor:
    """Counts of each image, int64 [B, classes, 3]: intersection, truth, predicted, as of `metrics.intersections`.

    probabilities: [B, C, H, W] in 0..1; target: [B, H, W]. One channel: foreground is a probability above `threshold`
    and a target, any float in 0..1, above 0.5. Several: the class with the highest probability, and the target is an
    index; pixels whose target is `ignore_index` don't count. The host doesn't wait for the device.
    """
    channels = probabilities.shape[1]
    if channels == 1:
        classes = [1]
        predicted, truth = (probabilities[:, 0] > threshold).to(torch.uint8), (target > 0.5).to(torch.uint8)
    else:
        classes = list(range(channels))
        predicted, truth = probabilities.argmax(dim=1), target
    valid = torch.ones_like(target, dtype=torch.bool) if ignore_index is None else target != ignore_index
    counts = []
    for index in classes:
        wanted, found = (truth == index) & valid, (predicted == index) & valid
        counts.append(torch.stack([mask.sum(dim=(1, 2)) for mask in (wanted & found, wanted, found)], dim=1))
    return torch.stack(counts, dim=1)


def threshold_counts(probabilities: torch.Tensor, target: torch.Tensor, thresholds: Sequence[float]) -> torch.Tensor:
    """Counts of each image of a single class at K thresholds, int64 [B, K, 3], each as of `batch_counts`.

    One threshold after the other: masks of all of them are never in memory together.
    """
    return torch.cat([batch_counts(probabilities, target, threshold) for threshold in thresholds], dim=1)
