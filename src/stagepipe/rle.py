"""Run-length codes of masks: the TGS text of a submission, and plain runs for index masks."""

import re

import numpy as np
import numpy.typing as npt


def encode(mask: npt.NDArray[np.uint8] | npt.NDArray[np.bool_]) -> str:
    """Text of a mask in the TGS dialect: pairs "start length", column by column, pixels counted from 1.

    mask: [H, W], any dtype, non-zero is foreground. The text of an empty mask is empty. Raises ValueError for another
    number of dimensions.
    """
    if mask.ndim != 2:
        raise ValueError(f"mask: has shape {mask.shape}; expected [height, width]")
    height, width = mask.shape
    foreground = mask != 0
    # Changes along columns are looked for row by row, as memory lies, and put in order afterwards: there are few.
    changes = np.empty((height, width), dtype=bool)
    changes[:1, :1] = foreground[:1, :1]
    changes[:1, 1:] = foreground[:1, 1:] != foreground[-1:, :-1]
    changes[1:] = foreground[1:] != foreground[:-1]
    row, column = np.divmod(np.flatnonzero(changes), max(width, 1))
    edges = np.sort(column * height + row)
    if len(edges) % 2:  # the last run reaches the last pixel
        edges = np.append(edges, height * width)
    pairs = np.stack([edges[::2] + 1, edges[1::2] - edges[::2]], axis=1)
    return " ".join(map(str, pairs.ravel().tolist()))


def decode(rle: str, height: int, width: int) -> npt.NDArray[np.uint8]:
    """Mask, uint8 [height, width] of 0 and 1 in C order, of a text in the TGS dialect.

    Raises ValueError when the text is no pairs of numbers, or its runs are unsorted, overlap or leave the image.
    """
    size = height * width
    starts, lengths = _pairs(rle, size)
    ends = starts + lengths
    edges = np.concatenate([[0], np.stack([starts, ends], axis=1).ravel(), [size]])
    values = np.zeros(len(edges) - 1, dtype=np.uint8)
    values[1::2] = 1
    return _transposed(np.repeat(values, np.diff(edges)).reshape(width, height))


def encode_runs(mask: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.uint8]]:
    """Row-major runs of an index mask: lengths (int32) and values (uint8), both [runs].

    mask: uint8 [H, W], any values. Raises ValueError for another number of dimensions.
    """
    if mask.ndim != 2:
        raise ValueError(f"mask: has shape {mask.shape}; expected [height, width]")
    flat = mask.ravel()
    starts = np.concatenate([np.zeros(min(flat.size, 1), dtype=np.int64), np.flatnonzero(flat[1:] != flat[:-1]) + 1])
    return np.diff(starts, append=flat.size).astype(np.int32), flat[starts].astype(np.uint8)


def decode_runs(lengths: npt.ArrayLike, values: npt.ArrayLike, height: int, width: int) -> npt.NDArray[np.uint8]:
    """Index mask, uint8 [height, width], of row-major runs.

    Raises ValueError when lengths and values differ in number, a length is below 1 or the runs don't fill the image.
    """
    runs, classes = np.asarray(lengths, dtype=np.int64), np.asarray(values, dtype=np.uint8)
    if runs.shape != classes.shape:
        raise ValueError(f"runs: {runs.size} lengths and {classes.size} values; expected as many of both")
    if (runs < 1).any():
        raise ValueError(f"runs: a length is {runs.min()}; expected 1 or more")
    if runs.sum() != height * width:
        raise ValueError(f"runs: {runs.sum()} pixels; expected {height * width} for an image of {height} x {width}")
    return np.repeat(classes, runs).reshape(height, width)


def _pairs(rle: str, size: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Starts, from 0, and lengths of the runs in the text, checked to lie in order within `size` pixels."""
    if not isinstance(rle, str):
        raise ValueError(f'rle: {rle!r} is not text; expected pairs "start length", or empty text for an empty mask')
    numbers = _numbers(rle)
    if len(numbers) % 2:
        raise ValueError(f'rle: an odd count of numbers, {len(numbers)}; expected pairs "start length"')
    # A number outside the image is wrong however large it is: the nearest wrong one fits an int64.
    bounded = [number if 0 < number <= size else (0 if number < 1 else size + 1) for number in numbers]
    starts, lengths = np.array(bounded, dtype=np.int64).reshape(-1, 2).T
    _refuse(starts < 1, numbers, "starts before the first pixel; expected a start of 1 or more")
    _refuse(lengths < 1, numbers, "has no pixel; expected a length of 1 or more")
    _refuse(starts + lengths > size + 1, numbers, f"leaves the image; expected it to end at pixel {size} or before")
    late = np.concatenate([[False], starts[1:] < starts[:-1] + lengths[:-1]])
    _refuse(late, numbers, "starts before the run ahead of it ends; expected runs in order, without overlap")
    return starts - 1, lengths


def _numbers(rle: str) -> list[int]:
    """The numbers of a text; spellings that only Python reads, such as 1_000, are none."""
    try:
        if rle.isascii() and "_" not in rle and "+" not in rle:
            return [int(token) for token in rle.split()]
    except ValueError:
        pass
    tokens = rle.split()
    wrong = next((token for token in tokens if not re.fullmatch("-?[0-9]{1,4000}", token)), tokens[0])
    raise ValueError(f"rle: {wrong[:40]!r} is not a number; expected whole numbers between spaces")


def _refuse(wrong: npt.NDArray[np.bool_], numbers: list[int], message: str) -> None:
    """Raise ValueError for the first run that is wrong."""
    if wrong.any():
        run = int(np.argmax(wrong))
        raise ValueError(f'rle: run {run + 1}, "{numbers[2 * run]} {numbers[2 * run + 1]}", {message}')


def _transposed(array: npt.NDArray[np.uint8], block: int = 32) -> npt.NDArray[np.uint8]:
    """The transpose in C order, copied in strips that fit the cache: five times as fast as at once for 1024 x 1024."""
    rows, columns = array.shape
    transpose = np.empty((columns, rows), dtype=array.dtype)
    for start in range(0, rows, block):
        transpose[:, start : start + block] = array[start : start + block].T
    return transpose
