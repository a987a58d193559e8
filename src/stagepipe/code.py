"""Fingerprint of the code a job runs: what its script imports of stagepipe, without comments, docstrings and layout.

The recipe's types are left out: what a recipe says reaches a job as its part, which is compared as such. Parsing every
module takes half a second of each call of Snakemake, so what it finds is kept beside Python's own bytecode.
"""

import ast
import hashlib
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from stagepipe.storage import atomic

PACKAGE = Path(__file__).parent
LEFT_OUT = ("stagepipe.recipe", "stagepipe.errors", "stagepipe.script")


@cache
def modules(script: Path) -> dict[str, str]:
    """Fingerprint of a script and of every module of stagepipe that it imports, directly or not, by name."""
    with _remembered(PACKAGE) as parsed:
        found: dict[str, str] = {}
        waiting = [(script.stem, script)]
        while waiting:
            name, path = waiting.pop()
            if name in found or ".".join(name.split(".")[:2]) in LEFT_OUT:
                continue
            content = hashlib.sha256(path.read_bytes()).hexdigest()
            key = f"{path.relative_to(PACKAGE) if path.is_relative_to(PACKAGE) else ''} {content}"
            if key not in parsed:
                tree = _tree(path)
                parsed[key] = {"fingerprint": _fingerprint(tree), "imports": _imports(tree, path)}
            found[name] = parsed[key]["fingerprint"]
            waiting += [(inner, _path(inner)) for inner in parsed[key]["imports"]]
    return dict(sorted(found.items()))


Parsed = dict[str, dict[str, Any]]
"""Fingerprint and imports of a source file, by its place in the package and the SHA-256 of its text."""


@contextmanager
def _remembered(package: Path) -> Iterator[Parsed]:
    """What earlier calls have parsed, to be added to; kept in a file where Python may keep its bytecode.

    Imports depend on which modules there are, and both on this module: a file that others wrote is not read.
    """
    path = package / "__pycache__" / f"parsed.{sys.implementation.cache_tag}.json"
    names = sorted(str(file.relative_to(package)) for file in package.rglob("*.py"))
    made_by = hashlib.sha256(repr((Path(__file__).read_text(encoding="utf-8"), names)).encode()).hexdigest()
    parsed: Parsed = {}
    with suppress(OSError, ValueError, KeyError, TypeError):
        kept = json.loads(path.read_text(encoding="utf-8"))
        parsed = kept["parsed"] if kept["made_by"] == made_by else {}
    known = len(parsed)
    yield parsed
    if len(parsed) > known and not sys.dont_write_bytecode:
        with suppress(OSError), atomic(path) as temporary:
            temporary.write_text(json.dumps({"made_by": made_by, "parsed": parsed}), encoding="utf-8")


def fingerprint(script: Path) -> str:
    """One fingerprint of all the code that a script runs."""
    return hashlib.sha256(repr(sorted(modules(script).items())).encode()).hexdigest()


def _path(module: str) -> Path:
    path = PACKAGE.joinpath(*module.split(".")[1:])
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _imports(tree: ast.Module, path: Path) -> list[str]:
    """Modules of stagepipe that a file imports, at its top or inside functions."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            # `from stagepipe import rle` names a module, `from stagepipe.rle import encode` what is in one.
            origin = _origin(node, path)
            inner = {f"{origin}.{alias.name}" for alias in node.names}
            found |= {origin, *(name for name in inner if name.startswith("stagepipe.") and _path(name).is_file())}
    # Python runs a package before what is in it.
    packages = {".".join(name.split(".")[:end]) for name in found for end in range(2, name.count(".") + 1)}
    return sorted(name for name in found | packages if name.startswith("stagepipe."))


def _origin(node: ast.ImportFrom, path: Path) -> str:
    """Full name of what a `from` import names; `from .` counts from the file's own package."""
    if not node.level or not path.is_relative_to(PACKAGE):
        return node.module or ""
    package = ("stagepipe", *path.relative_to(PACKAGE).parent.parts)
    return ".".join([*package[: len(package) - node.level + 1], *filter(None, [node.module])])


def _fingerprint(tree: ast.Module) -> str:
    words: list[str] = []
    _add_words(tree, words)
    return hashlib.sha256("\n".join(words).encode()).hexdigest()


def _add_words(node: ast.AST, words: list[str]) -> None:
    """Append the syntax tree as lines, docstrings and empty fields left out (newer Pythons have more of those)."""
    words.append(type(node).__name__)
    for name in node._fields:
        value = getattr(node, name, None)
        if value is None or name in ("ctx", "kind", "type_comment"):
            continue
        if isinstance(value, ast.AST):
            words.append(name)
            _add_words(value, words)
        elif not isinstance(value, list):
            words += (name, repr(value))
        elif value:
            words.append(name)
            for item in _without_docstring(value) if name == "body" else value:
                if isinstance(item, ast.AST):
                    _add_words(item, words)
                else:
                    words.append(repr(item))
    words.append("end")


def _without_docstring(body: list[ast.stmt]) -> list[ast.stmt]:
    """A body without the strings that stand alone in it: docstrings, also of attributes."""
    return [
        s
        for s in body
        if not (isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant) and isinstance(s.value.value, str))
    ]
