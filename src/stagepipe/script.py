"""What every script of workflow/scripts shares: arguments, log, checked inputs and the provenance of its outputs."""

import argparse
import atexit
import gc
import hashlib
import json
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, TypeVar

import pyarrow as pa
from pydantic import BaseModel, ValidationError

from stagepipe import launch, storage
from stagepipe.artefacts import Provenance, metadata, verify
from stagepipe.errors import ArtefactError, RecipeError, StagepipeError
from stagepipe.locks import held
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
    gpus: int
    """devices that one training uses"""
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


def start(description: str, kind: type[Part], inputs: list[str], outputs: list[str], alone: bool = True) -> Job:
    """Parse the command line of a script: a part of the recipe, and named input and output files.

    Every input artefact must be whole, and made by the part of the recipe that --expect names for it: ArtefactError
    says which is not. Errors of the input end the process with one message, on the terminal and in the log.

    `alone`: wait for a process that does the same work already (its driver may have died), and end if it has done it
    all. A script that is not `alone` sees to that itself.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--part", default="{}", help=f"{kind.__name__} as JSON")
    parser.add_argument("--log", type=Path, help="file for progress and errors, besides the terminal")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--gpus", type=int, default=1, help="devices that a training uses")
    parser.add_argument("--runtime", default="{}", help="Runtime as JSON")
    parser.add_argument("--code", default="", help="fingerprint of the code")
    parser.add_argument("--state", type=Path, help="folder for the state of interrupted work")
    parser.add_argument("--resume", default="", help="fingerprint of the only code whose interrupted work may go on")
    parser.add_argument(
        "--expect", type=json.loads, default={}, help="JSON: input file -> how the fingerprint of its part begins"
    )
    for name in [*inputs, *outputs]:
        parser.add_argument(f"--{name}", nargs="*", type=Path, default=[], metavar="FILE")
    arguments = parser.parse_args()
    _log_to(arguments.log)
    _spare_pandas()
    # OpenMP reads this when it loads, which is after this module: scripts import torch only below `start`.
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    part = _parsed(kind, arguments.part, "--part")
    paths: dict[str, list[Path]] = {name: getattr(arguments, name.replace("-", "_")) for name in [*inputs, *outputs]}
    runtime = _parsed(Runtime, arguments.runtime, "--runtime")
    checksums = _check_inputs([path for name in inputs for path in paths[name]], arguments.expect)
    provenance = Provenance(part.fingerprint(), checksums, arguments.code, getattr(part, "seed", 0))
    identity = json.dumps([provenance.part, checksums, *filter(None, [arguments.resume])], sort_keys=True)
    state = (arguments.state or Path("state")) / hashlib.sha256(identity.encode()).hexdigest()[:20]
    work = Job(part, paths, arguments.threads, arguments.gpus, runtime, provenance, state)
    if alone and arguments.state:
        _work_alone(work, [path for name in outputs for path in paths[name]])
    return work


@contextmanager
def importing() -> Iterator[None]:
    """Import torch and what builds on it in five sixths of the time.

    Python's collector of reference cycles would go over all of its objects again and again while they pile up. They
    stay, so it need not look at them later either, and loader workers share their memory with this process.
    """
    gc.disable()
    yield
    gc.freeze()
    gc.enable()


def end() -> NoReturn:
    """End a process that has imported torch, its work done, with status 0.

    Python takes more than a second to free all of torch, one object after the other. The kernel does it at once.
    """
    logging.shutdown()
    sys.stdout.flush()
    os._exit(0)


class _NoPandas:
    """A finder of modules to whom pandas is not installed."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name == "pandas":
            raise ModuleNotFoundError("No module named 'pandas'", name=name)


def _spare_pandas() -> None:
    """Let pyarrow make its arrays without pandas, the import of which is two fifths of a short job.

    Before its first array it looks, once, whether pandas is there, and by that imports it. Whoever uses pandas by name,
    `to_pandas` too, gets it as ever.
    """
    finder = _NoPandas()
    sys.meta_path.insert(0, finder)
    pa.array([])
    sys.meta_path.remove(finder)


def _work_alone(work: Job, outputs: list[Path]) -> None:
    """Hold the job's state folder until this process ends; end it now if the holder before has made all outputs."""
    stack = ExitStack()
    waited = stack.enter_context(held(work.state))
    atexit.register(stack.close)
    if waited and all(path.suffix in SEALED and _made(path, work.provenance) for path in outputs):
        LOG.info("it has made all that this job was to make")
        sys.exit(0)


def _made(path: Path, provenance: Provenance) -> bool:
    """Whether an artefact of the same origin is there and whole."""
    try:
        verify(path)
        found = metadata(path)
    except ArtefactError:
        return False
    return found | asdict(provenance) == found


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


class _LogFile(logging.FileHandler):
    """A log file that is no reason to fail: on a full disk the work itself says so, on the terminal."""

    def handleError(self, record: logging.LogRecord) -> None:
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)


def _log_to(path: Path | None) -> None:
    sys.excepthook = _log_error
    terminal = logging.StreamHandler(sys.stderr)
    mine = launch.place()
    # Of several processes of one training the first tells what they all do.
    level, who = (logging.WARNING, f"process {mine.rank + 1}: ") if mine and mine.rank else (logging.INFO, "")
    logging.basicConfig(level=level, format=f"%(asctime)s {who}%(message)s", datefmt="%H:%M:%S", handlers=[terminal])
    if path:
        with storage.explained(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            if mine is None:
                path.write_bytes(b"")
            # To its end, wherever that is by now: the processes of one training share it.
            file = _LogFile(path, mode="a", encoding="utf-8")
        file.setFormatter(terminal.formatter)
        logging.getLogger().addHandler(file)
    logging.captureWarnings(True)
    # It tells at every bar chart how it reads words.
    logging.getLogger("matplotlib").setLevel(logging.WARNING)


def _log_error(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """An error of the user, the disk or its permissions is its message; a program's error keeps its trace."""
    if issubclass(kind, StagepipeError):
        LOG.error("%s", error)
    elif message := storage.fault(error):
        LOG.error("%s", message)
    else:
        LOG.error("%s", str(error) or kind.__name__, exc_info=(kind, error, trace))
