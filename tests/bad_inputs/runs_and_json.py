"""Bad run-length codes, as rows of a submission, and bad JSON and CSV files of mosaics, thresholds and shares."""

import json
from collections.abc import Callable
from pathlib import Path

from stagepipe.ensemble import read_shares
from stagepipe.errors import ArtefactError, DataError
from stagepipe.evaluate import evaluate
from stagepipe.masks import chosen_threshold
from stagepipe.postprocess.jigsaw.layouts import read
from tests.bad_inputs import BadInput

SENT = "submission.csv"
SOLUTION = "solution.csv"
MOSAICS = "mosaics.json"
TABLES = "mosaics"
THRESHOLD = "threshold.json"
SHARES = "blend.json"
HEIGHT, WIDTH = 10, 12


def _csv(header: str, text: str, good: str) -> Callable[[Path], object]:
    def build(folder: Path) -> None:
        (folder / SENT).write_text(f'{header}\nimage_1,"{text}"\nimage_2,{good}\n', encoding="utf-8")
        (folder / SOLUTION).write_text(f"{header}\nimage_1,{good}\nimage_2,{good}\n", encoding="utf-8")

    return build


def _evaluate(folder: Path) -> object:
    return evaluate(folder / SENT, folder / SOLUTION, (HEIGHT, WIDTH))


def _tgs(name: str, text: str, *says: str) -> BadInput:
    build = _csv("id,rle_mask", text, "1 5")
    return BadInput(name, "run-length code, TGS", build, _evaluate, DataError, (SENT, "image_1", *says))


def _siim(name: str, text: str, *says: str) -> BadInput:
    build = _csv("ImageId,EncodedPixels", text, "0 5")
    return BadInput(name, "run-length code, SIIM", build, _evaluate, DataError, (SENT, "image_1", *says))


def _put(name: str, content: str | bytes | object) -> Callable[[Path], object]:
    """Write text, bytes, or anything else as JSON."""

    def build(folder: Path) -> None:
        text = content if isinstance(content, str | bytes) else json.dumps(content)
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())

    return build


def _mosaics(name: str, content: str | bytes | object, *says: str) -> BadInput:
    build = _put(MOSAICS, content)
    return BadInput(name, "mosaics, JSON", build, lambda folder: read(folder / MOSAICS), DataError, (MOSAICS, *says))


def _tables(name: str, content: str | bytes, *says: str) -> BadInput:
    build = _put(f"{TABLES}/first.csv", content)
    return BadInput(name, "mosaics, CSV", build, lambda folder: read(folder / TABLES), DataError, (TABLES, *says))


def _linked(folder: Path) -> None:
    (folder / "elsewhere.csv").write_text("a,b\n", encoding="utf-8")
    (folder / TABLES).mkdir()
    (folder / TABLES / "first.csv").symlink_to(folder / "elsewhere.csv")


def _no_tables(folder: Path) -> None:
    (folder / TABLES).mkdir()


def _threshold(name: str, content: str | bytes | object, *says: str) -> BadInput:
    def meet(folder: Path) -> object:
        return chosen_threshold(folder / THRESHOLD)

    return BadInput(name, "chosen threshold", _put(THRESHOLD, content), meet, ArtefactError, (THRESHOLD, *says))


def _shares(name: str, content: str | bytes | object, *says: str) -> BadInput:
    def meet(folder: Path) -> object:
        return read_shares(folder / SHARES)

    return BadInput(name, "searched blend", _put(SHARES, content), meet, ArtefactError, (SHARES, *says))


CODES: list[BadInput] = [
    _tgs("an odd count of numbers", "1 5 7", "odd count of numbers, 3"),
    _tgs("a word", "1 five", "'five'"),
    _tgs("a fraction", "1 5.0", "'5.0'"),
    _tgs("a hexadecimal number", "1 0x5", "'0x5'"),
    _tgs("a number as only Python writes it", "1 1_0", "'1_0'"),
    _tgs("digits of another script", "1 \u0665", "'\u0665'"),
    _tgs("a number that is none", "nan 5", "'nan'"),
    _tgs("a start of 0", "0 5", '"0 5"'),
    _tgs("a length of 0", "1 0", '"1 0"'),
    _tgs("a length below 0", "1 -5", '"1 -5"'),
    _tgs("a run past the last pixel", "118 5", '"118 5"'),
    _tgs("runs that overlap", "1 5 3 2", '"3 2"'),
    _tgs("runs out of order", "20 5 1 2", '"1 2"'),
    _tgs("a length beyond 64 bits", f"1 {10**30}", "leaves the image"),
    _tgs("a number of 5,000 digits", "1 " + "9" * 5000, "is not a number"),
    _tgs("the empty mask of the other dialect", "-1", "odd count"),
    _tgs("a million runs for 120 pixels", "1 1 " * 1_000_000, "run 2"),
    _tgs("commas between the numbers", "1,5", "'1,5'"),
    _siim("empty text", "", "empty"),
    _siim("an odd count of numbers", "1 5 7", "odd count of numbers, 3"),
    _siim("an offset below 0", "5 5 -3 2", '"-3 2"'),
    _siim("a length of 0", "5 0", '"5 0"'),
    _siim("runs past the last pixel", "0 5 118 1", '"118 1"'),
    _siim("offsets that add up beyond 64 bits", f"{2**62} {2**62} {2**62} 1", "leaves the image"),
    _siim("-1 and more", "-1 1 5", "odd count"),
]

