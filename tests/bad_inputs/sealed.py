"""Damaged and foreign artefacts: sealed tables and weights, and the state that a killed training resumes from."""

import hashlib
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import save_file

from stagepipe.artefacts import MARK, load_weights, read_table, save_weights, write_table
from stagepipe.errors import ArtefactError, TrainingError
from stagepipe.training.state import TrainingState
from tests.bad_inputs import BadInput

TABLE = "folds.parquet"
WEIGHTS = "weights.safetensors"
PROGRESS = "progress.pt"
COLUMNS = ["sample_id", "fold"]
Change = Callable[[bytes], bytes]


class _Trap:
    """Makes a file named `unpickled` beside the pickle that holds it, once that is unpickled."""

    def __init__(self, beside: Path) -> None:
        self.beside = beside

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.beside.parent / "unpickled",)


def _write_table(folder: Path) -> Path:
    ids = [f"sample_{number:04d}" for number in range(500)]
    write_table(folder / TABLE, pa.table({"sample_id": ids, "fold": pa.array([n % 5 for n in range(500)], pa.int8())}))
    return folder / TABLE


def _write_weights(folder: Path) -> Path:
    values = torch.arange(600, dtype=torch.float32)
    save_weights(folder / WEIGHTS, {"mean": {"weight": values.reshape(20, 30), "bias": values[:20]}})
    return folder / WEIGHTS


def _damaged(write: Callable[[Path], Path], change: Change) -> Callable[[Path], object]:
    def build(folder: Path) -> None:
        path = write(folder)
        whole = path.read_bytes()
        changed = change(whole)
        assert changed != whole
        path.write_bytes(changed)

    return build


