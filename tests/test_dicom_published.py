"""DICOM films as others wrote them: the test files of pydicom, and real ones."""

import io
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_example import fault_of, scaled
from PIL import Image
from pydicom.encaps import get_frame
from pydicom.pixels import apply_modality_lut

from stagepipe.data.decode import FileFault, read_image
from stagepipe.data.dicom import read_film

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
