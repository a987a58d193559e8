import sys

import pytest
from conftest import CHECKOUT

from stagepipe import code

SCRIPTS = CHECKOUT / "workflow" / "scripts"

FILES = {
    "__init__.py": "",
    "errors.py": "class E(Exception): pass",
    "recipe/__init__.py": "",
    "recipe/model.py": "x = 1",
    "low.py": 'def low(a):\n    """Doc."""\n    return a + 1\n',
    "middle.py": "from stagepipe.low import low\nfrom stagepipe.errors import E\ndef middle():\n    return low(1)\n",
    "late.py": "async def late():\n    import stagepipe.room.inner as inner\n    return inner\n",
    "room/__init__.py": "from .outer import X",
    "room/inner.py": "from . import outer\nfrom ..low import low",
    "room/outer.py": "X = 1",
    "alone.py": "import json, torch.nn\nY = json",
}
SCRIPT = {
    "uses_middle": "from stagepipe import middle\nfrom stagepipe.recipe.model import x\nmiddle.middle()",
    "uses_late": "def main():\n    from stagepipe.late import late\n    return late",
    "uses_alone": "from stagepipe import alone",
}


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Writes a small package and gives the fingerprint of each of its scripts."""

    def fingerprints(**edits):
        # Fingerprints are kept by path while a process lasts, so every version has paths of its own.
        root = tmp_path / str(len(list(tmp_path.iterdir())))
        package = root / "stagepipe"
        for name, text in (FILES | edits.get("files", {})).items():
            (package / name).parent.mkdir(parents=True, exist_ok=True)
            (package / name).write_text(text, encoding="utf-8")
        monkeypatch.setattr(code, "PACKAGE", package)
        for name, text in (SCRIPT | edits.get("scripts", {})).items():
            (root / f"{name}.py").write_text(text, encoding="utf-8")
        code.modules.cache_clear()
        return {name: code.modules(root / f"{name}.py") for name in SCRIPT}

    return fingerprints


def test_modules_that_a_script_runs(package):
    found = {name: set(modules) - {name} for name, modules in package().items()}
    assert found == {
        "uses_middle": {"stagepipe.middle", "stagepipe.low"},
        # A package runs before what is in it; relative imports count, too.
        "uses_late": {
            "stagepipe.late",
            "stagepipe.room",
            "stagepipe.room.inner",
            "stagepipe.room.outer",
            "stagepipe.low",
        },
        "uses_alone": {"stagepipe.alone"},
    }


@pytest.mark.parametrize(
    "name, text",
    [
        ("low.py", "def low(a):\n    return a + 1\n"),
        (
            "low.py",
            '"""Module."""\n\n# comment\ndef low(  a  ):\n    """Other."""\n\n    return (a +\n        1)  # why\n',
        ),
        ("late.py", 'async def late():\n    """Doc."""\n    import stagepipe.room.inner as inner\n    return inner\n'),
        ("room/outer.py", "X = 1\n'''what X is'''\n"),
        ("errors.py", "class E(Exception): x = 2"),
        ("recipe/model.py", "x = 2"),
    ],
)
def test_comments_docstrings_layout_and_the_recipes_types_change_nothing(package, name, text):
    assert package(files={name: text}) == package()


@pytest.mark.parametrize(
    "name, text, reached",
    [
        ("low.py", "def low(a):\n    return a + 2\n", {"uses_middle", "uses_late"}),
        ("low.py", "def low(a, b=None):\n    return a + 1\n", {"uses_middle", "uses_late"}),
        ("low.py", "def low(a):\n    return 'a + 1'\n", {"uses_middle", "uses_late"}),
        ("middle.py", "def middle():\n    return 1\n", {"uses_middle"}),
        ("room/__init__.py", "", {"uses_late"}),
        ("room/outer.py", "X = 1.0", {"uses_late"}),
        ("room/outer.py", "X = True", {"uses_late"}),
        ("alone.py", "import json, torch.nn\nY = torch", {"uses_alone"}),
    ],
)
def test_an_edit_reaches_the_scripts_that_run_it(package, name, text, reached):
    before, after = package(), package(files={name: text})
    assert {script for script in SCRIPT if before[script] != after[script]} == reached


def test_an_edit_of_a_script_is_its_own(package):
    before, after = package(), package(scripts={"uses_alone": "from stagepipe import alone\nalone.Y"})
    assert {script for script in SCRIPT if before[script] != after[script]} == {"uses_alone"}


def test_scripts_of_the_workflow_run_what_they_should():
    found = {path.stem: set(code.modules(path)) for path in SCRIPTS.glob("*.py")}
    assert "stagepipe.training" in found["train"]
    assert "stagepipe.losses" in found["train"]
    assert "stagepipe.artefacts" in found["binarise"]
    assert not found["binarise"] & {"stagepipe.training", "stagepipe.networks", "stagepipe.report"}
    assert not any(name.startswith("stagepipe.report") for name in found["train"] | found["predict"])
    assert not any(name.startswith("stagepipe.recipe") for modules in found.values() for name in modules)
    assert len({code.fingerprint(path) for path in SCRIPTS.glob("*.py")}) == len(found)


def test_what_was_parsed_is_kept_and_a_broken_or_foreign_file_is_not_believed(package, monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    package()
    assert not (code.PACKAGE / "__pycache__").exists()
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    first = package()
    root = code.PACKAGE.parent
    (kept,) = (code.PACKAGE / "__pycache__").glob("parsed.*.json")
    scripts = {name: root / f"{name}.py" for name in SCRIPT}

    def again():
        code.modules.cache_clear()
        return {name: code.modules(path) for name, path in scripts.items()}

    with monkeypatch.context() as patched:
        patched.setattr(code, "_tree", lambda path: pytest.fail(f"{path} is parsed again"))
        assert again() == first
    for text in ("{", "[]", '{"made_by": "others", "parsed": {}}'):
        kept.write_text(text)
        assert again() == first
    (code.PACKAGE / "low.py").write_text("def low(a):\n    return a + 2\n")
    changed = again()
    assert changed["uses_middle"]["stagepipe.low"] != first["uses_middle"]["stagepipe.low"]
    assert changed["uses_alone"] == first["uses_alone"]
