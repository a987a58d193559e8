"""Every fault, on tiny layouts made for it."""

import csv
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from data_layouts import SIZE, codes, picture, run, salt, save, street, tgs, write_rows, write_tgs

from stagepipe.artefacts import read_table
from stagepipe.data import decode
from stagepipe.data.ingest import check
from stagepipe.errors import DataError
from stagepipe.recipe.model import Dataset


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return write_tgs(tmp_path / "raw")


# --------------------------------------------------------------------------------------------------- faults of one file


def test_palette_masks_keep_their_indices(tmp_path: Path) -> None:
    from PIL import Image

    indices = np.arange(64, dtype=np.uint8).reshape(8, 8) % 3
    palette = Image.fromarray(indices, mode="P")
    palette.putpalette([200, 0, 0, 0, 200, 0, 0, 0, 200])
    palette.save(tmp_path / "mask.png")
    assert (decode.read_mask(tmp_path / "mask.png", classes=3) == indices).all()


def flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 8]) + content[middle + 1 :]


@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        (lambda content: content[: len(content) // 2], "truncated"),
        (lambda content: b"", "truncated"),
        (flipped, "undecodable"),
        (lambda content: b"hello" * 20, "undecodable"),
        (lambda content: content[:8] + content[30:], "undecodable"),
    ],
)
@pytest.mark.parametrize("path", ["train/images/t1.png", "train/masks/t1.png", "test/images/u0.png"])
def test_damaged_png(raw: Path, path: str, damage, fault: str) -> None:
    (raw / path).write_bytes(damage((raw / path).read_bytes()))
    assert codes(tgs(), raw) == [(Path(path).stem, path, fault)]


