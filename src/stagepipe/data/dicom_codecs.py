"""Unpack the pixels of a DICOM file, by decoders that are named here: whatever else is installed is never asked.

Uncompressed and run-length coded pixels take pydicom alone, JPEG with 8 bits and JPEG 2000 also Pillow. JPEG with more
bits (most of it lossless) and JPEG-LS take the optional package imagecodecs, which brings libjpeg-turbo and CharLS.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom import uid
from pydicom.encaps import get_frame
from pydicom.pixels import get_decoder

from stagepipe.data.decode import JPEG_END, FileFault

UNCOMPRESSED = {*uid.UncompressedTransferSyntaxes}
JPEG = {*uid.JPEGTransferSyntaxes}
JPEG_LS = {*uid.JPEGLSTransferSyntaxes}
JPEG_2000 = {uid.JPEG2000Lossless, uid.JPEG2000, uid.HTJ2KLossless, uid.HTJ2KLosslessRPCL, uid.HTJ2K}
RUN_LENGTHS = {uid.RLELossless}
READ = UNCOMPRESSED | JPEG | JPEG_LS | JPEG_2000 | RUN_LENGTHS
PADDING = b"\0\xff"
"""of an image with an odd number of bytes"""


@dataclass(frozen=True)
class Layout:
    """How the header says that pixels are stored."""

    rows: int
    columns: int
    bits_allocated: int
    """8 or 16"""
    bits_stored: int
    signed: bool


@dataclass(frozen=True)
class Codestream:
    """What a compressed image says of itself."""

    rows: int
    columns: int
    components: int
    precision: int
    """bits of a value"""


def unpack(data: bytes, syntax: uid.UID, layout: Layout, words: bool = False) -> NDArray[np.integer]:
    """Stored values, 8- or 16-bit integers [rows, columns], of the value of Pixel Data.

    syntax: one of READ. words: the value representation is OW (8-bit pixels in big endian are swapped then). Raises
    FileFault; whatever else a decoder raises on broken data is passed on.
    """
    pixels = _plain(data, syntax, layout, words) if syntax in UNCOMPRESSED else _compressed(data, syntax, layout)
    if pixels.shape != (layout.rows, layout.columns):
        raise FileFault("undecodable", f"unpacks to {pixels.shape} values; expected {layout.rows, layout.columns}")
    if pixels.dtype.itemsize == 1 and layout.bits_stored > 8:
        pixels = pixels.astype(np.uint16)
    return pixels.astype(pixels.dtype.newbyteorder("="), copy=False)


def codestream(frame: bytes) -> Codestream | None:
    """Size and precision of a JPEG, JPEG-LS or JPEG 2000 image, from its own header; None if there is none."""
    try:
        return _jpeg(frame) if frame.startswith(b"\xff\xd8") else _jpeg_2000(frame)
    except struct.error:
        return None


def _jpeg(frame: bytes) -> Codestream | None:
    """From the frame header (ITU-T T.81, B.2.2; JPEG-LS: T.87, C.2.2)."""
    position = 2
    while True:
        marker, length = struct.unpack_from(">HH", frame, position)
        if marker == 0xFFFF:  # fill byte
            position += 1
        elif marker == 0xFFF7 or (0xFFC0 <= marker <= 0xFFCF and marker not in (0xFFC4, 0xFFC8, 0xFFCC)):
            precision, rows, columns, components = struct.unpack_from(">BHHB", frame, position + 4)
            return Codestream(rows, columns, components, precision)
        elif marker < 0xFF00 or length < 2:
            return None
        else:
            position += 2 + length


def _jpeg_2000(frame: bytes) -> Codestream | None:
    """From the SIZ marker (ITU-T T.800, A.5.1), which follows the start of the codestream."""
    start = frame.find(b"\xff\x4f\xff\x51")
    if start < 0:
        return None
    right, bottom, left, top = struct.unpack_from(">4I", frame, start + 8)
    components, precision = struct.unpack_from(">HB", frame, start + 40)
    return Codestream(bottom - top, right - left, components, (precision & 0x7F) + 1)


def _plain(data: bytes, syntax: uid.UID, layout: Layout, words: bool) -> NDArray[np.integer]:
    """Pixels as they lie in the file."""
    expected = layout.rows * layout.columns * layout.bits_allocated // 8
    if len(data) < expected:
        raise FileFault("truncated", f"has {len(data):,} of {expected:,} bytes of pixels; copy it again")
    if len(data) - expected % 2 >= 2 * expected:
        raise FileFault(
            "bad_header", f"has {len(data):,} bytes of pixels where its header says {expected:,}; export it again"
        )
    return _by_pydicom(data[: expected + expected % 2], syntax, layout, pixel_vr="OW" if words else "OB")


def _compressed(data: bytes, syntax: uid.UID, layout: Layout) -> NDArray[np.integer]:
    """One compressed image, once its own header agrees with the file's: a decoder believes its own."""
    if syntax in RUN_LENGTHS:
        return _in_range(_by_pydicom(data, uid.RLELossless, layout, decoding_plugin="pydicom"), layout)
    frame = get_frame(data, 0, number_of_frames=1)
    found = codestream(frame)
    if found is None:
        raise FileFault("undecodable", f"holds no image that is compressed as {syntax.name}; export it again")
    if (found.rows, found.columns, found.components) != (layout.rows, layout.columns, 1):
        raise FileFault(
            "bad_header",
            f"its header says {layout.columns} x {layout.rows} pixels of 1 channel, its compressed image "
            f"{found.columns} x {found.rows} of {found.components}; export it again",
        )
    # Without its end a JPEG-LS image can keep the decoder busy for ever, and others unpack to half an image.
    if not frame.rstrip(PADDING).endswith(JPEG_END):
        raise FileFault("truncated", "its compressed image does not end (FF D9); copy it again")
    if syntax in JPEG_2000:
        pixels = _by_pydicom(data, uid.JPEG2000Lossless, layout, decoding_plugin="pillow")
    elif syntax in JPEG and found.precision == 8:
        with Image.open(io.BytesIO(frame), formats=("JPEG",)) as picture:
            pixels = np.asarray(picture)
    else:
        pixels = _by_imagecodecs(frame, syntax)
    return _in_range(pixels, layout)


