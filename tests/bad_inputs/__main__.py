"""Write the table of bad inputs in docs/reliability.md, or what became of each as JSON: `--json FILE`."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from tests.bad_inputs import BadInput
from tests.bad_inputs.catalogue import ALL
from tests.bad_inputs.run import MEMORY, SECONDS, Result, results

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reliability.md"
BEGIN, END = "<!-- bad inputs: begin -->", "<!-- bad inputs: end -->"
COMMAND = "python -m tests.bad_inputs"
LONGEST = 150


def section(found: Sequence[Result]) -> str:
    """The section of the page, markers included."""
    rows = sum(isinstance(case.outcome, str) for case in ALL)
    lines = [
        BEGIN,
        f"The tests feed {len(ALL)} bad inputs to stagepipe, each in a process of its own.",
        f"{len(ALL) - rows} end in a named error, {rows} in a row of the table of faults:",
        "that is `faults: quarantine`, and under `faults: strict` the same text is the error's.",
        f"None takes {SECONDS} seconds, or {MEMORY >> 30} GiB of memory beyond the program's own;",
        "none changes a file of its input or leaves half of an output.",
        f"`{COMMAND}` writes this table, and a test compares it.",
        "",
        "| input | where | what happens | the message |",
        "|---|---|---|---|",
        *(_row(case, result) for case, result in zip(ALL, found, strict=True)),
        END,
    ]
    return "\n".join(lines) + "\n"


def _row(case: BadInput, result: Result) -> str:
    outcome = f"quarantine: {case.outcome}" if isinstance(case.outcome, str) else case.outcome.__name__
    told = [line for line in result.message.splitlines() if all(word in line for word in case.says[:1])]
    wanted = [line for line in told if isinstance(case.outcome, str) and f": {case.outcome}: " in line]
    message = next(iter(wanted or told), result.message)
    return f"| {_cell(case.name)} | {_cell(case.where)} | {outcome} | {_cell(_short(message))} |"


def _short(message: str) -> str:
    """Printable, on one line, cut where it is long."""
    text = "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in " ".join(message.split()))
    return text if len(text) <= LONGEST else text[: LONGEST - 3].rstrip() + "..."


def _cell(text: str) -> str:
    for letter in "\\|`*_<>[]":
        text = text.replace(letter, f"\\{letter}")
    return text


def written(page: str, new: str) -> str:
    """The page with another section between the markers."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(f"{END}\n")
    return before + new + after


def main() -> None:
    """What the command line says."""
    found = list(results(ALL))
    if sys.argv[1:2] == ["--json"]:
        Path(sys.argv[2]).write_text(json.dumps([asdict(result) for result in found]), encoding="utf-8")
        return
    page = PAGE.read_text(encoding="utf-8") if PAGE.exists() else "# Reliability\n"
    if BEGIN not in page:
        page = f"{page.rstrip()}\n\n## Bad input\n\n{BEGIN}\n{END}\n"
    PAGE.write_text(written(page, section(found)), encoding="utf-8")


if __name__ == "__main__":
    main()
