"""Kill the built-in recipe at random moments, run the same command again until it ends, and compare every file.

    python -m tests.kill_anywhere --kills 200 --seed 0 --configfile tests/workflow/demo_small.yaml

Kills come at a moment drawn at random, or just after a file has appeared: what a job writes, its rename, Snakemake's
notes of a job's start and end. One in four waits for a job of a kind that no kill has hit yet: trainings take most of
the time. Everything that the command has started dies at once by SIGKILL. After ten kills the command may come to its
end; then what a stage has made, and all that follows from it, is removed for the next ten.
"""

import argparse
import math
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from stagepipe.artefacts import read_table
from tests.workflow.processes import kill_tree, start
from tests.workflow.project import CHECKOUT, FAST, Project, copy_checkout

SERIES = 10
"""Kills before the command may come to its end"""
LONGEST = 0.2
"""How long an attempt lives at most, of what the whole takes: some don't reach their first job, some end several"""
PATIENCE = 10.0
"""Seconds to wait for a file to appear before the kill comes at any moment"""
EVENTS = {
    "a file being written": ("results", r".*\.part/.*"),
    "a file's rename": ("results", r"(?!.*\.part/|.*/state/).*\.(parquet|safetensors|bin|csv|json|html|png)"),
    "a training's progress": ("results", r".*/progress\.pt"),
    "Snakemake's note of a start": (".snakemake/incomplete", r".*"),
    "Snakemake's note of an end": (".snakemake/metadata", r".*"),
}
"""Files that kills wait for: a folder, and what their paths below it look like"""
NEW_KIND = "a job of a new kind"
"""What the other kills wait for"""
STAGES = ("stage1", "stage2", "stage3")
TIMES = re.compile(r"(logs|benchmarks)/.*|lock|run|state/.*/lock|report\.html|report/cost\.png|.*/history\.parquet")
"""Files that tell when, how long or by which process, so that no two runs make them alike (histories: but for times)"""
LEFT = re.compile(r"\.part(/|$)|/\.tmp|~$")
"""Names of what is only half-written"""


@dataclass
class Kill:
    """What one kill hit."""

    at: str
    """what it waited for: a moment, one of EVENTS or NEW_KIND"""
    seconds: float
    """how long the command lived"""
    jobs: list[str]
    """jobs that ran, by the names of their logs"""


@dataclass
class Outcome:
    """What a series of kills came to."""

    kills: list[Kill] = field(default_factory=list)
    ends: int = 0
    """how often the recipe ran to its end"""
    undisturbed: float = 0.0
    """seconds of a run that nothing disturbs"""
    seconds: float = 0.0
    """of all runs that were killed, and those that ended"""
    compared: int = 0
    """files that are the same byte for byte"""
    faults: list[str] = field(default_factory=list)
    """what was not as it must be"""

    def kinds(self) -> Counter[str]:
        """How often a job of each rule was hit, and Snakemake alone."""
        return Counter(name.split("/")[0] for kill in self.kills for name in kill.jobs)


class Failed(Exception):
    """A run ended with an error, though nothing killed it."""


def results(project: Project) -> Path:
    """The one folder below `results`."""
    (folder,) = (project.folder / "results").iterdir()
    return folder


def kill_often(project: Project, twin: Project, kills: int, seed: int) -> Outcome:
    """Run `project` undisturbed and `twin`, the same in another folder, with kills, and compare what they made."""
    outcome, draw = Outcome(), random.Random(seed)
    began = time.monotonic()
    finish(project)
    outcome.undisturbed = time.monotonic() - began
    began = time.monotonic()
    while len(outcome.kills) < kills:
        if outcome.ends:
            show(f"removed, to be made again: {forget(results(twin), draw)}")
        series = min(len(outcome.kills) + SERIES, kills)
        longest = LONGEST * outcome.undisturbed
        while len(outcome.kills) < series and (killed := attempt(twin, draw, longest, set(outcome.kinds()))):
            outcome.kills.append(killed)
            show(f"kill {len(outcome.kills)} after {killed.seconds:.1f} s, {killed.at}: {', '.join(killed.jobs)}")
        finish(twin)
        outcome.ends += 1
        outcome.faults += differences(project, twin)
    outcome.seconds = time.monotonic() - began
    outcome.compared = len(comparable(results(twin)))
    return outcome


