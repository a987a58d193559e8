"""The search of a blend's shares, beside a literal loop over candidates, rules and images."""

import itertools
import json
import tracemalloc

import numpy as np
import pyarrow as pa
import pytest
import tiny

from stagepipe import binarise, blend_search, ensemble, metrics, probabilities, triplets
from stagepipe.artefacts import read_table
from stagepipe.errors import ArtefactError
from stagepipe.probabilities import ProbabilityWriter
from stagepipe.recipe.averages import EnsemblePart
from stagepipe.recipe.model import Submission
from stagepipe.recipe.submission_parts import SearchBlendPart

FIXED = {"threshold": {"value": 0.4, "metric": "dice"}}
SEARCHED = {"threshold": {"value": None, "metric": "iou"}}
TRIPLETS = {
    "threshold": {"metric": "mean_precision"},
    "triplets": [{"top": [0.5, 0.7], "area": [0, 20], "bottom": [0.3, 0.45], "size": [7, 9]}, {"bottom": 0.5}],
}


def rule(**changes):
    return Submission(blend={"any": 1.0}, **changes)


def write(path, maps):
    with ProbabilityWriter(path) as writer:
        for sample_id, quantised in sorted(maps.items()):
            writer.add_quantised(sample_id, np.asarray(quantised, np.uint8))
    return path


class Runs:
    """Tables of several runs, two folds each, and their truths."""

    def __init__(self, folder, maps, truths, folds=2):
        self.names = [f"stage/run{number}" for number in range(len(maps))]
        self.maps, self.truths = maps, truths
        self.folds = {name: position % folds for position, name in enumerate(sorted(truths))}
        self.tables = [
            [
                write(folder / f"run{number}_{fold}.parquet", {n: m for n, m in own.items() if self.folds[n] == fold})
                for fold in range(folds)
            ]
            for number, own in enumerate(maps)
        ]

    def search(self, of, step, written=None):
        shares = dict(zip(self.names, written or [1 / len(self.names)] * len(self.names), strict=True))
        return blend_search.search(self.tables, shares, self.truths.__getitem__, self.folds, of, step)


def random_runs(folder, seed, runs, images=9, height=7, width=9, folds=2):
    """Maps that know something of their truths, a third of which are empty; each run is better on some of them."""
    random = np.random.default_rng(seed)
    truths = {
        f"{i:03}": (random.random((height, width)) < random.choice([0, 0.2, 0.6])).astype(np.uint8)
        for i in range(images)
    }
    maps = [
        {
            name: np.clip(truth * random.integers(20, 200) + random.normal(60, 50, truth.shape), 0, 255)[None]
            for name, truth in truths.items()
        }
        for _ in range(runs)
    ]
    return Runs(folder, maps, truths, folds)


def literal_shares(runs, steps):
    """Nearest to equal shares first, then in lexical order."""
    every = [units for units in itertools.product(range(steps + 1), repeat=runs) if sum(units) == steps]
    return [
        [unit / steps for unit in units]
        for units in sorted(every, key=lambda units: (sum((unit * runs - steps) ** 2 for unit in units), units))
    ]


def literal_rules(of):
    if of.triplets:
        return triplets.expand(of.triplets)
    if of.threshold.value is not None:
        return [of.threshold.value]
    # Thresholds lie on half steps of 1/255: the nearest to 0.5 first, then the lower.
    return sorted(binarise.GRID.tolist(), key=lambda threshold: (abs(round(510 * threshold) - 255), threshold))


def literal_scores(runs, of, shares):
    """[images, candidates, rules] by averaging tables, making masks and comparing them with the truth."""
    found = []
    for candidate in shares:
        blended = dict(ensemble.average(runs.tables, candidate))
        assert list(blended) == sorted(runs.truths)
        of_image = []
        for name, quantised in blended.items():
            masks = [binarise.apply(quantised, made_by) for made_by in literal_rules(of)]
            counts = np.stack([metrics.intersections(runs.truths[name], mask, 1) for mask in masks])
            of_image.append(metrics.scores(counts)[of.threshold.metric])
        found.append(of_image)
    return np.array(found).transpose(1, 0, 2)


