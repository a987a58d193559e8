"""The made-up survey: the same bytes from the same seed, the shares asked for, tiles that continue one another."""

from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stagepipe.artefacts import read_table
from stagepipe.data import synthetic
from stagepipe.data.ingest import IngestSummary, check, ingest
from stagepipe.data.listing import raw_listing
from stagepipe.data.panel import TILES, draw_panel
from stagepipe.errors import DataError
from stagepipe.recipe.model import Dataset, Synthetic
from stagepipe.rle import decode
from stagepipe.seeding import generator

SPEC = Synthetic(train=60, test=30, size=48, empty=0.4, black=0.1, vertical=0.1, seed=3)
DATASET = Dataset(format="synthetic")


@pytest.fixture(scope="module")
def survey(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("survey") / "raw"
    synthetic.write(folder, SPEC)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_bytes_depend_on_the_seed_alone(survey: Path, tmp_path: Path) -> None:
    synthetic.write(tmp_path / "again", SPEC)
    synthetic.write(tmp_path / "other", SPEC.model_copy(update={"seed": 4}))
    assert contents(tmp_path / "again") == contents(survey)
    assert contents(tmp_path / "other").keys() != contents(survey).keys()  # other ids


def test_layout_is_that_of_the_real_data(survey: Path) -> None:
    labels = pd.read_csv(survey / "train.csv", dtype=str, keep_default_na=False).set_index("id")["rle_mask"]
    depths = pd.read_csv(survey / "depths.csv", dtype={"id": str}).set_index("id")["z"]
    images = {path.stem for path in (survey / "train/images").iterdir()}
    tests = {path.stem for path in (survey / "test/images").iterdir()}
    assert set(labels.index) == images == {path.stem for path in (survey / "train/masks").iterdir()}
    assert set(depths.index) == images | tests and depths.between(50, 959).all()
    assert set(pd.read_csv(survey / "sample_submission.csv", dtype=str)["id"]) == tests
    assert all(len(name) == 10 and int(name, 16) >= 0 for name in images | tests)
    for name in images:
        pixels = cv2.imread(str(survey / f"train/images/{name}.png"), cv2.IMREAD_UNCHANGED)
        assert pixels.shape == (48, 48, 3) and (pixels == pixels[..., :1]).all()
        mask = cv2.imread(str(survey / f"train/masks/{name}.png"), cv2.IMREAD_UNCHANGED)
        assert mask.dtype == (np.uint16 if mask.any() else np.uint8) and set(np.unique(mask)) <= {0, 65535}
        assert (decode(labels[name], 48, 48) == (mask > 0)).all()


def test_shares_are_those_asked_for(survey: Path, tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("samples.parquet", "pixels.bin", "faults.parquet")]
    assert ingest(DATASET, survey, *paths) == IngestSummary(90, 0)
    rows = read_table(paths[0]).to_pylist()
    train = [row for row in rows if row["split"] == "train"]
    assert Counter(row["split"] for row in rows) == {"train": 60, "test": 30}
    assert sum(row["empty"] for row in train) == 24
    assert [sum(row["black"] for row in part) for part in (train, rows)] == [6, 9]
    assert all(row["empty"] for row in train if row["black"])
    assert max(row["coverage"][0] for row in train) < 1
    assert np.mean([row["coverage"][0] for row in train if not row["empty"]]) == pytest.approx(0.45, abs=0.2)


def test_vertical_borders(survey: Path) -> None:
    masks = [cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in (survey / "train/masks").iterdir()]
    assert sum(bool(mask.any() and (mask == mask[0]).all()) for mask in masks) == 6


def test_neighbouring_tiles_continue() -> None:
    """A line extrapolated over a tile's right edge resembles the neighbour's first column, not another tile's."""
    size = 101
    panel, _ = draw_panel(generator("test", 1), size, "dome")
    tiles = panel.reshape(TILES, size, TILES, size).swapaxes(1, 2)
    right = 2 * tiles[:, :-1, :, -1] - tiles[:, :-1, :, -2]
    left = tiles[:, 1:, :, 0]
    similar = np.corrcoef(right.reshape(-1, size), left.reshape(-1, size))[: right[..., 0].size, right[..., 0].size :]
    assert (similar.argmax(axis=1) == np.arange(len(similar))).mean() > 0.9
    assert np.diag(similar).mean() > 0.6


@pytest.mark.parametrize("style", ["layers", "dome", "wall"])
@pytest.mark.parametrize("size", [32, 101])
def test_panels(style: str, size: int) -> None:
    for seed in range(5):
        values, salt = draw_panel(generator("test", seed), size, style)
        assert values.shape == salt.shape == (TILES * size,) * 2 and values.dtype == np.float32 and salt.dtype == bool
        assert np.isfinite(values).all() and 10 < values.std() < 90 and 90 < values.mean() < 165
        assert salt.any() == (style != "layers") and not salt.all()
        if style == "wall":
            assert (salt[-size:] == salt[-1]).all()


def test_salt_is_flatter_than_layers() -> None:
    panels = [draw_panel(generator("test", seed), 64, "dome") for seed in range(10)]
    inside = np.mean([values[salt].std() for values, salt in panels])
    outside = np.mean([values[~salt].std() for values, salt in panels])
    assert inside < 0.8 * outside


@settings(max_examples=15, deadline=None)
@given(
    train=st.integers(1, 12), test=st.integers(1, 5),
    empty=st.floats(0, 1), black=st.floats(0, 1), vertical=st.floats(0, 1),
)  # fmt: skip
def test_any_shares_come_to_the_right_number_of_tiles(
    train: int, test: int, empty: float, black: float, vertical: float
) -> None:
    spec = Synthetic(train=train, test=test, size=32, empty=empty, black=black, vertical=vertical)
    tiles = list(synthetic.tiles(spec))
    assert Counter(tile.split for tile in tiles) == {"train": train, "test": test}
    blank = sum(not tile.mask.any() for tile in tiles if tile.split == "train")
    assert blank == max(round(empty * train), round(black * train))


def test_manifest_is_what_sha256sum_reads(survey: Path, tmp_path: Path) -> None:
    import subprocess

    synthetic.write_manifest(survey, tmp_path / "raw.sha256")
    assert len((tmp_path / "raw.sha256").read_text().splitlines()) == len(contents(survey))
    subprocess.run(["sha256sum", "--check", "--quiet", tmp_path / "raw.sha256"], cwd=survey, check=True)


def test_a_folder_with_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("x")
    with pytest.raises(DataError, match="holds files already"):
        synthetic.write(tmp_path, SPEC)
    assert contents(tmp_path) == {"precious": b"x"}
    (tmp_path / "empty").mkdir()
    synthetic.write(tmp_path / "empty", Synthetic(train=2, test=1, size=32))
    assert check(DATASET, tmp_path / "empty") == []


def test_a_failure_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthetic, "encode", lambda mask: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        synthetic.write(tmp_path / "raw", SPEC)
    assert list(tmp_path.iterdir()) == []


# -------------------------------------------------------------------------------------------------------------- listing


def test_listing_changes_with_names_and_sizes_and_nothing_else(tmp_path: Path) -> None:
    synthetic.write(tmp_path / "raw", Synthetic(train=4, test=2, size=32))
    root = tmp_path / "raw"
    tables, before = raw_listing(DATASET, root)
    assert tables == [root / "train.csv", root / "depths.csv"] and len(before) == 64
    first = min((root / "train/images").iterdir())
    first.touch()
    (root / "notes.txt").write_text("not part of the layout")
    assert raw_listing(DATASET, root)[1] == before
    content = first.read_bytes()
    first.write_bytes(content + b"\0")
    grown = raw_listing(DATASET, root)[1]
    first.write_bytes(content)
    first.rename(first.with_name("renamed.png"))
    assert len({before, grown, raw_listing(DATASET, root)[1]}) == 3
    (root / "depths.csv").unlink()
    assert raw_listing(DATASET, root)[0] == [root / "train.csv"]
    with pytest.raises(DataError, match="does not exist; the synthetic format expects"):
        raw_listing(DATASET, root / "missing")


def test_listing_imports_nothing_heavy() -> None:
    import subprocess
    import sys

    heavy = "{'numpy', 'pandas', 'pyarrow', 'cv2', 'PIL'}"
    code = f"import sys, stagepipe.data.listing; print(*({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip() == ""
