"""What every format shares: rows of a scan, faults, and careful reading of folders and CSV files."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from stagepipe.errors import DataError, shortened

if TYPE_CHECKING:
    from stagepipe.recipe.model import Dataset

Value = int | float | bool | str | None

PNG = frozenset({".png"})
IMAGES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff"})


@dataclass(frozen=True)
class RunLengths:
    """A mask as column-major run lengths: one text, or several in the siim dialect, whose union is the mask."""

    texts: tuple[str, ...]
    dialect: Literal["tgs", "siim"]


@dataclass(frozen=True)
class RawSample:
    """One image of the raw data with its label, not yet opened."""

    sample_id: str
    split: str
    """`train` or `test`"""
    image: Path
    mask: Path | None = None
    runs: RunLengths | None = None
    """label as run lengths; with a mask file as well, the two must agree"""
    metadata: dict[str, Value] = field(default_factory=dict)


@dataclass(frozen=True)
class Fault:
    """One row of the table of faults."""

    sample_id: str
    path: str
    """relative to the root, with `/`"""
    fault: str
    """short code, for example `truncated`"""
    detail: str
    """what was found and what to do"""


@dataclass(frozen=True)
class Scan:
    """Samples sorted by split and id, and the faults that names and CSV files show before an image is opened."""

    samples: list[RawSample]
    faults: list[Fault]


@dataclass(frozen=True)
class Format:
    """A raw layout: where its files lie and how they are paired."""

    folders: tuple[str, ...]
    """folders that hold images and masks, relative to the root"""
    required: tuple[str, ...]
    """those of them that must exist"""
    tables: tuple[str, ...]
    """CSV files directly under the root that are read if they exist"""
    scan: Callable[[Dataset, Path], Scan]
    grey_masks: bool = False
    """mask files may have grey borders, as resizing leaves them: foreground is what lies above half of their range"""


class Findings:
    """Faults collected while a layout is scanned; any fault of an id leaves that sample out."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.faults: list[Fault] = []

    def add(self, sample_id: str, path: Path, fault: str, detail: str) -> None:
        """Note a fault of a file below the root."""
        relative = path.relative_to(self.root).as_posix()
        self.faults.append(Fault(storable(sample_id), storable(relative), fault, storable(detail)))

    def keep(self, samples: Iterable[RawSample]) -> Scan:
        """The samples without a fault, sorted, and all faults."""
        faulty = {fault.sample_id for fault in self.faults}
        kept = [sample for sample in samples if sample.sample_id not in faulty]
        return Scan(sorted(kept, key=lambda sample: (sample.split, sample.sample_id)), self.faults)


def storable(text: str) -> str:
    """The text with bytes that are no UTF-8 written as escapes, so that a table can hold it."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def bad_id(sample_id: str) -> str | None:
    """Why a sample id can't be a plain file name, or None if it can."""
    problems = {
        "is empty": not sample_id,
        "has more than 128 characters": len(sample_id) > 128,
        "starts with a dot": sample_id.startswith("."),
        "contains / or \\": "/" in sample_id or "\\" in sample_id,
        "contains ..": ".." in sample_id,
        "contains control characters or is no UTF-8": not sample_id.isprintable(),
        "starts or ends with a space": sample_id != sample_id.strip(),
    }
    return next((reason for reason, found in problems.items() if found), None)


def require_one_class(dataset: Dataset) -> None:
    """DataError for several classes, which run lengths can't hold."""
    if len(dataset.classes) > 1:
        raise DataError(
            f"dataset.classes: the {dataset.format} format marks one class, not {len(dataset.classes)}; "
            "write one name, or use the folder format"
        )


# -------------------------------------------------------------------------------------------------------------- folders


def _leaves(path: Path, root: Path) -> bool:
    return not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root))


def find_images(
    folder: str,
    suffixes: frozenset[str],
    findings: Findings,
    deep: bool = False,
    beside: frozenset[str] = frozenset(),
) -> dict[str, Path]:
    """Image files of one folder by stem, each a readable plain file below the root; everything else becomes a fault.

    Files with a suffix of `beside` are passed over: they are looked for by themselves. `deep` looks into folders of the
    folder too, at any depth, but follows no link to another one. Hidden files that are no images (as file managers
    leave behind) are passed over. A missing folder is an empty one.
    """
    top = findings.root / folder
    if not top.is_dir():
        if os.path.lexists(top):
            findings.add("", top, "unreadable", "is no folder (a file or a broken link); put the folder itself here")
        return {}
    if _leaves(top, findings.root):
        findings.add("", top, "outside_root", f"links to {os.path.realpath(top)}; put the files below the root")
        return {}
    found: dict[str, Path] = {}
    for entry, path in _entries(top, findings, deep):
        if path.suffix.lower() in beside or not _is_image(entry, path, suffixes, findings):
            continue
        if path.stem in found:
            other = found[path.stem].relative_to(findings.root).as_posix()
            findings.add(path.stem, path, "duplicate_id", f"{other} has the same id; keep one of them")
        else:
            found[path.stem] = path
    return found


