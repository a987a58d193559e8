"""Scores from integer counts, one row per image. Two empty masks score 1, one empty mask scores 0."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from stagepipe.recipe.model import scored_classes

METRICS = ("mean_precision", "dice", "iou", "truth_iou")
"""Scores of an image; `mean_precision` is of a single class, `truth_iou` of several."""
# k / 20 and intersection / union are rounded alike, so an IoU of exactly 0.75 equals its threshold and isn't above it.
THRESHOLDS = np.arange(10, 20) / 20
LEVELS = 256
"""values of a mask's pixel"""


def confusion(
    truth: npt.NDArray[np.uint8], predicted: npt.NDArray[np.uint8], classes: int, ignore_index: int | None = None
) -> npt.NDArray[np.int64]:
    """Pixels of one image by true (rows) and predicted class (columns), int64 [classes, classes].

    truth, predicted: uint8 [H, W] of class indices; where the truth is `ignore_index`, which may be a class's own or
    none's, pixels don't count. A single class (`classes` 1) gives [2, 2], the background and the class, which is what
    isn't 0. Raises ValueError for masks of different shapes and for an index that is no class.
    """
    if truth.shape != predicted.shape:
        raise ValueError(f"predicted mask: has shape {predicted.shape}; expected that of the truth, {truth.shape}")
    if classes == 1:
        return _background_and_class(truth, predicted, ignore_index)
    # All pairs of values that two bytes can have: neither ignored pixels nor indices that are no class need a pass.
    both = (truth.astype(np.uint16) << 8) | predicted
    pairs = np.bincount(both.ravel(), minlength=LEVELS**2).reshape(LEVELS, LEVELS).astype(np.int64, copy=False)
    if ignore_index is not None:
        pairs[ignore_index] = 0
    found = pairs[:classes, :classes].copy()
    if found.sum() < pairs.sum():
        highest = max(int(axis.max()) for axis in np.nonzero(pairs))
        raise ValueError(f"mask: holds class {highest}; expected classes 0 to {classes - 1} or the ignore_index")
    return found


def _background_and_class(
    truth: npt.NDArray[np.uint8], predicted: npt.NDArray[np.uint8], ignore_index: int | None
) -> npt.NDArray[np.int64]:
    if ignore_index is not None:
        valid = truth != ignore_index
        truth, predicted = truth[valid], predicted[valid]
    true, found = truth != 0, predicted != 0
    both, wanted, claimed = (np.count_nonzero(mask) for mask in (true & found, true, found))
    neither = truth.size - wanted - claimed + both
    return np.array([[neither, claimed - both], [wanted - both, both]], np.int64)


def confusion_counts(pixels: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Counts int64 [..., classes, 3] (intersection, truth, predicted) of confusions int64 [..., classes, classes]."""
    intersection = np.diagonal(pixels, axis1=-2, axis2=-1)
    return np.stack([intersection, pixels.sum(axis=-1), pixels.sum(axis=-2)], axis=-1)


def intersections(
    truth: npt.NDArray[np.uint8], predicted: npt.NDArray[np.uint8], classes: int, ignore_index: int | None = None
) -> npt.NDArray[np.int64]:
    """Pixel counts of one image, int64 [classes, 3]: intersection, truth, predicted.

    truth, predicted: uint8 [H, W]. A single class (`classes` 1): non-zero is foreground, the background isn't counted.
    Several: class indices; where the truth is `ignore_index` neither mask counts. Raises ValueError for masks of
    different shapes and for an index that is no class.
    """
    counts = confusion_counts(confusion(truth, predicted, classes, ignore_index))
    return counts[1:] if classes == 1 else counts


def scored_indices(classes: Sequence[str], evaluated: Sequence[str], ignore_index: int | None) -> list[int]:
    """Indices of the classes that scores are the mean of, ascending (see `scored_classes`)."""
    names = scored_classes(classes, evaluated, ignore_index)
    return [index for index, name in enumerate(classes) if name in names]


def scores(counts: npt.NDArray[np.int64], scored: Sequence[int] | None = None) -> dict[str, npt.NDArray[np.float64]]:
    """Scores of each image, float64 [N] in 0..1, by name: `dice`, `iou`; of a single class `mean_precision`, of several
    `truth_iou`.

    counts: int64 [N, classes, 3] as of `intersections`; `scored`: indices of the classes that count, None for all. Dice
    is 2 I / (T + P) and IoU is I / (T + P - I). With several classes an image's score is the mean over those that its
    truth or its prediction has; with none it is 1. `truth_iou` is the mean IoU of those that the truth has, whatever
    else is predicted, as the Signate contest of 2018 scored street scenes; it is not a number where the truth has none.
    """
    single = counts.shape[1] == 1
    intersection, truth, predicted = np.moveaxis(counts if scored is None else counts[:, scored], 2, 0)
    union = truth + predicted - intersection
    iou = _mean_of_present(intersection, union)
    result = {"dice": _mean_of_present(2 * intersection, truth + predicted), "iou": iou}
    if single:
        return {"mean_precision": mean_precision(iou), **result}
    return {**result, "truth_iou": _mean_of_present(intersection, np.where(truth > 0, union, 0), without=np.nan)}


def mean_precision(iou: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Score of the TGS competition: the share of the thresholds 0.50, 0.55, ..., 0.95 that the IoU is above.

    iou: any shape, 1 for two empty masks (score 1), 0 for one empty mask (score 0). Returns float64 of the same shape.
    """
    return np.asarray((np.asarray(iou, dtype=np.float64)[..., None] > THRESHOLDS).mean(axis=-1))


def class_ious(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """IoU of each class over the pixels of all images together, float64 [classes] in 0..1.

    counts: int64 [N, classes, 3] as of `intersections`. Not a number for a class that neither truth nor prediction has.
    """
    intersection, truth, predicted = counts.sum(axis=0).T
    union = truth + predicted - intersection
    return np.divide(intersection, union, out=np.full(len(union), np.nan), where=union > 0)


def dataset_iou(counts: npt.NDArray[np.int64], scored: Sequence[int]) -> float:
    """Mean of `class_ious` over the `scored` classes that truth or prediction has; 1 if they have none."""
    found = class_ious(counts)[scored]
    present = found[~np.isnan(found)]
    return float(present.mean()) if len(present) else 1.0


def _mean_of_present(
    numerator: npt.NDArray[np.int64], denominator: npt.NDArray[np.int64], without: float = 1.0
) -> npt.NDArray[np.float64]:
    """Mean over classes of numerator / denominator where the denominator isn't 0; `without` where it is 0 for all."""
    present = denominator > 0
    ratios = np.divide(numerator, denominator, out=np.zeros(present.shape), where=present)
    count = present.sum(axis=1)
    return np.where(count > 0, ratios.sum(axis=1) / np.maximum(count, 1), without)
