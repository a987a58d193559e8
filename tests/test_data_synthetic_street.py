import json

import cv2
import numpy as np
import pytest

from stagepipe.artefacts import read_table
from stagepipe.data import ingest, synthetic_street
from stagepipe.data.store import PixelStore
from stagepipe.data.synthetic import write_manifest
from stagepipe.errors import DataError
from stagepipe.recipe.model import Dataset, SyntheticStreet

SPEC = SyntheticStreet(train=9, test=3, size=(48, 80))
PALETTE = {name: [(number, 10, 255 - number)] for number, name in enumerate(synthetic_street.THINGS)}
FEW = {"background": [(1, 1, 1), (2, 2, 2)], "car": [(0, 0, 255)], "lane": [(7, 7, 7)]}


def dataset(root, palette):
    colours = {name: [list(colour) for colour in several] for name, several in palette.items()}
    return Dataset(format="street", root=str(root), channels="rgb", classes=list(palette), palette=colours)


def test_the_same_specification_gives_the_same_bytes(tmp_path):
    manifests = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        synthetic_street.write(tmp_path / name, SPEC.model_copy(update={"seed": seed}), PALETTE)
        write_manifest(tmp_path / name, tmp_path / f"{name}.sha256")
        manifests.append((tmp_path / f"{name}.sha256").read_text())
    assert manifests[0] == manifests[1] != manifests[2]


@pytest.mark.parametrize("palette", [PALETTE, FEW])
def test_what_is_ingested_is_what_was_drawn(tmp_path, palette):
    synthetic_street.write(tmp_path / "raw", SPEC, palette)
    made = dataset(tmp_path / "raw", palette)
    paths = [tmp_path / name for name in ("samples.parquet", "pixels.bin", "faults.parquet")]
    assert ingest.ingest(made, tmp_path / "raw", *paths).faults == 0
    table = read_table(paths[0])
    store = PixelStore(paths[1], table)
    names = list(palette)
    value = {thing: names.index(thing) if thing in names else 0 for thing in synthetic_street.THINGS}
    lookup = np.array(list(value.values()))
    rows = {sample_id: row for row, sample_id in enumerate(table["sample_id"].to_pylist())}
    for number, frame in enumerate(synthetic_street.frames(SPEC, "train", SPEC.train)):
        row = rows[f"train_{number:04d}"]
        assert (store.mask(row) == lookup[frame.things]).all()
        # JPEG keeps a frame about as it was drawn
        assert np.abs(store.image(row).astype(int) - frame.image.astype(int)).mean() < 10


def test_classes_that_are_scored_are_nearly_everywhere():
    numbers = {thing: number for number, thing in enumerate(synthetic_street.THINGS)}
    drawn = list(synthetic_street.frames(SyntheticStreet(train=40, size=(48, 80)), "train", 40))
    for thing in ("car", "pedestrian", "lane", "signal"):
        assert sum((frame.things == numbers[thing]).any() for frame in drawn) >= 34
    assert {number for frame in drawn for number in np.unique(frame.things)} == set(numbers.values())


def test_drives_are_frames_in_a_row(tmp_path):
    synthetic_street.write(tmp_path / "raw", SPEC, PALETTE)
    described = [json.loads(path.read_text()) for path in sorted((tmp_path / "raw").rglob("*.json"))]
    assert [row["frameIndex"] for row in described] == [0, 5, 10, 15, 4000, 4005, 4010, 4015, 8000]
    places = [tuple(row["attributes"].values()) for row in described]
    assert len(set(places[:4])) == len(set(places[4:8])) == 1
    assert set(places) <= {place[:2] for place in synthetic_street.PLACES}


def test_a_palette_of_other_names_is_drawn_by_turns():
    colours = synthetic_street.mask_colours({"a": [(1, 1, 1)], "b": [(2, 2, 2)]})
    assert {tuple(colour) for colour in colours.tolist()} == {(1, 1, 1), (2, 2, 2)}


def test_a_folder_with_files_is_refused(tmp_path):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "mine").write_text("")
    with pytest.raises(DataError, match="holds files already"):
        synthetic_street.write(tmp_path / "raw", SPEC, PALETTE)
    assert [path.name for path in (tmp_path / "raw").iterdir()] == ["mine"]


def test_frames_have_their_size(tmp_path):
    synthetic_street.write(tmp_path / "raw", SPEC, PALETTE)
    for path in (tmp_path / "raw").rglob("*.*g"):
        assert cv2.imread(str(path)).shape == (48, 80, 3)
