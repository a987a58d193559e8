"""The raw layouts by the name that a recipe gives them. A new one is a module like `folder` and a line here."""

from __future__ import annotations

import os
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from stagepipe.data import folder, siim, street, tgs
from stagepipe.data.raw import Format, Scan
from stagepipe.errors import DataError

if TYPE_CHECKING:
    from stagepipe.recipe.model import Dataset

FORMATS: dict[str, Format] = {
    "tgs": tgs.FORMAT,
    "siim": siim.FORMAT,
    "street": street.FORMAT,
    "folder": folder.FORMAT,
    "synthetic": tgs.FORMAT,  # the generators write those layouts
    "synthetic_siim": siim.FORMAT,
    "synthetic_street": street.FORMAT,
}


def layout(dataset: Dataset, root: Path) -> Format:
    """The format of a dataset; DataError says what it expects if the root or a folder is missing."""
    chosen = FORMATS[dataset.format]
    # os.path: Path.is_dir fails on a name that is too long for the file system.
    missing = [name for name in chosen.required if not os.path.isdir(root / name)]
    if missing:
        found = f"has no folder {missing[0]}"
        if not os.path.isdir(root):
            found = "is no folder" if os.path.lexists(root) else "does not exist"
        expected = ", ".join([f"{name}/" for name in chosen.folders] + list(chosen.tables))
        raise DataError(f"dataset.root: {root} {found}; the {dataset.format} format expects there {expected}")
    return chosen


def scan(dataset: Dataset, root: Path) -> Scan:
    """List the samples of a dataset and the faults of its names and CSV files; no image is opened."""
    found = layout(dataset, root).scan(dataset, root)
    if dataset.limit is None:
        return found
    # Sorted by split and id, so each split's first ones.
    splits = (list(samples) for _, samples in groupby(found.samples, key=lambda sample: sample.split))
    return Scan([sample for samples in splits for sample in samples[: dataset.limit]], found.faults)
