"""Run-length codes of masks: the TGS and SIIM texts of a submission, and plain runs for index masks.

Both texts count pixels column by column, from the top of the leftmost one down. TGS: pairs "start length", starts from
1, nothing for an empty mask. SIIM: pairs "offset length", an offset being the background pixels since the run before,
and "-1" for an empty mask.
"""

import re
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.uint8] | npt.NDArray[np.bool_]
Pixels = npt.NDArray[np.int64]

EMPTY = "-1"
"""an empty mask in the SIIM dialect"""


def encode(mask: Mask) -> str:
    """Text of a mask in the TGS dialect: pairs "start length", column by column, pixels counted from 1.

    mask: [H, W], any dtype, non-zero is foreground. The text of an empty mask is empty. Raises ValueError for another
    number of dimensions.
    """
    starts, ends = _columnwise(mask)
    return _joined(starts + 1, ends - starts)


def decode(rle: str, height: int, width: int) -> npt.NDArray[np.uint8]:
    """Mask, uint8 [height, width] of 0 and 1 in C order, of a text in the TGS dialect.

    Raises ValueError when the text is no pairs of numbers, or its runs are unsorted, overlap or leave the image.
    """
    size = height * width
    return _transposed(_drawn(_absolute(rle, size), size).reshape(width, height))


def encode_relative(mask: Mask) -> str:
    """Text of a mask in the SIIM dialect: pairs "offset length", column by column; "-1" for an empty mask.

    mask: [H, W], any dtype, non-zero is foreground. Raises ValueError for another number of dimensions.
    """
    starts, ends = _columnwise(mask)
    if not len(starts):
        return EMPTY
    return _joined(starts - np.concatenate([[0], ends[:-1]]), ends - starts)


def decode_relative(rle: str, height: int, width: int) -> npt.NDArray[np.uint8]:
    """Mask, uint8 [height, width] of 0 and 1 in C order, of a text in the SIIM dialect.

    Raises ValueError when the text is neither "-1" nor pairs of numbers, or its runs leave the image.
    """
    return unite_relative([rle], height, width)


def unite_relative(rles: Iterable[str], height: int, width: int) -> npt.NDArray[np.uint8]:
    """Mask, uint8 [height, width] of 0 and 1 in C order, of what any of several texts in the SIIM dialect marks.

    Raises ValueError as `decode_relative` does.
    """
    size = height * width
    runs = [np.zeros((2, 0), np.int64), *(_relative(rle, size) for rle in rles)]
    return _transposed(_drawn(np.concatenate(runs, axis=1), size).reshape(width, height))


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


def _columnwise(mask: Mask) -> Pixels:
    """Starts and ends (one past the last pixel) of a mask's runs, int64 [2, runs], both from 0, column by column."""
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
    return edges.reshape(-1, 2).T


def _joined(first: Pixels, lengths: Pixels) -> str:
    return " ".join(map(str, np.stack([first, lengths], axis=1).ravel().tolist()))


def _drawn(runs: Pixels, size: int) -> npt.NDArray[np.uint8]:
    """Flat mask, uint8 [size] of 0 and 1, of runs [2, runs] in any order, which may overlap."""
    edges = np.concatenate([[0], runs.ravel(), [size]])
    steps = np.repeat([0, 1, -1, 0], [1, runs.shape[1], runs.shape[1], 1])
    order = np.argsort(edges, kind="stable")
    covered = np.cumsum(steps[order[:-1]]) > 0
    return np.repeat(covered.astype(np.uint8), np.diff(edges[order]))


def _absolute(rle: str, size: int) -> Pixels:
    """Starts and ends of the runs of a TGS text as `_columnwise` gives them, checked to lie in order within `size`."""
    numbers, starts, lengths = _pairs(rle, size, '"start length", or empty text for an empty mask')
    _refuse(starts < 1, numbers, "starts before the first pixel; expected a start of 1 or more")
    _refuse(lengths < 1, numbers, "has no pixel; expected a length of 1 or more")
    ends = starts - 1 + lengths
    _refuse(ends > size, numbers, f"leaves the image; expected it to end at pixel {size} or before")
    late = np.concatenate([[False], starts[1:] - 1 < ends[:-1]])
    _refuse(late, numbers, "starts before the run ahead of it ends; expected runs in order, without overlap")
    return np.stack([starts - 1, ends])


def _relative(rle: str, size: int) -> Pixels:
    """Starts and ends of the runs of a SIIM text as `_columnwise` gives them, checked to lie within `size` pixels."""
    expected = '"offset length", or -1 for an empty mask'
    if isinstance(rle, str) and rle.strip() == EMPTY:
        rle = ""
    elif isinstance(rle, str) and not rle.strip():
        raise ValueError(f"rle: the text is empty; expected pairs {expected}")
    numbers, offsets, lengths = _pairs(rle, size, expected)
    _refuse(offsets < 0, numbers, "goes back; expected an offset of 0 or more")
    _refuse(lengths < 1, numbers, "has no pixel; expected a length of 1 or more")
    ends = np.cumsum(offsets + lengths)
    _refuse(ends > size, numbers, f"leaves the image; expected all runs to end within {size} pixels")
    return np.stack([ends - lengths, ends])


def _pairs(rle: str, size: int, expected: str) -> tuple[list[int], Pixels, Pixels]:
    """The numbers of a text, then the first and the second of each pair, held to what an int64 can add up."""
    if not isinstance(rle, str):
        raise ValueError(f"rle: {rle!r} is not text; expected pairs {expected}")
    numbers = _numbers(rle)
    if len(numbers) % 2:
        raise ValueError(f"rle: an odd count of numbers, {len(numbers)}; expected pairs {expected}")
    # A number outside the image is wrong however large it is: the nearest wrong one fits.
    bounded = [min(max(number, -1), size + 1) for number in numbers]
    first, lengths = np.array(bounded, dtype=np.int64).reshape(-1, 2).T
    return numbers, first, lengths


def _numbers(rle: str) -> list[int]:
    """The numbers of a text; spellings that only Python reads, such as 1_000, are none."""
    try:
        if rle.isascii() and "_" not in rle and "+" not in rle:
            return [int(token) for token in rle.split()]
    except ValueError:
        pass
    tokens = rle.split()
    # Numbers between spaces of another script are none either.
    wrong = next((token for token in tokens if not re.fullmatch("-?[0-9]{1,4000}", token)), rle)
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