def _instead(name: str, content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(content)


def _pickled(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(pickle.dumps(_Trap(folder / name)))


def _flip(place: Callable[[bytes], int]) -> Change:
    """One bit changed at a place of the file."""

    def change(content: bytes) -> bytes:
        at = place(content) % len(content)
        return content[:at] + bytes([content[at] ^ 0x04]) + content[at + 1 :]

    return change


def _first(count: Callable[[int], int]) -> Change:
    return lambda content: content[: count(len(content))]


def _put(start: int, value: bytes) -> Change:
    """Bytes written over; a negative start counts from the end."""
    return lambda content: content[: start % len(content)] + value + content[start % len(content) + len(value) :]


def _digits(content: bytes) -> int:
    return content.index(MARK) + len(MARK)


def _read_table(folder: Path) -> object:
    return read_table(folder / TABLE, COLUMNS)


def _load_weights(folder: Path) -> object:
    return _unless_unpickled(folder, lambda: load_weights(folder / WEIGHTS, "mean"))


def _load_progress(folder: Path) -> object:
    return _unless_unpickled(folder, TrainingState(folder).load)


def _unless_unpickled(folder: Path, read: Callable[[], object]) -> object:
    """What `read` gives or raises; AssertionError if a pickle in the folder has run."""
    try:
        return read()
    finally:
        assert not (folder / "unpickled").exists(), "the pickle was unpickled"


def _unsealed_table(folder: Path) -> None:
    pq.write_table(pa.table({"sample_id": ["a"], "fold": [0]}), folder / TABLE)


def _other_columns(folder: Path) -> None:
    write_table(folder / TABLE, pa.table({"sample_id": ["a"], "part": ["b"]}))


def _unsealed_weights(folder: Path) -> None:
    save_file({"mean/weight": torch.ones(3)}, folder / WEIGHTS)


def _other_member(folder: Path) -> None:
    save_weights(folder / WEIGHTS, {"epoch": {"weight": torch.ones(3)}, "last": {"weight": torch.ones(3)}})


def _table_as_weights(folder: Path) -> None:
    shutil.move(_write_table(folder), folder / WEIGHTS)


def _weights_as_table(folder: Path) -> None:
    shutil.move(_write_weights(folder), folder / TABLE)


def _hashed(write: Callable[[Path], bytes]) -> Callable[[Path], object]:
    """A file of progress whose checksum is right, whatever it holds."""

    def build(folder: Path) -> None:
        content = write(folder)
        (folder / PROGRESS).write_bytes(hashlib.sha256(content).digest() + content)

    return build


def _table(name: str, change: Change, *says: str) -> BadInput:
    return BadInput(name, "sealed table", _damaged(_write_table, change), _read_table, ArtefactError, (TABLE, *says))


def _weights(name: str, change: Change, *says: str) -> BadInput:
    return BadInput(
        name, "sealed weights", _damaged(_write_weights, change), _load_weights, ArtefactError, (WEIGHTS, *says)
    )


def _made_table(name: str, build: Callable[[Path], object], *says: str) -> BadInput:
    return BadInput(name, "sealed table", build, _read_table, ArtefactError, (TABLE, *says))


def _made_weights(name: str, build: Callable[[Path], object], *says: str) -> BadInput:
    return BadInput(name, "sealed weights", build, _load_weights, ArtefactError, (WEIGHTS, *says))


def _progress(name: str, build: Callable[[Path], object], *says: str) -> BadInput:
    return BadInput(name, "state of a training", build, _load_progress, TrainingError, (PROGRESS, *says))


NO_CHECKSUM = "holds no checksum of its own"
MISMATCH = "does not match its own checksum"
HUGE = (1 << 60).to_bytes(8, "little")

SEALED: list[BadInput] = [
    _made_table("it is missing", lambda folder: None, "is missing"),
    _made_table("a folder in its place", lambda folder: (folder / TABLE).mkdir(), "is no file"),
    _made_table("it is empty", _instead(TABLE, b""), NO_CHECKSUM),
    _made_table("text in its place", _instead(TABLE, b"sample_id,fold\na,1\n"), NO_CHECKSUM),
    _made_table("a Parquet file of another program", _unsealed_table, NO_CHECKSUM),
    _made_table("a file of weights in its place", _weights_as_table, "Parquet"),
    _made_table("a column is missing", _other_columns, "fold"),
    _table("cut to half", _first(lambda size: size // 2), NO_CHECKSUM),
    _table("its last byte cut off", _first(lambda size: size - 1), TABLE),
    _table("only its first four bytes", _first(lambda size: 4), NO_CHECKSUM),
    _table("a byte too many at its end", lambda content: content + b"\0", TABLE),
    _table("a bit of the first magic number flipped", _flip(lambda content: 0), TABLE),
    _table("a bit of the last magic number flipped", _flip(lambda content: -1), MISMATCH),
    _table("a bit of a data page flipped", _flip(lambda content: 40), MISMATCH),
    _table("a bit of the footer flipped", _flip(lambda content: content.rindex(b"sample_id")), MISMATCH),
    _table("a bit of the checksum flipped", _flip(_digits), MISMATCH),
    _table("a footer said to be 4 GB long", _put(-8, b"\xff\xff\xff\xff"), MISMATCH),
    _table("a footer said to be empty", _put(-8, b"\0\0\0\0"), NO_CHECKSUM),
    _made_weights("they are missing", lambda folder: None, "is missing"),
    _made_weights("the file is empty", _instead(WEIGHTS, b""), NO_CHECKSUM),
    _made_weights("a pickle in their place", _pickled(WEIGHTS), NO_CHECKSUM),
    _made_weights("a safetensors file of another program", _unsealed_weights, NO_CHECKSUM),
    _made_weights("the member asked for is missing", _other_member, "'mean'", "epoch"),
    _made_weights("a table in their place", _table_as_weights, "safetensors"),
    _weights("a header said to be 2^60 bytes long", _put(0, HUGE), MISMATCH),
    _weights("a header said to be empty", _put(0, bytes(8)), NO_CHECKSUM),
    _weights("cut to half", _first(lambda size: size // 2), MISMATCH),
    _weights("only the first seven bytes", _first(lambda size: 7), NO_CHECKSUM),
    _weights("a byte too many at the end", lambda content: content + b"\0", MISMATCH),
    _weights("a bit of a value flipped", _flip(lambda content: -5), MISMATCH),
    _weights("a bit of a shape in the header flipped", _flip(lambda content: content.index(b"[20")), MISMATCH),
    _weights("a bit of the checksum flipped", _flip(_digits), MISMATCH),
    _progress("a pickle with a right checksum", _hashed(lambda folder: pickle.dumps(_Trap(folder / PROGRESS)))),
    _progress("text with a right checksum", _hashed(lambda folder: b"epoch 3")),
    _progress("nothing but the checksum of nothing", _hashed(lambda folder: b"")),
]
