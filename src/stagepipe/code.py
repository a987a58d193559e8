"""Fingerprint of the code a job runs: what its script imports of stagepipe, without comments, docstrings and layout.

The recipe's types are left out: what a recipe says reaches a job as its part, which is compared as such.
"""

import ast
import hashlib
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
        if name in found or ".".join(name.split(".")[:2]) in LEFT_OUT:
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
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            # `from stagepipe import rle` names a module, `from stagepipe.rle import encode` what is in one.
            origin = _origin(node, path)
            inner = {f"{origin}.{alias.name}" for alias in node.names}
            found |= {origin, *(name for name in inner if name.startswith("stagepipe.") and _path(name).is_file())}
    # Python runs a package before what is in it.
    packages = {".".join(name.split(".")[:end]) for name in found for end in range(2, name.count(".") + 1)}
    return tuple(sorted(name for name in found | packages if name.startswith("stagepipe.")))


def _origin(node: ast.ImportFrom, path: Path) -> str:
    """Full name of what a `from` import names; `from .` counts from the file's own package."""
    if not node.level or not path.is_relative_to(PACKAGE):
        return node.module or ""
    package = ("stagepipe", *path.relative_to(PACKAGE).parent.parts)
    return ".".join([*package[: len(package) - node.level + 1], *filter(None, [node.module])])


@cache
def _fingerprint(path: Path) -> str:
    words: list[str] = []
    _add_words(_tree(path), words)
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
