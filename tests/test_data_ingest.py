"""What ingest writes, what strict and quarantine do, and the pixel store."""

import csv
import os
import pickle
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from data_layouts import SIZE, outputs, picture, run, salt, save, street, tgs, write_rows, write_tgs

from stagepipe.artefacts import read_table
from stagepipe.data.ingest import IngestSummary, ingest
from stagepipe.data.store import PixelStore
from stagepipe.errors import ArtefactError, DataError


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return write_tgs(tmp_path / "raw")


# ----------------------------------------------------------------------------------------------------------- sound data


def test_ingest_writes_what_the_files_hold(raw: Path, tmp_path: Path) -> None:
    save(raw / "test/images/u1.png", np.full((SIZE, SIZE, 3), 7, np.uint8))
    assert run(tgs(), raw, tmp_path / "out") == IngestSummary(6, 0)
    samples = read_table(tmp_path / "out/samples.parquet")
    assert samples["sample_id"].to_pylist() == ["u0", "u1", "t0", "t1", "t2", "t3"]  # by split, then id
    assert samples["black"].to_pylist() == [False, True] + [False] * 4
    assert samples["empty"].to_pylist() == [None, None, False, False, False, True]
    assert samples["depth"].to_pylist() == [104, 105, 100, 101, 102, 103]
    assert samples["mask_path"].to_pylist()[1:3] == [None, "train/masks/t0.png"]
    assert samples["coverage"].to_pylist()[2] == pytest.approx([22 * 5 / SIZE**2])
    store = PixelStore(tmp_path / "out/pixels.bin", samples)
    assert len(store) == 6
    assert (store.image(2) == picture(0)[..., :1]).all() and store.image(2).shape == (SIZE, SIZE, 1)
    assert (store.mask(3) == (salt(1) > 0)).all() and store.mask(3).dtype == np.uint8
    assert read_table(tmp_path / "out/faults.parquet").num_rows == 0
    assert outputs(tmp_path / "out") == ["faults.parquet", "pixels.bin", "samples.parquet"]


def test_a_limit_keeps_the_first_of_each_split(raw: Path, tmp_path: Path) -> None:
    save(raw / "test/images/u1.png", np.full((SIZE, SIZE, 3), 7, np.uint8))
    save(raw / "train/images/t3.png", np.zeros((SIZE, SIZE + 1, 3), np.uint8))  # of no size for its mask, but not read
    for limit, expected in ((1, ["u0", "t0"]), (3, ["u0", "u1", "t0", "t1", "t2"])):
        out = tmp_path / str(limit)
        assert run(tgs(limit=limit), raw, out) == IngestSummary(len(expected), 0)
        assert read_table(out / "samples.parquet")["sample_id"].to_pylist() == expected


def test_ingest_twice_gives_the_same_bytes_for_any_number_of_threads(raw: Path, tmp_path: Path) -> None:
    for threads in (1, 3):
        out = tmp_path / str(threads)
        ingest(tgs(), raw, out / "s.parquet", out / "p.bin", out / "f.parquet", threads=threads)
    for name in ("s.parquet", "p.bin", "f.parquet"):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "3" / name).read_bytes()


def test_masks_come_from_the_run_lengths_where_there_is_no_file(raw: Path, tmp_path: Path) -> None:
    shutil.rmtree(raw / "train/masks")
    run(tgs(), raw, tmp_path / "out")
    samples = read_table(tmp_path / "out/samples.parquet")
    assert set(samples["mask_path"].to_pylist()) == {None}
    assert (PixelStore(tmp_path / "out/pixels.bin", samples).mask(4) == (salt(2) > 0)).all()


