"""Removal of masks that are too small to be believed."""

import numpy as np
from numpy.typing import NDArray

from stagepipe.recipe.model import MinimumSize


def apply(mask: NDArray[np.uint8], step: MinimumSize) -> NDArray[np.uint8]:
    """Return a copy of the mask uint8 [height, width] without what has fewer than `step.pixels` pixels.

    `per: mask` looks at all pixels of a class value 1, 2, ... together, `per: component` at each 8-connected component
    of one value.
    """
    kept = mask.copy()
    for value in np.unique(mask[mask > 0]):
        labels = _components(mask == value) if step.per == "component" else (mask == value).astype(np.int32)
        small = np.bincount(labels.ravel()) < step.pixels
        small[0] = False
        kept[small[labels]] = 0
    return kept


def _components(foreground: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Number of the 8-connected component of each pixel, 0 outside."""
    import cv2

    labels: NDArray[np.int32] = np.empty(foreground.shape, np.int32)
    cv2.connectedComponents(foreground.astype(np.uint8), labels, connectivity=8, ltype=cv2.CV_32S)
    return labels
