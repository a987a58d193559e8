"""Read one image or mask file with every check that tells a sound file from a damaged one.

A decoder alone is not enough: OpenCV may return a whole array for half a JPEG. So Pillow checks the file first
(checksums of all PNG chunks, a strict decode of the others), and the header is looked at before any pixel is unpacked.
What no check can find is a change inside the data of a JPEG or TIFF that keeps its ends: they have no checksums.
"""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from stagepipe.data.palette import Colour, indices
from stagepipe.recipe.model.section import MAX_PIXELS

MAX_BYTES = 1 << 30
"""largest file that is read"""
PNG_END = b"IEND\xaeB`\x82"
JPEG_END = b"\xff\xd9"
FORMATS = ("PNG", "JPEG", "TIFF")
DICOM = ".dcm"

# Pillow has no common base for what a damaged file can raise.
BROKEN = (OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, ArithmeticError, struct.error, zlib.error)


class FileFault(Exception):
    """One file is not what it should be: a short code and what was found."""

    def __init__(self, fault: str, detail: str) -> None:
        super().__init__(f"{fault}: {detail}")
        self.fault = fault
        self.detail = detail


def read_image(path: Path, channels: str) -> np.ndarray:
    """Image as uint8 [H, W, 1] (`gray`) or [H, W, 3] in the order red, green, blue (`rgb`). Raises FileFault.

    A DICOM film has its values brought to 0..255 (see `stagepipe.data.dicom`).
    """
    if path.suffix.lower() == DICOM:
        from stagepipe.data.dicom import read_film

        pixels = read_film(_content(path))
    else:
        pixels = _pixels(path)
    if pixels.dtype != np.uint8:
        raise FileFault("bad_type", f"has {pixels.dtype} pixels; images are stored with 8 bits, convert it")
    if pixels.ndim == 3 and pixels.shape[2] == 4:
        if pixels[..., 3].min() < 255:
            raise FileFault("bad_type", "is transparent in places; flatten it onto a background")
        pixels = pixels[..., :3]
    if channels == "gray":
        return _gray(pixels)[..., None]
    if pixels.ndim == 2:
        return np.repeat(pixels[..., None], 3, axis=2)
    return np.ascontiguousarray(pixels[..., ::-1])


def image_size(path: Path) -> tuple[int, int]:
    """Height and width of an image, from its header. Raises FileFault."""
    if path.suffix.lower() == DICOM:
        from stagepipe.data.dicom import film_size

        return film_size(_content(path))
    try:
        with _opened(path) as file, Image.open(file, formats=FORMATS) as picture:
            _require_size(picture)
            return picture.height, picture.width
    except Image.DecompressionBombError as error:
        raise _bomb(error) from error
    except BROKEN as error:
        raise _unsound(error) from error


def read_mask(path: Path, classes: int, ignore_index: int | None = None, grey: bool = False) -> np.ndarray:
    """Mask as uint8 [H, W]: 1 where a value is above 0 (one class), or the class index (several). Raises FileFault.

    `grey` takes a mask of one class with more than two values as one that was resized: 1 where a value is above half of
    what its type can hold (127 or 32767).
    """
    pixels = _pixels(path, indices=True)
    if pixels.dtype not in (np.uint8, np.uint16):
        raise FileFault("bad_type", f"has {pixels.dtype} pixels; masks are whole numbers of 8 or 16 bits")
    if pixels.ndim == 3 and pixels.shape[2] == 4:
        pixels = pixels[..., :3]  # masks saved by an image editor carry an opaque or meaningless alpha
    values = _gray(pixels)
    return _binary(values, grey) if classes == 1 else _indices(values, classes, ignore_index)


def read_colour_mask(path: Path, known: dict[Colour, int]) -> np.ndarray:
    """Mask as uint8 [H, W]: the value of each pixel's exact colour (red, green, blue). Raises FileFault.

    A gray file has three equal channels; colours that a file keeps in a table of its own count as what they look like.
    """
    pixels = _pixels(path)
    if pixels.dtype != np.uint8:
        raise FileFault("bad_type", f"has {pixels.dtype} pixels; colours of masks have 8 bits a channel, convert it")
    colours = np.repeat(pixels[..., None], 3, axis=2) if pixels.ndim == 2 else pixels[..., 2::-1]
    try:
        return indices(colours, known)
    except ValueError as error:
        raise FileFault(
            "unknown_colour",
            f"has colours that no class has: {error}; write them into dataset.palette or dataset.ignored_colours, or "
            "correct the mask (a JPEG or a resized mask has mixed colours)",
        ) from error


