"""The real TGS tiles and CamVid streets go through ingest without a fault, and come out as published."""

from pathlib import Path

import cv2
import numpy as np
import pyarrow.compute as pc
import pytest

from stagepipe.artefacts import read_table
from stagepipe.data.ingest import ingest
from stagepipe.data.listing import raw_listing
from stagepipe.data.store import PixelStore
from stagepipe.recipe.model import Dataset

STREET = ["sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist"]


def run(dataset: Dataset, root: Path, out: Path) -> PixelStore:
    if not root.is_dir():
        pytest.skip(f"no real data at {root}")
    summary = ingest(dataset, root, out / "samples.parquet", out / "pixels.bin", out / "faults.parquet")
    assert summary.faults == 0
    return PixelStore(out / "pixels.bin", read_table(out / "samples.parquet"))


def test_tgs(real_data: Path, tmp_path: Path) -> None:
    """Run lengths and masks of all labelled tiles agree, or ingest had stopped."""
    root = real_data / "tgs"
    store = run(Dataset(format="tgs", root=str(root)), root, tmp_path)
    samples = read_table(tmp_path / "samples.parquet")
    train = samples.filter(pc.equal(samples["split"], "train"))
    black = train.filter(train["black"])
    assert (samples.num_rows, train.num_rows) == (6200, 3200)
    assert pc.all(black["empty"]).as_py() and black.num_rows == 64
    assert pc.mean(train["empty"]).as_py() == pytest.approx(0.39, abs=0.01)
    assert max(share for (share,) in train["coverage"].to_pylist()) < 1
    assert 50 <= pc.min(samples["depth"]).as_py() < pc.max(samples["depth"]).as_py() <= 959
    for row in range(3000, 6200, 400):
        path = str(root / samples["image_path"][row].as_py())
        assert (store.image(row) == cv2.imread(path, cv2.IMREAD_GRAYSCALE)[..., None]).all()
    tables, fingerprint = raw_listing(Dataset(format="tgs", root=str(root)), root)
    assert [path.name for path in tables] == ["train.csv", "depths.csv"] and len(fingerprint) == 64


def test_camvid(real_data: Path, tmp_path: Path) -> None:
    root = real_data / "camvid"
    dataset = Dataset(format="folder", root=str(root), classes=STREET, ignore_index=11, channels="rgb")
    store = run(dataset, root, tmp_path)
    samples = read_table(tmp_path / "samples.parquet")
    assert samples.column_names[-2:] == ["sequence", "timeofday"]
    assert samples["split"].to_pylist().count("train") == 92 and samples.num_rows == 113
    last = samples.slice(112, 1).to_pylist()[0]
    mask = store.mask(112)
    assert store.image(112).shape == (360, 480, 3) and set(np.unique(mask)) <= set(range(12))
    assert last["coverage"] == pytest.approx([(mask == index).mean() for index in range(11)])
    colours = cv2.cvtColor(cv2.imread(str(root / last["image_path"])), cv2.COLOR_BGR2RGB)
    assert (store.image(112) == colours).all()
