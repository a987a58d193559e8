"""Augmentation by albumentations 2.0.8, every sample from its own key.

albumentations draws from generators that each transform owns. Loader workers inherit copies of them, so without care
all workers and epochs repeat the same augmentations; and its `set_random_seed` gives every transform an equal
generator, so that a flip and a later brightness change with equal odds always come together. Here all transforms share
one pair of generators, set from the sample's key at every call (`set_random_state`): the result depends on the recipe
and the key and on nothing else.
"""

import inspect
import math
import os
import random
import warnings
from typing import Any

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # it would ask the network for newer versions at import

import albumentations
import cv2
import numpy as np
from albumentations.core.composition import BaseCompose, ReplayCompose
from albumentations.core.transforms_interface import BasicTransform, DualTransform, ImageOnlyTransform, Transform3D
from albumentations.core.type_definitions import Targets
from pydantic import ValidationError

from stagepipe.augmentation_lists import NAMED
from stagepipe.crops import RandomWindow
from stagepipe.errors import RecipeError
from stagepipe.recipe.model import Transform
from stagepipe.suggestions import unknown


class CropAndStretch(DualTransform):
    """Cut a random number of pixels, below `limit` of the edge, from each side and stretch the rest to the old size.

    Image bilinear; a mask of 0 and 1 bilinear and set where above one half (phalanx, TGS salt 2018), others nearest
    pixel.
    """

    _targets = (Targets.IMAGE, Targets.MASK)

    def __init__(self, limit: float = 0.2, p: float = 0.5):
        super().__init__(p=p)
        self.limit = limit

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        """Draw the four cuts: top, bottom, left, right."""
        cuts = [self.py_random.randrange(max(1, int(edge * self.limit))) for edge in params["shape"][:2] for _ in "ab"]
        return {"cuts": cuts}

    def apply(self, img: np.ndarray, cuts: list[int], **params: Any) -> np.ndarray:
        """Image [H, W, C] -> the same shape."""
        return cv2.resize(_cut(img, cuts), img.shape[1::-1], interpolation=cv2.INTER_LINEAR).reshape(img.shape)

    def apply_to_mask(self, mask: np.ndarray, cuts: list[int], **params: Any) -> np.ndarray:
        """Mask [H, W] -> the same shape."""
        size, inner = mask.shape[1::-1], _cut(mask, cuts)
        if mask.max() <= 1:
            stretched = cv2.resize(inner.astype(np.float32), size, interpolation=cv2.INTER_LINEAR)
            return (stretched > 0.5).astype(mask.dtype)
        return cv2.resize(inner, size, interpolation=cv2.INTER_NEAREST)


class CropAndResize(DualTransform):
    """Cut out a window at a random place and resize it to the old size.

    The window has the shape of the image and a share of its area drawn evenly from `area`. Image bilinear, mask nearest
    pixel by pixel centres, as Pillow resizes (adam9500370, TGS salt 2018, 15th place).
    """

    _targets = (Targets.IMAGE, Targets.MASK)

    def __init__(self, area: tuple[float, float] = (0.64, 1.0), p: float = 0.5):
        super().__init__(p=p)
        if not 0 < area[0] <= area[1] <= 1:
            raise ValueError(f"area is {list(area)}, not two shares of the image in ascending order")
        self.area = area

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        """Draw the four cuts: top, bottom, left, right."""
        side = math.sqrt(self.py_random.uniform(*self.area))
        cuts = []
        for edge in params["shape"][:2]:
            left_out = edge - max(1, round(edge * side))
            before = self.py_random.randint(0, left_out)
            cuts += [before, left_out - before]
        return {"cuts": cuts}

    def apply(self, img: np.ndarray, cuts: list[int], **params: Any) -> np.ndarray:
        """Image [H, W, C] -> the same shape."""
        return cv2.resize(_cut(img, cuts), img.shape[1::-1], interpolation=cv2.INTER_LINEAR).reshape(img.shape)

    def apply_to_mask(self, mask: np.ndarray, cuts: list[int], **params: Any) -> np.ndarray:
        """Mask [H, W] -> the same shape."""
        return cv2.resize(_cut(mask, cuts), mask.shape[1::-1], interpolation=cv2.INTER_NEAREST_EXACT)


class HorizontalShear(DualTransform):
    """Move the top by +d and the bottom by -d pixels, d a random whole number within +-`limit` of the width.

    Image bilinear, mask nearest pixel, reflect-101 border (phalanx, TGS salt 2018).
    """

    _targets = (Targets.IMAGE, Targets.MASK)

    def __init__(self, limit: float = 0.07, p: float = 0.5):
        super().__init__(p=p)
        self.limit = limit

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        """Draw the shift of the top row."""
        return {"shift": int(params["shape"][1] * self.py_random.uniform(-self.limit, self.limit))}

    def apply(self, img: np.ndarray, shift: int, **params: Any) -> np.ndarray:
        """Image [H, W, C] -> the same shape."""
        return _shear(img, shift, cv2.INTER_LINEAR)

    def apply_to_mask(self, mask: np.ndarray, shift: int, **params: Any) -> np.ndarray:
        """Mask [H, W] -> the same shape."""
        return _shear(mask, shift, cv2.INTER_NEAREST)


def _cut(pixels: np.ndarray, cuts: list[int]) -> np.ndarray:
    top, bottom, left, right = cuts
    return pixels[top : pixels.shape[0] - bottom, left : pixels.shape[1] - right]


