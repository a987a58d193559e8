"""Made-up chest films: the raw layout of the contest, the counts asked for, and a collapse where its mask says so."""

import csv
import gzip
import re
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pydicom
import pytest
from pydicom.pixels import apply_modality_lut, apply_voi_lut

from stagepipe.data import film as synthetic_film
from stagepipe.data import synthetic_siim
from stagepipe.data.film import draw_film
from stagepipe.errors import DataError
from stagepipe.recipe.model import SyntheticSiim
from stagepipe.rle import decode_relative, unite_relative
from stagepipe.seeding import generator

SPEC = SyntheticSiim(train=40, second_stage=12, test=12, size=64, positive=0.4, seed=3)
FIRST_STAGE = SyntheticSiim(train=20, test=5, size=64, positive=0.5)


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("films") / "raw"
    synthetic_siim.write(folder, SPEC)
    return folder


@pytest.fixture(scope="module")
def films() -> list[synthetic_siim.Film]:
    return list(synthetic_siim.films(SPEC))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def rows(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file))


def labels(path: Path) -> dict[str, list[str]]:
    """Run lengths by image."""
    found: dict[str, list[str]] = {}
    for image, runs in rows(path)[1:]:
        found.setdefault(image, []).append(runs)
    return found


def shown(path: Path) -> np.ndarray:
    """Gray values, float [H, W] from 0 to 255, as a viewer shows a file: rescaled, windowed, white for bone."""
    dataset = pydicom.dcmread(path)
    values = apply_voi_lut(apply_modality_lut(dataset.pixel_array, dataset), dataset).astype(float)
    if "RescaleIntercept" in dataset:  # pydicom windows to the range of the stored bits, rescaled
        values = (values - float(dataset.RescaleIntercept)) * 255 / (2**dataset.BitsStored - 1)
    return 255 - values if dataset.PhotometricInterpretation == "MONOCHROME1" else values


# ---------------------------------------------------------------------------------------------------------------- files


def test_bytes_depend_on_the_seed_alone(raw: Path, tmp_path: Path) -> None:
    synthetic_siim.write(tmp_path / "again", SPEC)
    synthetic_siim.write(tmp_path / "other", SPEC.model_copy(update={"seed": 4}))
    assert contents(tmp_path / "again") == contents(raw)
    assert not {name for name in contents(tmp_path / "other") if name.endswith(".dcm")} & contents(raw).keys()
    assert not any(b"PYDICOM" in content.upper() for content in contents(raw).values())  # its version would stand there


def test_layout_is_that_of_the_contest_with_a_second_stage(raw: Path) -> None:
    names = {"dicom-images-train", "dicom-images-test", "stage_2_images"}
    assert {path.name for path in raw.iterdir()} == names | {"stage_2_train.csv", "stage_2_sample_submission.csv"}
    images = {folder: sorted((raw / folder).rglob("*.dcm")) for folder in names}
    assert {folder: len(paths) for folder, paths in images.items()} == {
        "dicom-images-train": 40, "dicom-images-test": 12, "stage_2_images": 12,
    }  # fmt: skip
    root = r"1\.2\.276\.0\.7230010\.3\.1"
    for path in images["dicom-images-train"] + images["dicom-images-test"]:
        study, series, image = path.relative_to(raw).parts[1:]
        for name, kind in ((study, 2), (series, 3), (image.removesuffix(".dcm"), 4)):
            assert re.fullmatch(rf"{root}\.{kind}\.8323329\.\d+\.15178\d+\.\d{{5,6}}", name)
        dataset = pydicom.dcmread(path, stop_before_pixels=True)
        assert (dataset.StudyInstanceUID, dataset.SeriesInstanceUID) == (study, series)
        assert f"{dataset.SOPInstanceUID}.dcm" == image
    table = rows(raw / "stage_2_train.csv")
    assert table[0] == ["ImageId", "EncodedPixels"]
    labelled = {path.stem for path in images["dicom-images-train"] + images["dicom-images-test"]}
    assert {image for image, _ in table[1:]} == labelled and len(labelled) == 52
    assert all(runs == "-1" or runs[0].isdigit() for _, runs in table[1:])
    sample = rows(raw / "stage_2_sample_submission.csv")
    assert sample[0] == ["ImageId", "EncodedPixels"] and all(runs == "-1" for _, runs in sample[1:])
    tests = [image for image, _ in sample[1:]]
    assert sorted(tests) == [path.stem for path in images["stage_2_images"]] != tests  # no order
    assert all(re.fullmatch("ID_[0-9a-f]{9}", image) for image in tests)


def test_layout_is_that_of_the_contest_without_a_second_stage(tmp_path: Path) -> None:
    synthetic_siim.write(tmp_path / "raw", FIRST_STAGE)
    tables = {"train-rle.csv", "stage_2_sample_submission.csv"}
    assert {path.name for path in (tmp_path / "raw").iterdir()} == tables | {"dicom-images-train", "stage_2_images"}
    table = rows(tmp_path / "raw/train-rle.csv")
    assert table[0] == ["ImageId", " EncodedPixels"]
    assert all(runs == " -1" or re.fullmatch(r"( \d+)+", runs) for _, runs in table[1:])
    found = labels(tmp_path / "raw/train-rle.csv")
    assert len(found) == 20 and sum(runs != [" -1"] for runs in found.values()) == 10
    assert len(table) - 1 > 20  # some have several rows


