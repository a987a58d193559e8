"""Read one grayscale DICOM film with every check that tells a sound file from a damaged one.

Only the tags that decoding needs are read, and nothing that pydicom or a decoder says goes any further: a header holds
names, dates and ids of patients, and warnings and errors may quote what they stumble on. Faults are worded here, with
numbers of the image's layout and terms of the standard alone.
"""

from __future__ import annotations

import io
import logging
import math
import threading
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, uid
from pydicom.filereader import read_dataset, read_preamble
from pydicom.tag import BaseTag, Tag

from stagepipe.data.decode import MAX_BYTES, MAX_PIXELS, FileFault
from stagepipe.data.dicom_codecs import READ, RUN_LENGTHS, UNCOMPRESSED, Layout, unpack
from stagepipe.data.grayscale import Grayscale, Rescale, Table, Window, modality_values, to_gray

# Its loggers hand on the same texts as its warnings.
logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)

T = TypeVar("T")
_READING = threading.Lock()

META = ["TransferSyntaxUID", "MediaStorageSOPClassUID"]
LAYOUT = ["Rows", "Columns", "BitsAllocated", "BitsStored", "PixelRepresentation", "SamplesPerPixel"]
PIXELS = ["PixelData", "FloatPixelData", "DoubleFloatPixelData"]
MEANING = [
    "PhotometricInterpretation",
    "HighBit",
    "NumberOfFrames",
    "RescaleSlope",
    "RescaleIntercept",
    "ModalityLUTSequence",
    "WindowCenter",
    "WindowWidth",
    "VOILUTFunction",
    "VOILUTSequence",
]
COLOURS = {
    "RGB", "PALETTE COLOR", "YBR_FULL", "YBR_FULL_422", "YBR_PARTIAL_420", "YBR_PARTIAL_422", "YBR_ICT", "YBR_RCT",
    "HSV", "ARGB", "CMYK",
}  # fmt: skip
PREFIX = b"DICM"
PIXEL_DATA, PIXEL_DATA_BIG = b"\xe0\x7f\x10\x00", b"\x7f\xe0\x00\x10"
"""the tag as it lies in a file: pydicom drops compressed pixels that do not end, and all before them"""
PICTURES = {b"\x89PNG": "PNG", b"\xff\xd8": "JPEG", b"II*\0": "TIFF", b"MM\0*": "TIFF"}


@dataclass(frozen=True)
class Film:
    """A film whose header has been checked."""

    syntax: uid.UID
    layout: Layout
    meaning: Grayscale
    data: bytes
    """value of Pixel Data"""
    words: bool
    """the value representation is OW"""


def read_film(content: bytes) -> NDArray[np.uint8]:
    """Gray levels, uint8 [H, W], of the bytes of a DICOM file: black is 0. Raises FileFault.

    Values go through the file's modality table or rescaling, then through its VOI table or its first window, and the
    range that these define becomes 0..255: eight bits without any of them stay as they are.
    """
    film = _opened(content)

    def decoded() -> NDArray[np.uint8]:
        return to_gray(unpack(film.data, film.syntax, film.layout, film.words), film.meaning)

    # The only decoder that warns. It is written in Python, so threads could not share it out anyway.
    with _silence() if film.syntax in RUN_LENGTHS else nullcontext():
        return _worded(decoded, "undecodable", "its pixels can't be decoded; export it again")


def film_size(content: bytes) -> tuple[int, int]:
    """Height and width, from the header. Raises FileFault."""
    layout = _opened(content).layout
    return layout.rows, layout.columns


# -------------------------------------------------------------------------------------------------------------- reading


def _opened(content: bytes) -> Film:
    for start, name in PICTURES.items():
        if content.startswith(start) and content[128:132] != PREFIX:  # the preamble of a DICOM file can be anything
            raise FileFault("undecodable", f"is a {name} file; give it the suffix of one")
    with _silence():
        return _worded(
            lambda: _film(content), "undecodable", "is no DICOM file whose header can be read; export it again"
        )


@contextmanager
def _silence() -> Iterator[None]:
    """No warning gets out; one thread at a time, since they are switched off for all."""
    with _READING, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _worded(step: Callable[[], T], fault: str, detail: str) -> T:
    """What a step returns; a fault in words of our own for whatever else it raises."""
    try:
        return step()
    except FileFault:
        raise
    except Exception:  # noqa: BLE001 - pydicom has no common base for them, and each may quote a header
        worded = FileFault(fault, detail)
    raise worded  # out here, or a traceback would show both


