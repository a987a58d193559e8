"""Removal of small contours: islands vanish, holes are filled (SIIM-ACR Pneumothorax 2019, 1st place)."""

import numpy as np
from numpy.typing import NDArray

from stagepipe.recipe.model import Contours


def apply(mask: NDArray[np.uint8], step: Contours) -> NDArray[np.uint8]:
    """Return the mask uint8 [height, width] of 0 and 1, drawn anew from its contours that are larger than `step.area`.

    Contours are those of islands and of holes, whole or nested. A contour's area is that of the polygon through the
    centres of its border's pixels, which for a hole are the pixels around it. All are filled in one call, so what lies
    inside an odd number of them is foreground: a large hole stays one, a small one is filled.
    """
    import cv2

    foreground = (mask > 0).astype(np.uint8)
    contours, _ = cv2.findContours(foreground, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)
    image, of = (mask.size, step.size[0] * step.size[1]) if step.size else (1, 1)
    large = [contour for contour in contours if cv2.contourArea(contour) * of > step.area * image]
    drawn = np.zeros(mask.shape, np.uint8)
    return np.asarray(cv2.drawContours(drawn, large, -1, 1, cv2.FILLED))
