"""DICOM films become gray levels, or a fault that says why not and nothing of the patient."""

import io
import logging
import sys
import traceback
import warnings
import zlib
from pathlib import Path

import cv2
import numpy as np
import pydicom
import pytest
from dicom_files import BIRTH, NAME, PATIENT, bare, dicom, table
from PIL import Image
from pydicom import uid
from pydicom.encaps import get_frame
from pydicom.pixels import apply_modality_lut, apply_voi, apply_windowing, get_encoder

from stagepipe.data import dicom as reader
from stagepipe.data.decode import FileFault, image_size, read_image
from stagepipe.data.dicom import film_size, read_film
from stagepipe.data.dicom_codecs import Codestream, codestream
from stagepipe.data.grayscale import Grayscale, Rescale, Table, Window, levels, to_gray

RANDOM = np.random.default_rng(0)
BYTES = RANDOM.integers(0, 256, (24, 20), dtype=np.uint8)
TWELVE = RANDOM.integers(0, 4096, (24, 20), dtype=np.uint16)


def fault_of(content: bytes) -> str:
    with pytest.raises(FileFault) as caught:
        read_film(content)
    return caught.value.fault


def scaled(values: np.ndarray, low: float, high: float) -> np.ndarray:
    return np.rint(255 * (values.astype(float) - low) / (high - low)).astype(np.uint8)


# ---------------------------------------------------------------------------------------------------- what values mean


def test_eight_bits_stay_as_they_are() -> None:
    assert levels(Grayscale(8)).tolist() == list(range(256))
    assert levels(Grayscale(8, inverted=True)).tolist() == list(range(255, -1, -1))


def test_stored_values_worked_by_hand() -> None:
    # 3 bits: 0..7 -> 0..255; signed: 0 1 2 3 -4 -3 -2 -1 -> black is -4
    assert levels(Grayscale(3)).tolist() == [0, 36, 73, 109, 146, 182, 219, 255]
    assert levels(Grayscale(3, signed=True)).tolist() == [146, 182, 219, 255, 0, 36, 73, 109]
    # 2 bits, values 5 3 1 -1: the greatest is white
    assert levels(Grayscale(2, modality=Rescale(-2, 5))).tolist() == [255, 170, 85, 0]
    # ... of which the window from 1 to 3 is spread: (v - 2) / 2 + 1/2
    window = Window(2, 2, "LINEAR_EXACT")
    assert levels(Grayscale(2, modality=Rescale(-2, 5), display=window)).tolist() == [255, 255, 0, 0]
    # stored 0 1 2 3 -> entries from 1 on: 10 10 20 30 of 5 bits -> from the least to the greatest entry
    assert levels(Grayscale(2, modality=Table(1, 5, np.uint16([10, 20, 30])))).tolist() == [0, 0, 128, 255]
    # ... a display table's black and white are its bits': 10 / 31 of 255
    assert levels(Grayscale(2, display=Table(1, 5, np.uint16([10, 20, 31])))).tolist() == [82, 82, 165, 255]


def test_bits_above_the_stored_ones_do_not_count() -> None:
    pixels = np.array([[0x0123, 0xF123], [-1, 0x0FFF]], np.int64).astype(np.uint16)
    assert (to_gray(pixels, Grayscale(12)) == scaled(pixels & 0xFFF, 0, 4095)).all()
    signed = np.array([[-2048, -1], [0, 2047]], np.int16)
    assert to_gray(signed, Grayscale(12, signed=True)).tolist() == scaled(signed, -2048, 2047).tolist()


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")  # of pydicom's sigmoid
@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize(("center", "width"), [(100, 1), (100, 2), (2000.5, 3000), (-50, 700)])
def test_windows_agree_with_pydicom(function: str, center: float, width: float) -> None:
    header = pydicom.Dataset()
    header.PhotometricInterpretation, header.BitsStored, header.PixelRepresentation = "MONOCHROME2", 12, 0
    header.WindowCenter, header.WindowWidth, header.VOILUTFunction = center, width, function
    header.RescaleSlope, header.RescaleIntercept = 1.5, -300
    modality = apply_modality_lut(np.arange(4096), header)
    expected = scaled(apply_windowing(modality, header), -300, 1.5 * 4095 - 300)
    found = levels(Grayscale(12, modality=Rescale(1.5, -300), display=Window(center, width, function)))
    assert np.abs(found.astype(int) - expected).max() <= 1 and (found == expected).mean() > 0.999  # ties


def test_tables_agree_with_pydicom() -> None:
    entries = np.sort(RANDOM.integers(0, 2**16, 300)).tolist()
    header = pydicom.Dataset()
    header.ModalityLUTSequence = header.VOILUTSequence = table(1000, 16, entries)
    of = Table(1000, 16, np.uint16(entries))
    modality = apply_modality_lut(np.arange(4096, dtype=np.uint16), header)
    assert (levels(Grayscale(12, modality=of)) == scaled(modality, min(entries), max(entries))).all()
    display = apply_voi(np.arange(4096, dtype=np.uint16), header)
    assert (levels(Grayscale(12, display=of)) == scaled(display, 0, 65535)).all()


