"""Every bad input ends in a named error or a row of the table of faults, and docs/reliability.md says in which."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bad_inputs import BadInput
from tests.bad_inputs.__main__ import COMMAND, PAGE, section, written
from tests.bad_inputs.catalogue import ALL
from tests.bad_inputs.run import Result, leftovers

CHECKOUT = Path(__file__).resolve().parents[1]
NAMES = [f"{case.where}: {case.name}" for case in ALL]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[Result]:
    """What became of each: a process without threads makes one for each of them."""
    path = tmp_path_factory.mktemp("bad_inputs") / "results.json"
    command = [*COMMAND.replace("python", sys.executable, 1).split(), "--json", str(path)]
    done = subprocess.run(command, check=False, cwd=CHECKOUT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-4000:]
    return [Result(**result | {"left": tuple(result["left"])}) for result in json.loads(path.read_text())]


def test_no_two_inputs_have_one_name() -> None:
    assert len(set(NAMES)) == len(NAMES)


@pytest.mark.parametrize(("case", "position"), [*zip(ALL, range(len(ALL)), strict=True)], ids=NAMES)
def test_bad_input(case: BadInput, position: int, found: list[Result]) -> None:
    result = found[position]
    if isinstance(case.outcome, str):
        assert case.outcome in result.ended.split(), result.message
    else:
        assert (result.ended, result.own) == (case.outcome.__name__, True), result.message
    assert [words for words in case.says if words not in result.message] == [], result.message
    assert not result.changed, "an input file is another one than before"
    assert leftovers(result) == []


def test_the_table_in_the_docs_is_what_happens(found: list[Result]) -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page == written(page, section(found)), f"write it anew: {COMMAND}"
