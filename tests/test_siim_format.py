"""The raw layout of the SIIM-ACR challenge: pairing, masks, faults, listing and what is checked before a run."""

import csv
import json
import logging
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from data_layouts import codes, outputs, run, write_rows
from dicom_files import BIRTH, NAME, PATIENT, dicom
from pydicom import uid

from stagepipe import rle
from stagepipe.artefacts import read_table
from stagepipe.data.ingest import IngestSummary, check, ingest
from stagepipe.data.labels import resized
from stagepipe.data.listing import raw_listing
from stagepipe.data.store import PixelStore
from stagepipe.errors import DataError
from stagepipe.folds import split
from stagepipe.preflight import examine
from stagepipe.recipe.load import validate
from stagepipe.recipe.model import Dataset, Folds

SIZE = 32
TRAIN, FIRST, SECOND = "dicom-images-train", "dicom-images-test", "stage_2_images"
HEADER = ("ImageId", " EncodedPixels")


def siim(**changes: object) -> Dataset:
    return Dataset(**({"format": "siim", "root": "raw", "classes": ["pneumothorax"]} | changes))


def film(seed: int, size: int = SIZE) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (size, size), dtype=np.uint8)


def box(top: int, left: int, edge: int = 6, size: int = SIZE) -> np.ndarray:
    mask = np.zeros((size, size), np.uint8)
    mask[top : top + edge, left : left + edge] = 1
    return mask


def save(root: Path, path: str, seed: int) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    if path.endswith(".dcm"):
        (root / path).write_bytes(dicom(film(seed)))
    else:
        cv2.imwrite(str(root / path), film(seed))


LABELS = {
    "1.2.1": [box(3, 4)],
    "1.2.2": [box(3, 4), box(6, 7), box(20, 1)],  # the first two overlap
    "1.2.3": [],
    "1.2.4": [box(26, 26)],  # down to the last pixel
    "1.2.5": [box(0, 0)],
}


def rows(names: str) -> list[tuple[str, str]]:
    """Rows of the label table for images by their last digit."""
    return [
        (f"1.2.{name}", rle.encode_relative(mask)) for name in names for mask in LABELS[f"1.2.{name}"] or [box(0, 0, 0)]
    ]


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """The second stage: 1.2.1 to 1.2.3 are old labelled films, 1.2.4 and 1.2.5 were tests of the first stage."""
    root = tmp_path / "raw"
    for number, path in enumerate(("s1/e/1.2.1.dcm", "s2/1.2.2.dcm", "1.2.3.png"), start=1):
        save(root, f"{TRAIN}/{path}", number)
    save(root, f"{FIRST}/s4/e4/1.2.4.dcm", 4)
    save(root, f"{FIRST}/s5/1.2.5.dcm", 5)
    save(root, f"{SECOND}/ID_0.dcm", 6)
    save(root, f"{SECOND}/ID_1.png", 7)
    write_rows(root / "stage_2_train.csv", HEADER, *rows("12345"))
    return root


def table(out: Path) -> dict[str, dict[str, object]]:
    return {row["sample_id"]: row for row in read_table(out / "samples.parquet").to_pylist()}


def masks(out: Path) -> dict[str, np.ndarray]:
    samples = read_table(out / "samples.parquet")
    store = PixelStore(out / "pixels.bin", samples)
    names, splits = samples["sample_id"].to_pylist(), samples["split"].to_pylist()
    return {name: store.mask(row) for row, name in enumerate(names) if splits[row] == "train"}


# ----------------------------------------------------------------------------------------------------------- sound data


def test_both_stages_as_kaggle_gives_them(raw: Path, tmp_path: Path) -> None:
    assert run(siim(), raw, tmp_path / "out") == IngestSummary(7, 0)
    found = table(tmp_path / "out")
    assert {name: row["split"] for name, row in found.items()} == {
        "ID_0": "test",
        "ID_1": "test",
        **dict.fromkeys(LABELS, "train"),
    }
    assert [name for name, row in found.items() if row["second_stage"]] == ["1.2.4", "1.2.5"]
    assert {row["second_stage"] for row in found.values()} == {True, False}
    assert found["1.2.1"]["image_path"] == f"{TRAIN}/s1/e/1.2.1.dcm"
    assert [row["empty"] for row in found.values()] == [None, None, False, False, True, False, False]
    for name, mask in masks(tmp_path / "out").items():
        assert (mask == np.maximum.reduce([np.zeros((SIZE, SIZE), np.uint8), *LABELS[name]])).all()
    store = PixelStore(tmp_path / "out/pixels.bin", read_table(tmp_path / "out/samples.parquet"))
    for row, seed in enumerate((6, 7, 1, 2, 3, 4, 5)):
        assert (store.image(row)[..., 0] == film(seed)).all()


