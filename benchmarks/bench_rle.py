"""Run-length codes beside plain Python loops and pycocotools, which writes another text but the same runs."""

import cv2
import numpy as np
from pycocotools import mask as coco

from benchmarks.timing import compare
from stagepipe import rle


def blobs(size):
    noise = np.random.default_rng(0).standard_normal((size, size))
    return (cv2.GaussianBlur(noise, (0, 0), size / 12) > 0).astype(np.uint8)


def encode_in_a_loop(mask):
    runs, previous = [], -2
    for position in np.flatnonzero(mask.T.flatten()):
        if position > previous + 1:
            runs.extend((position + 1, 0))
        runs[-1] += 1
        previous = position
    return " ".join(map(str, runs))


def decode_in_a_loop(text, height, width):
    numbers = text.split()
    mask = np.zeros(height * width, np.uint8)
    for start, length in zip(map(int, numbers[::2]), map(int, numbers[1::2]), strict=True):
        mask[start - 1 : start - 1 + length] = 1
    return np.ascontiguousarray(mask.reshape(width, height).T)


def rows(size, calls):
    mask = blobs(size)
    text, compressed = rle.encode(mask), coco.encode(np.asfortranarray(mask))
    assert text == encode_in_a_loop(mask)
    assert np.array_equal(mask, rle.decode(text, size, size))

    def encode() -> str:
        return rle.encode(mask)

    def decode() -> np.ndarray:
        return rle.decode(text, size, size)

    note, loop, pycocotools = f"{len(text.split()) // 2} runs", "plain: Python loop", "plain: pycocotools (C)"
    return [
        compare(f"encode {size}^2", lambda: encode_in_a_loop(mask), encode, f"{loop}, {note}", calls=calls),
        compare(
            f"encode {size}^2",
            lambda: coco.encode(np.asfortranarray(mask)),
            encode,
            f"{pycocotools}, {note}",
            calls=calls,
        ),
        compare(f"decode {size}^2", lambda: decode_in_a_loop(text, size, size), decode, f"{loop}, {note}", calls=calls),
        compare(
            f"decode {size}^2",
            lambda: np.ascontiguousarray(coco.decode(compressed)),
            decode,
            f"{pycocotools}, {note}",
            calls=calls,
        ),
    ]


def run(gpu: bool) -> list[dict]:
    return [*rows(101, calls=50), *rows(1024, calls=3)]
