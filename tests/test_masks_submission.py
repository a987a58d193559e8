"""The masks of the blend as they are sent, on maps made by hand."""

import json

import numpy as np
import pytest
from maps_example import SIZE, TRUTHS, data_of, fixed, maps_of, rule, square, triplet, write_maps

from stagepipe import rle
from stagepipe.errors import DataError
from stagepipe.masks import Sources, empty_masks, submit
from stagepipe.recipe.model import Emptiness
from stagepipe.recipe.submission_parts import BinarisePart, SubmitPart


def test_another_blend_decides_which_masks_are_empty(tmp_path):
    data = data_of(tmp_path, TRUTHS)
    table = write_maps(tmp_path / "table.parquet", maps_of(dict.fromkeys(TRUTHS, square(4)), 200, 10))
    decides = write_maps(tmp_path / "emptiness.parquet", maps_of(TRUTHS, 150, 10))
    of = Emptiness(blend={"any": 1.0}, threshold=0.5, minimum_pixels=10)
    assert empty_masks(decides, of) == {"c", "d"}  # 0 and 9 pixels
    assert empty_masks(decides, of.model_copy(update={"minimum_pixels": 1})) == {"c"}
    assert empty_masks(decides, of.model_copy(update={"threshold": 0.6})) == set(TRUTHS)
    (tmp_path / "threshold.json").write_text('{"chosen": 0.5}')
    part = SubmitPart(submission=rule(emptiness=of), classes=["salt"])
    submit(part, Sources(data.samples, table, decides), tmp_path / "threshold.json", None, tmp_path / "s.csv")
    encoded = rle.encode(square(4))
    assert (tmp_path / "s.csv").read_text().splitlines()[1:] == [f"a,{encoded}", f"b,{encoded}", "c,", "d,"]


def test_a_submission_of_another_size_is_resized_after_postprocessing(tmp_path):
    data = data_of(tmp_path, TRUTHS)
    corner, dot = square(4), square(0)
    dot[6, 6] = 1
    table = write_maps(tmp_path / "table.parquet", maps_of({"a": corner | dot, "b": dot, "c": square(8)}, 200, 10))
    (tmp_path / "threshold.json").write_text(json.dumps({"chosen": triplet(0.5, 1, 0.5)}))
    contours = [{"contours": {"area": 0}}]  # a dot, but none of the 2 x 2 pixels that it becomes

    def sent(size: object) -> dict[str, np.ndarray]:
        part = SubmitPart(submission=rule(encode="siim", postprocess=contours, size=size), classes=["salt"])
        submit(part, Sources(data.samples, table), tmp_path / "threshold.json", None, tmp_path / "s.csv")
        header, *lines = [line.split(",") for line in (tmp_path / "s.csv").read_text().splitlines()]
        assert header == ["ImageId", "EncodedPixels"]
        return {name: rle.decode_relative(text, *(size or (SIZE, SIZE))) for name, text in lines}

    for size, factor in ((None, 1), ((16, 16), 2), ((8, 8), 1)):
        masks = sent(size)
        np.testing.assert_array_equal(masks["a"], np.kron(corner, np.ones((factor, factor))))
        assert not masks["b"].any() and masks["c"].all()
    # Half as wide, each pixel is the mean of two.
    np.testing.assert_array_equal(sent((8, 4))["a"], corner[:, ::2])
    # Rows of 5 lie at 0.3, 1.9, 3.5, ...: the third is half way between foreground and background.
    np.testing.assert_array_equal(sent((5, 8))["a"][:, 0], [1, 1, 0, 0, 0])


def test_evaluated_classes_reach_the_scores_and_the_submission(tmp_path):
    truths = {"a": square(4, 2), "b": square(0)}
    data = data_of(tmp_path, truths)
    predicted = {"a": square(2, 2), "b": square(1, 1)}
    maps = {name: np.stack([np.where(mask == value, 90, 80) for value in range(3)]).astype(np.uint8)
            for name, mask in predicted.items()}  # fmt: skip
    classes, evaluated = ["road", "car", "tree"], ["car", "tree"]
    part = BinarisePart(submission=rule(encode="street"), classes=classes, evaluated=evaluated)
    _, rows, _ = fixed(tmp_path, data, maps, part)
    assert [(row["iou"], row["truth_iou"]) for row in rows] == [(1 / 4, 1 / 4), (0, None)]
    sending = SubmitPart(submission=part.submission, classes=classes, evaluated=evaluated)
    submit(sending, Sources(data.samples, tmp_path / "oof.parquet"), tmp_path / "threshold.json", None, tmp_path / "s")
    assert json.loads((tmp_path / "s").read_text()) == {
        "a.jpg": {"tree": {"0": [[0, 1]], "1": [[0, 1]]}},
        "b.jpg": {"car": {"0": [[0, 0]]}},
    }


def test_the_submission_has_the_masks_in_the_order_of_its_rows(tmp_path):
    data = data_of(tmp_path, TRUTHS, black={"d"})
    table = write_maps(tmp_path / "test.parquet", maps_of(TRUTHS, 100, 60))
    (tmp_path / "threshold.json").write_text('{"chosen": 0.3}')
    order = tmp_path / "sample.csv"
    order.write_text("id,rle_mask\nd,\nb,\na,\nc,\n")
    part = SubmitPart(submission=rule(black_is_empty=True), classes=["salt"])
    submit(part, Sources(data.samples, table), tmp_path / "threshold.json", order, tmp_path / "s.csv")
    lines = (tmp_path / "s.csv").read_text().splitlines()
    assert lines == ["id,rle_mask", "d,", f"b,{rle.encode(square(5))}", f"a,{rle.encode(square(4))}", "c,"]
    submit(part, Sources(data.samples, table), tmp_path / "threshold.json", None, tmp_path / "s.csv")
    assert [line[0] for line in (tmp_path / "s.csv").read_text().splitlines()[1:]] == ["a", "b", "c", "d"]
    order.write_text("id,rle_mask\nd,\nb,\na,\n")
    with pytest.raises(DataError, match="masks that have no row: c"):
        submit(part, Sources(data.samples, table), tmp_path / "threshold.json", order, tmp_path / "s.csv")
