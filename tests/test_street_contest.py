"""The score of the Signate contest of 2018, beside a literal port of the organisers' program."""

import copy
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stagepipe import metrics, submission
from stagepipe.cli import main
from stagepipe.errors import DataError
from stagepipe.evaluate import evaluate_street
from stagepipe.street_contest import contest_score

CLASSES = ["car", "pedestrian", "lane", "signal", "sky"]
EVALUATED = CLASSES[:4]


def area(rows):
    return sum(last - first + 1 for runs in rows.values() for first, last in runs)


def common(truth, prediction):
    pixels = 0
    for row in truth:
        if row in prediction:
            for first, last in truth[row]:
                for other_first, other_last in prediction[row]:
                    pixels += max(0, min(last, other_last) - max(first, other_first) + 1)
    return pixels


def organisers(truth, prediction):
    """Score as section 2.9 of the contest's rules reads, pair of runs by pair of runs."""
    total = 0.0
    for image, categories in truth.items():
        ious = 0.0
        for name, rows in categories.items():
            if name in prediction.get(image, {}):
                inside = common(rows, prediction[image][name])
                ious += inside / (area(rows) + area(prediction[image][name]) - inside)
        total += ious / len(categories)
    return total / len(truth)


# Eight pixels of car in two rows, four of lane.
TRUTH = {
    "a.jpg": {"car": {"3": [[0, 3]], "4": [[2, 5]]}, "lane": {"9": [[1, 2], [6, 7]]}},
    "b.jpg": {"lane": {"0": [[5, 5]]}},
}


def test_hand_worked():
    # car of a: 2 + 1 pixels common, 8 true, 2 + 3 predicted; lane of a missed. lane of b: the row is another one.
    prediction = {"a.jpg": {"car": {"3": [[1, 2]], "4": [[5, 7]]}}, "b.jpg": {"lane": {"1": [[5, 5]]}}}
    found = contest_score(TRUTH, prediction)
    assert found.ious == {"a.jpg": {"car": 3 / 10, "lane": 0}, "b.jpg": {"lane": 0}}
    assert found.images == {"a.jpg": 3 / 20, "b.jpg": 0}
    assert found.mean == 3 / 40
    assert found.categories == {"car": 3 / 10, "lane": 0}
    assert found.left_out == 0
    assert contest_score(TRUTH, TRUTH).mean == 1


def test_what_only_the_prediction_has_costs_nothing():
    # The specification's case: 0.125 with and without a false signal.
    truth = {"a.jpg": {"car": {"0": [[0, 3]]}, "lane": {"5": [[0, 9]]}}}
    prediction = {"a.jpg": {"car": {"0": [[3, 3]]}}}
    assert contest_score(truth, prediction).mean == 0.125
    prediction["a.jpg"]["signal"] = {"0": [[0, 999]]}
    prediction["unknown.jpg"] = {"car": {"0": [[0, 3]]}}
    assert contest_score(truth, prediction).mean == 0.125 == organisers(truth, prediction)
    # But a larger mask of a category that is there does.
    prediction["a.jpg"]["car"]["1"] = [[0, 3]]
    assert contest_score(truth, prediction).mean == 1 / 8 / 2


def test_missing_images_and_categories_score_zero_and_images_without_any_are_left_out():
    empty = TRUTH | {"c.jpg": {}, "d.jpg": {}}
    found = contest_score(empty, {"a.jpg": {"car": TRUTH["a.jpg"]["car"]}, "c.jpg": TRUTH["a.jpg"]})
    assert (found.images, found.left_out, found.mean) == ({"a.jpg": 0.5, "b.jpg": 0}, 2, 0.25)
    assert contest_score(TRUTH, {"a.jpg": {"car": {}, "lane": {"9": []}}}).mean == 0
    with pytest.raises(DataError, match="truth: no image has a category"):
        contest_score({"c.jpg": {}}, {})


def test_nothing_given_changes():
    prediction = {"a.jpg": {"car": {"4": [[4, 5], [2, 2]], "3": [[0, 3]]}}}
    before = copy.deepcopy((TRUTH, prediction))
    assert contest_score(TRUTH, prediction).ious == contest_score(TRUTH, prediction).ious
    assert (TRUTH, prediction) == before