def test_every_way_of_storing_a_film_occurs_and_shows_the_film(raw: Path, films: list[synthetic_siim.Film]) -> None:
    paths = sorted(raw.rglob("*.dcm"))
    pictures = np.stack([shown(path) for path in paths])
    found = labels(raw / "stage_2_train.csv")
    tolerance = {"jpeg": 4, "inverted": 4, "plain": 0.3, "rle": 0.3, "deep": 0.05}
    matched = set()
    for film in films:
        error = np.abs(pictures - film.gray).mean(axis=(1, 2))
        path = paths[int(error.argmin())]
        assert error.min() < tolerance[film.stored] and sorted(error)[1] > 5
        assert path.relative_to(raw).parts[0] == synthetic_siim.FOLDERS[film.split]
        if film.split != "test":
            drawn = np.logical_or.reduce([np.zeros((64, 64), bool), *film.instances])
            assert (unite_relative(found[path.stem], 64, 64) == drawn).all()
        matched.add(path)
    assert len(matched) == len(paths) == 64
    for split in ("train", "second_stage", "test"):
        assert {film.stored for film in films if film.split == split} == set(tolerance)


def test_files_decode_to_what_their_headers_say(raw: Path) -> None:
    kinds = Counter()
    for path in raw.rglob("*.dcm"):
        dataset = pydicom.dcmread(path)
        pixels = dataset.pixel_array
        assert pixels.shape == (dataset.Rows, dataset.Columns) == (64, 64)
        assert pixels.dtype == (np.uint16 if dataset.BitsAllocated == 16 else np.uint8)
        assert pixels.max() < 2**dataset.BitsStored
        syntax = dataset.file_meta.TransferSyntaxUID.name.split()[0]
        kinds[syntax, dataset.PhotometricInterpretation, dataset.BitsStored] += 1
        assert dataset.PatientName == "SYNTHETIC^DO-NOT-LEAK" and dataset.PatientBirthDate == "19010203"
        assert all("DO-NOT-LEAK" in dataset[name].value for name in ("PatientID", "AccessionNumber", "InstitutionName"))
    assert kinds.most_common(1)[0] == (("JPEG", "MONOCHROME2", 8), 31)
    assert kinds.keys() - {("JPEG", "MONOCHROME2", 8)} == {
        ("JPEG", "MONOCHROME1", 8), ("RLE", "MONOCHROME2", 8),
        ("Explicit", "MONOCHROME2", 8), ("Explicit", "MONOCHROME2", 12),
    }  # fmt: skip


def test_a_folder_with_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("x")
    with pytest.raises(DataError, match="holds files already"):
        synthetic_siim.write(tmp_path, FIRST_STAGE)
    assert contents(tmp_path) == {"precious": b"x"}


def test_a_failure_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthetic_siim, "encode_relative", lambda mask: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        synthetic_siim.write(tmp_path / "raw", FIRST_STAGE)
    assert list(tmp_path.iterdir()) == []


# --------------------------------------------------------------------------------------------------------------- counts


@pytest.mark.parametrize("positive", [0.0, 0.22, 0.5, 1.0])
def test_counts_and_shares_are_those_asked_for(positive: float) -> None:
    spec = SyntheticSiim(train=13, second_stage=6, test=9, size=64, positive=positive)
    drawn = list(synthetic_siim.films(spec))
    assert Counter(film.split for film in drawn) == {"train": 13, "second_stage": 6, "test": 9}
    for split, count in (("train", 13), ("second_stage", 6), ("test", 9)):
        collapsed = [bool(film.instances) for film in drawn if film.split == split]
        assert sum(collapsed) == round(positive * count)
    assert all(mask.any() for film in drawn for mask in film.instances)


def test_some_films_have_two_rows_in_both_lungs_or_in_one(films: list[synthetic_siim.Film]) -> None:
    several = [film.instances for film in films if len(film.instances) > 1]
    assert Counter(len(film.instances) for film in films) == {0: 38, 1: 20, 2: 6}
    overlapping = [bool((first & second).any()) for first, second in several]
    assert set(overlapping) == {True, False}
    for (first, second), overlap in zip(several, overlapping, strict=True):
        columns = [np.nonzero(mask)[1].mean() for mask in (first, second)]
        if overlap:
            assert (first & ~second).any() and (second & ~first).any()
        else:
            assert columns[0] < 32 < columns[1]  # the right lung is on the viewer's left


def test_small_and_large_collapses_occur(films: list[synthetic_siim.Film]) -> None:
    shares = [np.logical_or.reduce(film.instances).mean() for film in films if film.instances]
    assert min(shares) < 0.003 and max(shares) > 0.04
    assert np.median(shares) == pytest.approx(0.0083, rel=0.5)
    assert all(0.0015 < share <= 0.15 for share in shares)


