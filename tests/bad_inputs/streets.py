"""Bad JSON files, colour masks, names and folders of street scenes."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tests.bad_inputs import BadInput
from tests.bad_inputs.images import encoded, palette
from tests.bad_inputs.raw_data import COLOURS, Spoil, colours, content, quarantine, refusal
from tests.data_layouts import SIZE, picture, save

IMAGE, MASK, JSON = "seg_train_images/s1.jpg", "seg_train_annotations/s1.png", "seg_train_annotations/s1.json"


# ----------------------------------------------------------------------------------------------------------------- JSON


def _json(name: str, new: bytes | object, fault: str, *says: str) -> BadInput:
    """A JSON file of these bytes, or of anything else as JSON."""
    whole = new if isinstance(new, bytes) else json.dumps(new).encode()
    return quarantine(f"JSON {name}", "street", content(JSON, whole), fault, JSON, *says)


def _frame(name: str, frame: object, *says: str) -> BadInput:
    described = {"attributes": {"route": "Tokyo1"}, "frameIndex": frame}
    advice = "write a whole number of up to 15 digits, or leave it out"
    return _json(f"with a frameIndex {name}", described, "bad_value", advice, *says)


def _attribute(name: str, attribute: str, *says: str) -> BadInput:
    return _json(f"with an attribute {name}", {"attributes": {attribute: "x"}}, "bad_json", *says, "rename it")


def _endless(root: Path) -> None:
    with (root / JSON).open("wb") as file:
        file.truncate((1 << 24) + 1)  # takes no room on the disk


def _outside(root: Path) -> None:
    (root / JSON).rename(root.parent / "secret.json")
    (root / JSON).symlink_to(root.parent / "secret.json")


def _in_its_place(make: Callable[[Path], object]) -> Spoil:
    """Something else in place of a JSON file."""

    def spoil(root: Path) -> None:
        (root / JSON).unlink()
        make(root / JSON)

    return spoil


def _linked(target: str) -> Spoil:
    return _in_its_place(lambda path: path.symlink_to(target))


COPY = "correct it or copy it again"
WANTED = 'has no object "attributes"; write {"attributes": {...}}'

DESCRIBED: list[BadInput] = [
    _json("of no bytes", b"", "bad_json", "line 1 column 1", COPY),
    _json("cut in half", b'{"attributes": {"route": "Tok', "bad_json", "line 1 column 26", COPY),
    _json("that is a page of HTML", b"<html>404</html>", "bad_json", "line 1 column 1", COPY),
    _json("of 5000 NUL bytes", bytes(5000), "bad_json", "line 1 column 1", COPY),
    _json("that is no UTF-8", b'{"attributes": {"route": "\xff"}}', "bad_json", "byte 0xff in position 26", COPY),
    _json("in UTF-16", '{"attributes": {}}'.encode("utf-16"), "bad_json", "byte 0xff in position 0", COPY),
    _json("of two objects", b'{"attributes": {}}\n{"attributes": {}}', "bad_json", "line 2 column 1", COPY),
    _json("that is a list", [{"attributes": {}}], "bad_json", WANTED),
    _json("without attributes", {"frameIndex": 3}, "bad_json", WANTED),
    _json("whose attributes are a list", {"attributes": ["Tokyo1", "day"]}, "bad_json", WANTED),
    _json("of lists a hundred thousand levels deep", b"[" * 100_000, "bad_json", "recursion depth", COPY),
    _json("with an attribute written twice", b'{"attributes": {"route": "A", "route": "B"}}',
          "bad_json", "the name 'route' stands twice in an object", COPY),
    quarantine("JSON of more than 16 MiB", "street", _endless,
               "bad_json", JSON, "is 16,777,217 bytes long; at most 16,777,216 are read"),
    _json("of 5 million objects", b'{"attributes": {"x": [' + b"{}," * 5_000_000 + b"}",
          "bad_json", "line 1 column 15000023", COPY),
    _json("with 20000 attributes", {"attributes": {f"a{number}": 1 for number in range(20_000)}},
          "bad_json", "has 20,000 attributes; at most 100 become columns, leave the others out"),
    _attribute("named like a column of our own", "split", "'split' has the name of a column of our own"),
    _attribute("named drive", "drive", "'drive' has the name of a column of our own"),
    _attribute("without a name", "", "''", "no plain name"),
    _attribute("whose name has a line break", "a\nb", r"'a\nb'", "no plain name"),
    _attribute("whose name has a million letters", "a" * 1_000_000, "aaa...", "of up to 128 characters"),
    _frame("that is text", "seven", "frameIndex is 'seven'"),
    _frame("of 1.5", 1.5, "frameIndex is 1.5"),
    _frame("of 10^30", 10**30, "frameIndex is 1" + "0" * 30),
    _frame("that is not a number", float("nan"), "frameIndex is nan"),
    _frame("that is true", True, "frameIndex is True"),
    _frame("that is a list", [7], "frameIndex is [7]"),
    _json("with a frameIndex of 5,000 digits", b'{"attributes": {}, "frameIndex": ' + b"9" * 5000 + b"}",
          "bad_json", "value has 5000 digits", COPY),
]  # fmt: skip


# --------------------------------------------------------------------------------------------------------------- places


def _without(path: str) -> Spoil:
    return lambda root: (root / path).unlink()


def _no_annotations(root: Path) -> None:
    for path in (root / "seg_train_annotations").iterdir():
        path.unlink()


ADD_JSON = "has no s1.json in seg_train_annotations; add it, with its attributes"

PLACES: list[BadInput] = [
    quarantine("frame without its JSON", "street", _without(JSON), "missing_metadata", IMAGE, ADD_JSON),
    quarantine("frame without its mask", "street", _without(MASK), "missing_mask", IMAGE,
               "has no mask of that name in seg_train_annotations; add one or move the image to seg_test_images"),
    quarantine("mask and JSON without their frame", "street", _without(IMAGE), "missing_image", MASK, JSON,
               "has no image of that name in seg_train_images; add it or remove this file"),
    quarantine("JSON that links out of the root", "street", _outside, "outside_root", JSON, "secret.json",
               "put the file itself below the root"),
    quarantine("JSON that links to a device without end", "street", _linked("/dev/zero"),
               "outside_root", JSON, "/dev/zero"),
    quarantine("JSON that links to nowhere", "street", _linked("nowhere.json"), "unreadable", JSON, "broken link"),
    quarantine("JSON that is a folder", "street", _in_its_place(Path.mkdir), "unreadable", JSON, "is no plain file"),
    quarantine("JSON that is a pipe", "street", _in_its_place(os.mkfifo), "unreadable", JSON, "is no plain file"),
    quarantine("two JSON files of one frame", "street",
               lambda root: (root / JSON).with_suffix(".JSON").write_bytes((root / JSON).read_bytes()),
               "duplicate_id", JSON, "s1.JSON has the same id; keep one of them"),
    quarantine("JSON in a folder of images", "street",
               lambda root: (root / JSON).rename(root / "seg_test_images/s1.json"),
               "unknown_type", "seg_test_images/s1.json", "is none of .jpeg, .jpg", "remove or convert it"),
    quarantine("frame in train and test", "street",
               lambda root: save(root / "seg_test_images/s1.jpg", picture(1)),
               "duplicate_id", IMAGE, "seg_test_images/s1.jpg has the same id; remove one of them"),
    refusal("no frame has a mask or JSON", "street", _no_annotations,
            "raw has 6 faults", "no labelled image", IMAGE, "missing_mask", "missing_metadata"),
    refusal("street scenes without their test folder", "street",
            lambda root: (root / "seg_test_images").rename(root / "test"), "raw has no folder seg_test_images"),
]  # fmt: skip


# -------------------------------------------------------------------------------------------------------------- colours


def _spotted() -> np.ndarray:
    """A mask with three pixels of one colour that no class has and one of another."""
    mask = colours(1)
    mask[5, 7], mask[9, 2:5] = (1, 2, 3), (4, 5, 6)
    return mask


def _mask(name: str, pixels: np.ndarray, fault: str, *says: str, suffix: str = ".png") -> BadInput:
    """A mask of red, green and blue, or gray."""
    return _mask_file(name, encoded(suffix, pixels[..., ::-1] if pixels.ndim == 3 else pixels), fault, *says)


def _mask_file(name: str, new: bytes, fault: str, *says: str) -> BadInput:
    return quarantine(f"colour mask {name}", "street", content(MASK, new), fault, MASK, *says)


SPOTS = (
    "[4, 5, 6] (3 pixels, the first in row 9, column 2), [1, 2, 3] (1 pixels, the first in row 5, column 7)",
    "write them into dataset.palette or dataset.ignored_colours",
)
INDICES = np.repeat(np.arange(3, dtype=np.uint8), SIZE * SIZE // 3).reshape(SIZE, SIZE)
"""a mask of class indices: gray 0, 1 and 2 in bands of eight rows"""
BANDS = "[0, 0, 0] (192 pixels, the first in row 0, column 0), [1, 1, 1] (192 pixels, the first in row 8, column 0)"
MIXED = "a JPEG or a resized mask has mixed colours"

MASKS: list[BadInput] = [
    _mask("with two colours that no class has", _spotted(), "unknown_colour", *SPOTS),
    _mask("of class indices", INDICES, "unknown_colour", BANDS),
    _mask("with red and blue exchanged", colours(1)[..., ::-1], "unknown_colour", "[142, 0, 0] (88 pixels, the first "),
    _mask("that is a JPEG named .png", np.full((SIZE, SIZE, 3), COLOURS["road"], np.uint8),
          "unknown_colour", "(576 pixels, the first in row 0, column 0)", MIXED, suffix=".jpg"),
    _mask_file("whose table has other colours", palette(INDICES), "unknown_colour", "[0, 0, 255] (192 pixels"),
    _mask("with 16 bits", colours(1).astype(np.uint16), "bad_type", "has uint16 pixels", "convert it"),
    _mask("of another size than its frame", colours(1)[:-1], "size_mismatch", "24 x 23", "24 x 24"),
    _mask_file("cut in half", encoded(".png", colours(1))[:60], "truncated", "IEND", "copy it again"),
    quarantine("colour mask named .jpg", "street", lambda root: (root / MASK).rename((root / MASK).with_suffix(".jpg")),
               "unknown_type", "seg_train_annotations/s1.jpg", "is none of .png; remove or convert it"),
    refusal("unknown colours where faults are strict", "street",
            content(MASK, encoded(".png", _spotted()[..., ::-1])), MASK, *SPOTS, "faults: quarantine", faults="strict"),
]  # fmt: skip


STREETS: list[BadInput] = DESCRIBED + PLACES + MASKS
