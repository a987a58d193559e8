"""Published mosaics are read as they are meant, and errors say what to write instead."""

import json
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pytest

from stagepipe.artefacts import read_table, write_table
from stagepipe.data.panel import draw_panel
from stagepipe.data.store import writing
from stagepipe.errors import DataError
from stagepipe.postprocess.jigsaw import layouts
from stagepipe.postprocess.jigsaw.matching import borders
from stagepipe.postprocess.jigsaw.mosaics import as_table, find, in_true_order, read, restrict, write_mosaics
from stagepipe.recipe.model import Jigsaw
from stagepipe.seeding import generator
from stagepipe.tables import MOSAICS, SAMPLES

SIZE = 24


def rows_of(mosaics: pa.Table) -> list[tuple]:
    return [tuple(row.values()) for row in mosaics.to_pylist()]


def folder_of(folder: Path, **files: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / f"{name}.csv").write_text(content)
    return folder


def test_csv_and_json_give_the_same_table(tmp_path: Path) -> None:
    small, large = '"0012"\n\n"12"\nNA\n', '"a",NA,""\nNA,NA,NA\nb, c ,NA\n'
    (tmp_path / "mosaics.json").write_text(
        json.dumps({"m1": [["0012"], [None], ["12"], [None]], "m2": [["a", None, None], [None] * 3, ["b", "c", None]]})
    )
    found = read(folder_of(tmp_path / "csv", mosaic_2_1=small, mosaic_3_2=large))
    assert found.schema.equals(MOSAICS) and found.equals(read(tmp_path / "mosaics.json"))
    assert rows_of(found) == [(0, 0, 0, "a"), (0, 2, 0, "b"), (0, 2, 1, "c"), (1, 0, 0, "0012"), (1, 2, 0, "12")]


def test_only_csv_files_of_the_folder_itself_are_read(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "csv", one="a,b\n")
    (folder / "README.txt").write_text("c,d\n")
    folder_of(folder / "below", two="e,f\n")
    assert read(folder)["sample_id"].to_pylist() == ["a", "b"]
    (folder / "link.csv").symlink_to(folder / "below" / "two.csv")
    with pytest.raises(DataError, match=r"link\.csv: is a link or no file"):
        read(folder)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"one": "a,b\n\nc,a\n"}, "one.csv: row 2: 1 cells, row 1 has 2; write NA"),
        ({"one": "a,b\nc,a\n"}, "a lies in one.csv row 1, one.csv row 2; keep one"),
        ({"one": "a\nb\n", "two": "c\nb\n"}, "b lies in one.csv row 2, two.csv row 2; keep one"),
        ({"one": ""}, "one.csv: holds no row"),
        ({"one": '"a,b\n'}, "isn't a CSV file in UTF-8"),
        ({}, "holds no mosaic; write a folder of CSV files"),
    ],
)
def test_faults_of_csv_files(tmp_path: Path, files: dict[str, str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(folder_of(tmp_path / "csv", **files))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1", "isn't JSON in UTF-8"),
        ("[" * 100_000, "isn't JSON in UTF-8"),
        ("[]", "holds list; write {name: rows of ids or null}"),
        ('{"m": ["a"]}', "m: isn't a list of rows"),
        ('{"m": [["a", 12]]}', "m: holds 12; write ids as text"),
        ('{"m": [["a"], []]}', "m: row 2: 0 cells, row 1 has 1"),
        ('{"m": []}', "m: holds no row"),
        ("{}", "holds no mosaic"),
    ],
)
def test_faults_of_json_files(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "mosaics.json").write_text(content)
    with pytest.raises(DataError, match=message):
        read(tmp_path / "mosaics.json")


@pytest.mark.parametrize("name", ["missing", "mosaics.txt"])
def test_other_paths_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "mosaics.txt").write_text("a,b\n")
    with pytest.raises(DataError, match="is no folder and no JSON file; write a folder of CSV files"):
        read(tmp_path / name)


def test_tiles_that_are_no_samples_become_holes() -> None:
    mosaics = as_table(
        [{(0, 0): "x", (3, 1): "a", (4, 1): "b"}, {(0, 0): "c", (0, 1): "y"}, {(0, 0): "d", (1, 0): "e"}]
    )
    assert rows_of(restrict(mosaics, "abcde")) == [(0, 3, 1, "a"), (0, 4, 1, "b"), (1, 0, 0, "d"), (1, 1, 0, "e")]
    assert restrict(mosaics, []).equals(MOSAICS.empty_table())


# ------------------------------------------------------------------------------------------------------------ jobs


def strip() -> tuple[np.ndarray, list[str]]:
    """36 tiles of three rows of twelve, and their ids by position."""
    panel, _ = draw_panel(generator("test", "strip"), 3 * SIZE, "layers")
    panel = panel[: 3 * SIZE, : 12 * SIZE]
    tiles = np.clip(panel, 0, 255).astype(np.uint8).reshape(3, SIZE, 12, SIZE).swapaxes(1, 2).reshape(-1, SIZE, SIZE)
    return tiles, [f"{r}-{c:02}" for r, c in np.ndindex(3, 12)]


