"""Read a recipe: YAML files (a recipe and overlays on it), merged, written out and validated, every fault listed."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from stagepipe.errors import RecipeError
from stagepipe.recipe.check import faults
from stagepipe.recipe.explain import explain
from stagepipe.recipe.inherit import Tree, write_out
from stagepipe.recipe.model import Recipe

WHOLE = {"loss", "optimizer", "schedule", "sampler", "select", "augment", "ensemble", "blend", "predict", "palette"}
"""Keys that say one thing: an overlay's replaces the recipe's, as mixing two schedules makes no third."""
LARGEST = 1 << 20
"""bytes of a recipe or overlay that are read at most"""
DEEPEST = 100
"""levels of lists and mappings, one in the other"""
MOST = 50_000
"""values of a file, aliases written out: a few lines of aliases can stand for more than any memory holds"""
INTEGERS = 1 << 63
"""whole numbers lie below, as tables and seeds hold them in 64 bits"""
EVERY = "*"
"""The name in an overlay of all that a mapping or a list of named items holds."""


class _Loader(yaml.SafeLoader):
    """Refuses a key written twice and what doesn't end; reads 1e-4 as the number it is (YAML 1.1 wants 1.0e-4)."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._level = 0
        self._values = 0
        self._sizes: dict[int, int] = {}
        """values of each node that is whole, by its id"""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """The next node, counted with all that its aliases stand for before any of it is built."""
        mark, alias, before = self.peek_event().start_mark, self.check_event(yaml.AliasEvent), self._values
        if self._level == DEEPEST:
            raise yaml.MarkedYAMLError(problem=f"more than {DEEPEST} levels, one in the other", problem_mark=mark)
        self._level += 1
        self._values += 1
        node = super().compose_node(parent, index)
        self._level -= 1
        if not alias:
            self._sizes[id(node)] = self._values - before
        elif id(node) not in self._sizes:
            raise yaml.MarkedYAMLError(problem="an alias that holds itself", problem_mark=mark)
        else:
            self._values += self._sizes[id(node)]
        if self._values > MOST:
            raise yaml.MarkedYAMLError(problem=f"more than {MOST:,} values, aliases written out", problem_mark=mark)
        return node

    def construct_scalar(self, node: yaml.ScalarNode) -> Any:
        """Text without NUL, which no path can hold."""
        value = super().construct_scalar(node)
        if "\0" in value:
            raise yaml.MarkedYAMLError(problem=f"{value[:40]!r} holds a NUL character", problem_mark=node.start_mark)
        return value

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        """A whole number of 64 bits."""
        value: int = super().construct_yaml_int(node)
        if abs(value) >= INTEGERS:
            raise yaml.MarkedYAMLError(problem=f"{node.value[:40]} is 2^63 or more", problem_mark=node.start_mark)
        return value

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.MarkedYAMLError(
                        problem=f"the key {key.value!r} is written twice", problem_mark=key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def read_yaml(path: Path | str) -> Tree:
    """Parse one YAML file; RecipeError names the file, line and fault."""
    try:
        tree = _Loader(_text(Path(path))).get_single_data()
    except FileNotFoundError as error:
        raise RecipeError(f"{path}: there is no such file") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise RecipeError(f"{path}{where}: {error.problem or error.context}; correct the YAML there") from error
    # A scalar that its tag can't take (the date 2020-13-45) is any of the latter.
    except (yaml.YAMLError, OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise RecipeError(f"{path}: is not readable YAML: {error}") from error
    if not isinstance(tree, dict):
        raise RecipeError(f"{path}: holds {_kind(tree)}, not keys and values; write `name: ...` and so on")
    return tree


def _text(path: Path) -> str:
    with path.open("rb") as file:
        content = file.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise RecipeError(f"{path}: is longer than {LARGEST:,} bytes; write a recipe")
    return content.decode("utf-8")


def _kind(tree: Any) -> str:
    return "nothing" if tree is None else "a list" if isinstance(tree, list) else "a single value"


def merge(base: Any, overlay: Any, where: str = "") -> Any:
    """`overlay` on `base`: mappings merge key by key, lists of named items merge by name, all else is replaced.

    An item `{name: x, remove: true}` takes the named item out, `x: {remove: true}` the key. The name `*` stands for
    every item of `base`, before those that are named. Choices and shares (`loss`, `schedule`, `blend` ...) are replaced
    whole. RecipeError for something to remove that isn't there.
    """
    if isinstance(base, dict) and isinstance(overlay, dict):
        return _merge_keys(base, overlay, where)
    if _named(base) and _named(overlay):
        by_name = _merge_keys({item["name"]: item for item in base}, {item["name"]: item for item in overlay}, where)
        return list(by_name.values())
    return overlay


def _merge_keys(base: Tree, overlay: Tree, where: str) -> Tree:
    merged = dict(base)
    if EVERY in overlay:
        if not isinstance(overlay[EVERY], dict):
            raise RecipeError(f"{where}.{EVERY}: stands for every item; write keys and values of theirs")
        change = {key: value for key, value in overlay[EVERY].items() if key != "name"}
        merged = {key: merge(value, change, f"{where}.{key}") for key, value in base.items()}
    for key, value in overlay.items():
        if key == EVERY:
            continue
        here = f"{where}.{key}" if where else str(key)
        if isinstance(value, dict) and value.get("remove") is True:
            if key not in base:
                known = ", ".join(map(str, base)) or "nothing"
                raise RecipeError(f"{here}: there is nothing of this name to remove; there is {known}")
            del merged[key]
        elif key in base and not (key in WHOLE and where):
            merged[key] = merge(merged[key], value, here)
        else:
            merged[key] = value
    return merged


def _named(value: Any) -> bool:
    """A list of items with a name, each another."""
    if not isinstance(value, list) or not value:
        return False
    names = [item.get("name") for item in value if isinstance(item, dict)]
    return all(isinstance(name, str) for name in names) and len(set(names)) == len(value)


def load(path: Path | str, overlays: Sequence[Path | str] = (), changes: Mapping[str, Any] | None = None) -> Recipe:
    """Read, merge and validate a recipe. RecipeError lists every fault, one line each, with what to write instead."""
    tree, source = read_yaml(path), str(path)
    layers = [(str(overlay), read_yaml(overlay)) for overlay in overlays]
    if changes:
        layers.append(("the command line", dict(changes)))
    for name, layer in layers:
        try:
            tree = merge(tree, layer)
        except RecipeError as error:
            raise RecipeError(f"{name}: {error}") from error
        source += f" + {name}"
    return validate(tree, source)


def validate(tree: Tree, source: str) -> Recipe:
    """A recipe from plain data; `source` names its origin in the messages."""
    written, found = write_out(tree)
    try:
        recipe = Recipe.model_validate(written)
    except ValidationError as error:
        found += explain(error, Recipe, tree)
    else:
        found += faults(recipe)
    if found:
        raise RecipeError("\n".join(f"{source}: {_printable(line)}" for line in found))
    return recipe


def _printable(text: str) -> str:
    """Text on one line, whatever stood in the recipe."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)
