"""Bad DICOM files, as films of the siim layout."""

import io
import struct
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image
from pydicom import Dataset, dcmwrite, uid
from pydicom.dataset import FileMetaDataset

from tests.bad_inputs import BadInput
from tests.bad_inputs.raw_data import content, quarantine
from tests.data_layouts import picture, save
from tests.dicom_files import bare, dicom, table

FILM = "dicom-images-train/f1.dcm"
WIDE = picture(1, 1).astype(np.uint16) * 16
"""values of 12 bits"""
PIXELS = b"\xe0\x7f\x10\x00"
"""tag of Pixel Data"""


@cache
def _compressed(kind: str) -> bytes:
    """The film as Pillow or imagecodecs compresses it."""
    if kind == "jpegls":
        import imagecodecs

        return bytes(imagecodecs.jpegls_encode(WIDE))
    file = io.BytesIO()
    Image.fromarray(picture(1, 1)).save(file, kind, **({"no_jp2": True} if kind == "JPEG2000" else {}))
    return file.getvalue()


def _film(**elements: object) -> bytes:
    return dicom(picture(1, 1), **elements)


def _jpeg(frame: bytes) -> bytes:
    return dicom(picture(1, 1), syntax=uid.JPEGBaseline8Bit, frame=frame)


def _jpeg_ls(frame: bytes) -> bytes:
    return dicom(WIDE, 12, uid.JPEGLSLossless, frame)


def _length(claimed: int) -> bytes:
    """A film whose Pixel Data claims another length than it has."""
    whole = _film()
    place = whole.rindex(PIXELS) + 8  # after tag, OB and two reserved bytes
    return whole[:place] + struct.pack("<I", claimed) + whole[place + 4 :]


def _syntax(name: str) -> bytes:
    """A film of another transfer syntax, in the same place of its header."""
    old = uid.ExplicitVRLittleEndian.encode() + b"\0"
    whole = _film()
    assert whole.count(old) == 1 and len(name) <= len(old)
    return whole.replace(old, name.encode().ljust(len(old), b"\0"))


def _deflated(content: bytes) -> bytes:
    """A film whose data set is that deflate stream."""
    whole = dicom(picture(1, 1), syntax=uid.DeflatedExplicitVRLittleEndian)
    group = int.from_bytes(whole[140:144], "little")  # length of the file meta group, after its own element
    return whole[: 144 + group] + content


def _inflating() -> bytes:
    """A deflate stream of 1.1 GiB of zeros."""
    stream = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    first = stream.compress(bytes(1 << 20)) + stream.flush(zlib.Z_FULL_FLUSH)
    again = stream.compress(bytes(1 << 20)) + stream.flush(zlib.Z_FULL_FLUSH)
    return first + again * 1126 + stream.flush()


def _deep() -> bytes:
    """A film with 3000 sequences, one in the other, in a place that decoding looks at."""
    begin = b"\x28\x00\x00\x30SQ\0\0" + b"\xff" * 4 + b"\xfe\xff\x00\xe0" + b"\xff" * 4
    end = b"\xfe\xff\x0d\xe0" + bytes(4) + b"\xfe\xff\xdd\xe0" + bytes(4)
    whole = _film()
    place = whole.rindex(PIXELS)
    return whole[:place] + begin * 3000 + end * 3000 + whole[place:]


def _directory() -> bytes:
    whole = Dataset()
    whole.file_meta = FileMetaDataset()
    whole.file_meta.MediaStorageSOPClassUID = uid.MediaStorageDirectoryStorage
    whole.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    whole.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    file = io.BytesIO()
    dcmwrite(file, whole, enforce_file_format=True)
    return file.getvalue()


def _float_pixels() -> bytes:
    whole = _film(PixelData=None, BitsAllocated=32, BitsStored=None, HighBit=None)
    values = np.ones(picture(1, 1).shape, np.float32).tobytes()
    return whole + b"\xe0\x7f\x08\x00OF\0\0" + struct.pack("<I", len(values)) + values


def _text_in(keyword: str, old: bytes, new: bytes) -> bytes:
    """A film in which the text of a number is another text of the same length."""
    whole = _film(**{keyword: old.decode()})
    assert whole.count(old) == 1 and len(old) == len(new)
    return whole.replace(old, new)


