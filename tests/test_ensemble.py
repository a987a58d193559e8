import tracemalloc
from fractions import Fraction

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stagepipe import ensemble, probabilities
from stagepipe.errors import ArtefactError
from stagepipe.probabilities import ProbabilityWriter, iterate
from stagepipe.recipe.averages import EnsemblePart


def write(path, maps):
    with ProbabilityWriter(path) as writer:
        for sample_id, quantised in maps.items():
            writer.add_quantised(sample_id, np.asarray(quantised, np.uint8))
    return path


def tables(folder, *members):
    return [[write(folder / f"member{i}.parquet", maps)] for i, maps in enumerate(members)]


def half_up(values, weights):
    """Weighted mean in exact fractions, rounded half up."""
    mean = sum(Fraction(w) * int(v) for v, w in zip(values, weights, strict=True)) / sum(map(Fraction, weights))
    return int(mean + Fraction(1, 2))


def test_hand_worked_mean(tmp_path):
    members = tables(tmp_path, {"a": [[[0, 10, 255]]]}, {"a": [[[1, 13, 255]]]}, {"a": [[[2, 20, 0]]]})
    # (0 + 3 + 4) / 6 = 1.17, (10 + 39 + 40) / 6 = 14.83, 255 * 4 / 6 = 170
    ((sample_id, mean),) = ensemble.average(members, [1, 3, 2])
    assert (sample_id, mean.dtype, mean.tolist()) == ("a", np.uint8, [[[1, 15, 170]]])


def test_halves_round_up(tmp_path):
    members = tables(tmp_path, {"a": [[[0, 1, 254, 127]]]}, {"a": [[[1, 2, 255, 128]]]})
    assert next(ensemble.average(members, [0.5, 0.5]))[1].tolist() == [[[1, 2, 255, 128]]]


@settings(max_examples=40, deadline=None)
@given(data=st.data(), count=st.integers(1, 4))
def test_equals_exact_fractions_in_any_order(tmp_path_factory, data, count):
    folder = tmp_path_factory.mktemp("members")
    values = np.array(
        data.draw(st.lists(st.lists(st.integers(0, 255), min_size=6, max_size=6), min_size=count, max_size=count))
    )
    tenths = data.draw(st.lists(st.integers(1, 30), min_size=count, max_size=count))
    members = tables(folder, *[{"a": row.reshape(1, 2, 3)} for row in values])
    expected = [half_up(column, [Fraction(t, 10) for t in tenths]) for column in values.T]
    order = data.draw(st.permutations(range(count)))
    ((_, mean),) = ensemble.average([members[i] for i in order], [tenths[i] / 10 for i in order])
    assert mean.ravel().tolist() == expected


