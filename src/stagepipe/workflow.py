"""What the Snakefile needs to know: the frozen recipe, the raw files, and each script's arguments.

Jobs on a cluster read the Snakefile again when they start, perhaps after someone has edited the recipe. So the process
that plans the run leaves what it read in the environment, which jobs inherit, and a process that finds it there reads
no recipe file. Such jobs outlive a Snakemake that is killed: those that another run has since replaced do nothing.
"""

import fcntl
import json
import logging
import os
import shlex
import signal
import socket
import sys
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stagepipe import code
from stagepipe.artefacts import metadata
from stagepipe.data.listing import raw_listing
from stagepipe.errors import ArtefactError, BusyError
from stagepipe.recipe.graph import artefacts
from stagepipe.recipe.load import load
from stagepipe.recipe.model import Recipe
from stagepipe.recipe.part import Part
from stagepipe.storage import atomic, forget_the_future

LOG = logging.getLogger(__name__)
FROZEN = "STAGEPIPE_FROZEN_RECIPE"
DEFAULT_RECIPE = "config/config.yaml"


@dataclass
class Plan:
    """A recipe, ready to be turned into rules."""

    recipe: Recipe
    raw_tables: list[str]
    """CSV files beside the raw images"""
    listing: str
    """SHA-256 over names and sizes of the raw images"""
    run: str
    """name of the run of Snakemake that plans it, drawn at random"""
    basedir: Path
    """folder of the Snakefile"""
    parts: dict[str, tuple[str, Part]] = field(default_factory=dict)
    """rule and part that make each artefact, by path"""

    @property
    def results(self) -> Path:
        """Where everything lands, relative to the working directory."""
        return Path("results", self.recipe.name)

    def script(self, name: str) -> Path:
        """Path of a rule's script."""
        return self.basedir / "workflow" / "scripts" / f"{name}.py"

    def code_file(self, name: str) -> str:
        """File with the fingerprints of the modules that a script runs."""
        return str(self.results / "code" / f"{name}.json")

    def hold(self) -> None:
        """Let no other process run this recipe here until this one ends; BusyError names the one that does.

        Snakemake's own lock is files: they outlive a killed process, then want `--unlock`. The kernel's ends with it.
        """
        self.results.mkdir(parents=True, exist_ok=True)
        handle = os.open(self.results / "lock", os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            holder = os.read(handle, 200).decode(errors="replace")
            os.close(handle)
            raise BusyError(f"{self.results}: {holder} is running this recipe; wait for it or stop it") from None
        except OSError as error:
            LOG.warning("%s: this file system has no locks (%s); run the recipe once at a time", self.results, error)
        os.truncate(handle, 0)
        os.write(handle, f"process {os.getpid()} on {socket.gethostname()}".encode())
        forget_the_future(self.results)
        # Jobs that an earlier run has left in a queue see from this that they are not wanted any more.
        with atomic(self.results / "run") as temporary:
            temporary.write_text(self.run, encoding="utf-8")

    def check_current(self) -> None:
        """BusyError if another run of the recipe has begun since the one that this process is a job of."""
        now = self.results / "run"
        if now.exists() and now.read_text(encoding="utf-8") != self.run:
            raise BusyError(
                f"{self.results}: this job was sent by a run of Snakemake that has ended; a later one does its work, "
                "so it does nothing"
            )

    def arguments(self, script: str, wildcards: Sequence[str], inputs: Sequence[str], threads: int, gpus: int) -> str:
        """Command line of a script up to the arguments that make its result."""
        # Linux takes no argument of more than 128 KiB, and the shell gets the whole command as one: so no more digits.
        expected = {path: self.parts[path][1].fingerprint()[:16] for path in map(str, inputs) if path in self.parts}
        runtime = self.recipe.runtime.model_dump_json(exclude_defaults=True)
        fingerprint = code.fingerprint(self.script(script))
        words = {
            "--threads": str(threads),
            **({"--gpus": str(gpus)} if gpus else {}),
            "--runtime": runtime,
            "--code": fingerprint,
            "--state": str((self.results / "state").joinpath(*wildcards)),
            # Training goes on from what other code has left under `code: warn`; under `code: rerun` it starts anew.
            "--resume": fingerprint if self.recipe.code == "rerun" else "",
            "--expect": json.dumps(expected),
        }
        return shlex.join([str(self.script(script)), *(word for pair in words.items() for word in pair)])


def jobs_use_this_python() -> None:
    """Make `python` in a rule the one that runs Snakemake, also where its environment is not activated."""
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])


def ignore_time_limit() -> None:
    """In a job of a cluster, let the warning of its time limit, SIGUSR1, pass by Snakemake to the training it runs.

    SLURM sends it to every process of the job, and it ends a process that does nothing about it.
    """
    if FROZEN in os.environ:
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)


def plan(configfiles: Sequence[Path | str], changes: Mapping[str, Any], basedir: Path) -> Plan:
    """Read a recipe and its overlays (none: the built-in one), or what the planning process has frozen."""
    if frozen := os.environ.get(FROZEN):
        kept = json.loads(frozen)
        recipe = Recipe.model_validate(kept["recipe"])
        made = Plan(recipe, kept["raw_tables"], kept["listing"], kept["run"], basedir)
        made.check_current()
    else:
        first, *overlays = configfiles or [basedir / DEFAULT_RECIPE]
        recipe = load(first, overlays, changes)
        tables, listing = _raw(recipe)
        made = Plan(recipe, tables, listing, uuid.uuid4().hex, basedir)
        kept = {
            "recipe": recipe.model_dump(mode="json", exclude_defaults=True),
            "raw_tables": tables,
            "listing": listing,
            "run": made.run,
        }
        os.environ[FROZEN] = json.dumps(kept)
    made.parts = {str(made.results / path): (rule, part) for rule, path, part in artefacts(made.recipe, made.listing)}
    if not frozen:
        _note_code(made)
    return made


def _raw(recipe: Recipe) -> tuple[list[str], str]:
    if recipe.dataset.root is None:
        return [], ""
    tables, listing = raw_listing(recipe.dataset, Path(recipe.dataset.root))
    return [str(path) for path in tables], listing


def _note_code(made: Plan) -> None:
    """Write the fingerprints of today's code where they changed; name the artefacts that other code has made."""
    today = {}
    for script in sorted(made.script("train").parent.glob("*.py")):
        today[script.stem] = code.fingerprint(script)
        text = json.dumps(code.modules(script), indent=1)
        path = Path(made.code_file(script.stem))
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            with atomic(path) as temporary:
                temporary.write_text(text, encoding="utf-8")
    older: dict[str, int] = {}
    for artefact, (rule, _) in made.parts.items():
        if _made_by(artefact) not in (None, today[rule]):
            where = f"{Path(artefact).relative_to(made.results).parts[0]} ({rule})"
            older[where] = older.get(where, 0) + 1
    if older:
        found = ", ".join(f"{count} of {where}" for where, count in sorted(older.items()))
        advice = (
            "they are made anew"
            if made.recipe.code == "rerun"
            else "they are kept; write `code: rerun` to make them anew"
        )
        LOG.warning("artefacts made by other code than today's: %s; %s", found, advice)


def _made_by(path: str) -> str | None:
    """Fingerprint of the code that made an artefact; None if there is none, or its reader will find it damaged."""
    if not os.path.exists(path):
        return None
    try:
        return str(metadata(path)["code"])
    except ArtefactError:
        return None