# --------------------------------------------------------------------------------------------------------- sound files


@pytest.mark.parametrize(
    "syntax",
    [
        uid.ImplicitVRLittleEndian,
        uid.ExplicitVRLittleEndian,
        uid.ExplicitVRBigEndian,
        uid.DeflatedExplicitVRLittleEndian,
    ],
)
@pytest.mark.parametrize("edges", [(24, 20), (3, 5)])
def test_uncompressed_files(syntax: uid.UID, edges: tuple[int, int]) -> None:
    gray, deep = BYTES[: edges[0], : edges[1]].copy(), TWELVE[: edges[0], : edges[1]].copy()
    assert (read_film(dicom(gray, syntax=syntax)) == gray).all()
    assert (read_film(dicom(deep, 12, syntax)) == scaled(deep, 0, 4095)).all()
    assert (read_film(dicom(deep, syntax=syntax)) == scaled(deep, 0, 65535)).all()
    signed = deep.astype(np.int16) - 2048
    assert (read_film(dicom(signed, 12, syntax)) == scaled(signed, -2048, 2047)).all()


def test_big_endian_bytes_may_be_swapped_in_words() -> None:
    swapped = BYTES.reshape(-1, 2)[:, ::-1].reshape(BYTES.shape).copy()
    content = dicom(swapped, syntax=uid.ExplicitVRBigEndian)
    content = content.replace(b"\x7f\xe0\x00\x10OB", b"\x7f\xe0\x00\x10OW")
    assert (read_film(content) == BYTES).all()


@pytest.mark.parametrize("implicit", [True, False])
def test_files_without_preamble_and_meta(implicit: bool) -> None:
    content = bare(TWELVE, 12, implicit, PhotometricInterpretation="MONOCHROME1")
    assert (read_film(content) == 255 - scaled(TWELVE, 0, 4095)).all()


def test_what_a_header_says_of_values_is_applied() -> None:
    content = dicom(TWELVE, 12, WindowCenter=[1000, 5], WindowWidth=[500, 9], RescaleSlope=2, RescaleIntercept=-100)
    expected = np.clip((2 * TWELVE.astype(float) - 100 - 999.5) / 499 + 0.5, 0, 1)
    assert (read_film(content) == np.rint(255 * expected)).all()
    entries = list(range(0, 8192, 2))  # 13 bits
    content = dicom(TWELVE, 12, ModalityLUTSequence=table(0, 13, entries), WindowCenter=None, RescaleSlope=7)
    assert (read_film(content) == scaled(TWELVE, 0, 4095)).all()
    tables = {"VOILUTSequence": table(100, 10, list(range(1000))), "WindowCenter": 9, "WindowWidth": 9}
    expected = np.clip(TWELVE.astype(int) - 100, 0, 999)
    assert (read_film(dicom(TWELVE, 12, **tables)) == scaled(expected, 0, 1023)).all()
    signed = TWELVE.astype(np.int16) - 2048
    below = {"VOILUTSequence": table(-2048, 12, list(range(4096)))}
    assert (read_film(dicom(signed, 12, **below)) == scaled(TWELVE, 0, 4095)).all()


def test_run_lengths_jpeg_jpeg_ls_and_jpeg_2000() -> None:
    import imagecodecs

    # pixel values -> their frame: lossless ones come back as they were
    signed = TWELVE.astype(np.int16) - 2048
    for pixels, bits in ((BYTES, 8), (TWELVE, 12), (signed, 12)):
        header = {"rows": 24, "columns": 20, "number_of_frames": 1, "samples_per_pixel": 1, "bits_stored": bits}
        header |= {"photometric_interpretation": "MONOCHROME2", "bits_allocated": 8 * pixels.dtype.itemsize}
        header["pixel_representation"] = int(pixels is signed)
        coded = get_encoder(uid.RLELossless).encode(pixels.tobytes(), encoding_plugin="pydicom", **header)
        expected = read_film(dicom(pixels, bits))
        assert (read_film(dicom(pixels, bits, uid.RLELossless, coded)) == expected).all()
        wavelet = imagecodecs.jpeg2k_encode(pixels, level=0, reversible=True, bitspersample=bits, codecformat="j2k")
        assert (read_film(dicom(pixels, bits, uid.JPEG2000Lossless, wavelet)) == expected).all()
    for pixels, bits in ((BYTES, 8), (TWELVE, 12), (TWELVE * 16, 16)):
        expected = read_film(dicom(pixels, bits))
        lossless = imagecodecs.jpeg8_encode(pixels, lossless=True, bitspersample=bits)
        for syntax in (uid.JPEGLossless, uid.JPEGLosslessSV1):
            assert (read_film(dicom(pixels, bits, syntax, lossless)) == expected).all()
        assert (read_film(dicom(pixels, bits, uid.JPEGLSLossless, imagecodecs.jpegls_encode(pixels))) == expected).all()
        fast = imagecodecs.htj2k_encode(pixels)
        assert (read_film(dicom(pixels, bits, uid.HTJ2KLossless, fast)) == expected).all()
    smooth = cv2.GaussianBlur(TWELVE, (0, 0), 5)
    extended = imagecodecs.jpeg8_encode(smooth, 98, bitspersample=12)
    found = read_film(dicom(smooth, 12, uid.JPEGExtended12Bit, extended))
    assert np.abs(found.astype(int) - scaled(smooth, 0, 4095)).max() <= 1


