import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from stagepipe import submission
from stagepipe.errors import DataError, RecipeError

SALT = np.array([[0, 1], [1, 1], [0, 0]], np.uint8)
EMPTY = np.zeros((3, 2), np.uint8)
MASKS = arrays.arrays(np.uint8, arrays.array_shapes(min_dims=2, max_dims=2, max_side=8), elements=st.integers(0, 2))


def test_tgs_is_column_major_counted_from_one_and_sorted_by_id(tmp_path):
    submission.write(tmp_path / "s.csv", [("b", EMPTY), ("a", SALT)], "tgs", None, ["salt"])
    assert (tmp_path / "s.csv").read_bytes() == b"id,rle_mask\na,2 1 4 2\nb,\n"


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


def test_two_masks_of_one_sample_and_many_classes_in_tgs_are_refused(tmp_path):
    with pytest.raises(DataError, match="'a' has two masks"):
        submission.write(tmp_path / "s.csv", [("a", SALT), ("a", SALT)], "tgs", None, ["salt"])
    with pytest.raises(RecipeError, match=r"submission\.encode: tgs holds a single class, not sky, road"):
        submission.write(tmp_path / "s.csv", [("a", SALT)], "tgs", None, ["sky", "road"])


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


def test_a_sample_submission_with_long_lines_is_read(tmp_path):
    (tmp_path / "sample.csv").write_text("id,rle_mask\na," + "1 1 " * 500_000 + "\n")
    submission.write(tmp_path / "s.csv", [("a", EMPTY)], "tgs", tmp_path / "sample.csv", ["salt"])
    assert (tmp_path / "s.csv").read_text() == "id,rle_mask\na,\n"
