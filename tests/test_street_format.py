"""The raw layout of street scenes, and masks whose pixels are colours."""

import json

import cv2
import numpy as np
import pytest

from stagepipe.artefacts import read_table
from stagepipe.data import ingest, palette
from stagepipe.data.store import PixelStore
from stagepipe.data.street import scan
from stagepipe.errors import DataError
from stagepipe.recipe.model import Dataset

COLOURS = {"sky": [0, 0, 255], "road": [[1, 2, 3], [4, 5, 6]], "car": [255, 255, 0]}
STREET = {"format": "street", "channels": "rgb", "classes": [*COLOURS], "palette": COLOURS}
IGNORING = {"ignore_index": 255, "ignored_colours": [[9, 9, 9]]}


def dataset(root, **values):
    return Dataset(**STREET | {"root": str(root)} | values)


def write_rgb(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.asarray(pixels, np.uint8)[..., ::-1])


@pytest.fixture
def root(tmp_path):
    """Three labelled frames of two drives, and a test frame, of 4 x 6 pixels."""
    random = np.random.default_rng(0)
    for number, (timeofday, frame) in enumerate((("day", 300), ("day", 7), ("night", 8))):
        name = f"train_{number:04d}"
        write_rgb(tmp_path / f"seg_train_images/{name}.jpg", random.integers(0, 256, (4, 6, 3)))
        mask = np.full((4, 6, 3), (0, 0, 255))
        mask[2:, :3], mask[2:, 3:], mask[0, 0] = (1, 2, 3), (4, 5, 6), (255, 255, 0)
        write_rgb(tmp_path / f"seg_train_annotations/{name}.png", mask)
        content = {"attributes": {"route": "Tokyo1", "timeofday": timeofday, "weather": {"no": "value"}}}
        describe(tmp_path, name, content | {"frameIndex": frame, "labels": [{"box2d": [1, 2]}]})
    write_rgb(tmp_path / "seg_test_images/test_0000.jpg", random.integers(0, 256, (4, 6, 3)))
    return tmp_path


def describe(root, name, content):
    text = content if isinstance(content, str) else json.dumps(content)
    (root / f"seg_train_annotations/{name}.json").write_text(text)


def faults(root, **values):
    return {(fault.sample_id, fault.fault): fault.detail for fault in ingest.check(dataset(root, **values), root)}


def test_frames_masks_and_attributes(root, tmp_path):
    paths = [tmp_path / name for name in ("samples.parquet", "pixels.bin", "faults.parquet")]
    ingest.ingest(dataset(root), root, *paths)
    table = read_table(paths[0])
    frame = table.select(["sample_id", "split", "route", "timeofday", "frameIndex", "drive"]).to_pylist()
    assert [tuple(row.values()) for row in frame] == [
        ("test_0000", "test", None, None, None, None),
        ("train_0000", "train", "Tokyo1", "day", 300, "Tokyo1 day 2"),
        ("train_0001", "train", "Tokyo1", "day", 7, "Tokyo1 day 1"),
        ("train_0002", "train", "Tokyo1", "night", 8, "Tokyo1 night 1"),
    ]
    assert "weather" not in table.column_names
    expected = np.zeros((4, 6), np.uint8)
    expected[2:], expected[0, 0] = 1, 2
    assert (PixelStore(paths[1], table).mask(1) == expected).all()
    assert table["coverage"].to_pylist()[1] == pytest.approx([11 / 24, 12 / 24, 1 / 24])


def test_a_larger_gap_joins_drives(root):
    drives = [sample.metadata["drive"] for sample in scan(dataset(root, drive_gap=293), root).samples if sample.mask]
    assert drives == ["Tokyo1 day 1", "Tokyo1 day 1", "Tokyo1 night 1"]


@pytest.mark.parametrize(
    "content, fault, message",
    [
        ("{", "bad_json", "can't be read as JSON"),
        ("[" * 100_000, "bad_json", "can't be read as JSON"),
        ([], "bad_json", 'has no object "attributes"'),
        ({"attributes": 3}, "bad_json", 'has no object "attributes"'),
        ({}, "bad_json", 'has no object "attributes"'),
        ('{"attributes": {"route": "A", "route": "B"}}', "bad_json", "the name 'route' stands twice in an object"),
        ({"attributes": {}, "frameIndex": "7"}, "bad_value", "frameIndex is '7'; write a whole number"),
        ({"attributes": {}, "frameIndex": 1.5}, "bad_value", "frameIndex is 1.5"),
        ({"attributes": {}, "frameIndex": 10**30}, "bad_value", "write a whole number"),
    ],
)
def test_attributes_that_are_wrong(root, content, fault, message):
    describe(root, "train_0001", content)
    assert message in faults(root)["train_0001", fault]


def test_attributes_in_no_unicode(root):
    (root / "seg_train_annotations/train_0001.json").write_bytes(b'{"attributes": "\xff"}')
    assert ("train_0001", "bad_json") in faults(root)


def test_attributes_of_different_types_are_text(root):
    describe(root, "train_0001", {"attributes": {"route": 7, "timeofday": True}, "frameIndex": None})
    metadata = {sample.sample_id: sample.metadata for sample in scan(dataset(root), root).samples}
    assert metadata["train_0001"] == {"route": "7", "timeofday": "True", "frameIndex": None, "drive": None}


def test_attributes_that_are_too_large(root, monkeypatch):
    monkeypatch.setattr("stagepipe.data.street.MAX_BYTES", 10)
    assert "at most 10 are read" in faults(root)["train_0001", "bad_json"]


