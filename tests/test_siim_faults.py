"""The raw layout of the SIIM-ACR challenge: faults, privacy, and what is checked before a run."""

import csv
import json
import logging
import shutil
import warnings
from pathlib import Path

import cv2
import pytest
import yaml
from data_layouts import codes, outputs, run, write_rows
from dicom_files import BIRTH, NAME, PATIENT, dicom
from pydicom import uid
from siim_layout import FIRST, HEADER, SECOND, TRAIN, box, film, rows, save, siim, write_siim

from stagepipe.artefacts import read_table
from stagepipe.data.ingest import IngestSummary, check, ingest
from stagepipe.data.listing import raw_listing
from stagepipe.errors import DataError
from stagepipe.folds import split
from stagepipe.preflight import examine
from stagepipe.recipe.load import validate
from stagepipe.recipe.model import Folds


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return write_siim(tmp_path / "raw")


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


def test_the_table_of_faults_names_files_and_advice(raw: Path, tmp_path: Path) -> None:
    (raw / TRAIN / "s2/1.2.2.dcm").write_bytes(dicom(film(1), NumberOfFrames=3))
    out = tmp_path / "out"
    with pytest.raises(DataError, match="holds 3 images; keep one a file"):
        ingest(siim(), raw, out / "s.parquet", out / "p.bin", out / "faults.parquet")
    (row,) = csv.DictReader((out / "faults.strict.csv").open(newline=""))
    assert (row["sample_id"], row["path"], row["fault"]) == ("1.2.2", f"{TRAIN}/s2/1.2.2.dcm", "bad_type")


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
