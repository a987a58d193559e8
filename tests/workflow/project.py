"""A checkout, a working folder and a recipe: what a person has who types `snakemake`."""

import itertools
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

CHECKOUT = Path(__file__).resolve().parents[2]
TINY = Path(__file__).with_name("tiny.yaml")
SHIPPED = ("Snakefile", "workflow", "profiles", "src", "config")
# Two jobs at a time, one thread each: how many threads a sum is split over is part of its bits.
FAST = ("--cores", "2", "--set-threads", "train=1", "predict=1", "ingest=1")
PLAIN = ("--cores", "1", "--resources", "gpu=1")


BEGIN = """
import os, sys
from pathlib import Path
from stagepipe.workflow import FROZEN, plan
plan([sys.argv[1]], {}, Path(sys.argv[2])).hold()
print(os.environ[FROZEN])
"""


@dataclass(frozen=True)
class Project:
    """Where a workflow runs, and on what recipe."""

    checkout: Path
    folder: Path
    recipe: Path
    overlays: tuple[Path, ...] = ()

    @property
    def results(self) -> Path:
        return self.folder / "results" / "tiny"

    @property
    def submission(self) -> bytes:
        return (self.results / "submission.csv").read_bytes()

    def environment(self, **more: str) -> dict[str, str]:
        """The environment of a shell in which the checkout is installed."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("STAGEPIPE_", "SNAKEMAKE_"))}
        path = os.pathsep.join([str(Path(sys.executable).parent), kept.get("PATH", "")])
        # Python and `stagepipe.code` keep what they have parsed, as they do for a user: half a second of each call.
        kept.pop("PYTHONDONTWRITEBYTECODE", None)
        return kept | {"PATH": path, "PYTHONPATH": str(self.checkout / "src")} | more

    def command(self, *arguments: str) -> list[str]:
        where = ["-s", str(self.checkout / "Snakefile"), "--directory", str(self.folder)]
        recipe = ["--configfile", *map(str, [self.recipe, *self.overlays])]
        # Targets come first: several options take any number of words.
        return [str(Path(sys.executable).with_name("snakemake")), *arguments, *where, *recipe]

    def snakemake(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run snakemake to its end; standard output holds all it says."""
        return subprocess.run(
            self.command(*arguments),
            cwd=self.folder,
            env=self.environment(**environment),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )

    def begin(self) -> str:
        """Begin a run of Snakemake and end it at once; what it leaves its jobs in STAGEPIPE_FROZEN_RECIPE."""
        words = [sys.executable, "-c", BEGIN, str(self.recipe), str(self.checkout)]
        return subprocess.run(
            words, cwd=self.folder, env=self.environment(), capture_output=True, text=True, check=True
        ).stdout.strip()

    def dry_run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        done = self.snakemake(*arguments, "--cores", "1", "--dry-run", "--printshellcmds", **environment)
        assert done.returncode == 0, done.stdout
        return done

    def plan(self, *arguments: str) -> set[str]:
        """Jobs that snakemake would run, by the names of their logs."""
        return planned(self.dry_run(*arguments).stdout)

    def shell_commands(self) -> dict[str, str]:
        """Command line of every job, by the name of its log."""
        shown = self.dry_run("--forceall").stdout
        return {planned(line).pop(): line[line.index("exec ") :] for line in shown.splitlines() if " --log " in line}

    def copy(self, to: Path) -> "Project":
        """The working folder elsewhere, times and Snakemake's metadata included."""
        subprocess.run(["cp", "-a", self.folder, to], check=True)
        return replace(self, folder=to)

    def with_checkout(self, to: Path) -> "Project":
        """The same working folder under a copy of the checkout whose files are all new."""
        return replace(self, checkout=copy_checkout(self.checkout, to))

    def with_recipe(self, text: str, to: Path) -> "Project":
        """Another recipe, written to a file."""
        to.write_text(text, encoding="utf-8")
        return replace(self, recipe=to)

    def with_changes(self, changes: dict[str, Any], to: Path) -> "Project":
        """The recipe and an overlay on it, written to a file."""
        to.write_text(yaml.safe_dump(changes), encoding="utf-8")
        return replace(self, overlays=(to,))

    def edit(self, module: str, old: str, new: str) -> None:
        """Replace text in a module of the checkout."""
        path = self.checkout / "src" / "stagepipe" / module
        text = path.read_text(encoding="utf-8")
        assert old in text
        path.write_text(text.replace(old, new, 1), encoding="utf-8")


def copy_checkout(source: Path, to: Path) -> Path:
    """The shipped files as a fresh `git clone` has them."""
    for name in SHIPPED:
        if (source / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
            shutil.copytree(source / name, to / name, copy_function=shutil.copyfile, ignore=ignored)
        else:
            to.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, to / name)
    return to


def planned(output: str) -> set[str]:
    """Jobs in what `snakemake --dry-run --printshellcmds` prints, by the names of their logs."""
    return set(re.findall(r" --log results/tiny/logs/(\S+)\.log ", output))


def jobs(*patterns: str) -> set[str]:
    """Names of jobs; `a/{b,c}` stands for a/b and a/c."""
    found = set()
    for pattern in patterns:
        pieces = [piece.split(",") for piece in re.split(r"[{}]", pattern)]
        found |= {"".join(choice) for choice in itertools.product(*pieces)}
    return found


def tree() -> dict[str, Any]:
    """The tiny recipe as plain data."""
    return yaml.safe_load(TINY.read_text(encoding="utf-8"))
