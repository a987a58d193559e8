"""What raw data a dataset consists of, without opening an image: cheap enough to ask whenever the workflow is read."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from stagepipe.data.formats import layout

if TYPE_CHECKING:
    from stagepipe.recipe.model import Dataset


def raw_listing(dataset: Dataset, root: Path) -> tuple[list[Path], str]:
    """The CSV files that the format reads, and a fingerprint of the image and mask files.

    The fingerprint is the SHA-256 over the sorted names and sizes of all files in the format's folders, so added,
    removed, renamed and resized files change it and a touch does not. DataError if the root or a folder is missing.
    """
    chosen = layout(dataset, root)
    tables = [root / name for name in chosen.tables if (root / name).is_file()]
    digest = hashlib.sha256()
    for folder in sorted(chosen.folders):
        for name, size in _sizes(root / folder):
            digest.update(os.fsencode(f"{folder}/{name}\0{size}\0"))
    return tables, digest.hexdigest()


def _sizes(folder: Path) -> list[tuple[str, int]]:
    """Names and sizes in bytes, sorted; -1 for a link to nowhere."""
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        return sorted((entry.name, _size(entry)) for entry in entries)


def _size(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat().st_size
    except OSError:
        return -1