def first_best(scores):
    return next(place for place, score in enumerate(scores) if score >= max(scores) - 1e-12)


@pytest.mark.parametrize("keys", [FIXED, SEARCHED, TRIPLETS], ids=["fixed", "searched", "triplets"])
@pytest.mark.parametrize(("runs", "steps"), [(1, 2), (2, 10), (3, 3), (4, 2)])
def test_equals_the_literal_search(tmp_path, runs, steps, keys):
    tables, of = random_runs(tmp_path, 10 * runs + steps, runs), rule(**keys)
    written = [number + 1 for number in range(runs)]
    found = tables.search(of, 1 / steps, [share / sum(written) for share in written])
    shares = literal_shares(runs, steps)
    assert found.shares.tolist() == shares
    scores = literal_scores(tables, of, [*shares, [1] * runs, written])
    pooled = scores.mean(axis=0).max(axis=1)
    np.testing.assert_allclose(found.scores, pooled[:-2], rtol=0, atol=1e-9)
    assert found.best.tolist() == shares[first_best(pooled[:-2])]
    assert found.score == pytest.approx(pooled[:-2].max(), abs=1e-9)
    assert found.equal_shares_score == pytest.approx(pooled[-2], abs=1e-9)
    assert found.written_shares_score == pytest.approx(pooled[-1], abs=1e-9)
    assert found.totals.shape == (2, len(shares), len(literal_rules(of)))


@pytest.mark.parametrize("keys", [FIXED, SEARCHED, TRIPLETS], ids=["fixed", "searched", "triplets"])
def test_nested_chooses_shares_and_rule_on_the_other_folds(tmp_path, keys):
    tables, of = random_runs(tmp_path, 3, runs=2, images=14, folds=3), rule(**keys)
    found = tables.search(of, 0.25)
    shares = literal_shares(2, 4)
    scores, fold_of = literal_scores(tables, of, shares), np.array(list(tables.folds.values()))
    total = 0.0
    for fold in range(3):
        curve = scores[fold_of != fold].mean(axis=0)
        candidate = first_best(curve.max(axis=1))
        assert found.by_fold[fold].tolist() == shares[candidate]
        total += scores[fold_of == fold, candidate, first_best(curve[candidate])].sum()
    assert found.nested == pytest.approx(total / 14, abs=1e-9)
    assert found.nested <= found.score + 1e-12


