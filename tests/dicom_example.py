"""Pixels of films, and what reading them comes to."""

import cv2
import numpy as np
import pytest

from stagepipe.data.decode import FileFault
from stagepipe.data.dicom import read_film

RANDOM = np.random.default_rng(0)
BYTES = RANDOM.integers(0, 256, (24, 20), dtype=np.uint8)
TWELVE = RANDOM.integers(0, 4096, (24, 20), dtype=np.uint16)


def fault_of(content: bytes) -> str:
    with pytest.raises(FileFault) as caught:
        read_film(content)
    return caught.value.fault


def scaled(values: np.ndarray, low: float, high: float) -> np.ndarray:
    return np.rint(255 * (values.astype(float) - low) / (high - low)).astype(np.uint8)


def jpeg(pixels: np.ndarray) -> bytes:
    return cv2.imencode(".jpg", pixels)[1].tobytes()
