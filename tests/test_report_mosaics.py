import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
import report_example as example
from browser import check_page
from PIL import Image

from stagepipe import report
from stagepipe.recipe.load import validate
from stagepipe.recipe.model import Jigsaw
from stagepipe.report import collect, jigsaw, mosaics, overlays
from stagepipe.report.mosaics import Tile
from stagepipe.report.page import CONTENTS

LEFT = np.repeat(np.arange(41)[None] < 10, 41, axis=0).astype(np.uint8)
# "gone" is no sample (any more).
GRIDS = [
    [["train000", "test000", "train001"], ["test001", None, "test002"], ["train002", "test003", "gone"]],
    [["train003", "test006", "train004"], ["train006", "test007", "train007"]],
    [["train008", "test008", "train009", "test009"]],
    [["train010"], ["test010"], ["train011"]],
    [["train012", "train013"]],
    [["train014"], ["test011"]],
]
# Of these rules half_vertical_below is switched off.
REPLACED = [
    ("test011", "vertical_below", LEFT),
    ("test000", "half_vertical_below", LEFT),
    ("train000", "vertical_below", LEFT),
]
EFFECTS = [
    ("vertical_below", 0.2, 1.0),
    ("vertical_below", 0.5, 0.9),
    ("vertical_below", 0.7, 0.7),
    ("vertical_above", 0.9, 0.4),
]


@pytest.fixture(scope="module")
def salt(tmp_path_factory) -> report.ReportInputs:
    return example.build(tmp_path_factory.mktemp("salt"), example.JIGSAW, [(41, 41)])


@pytest.fixture(scope="module")
def inputs(salt, tmp_path_factory) -> report.ReportInputs:
    return example.add_mosaics(tmp_path_factory.mktemp("mosaics"), salt, GRIDS, REPLACED, EFFECTS)


@pytest.fixture(scope="module")
def written(inputs, tmp_path_factory) -> Path:
    """A folder with the page and its pictures."""
    folder = tmp_path_factory.mktemp("page")
    write(inputs, folder)
    return folder


def write(inputs, folder):
    report.write(inputs, folder / "report.html", folder / "report")
    return (folder / "report.html").read_text(encoding="utf-8")


def section(inputs):
    """The section without pictures, and its table as rows of cells by rule."""
    page = jigsaw.section(collect.collect(inputs), [])
    rows = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in page.split("<tr")]
    return page, {row[0]: row[1:] for row in rows if len(row) > 2}


# ------------------------------------------------------------------------------------------------------------- the page


@pytest.mark.parametrize("width", [1280, 400])
def test_a_browser_shows_it_without_a_fault(written, width):
    check_page(written / "report.html", width)


def test_the_page_has_the_mosaics_after_the_cases(written):
    page = (written / "report.html").read_text(encoding="utf-8")
    anchors = [anchor for anchor in CONTENTS if anchor not in ("blend", "classes")]
    assert re.findall(r'<section id="(\w+)"', page) == anchors
    assert re.findall(r'<a href="#(\w+)"', page) == anchors
    assert re.findall(r"<figcaption>(Mosaic .*?)</figcaption>", page) == [
        "Mosaic 0: 7 tiles in 3 x 3 cells, 3 labelled, 0 changed by a rule",
        "Mosaic 1: 6 tiles in 2 x 3 cells, 4 labelled, 0 changed by a rule",
        "Mosaic 2: 4 tiles in 1 x 4 cells, 2 labelled, 0 changed by a rule",
        "Mosaic 5: 2 tiles in 2 x 1 cells, 1 labelled, 1 changed by a rule",
    ]
    for name in ("mosaics", "jigsaw", "jigsaw_effects"):
        assert f"{name}.parquet" in page.split('id="provenance"')[1]


def test_one_more_picture_is_written_and_is_the_same_every_time(inputs, written, tmp_path):
    names = sorted(path.name for path in (written / "report").iterdir())
    assert names == sorted([*report.PICTURES, report.MOSAICS_PICTURE])
    picture = written / "report" / report.MOSAICS_PICTURE
    assert np.asarray(Image.open(picture).convert("L")).std() > 10
    write(inputs, tmp_path)
    assert (tmp_path / "report" / report.MOSAICS_PICTURE).read_bytes() == picture.read_bytes()
    assert (tmp_path / "report.html").read_bytes() == (written / "report.html").read_bytes()