def test_many_runs_are_searched_like_few(tmp_path):
    tables, of = random_runs(tmp_path, 0, runs=9, images=4), rule(**FIXED)
    found = tables.search(of, 0.5)
    assert len(found.shares) == 45  # nine pairs of a run with itself, 36 of two
    expected = literal_scores(tables, of, found.shares.tolist()).mean(axis=0).max(axis=1)
    np.testing.assert_allclose(found.scores, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize(("runs", "step", "count"), [(4, 0.1, 286), (4, 0.05, 1771), (3, 1 / 3, 10), (1, 0.1, 1)])
def test_candidates_are_all_multiples_that_sum_to_1(runs, step, count):
    shares = blend_search.candidates(runs, step)
    assert shares.shape == (count, runs)
    np.testing.assert_allclose(shares.sum(axis=1), 1, rtol=0, atol=1e-12)
    np.testing.assert_allclose(shares / step, np.round(shares / step), rtol=0, atol=1e-6)
    assert len(np.unique(shares, axis=0)) == count


def test_a_step_must_divide_1():
    with pytest.raises(ValueError, match=r"step 0\.3 doesn't divide 1"):
        blend_search.candidates(2, 0.3)


def test_pixels_are_rounded_as_the_blend_rounds_them(tmp_path):
    # Every pair of values, so that many blends lie halfway between two levels, at every threshold.
    pairs = np.mgrid[:256, :256].astype(np.uint8)
    truth = (np.random.default_rng(0).random((256, 256)) < 0.5).astype(np.uint8)
    maps = [{"a": values[None], "b": values[None]} for values in pairs]
    tables = Runs(tmp_path, maps, dict.fromkeys("ab", truth))
    of = rule(threshold={"value": None, "metric": "iou"})
    found = tables.search(of, 0.1)
    place = found.shares.tolist().index([0.3, 0.7])
    part = EnsemblePart(runs=[{"weight": 1.0}] * 2, split="out_of_fold")
    flat = [table for own in tables.tables for table in own]
    blended = dict(ensemble.average_runs(flat, part, found.shares[place].tolist()))["a"]
    for number, threshold in enumerate(literal_rules(of)):
        counts = metrics.intersections(truth, binarise.apply(blended, threshold), 1)
        assert found.totals[0, place, number] == metrics.scores(counts[None])["iou"].item()


def test_halves_round_up(tmp_path):
    # (127 + 128) / 2 = 127.5 becomes 128, which is above one half; (126 + 128) / 2 = 127 is not.
    maps = [{"a": [[[127]]], "b": [[[126]]]}, {"a": [[[128]]], "b": [[[128]]]}]
    tables = Runs(tmp_path, maps, dict.fromkeys("ab", np.ones((1, 1), np.uint8)))
    found = tables.search(rule(), 0.5)
    assert found.shares.tolist() == [[0.5, 0.5], [0, 1], [1, 0]]
    assert found.scores.tolist() == [0.5, 1, 0]


def test_of_equal_candidates_the_nearest_to_equal_shares_wins_then_the_lexical_first(tmp_path):
    truths = {name: np.array([[1, 0]], np.uint8) for name in "abcd"}
    same = {name: [[[255, 0]]] for name in truths}
    halves = Runs(tmp_path, [same, same], truths).search(rule(), 0.1)
    assert (halves.best.tolist(), halves.score, halves.nested) == ([0.5, 0.5], 1, 1)
    thirds = Runs(tmp_path, [same, same], truths).search(rule(), 1 / 3)
    assert thirds.best.tolist() == [1 / 3, 2 / 3]
    assert [shares.tolist() for shares in thirds.by_fold.values()] == [[1 / 3, 2 / 3]] * 2


def test_truth_that_no_run_sees_counts_as_missed(tmp_path):
    truth = np.array([[1, 1, 1, 0]], np.uint8)
    tables = Runs(tmp_path, [{"a": [[[255, 0, 3, 0]]], "b": [[[0, 0, 0, 0]]]}], {"a": truth, "b": truth})
    found = tables.search(rule(threshold={"metric": "iou"}), 0.1)
    assert found.totals[:, 0, 0].tolist() == pytest.approx([1 / 3, 0])


def test_written_shares_reach_the_blend_in_the_order_of_the_runs(tmp_path):
    tables = random_runs(tmp_path, 5, runs=3)
    tables.names = ["z/second", "a/third", "z/first"]
    found = tables.search(rule(**TRIPLETS), 0.5)
    blend_search.write(found, tmp_path / "blend.json", tmp_path / "blends.parquet")
    written = json.loads((tmp_path / "blend.json").read_text())
    assert list(written["shares"]) == tables.names
    assert ensemble.read_shares(tmp_path / "blend.json") == found.best.tolist()
    assert written["by_fold"] == {
        str(fold): dict(zip(tables.names, shares.tolist(), strict=True)) for fold, shares in found.by_fold.items()
    }
    keys = ("score", "nested", "equal_shares_score", "written_shares_score")
    assert [written[key] for key in keys] == [getattr(found, key) for key in keys]
    rows = read_table(tmp_path / "blends.parquet")
    assert rows.column_names == [*tables.names, "score"]
    assert np.array([rows[name].to_numpy() for name in tables.names]).T.tolist() == found.shares.tolist()
    assert rows["score"].to_pylist() == found.scores.tolist()


def test_what_a_recipe_asks_for_is_searched_on_its_own_data(tmp_path):
    data = tiny.survey(tmp_path)
    truths = {
        row["sample_id"]: data.store.mask(number)
        for number, row in enumerate(data.table.to_pylist())
        if row["split"] == "train"
    }
    good = {name: 40 + 150 * (truth[None] > 0) for name, truth in truths.items()}
    bad = {name: 40 + 150 * (truth[None] == 0) for name, truth in truths.items()}
    tables = [
        write(tmp_path / f"{kind}{fold}.parquet", {n: m for n, m in maps.items() if data.fold_of()[n] == fold})
        for kind, maps in (("bad", bad), ("good", good))
        for fold in range(2)
    ]
    part = SearchBlendPart(runs={"s/bad": 0.8, "s/good": 0.2}, step=0.25, submission=rule())
    found = blend_search.search_part(part, data.samples, data.pixels, data.folds, tables)
    assert found.best.tolist() == [0.25, 0.75]
    assert (found.score, found.nested) == (1, 1)
    assert found.written_shares_score < found.equal_shares_score < 1
    assert found.images.sum() == len(truths)


@pytest.mark.parametrize(
    ("maps", "truth", "folds", "message"),
    [
        (np.zeros((2, 4, 4)), np.zeros((4, 4)), {"a": 0}, r"'a': the map is \(2, 4, 4\) for a mask \(4, 4\)"),
        (np.zeros((1, 4, 5)), np.zeros((4, 4)), {"a": 0}, r"'a': the map is \(1, 4, 5\) for a mask \(4, 4\)"),
        (np.zeros((1, 4, 4)), np.zeros((4, 4)), {"b": 0}, "'a' has an out-of-fold map but no fold"),
    ],
)
def test_maps_that_do_not_fit_are_named(tmp_path, maps, truth, folds, message):
    table = write(tmp_path / "a.parquet", {"a": maps})
    with pytest.raises(ArtefactError, match=message):
        blend_search.search([[table]], {"s/r": 1.0}, lambda _: truth.astype(np.uint8), folds, rule(), 0.5)


def test_no_map_is_an_error_and_so_is_nesting_in_one_fold(tmp_path):
    with pytest.raises(ArtefactError, match="no out-of-fold map"):
        blend_search.search([[write(tmp_path / "none.parquet", {})]], {"s/r": 1.0}, lambda _: 1 / 0, {}, rule(), 0.5)
    alone = Runs(tmp_path, [{"a": [[[255]]]}], {"a": np.ones((1, 1), np.uint8)}, folds=1).search(rule(), 0.5)
    assert alone.score == 1
    with pytest.raises(ValueError, match="two folds"):
        _ = alone.nested


def test_memory_does_not_grow_with_images(tmp_path, monkeypatch):
    monkeypatch.setattr(probabilities, "ROW_GROUP_BYTES", 2**12)
    truth = np.ones((16, 16), np.uint8)

    def peak(images):
        random = np.random.default_rng(0)
        maps = {f"{i:05}": random.integers(0, 256, (1, 16, 16), dtype=np.uint8) for i in range(images)}
        tables = Runs(tmp_path, [maps] * 3, dict.fromkeys(maps, truth))
        del maps, tables.maps
        pa.default_memory_pool().release_unused()
        tracemalloc.start()
        found = tables.search(rule(**TRIPLETS), 0.1)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most, found.totals.shape

    peak(20)  # imports and caches
    few, many = peak(80), peak(400)
    assert many[1] == few[1] == (2, 66, 9)
    # The scores of 320 more images at 66 candidates and 9 rules would take 1.5 MB.
    assert many[0] < few[0] + 2**19
