"""What every script of workflow/scripts shares: arguments, log, checked inputs and the provenance of its outputs."""

import argparse
import hashlib
import json
import logging
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from stagepipe.artefacts import Provenance, metadata, verify
from stagepipe.errors import ArtefactError, RecipeError, StagepipeError
from stagepipe.recipe.explain import explain
from stagepipe.recipe.model import Runtime
from stagepipe.recipe.part import Part

LOG = logging.getLogger("stagepipe")
SEALED = (".parquet", ".safetensors")
Parsed = TypeVar("Parsed", bound=BaseModel)


@dataclass(frozen=True)
class Job:
    """One call of a script, its inputs checked."""

    part: Any
    """the Part of the recipe that the script declares"""
    paths: dict[str, list[Path]]
    """files by the name of their option"""
    threads: int
    runtime: Runtime
    provenance: Provenance
    state: Path
    """folder for the state of interrupted work, named by what the job does"""

    def path(self, name: str) -> Path:
        """The one file of an option; ArtefactError if there is none or several."""
        if len(self.paths[name]) != 1:
            raise ArtefactError(f"--{name}: needs one file, found {len(self.paths[name])}; write `--{name} FILE`")
        return self.paths[name][0]

    def optional(self, name: str) -> Path | None:
        """The one file of an option, or None."""
        return self.path(name) if self.paths[name] else None


def start(description: str, kind: type[Part], inputs: list[str], outputs: list[str]) -> Job:
    """Parse the command line of a script: a part of the recipe, and named input and output files.

    Every input artefact must be whole, and made by the part of the recipe that --expect names for it: ArtefactError
    says which is not. Errors of the input end the process with one message, on the terminal and in the log.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--part", default="{}", help=f"{kind.__name__} as JSON")
    parser.add_argument("--log", type=Path, help="file for progress and errors, besides the terminal")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runtime", default="{}", help="Runtime as JSON")
    parser.add_argument("--code", default="", help="fingerprint of the code")
    parser.add_argument("--state", type=Path, default=Path("state"), help="folder for the state of interrupted work")
    parser.add_argument("--resume", default="", help="fingerprint of the only code whose interrupted work may go on")
    parser.add_argument("--expect", default="{}", help="JSON: input file -> how the fingerprint of its part begins")
    for name in [*inputs, *outputs]:
        parser.add_argument(f"--{name}", nargs="*", type=Path, default=[], metavar="FILE")
    arguments = parser.parse_args()
    _log_to(arguments.log)
    # OpenMP reads this when it loads, which is after this module: scripts import torch only below `start`.
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    part = _parsed(kind, arguments.part, "--part")
    paths: dict[str, list[Path]] = {name: getattr(arguments, name.replace("-", "_")) for name in [*inputs, *outputs]}
    runtime = _parsed(Runtime, arguments.runtime, "--runtime")
    checksums = _check_inputs([path for name in inputs for path in paths[name]], json.loads(arguments.expect))
    provenance = Provenance(part.fingerprint(), checksums, arguments.code, getattr(part, "seed", 0))
    identity = json.dumps([provenance.part, checksums, *filter(None, [arguments.resume])], sort_keys=True)
    state = arguments.state / hashlib.sha256(identity.encode()).hexdigest()[:20]
    return Job(part, paths, arguments.threads, runtime, provenance, state)


def _parsed(kind: type[Parsed], text: str, option: str) -> Parsed:
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        raise RecipeError("\n".join(f"{option}: {line}" for line in explain(error, kind))) from error


def _check_inputs(paths: list[Path], expected: dict[str, str]) -> dict[str, str]:
    """Checksums of the input artefacts, by name."""
    checksums = {}
    for path in paths:
        if path.suffix in SEALED:
            checksums[str(path)] = verify(path)
            wanted = expected.get(str(path))
            if wanted and not metadata(path)["part"].startswith(wanted):
                raise ArtefactError(
                    f"{path}: was made by another recipe than this one (part {metadata(path)['part'][:12]}, wanted "
                    f"{wanted[:12]}); run snakemake again, so that it is made anew"
                )
    return checksums


def _log_to(path: Path | None) -> None:
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        handlers.append(logging.FileHandler(path, mode="w", encoding="utf-8"))
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", handlers=handlers)
    logging.captureWarnings(True)
    # It tells at every bar chart how it reads words.
    logging.getLogger("matplotlib").setLevel(logging.WARNING)
    sys.excepthook = _log_error


def _log_error(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """A user's error is its message; a program's error keeps its trace."""
    if issubclass(kind, StagepipeError):
        LOG.error("%s", error)
    else:
        LOG.error("%s", str(error) or kind.__name__, exc_info=(kind, error, trace))