def _shear(pixels: np.ndarray, shift: int, interpolation: int) -> np.ndarray:
    height, width = pixels.shape[:2]
    matrix = np.array([[1, -2 * shift / height, shift], [0, 1, 0]], np.float64)
    sheared = cv2.warpAffine(pixels, matrix, (width, height), flags=interpolation, borderMode=cv2.BORDER_REFLECT_101)
    return sheared.reshape(pixels.shape)


_ABSTRACT = (BaseCompose, BasicTransform, DualTransform, ImageOnlyTransform, Transform3D, ReplayCompose)


def _is_transform(value: Any) -> bool:
    """A class that a recipe can name: no base class and none that gives torch tensors."""
    if not inspect.isclass(value) or value in _ABSTRACT or not issubclass(value, BasicTransform | BaseCompose):
        return False
    return not value.__module__.startswith("albumentations.pytorch")


CLASSES: dict[str, type] = {
    **{name: value for name, value in vars(albumentations).items() if _is_transform(value)},
    "CropAndResize": CropAndResize,
    "CropAndStretch": CropAndStretch,
    "HorizontalShear": HorizontalShear,
}


class Augmentation:
    """A recipe's transforms, ready to apply. Pickles by its arguments, so it goes to any kind of worker process."""

    def __init__(self, spec: str | list[Transform], crop: RandomWindow | None = None):
        """`spec` is a name of NAMED or the recipe's own list; windows of `crop` are cut before it.

        RecipeError for transforms that don't exist or arguments they refuse.
        """
        self.spec = spec
        self.crop = crop
        transforms = NAMED[spec] if isinstance(spec, str) else spec
        built = [_build(transform, f"augment[{index}]") for index, transform in enumerate(transforms)]
        self._compose = albumentations.Compose(built) if built else None

    def __reduce__(self) -> tuple[type, tuple[str | list[Transform], RandomWindow | None]]:
        return type(self), (self.spec, self.crop)

    def apply(self, image: np.ndarray, mask: np.ndarray, key: int) -> tuple[np.ndarray, np.ndarray]:
        """Image uint8 [H, W, K] and mask uint8 [H, W] -> the same kinds, in new arrays unless the spec is `none`.

        The same key gives the same bits in any process and order of calls. Height and width change only by the crop and
        by transforms made for it. RecipeError if the crop or a transform can't take the image or gives another kind of
        array.
        """
        generator = np.random.default_rng(key)
        if self.crop:
            image, mask = self.crop.cut(image, mask, generator)
        if self._compose is None:
            return image, mask
        self._compose.set_random_state(generator, random.Random(key))  # noqa: S311 (not for secrets)
        try:
            # copies: some transforms write into their input, and stored pixels are read-only
            result = self._compose(image=image.copy(), mask=mask.copy())
        except (ValueError, TypeError, KeyError, NotImplementedError, cv2.error) as error:
            raise RecipeError(f"augment: fails on an image {image.shape}: {error}; choose other transforms") from error
        new_image, new_mask = result["image"], result["mask"]
        if new_image.ndim == 2:  # some transforms drop the channel of a gray image
            new_image = new_image[..., None]
        if new_image.dtype != np.uint8 or new_mask.dtype != np.uint8 or new_image.shape[2] != image.shape[2]:
            raise RecipeError(
                f"augment: gives an image {new_image.dtype} {new_image.shape} and a mask {new_mask.dtype}; "
                "leave out transforms that change the type or the channels (the network normalises)"
            )
        return np.ascontiguousarray(new_image), np.ascontiguousarray(new_mask)


def _build(transform: Transform, where: str) -> Any:
    """The albumentations object of one entry; `where` is its place in the recipe."""
    if transform.name not in CLASSES:
        raise RecipeError(f"{where}: {unknown(transform.name, CLASSES)}")
    kind = CLASSES[transform.name]
    block = issubclass(kind, BaseCompose)
    if block != bool(transform.transforms):
        hint = "is a block; list its transforms under `transforms`" if block else "is no block; leave `transforms` out"
        raise RecipeError(f"{where}: {transform.name} {hint}")
    allowed = [name for name in inspect.signature(kind).parameters if name not in ("transforms", "seed", "strict")]
    for name in transform.arguments:
        if name not in allowed:
            raise RecipeError(f"{where}.arguments: {unknown(name, allowed)} of {transform.name}")
    arguments = {name: _constant(value, f"{where}.arguments.{name}") for name, value in transform.arguments.items()}
    if block:
        inner = enumerate(transform.transforms)
        arguments["transforms"] = [_build(child, f"{where}.transforms[{index}]") for index, child in inner]
    try:
        with warnings.catch_warnings():
            # albumentations warns of what it then ignores; an argument without effect is a fault
            warnings.simplefilter("error", UserWarning)
            warnings.filterwarnings("ignore", message="ShiftScaleRotate is a special case")
            return kind(**arguments)
    except (ValueError, TypeError, ArithmeticError, UserWarning) as error:
        raise RecipeError(f"{where}: {transform.name} refuses {transform.arguments}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """What albumentations complains of, in one line."""
    if not isinstance(error.__cause__, ValidationError):
        return str(error)
    return "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.__cause__.errors())


def _constant(value: Any, where: str) -> Any:
    """OpenCV's constants by name, for example BORDER_REFLECT_101 or INTER_NEAREST."""
    if not (isinstance(value, str) and value.startswith(("BORDER_", "INTER_"))):
        return value
    if not hasattr(cv2, value):
        names = [name for name in dir(cv2) if name.startswith(("BORDER_", "INTER_"))]
        raise RecipeError(f"{where}: {unknown(value, names)}")
    return getattr(cv2, value)
