"""Steps between binarisation and encoding, each a function of a mask."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from stagepipe.postprocess import minimum_size
from stagepipe.recipe.model import Postprocess

STEPS = {"minimum_size": minimum_size.apply}


def apply(mask: NDArray[np.uint8], steps: Sequence[Postprocess]) -> NDArray[np.uint8]:
    """Return the mask uint8 [height, width] after all steps, in their order; the given mask stays as it is."""
    for step in steps:
        mask = STEPS[step.choice](mask, getattr(step, step.choice))
    return mask