def settings(project: Project) -> dict[str, str]:
    """Environment of a run: Python keeps its bytecode, temporary files lie beside the working folder."""
    temporary = project.folder.parent / "temporary"
    temporary.mkdir(exist_ok=True)
    return {"PYTHONDONTWRITEBYTECODE": "", "TMPDIR": str(temporary)}


def finish(project: Project) -> None:
    """Run to the end; Failed shows what it said if it ends with an error or has left something to do."""
    done = project.snakemake(*FAST, **settings(project))
    if done.returncode:
        raise Failed(done.stdout)
    again = project.dry_run()
    if "Nothing to be done" not in again.stdout:
        raise Failed(f"a second run has something to do:\n{again.stdout}")


def attempt(project: Project, draw: random.Random, longest: float, hit: set[str]) -> Kill | None:
    """Run and kill, after `longest` seconds at most or when a file appears, or a job of a rule that was not hit yet.

    None if it ended first, Failed if by an error.
    """
    events = EVENTS | {NEW_KIND: ("results", rf"\w+/logs/(?!({'|'.join(hit)})[/.]).*")}
    at = draw.choices(["a moment", draw.choice(list(EVENTS)), NEW_KIND], weights=[3, 3, 2])[0]
    lives, lag = draw.uniform(0.1, longest), draw.uniform(0, 0.2 if at == NEW_KIND else 0.005)
    # A job takes longer than a file.
    patience, pause = (math.inf, 0.02) if at == NEW_KIND else (PATIENCE, 0.001)
    with tempfile.TemporaryFile() as said, start(project, *FAST, output=said, **settings(project)) as driver:
        began = time.monotonic()
        ended = at != NEW_KIND and ended_within(driver, lives)
        if not ended and at in events and not appears(project.folder, *events[at], driver, patience, pause):
            at, ended = "a moment", driver.poll() is not None
        if ended:
            if driver.wait() == 0:
                return None
            said.seek(0)
            raise Failed(said.read().decode(errors="replace"))
        time.sleep(lag)
        seconds = time.monotonic() - began
        commands = kill_tree(driver)
    names = {found[1] for command in commands if (found := re.search(r" --log results/\w+/logs/(\S+)\.log ", command))}
    return Kill(at, seconds, sorted(names) or ["Snakemake alone"])


def ended_within(process: subprocess.Popen[bytes], seconds: float) -> bool:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


def appears(
    folder: Path, below: str, pattern: str, process: subprocess.Popen[bytes], patience: float, pause: float
) -> bool:
    """Wait until a path that fits appears or changes, looking every `pause` seconds; False if none does in `patience`
    seconds or the process ends."""
    fits, until = re.compile(pattern), time.monotonic() + patience
    before = seen(folder / below, fits)
    while process.poll() is None and time.monotonic() < until:
        if seen(folder / below, fits) - before:
            return True
        time.sleep(pause)
    return False


def seen(folder: Path, fits: re.Pattern[str]) -> set[tuple[str, int]]:
    """Paths below the folder that fit, with their times; what is raw data or ends meanwhile is passed over."""
    found = set()
    for parent, folders, files in os.walk(folder):
        if "raw" in folders:
            folders.remove("raw")
        for name in files:
            path = os.path.join(parent, name)
            if fits.fullmatch(os.path.relpath(path, folder)):
                try:
                    found.add((path, os.stat(path).st_mtime_ns))
                except FileNotFoundError:
                    continue
    return found


