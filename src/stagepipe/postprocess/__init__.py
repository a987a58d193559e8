"""Steps between binarisation and encoding, each a function of a mask."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from stagepipe.postprocess import contours, minimum_size
from stagepipe.recipe.model import Postprocess

Mask = NDArray[np.uint8]


def apply(mask: Mask, steps: Sequence[Postprocess], replacement: Mask | None = None) -> Mask:
    """Return the mask uint8 [height, width] after all steps, in their order; the given mask stays as it is.

    `replacement` is what a jigsaw step puts in its place; none: the step has nothing to say of this sample.
    """
    for step in steps:
        if step.minimum_size:
            mask = minimum_size.apply(mask, step.minimum_size)
        elif step.contours:
            mask = contours.apply(mask, step.contours)
        elif replacement is not None:
            mask = replacement
    return mask
