"""Floors of versions below which a library is unsafe, and calls that would run what a file says."""

import ast
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted(
    path for folder in ("src", "workflow", "benchmarks") for path in (ROOT / folder).rglob("*.py") if path.is_file()
)
FLOORS = {
    "torch": "2.10",
    "pydicom": "3.0.2",
    "opencv-python-headless": "4.12",
    "pillow": "12.2",
    "pyarrow": "23.0.1",
    "pyyaml": "6",
    "safetensors": "0.5",
}
LAST_BELOW = {
    "torch": "2.9.1",
    "pydicom": "3.0.1",
    "opencv-python-headless": "4.11.0.86",
    "pillow": "12.1.1",
    "pyarrow": "23.0.0",
    "pyyaml": "5.4.1",
    "safetensors": "0.4.5",
}
MODULES = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
BUILT_IN = {"eval", "exec", "compile", "__import__"}
METHODS = {"read_pickle", "to_pickle", "unsafe_load", "full_load", "unsafe_load_all", "full_load_all", "os.system"}
YAML = {"yaml.load", "yaml.load_all"}
BY_FULL_NAME = {"load", "load_all", "unsafe_load", "full_load"}


def requirements() -> dict[str, Requirement]:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    found = map(Requirement, tomllib.loads(text)["project"]["dependencies"])
    return {requirement.name: requirement for requirement in found}


@pytest.mark.parametrize("name", FLOORS)
def test_unsafe_versions_are_neither_allowed_nor_installed(name):
    allowed = requirements()[name].specifier
    assert not allowed.contains(LAST_BELOW[name]), f"{name} {LAST_BELOW[name]} is allowed by {allowed}"
    assert allowed.contains(version(name)), f"{name} {version(name)} is installed against {allowed}"
    assert Version(version(name)) >= Version(FLOORS[name])


def dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def is_constant(node: ast.expr | None, value: object) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


def unsafe_import(node: ast.AST) -> str:
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom) and [alias.name for alias in node.names] != ["UnpicklingError"]:
        names = [node.module or ""]
    else:
        return ""
    # A loader by its own name would hide from the search for calls.
    if isinstance(node, ast.ImportFrom) and node.module in ("yaml", "torch"):
        names += [f"{node.module}.{alias.name}" for alias in node.names if alias.name in BY_FULL_NAME]
    return ", ".join(name for name in names if name.split(".")[0] in MODULES or name.partition(".")[2] in BY_FULL_NAME)


def unsafe_call(node: ast.AST) -> str:
    if not isinstance(node, ast.Call):
        return ""
    name, options = dotted(node.func), {keyword.arg: keyword.value for keyword in node.keywords}
    last = name.rpartition(".")[2]
    wrong = (
        name in BUILT_IN | YAML
        or last in METHODS
        or name in METHODS
        or (name == "torch.load" and not is_constant(options.get("weights_only"), True))
        or ("weights_only" in options and not is_constant(options["weights_only"], True))
        or ("allow_pickle" in options and not is_constant(options["allow_pickle"], False))
        or ("shell" in options and not is_constant(options["shell"], False))
    )
    return name if wrong else ""


def unsafe(text: str) -> list[str]:
    found = ((node, unsafe_import(node) or unsafe_call(node)) for node in ast.walk(ast.parse(text)))
    return [f"line {getattr(node, 'lineno', 0)}: {what}" for node, what in found if what]


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "import os, dill",
        "from pickle import loads",
        "from joblib import load",
        "from pickle import UnpicklingError, loads",
        "from yaml import load",
        "from torch import load, nn",
        "eval(text)",
        "exec(text)",
        "yaml.load(text, Loader)",
        "yaml.unsafe_load(text)",
        "pd.read_pickle(path)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.load(path, weights_only=flag)",
        "np.load(path, allow_pickle=True)",
        "subprocess.run(text, shell=True)",
        "os.system(text)",
    ],
)
def test_the_search_finds_what_is_unsafe(text):
    assert len(unsafe(text)) == 1


@pytest.mark.parametrize(
    "text",
    [
        "import json",
        "from pickle import UnpicklingError",
        "from torch import nn",
        "network.eval()",
        "re.compile(text)",
        "torch.compile(network)",
        "yaml.safe_load(text)",
        "torch.load(path, weights_only=True)",
        "np.load(path)",
        "subprocess.run(['ls'])",
    ],
)
def test_the_search_leaves_what_is_safe(text):
    assert unsafe(text) == []


def test_no_source_runs_what_a_file_says():
    assert len(SOURCES) > 100
    found = {str(path.relative_to(ROOT)): unsafe(path.read_text(encoding="utf-8")) for path in SOURCES}
    assert {path: lines for path, lines in found.items() if lines} == {}


def test_yaml_is_read_with_safe_loaders_only():
    classes = [
        (path.name, node.name, [dotted(base) for base in node.bases])
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef) and any(dotted(base).startswith("yaml.") for base in node.bases)
    ]
    assert classes, "the recipe's loader wasn't found"
    assert [found for found in classes if found[2] != ["yaml.SafeLoader"]] == []