def _film(content: bytes) -> Film:
    header, syntax = _header(content)
    _require_pixels(header, content)
    layout = _layout(header)
    element: Any = header.get_item("PixelData")
    if syntax in UNCOMPRESSED and element.length == 0xFFFFFFFF:
        raise FileFault("bad_header", "has compressed pixels, but names no transfer syntax for them; export it again")
    data = bytes(element.value or b"")
    if len(data) < element.length != 0xFFFFFFFF:
        raise FileFault("truncated", f"claims {element.length:,} bytes of pixels, has {len(data):,}; copy it again")
    return Film(syntax, layout, _meaning(header, layout, syntax), data, element.VR == "OW")


def _header(content: bytes) -> tuple[Dataset, uid.UID]:
    """The tags that decoding needs, and the transfer syntax; a file without a header of its own has the default one."""
    file = io.BytesIO(content)
    read_preamble(file, force=True)
    meta = read_dataset(file, False, True, stop_when=lambda tag, *_: tag.group != 2, specific_tags=_tags(META))
    if meta.get("MediaStorageSOPClassUID") == uid.MediaStorageDirectoryStorage:
        raise FileFault("bad_type", "is a DICOMDIR, the contents of a medium; put the films themselves here")
    syntax = uid.UID(str(meta.get("TransferSyntaxUID") or uid.ImplicitVRLittleEndian))
    if syntax not in READ:
        name = f"{syntax.name} ({syntax})" if syntax.name != syntax else "an unknown one"
        raise FileFault("missing_decoder", f"has the transfer syntax {name}, which isn't read; decompress the file")
    if syntax == uid.DeflatedExplicitVRLittleEndian:
        file = io.BytesIO(_inflated(file.read()))
    implicit, little = syntax == uid.ImplicitVRLittleEndian, syntax != uid.ExplicitVRBigEndian
    return read_dataset(file, implicit, little, specific_tags=_tags(LAYOUT + MEANING + PIXELS)), syntax


def _tags(keywords: list[str]) -> list[BaseTag | int]:
    return [Tag(keyword) for keyword in keywords]


