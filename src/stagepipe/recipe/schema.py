"""JSON schema of a recipe as a person writes it, for editors and for reading by machines."""

from __future__ import annotations

import ast
import copy
import inspect
from itertools import pairwise
from typing import Any

from pydantic.json_schema import GenerateJsonSchema
from pydantic_core.core_schema import ModelSchema

from stagepipe.recipe.model import OneOf, Recipe

Tree = dict[str, Any]


def json_schema() -> Tree:
    """The schema of raw YAML: with short forms, and phases that leave out what `defaults` or `like` give."""
    schema = Recipe.model_json_schema(schema_generator=_Described)
    definitions = schema["$defs"]
    _loosen_phase(definitions)
    for choice in OneOf.__subclasses__():
        if choice.__name__ in definitions:
            definitions[choice.__name__] = _named_alone(definitions[choice.__name__])
    _close_names(schema)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "stagepipe recipe",
        **{key: value for key, value in schema.items() if key != "title"},
    }


class _Described(GenerateJsonSchema):
    """Keys are described by the strings below them in the source.

    Done here and not by pydantic's `use_attribute_docstrings`: that reads the source in every process that knows what
    a recipe is, which takes up to 0.7 s of each call of Snakemake.
    """

    def model_schema(self, schema: ModelSchema) -> Tree:
        made = super().model_schema(schema)
        for key, description in _descriptions(schema["cls"]).items():
            made["properties"][key]["description"] = description
        return made


def _descriptions(model: type) -> dict[str, str]:
    """The string below each attribute of a class, its own and inherited ones."""
    found: dict[str, str] = {}
    for owner in reversed(model.__mro__):
        if owner.__module__.startswith("stagepipe."):
            (definition,) = ast.parse(inspect.getsource(owner)).body
            assert isinstance(definition, ast.ClassDef)
            for statement, below in pairwise(definition.body):
                match statement, below:
                    case ast.AnnAssign(target=ast.Name(id=key)), ast.Expr(value=ast.Constant(value=str(text))):
                        found[key] = inspect.cleandoc(text)
    return found


def _loosen_phase(definitions: Tree) -> None:
    """Loss terms by weight or name alone; inherited keys may be missing; `defaults` of a run."""
    phase, run = definitions["Phase"], definitions["Run"]
    names = phase["properties"]["loss"]["propertyNames"]
    term = {"anyOf": [{"type": "number", "exclusiveMinimum": 0}, {"$ref": "#/$defs/LossTerm"}]}
    loss = {
        "description": "one loss by name, or a sum of losses by weight",
        "anyOf": [
            names,
            {"type": "object", "propertyNames": names, "additionalProperties": term, "minProperties": 1},
        ],
    }
    phase["properties"]["loss"] = loss
    phase["properties"]["deep_supervision"]["additionalProperties"] = loss
    phase["required"] = ["name"]
    defaults = copy.deepcopy(phase)
    del defaults["required"]
    defaults["title"] = "PhaseDefaults"
    defaults["description"] = "Keys that every phase of the run has unless it says otherwise."
    for key in ("name", "like"):
        del defaults["properties"][key]
    definitions["PhaseDefaults"] = defaults
    run["properties"]["defaults"] = {"anyOf": [{"$ref": "#/$defs/PhaseDefaults"}, {"type": "null"}]}
    run["properties"]["network"]["description"] = "name of the network; none: the name of the run"
    run["required"] = ["phases"]


def _named_alone(definition: Tree) -> Tree:
    """A choice as an object with one key, or as that key alone."""
    described = {key: definition.pop(key) for key in ("title", "description") if key in definition}
    names = {"enum": list(definition["properties"])}
    return described | {"anyOf": [names, definition | {"minProperties": 1}]}


def _close_names(place: Any) -> None:
    """Refuse names that no pattern of a mapping allows."""
    if isinstance(place, dict):
        if "patternProperties" in place:
            place["additionalProperties"] = False
        for value in place.values():
            _close_names(value)
    elif isinstance(place, list):
        for value in place:
            _close_names(value)
