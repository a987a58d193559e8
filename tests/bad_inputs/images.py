"""Bad PNG, JPEG and TIFF files, names, links and folders, in the tgs and the folder layout."""

import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from tests.bad_inputs import BadInput
from tests.bad_inputs.raw_data import Spoil, content, flipped, quarantine, refusal
from tests.data_layouts import SIZE, picture, salt, save
from tests.dicom_files import dicom

IMAGE, MASK, TEST = "train/images/t1.png", "train/masks/t1.png", "test/images/u1.png"
STREET, STREET_MASK = "train/images/a1.png", "train/masks/a1.png"


def chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a PNG file with its right checksum."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, rows: int, extra: bytes = b"") -> bytes:
    """A gray PNG of that header with so many rows of pixels, each checksum right."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    pixels = zlib.compress(rows * (b"\0" + bytes(range(SIZE))))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def pillow(kind: str, *pictures: np.ndarray, **options: object) -> bytes:
    """A file of one or several pictures as Pillow writes it."""
    first, *more = (Image.fromarray(pixels) for pixels in pictures)
    file = io.BytesIO()
    first.save(file, kind, **({"save_all": True, "append_images": more} if more else {}), **options)
    return file.getvalue()


def encoded(suffix: str, pixels: np.ndarray) -> bytes:
    return bytes(cv2.imencode(suffix, pixels)[1])


def palette(indices: np.ndarray, **options: object) -> bytes:
    """A PNG of these indices into 256 colours."""
    picture = Image.fromarray(indices, "P")
    picture.putpalette([value for index in range(256) for value in (index, index, 255 - index)])
    file = io.BytesIO()
    picture.save(file, "PNG", **options)
    return file.getvalue()


def replaced(path: str, suffix: str, new: Callable[[], bytes]) -> Spoil:
    """Puts a file of another type in place of one."""

    def spoil(root: Path) -> None:
        (root / path).unlink()
        (root / path).with_suffix(suffix).write_bytes(new())

    return spoil


def added(name: str) -> Spoil:
    """One more test image of that name."""
    return lambda root: (root / "test/images" / name).write_bytes(encoded(".png", picture(9)))


def linked(target: str) -> Spoil:
    return lambda root: (root / "test/images/u9.png").symlink_to(target)


def _outside(root: Path) -> None:
    save(root.parent / "secret.png", picture(9))
    (root / "test/images/u9.png").symlink_to(root.parent / "secret.png")


def _folder_outside(root: Path) -> None:
    (root / "test/images").rename(root.parent / "elsewhere")
    (root / "test/images").symlink_to(root.parent / "elsewhere")


def _masks_are_a_file(root: Path) -> None:
    (root / "train/masks").rename(root.parent / "masks")
    (root / "train/masks").write_bytes(b"")


def _endless(root: Path) -> None:
    with (root / TEST).open("wb") as file:
        file.truncate((1 << 30) + 1)  # takes no room on the disk


def _labelled_by_nothing(root: Path) -> None:
    (root / MASK).unlink()
    rows = (root / "train.csv").read_text().splitlines(keepends=True)
    (root / "train.csv").write_text("".join(row for row in rows if not row.startswith("t1,")))


def _all_broken(root: Path) -> None:
    for path in (root / "train/images").iterdir():
        path.write_bytes(b"")


def _nothing(root: Path) -> None:
    pass


def _transparent() -> np.ndarray:
    return np.dstack([picture(1), np.full((SIZE, SIZE), 128, np.uint8)])


def _wide_tiff() -> bytes:
    """A TIFF of which the header claims 2,000,000,000 columns."""
    whole = encoded(".tif", picture(1, 1))
    tag, start = struct.pack("<HHI", 256, 3, 1), struct.pack("<HHI", 257, 3, 1)
    place = whole.index(tag)
    assert start in whole
    return whole[:place] + struct.pack("<HHII", 256, 4, 1, 2_000_000_000) + whole[place + 12 :]


def _large_jpeg() -> bytes:
    """A JPEG of which the frame header claims 65,535 x 65,535 pixels."""
    whole = encoded(".jpg", picture(1))
    place = whole.index(b"\xff\xc0") + 5
    return whole[:place] + b"\xff" * 4 + whole[place + 4 :]


def _half(old: bytes) -> bytes:
    return old[: len(old) // 2]


CONTENTS: list[BadInput] = [
    quarantine("PNG of no bytes", "tgs", content(IMAGE, b""), "truncated", IMAGE, "is empty"),
    quarantine("PNG cut in half", "tgs", content(IMAGE, _half), "truncated", IMAGE, "IEND"),
    quarantine("PNG without its last byte", "tgs", content(IMAGE, lambda old: old[:-1]), "truncated", IMAGE),
    quarantine("PNG with one bit of its pixels flipped", "tgs",
               content(IMAGE, lambda old: flipped(old, len(old) // 2)), "undecodable", IMAGE),
    quarantine("PNG with one bit of its header flipped", "tgs",
               content(IMAGE, lambda old: flipped(old, 19)), "undecodable", IMAGE),
    quarantine("PNG with half of its rows, checksums right", "tgs",
               content(IMAGE, png(SIZE, SIZE, SIZE // 2)), "undecodable", IMAGE),
    quarantine("PNG without pixels, checksums right", "tgs", content(IMAGE, png(SIZE, SIZE, 0)), "undecodable", IMAGE),
    quarantine("PNG of 0 x 24 pixels", "tgs", content(IMAGE, png(0, SIZE, SIZE)), "undecodable", IMAGE),
    quarantine("PNG that claims 60000 x 60000 pixels", "tgs",
               content(IMAGE, png(60_000, 60_000, 1)), "too_large", IMAGE, "3600000000"),
    quarantine("PNG that claims 10001 x 10001 pixels", "tgs",
               content(IMAGE, png(10_001, 10_001, 1)), "too_large", IMAGE, "10001 x 10001"),
    quarantine("PNG with a comment that unpacks to 64 MiB", "tgs",
               content(IMAGE, png(SIZE, SIZE, SIZE, chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(1 << 26))))),
               "undecodable", IMAGE),
    quarantine("PNG with two pictures (animated)", "tgs",
               content(IMAGE, pillow("PNG", picture(1, 1), picture(2, 1))), "bad_type", IMAGE, "several images"),
    quarantine("PNG with 16 bits as image", "tgs",
               content(IMAGE, encoded(".png", picture(1, 1).astype(np.uint16))), "bad_type", IMAGE, "uint16"),
    quarantine("PNG that is transparent", "tgs",
               content(IMAGE, encoded(".png", _transparent())), "bad_type", IMAGE, "transparent"),
    quarantine("PNG in colours, gray wanted", "tgs",
               content(IMAGE, encoded(".png", np.dstack([picture(1, 1), picture(2, 1), picture(3, 1)]))),
               "not_gray", IMAGE, "channels: rgb"),
    quarantine("PNG with a palette of colours, gray wanted", "tgs",
               content(IMAGE, lambda old: palette(picture(1, 1))), "not_gray", IMAGE, "channels: rgb"),
    quarantine("PNG with a palette that is transparent in places", "folder",
               content(STREET, lambda old: palette(picture(1, 1), transparency=3)), "bad_type", STREET, "transparent"),
    quarantine("text named .png", "tgs", content(IMAGE, b"<html>404</html>" * 20), "undecodable", IMAGE),
    quarantine("GIF named .png", "tgs", content(IMAGE, pillow("GIF", picture(1, 1))), "undecodable", IMAGE),
    quarantine("DICOM named .png", "tgs", content(IMAGE, dicom(picture(1, 1))), "undecodable", IMAGE, ".dcm"),
    quarantine("image file of more than 1 GiB", "tgs", _endless, "too_large", TEST, "1,073,741,825"),
    quarantine("JPEG cut in half", "folder",
               replaced(STREET, ".jpg", lambda: _half(encoded(".jpg", picture(1)))), "truncated", "a1.jpg", "FF D9"),
    quarantine("JPEG that claims 65535 x 65535 pixels", "folder",
               replaced(STREET, ".jpg", _large_jpeg), "too_large", "a1.jpg", "4294836225"),
    quarantine("JPEG of two bytes", "folder",
               replaced(STREET, ".jpg", lambda: b"\xff\xd8"), "truncated", "a1.jpg", "FF D9"),
    quarantine("TIFF cut in half", "folder",
               replaced(STREET, ".tif", lambda: _half(encoded(".tif", picture(1)))), "undecodable", "a1.tif"),
    quarantine("TIFF that claims 2000000000 columns", "folder",
               replaced(STREET, ".tif", _wide_tiff), "too_large", "a1.tif"),
    quarantine("TIFF with two pages", "folder",
               replaced(STREET, ".tif", lambda: pillow("TIFF", picture(1), picture(2))),
               "bad_type", "a1.tif", "several images"),
    quarantine("mask cut in half", "tgs", content(MASK, _half), "truncated", MASK),
    quarantine("mask of another size than its image", "tgs",
               content(MASK, encoded(".png", salt(1)[:-1])), "size_mismatch", MASK, "24 x 23", "24 x 24"),
    quarantine("mask of one class with many values", "tgs",
               content(MASK, encoded(".png", picture(1, 1))), "not_binary", MASK, "values"),
    quarantine("mask that differs from its run lengths", "tgs",
               content(MASK, encoded(".png", salt(2))), "rle_mismatch", MASK, "of 576 pixels"),
    quarantine("mask with a class that isn't there", "folder",
               content(STREET_MASK, encoded(".png", np.full((SIZE, SIZE), 3, np.uint8))),
               "unknown_class", STREET_MASK, "the values 3"),
    quarantine("mask with a palette, of a class that isn't there", "folder",
               content(STREET_MASK, lambda old: palette(np.full((SIZE, SIZE), 7, np.uint8))),
               "unknown_class", STREET_MASK, "the values 7"),
    quarantine("mask of fractions", "folder",
               replaced(STREET_MASK, ".tif", lambda: pillow("TIFF", np.ones((SIZE, SIZE), np.float32))),
               "bad_type", "a1.tif", "float32"),
]  # fmt: skip

PLACES: list[BadInput] = [
    quarantine("folder named like an image", "tgs",
               lambda root: (root / "test/images/u9.png").mkdir(), "unreadable", "test/images/u9.png"),
    quarantine("pipe named like an image", "tgs",
               lambda root: os.mkfifo(root / "test/images/u9.png"), "unreadable", "test/images/u9.png"),
    quarantine("link to nowhere", "tgs", linked("nowhere.png"), "unreadable", "test/images/u9.png", "broken link"),
    quarantine("link to itself", "tgs", linked("u9.png"), "unreadable", "test/images/u9.png"),
    quarantine("link to a device without end", "tgs", linked("/dev/zero"), "outside_root", "/dev/zero"),
    quarantine("link to a file outside the root", "tgs", _outside, "outside_root", "test/images/u9.png", "secret.png"),
    quarantine("folder that links out of the root", "tgs", _folder_outside, "outside_root", "test/images", "elsewhere"),
    quarantine("file in place of a folder", "tgs", _masks_are_a_file, "unreadable", "train/masks", "no folder"),
    quarantine("file name with a line break", "tgs", added("a\nb.png"), "bad_id", r"'a\nb'", "control characters"),
    quarantine("file name with a direction override", "tgs",
               added("a\u202eb.png"), "bad_id", r"'a\u202eb'", "control characters"),
    quarantine("file name of 200 characters", "tgs", added("x" * 200 + ".png"), "bad_id", "xxx", "128 characters"),
    quarantine("file name that is no UTF-8", "tgs",
               lambda root: Path(os.fsdecode(os.fsencode(root) + b"/test/images/\xff.png")).write_bytes(b"x"),
               "bad_id", r"\udcff.png"),
    quarantine("hidden image", "tgs", added(".u9.png"), "bad_id", "starts with a dot"),
    quarantine("file name with ..", "tgs", added("a..b.png"), "bad_id", "'a..b'", "contains .."),
    quarantine("two files of one id", "tgs",
               lambda root: (root / "train/images/t1.PNG").write_bytes(b""), "duplicate_id", "t1.PNG", "same id"),
    quarantine("one id in train and test", "tgs", added("t1.png"), "duplicate_id", "test/images/t1.png"),
    quarantine("file that is no image", "tgs", added("u9.bmp"), "unknown_type", "u9.bmp", ".png"),
    quarantine("mask without an image", "tgs",
               lambda root: save(root / "train/masks/t9.png", salt(0)), "missing_image", "train/masks/t9.png"),
    quarantine("image without any label", "tgs", _labelled_by_nothing, "missing_mask", IMAGE, "train.csv"),
    refusal("no labelled image without a fault", "tgs", _all_broken, "raw has 4 faults", "no labelled image", IMAGE),
    refusal("one faulty image where faults are strict", "tgs",
            content(IMAGE, b""), IMAGE, "truncated", "faults: quarantine", faults="strict"),
    refusal("root without its folders", "tgs",
            lambda root: (root / "test").rename(root / "tset"), "raw has no folder test/images", "depths.csv"),
    refusal("layout of another format", "siim", lambda root: (root / "dicom-images-train").rename(root / "images"),
            "raw has no folder dicom-images-train"),
    refusal("several classes where run lengths mark one", "tgs", _nothing,
            "dataset.classes", "2", classes=["salt", "rock"]),
]  # fmt: skip

IMAGES = CONTENTS + PLACES
