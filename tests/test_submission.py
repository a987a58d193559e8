import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from stagepipe import rle, submission
from stagepipe.errors import DataError, RecipeError

SALT = np.array([[0, 1], [1, 1], [0, 0]], np.uint8)
EMPTY = np.zeros((3, 2), np.uint8)
MASKS = arrays.arrays(np.uint8, arrays.array_shapes(min_dims=2, max_dims=2, max_side=8), elements=st.integers(0, 2))


def test_tgs_is_column_major_counted_from_one_and_sorted_by_id(tmp_path):
    submission.write(tmp_path / "s.csv", [("b", EMPTY), ("a", SALT)], "tgs", None, ["salt"])
    assert (tmp_path / "s.csv").read_bytes() == b"id,rle_mask\na,2 1 4 2\nb,\n"


# Column by column: rows 1 and 2 of column 0, row 0 of column 1, row 2 of column 2.
FILM = np.array([[0, 1, 0, 0], [1, 0, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0]], np.uint8)


def test_siim_runs_start_where_the_one_before_ends_and_empty_is_minus_one(tmp_path):
    submission.write(tmp_path / "s.csv", [("1.2.3.10", FILM), ("1.2.3.9", EMPTY)], "siim", None, ["lung"])
    assert (tmp_path / "s.csv").read_bytes() == b"ImageId,EncodedPixels\n1.2.3.10,1 2 1 1 5 1\n1.2.3.9,-1\n"


def test_siim_has_one_row_for_an_id_that_the_sample_lists_for_each_annotation(tmp_path):
    (tmp_path / "sample.csv").write_text("ImageId,EncodedPixels\nb.1, -1\na.1, -1\nb.1, -1\nc.1, -1\nc.1, -1\n")
    masks = [("a.1", FILM), ("b.1", EMPTY), ("c.1", FILM * 0 + 1)]
    submission.write(tmp_path / "s.csv", masks, "siim", tmp_path / "sample.csv", ["lung"])
    lines = (tmp_path / "s.csv").read_text().splitlines()
    assert lines == ["ImageId,EncodedPixels", "b.1,-1", "a.1,1 2 1 1 5 1", "c.1,0 16"]
    with pytest.raises(DataError, match=r"ids that have no mask: b\.1; masks that have no row: d\.1\. Write"):
        masks[1] = ("d.1", EMPTY)
        submission.write(tmp_path / "s.csv", masks, "siim", tmp_path / "sample.csv", ["lung"])


@given(MASKS)
def test_siim_rows_decode_to_the_mask(tmp_path_factory, mask):
    path = tmp_path_factory.mktemp("siim") / "s.csv"
    submission.write(path, [("a.b.c", mask)], "siim", None, ["lung"])
    sample_id, text = path.read_text().splitlines()[1].split(",")
    assert sample_id == "a.b.c"
    np.testing.assert_array_equal(rle.decode_relative(text, *mask.shape), mask > 0)


def test_rows_follow_the_sample_submission_and_ids_stay_text(tmp_path):
    (tmp_path / "sample.csv").write_text("id,rle_mask\n0012,1 1\nNA,1 1\n1e5,1 1\n")
    masks = [("0012", EMPTY), ("1e5", SALT), ("NA", EMPTY)]
    submission.write(tmp_path / "s.csv", masks, "tgs", tmp_path / "sample.csv", ["salt"])
    assert (tmp_path / "s.csv").read_text() == "id,rle_mask\n0012,\nNA,\n1e5,2 1 4 2\n"


def test_all_faults_of_the_rows_are_listed_at_once_and_nothing_is_written(tmp_path):
    (tmp_path / "sample.csv").write_text("id,rle_mask\na,1 1\nc,1 1\nc,1 1\nd,1 1\n")
    with pytest.raises(DataError) as error:
        submission.write(tmp_path / "s.csv", [("a", SALT), ("b", SALT)], "tgs", tmp_path / "sample.csv", ["salt"])
    assert "ids that have no mask: c, d; masks that have no row: b; ids with several rows: c" in str(error.value)
    assert "sample.csv" in str(error.value)
    assert not (tmp_path / "s.csv").exists()


def test_an_older_submission_survives_a_failure(tmp_path):
    (tmp_path / "s.csv").write_text("old")

    def masks():
        yield "a", SALT
        raise RuntimeError("disk")

    with pytest.raises(RuntimeError, match="disk"):
        submission.write(tmp_path / "s.csv", masks(), "tgs", None, ["salt"])
    assert (tmp_path / "s.csv").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["s.csv"]


@pytest.mark.parametrize("encode", ["tgs", "siim"])
def test_two_masks_of_one_sample_and_many_classes_in_a_table_are_refused(tmp_path, encode):
    with pytest.raises(DataError, match="'a' has two masks"):
        submission.write(tmp_path / "s.csv", [("a", SALT), ("a", SALT)], encode, None, ["salt"])
    with pytest.raises(RecipeError, match=rf"submission\.encode: {encode} holds a single class, not sky, road"):
        submission.write(tmp_path / "s.csv", [("a", SALT)], encode, None, ["sky", "road"])


