"""Scores of a submission file against a solution file."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stagepipe import metrics, rle
from stagepipe.csvfiles import listed, read_strings, repeated
from stagepipe.errors import DataError

Size = tuple[int, int]
MEAN = "mean"


def evaluate(submission: Path, solution: Path, size: Size | Path) -> pd.DataFrame:
    """Score a CSV file `id,rle_mask` against another one, as the TGS competition did.

    `size` is (height, width) of all images, or the folder of the images, named by id. Returns columns id,
    mean_precision, dice, iou: a row per image sorted by id, then a row "mean". One DataError lists ids that are
    missing, unknown or come twice, images that are missing, and masks that don't decode.
    """
    sent, sent_ids = _read(submission)
    solved, solved_ids = _read(solution)
    sizes = _image_sizes(size) if isinstance(size, Path) else dict.fromkeys(solved, size)
    ids = sorted(set(sent) & set(solved) & set(sizes))
    counts, broken_sent, broken_solved = _counts(ids, sent, solved, sizes)
    faults = {
        f"{submission}: ids that are missing": sorted(set(solved) - set(sent)),
        f"{submission}: ids that aren't in {solution}": sorted(set(sent) - set(solved)),
        f"{submission}: ids with several rows": repeated(sent_ids),
        f"{solution}: ids with several rows": repeated(solved_ids),
        f"{size}: images that are missing": sorted(set(solved) - set(sizes)),
        f"{submission}: masks that don't decode": broken_sent,
        f"{solution}: masks that don't decode": broken_solved,
    }
    found = [f"{fault}: {listed(names)}" for fault, names in faults.items() if names]
    if found:
        raise DataError("; ".join(found))
    values = metrics.scores(np.array(counts, np.int64).reshape(-1, 1, 3))
    frame = pd.DataFrame({"id": ids} | {name: values[name] for name in metrics.METRICS})
    mean = {"id": MEAN} | frame.drop(columns="id").mean().to_dict()
    return pd.concat([frame, pd.DataFrame([mean])], ignore_index=True)


def _read(path: Path) -> tuple[dict[str, str], list[str]]:
    """Encoded masks by id, and the ids of all rows."""
    table = read_strings(path, ["id", "rle_mask"])
    ids = table["id"].to_pylist()
    return dict(zip(ids, table["rle_mask"].to_pylist(), strict=True)), ids


def _counts(
    ids: Sequence[str], sent: Mapping[str, str], solved: Mapping[str, str], sizes: Mapping[str, Size]
) -> tuple[list[NDArray[np.int64]], list[str], list[str]]:
    """Pixel counts [1, 3] of each id, and the masks of either file that don't decode."""
    counts = []
    broken: tuple[list[str], list[str]] = ([], [])
    for sample_id in ids:
        masks = []
        for encoded, faults in zip((sent, solved), broken, strict=True):
            try:
                masks.append(rle.decode(encoded[sample_id], *sizes[sample_id]))
            except ValueError as error:
                faults.append(f"{sample_id} ({error})")
        if len(masks) == 2:
            predicted, truth = masks
            counts.append(metrics.intersections(truth, predicted, 1))
    return counts, *broken


def _image_sizes(folder: Path) -> dict[str, Size]:
    """(height, width) of the images in a folder by file name without its ending, read from their headers."""
    from PIL import Image, UnidentifiedImageError

    if not folder.is_dir():
        raise DataError(f"{folder}: is no folder; write the folder of the images, or height and width")
    sizes = {}
    for path in sorted(folder.iterdir()):
        try:
            with Image.open(path) as image:
                sizes[path.stem] = (image.height, image.width)
        except (UnidentifiedImageError, IsADirectoryError):
            continue
    return sizes
