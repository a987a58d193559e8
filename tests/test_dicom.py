"""DICOM films become gray levels: what their values mean, and how they may be coded."""

from pathlib import Path

import cv2
import numpy as np
import pydicom
import pytest
from dicom_example import BYTES, RANDOM, TWELVE, jpeg, scaled
from dicom_files import bare, dicom, table
from pydicom import uid
from pydicom.pixels import apply_modality_lut, apply_voi, apply_windowing, get_encoder

from stagepipe.data.decode import FileFault, image_size, read_image
from stagepipe.data.dicom import film_size, read_film
from stagepipe.data.dicom_codecs import Codestream, codestream
from stagepipe.data.grayscale import Grayscale, Rescale, Table, Window, levels, to_gray

# ----------------------------------------------------------------------------------------------------- what values mean


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


# ---------------------------------------------------------------------------------------------------------- sound files


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
