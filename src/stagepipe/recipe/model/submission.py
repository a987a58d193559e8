"""From predictions to a submission: blend, threshold, what decides emptiness, postprocessing, encoding."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from stagepipe.recipe.model.section import Count, Flag, Natural, OneOf, Positive, Section, Share, Size
from stagepipe.recipe.model.triplet import TripletGrid


class Threshold(Section):
    """Binarisation of a single class."""

    value: Share | None = 0.5
    """a pixel is foreground if p > value; null searches the best on pooled out-of-fold predictions"""
    metric: Literal["mean_precision", "dice", "iou"] = "mean_precision"
    """what a search maximises"""


def _shares(blend: dict[str, float]) -> dict[str, float]:
    total = sum(blend.values())
    if abs(total - 1) > 1e-6:
        fixed = {key: round(value / total, 4) for key, value in blend.items()}
        raise ValueError(f"the shares sum to {total:g}; they must sum to 1, for example {fixed}")
    return blend


Blend = Annotated[dict[str, Positive], Field(min_length=1), AfterValidator(_shares)]


class BlendSearch(Section):
    """Shares chosen on pooled out-of-fold predictions, among all that are multiples of a step and sum to 1."""

    step: Annotated[float, Field(strict=True, gt=0, le=0.5)] = 0.1


class Emptiness(Section):
    """A second blend, of networks that know empty masks: where its mask is empty the submission's becomes empty."""

    blend: Blend
    threshold: Share = 0.5
    minimum_pixels: Count = 1
    """a mask of fewer pixels counts as empty"""


class MinimumSize(Section):
    """Masks (of one class: connected components) smaller than this become background."""

    pixels: Count
    per: Literal["mask", "component"] = "mask"


class Contours(Section):
    """Contours of small area vanish: islands become background, holes are filled (SIIM 2019, 1st place).

    The area is that of the polygon through the centres of the border's pixels: (k - 1)^2 of a square of k x k pixels.
    """

    area: Natural
    """square pixels; what isn't larger vanishes"""
    size: Size | None = None
    """image size that `area` was chosen for: in an image of another size it scales with the number of pixels; none: it
    is the same in all"""


class Jigsaw(Section):
    """Masks that follow from labelled neighbours in a mosaic of tiles (TGS salt 2018, 1st place)."""

    file: str | None = None
    """mosaics from a folder of CSV files or a JSON file; none: found from the borders of the tiles"""
    vertical_below: Flag = True
    """below a labelled mask whose rows are all equal: its last row, all the way down"""
    half_vertical_below: Flag = True
    """the same below a labelled mask whose lower half has equal rows"""
    vertical_above: Flag = True
    """the tile above a labelled mask whose rows are all equal, if at least three tiles lie above: its first row"""
    empty_below: Flag = True
    """below a labelled mask whose last row is all foreground: an empty mask"""


class Postprocess(OneOf):
    """One step after binarisation."""

    minimum_size: MinimumSize | None = None
    contours: Contours | None = None
    jigsaw: Jigsaw | None = None


class Submission(Section):
    """Blend, binarise, postprocess, encode."""

    blend: Blend
    """shares of stages (`stage3`) or runs (`stage3/resnet34`); they sum to 1"""
    blend_search: BlendSearch | None = None
    """find the shares of the runs in `blend` instead of taking those written there"""
    mean: Literal["arithmetic", "geometric"] = "arithmetic"
    """of probabilities, over runs and folds"""
    threshold: Threshold = Threshold()
    triplets: list[TripletGrid] = []
    """two thresholds in place of one; of several triplets the best on pooled out-of-fold predictions, by the metric of
    `threshold`"""
    emptiness: Emptiness | None = None
    """decide elsewhere which masks are empty"""
    black_is_empty: Flag = False
    """a test image with one single value gets an empty mask"""
    postprocess: list[Postprocess] = []
    encode: Literal["tgs", "siim", "runs", "street"] = "tgs"
    """`tgs`: id,rle_mask, column-major and 1-based; `siim`: ImageId,EncodedPixels, column-major, starts relative to the
    run before, -1 for an empty mask; `runs`: JSON of row runs per class; `street`: the JSON of the Signate contest, row
    runs of the evaluated classes with both of their ends"""
    size: Size | None = None
    """size that a single class is encoded at: masks of another size are resized and set where above one half; none: the
    image's"""
    rows: str | None = None
    """sample submission whose ids set the order of the rows; none: sorted by id"""