def test_every_flipped_byte_of_a_png_is_found_or_harmless(tmp_path: Path) -> None:
    content = save(tmp_path / "a.png", picture(0, 1, 8))
    for position in range(len(content)):
        changed = bytearray(content)
        changed[position] ^= 1
        (tmp_path / "a.png").write_bytes(bytes(changed))
        try:
            assert (decode.read_image(tmp_path / "a.png", "gray")[..., 0] == picture(0, 1, 8)).all()
        except decode.FileFault as fault:
            assert fault.fault in ("undecodable", "truncated", "too_large", "bad_type")


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, before it gives up
@pytest.mark.parametrize("share", [0.2, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("suffix", [".jpg", ".tif"])
def test_cut_files_are_never_read_in_part(tmp_path: Path, suffix: str, share: float) -> None:
    path = tmp_path / f"a{suffix}"
    content = save(path, picture(0, size=64))
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(decode.FileFault, match=r"truncated|undecodable"):
        decode.read_image(path, "rgb")


def test_a_jpeg_may_be_padded_with_zeros(tmp_path: Path) -> None:
    content = save(tmp_path / "a.jpg", picture(0, size=64))
    before = decode.read_image(tmp_path / "a.jpg", "rgb")
    (tmp_path / "a.jpg").write_bytes(content + b"\0\0")
    assert (decode.read_image(tmp_path / "a.jpg", "rgb") == before).all()


@pytest.mark.parametrize(
    ("pixels", "channels", "fault"),
    [
        (np.dstack([picture(0, 1), picture(1, 1), picture(0, 1)]), "gray", "not_gray"),
        (picture(0, 1).astype(np.uint16), "gray", "bad_type"),
        (picture(0, 4), "rgb", "bad_type"),  # transparent
    ],
)
def test_images_of_another_kind(tmp_path: Path, pixels: np.ndarray, channels: str, fault: str) -> None:
    save(tmp_path / "a.png", pixels)
    with pytest.raises(decode.FileFault, match=fault):
        decode.read_image(tmp_path / "a.png", channels)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_header_that_claims_a_huge_image_is_refused_before_decoding(tmp_path: Path) -> None:
    import struct
    import zlib

    content = save(tmp_path / "a.png", picture(0))
    for edge in (10_001, 60_000):
        header = b"IHDR" + struct.pack(">II", edge, edge) + content[24:29]
        forged = content[:12] + header + struct.pack(">I", zlib.crc32(header)) + content[33:]
        (tmp_path / "a.png").write_bytes(forged)
        with pytest.raises(decode.FileFault, match="too_large"):
            decode.read_image(tmp_path / "a.png", "gray")


def test_faults_of_masks(raw: Path) -> None:
    save(raw / "train/masks/t0.png", picture(0, 1))
    save(raw / "train/masks/t1.png", salt(1)[:-1])
    save(raw / "train/masks/t2.png", salt(1))
    assert codes(tgs(), raw) == [
        ("t0", "train/masks/t0.png", "not_binary"),
        ("t1", "train/masks/t1.png", "size_mismatch"),
        ("t2", "train/masks/t2.png", "rle_mismatch"),
    ]


def test_unknown_classes_but_not_the_ignored_one(tmp_path: Path) -> None:
    mask = np.uint8([[0, 1, 2], [7, 3, 9]])
    save(tmp_path / "a.png", mask)
    with pytest.raises(decode.FileFault, match=r"unknown_class: has the values 3, 9; classes are 0 to 2 or 7"):
        decode.read_mask(tmp_path / "a.png", 3, ignore_index=7)
    assert (decode.read_mask(tmp_path / "a.png", 10) == mask).all()


# ------------------------------------------------------------------------------------------- faults of names and tables


def test_all_faults_of_a_layout_are_listed_at_once(raw: Path) -> None:
    images, masks = raw / "train/images", raw / "train/masks"
    save(images / "alone.png", picture(3))
    save(masks / "orphan.png", salt(0))
    save(raw / "test/images/t0.png", picture(3))
    shutil.copy(images / "t1.png", images / "t1.PNG")
    save(images / "a..b.png", picture(3))
    (images / "notes.txt").write_text("hello")
    (images / ".DS_Store").write_text("passed over")
    (images / "folder.png").mkdir()
    rows = list(csv.reader((raw / "train.csv").open(newline="")))
    rows[3][1] = "5 3 1"
    write_rows(raw / "train.csv", *rows, ("t3", ""), ("ghost", "1 2"), ("../../evil", "1 2"))
    depths = list(csv.reader((raw / "depths.csv").open(newline="")))
    depths[-1][1] = "NaN"
    write_rows(raw / "depths.csv", *(row for row in depths if row[0] != "u0"), ("ghost", "deep"))
    found = sorted((sample_id, fault) for sample_id, _, fault in codes(tgs(), raw))
    assert found == sorted(
        [
            ("alone", "missing_mask"),
            ("alone", "missing_metadata"),
            ("orphan", "missing_image"),
            ("t0", "duplicate_id"),
            ("t1", "duplicate_id"),
            ("a..b", "bad_id"),
            ("notes", "unknown_type"),
            ("folder", "unreadable"),
            ("t2", "bad_rle"),
            ("t3", "duplicate_id"),
            ("ghost", "missing_image"),  # of train.csv
            ("ghost", "bad_value"),
            ("../../evil", "bad_id"),
            ("u0", "missing_metadata"),
            ("u1", "bad_value"),
        ]
    )


@pytest.mark.parametrize("name", ["", "a/b", "a\\b", "..", ".hidden", "x" * 129, "a\0b", "a\nb", " a"])
def test_ids_that_are_no_plain_file_name(name: str) -> None:
    from stagepipe.data.raw import bad_id

    assert bad_id(name)
    assert bad_id("0001TP_006690 b-c.d") is None


def test_links_may_not_leave_the_root(raw: Path, tmp_path: Path) -> None:
    save(tmp_path / "secret.png", picture(0))
    (raw / "test/images/u2.png").symlink_to(tmp_path / "secret.png")
    (raw / "test/images/u3.png").symlink_to("nowhere.png")
    (raw / "test/images/u4.png").symlink_to("u4.png")
    (raw / "depths.csv").rename(tmp_path / "depths.csv")
    (raw / "depths.csv").symlink_to(tmp_path / "depths.csv")
    (raw / "train/masks/t1.png").rename(raw / "inside.png")
    (raw / "train/masks/t1.png").symlink_to(raw / "inside.png")
    assert [(path, fault) for _, path, fault in codes(tgs(), raw)] == [
        ("depths.csv", "outside_root"),
        ("test/images/u2.png", "outside_root"),
        ("test/images/u3.png", "unreadable"),
        ("test/images/u4.png", "unreadable"),
    ]


def test_a_linked_folder_outside_the_root_is_not_read(raw: Path, tmp_path: Path) -> None:
    (raw / "test/images").rename(tmp_path / "elsewhere")
    (raw / "test/images").symlink_to(tmp_path / "elsewhere")
    (raw / "depths.csv").unlink()
    assert codes(tgs(), raw) == [("", "test/images", "outside_root")]


def test_names_that_are_no_utf8_end_up_in_the_table(raw: Path, tmp_path: Path) -> None:
    try:
        shutil.copy(raw / "test/images/u0.png", os.fsencode(raw) + b"/test/images/\xff.png")
    except OSError:
        pytest.skip("the file system takes no such name")
    run(tgs("quarantine"), raw, tmp_path / "out")
    (fault,) = read_table(tmp_path / "out/faults.parquet").to_pylist()
    assert fault["fault"] == "bad_id" and fault["path"] == "test/images/\\udcff.png"


def test_metadata_faults_of_the_folder_format(tmp_path: Path) -> None:
    root = tmp_path / "raw"
    for name in ("a", "b"):
        save(root / f"train/images/{name}.png", picture(0))
        save(root / f"train/masks/{name}.png", np.zeros((SIZE, SIZE), np.uint8))
    save(root / "test/images/c.png", picture(0))
    write_rows(
        root / "metadata.csv", ("id", "split", "hour"), ("a", "test", "3"), ("b", "train", "inf"), ("d", "", "1")
    )
    assert [(sample_id, fault) for sample_id, _, fault in codes(street(), root)] == [
        ("a", "bad_value"),
        ("b", "bad_value"),
        ("c", "missing_metadata"),
        ("d", "missing_image"),
    ]
    write_rows(root / "metadata.csv", ("id", "height"), ("a", "3"), ("b", "1"), ("c", "1"))
    with pytest.raises(DataError, match="'height' has the name of a column of our own"):
        check(street(), root)
    write_rows(root / "metadata.csv", ("name",), ("a",))
    with pytest.raises(DataError, match=r"metadata\.csv.*id"):
        check(street(), root)
    write_rows(root / "metadata.csv", ("id", "z", "z"), ("a", "3", "4"))
    with pytest.raises(DataError, match="twice in the header"):
        check(street(), root)


def test_numbers_of_any_length_are_kept_as_they_are(raw: Path, tmp_path: Path) -> None:
    depths = list(csv.reader((raw / "depths.csv").open(newline="")))
    depths[1][1], depths[2][1] = "100000000000000001", "2.5"  # no float holds the first one
    write_rows(raw / "depths.csv", *depths)
    run(tgs(), raw, tmp_path / "out")
    found = {row["sample_id"]: row["depth"] for row in read_table(tmp_path / "out/samples.parquet").to_pylist()}
    assert (found["t0"], found["t1"], found["t2"]) == (1e17, 2.5, 102.0)
    root, patients = tmp_path / "street", ("12345678901234567890", "12345678901234567891", "7")
    for name in ("a", "b"):
        save(root / f"train/images/{name}.png", picture(0))
        save(root / f"train/masks/{name}.png", np.zeros((SIZE, SIZE), np.uint8))
    save(root / "test/images/c.png", picture(0))
    write_rows(root / "metadata.csv", ("id", "patient"), *zip("abc", patients, strict=True))
    run(street(), root, tmp_path / "street_out")
    table = read_table(tmp_path / "street_out/samples.parquet").sort_by("sample_id")
    assert table["patient"].to_pylist() == list(patients)


def test_missing_folders_say_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"dataset.root: .*nowhere does not exist; the tgs format expects .*train\.csv"):
        check(tgs(), tmp_path / "nowhere")
    (tmp_path / "train/images").mkdir(parents=True)
    with pytest.raises(DataError, match="has no folder train/masks"):
        check(street(), tmp_path)
    with pytest.raises(DataError, match="marks one class, not 2"):
        (tmp_path / "test/images").mkdir(parents=True)
        check(Dataset(format="tgs", root="x", classes=["a", "b"]), tmp_path)
