"""What no DICOM film is ends as a fault that says why and nothing of the patient."""

import logging
import sys
import traceback
import warnings
import zlib

import cv2
import numpy as np
import pytest
from dicom_example import BYTES, RANDOM, TWELVE, fault_of, jpeg
from dicom_files import BIRTH, NAME, PATIENT, dicom, table
from pydicom import uid

from stagepipe.data import dicom as reader
from stagepipe.data.decode import FileFault
from stagepipe.data.dicom import read_film

# --------------------------------------------------------------------------------------------------------------- faults


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "undecodable"),
        (b"hello " * 100, "undecodable"),
        (np.random.default_rng(1).bytes(5000), "undecodable"),
        (b"\0" * 128 + b"DICM" + np.random.default_rng(2).bytes(5000), "no_pixels"),
        (b"\0" * 128 + b"DICM", "no_pixels"),
        (cv2.imencode(".png", BYTES)[1].tobytes(), "undecodable"),
        (dicom(BYTES, PixelData=None), "no_pixels"),
        (dicom(BYTES, PixelData=None, FloatPixelData=BYTES.astype(np.float32).tobytes()), "bad_type"),
        (dicom(BYTES, Rows=None), "bad_header"),
        (dicom(BYTES, PhotometricInterpretation=None), "bad_header"),
        (dicom(BYTES, PhotometricInterpretation="GRAY"), "bad_header"),
        (dicom(BYTES, PhotometricInterpretation="RGB", SamplesPerPixel=3), "not_gray"),
        (dicom(BYTES, PhotometricInterpretation="PALETTE COLOR"), "not_gray"),
        (dicom(BYTES, SamplesPerPixel=3), "not_gray"),
        (dicom(BYTES, NumberOfFrames=2), "bad_type"),
        (dicom(BYTES.astype(np.uint32)), "bad_type"),
        (dicom(BYTES, BitsStored=9), "bad_type"),
        (dicom(BYTES, BitsStored=0), "bad_type"),
        (dicom(TWELVE, 12, HighBit=15), "bad_header"),
        (dicom(BYTES, PixelRepresentation=2), "bad_header"),
        (dicom(BYTES, Rows=0), "bad_header"),
        (dicom(BYTES, Rows=30_000, Columns=30_000), "too_large"),
        (dicom(BYTES, Rows=25), "truncated"),
        (dicom(BYTES, Rows=12), "bad_header"),  # as many bytes as two images
        (dicom(BYTES, RescaleSlope=0), "bad_header"),
        (dicom(BYTES, WindowCenter=40), "bad_header"),
        (dicom(BYTES, WindowCenter=40, WindowWidth=0), "bad_header"),
        (dicom(BYTES, WindowCenter=40, WindowWidth=9, VOILUTFunction="CUBIC"), "bad_header"),
        (dicom(BYTES, VOILUTSequence=table(0, 8, [1, 256])), "bad_header"),
        (dicom(BYTES, ModalityLUTSequence=table(0, 8, [7, 7])), "bad_header"),
        (dicom(BYTES).replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.5\0"), "undecodable"),
        (
            dicom(BYTES, syntax=uid.RLELossless, frame=b"hello").replace(b"10008.1.2.5\0", b"10008.1.2.1\0"),
            "bad_header",
        ),
        (dicom(BYTES, syntax=uid.JPEGBaseline8Bit, frame=jpeg(BYTES[:-1])), "bad_header"),
        (dicom(BYTES, syntax=uid.JPEGBaseline8Bit, frame=jpeg(np.dstack([BYTES] * 3))), "bad_header"),
        (dicom(BYTES, syntax=uid.JPEGBaseline8Bit, frame=jpeg(BYTES)[:-20]), "truncated"),
        (dicom(BYTES, syntax=uid.JPEGBaseline8Bit, frame=b"hello" * 9), "undecodable"),
        (dicom(BYTES, 7, uid.JPEGBaseline8Bit, jpeg(BYTES)), "bad_header"),  # values of 8 bits where 7 are stored
        (dicom(BYTES, syntax=uid.RLELossless, frame=b"\1\0\0\0\x40" + b"\0" * 59 + b"\x81\7" * 3), "undecodable"),
        (dicom(BYTES, syntax=uid.MPEG4HP41, frame=b"hello"), "missing_decoder"),
        (dicom(BYTES, syntax=uid.JPEG2000MC, frame=b"hello"), "missing_decoder"),
        (dicom(BYTES).replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.113619.5.2\0\0"), "missing_decoder"),
    ],
)
def test_faulty_files(content: bytes, fault: str) -> None:
    assert fault_of(content) == fault


@pytest.mark.parametrize(
    "syntax", [uid.ExplicitVRLittleEndian, uid.JPEGBaseline8Bit, uid.DeflatedExplicitVRLittleEndian]
)
@pytest.mark.parametrize("share", [0.1, 0.4, 0.7, 0.9, 0.99])
def test_cut_films_are_never_read_in_part(syntax: uid.UID, share: float) -> None:
    pixels = RANDOM.integers(0, 256, (64, 64), dtype=np.uint8)
    content = dicom(pixels, syntax=syntax, frame=jpeg(pixels) if syntax.is_encapsulated else None)
    assert fault_of(content[: int(share * len(content))]) in ("truncated", "no_pixels", "undecodable")
    assert fault_of(content[:-200]) in ("truncated", "undecodable")


