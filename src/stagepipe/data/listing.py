"""What raw data a dataset consists of, without opening an image: cheap enough to ask whenever the workflow is read."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from stagepipe.data.formats import layout

if TYPE_CHECKING:
    from stagepipe.recipe.model import Dataset


def raw_listing(dataset: Dataset, root: Path) -> tuple[list[Path], str]:
    """The CSV files that the format reads, and a fingerprint of the image and mask files.

    The fingerprint is the SHA-256 over the sorted names and sizes of all files in the format's folders, at any depth:
    added, removed, renamed and resized files change it and a touch does not. DataError if the root or a folder is
    missing.
    """
    chosen = layout(dataset, root)
    tables = [root / name for name in chosen.tables if (root / name).is_file()]
    digest = hashlib.sha256()
    for folder in sorted(chosen.folders):
        for name, size in sorted(_sizes(root / folder)):
            digest.update(os.fsencode(f"{folder}/{name}\0{size}\0"))
    return tables, digest.hexdigest()


def _sizes(top: Path) -> Iterator[tuple[str, int]]:
    """Names below a folder, with `/`, and sizes in bytes; -1 for a link to nowhere. No link to a folder is followed."""
    folders = [("", str(top))]
    while folders:
        prefix, folder = folders.pop()
        try:
            entries = os.scandir(folder)
        except OSError:  # a missing folder is an empty one; ingest reports one that can't be listed
            continue
        with entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders.append((f"{prefix}{entry.name}/", entry.path))
                else:
                    yield prefix + entry.name, _size(entry)


def _size(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat().st_size
    except OSError:
        return -1
