import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stagepipe import probabilities
from stagepipe.artefacts import TableWriter, iterate_table, metadata
from stagepipe.errors import ArtefactError
from stagepipe.probabilities import ProbabilityWriter, highest_below, iterate, lowest_above, quantise
from stagepipe.tables import PROBABILITIES


def test_quantise_rounds_halves_up():
    values = np.array([0, 0.5, 1, 0.2, 0.8, 127.49 / 255, 127.51 / 255], np.float32)
    assert quantise(values).tolist() == [0, 128, 255, 51, 204, 127, 128]


@pytest.mark.parametrize("wrong", [np.nan, -0.01, 1.01, np.inf])
def test_what_is_no_probability_is_refused_by_name(tmp_path, wrong):
    with (
        pytest.raises(ValueError, match="sample 'tile' holds values that are no probabilities"),
        ProbabilityWriter(tmp_path / "p.parquet") as writer,
    ):
        writer.add("tile", np.array([[[0.5, wrong]]], np.float32))
    assert list(tmp_path.iterdir()) == []


@given(st.integers(0, 255), st.integers(0, 1000))
def test_integer_bounds_are_exact(value, thousandth):
    # Exact: value / 255 > thousandth / 1000 in integers.
    assert (value >= lowest_above(thousandth / 1000)) == (value * 1000 > thousandth * 255)
    assert (value <= highest_below(thousandth / 1000)) == (value * 1000 < thousandth * 255)


def test_round_trip_of_different_sizes_and_provenance(tmp_path):
    random = np.random.default_rng(0)
    maps = {f"id{i}": random.integers(0, 256, (1 + i % 3, 5 + i, 7), dtype=np.uint8) for i in range(5)}
    with ProbabilityWriter(tmp_path / "p.parquet", probabilities.Provenance(seed=3)) as writer:
        for sample_id, quantised in maps.items():
            writer.add_quantised(sample_id, quantised)
    read = dict(iterate(tmp_path / "p.parquet"))
    assert list(read) == list(maps)
    for sample_id, quantised in maps.items():
        np.testing.assert_array_equal(read[sample_id], quantised)
        assert not read[sample_id].flags.writeable
    assert metadata(tmp_path / "p.parquet")["seed"] == 3


def test_floats_come_back_within_half_a_step(tmp_path):
    values = np.random.default_rng(1).random((2, 9, 8), dtype=np.float32)
    with ProbabilityWriter(tmp_path / "p.parquet") as writer:
        writer.add("a", values)
    ((_, read),) = iterate(tmp_path / "p.parquet")
    assert np.abs(read / 255 - values).max() <= 0.5 / 255 + 1e-6


def test_row_groups_stay_below_4_mib_and_no_row_is_lost(tmp_path):
    quantised = np.zeros((1, 1000, 1000), np.uint8)
    with ProbabilityWriter(tmp_path / "p.parquet") as writer:
        for i in range(10):
            writer.add_quantised(f"{i:03}", quantised)
    assert [batch.num_rows for batch in iterate_table(tmp_path / "p.parquet")] == [4, 4, 2]


def test_an_image_larger_than_a_row_group_is_a_row_group(tmp_path):
    with ProbabilityWriter(tmp_path / "p.parquet") as writer:
        for name in ("a", "b"):
            writer.add_quantised(name, np.ones((5, 1000, 1000), np.uint8))
    assert [batch.num_rows for batch in iterate_table(tmp_path / "p.parquet", ["sample_id"])] == [1, 1]


@pytest.mark.parametrize("names", [("b", "a"), ("a", "a")])
def test_ids_must_ascend(tmp_path, names):
    quantised = np.zeros((1, 2, 2), np.uint8)
    with pytest.raises(ValueError, match="comes after"), ProbabilityWriter(tmp_path / "p.parquet") as writer:
        for name in names:
            writer.add_quantised(name, quantised)
    assert not (tmp_path / "p.parquet").exists()


@pytest.mark.parametrize("wrong", [np.zeros((2, 2), np.uint8), np.zeros((1, 2, 2), np.float32)])
def test_other_arrays_are_refused(tmp_path, wrong):
    with pytest.raises(ValueError, match="wants uint8"), ProbabilityWriter(tmp_path / "p.parquet") as writer:
        writer.add_quantised("a", wrong)


@pytest.mark.parametrize(
    ("ids", "data", "message"),
    [(["b", "a"], [b"\0" * 4] * 2, "'a' comes after 'b'"), (["a", "b"], [b"\0" * 4, b"\0"], "'b' holds 1 values")],
)
def test_a_table_that_breaks_its_promises_is_named(tmp_path, ids, data, message):
    import pyarrow as pa

    columns = {"sample_id": ids, "classes": [1, 1], "height": [2, 2], "width": [2, 2], "probabilities": data}
    with TableWriter(tmp_path / "p.parquet", PROBABILITIES) as writer:
        writer.write(pa.table(columns, schema=PROBABILITIES))
    with pytest.raises(ArtefactError, match=rf"p\.parquet: sample {message}"):
        list(iterate(tmp_path / "p.parquet"))


def test_an_empty_table_can_be_written_and_read(tmp_path):
    with ProbabilityWriter(tmp_path / "p.parquet"):
        pass
    assert list(iterate(tmp_path / "p.parquet")) == []