@pytest.mark.parametrize("step", [True, False])
def test_tables_and_step_come_together(salt, inputs, step):
    wrong = salt if step else dataclasses.replace(inputs, recipe=validate(example.SALT, "example"))
    with pytest.raises(ValueError, match="give all three if the recipe has a jigsaw step, else none"):
        collect.collect(wrong)


def test_a_run_without_mosaics_says_so(salt, tmp_path):
    page = write(example.add_mosaics(tmp_path, salt, [], [], []), tmp_path)
    assert "No mosaic was found from the borders of the tiles, so the rules have nothing to go by." in page
    assert (tmp_path / "report" / report.MOSAICS_PICTURE).exists()
    assert "Pictures</h3>" not in page


# ---------------------------------------------------------------------------------------------------------- the numbers


def test_every_rule_of_a_recipe_is_in_the_table():
    assert list(jigsaw.RULES) == [name for name in Jigsaw.model_fields if name != "file"]


def test_effects_by_hand(inputs):
    page, rows = section(inputs)
    # 24 tiles have a place, "gone" is none of 64 samples; 40 are labelled and lie in folds.
    assert "24 tiles of 64 lie in 6 mosaics, found from the borders of the tiles: 14 labelled and 10 test" in page
    assert rows["vertical_below"] == ["yes", "3", "0.4667", "0.8667", "+0.03000", "2", "0", "1", "1"]
    assert rows["half_vertical_below"] == ["no", "0", *6 * ["&ndash;"], "1"]
    assert rows["vertical_above"] == ["yes", "1", "0.9000", "0.4000", "-0.01250", "0", "1", "0", "0"]
    assert rows["empty_below"] == ["yes", "0", *6 * ["&ndash;"], "0"]
    assert rows["all that are on"] == ["yes", "4", "0.5750", "0.7500", "+0.01750", "2", "1", "1", "1"]
    assert "<strong>Out of fold the rules pay off</strong>, though 4 tiles can mislead" in page
    assert "lowers the score of its labelled tiles (few tiles) from 0.9000 to 0.4000 and is switched on" in page
    assert "<code>vertical_below</code> is judged by 3 labelled tiles only: too few to rely on." in page


@pytest.mark.parametrize(("after", "verdict"), [(0.5, "cost score"), (0.8, "change nothing"), (0.9, "pay off")])
def test_many_tiles_get_a_plain_verdict(salt, tmp_path, after, verdict):
    page, _ = section(example.add_mosaics(tmp_path, salt, GRIDS, [], 12 * [("vertical_below", 0.8, after)]))
    assert f"<strong>Out of fold the rules {verdict}</strong>: the mean score of 12 labelled tiles goes from" in page
    assert ('class="note"' in page) == (after < 0.8)


def test_without_touched_labelled_tiles_nothing_is_claimed(salt, tmp_path):
    page, rows = section(example.add_mosaics(tmp_path, salt, GRIDS, REPLACED[:1], []))
    assert "<strong>Out of fold the rules touch no labelled tile</strong>" in page
    assert "<code>vertical_below</code> touches 1 test tile and no labelled tile" in page
    assert rows["all that are on"] == ["yes", "0", *6 * ["&ndash;"], "1"]
    assert rows["half_vertical_below"] == ["no", "0", *6 * ["&ndash;"], "0"]


def test_with_all_rules_off_no_mask_changes(salt, tmp_path):
    tree = example.JIGSAW | {"submission": example.SALT["submission"] | {"postprocess": [{"jigsaw": {}}]}}
    tree["submission"]["postprocess"][0]["jigsaw"] = dict.fromkeys(jigsaw.RULES, False)
    of_recipe = dataclasses.replace(salt, recipe=validate(tree, "example"))
    off = example.add_mosaics(tmp_path, of_recipe, GRIDS, REPLACED, EFFECTS)
    assert "No rule is switched on: all masks stay as predicted." in section(off)[0]
    found = collect.collect(off)
    assert sum(mosaic.replaced for mosaic in mosaics.show(off, found)) == 0


def test_images_that_always_train_are_in_no_mean(inputs):
    found = collect.collect(inputs)
    found.samples.loc[found.samples["sample_id"].isin(["train038", "train039"]), "fold"] = -1
    assert jigsaw.together(found).change == pytest.approx(0.7 / 38)


# --------------------------------------------------------------------------------------------------------- the pictures