def random_runs(random):
    """{image: {category: rows}}; runs in any order, apart from each other or side by side."""

    def row():
        ends = np.sort(random.choice(40, 2 * random.integers(1, 5), replace=False)).reshape(-1, 2).tolist()
        if ends[-1][1] < 39 and random.random() < 0.5:
            ends.append([ends[-1][1] + 1, 39])
        return [ends[place] for place in random.permutation(len(ends))]

    def some(names, most):
        return random.choice(names, random.integers(1, most + 1), replace=False).tolist()

    return {
        image: {name: {str(number): row() for number in some(12, 4)} for name in some(EVALUATED, 4)}
        for image in some(list("abcd"), 4)
    }


@given(st.integers(0, 10**6))
def test_it_is_the_organisers_score(seed):
    random = np.random.default_rng(seed)
    truth, prediction = random_runs(random), random_runs(random)
    assert contest_score(truth, prediction).mean == pytest.approx(organisers(truth, prediction), abs=1e-12)


@given(st.integers(0, 10**6), st.integers(1, 5))
def test_the_score_of_runs_is_truth_iou_of_their_masks(seed, images):
    random = np.random.default_rng(seed)
    masks = random.choice(5, (2, images, 6, 9), p=random.dirichlet([0.3] * 5)).astype(np.uint8)
    truth, prediction = (
        {f"{number}.jpg": submission.street_runs(mask, CLASSES, EVALUATED) for number, mask in enumerate(several)}
        for several in masks
    )
    counts = np.stack([metrics.intersections(*pair, 5) for pair in zip(*masks, strict=True)])
    scores = metrics.scores(counts, metrics.scored_indices(CLASSES, EVALUATED, None))["truth_iou"]
    if np.isnan(scores).all():
        with pytest.raises(DataError, match="no image has a category"):
            contest_score(truth, prediction)
        return
    found = contest_score(truth, prediction)
    assert found.mean == pytest.approx(np.nanmean(scores), abs=1e-12)
    assert found.left_out == np.isnan(scores).sum()


@pytest.mark.parametrize(
    ("categories", "message"),
    [
        ({"car": {"0": [[3, 2]]}}, r"a\.jpg car \(row 0: \[3, 2\] is no run; write \[first, last\]"),
        ({"car": {"0": [[-1, 2]]}}, r"row 0: \[-1, 2\] is no run"),
        ({"car": {"0": [[0, 1 << 30]]}}, "row 0: .* is no run"),
        ({"car": {"0": [[0.0, 2]]}}, r"row 0: \[0\.0, 2\] is no run"),
        ({"car": {"0": [[True, 2]]}}, r"row 0: \[True, 2\] is no run"),
        ({"car": {"0": [[1, 2, 3]]}}, r"row 0: \[1, 2, 3\] is no run"),
        ({"car": {"0": [1, 2]}}, "row 0: 1 is no run"),
        ({"car": {"0": "[[1, 2]]"}}, r"row 0: is '\[\[1, 2\]\]'; write a list of runs"),
        ({"car": {"0": {"1": 2}}}, "row 0: is dict; write a list of runs"),
        ({"car": {"x": [[1, 2]]}}, "row 'x': write a whole number from 0 as text"),
        ({"car": {"-1": [[1, 2]]}}, "row '-1': write"),
        ({"car": {"01": [[1, 2]]}}, "row '01': write"),
        ({"car": {"9" * 5000: [[1, 2]]}}, "row '999"),
        ({"car": {1: [[1, 2]]}}, "row 1: write"),
        ({"car": [[1, 2]]}, r"is \[\[1, 2\]\]; write its rows"),
        (None, "is None; write its categories"),
        ({"car": {"7": [[8, 9], [2, 4], [4, 6]]}}, r"row 7: \[2, 4\] and \[4, 6\] overlap; count each pixel once"),
    ],
)
def test_what_is_no_run_is_named(categories, message):
    for pair in (({"a.jpg": categories}, {}), (TRUTH, {"a.jpg": categories})):
        with pytest.raises(DataError, match=message) as error:
            contest_score(*pair)
        assert str(error.value).startswith(("truth: ", "prediction: "))