def test_signed_lossless_values_may_be_cut_or_carry_their_sign() -> None:
    import imagecodecs

    signed = TWELVE.astype(np.int16) - 2048
    expected = scaled(signed, -2048, 2047)
    cut = imagecodecs.jpeg8_encode(signed.view(np.uint16) & 0xFFF, lossless=True, bitspersample=12)
    assert (read_film(dicom(signed, 12, uid.JPEGLosslessSV1, cut)) == expected).all()
    whole = imagecodecs.jpeg8_encode(signed.view(np.uint16), lossless=True, bitspersample=16)
    assert (read_film(dicom(signed, 12, uid.JPEGLosslessSV1, whole)) == expected).all()


@pytest.mark.parametrize(("channels", "depth"), [("gray", 1), ("rgb", 3)])
def test_read_image_takes_films_by_their_suffix(tmp_path: Path, channels: str, depth: int) -> None:
    (tmp_path / "a.b.DCM").write_bytes(dicom(BYTES))
    image = read_image(tmp_path / "a.b.DCM", channels)
    assert image.shape == (24, 20, depth) and image.dtype == np.uint8 and (image == BYTES[..., None]).all()
    assert image_size(tmp_path / "a.b.DCM") == (24, 20) == film_size(dicom(BYTES))
    (tmp_path / "a.png").write_bytes(dicom(BYTES))
    with pytest.raises(FileFault, match=r"is a DICOM file; give it the suffix \.dcm"):
        read_image(tmp_path / "a.png", channels)


def test_headers_of_codestreams() -> None:
    jpeg = cv2.imencode(".jpg", np.zeros((24, 20, 3), np.uint8))[1].tobytes()
    assert codestream(jpeg) == Codestream(24, 20, 3, 8)
    assert codestream(jpeg[:2] + b"\xff" + jpeg[2:]) == Codestream(24, 20, 3, 8)  # a fill byte
    wavelet = cv2.imencode(".jp2", np.zeros((96, 80), np.uint16))[1].tobytes()
    assert codestream(wavelet) == Codestream(96, 80, 1, 16)
    for broken in (b"", b"\xff\xd8", b"\xff\xd8\0\0\0\0\0\0\0\0", b"\xff\xd8\xff\xe0\0\0\0\0", wavelet[:90], b"hello"):
        assert codestream(broken) is None


# -------------------------------------------------------------------------------------------------------------- faults


def jpeg(pixels: np.ndarray) -> bytes:
    return cv2.imencode(".jpg", pixels)[1].tobytes()


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


