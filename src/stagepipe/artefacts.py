"""Files that jobs hand to one another: written whole or not at all, with provenance and a checksum that readers verify.

The checksum lies inside the file it protects, as `stagepipe-sha256:<64 hex digits>` in the format's own metadata: the
SHA-256 of the file with those digits set to zero. So a table or a weights file can be copied or mailed alone and is
still checked when read.
"""

import hashlib
import json
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from stagepipe.errors import ArtefactError
from stagepipe.storage import atomic

if TYPE_CHECKING:
    from torch import Tensor

MARK = b"stagepipe-sha256:"
BLOCK = 1 << 16
VERSIONED = ("stagepipe", "torch", "segmentation-models-pytorch", "albumentations", "numpy", "opencv-python-headless")


@dataclass(frozen=True)
class Provenance:
    """Where an artefact comes from."""

    part: str = ""
    """SHA-256 of the part of the recipe that made it"""
    inputs: dict[str, str] = field(default_factory=dict)
    """checksum of each input artefact, by file name relative to the results"""
    code: str = ""
    """fingerprint of the code that made it"""
    seed: int = 0


# ------------------------------------------------------------------------------------------------------------- checksum


def _digits(path: Path) -> int:
    """Position of the checksum's digits in the file's own metadata; ArtefactError if there are none."""
    size = path.stat().st_size
    with path.open("rb") as file:
        table = file.read(4) == b"PAR1"
        if table:  # Parquet: the metadata, its length and PAR1 end the file
            file.seek(max(0, size - 8))
            length = min(int.from_bytes(file.read(4), "little"), max(0, size - 8))
            start = max(0, size - 8 - length)
        else:  # safetensors: the metadata's length and the metadata start the file
            file.seek(0)
            start, length = 8, min(int.from_bytes(file.read(8), "little"), size)
        file.seek(start)
        described = file.read(length)
    # Before it, Parquet's metadata has the least and the greatest value of each column, which can hold anything.
    position = described.rfind(MARK) if table else described.find(MARK)
    if position < 0:
        raise ArtefactError(f"{path}: holds no checksum of its own (damaged); delete it and run again")
    return start + position + len(MARK)


def _digest(path: Path, digits: int) -> str:
    """SHA-256 of the file with the 64 digits set to zero, read in blocks so that a large file takes no memory."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(min(BLOCK, digits - file.tell())):
            digest.update(block)
        digest.update(b"0" * 64)
        file.seek(64, os.SEEK_CUR)
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _seal(path: Path) -> None:
    """Set the checksum of a file whose digits are zeros."""
    digits = _digits(path)
    checksum = _digest(path, digits)
    with path.open("rb+") as file:
        file.seek(digits)
        file.write(checksum.encode())


def verify(path: Path | str) -> str:
    """Return the checksum of an artefact; ArtefactError names the file if a single bit of it has changed."""
    path = Path(path)
    if not os.path.isfile(path):
        fault = "is no file; remove it" if os.path.exists(path) else "is missing; run snakemake again to make it"
        raise ArtefactError(f"{path}: {fault}")
    digits = _digits(path)
    with path.open("rb") as file:
        file.seek(digits)
        stored = file.read(64)
    if stored != _digest(path, digits).encode():
        raise ArtefactError(f"{path}: does not match its own checksum (damaged or edited); delete it and run again")
    return stored.decode()


@cache
def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in VERSIONED:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def _described(provenance: Provenance, same: Mapping[str, str] | None = None) -> dict[str, str]:
    # One entry: safetensors writes several in an order of chance, and the same content must give the same bytes.
    more = {"versions": _versions(), "checksum": MARK.decode() + "0" * 64} | ({"same": dict(same)} if same else {})
    return {"stagepipe": json.dumps(asdict(provenance) | more, sort_keys=True)}


def metadata(path: Path | str) -> dict[str, Any]:
    """Provenance of an artefact (part, inputs, code, seed, versions), read without verifying the whole file."""
    path = Path(path)
    try:
        if path.suffix == ".safetensors":
            with path.open("rb") as file:
                header = json.loads(file.read(min(int.from_bytes(file.read(8), "little"), path.stat().st_size)))
            return json.loads(header["__metadata__"]["stagepipe"])
        return json.loads(pq.read_metadata(path).metadata[b"stagepipe"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError, pa.ArrowException) as error:
        raise ArtefactError(f"{path}: holds no readable provenance ({error}); delete it and run again") from error


# --------------------------------------------------------------------------------------------------------------- tables


class TableWriter:
    """Write a table a row group at a time; the file appears whole when the block ends without an error."""

    def __init__(self, path: Path | str, schema: pa.Schema, provenance: Provenance | None = None) -> None:
        self._schema = schema
        self._provenance = provenance or Provenance()
        self._path = path

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._temporary = stack.enter_context(atomic(self._path))
            # Without the Arrow schema the metadata stands in the file once, which the checksum needs.
            self._writer = pq.ParquetWriter(self._temporary, self._schema, compression="zstd", store_schema=False)
            stack.push(self._finish)
            self._stack = stack.pop_all()
        return self

    def write(self, rows: pa.RecordBatch | pa.Table) -> None:
        """Append rows of the declared schema as one row group."""
        table = rows if isinstance(rows, pa.Table) else pa.Table.from_batches([rows])
        self._writer.write_table(table.cast(self._schema), row_group_size=max(1, table.num_rows))

    def _finish(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            # What was written is thrown away; on a full disk its end can't be written either.
            with suppress(OSError):
                self._writer.close()
            return
        self._writer.add_key_value_metadata(_described(self._provenance))
        self._writer.close()
        _seal(self._temporary)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)


def write_table(
    path: Path | str, table: pa.Table, provenance: Provenance | None = None, row_group_rows: int = 65536
) -> None:
    """Write a whole table, `row_group_rows` rows a row group."""
    with TableWriter(path, table.schema, provenance) as writer:
        for start in range(0, table.num_rows, row_group_rows):
            writer.write(table.slice(start, row_group_rows))


def read_table(path: Path | str, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a verified table. ArtefactError names a file that is damaged or lacks a column."""
    with _open_table(path, columns) as file:
        return file.read(columns=columns)