def test_sizes_follow_the_published_labels(real_data: Path) -> None:
    table = real_data / "dicom" / "siim-pneumothorax-train-rle.csv.gz"
    if not table.is_file():
        pytest.skip(f"no published labels at {table}")
    pixels: Counter[str] = Counter()
    with gzip.open(table, "rt") as file:
        for image, runs in list(csv.reader(file))[1:]:
            pixels[image] += sum(map(int, runs.split()[1::2]))
    shares = np.log([count / 1024**2 for count in pixels.values() if count])
    levels = [0.1, 0.25, 0.5, 0.75, 0.9]
    drawn = [synthetic_siim.SIZES.inv_cdf(level) for level in levels]
    assert np.quantile(shares, levels) == pytest.approx(drawn, abs=0.12)


# ---------------------------------------------------------------------------------------------------------------- films


def test_a_collapse_is_darker_than_what_lies_around_it() -> None:
    contrasts = []
    for film in synthetic_siim.films(SyntheticSiim(train=24, test=1, size=128, positive=1.0)):
        mask = np.logical_or.reduce(film.instances)
        near = cv2.dilate(mask.astype(np.uint8), np.ones((9, 9), np.uint8)).astype(bool) & ~mask
        contrasts.append(film.gray[near].mean() - film.gray[mask].mean())
    assert min(contrasts) > 0 and np.mean(contrasts) > 20


@pytest.mark.parametrize("shares", [(0.01, 0.0), (0.0, 0.04), (0.003, 0.07)])
def test_a_collapse_darkens_its_mask_and_changes_no_other_lung(shares: tuple[float, float]) -> None:
    sound, none = draw_film(generator("test", 1), 256, (0.0, 0.0))
    film, collapses = draw_film(generator("test", 1), 256, shares)
    assert none == [] and len(collapses) == sum(share > 0 for share in shares)
    for collapse, share in zip(collapses, [share for share in shares if share], strict=True):
        assert collapse.mask.mean() == pytest.approx(share, rel=0.01)
        inner = cv2.erode(collapse.mask.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool)
        assert sound[inner].mean() - film[inner].mean() > 8
    for half, share in zip((np.s_[:, :110], np.s_[:, 150:]), shares, strict=True):
        assert (film[half] == sound[half]).all() == (share == 0)


def test_a_collapse_shows_no_vessels(monkeypatch: pytest.MonkeyPatch) -> None:
    film, (collapse,) = draw_film(generator("test", 1), 256, (0.04, 0.0))
    vessels = synthetic_film._vessels
    monkeypatch.setattr(synthetic_film, "_vessels", lambda random, view: 0 * vessels(random, view))
    plain, _ = draw_film(generator("test", 1), 256, (0.04, 0.0))
    lung = cv2.dilate(collapse.mask.astype(np.uint8), np.ones((25, 25), np.uint8)).astype(bool) & ~collapse.mask
    air = collapse.mask & (collapse.distance > 0.01)
    assert (film[air] == plain[air]).all() and air.sum() > 1000
    assert (film[lung & (collapse.distance < -0.01)] > plain[lung & (collapse.distance < -0.01)] + 1).mean() > 0.2


@pytest.mark.parametrize("seed", range(4))
def test_films_look_alike_at_every_size(seed: int) -> None:
    small, few = draw_film(generator("test", seed), 64, (0.02, 0.05))
    large, many = draw_film(generator("test", seed), 512, (0.02, 0.05))
    reduced = cv2.resize(large, (64, 64), interpolation=cv2.INTER_AREA)
    assert np.corrcoef(small.ravel(), reduced.ravel())[0, 1] > 0.98
    assert np.abs(small - reduced).mean() < 6
    for coarse, fine in zip(few, many, strict=True):
        again = cv2.resize(fine.mask.astype(np.float32), (64, 64), interpolation=cv2.INTER_AREA) > 0.5
        assert (coarse.mask & again).sum() > 0.75 * (coarse.mask | again).sum()


def test_a_film_has_dark_lungs_between_brighter_tissue_and_is_brightest_in_the_middle() -> None:
    for seed in range(8):
        gray, _ = draw_film(generator("test", seed), 128, (0.0, 0.0))
        assert gray.dtype == np.float32 and gray.min() >= 0 and gray.max() <= 255
        right, left = gray[40:70, 25:45].mean(), gray[40:70, 83:103].mean()
        spine, belly, wall = gray[40:70, 61:67].mean(), gray[118:124, 30:98].mean(), gray[35:60, 0:3].mean()
        assert max(right, left) + 40 < min(spine, belly)
        assert max(right, left) + 10 < wall < min(spine, belly)


def test_at_most_seven_tenths_of_a_lung_collapse() -> None:
    _, collapses = draw_film(generator("test", 2), 128, (0.9, 0.9))
    assert all(0.05 < collapse.mask.mean() < 0.14 for collapse in collapses)


def test_rows_of_a_film_are_runs_of_its_size(raw: Path) -> None:
    for runs in labels(raw / "stage_2_train.csv").values():
        masks = [decode_relative(text, 64, 64) for text in runs]
        assert all(mask.any() for mask in masks) == (runs != ["-1"])
