"""Feed bad inputs to stagepipe, each in a process of its own with limits to its time and memory."""

import hashlib
import json
import os
import resource
import signal
import stat
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from stagepipe.errors import StagepipeError
from tests.bad_inputs import BadInput
from tests.bad_inputs.raw_data import LAYOUTS, OUTPUTS, built, ingested

SECONDS = 30
"""that one input may take"""
MEMORY = 2 << 30
"""bytes of addresses that one input may take, beyond what the imports have taken"""
HASHED = 1 << 24
"""bytes of a file that are compared at most"""
LISTING = "faults.strict.csv"
"""the one file that an ingest of faulty data leaves"""


@dataclass(frozen=True)
class Result:
    """What became of one bad input."""

    ended: str
    """the error's class, or the names of the faults, or how the process ended"""
    message: str
    """without paths of this machine"""
    changed: bool = False
    """an input file is another one than before"""
    left: tuple[str, ...] = ()
    """files beside the input, from the folder that it lies in"""
    own: bool = False
    """the error is one of stagepipe's"""


def results(cases: Sequence[BadInput]) -> Iterator[Result]:
    """What becomes of each, in order."""
    _warm_up()
    for case in cases:
        with tempfile.TemporaryDirectory() as place:
            yield _forked(case, Path(place))


def _warm_up() -> None:
    """Load what the children share; what isn't spoilt must have no fault."""
    for form in LAYOUTS:
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place) / "input"
            built(form, lambda root: None)(folder)
            assert ingested(form)(folder) == [], f"the sound {form} layout has faults"


def _forked(case: BadInput, place: Path) -> Result:
    """The result of a case from a child process, which a signal ends where it takes too long."""
    source, target = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(source)
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends a decoder that never returns, too
            signal.alarm(SECONDS)
            os.write(target, json.dumps(asdict(_met(case, place))).encode())
        finally:
            os._exit(0)
    os.close(target)
    with os.fdopen(source, "rb") as pipe:
        said = pipe.read()
    _, status = os.waitpid(child, 0)
    if not said:
        return Result(f"the process ended with status {status} (14: after {SECONDS} seconds)", "")
    return Result(**json.loads(said))


def _met(case: BadInput, place: Path) -> Result:
    folder = place / "input"
    folder.mkdir()
    case.build(folder)
    before, known = _state(folder), set(place.rglob("*"))
    _limit_memory()
    try:
        found = case.meet(folder)
    except Exception as error:  # noqa: BLE001 - which one it is makes the result
        own = isinstance(error, StagepipeError)
        ended, message = type(error).__name__, str(error) if own else traceback.format_exc()
    else:
        own = False
        ended, message = _quarantined(found)
    left = sorted(str(path.relative_to(place)) for path in set(place.rglob("*")) - known if not path.is_dir())
    return Result(ended, _plain(message, place), _state(folder) != before, tuple(left), own)


def _quarantined(found: object) -> tuple[str, str]:
    """Names and texts of faults."""
    if not isinstance(found, list):
        return "no error", repr(found)
    lines = [f"{row['path']}: {row['fault']}: {row['detail']}".replace("\n", "\\n") for row in found]
    return " ".join(sorted({row["fault"] for row in found})), "\n".join(lines)


def _limit_memory() -> None:
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY, taken + MEMORY))


def _state(folder: Path) -> dict[str, object]:
    """Kind and content of all that lies below a folder."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        facts = path.lstat()
        name = os.fsencode(path.relative_to(folder)).hex()
        if stat.S_ISREG(facts.st_mode):
            with path.open("rb") as file:
                found[name] = facts.st_size, hashlib.sha256(file.read(HASHED)).hexdigest()
        else:
            found[name] = facts.st_mode, os.readlink(path) if path.is_symlink() else ""
    return found


def _plain(message: str, place: Path) -> str:
    """The message as it would be in any folder, on any machine."""
    for folder in (place / "input", place):
        message = message.replace(f"{folder}/", "").replace(str(folder), ".")
    return message.encode("utf-8", "backslashreplace").decode()


def leftovers(result: Result) -> list[str]:
    """Files that must not be there: outputs of work that ended in an error, parts of files."""
    outputs = {f"{OUTPUTS}/{name}" for name in ("samples.parquet", "pixels.bin", "faults.parquet")}
    allowed = {f"{OUTPUTS}/{LISTING}"} if result.own else outputs
    return [name for name in result.left if name not in allowed]