def test_no_other_decoder_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if every decoder that pydicom knows were installed, refused ones too."""

    def forbidden(*arguments: object) -> None:
        raise AssertionError("a decoder that nobody named")

    for syntax in (uid.JPEGBaseline8Bit, uid.JPEG2000Lossless, uid.JPEGLSLossless, uid.RLELossless, uid.HTJ2KLossless):
        decoder = pydicom.pixels.get_decoder(syntax)
        named = {name: decode for name, decode in decoder._available.items() if name in ("pillow", "pydicom")}
        everything = {"gdcm": forbidden, "pylibjpeg": forbidden, "pyjpegls": forbidden}
        monkeypatch.setattr(decoder, "_available", everything | named)
    test_run_lengths_jpeg_jpeg_ls_and_jpeg_2000()
    baseline = read_film(dicom(BYTES, syntax=uid.JPEGBaseline8Bit, frame=jpeg(BYTES)))
    assert np.abs(baseline.astype(int) - BYTES).max() < 9


# ------------------------------------------------------------------------------------------------------------- privacy


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


# ------------------------------------------------------------------------------------------------------ published files

TEST_FILES = Path(pydicom.__file__).parent / "data" / "test_files"


@pytest.mark.parametrize("path", sorted(TEST_FILES.glob("*.dcm")), ids=lambda path: path.stem)
def test_every_file_of_pydicom_is_a_picture_or_a_fault(path: Path, recwarn: pytest.WarningsRecorder) -> None:
    header = pydicom.dcmread(path, force=True)
    recwarn.clear()
    try:
        image = read_image(path, "gray")
    except FileFault as fault:
        assert len(fault.detail) > 20
    else:
        assert image.shape == (header.Rows, header.Columns, 1) and image.dtype == np.uint8
    assert not recwarn.list


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("MR_small.dcm", None),
        ("JPGExtended.dcm", None),
        ("JPEG2000.dcm", None),
        ("image_dfl.dcm", None),
        ("MR_truncated.dcm", "truncated"),
        ("SC_rgb_jpeg_gdcm.dcm", "not_gray"),
        ("examples_palette.dcm", "not_gray"),
        ("rtdose.dcm", "bad_type"),
        ("rtdose_1frame.dcm", "bad_type"),
        ("liver_1frame.dcm", "bad_type"),
        ("badVR.dcm", "bad_header"),
        ("nested_priv_SQ.dcm", "bad_header"),
        ("test-SR.dcm", "no_pixels"),
        ("waveform_ecg.dcm", "no_pixels"),
        ("no_meta.dcm", "undecodable"),
        ("JPEG2000-embedded-sequence-delimiter.dcm", "bad_header"),
    ],
)
def test_telling_files_of_pydicom(name: str, expected: str | None) -> None:
    content = (TEST_FILES / name).read_bytes()
    if expected:
        assert fault_of(content) == expected
    else:
        assert np.ptp(read_film(content)) > 0


@pytest.mark.parametrize("name", ["bigendian", "expb", "implicit", "jp2klossless", "jpeg_ls_lossless", "padded", "RLE"])
def test_one_slice_in_every_coding_is_one_picture(name: str) -> None:
    plain = pydicom.dcmread(TEST_FILES / "MR_small.dcm")
    values = np.clip((plain.pixel_array - 599.5) / 1599 + 0.5, 0, 1)
    found = read_film((TEST_FILES / f"MR_small_{name}.dcm").read_bytes())
    assert (found == np.rint(255 * values)).all()


def films(real_data: Path, name: str) -> bytes:
    path = real_data / "dicom" / name
    if not path.exists():
        pytest.skip(f"no real film at {path}")
    return path.read_bytes()


SIIM = "1.2.276.0.7230010.3.1.4.8323329.6904.1517875201.850819.dcm"


def test_a_real_film_of_the_challenge(real_data: Path) -> None:
    content = films(real_data, SIIM)
    frame = get_frame(pydicom.dcmread(io.BytesIO(content)).PixelData, 0, number_of_frames=1)
    film = read_film(content)
    assert film.shape == (1024, 1024) and (film == np.asarray(Image.open(io.BytesIO(frame)))).all()
    assert (read_film(films(real_data, "Fake_MONOHR1.dcm")) == 255 - film).all()


def test_real_films_without_compression(real_data: Path) -> None:
    content = films(real_data, "1.3.6.1.4.1.11129.5.5.110503645592756492463169821050252582267888.dcm")
    assert (read_film(content).ravel() == np.frombuffer(content[-(1024**2) :], np.uint8)).all()
    content = films(real_data, "CR-MONO1-10-chest.dcm")
    stored = np.frombuffer(content[-2 * 440**2 :], "<u2").reshape(440, 440)
    shown = np.clip((stored.astype(float) - 549.5) / 1023 + 0.5, 0, 1)
    assert content[128:132] != b"DICM" and (read_film(content) == 255 - np.rint(255 * shown)).all()
    assert read_film(films(real_data, "not_chest/nhsx_sample_abdomen.dcm")).shape == (512, 512)


@pytest.mark.parametrize(
    ("lossy", "other"), [("RG1_J2KI.dcm", "RG1_JLSN.dcm"), ("not_chest/RG3_J2KI.dcm", "not_chest/RG3_J2KR.dcm")]
)
def test_one_real_film_by_two_codes_is_nearly_the_same(real_data: Path, lossy: str, other: str) -> None:
    first, second = (read_film(films(real_data, name)).astype(int) for name in (lossy, other))
    assert np.abs(first - second).max() <= 4 and np.abs(first - second).mean() < 0.5 and np.ptp(first) > 200


def test_a_real_film_with_a_modality_table(real_data: Path) -> None:
    content = films(real_data, "not_chest/CR-ModalitySequenceLUT.dcm")
    header = pydicom.dcmread(io.BytesIO(content))
    import imagecodecs

    stored = imagecodecs.ljpeg_decode(get_frame(header.PixelData, 0, number_of_frames=1))  # another decoder than ours
    values = apply_modality_lut(stored, header)
    assert (read_film(content) == 255 - scaled(values, 0, 1023)).all()
