"""The real labels and the published folds of the SIIM-ACR challenge: 12,954 rows of 12,047 films of 1024 x 1024."""

import csv
import gzip
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from stagepipe import folds, rle
from stagepipe.recipe.model import Folds

SIZE = 1024


@dataclass(frozen=True)
class Labels:
    """Texts by image, and of each image that has foreground its share and how many pixels several rows mark."""

    texts: dict[str, list[str]]
    shares: dict[str, float]
    shared: dict[str, int]


@pytest.fixture(scope="module")
def labels(real_data: Path) -> Labels:
    """All labels, each of them decoded, united, encoded and decoded again: the second mask is the first.

    A single row comes back as the very same text, so that decoding it again is left out. 9,378 images are empty by one
    text, which is decoded once.
    """
    path = real_data / "dicom" / "siim-pneumothorax-train-rle.csv.gz"
    if not path.exists():
        pytest.skip(f"no real labels at {path}")
    texts: dict[str, list[str]] = defaultdict(list)
    with gzip.open(path, "rt", newline="") as file:
        for row in csv.DictReader(file):
            texts[row["ImageId"]].append(row[" EncodedPixels"])
    shares, shared = {}, {}
    for name, instances in texts.items():
        if instances == ["-1"]:
            continue
        mask = rle.unite_relative(instances, SIZE, SIZE)
        text = rle.encode_relative(mask)
        assert text == instances[0] if len(instances) == 1 else (rle.decode_relative(text, SIZE, SIZE) == mask).all()
        shares[name] = float(mask.mean())
        runs = [int(number) for instance in instances for number in instance.split()[1::2]]
        shared[name] = sum(runs) - int(mask.sum())
    return Labels(texts, shares, shared)


def test_counts_are_the_published_ones(labels: Labels) -> None:
    counts = [len(instances) for instances in labels.texts.values()]
    assert (sum(counts), len(counts), sum(count > 1 for count in counts)) == (12_954, 12_047, 624)
    assert len(labels.shares) == 2_669 == 2_379 + 290
    assert sum(pixels > 0 for pixels in labels.shared.values()) == 183
    assert all(len(labels.texts[name]) > 1 for name, pixels in labels.shared.items() if pixels)
    empty = rle.unite_relative(["-1"], SIZE, SIZE)
    assert not empty.any() and rle.encode_relative(empty) == "-1"


def test_sizes_of_the_masks(labels: Labels) -> None:
    shares = np.array(list(labels.shares.values()))
    assert np.percentile(shares, [0, 10, 50, 90, 100]) == pytest.approx(
        [55 / SIZE**2, 0.00191, 0.00823, 0.0319, 0.1539], rel=0.005
    )
    assert shares.mean() == pytest.approx(0.01367, rel=0.005)


def test_united_masks_agree_with_a_loop_over_pixels(labels: Labels) -> None:
    several = [name for name, instances in labels.texts.items() if len(instances) > 1]
    for name in several[::60]:
        flat = np.zeros(SIZE * SIZE, np.uint8)
        for text in labels.texts[name]:
            position = 0
            numbers = [int(number) for number in text.split()]
            for offset, length in zip(numbers[::2], numbers[1::2], strict=True):
                flat[position + offset : position + offset + length] = 1
                position += offset + length
        assert (rle.unite_relative(labels.texts[name], SIZE, SIZE) == flat.reshape(SIZE, SIZE).T).all()


# ---------------------------------------------------------------------------------------------------------------- folds


def published(real_data: Path, name: str) -> dict[str, dict[str, str]]:
    """Rows of a file of folds by id."""
    with (real_data / "dicom" / name).open(newline="") as file:
        return {row["fname"].removesuffix(".png"): row for row in csv.DictReader(file)}


def split_by(path: Path, labels: Labels, second_stage: dict[str, bool]) -> dict[int, list[str]]:
    """Ids of each fold, as the file gives them to labelled samples; -1: they always train."""
    table = pa.table(
        {
            "sample_id": list(second_stage),
            "split": ["train"] * len(second_stage),
            "second_stage": list(second_stage.values()),
        }
    )
    found = folds.split(table, Folds(count=5, file=str(path), always_train="second_stage"))
    by_fold = defaultdict(list)
    for name, fold in zip(found["sample_id"].to_pylist(), found["fold"].to_pylist(), strict=True):
        by_fold[fold].append(name)
    return by_fold


SIZES, POSITIVE = [2137, 2135, 2134, 2138, 2135], [469, 464, 484, 480, 482]
ALL_EMPTY = [0.7805, 0.7827, 0.7732, 0.7755, 0.7742]


def test_folds_of_the_first_stage(labels: Labels, real_data: Path) -> None:
    """Four of its images, all empty, are no longer in the label table: they count as published."""
    rows = published(real_data, "train_folds_5.csv")
    gone = [name for name in rows if name not in labels.texts]
    assert len(rows) == 10_679 and len(gone) == 4 and all(rows[name]["exist_labels"] == "0" for name in gone)
    by_fold = split_by(real_data / "dicom" / "train_folds_5.csv", labels, dict.fromkeys(rows, False))
    positive = [sum(name in labels.shares for name in by_fold[fold]) for fold in range(5)]
    assert ([len(by_fold[fold]) for fold in range(5)], positive) == (SIZES, POSITIVE)
    empty = [1 - found / size for found, size in zip(POSITIVE, SIZES, strict=True)]
    assert empty == pytest.approx(ALL_EMPTY, abs=5e-5) and 1 - sum(POSITIVE) / sum(SIZES) == pytest.approx(
        0.7772, abs=5e-5
    )
    assert all((row["exist_labels"] == "1") == (name in labels.shares) for name, row in rows.items())


def test_folds_of_the_second_stage(labels: Labels, real_data: Path) -> None:
    rows = published(real_data, "2nd_stage_folds.csv")
    assert set(rows) == set(labels.texts)
    second_stage = {name: row["fold"] == "stage_2" for name, row in rows.items()}
    by_fold = split_by(real_data / "dicom" / "2nd_stage_folds.csv", labels, second_stage)
    assert [len(by_fold[fold]) for fold in range(-1, 5)] == [1372, 2137 - 1, 2135, 2134, 2138 - 2, 2135 - 1]
    assert [sum(name in labels.shares for name in by_fold[fold]) for fold in range(-1, 5)] == [290, *POSITIVE]
    assert not any(second_stage[name] for fold in range(5) for name in by_fold[fold])
    old = split_by(
        real_data / "dicom" / "train_folds_5.csv",
        labels,
        dict.fromkeys(published(real_data, "train_folds_5.csv"), False),
    )
    assert all(set(by_fold[fold]) <= set(old[fold]) for fold in range(5))