def _jpeg_2000() -> bytes:
    """A codestream of which the second half is garbage, its end as it was."""
    whole = _compressed("JPEG2000")
    half = len(whole) // 2
    return dicom(
        picture(1, 1), syntax=uid.JPEG2000Lossless, frame=whole[:half] + b"\xff\x4f" * (half // 2) + whole[-2:]
    )


def _twice(root: Path) -> None:
    (root / "dicom-images-train/again").mkdir()
    (root / "dicom-images-train/again/f1.dcm").write_bytes((root / FILM).read_bytes())


def _half(old: bytes) -> bytes:
    return old[: len(old) // 2]


def _png() -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture(1, 1)).save(file, "PNG")
    return file.getvalue()


def _case(name: str, new: bytes | Callable[[bytes], bytes], fault: str, *says: str) -> BadInput:
    return quarantine(f"DICOM {name}", "siim", content(FILM, new), fault, FILM, *says)


FILMS: list[BadInput] = [
    _case("of no bytes", b"", "truncated", "is empty"),
    _case("that is text", b"Not found. " * 30, "undecodable", "is no DICOM file"),
    _case("that is a PNG", _png(), "undecodable", "PNG"),
    _case("that is the contents of a medium (DICOMDIR)", _directory(), "bad_type", "DICOMDIR"),
    _case("cut in its pixels", lambda old: old[:-100], "truncated"),
    _case("cut in its header", lambda old: old[:260], "no_pixels"),
    _case("cut in its preamble", lambda old: old[:100], "undecodable"),
    _case("with pixels that claim 4 GiB", _length(0xFFFFFFFE), "truncated", "4,294,967,294", "576"),
    _case("with pixels of no given length, uncompressed", _length(0xFFFFFFFF), "truncated"),
    _case("of 65535 x 65535 pixels, by its header", _film(Rows=65535, Columns=65535), "too_large", "65535 x 65535"),
    _case("of 2000000000 frames", _film(NumberOfFrames=2_000_000_000), "bad_type", "2000000000 images"),
    _case("without a preamble, of 30000 rows", bare(picture(1, 1), Rows=30_000), "truncated", "720,000 bytes"),
    _case("without pixels", _film(PixelData=None), "no_pixels"),
    _case("with fractions as pixels", _float_pixels(), "bad_type", "FloatPixelData"),
    _case("without Rows", _film(Rows=None), "bad_header", "Rows"),
    _case("without any word on its values", _film(BitsStored=None, PhotometricInterpretation=None),
          "bad_header", "BitsStored, PhotometricInterpretation"),
    _case("of 0 rows", _film(Rows=0), "bad_header", "24 x 0"),
    _case("with two numbers of rows", _film(Rows=[24, 24]), "bad_header", "Rows"),
    _case("with twice the pixels of its header", _film(Rows=12), "bad_header", "576", "288"),
    _case("of 32 bits", _film(BitsAllocated=32), "bad_type", "BitsAllocated"),
    _case("of 12 bits stored in 8", _film(BitsStored=12, HighBit=11), "bad_type", "12 in 8"),
    _case("with its highest bit elsewhere", _film(HighBit=3), "bad_header", "HighBit"),
    _case("in colours", _film(PhotometricInterpretation="RGB", SamplesPerPixel=3), "not_gray"),
    _case("of an unknown kind of gray", _film(PhotometricInterpretation="MONOCHROME3"),
          "bad_header", "MONOCHROME1 or 2"),
    _case("with a slope of 0", _film(RescaleSlope=0, RescaleIntercept=0), "bad_header", "RescaleSlope"),
    _case("with a slope that is not a number", _text_in("RescaleSlope", b"1.234567", b"nan     "),
          "bad_header", "RescaleSlope"),
    _case("with a slope that is text", _text_in("RescaleSlope", b"1.234567", b"patients"),
          "bad_header", "RescaleSlope"),
    _case("with a slope of 1e308", _film(RescaleSlope="1e308", RescaleIntercept="1e308"), "bad_header", "RescaleSlope"),
    _case("with a window of no width", _film(WindowCenter=100, WindowWidth=0), "bad_header", "WindowWidth"),
    _case("with a table of larger numbers than it says",
          _film(ModalityLUTSequence=table(0, 4, [1, 2, 99])),
          "bad_header", "ModalityLUTSequence"),
    _case("of an unknown transfer syntax", _syntax("1.2.3.4.5"), "missing_decoder", "decompress"),
    _case("that is a film in MPEG2", dicom(picture(1, 1), syntax=uid.MPEG2MPML, frame=b"abcd"),
          "missing_decoder", uid.MPEG2MPML),
    _case("named compressed that isn't", _syntax(uid.RLELossless), "undecodable"),
    _case("that inflates to 1.1 GiB", _deflated(_inflating()), "too_large", "1,073,741,824"),
    _case("of a deflate stream cut in half",
          _half(dicom(picture(1, 1), syntax=uid.DeflatedExplicitVRLittleEndian)), "truncated", "deflated"),
    _case("of 3000 sequences, one in the other", _deep(), "undecodable"),
    _case("in JPEG without its end", _jpeg(_compressed("JPEG")[:-2]), "truncated", "FF D9"),
    _case("in JPEG cut in half", _jpeg(_half(_compressed("JPEG"))), "truncated", "FF D9"),
    _case("in JPEG of another size", dicom(picture(1, 1, 16), syntax=uid.JPEGBaseline8Bit, frame=_compressed("JPEG")),
          "bad_header", "16 x 16", "24 x 24"),
    _case("in JPEG that is none", _jpeg(b"abcd" * 9), "undecodable"),
    _case("in JPEG-LS without its end", _jpeg_ls(_compressed("jpegls")[:-2]), "truncated", "FF D9"),
    _case("in JPEG-LS with more bits than it says",
          dicom(WIDE, 10, uid.JPEGLSLossless, _compressed("jpegls")), "bad_header", "10 bits"),
    _case("in JPEG 2000 with garbage for its second half", _jpeg_2000(), "undecodable"),
    _case("in run lengths that are none", dicom(picture(1, 1), syntax=uid.RLELossless, frame=b"\xff" * 80),
          "undecodable"),
    quarantine("film named like a picture", "siim", lambda root: save(root / "dicom-images-train/f9.jpg", picture(1)),
               "unknown_type", "f9.jpg", ".dcm"),
    quarantine("film in two folders", "siim", _twice, "duplicate_id", "f1.dcm"),
]  # fmt: skip
