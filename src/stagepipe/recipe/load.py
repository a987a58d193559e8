"""Read a recipe: YAML files (a recipe and overlays on it), short forms written out, every fault listed at once."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from stagepipe.errors import RecipeError
from stagepipe.recipe.check import faults
from stagepipe.recipe.model import Phase, Recipe

Tree = dict[str, Any]


class _Loader(yaml.SafeLoader):
    """Refuses a key written twice; reads 1e-4 as the number it is (YAML 1.1 wants 1.0e-4)."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"the key {key.value!r} is written twice", problem_mark=key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)

    @staticmethod
    def number(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> str | float:
        text = loader.construct_scalar(node)
        mantissa, _, exponent = text.lower().partition("e")
        numeric = exponent.lstrip("+-").isdigit() and mantissa.replace(".", "", 1).lstrip("+-").isdigit()
        return float(text) if numeric else text


_Loader.add_constructor("tag:yaml.org,2002:str", _Loader.number)


def read_yaml(path: Path | str) -> Tree:
    """Parse one YAML file; RecipeError names the file, line and fault."""
    try:
        # The loader is a SafeLoader: plain data only.
        tree = yaml.load(Path(path).read_text(encoding="utf-8"), Loader=_Loader)  # noqa: S506
    except FileNotFoundError as error:
        raise RecipeError(f"{path}: there is no such file") from error
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise RecipeError(f"{path}: is not readable YAML: {error}") from error
    if not isinstance(tree, dict):
        raise RecipeError(f"{path}: holds {type(tree).__name__}, not keys and values; write `name: ...` and so on")
    return tree


def merge(base: Any, overlay: Any) -> Any:
    """`overlay` on `base`: mappings merge key by key, lists of named items merge by name, all else is replaced.

    An item `{name: x, remove: true}` takes the named item out.
    """
    if isinstance(base, dict) and isinstance(overlay, dict):
        return base | {key: merge(base.get(key), value) for key, value in overlay.items()}
    if _named(base) and _named(overlay):
        changes = {item["name"]: item for item in overlay}
        kept = [merge(item, changes.pop(item["name"], {})) for item in base]
        return [item for item in [*kept, *changes.values()] if not item.get("remove")]
    return overlay


def _named(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) and "name" in item for item in value)


def load(path: Path | str, overlays: Sequence[Path | str] = (), changes: Mapping[str, Any] | None = None) -> Recipe:
    """Read, merge and validate a recipe. RecipeError lists every fault, one line each, with what to write instead."""
    tree = read_yaml(path)
    for overlay in overlays:
        tree = merge(tree, read_yaml(overlay))
    if changes:
        tree = merge(tree, dict(changes))
    return validate(tree, str(path))


def validate(tree: Tree, source: str) -> Recipe:
    """A recipe from plain data; `source` names its origin in the messages."""
    try:
        recipe = Recipe.model_validate(write_out(tree))
    except ValidationError as error:
        raise RecipeError("\n".join(f"{source}: {line}" for line in explain(error, Recipe))) from error
    except RecipeError as error:
        raise RecipeError(f"{source}: {error}") from error
    if found := faults(recipe):
        raise RecipeError("\n".join(f"{source}: {line}" for line in found))
    return recipe


# ------------------------------------------------------------------------------------------------------------- short forms


def write_out(tree: Tree) -> Tree:
    """Give every phase the keys it inherits from its run's `defaults` and from the phase it is `like`."""
    stages = tree.get("stages")
    if not isinstance(stages, list):
        return tree
    written: list[Any] = []
    for stage in stages:
        if isinstance(stage, dict) and isinstance(stage.get("runs"), dict):
            runs = {name: _write_out_run(run, f"stages.{stage.get('name')}.runs.{name}", name, written, stage)
                    for name, run in stage["runs"].items()}  # fmt: skip
            stage = stage | {"runs": runs}
        written.append(stage)
    return tree | {"stages": written}


def _write_out_run(run: Any, where: str, name: str, earlier: list[Any], stage: Tree) -> Any:
    if not isinstance(run, dict) or not isinstance(run.get("phases"), list):
        return run
    defaults = run.get("defaults") or {}
    if not isinstance(defaults, dict):
        raise RecipeError(f"{where}.defaults: must be keys and values of a phase, found {defaults!r}")
    phases: list[Any] = []
    for phase in run["phases"]:
        if not isinstance(phase, dict):
            phases.append(phase)
            continue
        base = defaults
        if (like := phase.get("like")) is not None:
            before = {p["name"]: p for p in phases if isinstance(p, dict) and "name" in p}
            if like not in before:
                names = ", ".join(before) or "none yet"
                raise RecipeError(
                    f"{where}.phases.{phase.get('name')}.like: no earlier phase {like!r}; there are: {names}"
                )
            base = {
                key: value
                for key, value in before[like].items()
                if key not in ("name", "init", "init_weights", "member")
            }
        phases.append(base | {key: value for key, value in phase.items() if key != "like"})
    for position, phase in enumerate(phases):
        if isinstance(phase, dict):
            _write_out_origin(phase, position, phases, earlier, stage.get("name"), name)
            phase.setdefault("member", 1.0 if position == len(phases) - 1 else 0.0)
    rest = {key: value for key, value in run.items() if key != "defaults"}
    return {"network": name} | rest | {"phases": phases}