def _gray(pixels: np.ndarray) -> np.ndarray:
    """One channel of equal ones."""
    if pixels.ndim == 2:
        return pixels
    if not ((pixels[..., 0] == pixels[..., 1]) & (pixels[..., 0] == pixels[..., 2])).all():
        raise FileFault(
            "not_gray", "has colours, but one channel is wanted; convert it, or write `channels: rgb` for images"
        )
    return np.ascontiguousarray(pixels[..., 0])


def _binary(values: np.ndarray, grey: bool) -> np.ndarray:
    highest = values.max()
    if not ((values == 0) | (values == highest)).all():
        if grey:
            return (values > np.iinfo(values.dtype).max // 2).astype(np.uint8)
        found = np.unique(values)
        raise FileFault(
            "not_binary", f"has {len(found)} values ({_some(found)}); a mask of one class has 0 and one other"
        )
    return (values > 0).astype(np.uint8)


def _indices(values: np.ndarray, classes: int, ignore_index: int | None) -> np.ndarray:
    known = values < classes
    if ignore_index is not None:
        known |= values == ignore_index
    if not known.all():
        ignored = "" if ignore_index is None else f" or {ignore_index} (ignored)"
        found = _some(np.unique(values[~known]))
        raise FileFault("unknown_class", f"has the values {found}; classes are 0 to {classes - 1}{ignored}")
    return values.astype(np.uint8)


def _some(values: np.ndarray) -> str:
    return ", ".join(str(value) for value in values[:8]) + (", ..." if len(values) > 8 else "")


# ---------------------------------------------------------------------------------------------------------------- files


def _pixels(path: Path, indices: bool = False) -> np.ndarray:
    """Decoded pixels [H, W] or [H, W, channels in OpenCV's order]; `indices` keeps the numbers of a palette."""
    content = _content(path)
    palette = _verify(content)
    if indices and palette:
        with Image.open(io.BytesIO(content)) as picture:
            return np.asarray(picture)
    try:
        pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise FileFault("undecodable", f"OpenCV can't decode it ({error.err})") from error
    if pixels is None:
        raise FileFault("undecodable", "OpenCV can't decode it; export it again")
    return pixels


def _opened(path: Path) -> BinaryIO:
    """A plain file, open: a pipe would be waited for, and a device may have no end. Raises FileFault."""
    if os.path.exists(path) and not os.path.isfile(path):
        raise FileFault("unreadable", "is no plain file (a folder, a pipe or a device); remove it")
    return path.open("rb")


def _content(path: Path) -> bytes:
    try:
        with _opened(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size > MAX_BYTES:
                raise FileFault("too_large", f"is {size:,} bytes long; at most {MAX_BYTES:,} are read")
            content = file.read()
    except OSError as error:
        raise FileFault("unreadable", f"can't be read ({error.strerror})") from error
    if not content:
        raise FileFault("truncated", "is empty; copy it again")
    return content


def _verify(content: bytes) -> bool:
    """Check a file's header, its end and its checksums or its whole decode; True if it has a palette."""
    if content.startswith(b"\xff\xd8") and not content.rstrip(b"\0").endswith(JPEG_END):
        raise FileFault("truncated", "does not end like a JPEG (FF D9); copy it again")
    if content.startswith(b"\x89PNG") and PNG_END not in content[-4096:]:
        raise FileFault("truncated", "does not end like a PNG (IEND); copy it again")
    if content[128:132] == b"DICM":
        raise FileFault("undecodable", f"is a DICOM file; give it the suffix {DICOM}")
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as picture:
            _require_size(picture)
            if getattr(picture, "n_frames", 1) > 1:
                raise FileFault("bad_type", "holds several images; keep one a file")
            palette = picture.mode == "P"
            if picture.format == "PNG":
                picture.verify()
            else:
                picture.load()
    except Image.DecompressionBombError as error:
        raise _bomb(error) from error
    except BROKEN as error:
        raise _unsound(error) from error
    return palette


def _bomb(error: Image.DecompressionBombError) -> FileFault:
    claimed, _, _ = str(error).partition(" exceeds")  # "Image size (3600000000 pixels)"
    return FileFault("too_large", f"claims more pixels than the {MAX_PIXELS:,} that are opened at most ({claimed})")


def _unsound(error: BaseException) -> FileFault:
    if isinstance(error, UnidentifiedImageError):  # its text is an address in memory
        return FileFault("undecodable", "is no PNG, JPEG or TIFF; export it again")
    return FileFault("undecodable", f"is no sound PNG, JPEG or TIFF ({str(error)[:200]}); export it again")


def _require_size(picture: Image.Image) -> None:
    width, height = picture.size
    if width * height > MAX_PIXELS:
        raise FileFault("too_large", f"is {width} x {height} pixels; at most {MAX_PIXELS:,} are opened")