def test_threads_change_neither_the_outputs_nor_the_filters_of_warnings(raw: Path, tmp_path: Path) -> None:
    for number in range(60):
        (raw / f"{SECOND}/more{number:02}.dcm").write_bytes(dicom(film(number)))
    before = list(warnings.filters)
    for threads in (1, 4):
        out = tmp_path / str(threads)
        ingest(siim(), raw, out / "s.parquet", out / "p.bin", out / "f.parquet", threads=threads)
    assert warnings.filters == before
    for name in ("s.parquet", "p.bin", "f.parquet"):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "4" / name).read_bytes()


def test_the_first_stage_alone_has_its_own_test_films(raw: Path, tmp_path: Path) -> None:
    shutil.rmtree(raw / SECOND)
    (raw / "stage_2_train.csv").unlink()
    write_rows(raw / "train-rle.csv", ("ImageId", "EncodedPixels"), ("1.2.3", " -1"), *rows("12"))
    run(siim(), raw, tmp_path / "out")
    found = table(tmp_path / "out")
    assert [name for name, row in found.items() if row["split"] == "test"] == ["1.2.4", "1.2.5"]
    assert not any(row["second_stage"] for row in found.values())
    shutil.rmtree(raw / FIRST)
    assert run(siim(), raw, tmp_path / "less") == IngestSummary(3, 0)


def test_the_table_of_the_second_stage_is_used_alone(raw: Path, tmp_path: Path) -> None:
    write_rows(raw / "train-rle.csv", HEADER, ("1.2.1", "-1"), ("ghost", "-1"))
    assert run(siim(), raw, tmp_path / "out") == IngestSummary(7, 0)
    assert masks(tmp_path / "out")["1.2.1"].sum() == 36
    tables, _ = raw_listing(siim(), raw)
    assert [path.name for path in tables] == ["stage_2_train.csv", "train-rle.csv"]


def test_masks_in_place_of_the_table_may_have_grey_borders(raw: Path, tmp_path: Path) -> None:
    (raw / "stage_2_train.csv").unlink()
    (raw / "masks").mkdir()
    soft = cv2.resize(box(8, 10) * np.uint8(255), (2 * SIZE, 2 * SIZE), interpolation=cv2.INTER_LINEAR)
    soft = cv2.resize(cv2.blur(soft, (3, 3)), (SIZE, SIZE), interpolation=cv2.INTER_LINEAR)
    assert len(np.unique(soft)) > 5
    hard = {"1.2.2": box(1, 1), "1.2.3": box(0, 0, 0), "1.2.4": box(2, 2) * np.uint8(255)}  # 0 and 1 are a mask, too
    deep = cv2.blur(box(2, 5).astype(np.uint16) * 65535, (3, 3))
    for name, mask in ({"1.2.1": soft, "1.2.5": deep} | hard).items():
        cv2.imwrite(str(raw / f"masks/{name}.png"), mask)
    run(siim(), raw, tmp_path / "out")
    found = masks(tmp_path / "out")
    assert (found["1.2.1"] == (soft > 127)).all() and (found["1.2.5"] == (deep > 32767)).all()
    assert all((found[name] == (mask > 0)).all() for name, mask in hard.items())
    assert [name for name, row in table(tmp_path / "out").items() if row["second_stage"]] == ["1.2.4", "1.2.5"]


def test_masks_beside_the_table_must_agree_with_it(raw: Path) -> None:
    (raw / "masks").mkdir()
    cv2.imwrite(str(raw / "masks/1.2.1.png"), LABELS["1.2.1"][0] * 255)
    cv2.imwrite(str(raw / "masks/1.2.2.png"), box(3, 4) * 255)
    assert codes(siim(), raw) == [("1.2.2", "masks/1.2.2.png", "rle_mismatch")]


# ------------------------------------------------------------------------------------------------- sizes of run lengths


