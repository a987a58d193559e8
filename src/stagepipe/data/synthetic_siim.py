"""Made-up chest films in the raw `siim` layout, for examples and tests.

    dicom-images-train/<study>/<series>/<image>.dcm   labelled films
    dicom-images-test/<study>/<series>/<image>.dcm    labelled films of the second stage, if there are any
    stage_2_images/ID_<9 hex digits>.dcm              test films
    train-rle.csv                                     a row per collapse of a labelled film, as the first stage had it
    stage_2_train.csv                                 in its place if there is a second stage
    stage_2_sample_submission.csv                     a row per test film

Sizes of the collapses and the share of films with several follow the published labels (12,047 films). Most files are
JPEG with 8 bits as the published ones are, some are stored in the other ways that a reader must know. Patients are
made up, and named so that a name that leaks is found. The same specification gives the same bytes.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist

import numpy as np
from PIL import Image
from pydicom import dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID, ExplicitVRLittleEndian, JPEGBaseline8Bit, RLELossless, SecondaryCaptureImageStorage

from stagepipe.data.film import draw_film
from stagepipe.data.synthetic import new_folder, write_csv
from stagepipe.recipe.model import SyntheticSiim
from stagepipe.rle import EMPTY, encode_relative
from stagepipe.seeding import generator

FOLDERS = {"train": "dicom-images-train", "second_stage": "dicom-images-test", "test": "stage_2_images"}

STORED = ("jpeg", "plain", "rle", "inverted", "deep", *5 * ("jpeg",), "plain", "rle")
"""How a dozen films are stored. `jpeg`: JPEG baseline. `plain`: not compressed. `rle`: DICOM's run lengths. `inverted`:
JPEG with white as 0 (MONOCHROME1). `deep`: 12 of 16 bits, to be rescaled and windowed."""

ANNOTATED = ("once", "both", "once", "once", "once", "twice", "once", "once")
"""Collapses of eight films that have any. `both`: one in each lung. `twice`: one, in two rows that overlap."""

SIZES = NormalDist(np.log(0.0083), 1.1)
"""of the logarithm of a collapse's share of its film: median 0.8 %, a tenth below 0.2 %, a tenth above 3.4 %"""
SMALLEST, LARGEST = 0.002, 0.15

MADE_BY = UID("1.2.276.0.7230010.3.0.3.6.0")
"""implementation that the headers of the published files name"""


@dataclass(frozen=True)
class Film:
    """A film: gray values, float32 [size, size] from 0 to 255, and the mask of each collapse, bool [size, size]."""

    split: str
    """`train`, `second_stage` or `test`"""
    stored: str
    gray: np.ndarray
    instances: list[np.ndarray]


@dataclass(frozen=True)
class Plan:
    """What a film shall show: air outside the right and the left lung, as shares of the film."""

    shares: tuple[float, float] = (0.0, 0.0)
    annotated: str = "once"


@dataclass(frozen=True)
class Names:
    """Unique names of an image and of the series and the study that hold it alone."""

    image: str
    series: str
    study: str


def write(folder: Path, spec: SyntheticSiim) -> None:
    """Write a raw `siim` layout to a new or empty folder, whole or not at all. DataError if the folder holds files."""
    with new_folder(folder) as unfinished:
        _write_layout(unfinished, spec)


def films(spec: SyntheticSiim) -> Iterator[Film]:
    """Yield all films of a specification, split by split."""
    for split, count in _counts(spec).items():
        random = generator("synthetic_siim", spec.seed, split)
        plans = _plans(round(spec.positive * count), count, random)
        ways = [STORED[place % len(STORED)] for place in range(count)]
        for number, way in enumerate(random.permutation(ways).tolist()):
            own = generator("synthetic_siim", spec.seed, split, number)
            gray, collapses = draw_film(own, spec.size, plans[number].shares)
            masks = [collapse.mask for collapse in collapses]
            yield Film(split, way, gray, _overlapping(masks[0]) if plans[number].annotated == "twice" else masks)


# ---------------------------------------------------------------------------------------------------------------- plans


def _counts(spec: SyntheticSiim) -> dict[str, int]:
    return {"train": spec.train, "second_stage": spec.second_stage, "test": spec.test}


def _plans(positive: int, count: int, random: np.random.Generator) -> list[Plan]:
    """Plans of a split in random order; the sizes are spread evenly over their distribution, so that all occur."""
    levels = (random.permutation(positive) + random.uniform(0, 1, positive)) / max(positive, 1)
    plans = []
    for number, level in enumerate(levels.tolist()):
        size = float(np.clip(np.exp(SIZES.inv_cdf(np.clip(level, 1e-9, 1 - 1e-9))), SMALLEST, LARGEST))
        annotated = ANNOTATED[number % len(ANNOTATED)]
        right = random.uniform(0.3, 0.7) if annotated == "both" else float(random.uniform() < 0.55)
        plans.append(Plan((size * right, size * (1 - right)), annotated))
    plans += [Plan()] * (count - positive)
    return [plans[place] for place in random.permutation(count)]


def _overlapping(mask: np.ndarray) -> list[np.ndarray]:
    """Two masks that overlap and make up one, as two readers draw it: its upper and its lower two thirds."""
    rows, columns = np.nonzero(mask)
    parts = [np.zeros_like(mask), np.zeros_like(mask)]
    third = len(rows) // 3
    for part, chosen in zip(parts, (np.s_[: len(rows) - third], np.s_[third:]), strict=True):
        part[rows[chosen], columns[chosen]] = True
    return parts


