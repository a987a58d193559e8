"""Artefacts appear whole or not at all, carry their provenance, and any changed byte is an error naming the file."""

import os

import numpy as np
import pyarrow as pa
import pytest
import torch

from stagepipe.artefacts import (
    Provenance,
    TableWriter,
    iterate_table,
    load_weights,
    metadata,
    read_table,
    save_weights,
    verify,
    write_table,
)
from stagepipe.errors import ArtefactError

TABLE = pa.table({"sample_id": ["a", "b", "c"], "value": [1, 2, 3]})


@pytest.fixture
def table(tmp_path):
    write_table(tmp_path / "t.parquet", TABLE, Provenance(part="p", seed=7), row_group_rows=2)
    return tmp_path / "t.parquet"


@pytest.fixture
def weights(tmp_path):
    members = {"0": {"w": torch.arange(6.0).reshape(2, 3)}, "last": {"w": torch.zeros(2), "n": torch.tensor(3)}}
    save_weights(tmp_path / "w.safetensors", members, Provenance(part="q"))
    return tmp_path / "w.safetensors"


def test_tables_round_trip_by_row_group(table):
    assert read_table(table).equals(TABLE)
    assert [batch.num_rows for batch in iterate_table(table)] == [2, 1]
    assert read_table(table, ["value"]).column_names == ["value"]


def test_weights_round_trip_by_member(weights):
    assert torch.equal(load_weights(weights, "0")["w"], torch.arange(6.0).reshape(2, 3))
    assert load_weights(weights, "last")["n"] == 3


def test_weights_that_members_share_are_written_once(tmp_path):
    one, other = ({"w": torch.full((1000,), value)} for value in (1.0, 2.0))
    save_weights(tmp_path / "shared.safetensors", {"0": one, "1": other, "last": other}, Provenance(part="q"))
    save_weights(tmp_path / "two.safetensors", {"0": one, "1": other})
    sizes = [(tmp_path / name).stat().st_size for name in ("shared.safetensors", "two.safetensors")]
    assert sizes[0] - sizes[1] < 100
    for member, weights in {"0": one, "1": other, "last": other}.items():
        assert load_weights(tmp_path / "shared.safetensors", member).keys() == {"w"}
        assert torch.equal(load_weights(tmp_path / "shared.safetensors", member)["w"], weights["w"])
    with pytest.raises(ArtefactError, match=r"holds no member '2', only \['0', '1', 'last'\]"):
        load_weights(tmp_path / "shared.safetensors", "2")


def test_provenance_is_read_back(table, weights):
    assert metadata(table)["part"] == "p" and metadata(table)["seed"] == 7
    assert metadata(weights)["part"] == "q"
    assert metadata(table)["versions"]["torch"] == torch.__version__.split("+")[0]


@pytest.mark.parametrize("kind", ["table", "weights"])
def test_every_flipped_byte_is_found(kind, request, tmp_path):
    path = request.getfixturevalue(kind)
    whole = path.read_bytes()
    damaged = tmp_path / f"damaged{path.suffix}"
    for position in range(len(whole)):
        content = bytearray(whole)
        content[position] ^= 0x10
        damaged.write_bytes(content)
        with pytest.raises(ArtefactError, match="damaged"):
            verify(damaged)


@pytest.mark.parametrize("kind", ["table", "weights"])
def test_every_truncation_is_found(kind, request, tmp_path):
    path = request.getfixturevalue(kind)
    whole = path.read_bytes()
    damaged = tmp_path / f"damaged{path.suffix}"
    for length in range(0, len(whole), 7):
        damaged.write_bytes(whole[:length])
        with pytest.raises(ArtefactError, match="damaged"):
            verify(damaged)


def test_the_same_content_gives_the_same_bytes(tmp_path):
    for name in ("1.parquet", "2.parquet"):
        write_table(tmp_path / name, TABLE, Provenance(inputs={"b": "1", "a": "2"}))
    assert (tmp_path / "1.parquet").read_bytes() == (tmp_path / "2.parquet").read_bytes()


def test_a_missing_file_column_or_member_is_named(table, weights, tmp_path):
    with pytest.raises(ArtefactError, match=r"nothing\.parquet: is missing"):
        read_table(tmp_path / "nothing.parquet")
    with pytest.raises(ArtefactError, match=r"t\.parquet: lacks the columns \['other'\]"):
        read_table(table, ["other"])
    with pytest.raises(ArtefactError, match=r"holds no member '7', only \['0', 'last'\]"):
        load_weights(weights, "7")


def test_a_failed_write_leaves_the_old_file_and_nothing_else(table):
    before = table.read_bytes()
    with pytest.raises(ZeroDivisionError), TableWriter(table, TABLE.schema) as writer:
        writer.write(TABLE)
        raise ZeroDivisionError
    assert table.read_bytes() == before
    assert os.listdir(table.parent) == [table.name]


def test_rows_of_another_schema_are_refused(tmp_path):
    with pytest.raises((pa.ArrowInvalid, ValueError)), TableWriter(tmp_path / "t.parquet", TABLE.schema) as writer:
        writer.write(pa.table({"sample_id": ["a"], "value": ["not a number"]}))
    assert not list(tmp_path.iterdir())


def test_verifying_a_large_file_takes_no_memory(tmp_path):
    import tracemalloc

    noise = np.random.default_rng(0).bytes(20_000_000)
    write_table(tmp_path / "large.parquet", pa.table({"blob": [noise]}))
    tracemalloc.start()
    verify(tmp_path / "large.parquet")
    assert tracemalloc.get_traced_memory()[1] < 4_000_000
    tracemalloc.stop()


def test_values_that_look_like_the_checksum_are_only_values(tmp_path):
    ids = pa.table({"sample_id": [f"stagepipe-sha256:{letter * 40}" for letter in "az"]})
    write_table(tmp_path / "t.parquet", ids)
    assert read_table(tmp_path / "t.parquet").equals(ids)
