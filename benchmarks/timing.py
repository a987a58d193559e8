"""Two ways of doing the same work, timed in turn in one process."""

import statistics
import time
from collections.abc import Callable


def compare(
    name: str, plain: Callable[[], object], ours: Callable[[], object], note: str = "", repeats: int = 9, calls: int = 1
) -> dict:
    """One row: median milliseconds a call of both, and how many times faster ours is.

    Both run once before the clock starts, then in turn, so that a change in the machine's load meets both. `calls` is
    how often each runs within a measurement. A function that works on a GPU has to wait for it itself.
    """
    seconds: dict[str, list[float]] = {"plain": [], "ours": []}
    plain()
    ours()
    for _ in range(repeats):
        for key, function in (("plain", plain), ("ours", ours)):
            start = time.perf_counter()
            for _ in range(calls):
                function()
            seconds[key].append((time.perf_counter() - start) / calls)
    medians = {key: statistics.median(values) * 1e3 for key, values in seconds.items()}
    ratio = medians["plain"] / medians["ours"]
    return {"name": name, **medians, "unit": "ms", "ratio": ratio, "note": note}