def stored(folder: Path, tiles: list[np.ndarray], names: list[str]) -> tuple[Path, Path]:
    """Samples table and pixel store of test images [H, W] or [H, W, channels]."""
    rows = []
    with writing(folder / "pixels.bin") as append:
        for name, tile in zip(names, tiles, strict=True):
            image = tile if tile.ndim == 3 else tile[..., None]
            offset, checksum = append(image)
            height, width, channels = image.shape
            row = {"sample_id": name, "split": "test", "height": height, "width": width, "channels": channels}
            rows.append(row | {"image_offset": offset, "image_crc32": checksum, "black": bool(np.ptp(tile) == 0)})
    write_table(folder / "samples.parquet", pa.Table.from_pylist(rows, schema=SAMPLES))
    return folder / "samples.parquet", folder / "pixels.bin"


def test_mosaics_of_the_store_are_those_of_the_tiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiles, names = strip()
    monkeypatch.setattr("stagepipe.postprocess.jigsaw.mosaics.CHUNK", 7 * SIZE**2)
    paths = stored(tmp_path, list(np.repeat(tiles[..., None], 3, axis=3)), names)
    write_mosaics(*paths, Jigsaw(), tmp_path / "mosaics.parquet")
    found = read_table(tmp_path / "mosaics.parquet")
    assert found.equals(find(tiles, names)) and found.schema.equals(MOSAICS)
    assert rows_of(found) == [(0, r, c, f"{r}-{c:02}") for r, c in np.ndindex(3, 12)]


@pytest.mark.parametrize("text_order", [False, True])
def test_columns_in_the_order_of_their_text_are_put_right(tmp_path: Path, text_order: bool) -> None:
    """As R factors left them, 0, 1, 10, 11, 2, ...; corrected files stay as they are."""
    tiles, names = strip()
    paths = stored(tmp_path, list(tiles), names)
    order = sorted(range(12), key=str) if text_order else list(range(12))
    lines = [",".join(f'"{r}-{c:02}"' if (r, c) != (2, 5) else "NA" for c in order) for r in range(3)]
    folder = folder_of(tmp_path / "csv", wide="\n".join(lines) + "\n", other="x,y\n")
    write_mosaics(*paths, Jigsaw(file=str(folder)), tmp_path / "mosaics.parquet")
    expected = [(0, r, c, f"{r}-{c:02}") for r, c in np.ndindex(3, 12) if (r, c) != (2, 5)]
    assert rows_of(read_table(tmp_path / "mosaics.parquet")) == expected


def test_reordering_counts_empty_columns() -> None:
    layout = layouts.Layout({(0, 2): "a", (0, 11): "b"}, 12)
    assert layout.reordered().grid == {(0, 10): "a", (0, 9): "b"}


def test_images_of_several_sizes_and_foreign_files_are_refused(tmp_path: Path) -> None:
    paths = stored(tmp_path, [np.zeros((4, 4), np.uint8), np.zeros((4, 5), np.uint8)], ["a", "b"])
    with pytest.raises(DataError, match=r"the images have 4 x 4, 4 x 5 pixels; .* Remove the step"):
        write_mosaics(*paths, Jigsaw(), tmp_path / "mosaics.parquet")
    folder = folder_of(tmp_path / "csv", one="a,x\n")
    paths = stored(tmp_path, [np.zeros((4, 4), np.uint8)] * 2, ["a", "b"])
    with pytest.raises(
        DataError, match="no mosaic holds two samples of the data set, such as a, b; write another file"
    ):
        write_mosaics(*paths, Jigsaw(file=str(folder)), tmp_path / "mosaics.parquet")


def test_published_mosaics_of_the_real_tiles(real_data: Path) -> None:
    """They are in order; put in the order in which they were published, the tiles' borders tell all but one."""
    path = real_data / "tgs_mosaics.json"
    if not path.is_file():
        pytest.skip(f"no published mosaics in {real_data}")
    mosaics = read(path)
    assert len(set(mosaics["mosaic"].to_pylist())) == 143
    assert restrict(mosaics, mosaics["sample_id"].to_pylist()).equals(mosaics)
    wide = [layout for layout in layouts.read(path) if layout.columns > 10]
    names = sorted(tile for layout in wide for tile in layout.grid.values())
    files = {file.stem: file for file in (real_data / "tgs").glob("*/images/*.png")}
    sides = borders(np.stack([cv2.imread(str(files[name]), cv2.IMREAD_GRAYSCALE) for name in names]))
    index = {name: place for place, name in enumerate(names)}
    assert [in_true_order(layout, sides, index) for layout in wide] == wide
    restored = [in_true_order(as_published(layout), sides, index) == layout for layout in wide]
    assert (len(restored), sum(restored)) == (26, 25)


def as_published(layout: layouts.Layout) -> layouts.Layout:
    place = {column: position for position, column in enumerate(sorted(range(layout.columns), key=str))}
    return layouts.Layout({(row, place[column]): tile for (row, column), tile in layout.grid.items()}, layout.columns)
