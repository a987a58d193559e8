"""DICOM files made up for tests."""

import io

import numpy as np
from pydicom import Dataset, dcmwrite, uid
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate

NAME, BIRTH, PATIENT = "Montgomery^Wilhelmina", "19470229", "MRN-55512345"
"""of a patient, to be found nowhere else"""


def dicom(
    pixels: np.ndarray,
    bits: int | None = None,
    syntax: uid.UID = uid.ExplicitVRLittleEndian,
    frame: bytes | None = None,
    **elements: object,
) -> bytes:
    """Bytes of a DICOM file: pixels [H, W], 8- or 16-bit integers, of which `bits` are stored.

    `frame` are the same pixels compressed. Elements come by keyword, those of None are left out.
    """
    dataset = _dataset(pixels, bits, **elements)
    if "PixelData" in dataset:
        little = pixels.astype(pixels.dtype.newbyteorder("<" if syntax.is_little_endian else ">"))
        plain = little.tobytes() + b"\0" * (pixels.nbytes % 2)
        dataset.PixelData = encapsulate([frame]) if frame else plain
        dataset["PixelData"].VR = "OB" if frame or pixels.dtype.itemsize == 1 else "OW"
        dataset["PixelData"].is_undefined_length = frame is not None
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.file_meta.MediaStorageSOPClassUID = uid.ComputedRadiographyImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    dataset.file_meta.SourceApplicationEntityTitle = PATIENT
    buffer = io.BytesIO()
    dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()


def bare(pixels: np.ndarray, bits: int | None = None, implicit: bool = True, **elements: object) -> bytes:
    """The same without preamble and file meta, little endian."""
    dataset = _dataset(pixels, bits, **elements)
    dataset.PixelData = pixels.tobytes()
    buffer = io.BytesIO()
    dcmwrite(buffer, dataset, implicit_vr=implicit, little_endian=True)
    return buffer.getvalue()


def _dataset(pixels: np.ndarray, bits: int | None, **elements: object) -> Dataset:
    dataset = Dataset()
    size = 8 * pixels.dtype.itemsize
    described = {
        "SOPClassUID": uid.ComputedRadiographyImageStorage,
        "SOPInstanceUID": "1.2.3",
        "PatientName": NAME,
        "PatientID": PATIENT,
        "PatientBirthDate": BIRTH,
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": pixels.shape[0],
        "Columns": pixels.shape[1],
        "BitsAllocated": size,
        "BitsStored": bits or size,
        "HighBit": (bits or size) - 1,
        "PixelRepresentation": int(np.issubdtype(pixels.dtype, np.signedinteger)),
        "PixelData": b"",
    }
    for keyword, value in (described | elements).items():
        if value is not None:
            setattr(dataset, keyword, value)
    return dataset


def table(first: int, bits: int, entries: list[int]) -> list[Dataset]:
    """Items of a look-up table sequence."""
    item = Dataset()
    item.add_new("LUTDescriptor", "SS" if first < 0 else "US", [len(entries) % 2**16, first, bits])
    item.add_new("LUTData", "US", entries)
    return [item]
