"""The layout of the street scenes of the AI Edge Contest (Signate 2018).

    seg_train_images/<id>.jpg         labelled frames
    seg_train_annotations/<id>.png    their masks, a colour for each class (`dataset.palette`)
    seg_train_annotations/<id>.json   {"attributes": {"route": ..., "timeofday": ...}, "frameIndex": ...}
    seg_test_images/<id>.jpg          unlabelled frames

The attributes become columns of the samples table, as text, and so does `frameIndex`, a whole number. Frames were cut
out of videos: the column `drive` tells those apart. Of the frames of one route and time of day in the order of
`frameIndex`, another drive begins where it jumps by more than `dataset.drive_gap`.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stagepipe.data.raw import (
    IMAGES,
    PNG,
    Findings,
    Format,
    RawSample,
    Scan,
    Value,
    find_images,
    report_shared,
    storable,
)
from stagepipe.errors import shortened

if TYPE_CHECKING:
    from stagepipe.recipe.model import Dataset

TRAIN, ANNOTATIONS, TEST = "seg_train_images", "seg_train_annotations", "seg_test_images"
JSON = frozenset({".json"})
MAX_BYTES = 1 << 24
"""largest JSON file that is read; its values take some 20 times the room in memory"""
LARGEST_FRAME = 2**53
MOST_ATTRIBUTES = 100
"""of one file: each becomes a column of the samples table"""
LONGEST_NAME = 128


def scan(dataset: Dataset, root: Path) -> Scan:
    """Pair frames, masks and attributes."""
    findings = Findings(root)
    train = find_images(TRAIN, IMAGES, findings)
    masks = find_images(ANNOTATIONS, PNG, findings, beside=JSON)
    described = Findings(root)
    attributes = find_images(ANNOTATIONS, JSON, described, beside=PNG)
    # Of the folder itself and of other files the first look has told.
    findings.faults += [fault for fault in described.faults if Path(fault.path).suffix.lower() in JSON]
    test = find_images(TEST, IMAGES, findings)
    report_shared(train, test, findings)
    for found in (masks, attributes):
        for sample_id in sorted(found.keys() - train.keys()):
            detail = f"has no image of that name in {TRAIN}; add it or remove this file"
            findings.add(sample_id, found[sample_id], "missing_image", detail)
    for sample_id in sorted(train.keys() - masks.keys()):
        detail = f"has no mask of that name in {ANNOTATIONS}; add one or move the image to {TEST}"
        findings.add(sample_id, train[sample_id], "missing_mask", detail)
    for sample_id in sorted(train.keys() - attributes.keys()):
        detail = f"has no {sample_id}.json in {ANNOTATIONS}; add it, with its attributes"
        findings.add(sample_id, train[sample_id], "missing_metadata", detail)
    labelled = train.keys() & masks.keys() & attributes.keys()
    metadata = {sample_id: _metadata(sample_id, attributes[sample_id], findings) for sample_id in sorted(labelled)}
    drives = _drives(metadata, dataset.drive_gap)
    samples = [
        RawSample(name, "train", train[name], masks[name], metadata=metadata[name] | {"drive": drives.get(name)})
        for name in labelled
    ] + [RawSample(name, "test", path) for name, path in test.items()]
    return findings.keep(samples)


def _metadata(sample_id: str, path: Path, findings: Findings) -> dict[str, Value]:
    """The attributes that are single values, as text, and the frame's number."""
    try:
        content = _read(path)
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else shortened(str(error))
        findings.add(sample_id, path, "bad_json", f"can't be read as JSON ({reason}); correct it or copy it again")
        return {}
    attributes = content.get("attributes") if isinstance(content, dict) else None
    if not isinstance(attributes, dict):
        findings.add(sample_id, path, "bad_json", 'has no object "attributes"; write {"attributes": {...}}')
        return {}
    frame = content.get("frameIndex")
    if frame is not None and (not isinstance(frame, int) or isinstance(frame, bool) or abs(frame) > LARGEST_FRAME):
        detail = f"frameIndex is {shortened(repr(frame))}; write a whole number of up to 15 digits, or leave it out"
        findings.add(sample_id, path, "bad_value", detail)
        return {}
    texts = {
        storable(name): storable(str(value))
        for name, value in attributes.items()
        if isinstance(value, str | int | float)
    }
    if reason := _bad_names(texts):
        findings.add(sample_id, path, "bad_json", reason)
        return {}
    return texts | {"frameIndex": frame}


def _bad_names(names: Collection[str]) -> str | None:
    """Why attributes can't be columns of the samples table, or None if they can."""
    from stagepipe.tables import FOLDS, SAMPLES

    if len(names) > MOST_ATTRIBUTES:
        return f"has {len(names):,} attributes; at most {MOST_ATTRIBUTES} become columns, leave the others out"
    own = {*SAMPLES.names, *FOLDS.names, "frameIndex", "drive"}
    for name in names:
        if name in own:
            return f"the attribute {name!r} has the name of a column of our own; rename it"
        if not name or not name.isprintable() or len(name) > LONGEST_NAME:
            return f"the attribute {shortened(name)!r} is no plain name of up to {LONGEST_NAME} characters; rename it"
    return None


def _read(path: Path) -> Any:
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise ValueError(f"is {size:,} bytes long; at most {MAX_BYTES:,} are read")
    return json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=_each_name_once)


def _each_name_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; ValueError for a name written twice, whose first value would be lost."""
    if len(found := dict(pairs)) < len(pairs):
        from stagepipe.csvfiles import repeated

        raise ValueError(f"the name {repeated(name for name, _ in pairs)[0]!r} stands twice in an object")
    return found


def _drives(metadata: dict[str, dict[str, Value]], gap: int) -> dict[str, str]:
    """The drive of every frame that has a number, for example `Tokyo1 night 3`; an attribute it lacks is left out."""
    frames = sorted(
        (" ".join(str(row[name]) for name in ("route", "timeofday") if name in row), frame, sample_id)
        for sample_id, row in metadata.items()
        if isinstance(frame := row.get("frameIndex"), int)
    )
    drives: dict[str, str] = {}
    for place, group in groupby(frames, key=lambda row: row[0]):
        number, last = 1, None
        for _, frame, sample_id in group:
            number += last is not None and frame - last > gap
            drives[sample_id], last = f"{place} {number}".strip(), frame
    return drives


FORMAT = Format(folders=(TRAIN, ANNOTATIONS, TEST), required=(TRAIN, ANNOTATIONS, TEST), tables=(), scan=scan)
