"""Faults that types find in a recipe, in the words of a person who writes recipes."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping
from functools import cache
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

Location = tuple[int | str, ...]
Tree = dict[str, Any]

WORDS = {
    "model_type": "must be keys and values",
    "model_attributes_type": "must be keys and values",
    "dict_type": "must be keys and values",
    "list_type": "must be a list",
    "tuple_type": "must be a list",
    "int_type": "must be a whole number",
    "float_type": "must be a number",
    "bool_type": "must be true or false",
    "string_type": "must be text",
    "finite_number": "must be a finite number",
    "invalid_key": "keys must be text; write it in quotes",
    "string_pattern_mismatch": "must match {pattern}",
    "too_short": "is empty; write at least {min_length}",
}
"""What to say of a type of fault; the others in pydantic's own words."""


def explain(error: ValidationError, model: type[BaseModel], tree: Any = None) -> list[str]:
    """One line per fault: the key, what to write, what was found.

    `tree` is the data as a person wrote it. Keys that a phase has from its run's `defaults` or from another phase are
    named where they stand.
    """
    told: dict[str, list[str]] = {}
    found: dict[str, str] = {}
    hints: dict[str, str] = {}
    branches = set()
    for fault in error.errors(include_url=False):
        key, message, branch = _tell(fault, model, tree)
        if message not in told.setdefault(key, []):
            told[key].append(message)
        found[key] = "" if fault["type"] in ("extra_forbidden", "missing") else _found(fault["input"])
        if fault["type"] == "literal_error":
            hints[key] = _alike(fault["input"], re.findall(r"'([^']*)'", fault["ctx"]["expected"]))
        if branch:
            branches.add(key)
    # Of a value that may be one thing or another, speak of the thing it was meant to be.
    deeper = {key for key in branches if any(other.startswith(f"{key}.") for other in told)}
    return [
        f"{key}: {_joined(messages)}{found[key]}{hints.get(key, '')}"
        for key, messages in told.items()
        if key not in deeper
    ]


def _tell(fault: ErrorDetails, model: type[BaseModel], tree: Any) -> tuple[str, str, bool]:
    """Key and message of a fault, and whether it is about one of several types that a value may have."""
    kind, location = fault["type"], _owner(tree, fault["loc"])
    unknown, missing = kind == "extra_forbidden", kind == "missing"
    words, branch = _words(location, tree, kept=unknown or missing)
    message = _message(fault)
    if unknown:
        message = f"unknown key{_close(location, model)}"
    elif missing and isinstance(location[-1], str):
        message = f"is missing; write `{location[-1]}: ...`"
    elif missing:
        words, message = words[:-1], "has too few items"
    elif kind == "value_error" and (inner := re.match(r"(\w+): ", message)):
        # Messages about a section begin with the key in it that is at fault.
        words, message = [*words, inner[1]], message[inner.end() :]
    return ".".join(words) or "recipe", message, branch and not unknown


def _message(fault: ErrorDetails) -> str:
    kind, found, context = fault["type"], fault["input"], fault.get("ctx", {})
    if kind == "literal_error":
        return f"must be {context['expected']}"
    if kind == "list_type" and isinstance(found, dict) and found:
        return f"must be a list of items, not keys; write `- name: {next(iter(found))}`"
    if kind == "string_pattern_mismatch" and "A-Za-z" in context["pattern"]:
        return "must be a name: letters, digits and _, a letter first"
    if kind in WORDS:
        return WORDS[kind].format_map(context)
    return fault["msg"].removeprefix("Value error, ").replace("Input should", "must")


def _owner(tree: Any, location: Location) -> Location:
    """Where a key of a phase was written: in the phase, in one it is like, or in the run's defaults."""
    match location:
        case ("stages", int(stage), "runs", str(run), "phases", int(position), str(key), *rest) if tree:
            above, written = location[:4], tree["stages"][stage]["runs"][run]
            phases, phase = written["phases"], written["phases"][position]
            while key not in phase and phase.get("like") is not None:
                earlier = enumerate(phases[:position])
                models = [i for i, p in earlier if isinstance(p, dict) and p.get("name") == phase["like"]]
                if not models:
                    break
                position = models[-1]
                phase = phases[position]
            defaults = written.get("defaults")
            if key not in phase and isinstance(defaults, dict) and key in defaults:
                return (*above, "defaults", key, *rest)
            return (*above, "phases", position, key, *rest)
    return location


def _words(location: Location, tree: Any, kept: bool) -> tuple[list[str], bool]:
    """The keys of a location, items of lists by their name.

    Leaves out what is in no data: pydantic's names of the types that a value may have. If the last is one of those, the
    second value is True; `kept` says that the last is a key all the same.
    """
    words: list[str] = []
    place, branch = tree, False
    for index, part in enumerate(location):
        branch = False
        if isinstance(place, dict) and part in place:
            place = place[part]
            words.append(str(part))
        elif isinstance(place, list) and isinstance(part, int) and part < len(place):
            place = place[part]
            named = isinstance(place, dict) and isinstance(place.get("name"), str)
            words.append(place["name"] if named else str(part))
        elif tree is None or (kept and index == len(location) - 1):
            words.append(str(part))
        else:
            branch = part != "[key]"
    return words, branch


def _joined(messages: list[str]) -> str:
    return " or ".join([messages[0], *(message.removeprefix("must be ") for message in messages[1:])])


def _found(value: Any) -> str:
    if isinstance(value, dict | list | tuple):
        return ""
    text = json.dumps(value, default=str)
    return f" (found {text if len(text) <= 80 else text[:77] + '...'})"


def _alike(value: Any, known: list[str]) -> str:
    close = difflib.get_close_matches(value, known, n=1) if isinstance(value, str) else []
    return f"; did you mean `{close[0]}`?" if close else ""


# ----------------------------------------------------------------------------------------------------------- known keys


def _close(location: Location, model: type[BaseModel]) -> str:
    """Known keys where the unknown one stands, the likely one first."""
    known = _keys_at(location[:-1], model)
    return _alike(str(location[-1]), known) or (f"; the keys here are {', '.join(known)}" if known else "")


@cache
def _schema(model: type[BaseModel]) -> Tree:
    return model.model_json_schema()


def _keys_at(location: Location, model: type[BaseModel]) -> list[str]:
    """The keys of a model at a location."""
    schema = _schema(model)
    definitions = schema.get("$defs", {})
    place = schema
    for part in location:
        # `defaults` of a run, which no type has, hold what a phase holds.
        place = definitions["Phase"] if part == "defaults" else _step(place, part, definitions) or place
    return [key for option in _options(place, definitions) for key in option.get("properties", {})]


def _step(place: Tree, part: int | str, definitions: Tree) -> Tree | None:
    """The schema of a part; None for the name of a type, which is no step."""
    for option in _options(place, definitions):
        if part in option.get("properties", {}):
            return option["properties"][part]
        if isinstance(part, int) and "items" in option:
            return option["items"]
        for rest in (*option.get("patternProperties", {}).values(), option.get("additionalProperties")):
            if isinstance(rest, Mapping):
                return dict(rest)
    return None


def _options(place: Tree, definitions: Tree) -> list[Tree]:
    """A schema and what it may be, references followed."""
    options = [place, *place.get("anyOf", [])]
    return [definitions[option["$ref"].rsplit("/", 1)[1]] if "$ref" in option else option for option in options]
