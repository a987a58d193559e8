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
    if probabilities.shape[1] > 1:
        return _class_counts(probabilities.argmax(dim=1), target, probabilities.shape[1], ignore_index)
    found, wanted = probabilities[:, 0] > threshold, target > 0.5
    return torch.stack([mask.sum(dim=(1, 2)) for mask in (wanted & found, wanted, found)], dim=1)[:, None]


def _class_counts(
    predicted: torch.Tensor, target: torch.Tensor, classes: int, ignore_index: int | None
) -> torch.Tensor:
    """Counts of each image from its confusion matrix, in one pass over the pixels whatever the number of classes."""
    images = len(target)
    valid = torch.ones_like(target, dtype=torch.bool) if ignore_index is None else target != ignore_index
    # Pixels that don't count fill a row of their own. As torch.bincount, for whose sizes the host would have to wait.
    truth = torch.where(valid, target.long(), classes).flatten(1)
    image = torch.arange(images, device=target.device)[:, None]
    cell = ((image * (classes + 1) + truth) * classes + predicted.flatten(1)).flatten()
    confusion = torch.zeros(images * (classes + 1) * classes, dtype=torch.int64, device=target.device)
    confusion = confusion.scatter_add_(0, cell, torch.ones_like(cell)).view(images, classes + 1, classes)[:, :classes]
    return torch.stack([confusion.diagonal(dim1=1, dim2=2), confusion.sum(dim=2), confusion.sum(dim=1)], dim=2)


def threshold_counts(probabilities: torch.Tensor, target: torch.Tensor, thresholds: Sequence[float]) -> torch.Tensor:
    """Counts of each image of a single class at K thresholds, int64 [B, K, 3], each as of `batch_counts`.

    One threshold after the other: masks of all of them are never in memory together.
    """
    return torch.cat([batch_counts(probabilities, target, threshold) for threshold in thresholds], dim=1)
