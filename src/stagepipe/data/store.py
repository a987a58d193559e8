"""Decoded pixels in one flat file: images and masks one after the other, found by the offsets in the samples table.

The file is memory-mapped, so processes share what they read of it, and each read verifies the checksum of its sample.
"""

from __future__ import annotations

import mmap
import zlib
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa

from stagepipe.errors import ArtefactError
from stagepipe.storage import atomic

Append = Callable[[np.ndarray], tuple[int, int]]


@contextmanager
def writing(path: Path | str) -> Iterator[Append]:
    """Yield a function that appends a uint8 array and returns its (offset, CRC-32); the file appears at clean exit."""
    with atomic(path) as temporary, temporary.open("wb") as file:

        def append(pixels: np.ndarray) -> tuple[int, int]:
            content = np.ascontiguousarray(pixels)
            offset = file.tell()
            file.write(content.data)
            return offset, zlib.crc32(content.data)

        yield append


class PixelStore:
    """Images and masks by row of the samples table; safe to send to and to share with other processes."""

    def __init__(self, path: Path | str, samples: pa.Table) -> None:
        """Check the file's size against the samples table; ArtefactError if they don't belong together."""
        self.path = Path(path)
        self._ids = samples["sample_id"].to_pylist()
        self._shapes = np.stack([samples[name].to_numpy() for name in ("height", "width", "channels")], axis=1)
        self._images = _places(samples, "image")
        self._masks = _places(samples, "mask")
        self._map: mmap.mmap | None = None
        self._check_size()

    def _check_size(self) -> None:
        if not self.path.exists():
            raise ArtefactError(f"{self.path}: is missing; run snakemake again to make it")
        areas = self._shapes[:, 0].astype(np.int64) * self._shapes[:, 1]
        image_ends = self._images[:, 0] + areas * self._shapes[:, 2]
        mask_ends = np.where(self._masks[:, 0] >= 0, self._masks[:, 0] + areas, 0)
        expected = int(max(image_ends.max(initial=0), mask_ends.max(initial=0)))
        size = self.path.stat().st_size
        if size != expected:
            raise ArtefactError(
                f"{self.path}: is {size:,} bytes long, the samples table needs {expected:,}; delete both and run again"
            )

    def __len__(self) -> int:
        return len(self._ids)

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_map": None}

    def image(self, row: int) -> np.ndarray:
        """Image of a row as read-only uint8 [H, W, channels]. ArtefactError names the file and the damaged sample."""
        return self._read(row, self._images, tuple(self._shapes[row]), "image")

    def mask(self, row: int) -> np.ndarray:
        """Mask of a row as read-only uint8 [H, W]. ArtefactError also for a sample that has none."""
        if self._masks[row, 0] < 0:
            raise ArtefactError(f"{self.path}: the sample {self._ids[row]} has no mask; only labelled samples do")
        return self._read(row, self._masks, tuple(self._shapes[row, :2]), "mask")

    def _read(self, row: int, places: np.ndarray, shape: tuple[int, ...], kind: str) -> np.ndarray:
        if self._map is None:
            with self.path.open("rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        offset, checksum = places[row].tolist()
        content = self._map[offset : offset + int(np.prod(shape, dtype=np.int64))]
        if zlib.crc32(content) != checksum:
            raise ArtefactError(
                f"{self.path}: the {kind} of sample {self._ids[row]} is damaged (its checksum differs); "
                "delete the file and run again"
            )
        return np.frombuffer(content, np.uint8).reshape(shape)


def same_size_batches(
    store: PixelStore, rows: Sequence[int], size: Callable[[int, int], int]
) -> Generator[tuple[list[int], np.ndarray], None, None]:
    """Runs of neighbouring rows whose images have one size, and the images uint8 [B, H, W, K], each read once.

    `size` gives how many images of a height and width a batch holds at most.
    """
    batch: list[int] = []
    images: list[np.ndarray] = []
    for row in rows:
        image = store.image(row)
        if batch and (image.shape != images[0].shape or len(batch) >= size(*images[0].shape[:2])):
            yield batch, np.stack(images)
            batch, images = [], []
        batch.append(row)
        images.append(image)
    if batch:
        yield batch, np.stack(images)


def _places(samples: pa.Table, kind: str) -> np.ndarray:
    """(offset, checksum) of each row as int64 [N, 2]; offset -1 where there is none."""
    offsets = samples[f"{kind}_offset"].fill_null(-1).to_numpy()
    checksums = samples[f"{kind}_crc32"].fill_null(0).to_numpy().astype(np.int64)
    return np.stack([offsets, checksums], axis=1)