def iterate_table(path: Path | str, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
    """Yield the row groups of a verified table, one record batch each."""
    with _open_table(path, columns) as file:
        for group in range(file.num_row_groups):
            table = file.read_row_group(group, columns=columns).combine_chunks()
            yield from table.to_batches()


def _open_table(path: Path | str, columns: Sequence[str] | None) -> pq.ParquetFile:
    verify(path)
    try:
        file = pq.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        raise ArtefactError(f"{path}: is no Parquet table ({error}); delete it and run again") from error
    missing = set(columns or ()) - set(file.schema_arrow.names)
    if missing:
        raise ArtefactError(f"{path}: lacks the columns {sorted(missing)}; delete it and run again")
    return file


# -------------------------------------------------------------------------------------------------------------- weights


def save_weights(
    path: Path | str, members: dict[str, dict[str, "Tensor"]], provenance: Provenance | None = None
) -> None:
    """Write named sets of weights to one safetensors file, tensors named `<member>/<parameter>`.

    A set that several members share, one and the same object, is written once.
    """
    from safetensors.torch import save_file

    written: dict[int, str] = {}
    for member, weights in members.items():
        written.setdefault(id(weights), member)
    same = {member: written[id(weights)] for member, weights in members.items() if written[id(weights)] != member}
    tensors = {
        f"{member}/{name}": tensor.detach().cpu().contiguous().clone()
        for member in written.values()
        for name, tensor in members[member].items()
    }
    with atomic(path) as temporary:
        save_file(tensors, temporary, metadata=_described(provenance or Provenance(), same))
        _seal(temporary)


def load_weights(path: Path | str, member: str) -> dict[str, "Tensor"]:
    """Read one member's verified weights; ArtefactError names a damaged file or the members it does hold."""
    from safetensors import SafetensorError, safe_open

    verify(path)
    try:
        with safe_open(path, framework="pt") as file:
            names, same = list(file.keys()), metadata(path).get("same", {})
            written = same.get(member, member)
            weights = {
                name.removeprefix(f"{written}/"): file.get_tensor(name)
                for name in names
                if name.startswith(f"{written}/")
            }
    except SafetensorError as error:
        raise ArtefactError(f"{path}: is no safetensors file ({error}); delete it and run again") from error
    if not weights:
        held = sorted({*same, *(name.split("/")[0] for name in names)})
        raise ArtefactError(f"{path}: holds no member {member!r}, only {held}; delete it and run again")
    return weights


# -------------------------------------------------------------------------------------------------------------- numbers


def read_json(path: Path | str) -> dict[str, Any]:
    """The object in a small JSON file that a job has written; ArtefactError if there is none or it is damaged."""
    path = Path(path)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ArtefactError(f"{path}: is missing; run snakemake again to make it") from error
    except (OSError, ValueError, RecursionError) as error:
        raise ArtefactError(f"{path}: is not readable JSON ({error}); delete it and run again") from error
    if not isinstance(found, dict):
        raise ArtefactError(f"{path}: holds {type(found).__name__}, not keys and values; delete it and run again")
    return found


def is_share(value: object) -> bool:
    """Whether a value read from JSON is a number from 0 to 1."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1