def _by_pydicom(data: bytes, syntax: uid.UID, layout: Layout, **options: Any) -> NDArray[np.integer]:
    options |= {
        "raw": True,
        "validate": False,
        "correct_unused_bits": False,
        "rows": layout.rows,
        "columns": layout.columns,
        "samples_per_pixel": 1,
        "number_of_frames": 1,
        "photometric_interpretation": "MONOCHROME2",
        "bits_allocated": layout.bits_allocated,
        "bits_stored": layout.bits_stored,
        "pixel_representation": int(layout.signed),
        "pixel_keyword": "PixelData",
    }
    pixels, _ = get_decoder(syntax).as_array(data, index=0, **options)
    return pixels


def _by_imagecodecs(frame: bytes, syntax: uid.UID) -> NDArray[np.integer]:
    try:
        import imagecodecs
    except ImportError:
        raise FileFault(
            "missing_decoder",
            f"is compressed as {syntax.name} ({syntax}), which takes the package imagecodecs: install it with "
            "`pip install 'stagepipe[dicom]'`, or decompress the file",
        ) from None
    decode = imagecodecs.jpegls_decode if syntax in JPEG_LS else imagecodecs.jpeg8_decode
    return decode(frame)


def _in_range(pixels: NDArray[np.integer], layout: Layout) -> NDArray[np.integer]:
    """The pixels, if no value takes more bits than are stored, but for the repeated sign of a negative one."""
    if layout.bits_stored == 8 * pixels.dtype.itemsize:
        return pixels
    if layout.signed:
        pixels = pixels.view(f"i{pixels.dtype.itemsize}")
    above = pixels.astype(np.int32) >> layout.bits_stored
    if ((above != 0) & (above != -1)).any():
        raise FileFault(
            "bad_header", f"has values of more than {layout.bits_stored} bits (BitsStored); export it again"
        )
    return pixels
