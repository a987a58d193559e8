import copy
import difflib
from pathlib import Path

import jsonschema
import pytest
from conftest import CHECKOUT
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from recipe_example import at, changed, tree

from stagepipe.cli import schema_text
from stagepipe.errors import RecipeError
from stagepipe.recipe.load import read_yaml, validate
from stagepipe.recipe.schema import json_schema

FILE = CHECKOUT / "config" / "recipe.schema.json"
RECIPES = sorted([*(CHECKOUT / "config" / "recipes").glob("*.yaml"), *(CHECKOUT / "config").glob("config.yaml")])
SCHEMA = jsonschema.Draft202012Validator(json_schema())
WARM = "stages.stage1.runs.small.phases.warm"


def test_the_schema_file_is_the_types_own():
    stored = FILE.read_text(encoding="utf-8").splitlines()
    drift = "\n".join(difflib.unified_diff(stored, schema_text().splitlines(), "stored", "made", lineterm="", n=2))
    assert not drift, f"run `stagepipe schema --output config/recipe.schema.json`\n{drift}"


def test_it_is_a_schema():
    jsonschema.Draft202012Validator.check_schema(json_schema())


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_of_ours_fits_and_loads(path: Path):
    SCHEMA.validate(read_yaml(path))
    assert validate(read_yaml(path), str(path)).name


@pytest.mark.parametrize(
    "key, values",
    [
        (WARM, {"optimizer": "adamw", "schedule": "cosine", "select": "end_of_cycle", "sampler": "balanced"}),
        (WARM, {"optimizer": {"sgd": {"nesterov": True}}, "schedule": {"cosine": {"floor": 1e-4}}}),
        (WARM, {"loss": "lovasz_hinge"}),
        (WARM, {"loss": {"bce": 1, "dice": {"weight": 0.5}, "focal": {"arguments": {"gamma": 2}}}}),
        (WARM, {"resize": 80, "pad": {"to": 96}}),
        (WARM, {"resize": [80, 96], "pad": {"to": [96, 128], "mode": "edge"}}),
        (WARM, {"augment": [{"name": "OneOf", "transforms": [{"name": "Affine", "arguments": {"rotate": [1, 2]}}]}]}),
        (WARM, {"init": None, "member": None}),
        ("stages.stage1.runs.small", {"defaults": None}),
        ("networks.small", {"weights": {"file": "w.safetensors", "sha256": "0" * 64}, "normalise": "imagenet"}),
        ("submission", {"threshold": {"value": None}}),
        ("", {"runtime": {"workers": "auto", "compile": False}}),
    ],
)
def test_short_and_long_forms_fit(key, values):
    SCHEMA.validate(changed(key, values))


@pytest.mark.parametrize(
    "key, values",
    [
        ("", {"stage": 1}),
        ("", {"name": "a b"}),
        ("dataset", {"path": "x"}),
        ("networks", {"9x": {}}),
        ("networks.small.pad", {"too": 3}),
        ("stages.stage1", {"run": {}}),
        ("stages.stage1", {"runs": {}}),
        ("stages.stage1.runs.small", {"default": {}}),
        ("stages.stage1.runs.small.defaults", {"epoch": 3}),
        ("stages.stage1.runs.small.defaults", {"like": "x"}),
        (WARM, {"epoch": 3}),
        (WARM, {"loss": "bec"}),
        (WARM, {"loss": {"bec": 1}}),
        (WARM, {"loss": {"bce": -1}}),
        (WARM, {"optimizer": "adamm"}),
        (WARM, {"schedule": {"cosin": {}}}),
        (WARM, {"schedule": {}}),
        (WARM, {"resize": [80]}),
        (WARM, {"resize": 0}),
        (WARM, {"epochs": True}),
        (WARM, {"lr": "1e-3"}),
        ("submission", {"tta": []}),
    ],
)
def test_faults_do_not_fit(key, values):
    with pytest.raises(jsonschema.ValidationError):
        SCHEMA.validate(changed(key, values))


def test_phases_need_their_name():
    data = tree()
    del at(data, WARM)["name"]
    assert [error.message for error in SCHEMA.iter_errors(data)] == ["'name' is a required property"]


def test_editors_find_descriptions():
    properties = json_schema()["$defs"]["Phase"]["properties"]
    assert properties["cycles"]["description"].startswith("restarts of optimiser")
    assert properties["loss"]["description"]


def places(data, found=()):
    yield found
    if isinstance(data, dict | list):
        for key, value in data.items() if isinstance(data, dict) else enumerate(data):
            yield from places(value, (*found, key))


PLACES = [place for place in places(tree()) if place]
VALUES = st.sampled_from(
    [None, True, 0, 1, 3, 0.5, 80, "x", "bce", "best", "encoder", "auto", [], [80, 96], {}, {"bce": 1}, {"to": 96}]
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(PLACES), VALUES)
def test_whatever_loads_fits_the_schema(place, value):
    data = tree()
    parent = data
    for key in place[:-1]:
        parent = parent[key]
    parent[place[-1]] = copy.deepcopy(value)
    try:
        validate(copy.deepcopy(data), "r.yaml")
    except RecipeError:
        return
    SCHEMA.validate(data)