def test_run_lengths_of_another_size_are_resized(raw: Path, tmp_path: Path) -> None:
    mask = np.maximum(box(20, 30, 21, 64), box(0, 0, 3, 64))
    write_rows(raw / "stage_2_train.csv", HEADER, ("1.2.1", rle.encode_relative(mask)), *rows("345"), ("1.2.2", "-1"))
    with pytest.raises(DataError, match=r"bad_rle: run lengths of '1\.2\.1' .* 32 x 32 .*write dataset\.rle_size"):
        run(siim(), raw, tmp_path / "none")
    write_rows(raw / "stage_2_train.csv", HEADER, *((f"1.2.{n}", rle.encode_relative(mask)) for n in "12345"))
    run(siim(rle_size=64), raw, tmp_path / "out")
    shares = mask.reshape(32, 2, 32, 2).mean((1, 3))
    assert all((found == (shares > 0.5)).all() for found in masks(tmp_path / "out").values())
    with pytest.raises(DataError, match=r"bad_rle: .* 16 x 8 .*correct dataset\.rle_size"):
        run(siim(rle_size=[8, 16]), raw, tmp_path / "none")


def test_masks_shrink_by_area_and_grow_linearly() -> None:
    mask = np.zeros((40, 60), np.uint8)
    mask[:, ::4] = mask[:, 1::4] = mask[:, 2::4] = 1  # three columns of four
    assert resized(mask, 10, 15).all()  # interpolation between four pixels would see single columns
    assert not resized(1 - mask, 10, 15).any()
    assert resized(mask, 40, 60) is mask
    grown = resized(box(2, 2, 4, 8), 16, 16)
    assert (grown == np.kron(box(2, 2, 4, 8), np.ones((2, 2), np.uint8))).mean() > 0.97 and grown.dtype == np.uint8


# --------------------------------------------------------------------------------------------------------------- faults


def test_all_faults_of_a_layout_are_listed_at_once(raw: Path, tmp_path: Path) -> None:
    save(raw, f"{TRAIN}/other/1.2.1.png", 9)  # at another depth and of another type
    save(raw, f"{FIRST}/1.2.2.dcm", 9)
    save(raw, f"{SECOND}/deep/er/1.2.3.dcm", 9)
    save(raw, f"{TRAIN}/1.2.9.dcm", 9)
    save(raw, f"{FIRST}/1.2.8.dcm", 9)
    save(raw, f"{TRAIN}/s1/a..b.dcm", 9)
    (raw / TRAIN / "s1/notes.txt").write_text("hello")
    (raw / TRAIN / "s1/.DS_Store").write_text("passed over")
    (raw / TRAIN / "broken.dcm").write_bytes(b"hello" * 50)
    (raw / "masks").mkdir()
    cv2.imwrite(str(raw / "masks/orphan.png"), box(0, 0))
    save(raw, f"{FIRST}/1.2.7.dcm", 9)
    write_rows(
        raw / "stage_2_train.csv",
        HEADER,
        *rows("12345"),
        ("ghost", "1 2"),
        ("1.2.4", "-1"),
        ("1.2.7", "1 2 3"),
        ("../../evil", "1 2"),
        ("ID_1", "1 2"),
        ("broken", "-1"),
    )
    found = sorted((sample_id, fault) for sample_id, _, fault in codes(siim(), raw))
    assert found == sorted(
        [
            ("1.2.1", "duplicate_id"),
            ("1.2.2", "duplicate_id"),
            ("1.2.3", "duplicate_id"),
            ("1.2.4", "bad_rle"),  # empty and not
            ("1.2.7", "bad_rle"),
            ("1.2.8", "missing_mask"),
            ("1.2.9", "missing_mask"),
            ("1.2.3", "bad_value"),  # a row, and a film among the second stage's tests
            ("ID_1", "bad_value"),
            ("a..b", "bad_id"),
            ("notes", "unknown_type"),
            ("broken", "undecodable"),
            ("orphan", "missing_image"),
            ("ghost", "missing_image"),
            ("../../evil", "bad_id"),
        ]
    )
    with pytest.raises(DataError, match="has 15 faults"):
        run(siim(), raw, tmp_path / "out")
    assert run(siim(faults="quarantine"), raw, tmp_path / "out") == IngestSummary(2, 15)


