"""Random windows of large training images."""

from dataclasses import dataclass

import cv2
import numpy as np

from stagepipe.errors import RecipeError


@dataclass(frozen=True)
class RandomWindow:
    """Draws windows of one size, a share of them so that rare classes are in them."""

    height: int
    width: int
    class_aware: float = 0.0
    """share of the windows that hold a pixel of a class drawn evenly among those of the mask"""
    ignore_index: int | None = None
    """mask value that is no class to look for"""

    def check(self, height: int, width: int, image: str = "an image") -> None:
        """RecipeError if an image of that size is smaller than the window."""
        if height < self.height or width < self.width:
            raise RecipeError(
                f"phase.crop: size [{self.height}, {self.width}] is larger than {image}, {height} x {width}; write a "
                "size that fits into every training image"
            )

    def cut(self, image: np.ndarray, mask: np.ndarray, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Views of image [H, W, K] and mask [H, W] at the same random window, [height, width, K] and [height, width].

        RecipeError if the image is smaller than the window.
        """
        self.check(*mask.shape)
        top, left = self.place(mask, random)
        rows, columns = slice(top, top + self.height), slice(left, left + self.width)
        return image[rows, columns], mask[rows, columns]

    def place(self, mask: np.ndarray, random: np.random.Generator) -> tuple[int, int]:
        """Top and left of a window: any of those that hold the pixel sought, each as likely; without one any at all."""
        aware = random.random() < self.class_aware
        pixel = _pixel_of_a_class(mask, self.ignore_index, random) if aware else None
        last_top, last_left = mask.shape[0] - self.height, mask.shape[1] - self.width
        if pixel is None:
            return _between(0, last_top, random), _between(0, last_left, random)
        row, column = pixel
        top = _between(max(0, row - self.height + 1), min(last_top, row), random)
        return top, _between(max(0, column - self.width + 1), min(last_left, column), random)


def _between(first: int, last: int, random: np.random.Generator) -> int:
    return int(random.integers(first, last, endpoint=True))


def _pixel_of_a_class(
    mask: np.ndarray, ignore_index: int | None, random: np.random.Generator
) -> tuple[int, int] | None:
    """Row and column of a pixel drawn evenly among those of a class, the class evenly among those of the mask.

    None if the whole mask is to be ignored.
    """
    # OpenCV's histogram takes a tenth of the time of numpy.unique; as floats its counts are no matter here.
    present = np.flatnonzero(cv2.calcHist([mask], [0], None, [256], [0, 256]))
    classes = present[present != ignore_index] if ignore_index is not None else present
    if not len(classes):
        return None
    pixels = np.flatnonzero(mask == random.choice(classes))
    row, column = divmod(int(random.choice(pixels)), mask.shape[1])
    return row, column