def _inflated(content: bytes) -> bytes:
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    data = stream.decompress(content, MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise FileFault("too_large", f"inflates to more than {MAX_BYTES:,} bytes, the most that are read")
    if not stream.eof:
        raise FileFault("truncated", "its deflated part does not end; copy it again")
    return data


# ------------------------------------------------------------------------------------------------------------- checking


def _require_pixels(header: Dataset, content: bytes) -> None:
    """FileFault unless there are pixels, in whole numbers, and all that describes them."""
    if "PixelData" not in header:
        if "FloatPixelData" in header or "DoubleFloatPixelData" in header:
            raise FileFault("bad_type", "has fractions as pixels (FloatPixelData); export it with whole numbers")
        if content[128:132] != PREFIX and not any(keyword in header for keyword in LAYOUT):
            raise FileFault("undecodable", "is no DICOM file; export it again")
        if PIXEL_DATA in content or PIXEL_DATA_BIG in content:
            raise FileFault("truncated", "ends within its pixels; copy it again")
        raise FileFault("no_pixels", "has no pixels, as a report or a plan, or was cut short; remove or copy it again")
    if missing := [keyword for keyword in (*LAYOUT, "PhotometricInterpretation") if keyword not in header]:
        raise FileFault("bad_header", f"lacks {', '.join(missing)}; export it again")


def _layout(header: Dataset) -> Layout:
    rows, columns, allocated, stored, signed, samples = (_whole(header, keyword) for keyword in LAYOUT)
    colour = _term(header, "PhotometricInterpretation")
    if colour in COLOURS or samples != 1:
        raise FileFault("not_gray", "holds a colour picture, but a film is gray; export it as MONOCHROME2")
    if colour not in ("MONOCHROME1", "MONOCHROME2"):
        raise FileFault("bad_header", "PhotometricInterpretation is no term of the standard; write MONOCHROME1 or 2")
    if (frames := _whole(header, "NumberOfFrames", 1)) != 1:
        raise FileFault("bad_type", f"holds {frames} images; keep one a file")
    if allocated not in (8, 16) or not 1 <= stored <= allocated:
        raise FileFault(
            "bad_type", f"has values of {stored} in {allocated} bits; export it with 8 or 16 (BitsAllocated)"
        )
    if signed not in (0, 1) or _whole(header, "HighBit", stored - 1) != stored - 1:
        raise FileFault("bad_header", "its HighBit or PixelRepresentation fits no whole numbers; export it again")
    if rows < 1 or columns < 1:
        raise FileFault("bad_header", f"is {columns} x {rows} pixels; export it again")
    if rows * columns > MAX_PIXELS:
        raise FileFault("too_large", f"is {columns} x {rows} pixels; at most {MAX_PIXELS:,} are opened")
    return Layout(rows, columns, allocated, stored, bool(signed))


def _meaning(header: Dataset, layout: Layout, syntax: uid.UID) -> Grayscale:
    little = syntax != uid.ExplicitVRBigEndian
    modality = _table(header, "ModalityLUTSequence", layout.signed, little) or _rescale(header)
    stored = Grayscale(layout.bits_stored, layout.signed, modality)
    values = modality_values(stored)
    if not 0 < np.ptp(values) < math.inf:
        raise FileFault(
            "bad_header", "ModalityLUTSequence or RescaleSlope gives no range of values; correct or remove it"
        )
    display = _table(header, "VOILUTSequence", values.min() < 0, little) or _window(header)
    return replace(stored, display=display, inverted=_term(header, "PhotometricInterpretation") == "MONOCHROME1")


def _rescale(header: Dataset) -> Rescale:
    slope, intercept = _first(header, "RescaleSlope"), _first(header, "RescaleIntercept")
    return Rescale(1.0 if slope is None else slope, intercept or 0.0)


def _window(header: Dataset) -> Window | None:
    """The first window of a header; others are alternatives."""
    center, width = _first(header, "WindowCenter"), _first(header, "WindowWidth")
    if center is None and width is None:
        return None
    function = _term(header, "VOILUTFunction") or "LINEAR"
    if function not in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
        raise FileFault(
            "bad_header", "VOILUTFunction is no term of the standard; write LINEAR, LINEAR_EXACT or SIGMOID"
        )
    if center is None or width is None or width <= 0 or (function == "LINEAR" and width < 1):
        raise FileFault("bad_header", "WindowCenter and WindowWidth make no window; correct or remove both")
    return Window(center, width, function)


def _table(header: Dataset, keyword: str, signed: bool, little: bool) -> Table | None:
    """The first look-up table of a sequence; None if there is none."""
    items = header.get(keyword)
    if not items:
        return None
    count, first, bits = (int(number) for number in items[0].LUTDescriptor)
    count, first = count or 2**16, first - 2**16 if signed and first >= 2**15 else first
    data = items[0].LUTData
    if isinstance(data, bytes):
        width = 1 if len(data) < 2 * count else 2
        entries = np.frombuffer(data, f"{'<' if little else '>'}u{width}")[:count]
    else:
        entries = np.atleast_1d(np.asarray(data, np.int64))
    if len(entries) != count or not 1 <= bits <= 16 or entries.max() >= 2**bits:
        raise FileFault("bad_header", f"{keyword} is not the table that it describes; export the file again")
    return Table(first, bits, entries.astype(np.uint16))


def _numbers(header: Dataset, keyword: str) -> list[float]:
    """Finite numbers of an element; none if it is absent or empty."""

    def numbers() -> list[float]:
        value = header.get(keyword)
        values = [] if value in (None, "") else [value] if isinstance(value, str | int | float) else value
        return [float(number) for number in values]

    found = _worded(numbers, "bad_header", f"{keyword} is no number; correct the header")
    if not all(math.isfinite(number) for number in found):
        raise FileFault("bad_header", f"{keyword} is no finite number; correct the header")
    return found


def _first(header: Dataset, keyword: str) -> float | None:
    return next(iter(_numbers(header, keyword)), None)


def _whole(header: Dataset, keyword: str, default: int | None = None) -> int:
    numbers = _numbers(header, keyword)
    if not numbers and default is not None:
        return default
    if len(numbers) != 1 or not numbers[0].is_integer():
        raise FileFault("bad_header", f"{keyword} is no whole number; correct the header")
    return int(numbers[0])


def _term(header: Dataset, keyword: str) -> str:
    return str(header.get(keyword) or "").strip().upper()