def test_hand_worked_runs(tmp_path):
    streets = np.array([[0, 0, 2], [2, 2, 0]], np.uint8)
    submission.write(tmp_path / "s.json", [("b", streets), ("a", streets * 0)], "runs", None, ["sky", "road", "car"])
    text = (tmp_path / "s.json").read_text()
    assert text.splitlines()[1] == '"a": {"sky":[[0,0,3],[1,0,3]]},'
    assert json.loads(text)["b"] == {"sky": [[0, 0, 2], [1, 2, 3]], "car": [[0, 2, 3], [1, 0, 2]]}


def test_runs_of_a_single_class_are_its_ones(tmp_path):
    submission.write(tmp_path / "s.json", [("a", SALT), ("b", EMPTY)], "runs", None, ["salt"])
    assert json.loads((tmp_path / "s.json").read_text()) == {"a": {"salt": [[0, 1, 2], [1, 0, 2]]}, "b": {}}


def test_no_sample_is_a_valid_file(tmp_path):
    submission.write(tmp_path / "s.json", [], "runs", None, ["salt"])
    assert json.loads((tmp_path / "s.json").read_text()) == {}


@given(MASKS)
def test_runs_rebuild_the_mask(mask):
    rebuilt = np.full(mask.shape, 255, np.uint8)
    classes = ["sky", "road", "car"]
    for name, runs in submission.row_runs(mask, classes).items():
        for row, start, end in runs:
            assert (rebuilt[row, start:end] == 255).all()
            rebuilt[row, start:end] = classes.index(name)
    np.testing.assert_array_equal(rebuilt, mask)


def published(mask, classes, evaluated):
    """The contest's runs of a mask, pixel by pixel."""
    found = {}
    for name in evaluated:
        for y, row in enumerate(mask.tolist()):
            for x, value in enumerate(row):
                if classes[value] != name:
                    continue
                runs = found.setdefault(name, {}).setdefault(str(y), [])
                if runs and runs[-1][1] == x - 1:
                    runs[-1][1] = x
                else:
                    runs.append([x, x])
    return found


@given(MASKS, st.sampled_from([["road"], ["car", "sky"], ["sky", "road", "car"]]))
def test_street_runs_are_those_of_a_loop_over_pixels(mask, evaluated):
    classes = ["sky", "road", "car"]
    assert submission.street_runs(mask, classes, evaluated) == published(mask, classes, evaluated)


def test_hand_worked_street_file(tmp_path):
    streets = np.array([[0, 0, 2, 2], [2, 2, 0, 2]] + [[1] * 4] * 9 + [[0, 2, 0, 0]], np.uint8)
    masks = [("a", streets), ("a-1", streets[2:4]), ("b", streets[:1])]
    submission.write(tmp_path / "s.json", masks, "street", None, ["sky", "road", "car"], ["car", "sky"])
    assert (tmp_path / "s.json").read_bytes() == (
        b'{"a-1.jpg":{},'
        b'"a.jpg":{"car":{"0":[[2,3]],"1":[[0,1],[3,3]],"11":[[1,1]]},"sky":{"0":[[0,1]],"1":[[2,2]],"11":[[0,0],[2,3]]}},'
        b'"b.jpg":{"car":{"0":[[2,3]]},"sky":{"0":[[0,1]]}}}'
    )
    text = (tmp_path / "s.json").read_text()
    assert text == json.dumps(json.loads(text), separators=(",", ":"), sort_keys=True)


def test_a_street_file_of_a_single_class_or_of_all(tmp_path):
    submission.write(tmp_path / "s.json", [("b", EMPTY), ("a", SALT)], "street", None, ["salt"])
    assert (tmp_path / "s.json").read_text() == '{"a.jpg":{"salt":{"0":[[1,1]],"1":[[0,1]]}},"b.jpg":{}}'
    submission.write(tmp_path / "s.json", [("a", SALT)], "street", None, ["sky", "road"])
    assert list(json.loads((tmp_path / "s.json").read_text())["a.jpg"]) == ["road", "sky"]
    submission.write(tmp_path / "s.json", [], "street", None, ["salt"])
    assert (tmp_path / "s.json").read_text() == "{}"


def test_a_street_file_has_no_rows_and_each_sample_once(tmp_path):
    with pytest.raises(RecipeError, match=r"submission\.rows: .*sample\.csv: street submissions have sorted keys"):
        submission.write(tmp_path / "s.json", [], "street", tmp_path / "sample.csv", ["salt"])
    with pytest.raises(DataError, match="'a' has two masks"):
        submission.write(tmp_path / "s.json", [("a", SALT), ("a", SALT)], "street", None, ["salt"])


def test_a_sample_submission_with_long_lines_is_read(tmp_path):
    (tmp_path / "sample.csv").write_text("id,rle_mask\na," + "1 1 " * 500_000 + "\n")
    submission.write(tmp_path / "s.csv", [("a", EMPTY)], "tgs", tmp_path / "sample.csv", ["salt"])
    assert (tmp_path / "s.csv").read_text() == "id,rle_mask\na,\n"
