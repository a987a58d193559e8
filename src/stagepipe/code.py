"""Fingerprint of the code a job runs: what its script imports of stagepipe, without comments, docstrings and layout.

The recipe's types are left out: what a recipe says reaches a job as its part, which is compared as such.
"""

import ast
import hashlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parent
LEFT_OUT = ("stagepipe.recipe", "stagepipe.errors", "stagepipe.script")


@cache
def modules(script: Path) -> dict[str, str]:
    """Fingerprint of a script and of every module of stagepipe that it imports, directly or not, by name."""
    found: dict[str, str] = {script.stem: _fingerprint(script)}
    waiting = list(_imports(script))
    while waiting:
        name = waiting.pop()
        if name in found or name.startswith(LEFT_OUT):
            continue
        path = _path(name)
        found[name] = _fingerprint(path)
        waiting += _imports(path)
    return dict(sorted(found.items()))


def fingerprint(script: Path) -> str:
    """One fingerprint of all the code that a script runs."""
    return hashlib.sha256(repr(sorted(modules(script).items())).encode()).hexdigest()


def _path(module: str) -> Path:
    path = PACKAGE.joinpath(*module.split(".")[1:])
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def _imports(path: Path) -> tuple[str, ...]:
    """Modules of stagepipe that a file imports, at its top or inside functions."""
    found: set[str] = set()
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.startswith("stagepipe.")}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "stagepipe":
            # `from stagepipe import rle` names a module, `from stagepipe.rle import encode` what is in one.
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name for name in inner if _path(name).is_file()}
            if node.module != "stagepipe":
                found.add(str(node.module))
    return tuple(sorted(found))


@cache
def _fingerprint(path: Path) -> str:
    return hashlib.sha256("\n".join(_words(_tree(path))).encode()).hexdigest()


def _words(node: ast.AST) -> Iterator[str]:
    """The syntax tree as lines, docstrings and empty fields left out (newer Pythons have more of those)."""
    yield type(node).__name__
    for name, value in ast.iter_fields(node):
        if name == "body" and isinstance(value, list) and isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            value = _without_docstring(value)
        if value is None or value == [] or name == "type_comment":
            continue
        yield f".{name}"
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, ast.AST):
                yield from _words(item)
            else:
                yield repr(item)
    yield "end"


def _without_docstring(body: list[ast.stmt]) -> list[ast.stmt]:
    """A body without the strings that stand alone in it: docstrings, also of attributes."""
    return [
        s
        for s in body
        if not (isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant) and isinstance(s.value.value, str))
    ]
