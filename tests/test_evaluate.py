import numpy as np
import pytest

from stagepipe import submission
from stagepipe.errors import DataError
from stagepipe.evaluate import evaluate


def csv(path, **masks):
    path.write_text("id,rle_mask\n" + "".join(f"{name},{text}\n" for name, text in masks.items()))
    return path


def test_hand_worked_scores(tmp_path):
    # a: 8 of 10 pixels, IoU 0.8 is above 0.50 ... 0.75 (6 thresholds), not above 0.80. c: one is empty. d: both are.
    sent = csv(tmp_path / "sent.csv", d="", a="1 8", b="3 4", c="1 1")
    solved = csv(tmp_path / "solved.csv", a="1 10", b="3 4", c="", d="")
    frame = evaluate(sent, solved, (5, 4))
    assert frame["id"].tolist() == ["a", "b", "c", "d", "mean"]
    assert frame["mean_precision"].tolist() == pytest.approx([0.6, 1, 0, 1, 2.6 / 4])
    assert frame["iou"].tolist() == pytest.approx([0.8, 1, 0, 1, 2.8 / 4])
    assert frame["dice"].tolist() == pytest.approx([16 / 18, 1, 0, 1, (16 / 18 + 2) / 4])


def test_sizes_come_from_the_images(tmp_path):
    from PIL import Image

    folder = tmp_path / "images"
    folder.mkdir()
    Image.new("L", (3, 2)).save(folder / "a.png")
    Image.new("L", (2, 5)).save(folder / "b.png")
    (folder / "notes.txt").write_text("no image")
    masks = [("a", np.ones((2, 3), np.uint8)), ("b", np.tril(np.ones((5, 2), np.uint8)))]
    submission.write(tmp_path / "s.csv", masks, "tgs", None, ["salt"])
    assert evaluate(tmp_path / "s.csv", tmp_path / "s.csv", folder)["iou"].tolist() == [1, 1, 1]
    (folder / "a.png").unlink()
    with pytest.raises(DataError, match=r"images that are missing: a$"):
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


@pytest.mark.parametrize("text", ["", "id,mask\na,\n"])
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
    frame = evaluate(labels, labels, (101, 101))
    assert len(frame) == 3201
    assert (frame["mean_precision"] == 1).all()