@pytest.mark.parametrize(("suffix", "exact"), [(".png", True), (".tif", True), (".JPG", False)])
def test_folder_with_several_classes_and_metadata(tmp_path: Path, suffix: str, exact: bool) -> None:
    root = tmp_path / "raw"
    colours = np.random.default_rng(0).integers(0, 256, (10, 16, 3), dtype=np.uint8)
    mask = np.zeros((10, 16), np.uint8)
    mask[:5, :8], mask[5:] = 2, 255
    save(root / f"train/images/a{suffix}", colours[..., ::-1], suffix.lower())
    save(root / "train/masks/a.png", mask)
    save(root / "train/images/b.png", picture(1, 1, 12))
    save(root / "train/masks/b.png", np.zeros((12, 12, 3), np.uint8))
    save(root / "test/images/c.png", colours)
    header = ("id", "split", "route", "hour", "speed", "night", "note")
    rows = [
        ("a", "train", "x1", "7", "1.5", "True", ""),
        ("b", "train", "x2", "", "2", "false", ""),
        ("c",) + ("",) * 6,
    ]
    write_rows(root / "metadata.csv", header, *rows[:2], ("c", "test", "nan", "8", "", "", ""))
    run(street(ignore_index=255), root, tmp_path / "out")
    samples = read_table(tmp_path / "out/samples.parquet")
    rows = {row["sample_id"]: row for row in samples.to_pylist()}
    assert [rows["a"][name] for name in header[2:]] == ["x1", 7, 1.5, True, None]
    assert [rows["b"][name] for name in header[2:]] == ["x2", None, 2.0, False, None]
    assert rows["c"]["route"] == "nan"  # a name, as other routes are no numbers
    assert rows["a"]["coverage"] == pytest.approx([40 / 160, 0, 40 / 160])
    assert (rows["a"]["empty"], rows["b"]["empty"], rows["c"]["empty"]) == (False, True, None)
    store = PixelStore(tmp_path / "out/pixels.bin", samples)
    assert store.image(1).shape == (10, 16, 3) and (store.mask(1) == mask).all()
    assert (store.image(1) == colours).all() == exact  # red, green, blue
    assert (store.image(2)[..., 0] == picture(1, 1, 12)).all()  # a gray file read as colour


# ------------------------------------------------------------------------------------------------- policy and atomicity


def test_strict_writes_nothing_but_the_list(raw: Path, tmp_path: Path) -> None:
    for number in range(60):
        (raw / f"test/images/v{number:02}.png").write_bytes(b"no image")
    out = tmp_path / "out"
    (raw / "depths.csv").unlink()
    with pytest.raises(DataError) as caught:
        run(tgs(), raw, out)
    message = str(caught.value)
    assert message.count("undecodable") == 50 and "... and 10 more" in message and "faults: quarantine" in message
    assert outputs(out) == ["faults.strict.csv"] and str(out / "faults.strict.csv") in message
    rows = list(csv.DictReader((out / "faults.strict.csv").open(newline="")))
    assert len(rows) == 60 and rows[0]["path"] == "test/images/v00.png"
    assert run(tgs("quarantine"), raw, out) == IngestSummary(6, 60)
    assert outputs(out) == ["faults.parquet", "pixels.bin", "samples.parquet"]  # the stale list is gone


def test_quarantine_leaves_faulty_samples_out(raw: Path, tmp_path: Path) -> None:
    (raw / "train/images/t1.png").write_bytes(b"")
    save(raw / "train/masks/t2.png", picture(0, 1))
    assert run(tgs("quarantine"), raw, tmp_path / "out") == IngestSummary(4, 2)
    samples = read_table(tmp_path / "out/samples.parquet")
    assert samples["sample_id"].to_pylist() == ["u0", "u1", "t0", "t3"]
    faults = read_table(tmp_path / "out/faults.parquet").to_pylist()
    assert [(fault["sample_id"], fault["fault"]) for fault in faults] == [("t1", "truncated"), ("t2", "not_binary")]
    for name in ("t0", "t3"):
        (raw / f"train/images/{name}.png").write_bytes(b"")
    with pytest.raises(DataError, match="no labelled image without a fault"):
        run(tgs("quarantine"), raw, tmp_path / "none")
    assert outputs(tmp_path / "none") == ["faults.strict.csv"]


