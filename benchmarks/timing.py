"""Several ways of doing the same work, timed in turn in one process."""

import statistics
import time
from collections.abc import Callable


def interleave(
    ways: dict[str, Callable[[], object]], repeats: int, before: Callable[[str], object] = lambda way: None
) -> dict[str, float]:
    """Median seconds of each way.

    All of them run once before the clock starts, then in turn, so that a change in the machine's load meets them all.
    `before` gets the name of a way right before its time is taken. A function that works on a GPU has to wait for it
    itself.
    """
    for function in ways.values():
        function()
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, function in ways.items():
            before(name)
            start = time.perf_counter()
            function()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def compare(
    name: str, plain: Callable[[], object], ours: Callable[[], object], note: str = "", repeats: int = 9, calls: int = 1
) -> dict:
    """One row: median milliseconds a call of both, and how many times faster ours is.

    `calls` is how often each runs within a measurement.
    """

    def often(function: Callable[[], object]) -> Callable[[], object]:
        return lambda: [function() for _ in range(calls)]

    medians = interleave({"plain": often(plain), "ours": often(ours)}, repeats)
    milliseconds = {way: seconds * 1e3 / calls for way, seconds in medians.items()}
    ratio = medians["plain"] / medians["ours"]
    return {"name": name, **milliseconds, "unit": "ms", "ratio": ratio, "note": note}
