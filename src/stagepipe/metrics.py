"""Scores from integer counts, one row per image. Two empty masks score 1, one empty mask scores 0."""

import numpy as np
import numpy.typing as npt

METRICS = ("mean_precision", "dice", "iou")
# k / 20 and intersection / union are rounded alike, so an IoU of exactly 0.75 equals its threshold and isn't above it.
THRESHOLDS = np.arange(10, 20) / 20


def intersections(
    truth: npt.NDArray[np.uint8], predicted: npt.NDArray[np.uint8], classes: int, ignore_index: int | None = None
) -> npt.NDArray[np.int64]:
    """Pixel counts of one image, int64 [classes, 3]: intersection, truth, predicted.

    truth, predicted: uint8 [H, W]. A single class (`classes` 1): non-zero is foreground, the background isn't counted.
    Several: class indices; where the truth is `ignore_index` neither mask counts. Raises ValueError for masks of
    different shapes and for an index that is no class.
    """
    if truth.shape != predicted.shape:
        raise ValueError(f"predicted mask: has shape {predicted.shape}; expected that of the truth, {truth.shape}")
    if ignore_index is not None:
        valid = truth != ignore_index
        truth, predicted = truth[valid], predicted[valid]
    if classes == 1:
        truth, predicted = truth != 0, predicted != 0
        return np.array([[np.count_nonzero(mask) for mask in (truth & predicted, truth, predicted)]], dtype=np.int64)
    highest = max(truth.max(initial=0), predicted.max(initial=0))
    if highest >= classes:
        raise ValueError(f"mask: holds class {highest}; expected classes 0 to {classes - 1} or the ignore_index")
    masks = (truth[truth == predicted], truth, predicted)
    return np.stack([np.bincount(mask.ravel(), minlength=classes) for mask in masks], axis=1).astype(np.int64)


def scores(counts: npt.NDArray[np.int64]) -> dict[str, npt.NDArray[np.float64]]:
    """Scores of each image, float64 [N] in 0..1, by name: `dice`, `iou` and, for a single class, `mean_precision`.

    counts: int64 [N, classes, 3] as of `intersections`. Dice is 2 I / (T + P) and IoU is I / (T + P - I). With several
    classes an image's score is the mean over those that its truth or its prediction has; with none it is 1.
    """
    intersection, truth, predicted = np.moveaxis(counts, 2, 0)
    iou = _mean_of_present(intersection, truth + predicted - intersection)
    result = {"dice": _mean_of_present(2 * intersection, truth + predicted), "iou": iou}
    return {"mean_precision": mean_precision(iou), **result} if counts.shape[1] == 1 else result


def mean_precision(iou: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Score of the TGS competition: the share of the thresholds 0.50, 0.55, ..., 0.95 that the IoU is above.

    iou: any shape, 1 for two empty masks (score 1), 0 for one empty mask (score 0). Returns float64 of the same shape.
    """
    return np.asarray((np.asarray(iou, dtype=np.float64)[..., None] > THRESHOLDS).mean(axis=-1))


def _mean_of_present(numerator: npt.NDArray[np.int64], denominator: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Mean over classes of numerator / denominator where the denominator isn't 0; 1 where it is 0 for all of them."""
    present = denominator > 0
    ratios = np.divide(numerator, denominator, out=np.zeros(present.shape), where=present)
    count = present.sum(axis=1)
    return np.where(count > 0, ratios.sum(axis=1) / np.maximum(count, 1), 1.0)
