"""The raw layout of the SIIM-ACR challenge: pairing, masks, sizes of run lengths and listing."""

import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest
from data_layouts import codes, run, write_rows
from dicom_files import dicom
from siim_layout import FIRST, HEADER, LABELS, SECOND, SIZE, TRAIN, box, film, masks, rows, siim, table, write_siim

from stagepipe import rle
from stagepipe.artefacts import read_table
from stagepipe.data.ingest import IngestSummary, ingest
from stagepipe.data.labels import resized
from stagepipe.data.listing import raw_listing
from stagepipe.data.store import PixelStore
from stagepipe.errors import DataError


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return write_siim(tmp_path / "raw")


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
