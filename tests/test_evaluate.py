import numpy as np
import pytest

from stagepipe import rle, submission
from stagepipe.errors import DataError
from stagepipe.evaluate import evaluate


def csv(path, **masks):
    path.write_text("id,rle_mask\n" + "".join(f"{name},{text}\n" for name, text in masks.items()))
    return path


def siim(path, *rows, header="ImageId,EncodedPixels"):
    path.write_text("".join(f"{line}\n" for line in (header, *rows)))
    return path


def test_hand_worked_scores(tmp_path):
    # a: 8 of 10 pixels, IoU 0.8 is above 0.50 ... 0.75 (6 thresholds), not above 0.80. c: one is empty. d: both are.
    sent = csv(tmp_path / "sent.csv", d="", a="1 8", b="3 4", c="1 1")
    solved = csv(tmp_path / "solved.csv", a="1 10", b="3 4", c="", d="")
    found = evaluate(sent, solved, (5, 4))
    assert list(found.cases.columns) == ["id", "mean_precision", "dice", "iou"]
    assert found.cases["id"].tolist() == found.ids == ["a", "b", "c", "d"]
    assert found.cases["mean_precision"].tolist() == pytest.approx([0.6, 1, 0, 1])
    assert found.cases["iou"].tolist() == pytest.approx([0.8, 1, 0, 1])
    assert found.cases["dice"].tolist() == pytest.approx([16 / 18, 1, 0, 1])
    assert found.mean == pytest.approx({"mean_precision": 2.6 / 4, "dice": (16 / 18 + 2) / 4, "iou": 2.8 / 4})
    assert found.all_empty == {"mean_precision": 0.5, "dice": 0.5, "iou": 0.5}


def test_siim_files_have_relative_runs_and_a_row_for_each_instance(tmp_path):
    # Column by column 4 x 4. Solution of 1.2.3: pixels 1, 2 and, in another row, 2, 3: together 1, 2, 3.
    solved = siim(
        tmp_path / "solved.csv", "1.2.3, 1 2", "1.2.4, -1", "1.2.3, 2 2", "1.2.5, -1", header="ImageId, EncodedPixels"
    )
    # Sent: 1 and 3, the second run one pixel behind the first.
    sent = siim(tmp_path / "sent.csv", "1.2.5,-1", "1.2.4,0 1", "1.2.3,1 1 1 1")
    found = evaluate(sent, solved, (4, 4))
    assert found.ids == ["1.2.3", "1.2.4", "1.2.5"]
    assert found.counts.tolist() == [[[2, 3, 2]], [[0, 0, 1]], [[0, 0, 0]]]
    assert found.cases["dice"].tolist() == pytest.approx([4 / 5, 0, 1])
    assert found.all_empty["dice"] == pytest.approx(2 / 3)


def test_the_rows_of_a_siim_submission_are_united_too_and_dialects_may_differ(tmp_path):
    # Absolute from 1: pixels 2, 3 and 6.
    solved = csv(tmp_path / "solved.csv", a="2 2 6 1", b="")
    sent = siim(tmp_path / "sent.csv", "a,1 2", "b,-1", "a,5 1")
    assert evaluate(sent, solved, (4, 4)).mean == {"mean_precision": 1, "dice": 1, "iou": 1}


def test_a_written_siim_submission_scores_one_against_itself(tmp_path):
    random = np.random.default_rng(0)
    masks = [(f"1.2.{number}", (random.random((9, 7)) > 0.6).astype(np.uint8)) for number in range(8)]
    masks += [("ID_0", np.ones((9, 7), np.uint8)), ("ID_1", np.zeros((9, 7), np.uint8))]
    submission.write(tmp_path / "s.csv", masks, "siim", None, ["lung"])
    found = evaluate(tmp_path / "s.csv", tmp_path / "s.csv", (9, 7))
    assert (len(found.ids), found.mean["dice"], found.all_empty["dice"]) == (10, 1, 0.1)
    encoded = csv(tmp_path / "t.csv", **{name: rle.encode(mask) for name, mask in masks})
    assert evaluate(tmp_path / "s.csv", encoded, (9, 7)).mean["dice"] == 1


def test_faults_of_siim_files_are_listed_with_the_others(tmp_path):
    sent = siim(tmp_path / "sent.csv", "a,0 9 9 9", "b,1", "c,", "d,-1", "d,-1")
    solved = siim(tmp_path / "solved.csv", "a,-1", "b,-1", "c,-1", "e,-1")
    with pytest.raises(DataError) as error:
        evaluate(sent, solved, (4, 4))
    message = str(error.value)
    assert f"{sent}: ids that are missing: e; {sent}: ids that aren't in {solved}: d; " in message
    assert "several rows" not in message
    assert all(f"{name} (rle: " in message for name in "abc")


def test_sizes_come_from_the_images(tmp_path):
    from PIL import Image

    folder = tmp_path / "images"
    folder.mkdir()
    Image.new("L", (3, 2)).save(folder / "a.1.png")
    Image.new("L", (2, 5)).save(folder / "b.png")
    (folder / "notes.txt").write_text("no image")
    masks = [("a.1", np.ones((2, 3), np.uint8)), ("b", np.tril(np.ones((5, 2), np.uint8)))]
    submission.write(tmp_path / "s.csv", masks, "tgs", None, ["salt"])
    assert evaluate(tmp_path / "s.csv", tmp_path / "s.csv", folder).cases["iou"].tolist() == [1, 1]
    (folder / "a.1.png").unlink()
    with pytest.raises(DataError, match=r"images that are missing: a\.1$"):
        evaluate(tmp_path / "s.csv", tmp_path / "s.csv", folder)


def test_all_faults_are_listed_at_once(tmp_path):
    sent, solved = tmp_path / "sent.csv", csv(tmp_path / "solved.csv", a="", b="", c="1 99", e="1 1")
    sent.write_text("id,rle_mask\na,1 2 3\nb,x\nc,\nc,\nd,\n")
    with pytest.raises(DataError) as error:
        evaluate(sent, solved, (5, 4))
    message = str(error.value)
    assert f"{sent}: ids that are missing: e;" in message
    assert f"{sent}: ids that aren't in {solved}: d;" in message
    assert f"{sent}: ids with several rows: c;" in message
    assert f"{sent}: masks that don't decode: a (rle: " in message
    assert "b (rle: " in message
    assert f"{solved}: masks that don't decode: c (rle: " in message


@pytest.mark.parametrize("text", ["", "id,mask\na,\n", "ImageId,rle_mask\na,\n"])
def test_a_file_that_is_no_submission_is_named(tmp_path, text):
    (tmp_path / "sent.csv").write_text(text)
    with pytest.raises(DataError, match=r"sent\.csv: lacks the columns"):
        evaluate(tmp_path / "sent.csv", csv(tmp_path / "solved.csv", a=""), (5, 4))


def test_files_and_folders_that_do_not_exist_are_named(tmp_path):
    with pytest.raises(DataError, match=r"sent\.csv: is no file"):
        evaluate(tmp_path / "sent.csv", tmp_path / "solved.csv", (5, 4))
    with pytest.raises(DataError, match="images: is no folder"):
        evaluate(csv(tmp_path / "a.csv", a=""), csv(tmp_path / "b.csv", a=""), tmp_path / "images")


def test_the_labels_of_the_competition_score_one_against_themselves(real_data):
    labels = real_data / "tgs" / "train.csv"
    found = evaluate(labels, labels, (101, 101))
    assert len(found.ids) == 3200
    assert (found.cases["mean_precision"] == 1).all()