def _write_out_origin(phase: Tree, position: int, phases: list[Any], earlier: list[Any], stage: Any, run: str) -> None:
    """Make `init` either `encoder` or `stage/run/phase`, and say which of its weights."""
    if phase.get("init") is None:
        phase["init"] = "encoder" if position == 0 else f"{stage}/{run}/{phases[position - 1].get('name')}"
    elif isinstance(phase["init"], str) and "/" not in phase["init"] and phase["init"] != "encoder":
        phase["init"] = f"{stage}/{run}/{phase['init']}"
    if phase.get("init_weights") is None and isinstance(phase["init"], str):
        origin = _find_phase(phase["init"], phases, earlier, stage, run)
        ends = isinstance(origin.get("select"), dict | str) and "end_of_cycle" in origin["select"]
        phase["init_weights"] = "last" if ends else "best"


def _find_phase(init: str, phases: list[Any], earlier: list[Any], stage: Any, run: str) -> Tree:
    parts = init.split("/")
    if len(parts) != 3:
        return {}
    if parts[:2] == [stage, run]:
        candidates = phases
    else:
        stages = [s for s in earlier if isinstance(s, dict) and s.get("name") == parts[0]]
        runs = [s["runs"].get(parts[1], {}) for s in stages if isinstance(s.get("runs"), dict)]
        candidates = [phase for r in runs if isinstance(r, dict) for phase in r.get("phases", [])]
    return next((p for p in candidates if isinstance(p, dict) and p.get("name") == parts[2]), {})


# ---------------------------------------------------------------------------------------------------------------- messages


def explain(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """One line per fault: the key, what was found, what to write."""
    lines = []
    for fault in error.errors(include_url=False):
        location = tuple(str(part) for part in fault["loc"])
        key = ".".join(location) or "recipe"
        found = "" if isinstance(fault["input"], dict | list) else f" (found {json.dumps(fault['input'], default=str)})"
        if fault["type"] == "extra_forbidden":
            lines.append(f"{key}: unknown key{_close(location, model)}")
        elif fault["type"] == "missing":
            lines.append(f"{key}: is missing; write `{location[-1]}: ...`")
        else:
            lines.append(f"{key}: {fault['msg'].removeprefix('Value error, ')}{found}")
    return lines


def _close(location: tuple[str, ...], model: type[BaseModel]) -> str:
    """Known keys where the unknown one stands, the likely one first."""
    known = _keys_at(location[:-1], model)
    if close := difflib.get_close_matches(location[-1], known, n=1):
        return f"; did you mean `{close[0]}`?"
    return f"; the keys here are {', '.join(known)}" if known else ""


def _keys_at(location: tuple[str, ...], model: type[BaseModel]) -> list[str]:
    schema = model.model_json_schema()
    definitions = schema.get("$defs", {})
    place: Any = schema
    for part in location:
        place = _step(_resolve(place, definitions), part, definitions)
        if place is None:
            return []
    resolved = [_resolve(option, definitions) for option in [place, *place.get("anyOf", [])]]
    return [key for option in resolved for key in option.get("properties", {})]


def _step(place: Tree, part: str, definitions: Tree) -> Tree | None:
    for option in [place, *(_resolve(option, definitions) for option in place.get("anyOf", []))]:
        if part in option.get("properties", {}):
            return option["properties"][part]
        if part.isdigit() and "items" in option:
            return option["items"]
        if isinstance(option.get("additionalProperties"), dict):
            return option["additionalProperties"]
    return None


def _resolve(place: Tree, definitions: Tree) -> Tree:
    return definitions[place["$ref"].rsplit("/", 1)[1]] if "$ref" in place else place


def json_schema() -> Tree:
    """JSON schema of a recipe as a person writes it: phases may leave out what `defaults` or `like` give."""
    schema = Recipe.model_json_schema()
    definitions = schema["$defs"]
    definitions["Phase"]["required"] = ["name"]
    definitions["Run"]["required"] = ["phases"]
    definitions["PhaseDefaults"] = {
        "type": "object",
        "additionalProperties": False,
        "description": "Keys that every phase of the run has unless it says otherwise.",
        "properties": {
            key: value for key, value in definitions["Phase"]["properties"].items() if key in Phase.model_fields
        },
    }
    definitions["Run"]["properties"]["defaults"] = {"$ref": "#/$defs/PhaseDefaults"}
    terms = {"anyOf": [{"type": "number"}, {"$ref": "#/$defs/LossTerm"}]}
    names = definitions["Phase"]["properties"]["loss"]["propertyNames"]
    for owner in ("Phase", "PhaseDefaults"):
        definitions[owner]["properties"]["loss"] = {
            "anyOf": [names, {"type": "object", "propertyNames": names, "additionalProperties": terms}]
        }
    for name, definition in definitions.items():
        if name in ("Optimizer", "Schedule", "Sampler", "Select", "Postprocess"):
            choices = {"enum": list(definition["properties"])}
            definitions[name] = {"anyOf": [choices, definition], "description": definition.get("description", "")}
    return schema | {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "stagepipe recipe"}