def test_all_faults_are_listed_and_truths_without_a_pixel():
    prediction = {"a.jpg": {"car": {"x": []}, "lane": {"0": [[0, 1]]}}, "b.jpg": []}
    with pytest.raises(DataError, match=r"^prediction: runs that can't be read: a\.jpg car \(.*\), b\.jpg \("):
        contest_score(TRUTH, prediction)
    with pytest.raises(DataError, match=r"^truth: categories without a pixel: c car; leave them out"):
        contest_score({"c": {"car": {"0": []}}}, {})
    with pytest.raises(DataError, match=r"^truth: is \[\]; write"):
        contest_score([], {})


# --------------------------------------------------------------------------------------------------------------- files


def write(path, found):
    path.write_text(found if isinstance(found, str) else json.dumps(found), encoding="utf-8")
    return path


def test_files_of_masks(tmp_path):
    random = np.random.default_rng(3)
    masks = [(f"test_{number:04}", random.integers(0, 5, (8, 11)).astype(np.uint8)) for number in range(4)]
    for name, several in (("solved", masks), ("sent", [(name, mask[::-1]) for name, mask in masks])):
        submission.write(tmp_path / f"{name}.json", several, "street", None, CLASSES, EVALUATED)
    found = evaluate_street(tmp_path / "sent.json", tmp_path / "solved.json")
    counts = np.stack([metrics.intersections(mask, mask[::-1], 5) for _, mask in masks])
    scores = metrics.scores(counts, [0, 1, 2, 3])["truth_iou"]
    assert found.mean == pytest.approx(scores.mean(), abs=1e-12)
    assert list(found.cases.columns) == ["id", "score", *sorted(EVALUATED)]
    assert found.cases["score"].tolist() == pytest.approx(scores.tolist())
    assert found.cases["id"].tolist() == [f"{name}.jpg" for name, _ in masks]


def test_faults_of_files(tmp_path):
    solved = write(tmp_path / "solved.json", TRUTH)
    with pytest.raises(DataError, match=r"sent\.json: images that are missing: b\.jpg; .*: c\.jpg$"):
        evaluate_street(write(tmp_path / "sent.json", {"a.jpg": {}, "c.jpg": {}}), solved)
    with pytest.raises(DataError, match=r"sent\.json: runs that can't be read: b\.jpg lane \(row 0"):
        evaluate_street(write(tmp_path / "sent.json", TRUTH | {"b.jpg": {"lane": {"0": [[2, 1]]}}}), solved)
    for text, message in (
        ("{", "isn't readable JSON"),
        ("[" * 100_000, "isn't readable JSON"),
        ("[]", "holds list, not runs"),
        ('{"a.jpg": {}, "a.jpg": {}}', r"isn't readable JSON \(the key 'a\.jpg' stands twice"),
    ):
        with pytest.raises(DataError, match=rf"sent\.json: {message}"):
            evaluate_street(write(tmp_path / "sent.json", text), solved)
    with pytest.raises(DataError, match=r"none\.json: is no file"):
        evaluate_street(tmp_path / "none.json", solved)


def test_the_command_prints_the_score_and_writes_images(tmp_path, capsys):
    solved = write(tmp_path / "solved.json", TRUTH | {"c.jpg": {}})
    sent = write(
        tmp_path / "sent.json", {"a.jpg": {"car": TRUTH["a.jpg"]["car"]}, "b.jpg": TRUTH["b.jpg"], "c.jpg": {}}
    )
    files, output = [str(sent), str(solved)], tmp_path / "cases.csv"
    assert main(["evaluate", *files, "--output", str(output)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "contest score   0.750000",
        "car             1.000000",
        "lane            0.500000",
        "images          2   and 1 without a category, left out",
    ]
    assert output.read_text().splitlines() == ["id,score,car,lane", "a.jpg,0.5,1.0,0.0", "b.jpg,1.0,,1.0"]
    with pytest.raises(SystemExit):
        main(["evaluate", *files, "--size", "5", "4"])
    assert "--images and --size are for CSV files" in capsys.readouterr().err