def _entries(top: Path, findings: Findings, deep: bool) -> Iterator[tuple[os.DirEntry[str], Path]]:
    """What lies in a folder, by name, and with `deep` in the folders within it (which are no entries then)."""
    folders = [top]
    while folders:
        folder = folders.pop()
        try:
            with os.scandir(folder) as entries:
                listed = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            findings.add(folder.name, folder, "unreadable", f"can't be listed ({error.strerror})")
            continue
        inner = []
        for entry in listed:
            path = folder / entry.name
            if deep and entry.is_dir(follow_symlinks=False):
                inner.append(path)
            else:
                yield entry, path
        folders += reversed(inner)


def _is_image(entry: os.DirEntry[str], path: Path, suffixes: frozenset[str], findings: Findings) -> bool:
    """Whether an entry is a plain file that can be an image; what else it is becomes a fault."""
    stem = path.stem
    if path.suffix.lower() not in suffixes:
        if entry.name.startswith("."):
            return False
        if entry.is_symlink() and path.is_dir():
            findings.add(
                stem, path, "linked_folder", "links to a folder, which isn't followed; put the folder itself here"
            )
        else:
            findings.add(stem, path, "unknown_type", f"is none of {', '.join(sorted(suffixes))}; remove or convert it")
    elif entry.is_symlink() and _leaves(path, findings.root):
        detail = f"links to {os.path.realpath(path)}; put the file itself below the root"
        findings.add(stem, path, "outside_root", detail)
    elif not path.is_file():
        findings.add(stem, path, "unreadable", "is no plain file (a folder, a broken link or a device); remove it")
    elif reason := bad_id(stem):
        findings.add(stem, path, "bad_id", f"the id {stem!r} {reason}; rename the file")
    else:
        return True
    return False


def report_shared(images: dict[str, Path], others: dict[str, Path], findings: Findings) -> None:
    """Ids that lie in two folders are faults."""
    for sample_id in sorted(images.keys() & others.keys()):
        other = others[sample_id].relative_to(findings.root).as_posix()
        detail = f"{other} has the same id; remove one of them"
        findings.add(sample_id, images[sample_id], "duplicate_id", detail)


# ------------------------------------------------------------------------------------------------------------------ CSV


def read_table(name: str, columns: tuple[str, ...], findings: Findings) -> list[dict[str, str]] | None:
    """Rows of a CSV file below the root, each a text by column; None if there is no such file.

    Spaces around a name in the header don't count. DataError for a file that is no CSV or lacks a column.
    """
    from stagepipe.csvfiles import listed, read_strings

    path = findings.root / name
    if not os.path.lexists(path):  # a link to nowhere is a file that is lost, not one that isn't there
        return None
    if _leaves(path, findings.root):
        detail = f"links to {os.path.realpath(path)}; put the file itself below the root"
        findings.add("", path, "outside_root", detail)
        return None
    table = read_strings(path)
    names = [column.strip() for column in table.column_names]
    if missing := [column for column in columns if column not in names]:
        raise DataError(f"{path}: lacks the columns {listed(missing)}; its header is {shortened(','.join(names))!r}")
    if len(set(names)) < len(names):
        raise DataError(
            f"{path}: a name stands twice in the header {shortened(','.join(names))!r}; rename one of the columns"
        )
    texts = [column.to_pylist() for column in table.columns]
    return [dict(zip(names, values, strict=True)) for values in zip(*texts, strict=True)]


def read_rows(name: str, columns: tuple[str, ...], findings: Findings) -> dict[str, dict[str, str]] | None:
    """Rows of a CSV file below the root by their `id`, each a text by column; None if there is no such file.

    Rows with a bad or repeated id become faults and are left out. DataError for a file that is no CSV or lacks a
    column.
    """
    path = findings.root / name
    rows = read_table(name, columns, findings)
    if rows is None:
        return None
    counts = Counter(row["id"] for row in rows)
    kept = {}
    for line, row in enumerate(rows, start=2):
        sample_id = row.pop("id")
        if report_bad_id(sample_id, path, line, findings):
            continue
        if counts[sample_id] == 1:
            kept[sample_id] = row
    for sample_id, count in counts.items():
        if count > 1 and not bad_id(sample_id):
            findings.add(
                sample_id, path, "duplicate_id", f"the id {sample_id!r} stands in {count} rows; keep one of them"
            )
    return kept


def report_bad_id(sample_id: str, path: Path, line: int, findings: Findings) -> bool:
    """Whether the id of a row is no plain file name, which becomes a fault."""
    reason = bad_id(sample_id)
    if reason:
        detail = f"line {line}: the id {shortened(sample_id)!r} {reason}; write a plain name"
        findings.add(sample_id, path, "bad_id", detail)
    return reason is not None


def report_rows_without_image(rows: Iterable[str], images: Iterable[str], path: Path, findings: Findings) -> None:
    """Ids of a CSV file that have no image are faults, unless the image itself is one already."""
    known = set(images) | {fault.sample_id for fault in findings.faults}
    for sample_id in sorted(set(rows) - known):
        findings.add(sample_id, path, "missing_image", f"the id {sample_id!r} has no image; add it or remove the row")


def number(text: str) -> int | float | None:
    """The number that a text spells, NaN and infinities too, or None. An integer of more than 18 digits is rounded."""
    if re.fullmatch(r"\s*[+-]?[0-9]{1,18}\s*", text):
        return int(text)
    try:
        # Only Python reads 1_000 and digits of other scripts.
        return None if "_" in text or not text.isascii() else float(text)
    except ValueError:
        return None
