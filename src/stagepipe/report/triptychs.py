"""Masks of several classes in their colours, and what is said about them."""

import colorsys

import numpy as np
from numpy.typing import NDArray

from stagepipe.metrics import intersections
from stagepipe.recipe.model import Dataset
from stagepipe.report.style import Colour

Picture = NDArray[np.uint8]
"""uint8 [H, W, 3]"""

MASK = 0.65
"""share of a class's colour in what is painted; the rest is how bright the picture is"""
BRIGHTNESS = (50, 110, 180)
MOST_RESERVED = 192
"""of 256 colours: the others are left to the picture"""
IGNORED = ((70, 70, 70), (175, 175, 175))
"""stripes where the truth doesn't count"""
STRIPE = 4
"""pixels"""
FIRST_COLOURS: tuple[Colour, ...] = (
    (66, 129, 164), (228, 146, 64), (88, 148, 92), (190, 74, 82), (128, 100, 162),
    (214, 192, 72), (84, 178, 178), (160, 112, 82), (214, 124, 164), (128, 138, 146),
)  # fmt: skip


def hexadecimal(colour: Colour) -> str:
    """A colour as matplotlib takes it."""
    return "#{:02x}{:02x}{:02x}".format(*colour)


def distinct_colours(count: int) -> list[Colour]:
    """As many distinct colours; the first ten are named, the rest walk round the colour circle."""
    golden = 0.618034
    walked = (colorsys.hsv_to_rgb((index * golden) % 1.0, 0.55, 0.8) for index in range(max(0, count - 10)))
    return [*FIRST_COLOURS[:count], *((int(r * 255), int(g * 255), int(b * 255)) for r, g, b in walked)]


def class_colours(dataset: Dataset) -> list[Colour]:
    """A colour for each class, in index order: the first of its palette, else one of our own."""
    if dataset.palette:
        return [dataset.palette[name][0] for name in dataset.classes]
    return distinct_colours(len(dataset.classes))


def shown_classes(dataset: Dataset) -> list[str]:
    """Names of the classes that count: all but one whose own index is ignored."""
    return [name for index, name in enumerate(dataset.classes) if index != dataset.ignore_index]


def paint_classes(
    picture: Picture, mask: NDArray[np.uint8], colours: list[Colour], ignore_index: int | None = None
) -> Picture:
    """How bright the picture [H, W, 3] is, under the colours of a mask uint8 [H, W] of class indices.

    Where the mask is `ignore_index`, or no class, it is striped.
    """
    table = np.zeros((256, 3), np.uint8)
    table[: len(colours)] = colours
    counted = (mask < len(colours)) & (mask != (256 if ignore_index is None else ignore_index))
    shades = np.where(counted[..., None], table[mask], _stripes(mask.shape[0], mask.shape[1]))
    return ((1 - MASK) * picture.mean(axis=2, keepdims=True) + MASK * shades).astype(np.uint8)


def painted_colours(dataset: Dataset) -> list[Colour]:
    """Colours that masks and their legend should keep in a picture of few colours: each class's own, and painted."""
    own = class_colours(dataset)
    levels = np.repeat(np.array(BRIGHTNESS), len(own))[:, None]
    painted = ((1 - MASK) * levels + MASK * np.tile(own, (len(BRIGHTNESS), 1))).astype(int)
    kept = [*own, *((red, green, blue) for red, green, blue in painted.tolist())]
    return kept if len(kept) <= MOST_RESERVED else []


def _stripes(height: int, width: int) -> Picture:
    """Diagonal stripes."""
    odd = (np.add.outer(np.arange(height), np.arange(width)) // STRIPE) % 2
    return np.array(IGNORED, np.uint8)[odd]


def worst_class(truth: NDArray[np.uint8], predicted: NDArray[np.uint8], dataset: Dataset) -> tuple[str, float] | None:
    """Name and IoU of the evaluated class of the truth (uint8 [H, W]) that is predicted worst; None if it has none."""
    counts = intersections(truth, predicted, len(dataset.classes), dataset.ignore_index)
    common, true, found = (dict(zip(dataset.classes, column, strict=True)) for column in counts.T.tolist())
    ratios = {name: common[name] / (true[name] + found[name] - common[name]) for name in dataset.scored if true[name]}
    return min(ratios.items(), key=lambda entry: entry[1], default=None)