def test_links_are_not_followed_out_of_the_root_nor_in_circles(raw: Path, tmp_path: Path) -> None:
    (raw / "circle").symlink_to(raw)
    (raw / TRAIN / "s1/up").symlink_to(raw / TRAIN)
    (raw / TRAIN / "s2/away").symlink_to(tmp_path)
    (raw / TRAIN / "nowhere.dcm").symlink_to("gone.dcm")
    shutil.copy(raw / TRAIN / "s1/e/1.2.1.dcm", tmp_path / "secret.dcm")
    (raw / FIRST / "1.2.6.dcm").symlink_to(tmp_path / "secret.dcm")
    assert [(path, fault) for _, path, fault in codes(siim(), raw)] == [
        (f"{FIRST}/1.2.6.dcm", "outside_root"),
        (f"{TRAIN}/s2/away", "linked_folder"),
        (f"{TRAIN}/nowhere.dcm", "unreadable"),
        (f"{TRAIN}/s1/up", "linked_folder"),
    ]
    assert len(raw_listing(siim(), raw)[1]) == 64


def test_a_linked_top_folder_outside_the_root_is_not_read(raw: Path, tmp_path: Path) -> None:
    (raw / SECOND).rename(tmp_path / "elsewhere")
    (raw / SECOND).symlink_to(tmp_path / "elsewhere")
    assert codes(siim(), raw) == [("", SECOND, "outside_root")]


def test_what_a_layout_must_have(raw: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="marks one class, not 2"):
        check(siim(classes=["a", "b"]), raw)
    (raw / "stage_2_train.csv").unlink()
    with pytest.raises(DataError, match=r"has none of stage_2_train\.csv, train-rle\.csv and masks/"):
        check(siim(), raw)
    write_rows(raw / "train-rle.csv", ("ImageId", "Pixels"), ("1.2.1", "-1"))
    with pytest.raises(
        DataError, match=r"train-rle\.csv: lacks the columns EncodedPixels; its header is 'ImageId,Pixels'"
    ):
        check(siim(), raw)
    shutil.rmtree(raw / TRAIN)
    with pytest.raises(DataError, match=rf"has no folder {TRAIN}; the siim format expects there .*stage_2_train\.csv"):
        check(siim(), raw)


# -------------------------------------------------------------------------------------------------------------- privacy


def test_nothing_of_a_patient_gets_into_any_output(raw: Path, tmp_path: Path, capfd, caplog) -> None:
    secrets = [NAME, *NAME.split("^"), BIRTH, PATIENT]
    content = dicom(film(1))
    assert all(secret.encode() in content for secret in secrets)
    (raw / SECOND / "cut.dcm").write_bytes(content[:-100])
    (raw / SECOND / "colour.dcm").write_bytes(dicom(film(1), PhotometricInterpretation="RGB", SamplesPerPixel=3))
    named = content.replace(b"MONOCHROME2 ", b"Montgomery  ")
    (raw / SECOND / "named.dcm").write_bytes(named)
    (raw / SECOND / "lossy.dcm").write_bytes(dicom(film(1), syntax=uid.JPEGBaseline8Bit, frame=b"\xff\xd8 hello"))
    for faults in ("strict", "quarantine"):
        with warnings.catch_warnings(record=True) as raised, caplog.at_level(logging.DEBUG):
            warnings.simplefilter("always")
            try:
                run(siim(faults=faults), raw, tmp_path / faults)
                message = ""
            except DataError as error:
                message = str(error)
        assert faults == "quarantine" or ("has 4 faults" in message and "cut.dcm: truncated" in message)
        printed = capfd.readouterr()
        words = message + caplog.text + printed.out + printed.err + "".join(str(warning.message) for warning in raised)
        assert not any(secret in words for secret in secrets)
    assert outputs(tmp_path / "strict") == ["faults.strict.csv"]
    assert outputs(tmp_path / "quarantine") == ["faults.parquet", "pixels.bin", "samples.parquet"]
    for path in (*(tmp_path / "strict").iterdir(), *(tmp_path / "quarantine").iterdir()):
        held = path.read_bytes()
        if path.suffix == ".parquet":
            held += json.dumps(read_table(path).to_pylist()).encode()
        assert not any(secret.encode() in held for secret in secrets)


# -------------------------------------------------------------------------------------------------------------- listing


def test_the_fingerprint_covers_the_whole_tree(raw: Path) -> None:
    def fingerprint() -> str:
        return raw_listing(siim(), raw)[1]

    before = fingerprint()
    os.utime(raw / TRAIN / "s1/e/1.2.1.dcm", (1, 1))
    (raw / TRAIN / "empty").mkdir()
    assert fingerprint() == before
    (raw / TRAIN / "s1/e").rename(raw / TRAIN / "s1/f")
    moved = fingerprint()
    with (raw / TRAIN / "s2/1.2.2.dcm").open("ab") as file:
        file.write(b"\0")
    grown = fingerprint()
    (raw / SECOND / "ID_0.dcm").unlink()
    assert len({before, moved, grown, fingerprint()}) == 4