def test_memory_does_not_grow_with_the_number_of_images(tmp_path: Path) -> None:
    import tracemalloc

    root = tmp_path / "raw"
    for folder in ("train/images", "train/masks", "test/images"):
        (root / folder).mkdir(parents=True)
    content = cv2.imencode(".png", np.zeros((500, 500), np.uint8))[1].tobytes()
    for number in range(100):  # 25 MB of pixels
        (root / f"test/images/{number}.png").write_bytes(content)
    save(root / "train/images/a.png", np.zeros((4, 4), np.uint8))
    save(root / "train/masks/a.png", np.zeros((4, 4), np.uint8))
    paths = [tmp_path / name for name in ("s.parquet", "p.bin", "f.parquet")]
    tracemalloc.start()
    ingest(street(channels="gray"), root, *paths, threads=2)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert paths[1].stat().st_size > 25e6 > 3 * peak


def test_a_failure_in_the_middle_leaves_no_file(raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from stagepipe.data import ingest as module

    def full_disk(*arguments: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(module, "_row", full_disk)
    with pytest.raises(OSError, match="no space"):
        run(tgs(), raw, tmp_path / "out")
    assert outputs(tmp_path / "out") == []


def test_ids_never_reach_outside_the_target(raw: Path, tmp_path: Path) -> None:
    write_rows(raw / "train.csv", ("id", "rle_mask"), ("../escaped", "1 1"))
    before = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    run(tgs("quarantine"), raw, tmp_path / "out")
    after = sorted(path for path in tmp_path.rglob("*") if path.is_file() and path.parent != tmp_path / "out")
    assert after == before


# ---------------------------------------------------------------------------------------------------------- pixel store


@pytest.fixture
def ingested(raw: Path, tmp_path: Path) -> Path:
    run(tgs(), raw, tmp_path / "out")
    return tmp_path / "out"


def test_store_survives_pickling_and_forking(ingested: Path) -> None:
    store = PixelStore(ingested / "pixels.bin", read_table(ingested / "samples.parquet"))
    store.image(0)
    again = pickle.loads(pickle.dumps(store))
    assert (again.image(3) == store.image(3)).all() and (again.mask(3) == store.mask(3)).all()
    child = os.fork()
    if child == 0:
        os._exit(int((store.image(3) != again.image(3)).any()))
    assert os.waitpid(child, 0)[1] == 0
    with pytest.raises(ValueError, match="read-only"):
        store.image(0)[:] = 0
    with pytest.raises(ArtefactError, match="u0 has no mask"):
        store.mask(0)


@pytest.mark.parametrize(("byte", "sample", "kind"), [(0, "u0", "image"), (SIZE**2 * 3 + 1, "t0", "mask")])
def test_a_flipped_byte_names_the_file_and_the_sample(ingested: Path, byte: int, sample: str, kind: str) -> None:
    content = bytearray((ingested / "pixels.bin").read_bytes())
    content[byte] ^= 1
    (ingested / "pixels.bin").write_bytes(bytes(content))
    samples = read_table(ingested / "samples.parquet")
    store = PixelStore(ingested / "pixels.bin", samples)
    row = samples["sample_id"].to_pylist().index(sample)
    with pytest.raises(ArtefactError, match=rf"pixels\.bin: the {kind} of sample {sample} is damaged"):
        getattr(store, kind)(row)
    store.image(1)  # the others are still good


def test_a_store_of_another_size_is_refused(ingested: Path) -> None:
    samples = read_table(ingested / "samples.parquet")
    with (ingested / "pixels.bin").open("ab") as file:
        file.write(b"x")
    with pytest.raises(ArtefactError, match="bytes long"):
        PixelStore(ingested / "pixels.bin", samples)
    (ingested / "pixels.bin").unlink()
    with pytest.raises(ArtefactError, match="is missing"):
        PixelStore(ingested / "pixels.bin", samples)