def test_submitted_masks_are_those_of_rules_that_are_on(inputs):
    found = collect.collect(inputs)
    wanted = {"test000", "test011"}
    maps = [(name, kept.copy()) for name, kept in overlays.wanted_maps(inputs.blend_test, wanted)]
    submitted = overlays.submitted_masks(found, maps, wanted)
    former = overlays.submitted_masks(found, maps, wanted, replaced=False)
    assert (submitted["test011"] == LEFT).all()
    assert (former["test011"] != LEFT).any()
    assert (submitted["test000"] == former["test000"]).all()


def test_the_largest_are_shown_and_in_any_case_the_largest_changed_one(salt, tmp_path, inputs):
    tiles = mosaics.placed_tiles(collect.collect(inputs))
    assert mosaics.chosen(tiles) == [0, 1, 2, 5]
    assert mosaics.chosen(tiles.assign(replaced=False)) == [0, 1, 2, 3]
    assert mosaics.chosen(tiles.assign(replaced=True)) == [0, 1, 2, 3]
    assert mosaics.chosen(tiles[:0]) == []


def test_a_tile_without_a_prediction_is_shown_bare(inputs, monkeypatch):
    monkeypatch.setattr(mosaics, "wanted_maps", lambda path, wanted: iter(()))
    shown = mosaics.show(inputs, collect.collect(inputs))
    assert [mosaic.tiles for mosaic in shown] == [7, 6, 4, 2]
    assert [mosaic.replaced for mosaic in shown] == [0, 0, 0, 0]


def tile(size=(64, 64), **masks):
    return Tile(np.full((*size, 1), 100, np.uint8), masks.pop("mask", None), **masks)


def test_holes_stay_white_and_masks_and_frames_have_their_colours():
    full, none = np.ones((64, 64), np.uint8), np.zeros((64, 64), np.uint8)
    tiles = {(0, 0): tile(mask=full, labelled=True), (0, 2): tile(mask=full, former=none), (1, 1): tile(mask=full)}
    picture = mosaics.assemble(tiles)
    assert picture.shape == (202, 303, 3)
    assert (picture[:101, 101:202] == 255).all()
    assert picture[0, 0].tolist() == list(mosaics.LABELLED)
    assert picture[0, 300].tolist() == list(mosaics.REPLACED)
    for place, colour in (((50, 50), overlays.AGREED), ((50, 250), mosaics.REPLACED), ((150, 150), overlays.AGREED)):
        assert picture[place].tolist() == [50 + value // 2 for value in colour]


def test_the_replaced_prediction_is_a_line():
    former = np.zeros((101, 101), np.uint8)
    former[:, 40:] = 1
    picture = mosaics.assemble({(0, 0): tile((101, 101), mask=former * 0, former=former)})
    assert picture[50, 40].tolist() == list(mosaics.FORMER)
    assert picture[50, 38].tolist() == picture[50, 60].tolist() == [100] * 3


@pytest.mark.parametrize("size", [(101, 101), (1, 1), (41, 64), (1024, 512), (3, 900)])
@pytest.mark.parametrize("grid", [(1, 2), (6, 17), (30, 2)])
def test_pictures_of_any_tiles_stay_sensible(size, grid):
    tiles = {place: tile(size, mask=np.ones(size, np.uint8)) for place in np.ndindex(*grid)}
    picture = mosaics.assemble(tiles)
    height, width = picture.shape[:2]
    assert height <= max(mosaics.HIGHEST, grid[0])
    assert width <= max(mosaics.WIDEST, grid[1])


def test_tiles_of_other_sizes_keep_theirs():
    picture = mosaics.assemble({(0, 0): tile((100, 60)), (0, 1): tile((50, 30))})
    assert picture.shape == (101, 120, 3)
    assert (picture[:50, 61:89] == 100).all()
    assert (picture[51:, 61:] == 255).all()


@pytest.mark.parametrize("size", [(30, 50), (128, 96)])
def test_a_report_on_tiles_of_another_size(tmp_path, size):
    inputs = example.build(tmp_path / "in", example.JIGSAW, [size])
    mask = np.zeros(size, np.uint8)
    replaced = [("test002", "empty_below", mask), ("test011", "vertical_below", mask + 1)]
    inputs = example.add_mosaics(tmp_path, inputs, GRIDS, replaced, EFFECTS)
    page = write(inputs, tmp_path)
    assert "Mosaic 0: 7 tiles in 3 x 3 cells, 3 labelled, 1 changed by a rule" in page
    check_page(tmp_path / "report.html", 400)