def test_maps_of_several_blocks_are_averaged_whole(tmp_path):
    shape = (2, 150, ensemble.BLOCK // 200)
    values = np.random.default_rng(0).integers(0, 256, (3, *shape))
    members = tables(tmp_path, *({"a": member} for member in values))
    ((_, mean),) = ensemble.average(members, [1, 3, 2])
    np.testing.assert_array_equal(mean, (2 * (values[0] + 3 * values[1] + 2 * values[2]) + 6) // 12)
    ((_, geometric),) = ensemble.average(members, [1, 1, 1], mean="geometric")
    literal = np.exp(np.log(np.maximum(values, ensemble.QUARTER_STEP)).mean(axis=0))
    np.testing.assert_array_equal(geometric, np.floor(literal + 0.5))


def test_out_of_fold_tables_are_merged_by_id(tmp_path):
    random = np.random.default_rng(0)
    maps = {f"{i:02}": random.integers(0, 256, (2, 3, 4), dtype=np.uint8) for i in range(20)}
    by_fold = [write(tmp_path / f"fold{k}.parquet", dict(list(maps.items())[k::3])) for k in range(3)]
    whole = write(tmp_path / "whole.parquet", maps)
    averaged = dict(ensemble.average([by_fold, [whole]], [1, 1]))
    assert list(averaged) == list(maps)
    for sample_id, quantised in maps.items():
        np.testing.assert_array_equal(averaged[sample_id], quantised)


def test_written_table_reads_back(tmp_path):
    members = tables(tmp_path, {"a": [[[4]]], "b": [[[6]]]}, {"a": [[[8]]], "b": [[[6]]]})
    ensemble.write(tmp_path / "mean.parquet", ensemble.average(members, [1, 1]))
    assert [(name, int(mean.item())) for name, mean in iterate(tmp_path / "mean.parquet")] == [("a", 6), ("b", 6)]


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"a": 1, "c": 1}, r"member1\.parquet: has sample 'c' where .*member0\.parquet has 'b'"),
        ({"a": 1, "aa": 1, "b": 1}, r"member0\.parquet: has sample 'b' where .*member1\.parquet has 'aa'"),
        ({"a": 1}, r"member1\.parquet: lacks sample 'b', which .*member0"),
        ({"a": 1, "b": 1, "c": 1}, r"member0\.parquet: lacks sample 'c', which .*member1"),
    ],
)
def test_members_of_different_samples_are_named(tmp_path, other, message):
    members = tables(tmp_path, {"a": [[[1]]], "b": [[[1]]]}, {name: [[[value]]] for name, value in other.items()})
    with pytest.raises(ArtefactError, match=message):
        ensemble.write(tmp_path / "mean.parquet", ensemble.average(members, [1, 1]))
    assert not (tmp_path / "mean.parquet").exists()


def test_a_sample_in_two_tables_of_a_member_is_named(tmp_path):
    first, second = tables(tmp_path, {"a": [[[1]]]}, {"a": [[[1]]]})
    with pytest.raises(ArtefactError, match=r"holds sample 'a', which .* of the same member holds too"):
        list(ensemble.average([first + second], [1]))


def test_shapes_must_agree(tmp_path):
    members = tables(tmp_path, {"a": np.zeros((1, 2, 2))}, {"a": np.zeros((1, 2, 3))})
    with pytest.raises(ArtefactError, match=r"sample 'a' is \(1, 2, 3\)"):
        list(ensemble.average(members, [1, 1]))


def test_geometric_mean_by_hand(tmp_path):
    members = tables(tmp_path, {"a": [[[100, 0, 255, 0]]]}, {"a": [[[25, 255, 255, 0]]]})
    # sqrt(100 * 25) = 50; a quarter step in place of 0: sqrt(0.25 * 255) = 7.98
    ((_, mean),) = ensemble.average(members, [1, 1], mean="geometric")
    assert mean.tolist() == [[[50, 8, 255, 0]]]
    ((_, weighted),) = ensemble.average(members, [3, 1], mean="geometric")
    assert weighted[0, 0, 0] == round(100**0.75 * 25**0.25)


def part(split, *rescale, weights=None, mean="arithmetic"):
    weights = weights or [1] * len(rescale)
    runs = [{"weight": weight, "rescale": how} for weight, how in zip(weights, rescale, strict=True)]
    return EnsemblePart(runs=runs, split=split, mean=mean)


def test_a_run_is_stretched_by_the_range_of_its_average_over_folds(tmp_path):
    folds = [{"a": [[[50, 60]]], "b": [[[70, 110]]]}, {"a": [[[70, 60]]], "b": [[[90, 150]]]}]
    plain = [{"a": [[[0, 255]]], "b": [[[0, 255]]]}] * 2
    paths = [table for member in tables(tmp_path, *folds, *plain) for table in member]
    # averages over folds: a 60 60, b 80 130; stretched by 60..130: a 0 0, b 72.86 255
    stretched = dict(ensemble.average_runs(paths[:2], part("test", "minmax")))
    assert {name: mean.ravel().tolist() for name, mean in stretched.items()} == {"a": [0, 0], "b": [73, 255]}
    blended = dict(ensemble.average_runs(paths, part("test", "minmax", "none")))
    assert {name: mean.ravel().tolist() for name, mean in blended.items()} == {"a": [0, 128], "b": [36, 255]}
    left = dict(ensemble.average_runs(paths[:2], part("test", "none")))
    assert {name: mean.ravel().tolist() for name, mean in left.items()} == {"a": [60, 60], "b": [80, 130]}