FILES: list[BadInput] = [
    _mosaics("an empty file", "", "isn't JSON"),
    _mosaics("cut off", '{"m1": [["a", "b"], ["c"', "isn't JSON"),
    _mosaics("not UTF-8", b'{"m1": [["\xff"]]}', "isn't JSON"),
    _mosaics("a list", [["a", "b"]], "holds list"),
    _mosaics("no mosaic", {}, "holds no mosaic"),
    _mosaics("a mosaic that is text", {"m1": "a"}, "m1", "list of rows"),
    _mosaics("an id that is a number", {"m1": [["a", 7]]}, "m1", "7"),
    _mosaics("an id that is a list", {"m1": [["a", ["b"]]]}, "m1", '["b"]'),
    _mosaics("rows of several lengths", {"m1": [["a", "b"], ["c"]]}, "m1", "row 2"),
    _mosaics("a tile in two mosaics", {"m1": [["a"]], "m2": [["a"]]}, "a lies in m1 row 1, m2 row 1"),
    _mosaics("a name written twice", '{"m1": [["a"]], "m1": [["b"]]}', "m1", "twice"),
    _mosaics("no rows", {"m1": []}, "m1", "holds no row"),
    _mosaics("lists a hundred thousand levels deep", '{"m1": ' + "[" * 100_000 + "]" * 100_000 + "}", "isn't JSON"),
    BadInput(
        "the file is missing",
        "mosaics, JSON",
        _no_tables,
        lambda folder: read(folder / MOSAICS),
        DataError,
        (MOSAICS, "is no folder"),
    ),
    BadInput(
        "a folder of no CSV file",
        "mosaics, CSV",
        _no_tables,
        lambda folder: read(folder / TABLES),
        DataError,
        (TABLES, "holds no mosaic"),
    ),
    BadInput(
        "a link out of the folder",
        "mosaics, CSV",
        _linked,
        lambda folder: read(folder / TABLES),
        DataError,
        ("first.csv", "is a link"),
    ),
    _tables("an empty file", "", "first.csv", "holds no row"),
    _tables("not UTF-8", b"a,\xff\n", "first.csv", "UTF-8"),
    _tables("rows of several lengths", "a,b\nc\n", "first.csv", "row 2"),
    _tables("a quote that isn't closed", 'a,"b\nc,d\n', "first.csv", "CSV"),
    _tables("a NUL byte", b"a,b\0\n", "first.csv", "NUL"),
    _tables("a tile twice", "a,b\nc,a\n", "first.csv row 1", "first.csv row 2"),
    _threshold("the file is empty", "", "JSON"),
    _threshold("the file is cut off", '{"chosen": 0.', "JSON"),
    _threshold("a list in its place", [0.5], "holds list"),
    _threshold("no key `chosen`", {"threshold": 0.5}, "no threshold"),
    _threshold("text as threshold", {"chosen": "0.5"}, "0.5"),
    _threshold("a threshold that is not a number", '{"chosen": NaN}', "nan"),
    _threshold("a threshold above 1", {"chosen": 127}, "127"),
    _threshold("a triplet with a value missing", {"chosen": {"top": 0.5, "area": 3}}, "'area': 3"),
    _shares("the file is empty", "", "JSON"),
    _shares("no key `shares`", {"share": {"a": 1}}, "shares"),
    _shares("shares that are a list", {"shares": [1]}, "[1]"),
    _shares("a share that is not a number", '{"shares": {"a": NaN}}', "nan"),
    _shares("a share below 0", {"shares": {"a": -1, "b": 2}}, "-1"),
]

RUNS: list[BadInput] = CODES + FILES
