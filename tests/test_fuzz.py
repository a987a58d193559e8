"""Whatever stands in a file: what comes out is an error of stagepipe that names the file, or a valid result."""

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
import yaml
from dicom_files import dicom
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from stagepipe import rle
from stagepipe.artefacts import load_weights, metadata, read_table, save_weights, verify, write_table
from stagepipe.csvfiles import read_strings
from stagepipe.data.decode import FileFault, image_size, read_image
from stagepipe.ensemble import read_shares
from stagepipe.errors import ArtefactError, DataError, RecipeError
from stagepipe.evaluate import evaluate
from stagepipe.masks import chosen_threshold
from stagepipe.postprocess.jigsaw.layouts import Layout, read
from stagepipe.recipe.load import load
from stagepipe.recipe.model import Recipe

ROOT = Path(__file__).resolve().parents[1]
RECIPES = sorted([*(ROOT / "config/recipes").glob("*.yaml"), ROOT / "config/config.yaml"])
TREES = {path.name: yaml.safe_load(path.read_text(encoding="utf-8")) for path in RECIPES}
FACTOR = 12
"""how many times as many examples the slow tests draw"""


SCALE = pytest.mark.parametrize("factor", [1, pytest.param(FACTOR, marks=pytest.mark.slow)])


def fuzz(prop, count, *strategies):
    """Hold the property against drawn examples, the same ones at every run."""

    @settings(
        max_examples=count, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(st.tuples(*strategies))
    def held(example):
        prop(*example)

    held()


def refused(call, path, kinds):
    """What the call gives, or None for an error of one of these kinds that names the file on lines that print."""
    try:
        return call()
    except kinds as error:
        assert str(path) in str(error)
        assert all(line.isprintable() for line in str(error).split("\n")), repr(str(error))
        return None


# ---------------------------------------------------------------------------------------------------------------- text

CODE = st.lists(
    st.integers(-2, 130).map(str)
    | st.integers().map(str)
    | st.text(max_size=4)
    | st.sampled_from(["1e3", "+1", "nan"]),
    max_size=8,
).map(" ".join)


def runs_are_drawn_or_refused(text):
    for decode, encode in ((rle.decode, rle.encode), (rle.decode_relative, rle.encode_relative)):
        try:
            mask = decode(text, 10, 12)
        except ValueError as error:
            assert str(error).startswith("rle: ")
        else:
            assert mask.shape == (10, 12) and mask.dtype == np.uint8 and mask.max() <= 1
            np.testing.assert_array_equal(decode(encode(mask), 10, 12), mask)


def csv_is_read_or_refused(folder, content, size):
    path = folder / "submission.csv"
    path.write_bytes(content)
    table = refused(lambda: read_strings(path), path, DataError)
    assert table is None or all(kind == pa.string() for kind in table.schema.types)
    refused(lambda: evaluate(path, path, size), path, DataError)


CELL = st.sampled_from(
    ["id", "rle_mask", "ImageId", "EncodedPixels", "1 5", "-1", '"', ",", "\n", "\r\n", "\0", "\ufeff"]
)
CSV = st.lists(CELL | st.text(max_size=3), max_size=12).map(lambda cells: "".join(cells).encode("utf-8", "replace"))
HEADED = st.tuples(st.sampled_from([b"id,rle_mask\n", b"ImageId,EncodedPixels\n", b""]), CSV | st.binary(max_size=20))
CSV_FILES = HEADED.map(b"".join)

SCALAR = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.floats(0, 1)
KEYS = st.sampled_from(["chosen", "shares", "top", "area", "bottom", "size", "m1"]) | st.text(max_size=3)
TREE = st.recursive(
    SCALAR, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=8
)
JSON = TREE.map(lambda tree: json.dumps(tree).encode()) | st.binary(max_size=30)


def json_is_read_or_refused(folder, content):
    path = folder / "file.json"
    path.write_bytes(content)
    layouts = refused(lambda: read(path), path, DataError)
    assert layouts is None or all(isinstance(layout, Layout) for layout in layouts)
    shares = refused(lambda: read_shares(path), path, ArtefactError)
    assert shares is None or all(0 <= share <= 1 for share in shares)
    rule = refused(lambda: chosen_threshold(path), path, ArtefactError)
    assert not isinstance(rule, float) or 0 <= rule <= 1


# ------------------------------------------------------------------------------------------------------------- recipes


def places(tree, found=()):
    """Keys that lead to every value of a recipe."""
    yield found
    if isinstance(tree, dict | list):
        for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
            yield from places(value, (*found, key))


PLACES = {name: [place for place in places(tree) if place] for name, tree in TREES.items()}
CHANGES = st.sampled_from(["delete", "double", "nest", "list", "text", "negate"]) | st.builds(
    lambda value: (value,), TREE
)


def mutated(tree, place, change):
    """A copy of the recipe with one value changed."""
    tree = json.loads(json.dumps(tree))
    parent = tree
    for key in place[:-1]:
        parent = parent[key]
    value = parent[place[-1]]
    if change == "delete":
        del parent[place[-1]]
    elif change == "double" and isinstance(parent, list):
        parent.append(value)
    elif change == "double":
        parent[f"{place[-1]}_2"] = value
    else:
        number = isinstance(value, int | float)
        retyped = {
            "nest": {place[-1]: value},
            "list": [value],
            "text": str(value),
            "negate": -value if number else None,
        }
        parent[place[-1]] = change[0] if isinstance(change, tuple) else retyped[change]
    return tree


def recipes_are_valid_or_refused(folder, name, draw):
    place, change = draw
    path = folder / name
    path.write_text(yaml.safe_dump(mutated(TREES[name], place, change), allow_unicode=True), encoding="utf-8")
    recipe = refused(lambda: load(path), path, RecipeError)
    assert recipe is None or isinstance(recipe, Recipe)


ONE_RECIPE = st.sampled_from(sorted(TREES)).flatmap(
    lambda name: st.tuples(st.just(name), st.tuples(st.sampled_from(PLACES[name]), CHANGES))
)


# -------------------------------------------------------------------------------------------------------------- binary


def damaged(content, place, bit):
    """Content with one bit flipped, or, for no bit, cut off there."""
    at = int(place * (len(content) - 1))
    return content[:at] if bit is None else content[:at] + bytes([content[at] ^ (1 << bit)]) + content[at + 1 :]


DAMAGE = st.tuples(st.floats(0, 1), st.none() | st.integers(0, 7))


def picture(kind):
    ramp = (np.arange(24 * 32).reshape(24, 32) * 7 % 256).astype(np.uint8)
    if kind == "dcm":
        return dicom(ramp)
    buffer = io.BytesIO()
    Image.fromarray(ramp).save(buffer, {"png": "PNG", "jpg": "JPEG"}[kind])
    return buffer.getvalue()


PICTURES = {kind: picture(kind) for kind in ("png", "jpg", "dcm")}


def pictures_are_read_or_refused(folder, kind, damage):
    path = folder / f"picture.{kind}"
    path.write_bytes(damaged(PICTURES[kind], *damage))
    for call in (image_size, lambda path: read_image(path, "gray")):
        try:
            found = call(path)
        except FileFault:
            continue
        assert not isinstance(found, np.ndarray) or (found.dtype == np.uint8 and found.size)


def sealed(folder):
    """A table and a file of weights as artefacts, and how each is read."""
    table, weights = folder / "folds.parquet", folder / "weights.safetensors"
    write_table(table, pa.table({"sample_id": ["a", "b", "c"], "fold": [0, 1, 2]}))
    save_weights(weights, {"mean": {"weight": torch.arange(6.0)}})
    return {table: lambda: read_table(table), weights: lambda: load_weights(weights, "mean")}


def damaged_artefacts_are_refused(folder, damage):
    for path, reader in sealed(folder).items():
        path.write_bytes(damaged(path.read_bytes(), *damage))
        for call in (reader, lambda path=path: verify(path)):
            with pytest.raises(ArtefactError, match=path.name):
                call()
        refused(lambda path=path: metadata(path), path, ArtefactError)


# --------------------------------------------------------------------------------------------------------------- tests


@SCALE
def test_run_length_codes(factor):
    fuzz(runs_are_drawn_or_refused, 150 * factor, CODE)


@SCALE
def test_csv_files(tmp_path, factor):
    fuzz(lambda content: csv_is_read_or_refused(tmp_path, content, (10, 12)), 150 * factor, CSV_FILES)


@SCALE
def test_json_files(tmp_path, factor):
    fuzz(lambda content: json_is_read_or_refused(tmp_path, content), 200 * factor, JSON)


@SCALE
def test_changed_recipes(tmp_path, factor):
    assert len(TREES) == len(RECIPES) > 3
    fuzz(lambda example: recipes_are_valid_or_refused(tmp_path, *example), 40 * factor, ONE_RECIPE)


@SCALE
@pytest.mark.parametrize("kind", PICTURES)
def test_damaged_pictures(tmp_path, kind, factor):
    fuzz(lambda damage: pictures_are_read_or_refused(tmp_path, kind, damage), 60 * factor, DAMAGE)


@SCALE
def test_damaged_artefacts(tmp_path, factor):
    fuzz(lambda damage: damaged_artefacts_are_refused(tmp_path, damage), 60 * factor, DAMAGE)