def test_drives_without_route_or_time_of_day(root):
    describe(root, "train_0000", {"attributes": {"route": "A"}, "frameIndex": 3})
    describe(root, "train_0001", {"attributes": {}, "frameIndex": 3})
    drives = {sample.sample_id: sample.metadata.get("drive") for sample in scan(dataset(root), root).samples}
    assert drives["train_0000"] == "A 1"
    assert drives["train_0001"] == "1"


def test_files_without_a_partner(root):
    annotations = root / "seg_train_annotations"
    (annotations / "train_0000.json").unlink()
    (annotations / "train_0001.png").unlink()
    (root / "seg_train_images/train_0002.jpg").unlink()
    (annotations / "notes.txt").write_text("")
    found = faults(root)
    assert sorted(found) == [
        ("notes", "unknown_type"), ("train_0000", "missing_metadata"), ("train_0001", "missing_mask"),
        ("train_0002", "missing_image"),
    ]  # fmt: skip
    assert found["train_0000", "missing_metadata"].startswith("has no train_0000.json in seg_train_annotations")


def test_a_link_out_of_the_root_is_not_followed(root, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside") / "a.json"
    outside.write_text('{"attributes": {}}')
    (root / "seg_train_annotations/train_0000.json").unlink()
    (root / "seg_train_annotations/train_0000.json").symlink_to(outside)
    assert ("train_0000", "outside_root") in faults(root)


def test_a_missing_folder_is_told(root):
    (root / "seg_test_images/test_0000.jpg").unlink()
    (root / "seg_test_images").rmdir()
    with pytest.raises(DataError, match="has no folder seg_test_images; the street format expects there seg_train_im"):
        scan_all(root)


def scan_all(root):
    from stagepipe.data.formats import scan as any_format

    return any_format(dataset(root), root)


# -------------------------------------------------------------------------------------------------------------- colours


def colour_faults(root, pixels, **values):
    write_rgb(root / "seg_train_annotations/train_0000.png", pixels)
    return faults(root, **values)


def test_unknown_colours_are_told_and_never_class_0(root):
    mask = np.full((4, 6, 3), (0, 0, 255))
    mask[1, 2], mask[3, 4:] = (9, 9, 9), (0, 0, 254)
    detail = colour_faults(root, mask)["train_0000", "unknown_colour"]
    assert "[0, 0, 254] (2 pixels, the first in row 3, column 4), [9, 9, 9] (1 pixels, the first in row 1, " in detail
    assert "write them into dataset.palette or dataset.ignored_colours" in detail
    mask[3, 4:] = (4, 5, 6)
    assert colour_faults(root, mask, **IGNORING) == {}


def test_many_unknown_colours_are_counted():
    pixels = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)
    with pytest.raises(ValueError, match=r"and 12 more$"):
        palette.indices(pixels, {(200, 200, 200): 0})


def test_ignored_colours_become_the_ignore_index(root):
    known = palette.values(dataset(root, **IGNORING))
    assert known == {(0, 0, 255): 0, (1, 2, 3): 1, (4, 5, 6): 1, (255, 255, 0): 2, (9, 9, 9): 255}
    pixels = np.array([[[9, 9, 9], [4, 5, 6]], [[255, 255, 0], [0, 0, 255]]], np.uint8)
    assert palette.indices(pixels, known).tolist() == [[255, 1], [2, 0]]


def test_colours_as_by_comparing_each():
    random = np.random.default_rng(1)
    colours = random.integers(0, 256, (20, 3))
    known = {tuple(colour): index for index, colour in enumerate(colours.tolist())}
    drawn = random.integers(0, 20, (31, 17))
    expected = np.zeros((31, 17), np.uint8)
    pixels = colours[drawn].astype(np.uint8)
    for colour, index in known.items():
        expected[(pixels == colour).all(axis=2)] = index
    assert (palette.indices(pixels, known) == expected).all()


def test_how_a_file_keeps_its_colours_does_not_matter(root):
    """A table of colours in the file, an alpha channel."""
    from PIL import Image

    path = root / "seg_train_annotations/train_0000.png"
    indexed = Image.fromarray(np.tile(np.array([0, 1, 2], np.uint8), (4, 2)), mode="P")
    indexed.putpalette([0, 0, 255, 4, 5, 6, 255, 255, 0])
    indexed.save(path)
    assert faults(root) == {}
    Image.fromarray(np.full((4, 6, 4), (4, 5, 6, 0), np.uint8), mode="RGBA").save(path)
    assert faults(root) == {}


def test_a_mask_of_16_bits_is_a_fault(root):
    cv2.imwrite(str(root / "seg_train_annotations/train_0000.png"), np.zeros((4, 6, 3), np.uint16))
    assert "colours of masks have 8 bits a channel" in faults(root)["train_0000", "bad_type"]


def test_the_folder_format_takes_a_palette(tmp_path):
    for name in ("train/images", "train/masks", "test/images"):
        (tmp_path / name).mkdir(parents=True)
    write_rgb(tmp_path / "train/images/a.png", np.zeros((2, 2, 3)))
    write_rgb(tmp_path / "train/masks/a.png", np.array([[[0, 0, 255], [1, 2, 3]], [[4, 5, 6], [255, 255, 0]]]))
    made = dataset(tmp_path, format="folder")
    (sample,) = [ingest.decode_sample(s, made, tmp_path) for s in scan_folder(made, tmp_path)]
    assert sample.mask is not None and sample.mask.tolist() == [[0, 1], [1, 2]]


def scan_folder(made, root):
    from stagepipe.data.folder import scan as scan_plain

    return scan_plain(made, root).samples