def test_a_directory_of_films_is_none() -> None:
    content = dicom(BYTES).replace(b"1.2.840.10008.5.1.4.1.1.1\0", b"1.2.840.10008.1.3.10\0\0\0\0\0\0")
    with pytest.raises(FileFault, match="bad_type: is a DICOMDIR"):
        read_film(content)


def test_what_inflates_without_end_is_refused_before_it_does(monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = zlib.compress(b"\0" * 10_000_000, wbits=-zlib.MAX_WBITS)
    content = dicom(BYTES, syntax=uid.DeflatedExplicitVRLittleEndian)
    start = content.index(b"1.2.840.10008.1.2.1.99")
    monkeypatch.setattr(reader, "MAX_BYTES", 1_000_000)
    assert fault_of(content[: start + 22] + bomb) == "too_large"
    assert fault_of(content[:-1]) == "truncated"


def test_a_huge_film_is_refused_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "unpack", None)
    for syntax in (uid.ExplicitVRLittleEndian, uid.JPEGBaseline8Bit):
        frame = jpeg(BYTES) if syntax.is_encapsulated else None
        assert fault_of(dicom(BYTES, syntax=syntax, frame=frame, Rows=20_000, Columns=20_000)) == "too_large"


@pytest.mark.parametrize("syntax", [uid.JPEGLosslessSV1, uid.JPEGExtended12Bit, uid.JPEGLSLossless])
def test_a_missing_decoder_is_named(syntax: uid.UID, monkeypatch: pytest.MonkeyPatch) -> None:
    import imagecodecs

    deep = {
        uid.JPEGLosslessSV1: lambda: imagecodecs.jpeg8_encode(TWELVE, lossless=True, bitspersample=12),
        uid.JPEGExtended12Bit: lambda: imagecodecs.jpeg8_encode(TWELVE, 90, bitspersample=12),
        uid.JPEGLSLossless: lambda: imagecodecs.jpegls_encode(TWELVE),
    }
    content = dicom(TWELVE, 12, syntax, deep[syntax]())
    lossless = dicom(BYTES, syntax=uid.JPEGLosslessSV1, frame=imagecodecs.jpeg8_encode(BYTES, lossless=True))
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    with pytest.raises(FileFault) as caught:
        read_film(content)
    assert caught.value.fault == "missing_decoder"
    for word in (syntax.name, str(syntax), "imagecodecs", "pip install 'stagepipe[dicom]'"):
        assert word in caught.value.detail
    assert (read_film(lossless) == BYTES).all()  # eight bits take Pillow alone


# -------------------------------------------------------------------------------------------------------------- privacy


def said(content: bytes, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> str:
    """All that reading a film says: the fault and the errors behind it, warnings, logs and what is printed."""
    with warnings.catch_warnings(record=True) as raised, caplog.at_level(logging.DEBUG):
        warnings.simplefilter("always")
        try:
            read_film(content)
            words = []
        except FileFault as error:
            words = [*traceback.format_exception(error), repr(error.__cause__), repr(error.__context__)]
    printed = capfd.readouterr()
    return "\n".join([*words, *(str(warning.message) for warning in raised), caplog.text, printed.out, printed.err])


@pytest.mark.parametrize("place", ["00280010US", "00280004CS", "00281050DS", "00281053DS", "00080005CS", "00280008IS"])
def test_nothing_of_a_header_is_quoted_even_where_it_holds_what_it_should_not(place: str, caplog, capfd) -> None:
    """The name in elements that are read: as rows, photometric interpretation, window, slope, character set, frames."""
    tag, vr = bytes.fromhex(place[2:4] + place[:2] + place[6:8] + place[4:6]), place[8:].encode()
    element = tag + vr + len(NAME).to_bytes(2, "little") + NAME.encode()
    content = dicom(BYTES)
    assert b"\x08\0\x16\0UI" in content and NAME.encode() in content and BIRTH.encode() in content
    for start in (content.index(b"\x08\0\x16\0UI"), content.index(b"\x28\0\x03\x01US") + 10):
        words = said(content[:start] + element + content[start:], caplog, capfd)
        assert not any(secret in words for secret in (NAME, NAME.split("^")[0], BIRTH, PATIENT))


@pytest.mark.parametrize("seed", range(4))
def test_broken_headers_quote_nothing(seed: int, caplog, capfd) -> None:
    random = np.random.default_rng(seed)
    frames = {uid.ExplicitVRLittleEndian: None, uid.JPEGBaseline8Bit: jpeg(BYTES)}
    for syntax, frame in frames.items():
        content = dicom(BYTES, syntax=syntax, frame=frame, WindowCenter=9, WindowWidth=9)
        for _ in range(100):
            broken = bytearray(content)
            for position in random.integers(128, len(content), 3):
                broken[position] = random.integers(256)
            words = said(bytes(broken), caplog, capfd)
            assert not any(secret in words for secret in ("Montgomery", "Wilhelmina", BIRTH, "MRN-", "5551234"))


def test_a_header_is_read_by_its_tags_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    original = reader.read_dataset

    def spy(*arguments: object, **options: object) -> object:
        dataset = original(*arguments, **options)
        asked.extend(element.tag.group for element in dataset.elements() if element.tag != 0x00080005)
        return dataset

    monkeypatch.setattr(reader, "read_dataset", spy)
    read_film(dicom(BYTES))
    assert set(asked) == {0x0002, 0x0028, 0x7FE0}  # the file's own, the image's, the pixels