# ---------------------------------------------------------------------------------------------------------------- files


def _write_layout(folder: Path, spec: SyntheticSiim) -> None:
    random = generator("synthetic_siim", spec.seed, "names")
    counts = _counts(spec)
    for split, count in counts.items():
        if count:
            (folder / FOLDERS[split]).mkdir(parents=True)
    names = _names(sum(counts.values()), random)
    tests = iter(dict.fromkeys(f"ID_{number:09x}" for number in random.integers(0, 16**9, 2 * spec.test).tolist()))
    labels: dict[str, list[str]] = {}
    unlabelled = []
    for film, name in zip(films(spec), names, strict=True):
        path = folder / FOLDERS[film.split] / name.study / name.series / f"{name.image}.dcm"
        if film.split == "test":
            unlabelled.append(next(tests))
            path = folder / FOLDERS["test"] / f"{unlabelled[-1]}.dcm"
        else:
            labels[name.image] = [encode_relative(mask) for mask in film.instances] or [EMPTY]
            path.parent.mkdir(parents=True)
        dcmwrite(path, _dataset(film, name, random), enforce_file_format=True)
    rows = [(image, runs) for image in random.permutation(list(labels)).tolist() for runs in labels[image]]
    if spec.second_stage:
        write_csv(folder / "stage_2_train.csv", ("ImageId", "EncodedPixels"), rows)
    else:
        spaced = [(image, f" {runs}") for image, runs in rows]  # published with a space after each comma
        write_csv(folder / "train-rle.csv", ("ImageId", " EncodedPixels"), spaced)
    sample = [(image, EMPTY) for image in unlabelled]
    write_csv(folder / "stage_2_sample_submission.csv", ("ImageId", "EncodedPixels"), sample)


def _names(count: int, random: np.random.Generator) -> list[Names]:
    """Names like the published ones, whose last three numbers are a process, a second and a fraction of it."""
    names = []
    for process in random.choice(max(32768, 2 * count), count, replace=False).tolist():
        fraction = int(random.integers(100_000, 1_000_000))
        image, series, study = (
            f"1.2.276.0.7230010.3.1.{kind}.8323329.{process}.{1517875160 + process // 140}.{fraction - back}"
            for kind, back in ((4, 0), (3, 2), (2, 1))
        )
        names.append(Names(image, series, study))
    return names


def _dataset(film: Film, name: Names, random: np.random.Generator) -> Dataset:
    """A film with its header."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = SecondaryCaptureImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = UID(name.image)
    # Left out, pydicom's own version would stand here.
    dataset.file_meta.ImplementationClassUID = MADE_BY
    dataset.file_meta.ImplementationVersionName = "STAGEPIPE"
    dataset.SpecificCharacterSet = "ISO_IR 100"
    dataset.StudyDate = "19010101"
    dataset.StudyTime = "000000.00"
    dataset.AccessionNumber = "DO-NOT-LEAK"
    dataset.Modality = "CR"
    dataset.ConversionType = "WSD"
    dataset.InstitutionName = "SYNTHETIC DO-NOT-LEAK HOSPITAL"
    dataset.ReferringPhysicianName = "REFERRER^DO-NOT-LEAK"
    dataset.PatientName = "SYNTHETIC^DO-NOT-LEAK"
    dataset.PatientID = f"DO-NOT-LEAK-{random.integers(10**6):06d}"
    dataset.PatientBirthDate = "19010203"
    dataset.PatientSex = "FM"[random.integers(2)]
    dataset.PatientAge = f"{random.integers(18, 90):03d}Y"
    dataset.BodyPartExamined = "CHEST"
    dataset.ViewPosition = ("PA", "PA", "AP")[random.integers(3)]
    dataset.StudyInstanceUID = name.study
    dataset.SeriesInstanceUID = name.series
    dataset.SeriesNumber = dataset.InstanceNumber = 1
    _set_pixels(dataset, film)
    return dataset


def _set_pixels(dataset: Dataset, film: Film) -> None:
    """Pixels and how they are stored."""
    size = len(film.gray)
    deep = film.stored == "deep"
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME1" if film.stored == "inverted" else "MONOCHROME2"
    dataset.Rows = dataset.Columns = size
    dataset.PixelSpacing = [f"{172 / size:.6g}"] * 2  # millimetres: the published films are 172 mm wide
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = (16, 12, 11) if deep else (8, 8, 7)
    dataset.PixelRepresentation = 0
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    pixels = np.rint(film.gray).astype(np.uint8)
    if deep:
        # 12 levels a gray value from 400 on; rescaling takes 300 off, and the window undoes both.
        dataset.WindowCenter, dataset.WindowWidth = "1630.5", "3061"
        dataset.RescaleIntercept, dataset.RescaleSlope = "-300", "1"
        dataset.PixelData = np.rint(400 + 12 * film.gray).astype("<u2").tobytes()
    elif film.stored in ("jpeg", "inverted"):
        dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
        dataset.LossyImageCompression = "01"
        dataset.LossyImageCompressionMethod = "ISO_10918_1"
        dataset.PixelData = encapsulate([_jpeg(255 - pixels if film.stored == "inverted" else pixels)])
    else:
        dataset.PixelData = pixels.tobytes()
    dataset["PixelData"].VR = "OW" if deep else "OB"
    if film.stored == "rle":
        dataset.compress(RLELossless, encoding_plugin="pydicom", generate_instance_uid=False)


def _jpeg(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()