def forget(made: Path, draw: random.Random) -> str:
    """Remove what a stage drawn at random has made and all that follows; at times the trainings' state, too."""
    first = draw.randrange(len(STAGES) + 1)
    gone = [*STAGES[first:], "submission", "submission.csv", "scores.csv", "report", "report.html"]
    if first == 0:
        gone += ["raw", "data"]
    if draw.random() < 0.7:
        gone += [f"state/{stage}" for stage in STAGES[first:]]
    for name in gone:
        if (made / name).is_dir():
            shutil.rmtree(made / name)
        else:
            (made / name).unlink(missing_ok=True)
    return ", ".join(gone)


# ---------------------------------------------------------------------------------------------------------- comparison


def comparable(made: Path) -> set[str]:
    """Files that two runs make alike byte for byte, by their path below the results."""
    names = {path.relative_to(made).as_posix() for path in made.rglob("*") if not path.is_dir()}
    return {name for name in names if not TIMES.fullmatch(name)}


def differences(one: Project, two: Project) -> list[str]:
    """What the second has not made as the first, and what is half-written in it; empty if there is nothing."""
    first, second = results(one), results(two)
    names, others = comparable(first), comparable(second)
    found = [f"{name}: is only in one of the two" for name in sorted(names ^ others)]
    found += [
        f"{name}: has other bytes"
        for name in sorted(names & others)
        if (first / name).read_bytes() != (second / name).read_bytes()
    ]
    found += [
        f"{path.relative_to(first)}: another history"
        for path in sorted(first.glob("stage*/**/history.parquet"))
        if not (second / path.relative_to(first)).exists() or untimed(path) != untimed(second / path.relative_to(first))
    ]
    paths = [path.relative_to(two.folder).as_posix() for path in two.folder.rglob("*")]
    return found + [f"{path}: is left half-written" for path in paths if LEFT.search(path)]


def untimed(history: Path) -> pa.Table:
    """A history without how long its epochs took and waited; times are sound, whatever has happened to the training."""
    table = read_table(history)
    if min(table["seconds"].to_pylist()) <= 0:
        raise Failed(f"{history}: holds an epoch of {min(table['seconds'].to_pylist())} seconds")
    if any(not 0 <= row["waited"] <= row["seconds"] for row in table.select(["waited", "seconds"]).to_pylist()):
        raise Failed(f"{history}: holds an epoch that waited longer than it took")
    return table.drop_columns(["seconds", "waited"])


# ---------------------------------------------------------------------------------------------------------------- shell


def show(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def summary(outcome: Outcome) -> str:
    """The outcome as a table in Markdown."""
    waited = Counter(kill.at for kill in outcome.kills)
    rows = [
        ("kills", str(len(outcome.kills))),
        ("they came at", ", ".join(f"{name} {count}" for name, count in waited.most_common())),
        ("they hit", ", ".join(f"{name} {count}" for name, count in outcome.kinds().most_common())),
        ("runs to the end", str(outcome.ends)),
        ("seconds undisturbed", f"{outcome.undisturbed:.0f}"),
        ("seconds with kills", f"{outcome.seconds:.0f}"),
        ("files the same byte for byte", str(outcome.compared)),
        ("faults", "; ".join(outcome.faults) or "none"),
    ]
    return "\n".join(f"| {name} | {value} |" for name, value in rows)


def projects(folder: Path, overlays: Sequence[Path]) -> tuple[Project, Project]:
    """Two working folders and a copy of the checkout that stays as it is."""
    checkout = copy_checkout(CHECKOUT, folder / "checkout")
    for name in ("undisturbed", "killed"):
        (folder / name).mkdir()
    recipe = checkout / "config" / "config.yaml"
    whole = Project(checkout, folder / "undisturbed", recipe, tuple(path.resolve() for path in overlays))
    return whole, Project(checkout, folder / "killed", recipe, whole.overlays)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--configfile", type=Path, nargs="*", default=[], help="overlays on config/config.yaml")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kill_anywhere.") as folder:
        outcome = kill_often(*projects(Path(folder), arguments.configfile), arguments.kills, arguments.seed)
    show(summary(outcome))
    return 1 if outcome.faults else 0


if __name__ == "__main__":
    sys.exit(main())