def test_reading_the_layout_loads_no_heavy_library(raw: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from stagepipe.recipe.model import Dataset\n"
        "from stagepipe.data.listing import raw_listing\n"
        "raw_listing(Dataset(format='siim', root='x', classes=['a']), Path(sys.argv[1]))\n"
        "print(sorted({'torch', 'cv2', 'pydicom', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program, str(raw)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# -------------------------------------------------------------------------------------------------- folds and preflight

RECIPE = """
name: tiny
dataset: {{format: siim, root: {root}, classes: [pneumothorax]}}
folds: {{count: 2, file: {folds}, always_train: second_stage}}
networks:
  r: {{encoder: resnet18, pad: {{to: 32}}, arguments: {{encoder_depth: 3, decoder_channels: [8, 8, 8]}}}}
stages:
  - name: s
    runs:
      r: {{phases: [{{name: p, loss: bce, epochs: 1}}]}}
submission: {{blend: {{s: 1}}, encode: siim, rows: {rows}}}
"""


def examined(
    raw: Path, folds: list[tuple[str, str]], submission: list[str], **submitted: object
) -> tuple[list[str], list[str]]:
    """Faults and notes of a recipe over the layout."""
    write_rows(raw.parent / "folds.csv", ("fname", "fold", "exist_labels"), *((*row, "0") for row in folds))
    write_rows(raw.parent / "rows.csv", ("ImageId", "EncodedPixels"), *((name, "-1") for name in submission))
    text = RECIPE.format(root=raw, folds=raw.parent / "folds.csv", rows=raw.parent / "rows.csv")
    data = yaml.safe_load(text)
    data["submission"] |= submitted
    found = examine(validate(data, "tiny.yaml"))
    return found.faults, found.notes


FOLDS = [("1.2.1.png", "0"), ("1.2.2.png", "1"), ("1.2.3.png", "1"), ("1.2.4.png", "stage_2"), ("1.2.5.png", "stage_2")]


def test_published_folds_and_a_sample_submission_with_repeated_ids_are_sound(raw: Path) -> None:
    faults, notes = examined(raw, FOLDS, ["ID_0", "ID_1", "ID_1"])
    assert faults == [] and "dataset: 7 sound samples, 0 faults" in notes
    faults, _ = examined(raw, FOLDS, ["ID_0", "ID_1", "ID_1"], encode="tgs")
    assert len(faults) == 1 and "ids with several rows: ID_1" in faults[0]
    faults, _ = examined(raw, FOLDS, ["ID_0", "ID_2"])
    assert len(faults) == 2 and "ids that are no test image: ID_2" in faults[0]
    faults, _ = examined(raw, [*FOLDS[:2], ("1.2.3.png", "stage_2")], ["ID_0", "ID_1"])
    assert len(faults) == 1 and "folds that are no integer 0..1: 1.2.3 (stage_2)" in faults[0]


def test_sizes_of_films_are_known_before_a_run(raw: Path) -> None:
    (raw / SECOND / "ID_0.dcm").write_bytes(dicom(film(6, 48)))
    faults, _ = examined(raw, FOLDS, ["ID_0", "ID_1"])
    assert len(faults) == 1 and "48" in faults[0] and "pad" in faults[0]


def test_films_of_the_second_stage_never_validate(raw: Path, tmp_path: Path) -> None:
    run(siim(), raw, tmp_path / "out")
    write_rows(tmp_path / "folds.csv", ("fname", "fold"), *FOLDS)
    folds = Folds(count=2, file=str(tmp_path / "folds.csv"), always_train="second_stage")
    found = split(read_table(tmp_path / "out/samples.parquet"), folds)
    assert found["fold"].to_pylist() == [0, 1, 1, -1, -1]


def test_the_table_of_faults_names_files_and_advice(raw: Path, tmp_path: Path) -> None:
    (raw / TRAIN / "s2/1.2.2.dcm").write_bytes(dicom(film(1), NumberOfFrames=3))
    out = tmp_path / "out"
    with pytest.raises(DataError, match="holds 3 images; keep one a file"):
        ingest(siim(), raw, out / "s.parquet", out / "p.bin", out / "faults.parquet")
    (row,) = csv.DictReader((out / "faults.strict.csv").open(newline=""))
    assert (row["sample_id"], row["path"], row["fault"]) == ("1.2.2", f"{TRAIN}/s2/1.2.2.dcm", "bad_type")