def test_out_of_fold_a_run_is_stretched_over_all_its_tables(tmp_path):
    paths = [table for (table,) in tables(tmp_path, {"a": [[[50, 60]]]}, {"b": [[[70, 150]]]})]
    found = dict(ensemble.average_runs(paths, part("out_of_fold", "minmax")))
    assert {name: mean.ravel().tolist() for name, mean in found.items()} == {"a": [0, 26], "b": [51, 255]}


def test_a_flat_run_is_not_stretched(tmp_path):
    ((path,),) = tables(tmp_path, {"a": [[[9, 9]]]})
    assert next(ensemble.average_runs([path], part("test", "minmax")))[1].tolist() == [[[9, 9]]]


def test_folds_of_a_run_weigh_alike_and_runs_by_their_ratio(tmp_path):
    maps = [{"a": [[[value]]]} for value in (0, 100, 200, 240)]
    paths = [table for (table,) in tables(tmp_path, *maps)]
    ((_, mean),) = ensemble.average_runs(paths, part("test", "none", "none", weights=[3, 1]))
    assert mean.item() == round((3 * 50 + 220) / 4 + 1e-9)


def test_searched_shares_stand_in_the_place_of_weights(tmp_path):
    paths = [table for (table,) in tables(tmp_path, *({"a": [[[value]]]} for value in (0, 100, 200, 240)))]
    (tmp_path / "blend.json").write_text('{"shares": {"z/a": 0.75, "b/c": 0.25}, "score": 0.5}')
    shares = ensemble.read_shares(tmp_path / "blend.json")
    ((_, mean),) = ensemble.average_runs(paths, part("test", "none", "none"), shares)
    assert mean.item() == (3 * 50 + 220) // 4 + 1  # 92.5 rounded up
    ((_, mean),) = ensemble.average_runs(paths[:2], part("out_of_fold", "none", "none"), shares)
    assert mean.item() == 25


def test_runs_without_a_share_are_not_read(tmp_path):
    ((path,),) = tables(tmp_path, {"a": [[[7]]]})
    ((_, mean),) = ensemble.average_runs([tmp_path / "absent.parquet", path], part("test", "none", "none"), [0.0, 1.0])
    assert mean.item() == 7


@pytest.mark.parametrize(
    ("members", "weights"), [([], []), ([["p"]], [1, 1]), ([["p"]], [0]), ([["p"], ["q"]], [2, -1]), ([[]], [1])]
)
def test_weights_must_be_ratios(members, weights):
    with pytest.raises(ValueError, match="weights"):
        ensemble.average(members, weights)


def test_damage_is_found_before_the_first_map(tmp_path):
    ((path,),) = tables(tmp_path, {"a": np.zeros((1, 50, 50))})
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ArtefactError, match=r"member0\.parquet"):
        next(ensemble.average([[path]], [1]))


def test_peak_memory_does_not_grow_with_images(tmp_path, monkeypatch):
    monkeypatch.setattr(probabilities, "ROW_GROUP_BYTES", 2**16)
    random = np.random.default_rng(0)

    def peak(images):
        maps = {f"{i:05}": random.integers(0, 256, (1, 32, 32), dtype=np.uint8) for i in range(images)}
        members = tables(tmp_path, maps, maps)
        del maps
        pa.default_memory_pool().release_unused()
        held = pa.total_allocated_bytes()
        most = 0
        tracemalloc.start()
        with ProbabilityWriter(tmp_path / "mean.parquet") as writer:
            for sample_id, mean in ensemble.average(members, [1, 1]):
                writer.add_quantised(sample_id, mean)
                most = max(most, pa.total_allocated_bytes() - held)
        python = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return python, most

    peak(10)  # imports and caches
    few, many = peak(200), peak(2000)
    assert many[0] < 1.2 * few[0]
    assert many[1] < 1.2 * few[1] + 2**16
