"""Work in a thread beside the one that gives it: reading ahead of a device, writing behind it.

What runs here must leave torch's kernels alone: a new thread doesn't know how many threads they may use.
"""

from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from types import TracebackType
from typing import Any, Self, TypeVar

Item = TypeVar("Item")
_END: Any = object()


def ahead(source: Generator[Item, None, None], count: int = 1) -> Generator[Item, None, None]:
    """Yield what `source` yields, while a thread takes up to `count` further items from it.

    An error of the source is raised where its item would have come. Closed, or at an error of whoever takes the items,
    the thread ends when it has the item at hand.
    """
    with closing(source), ThreadPoolExecutor(1) as thread:
        waiting = deque(thread.submit(next, source, _END) for _ in range(count))
        while (item := waiting.popleft().result()) is not _END:
            waiting.append(thread.submit(next, source, _END))
            yield item


class Behind:
    """Context manager that does work in a thread, in the order it is given; the end of the block waits for all of it.

    No more than one piece of work waits. An error is raised by the next `do` or `wait`, or at the end of the block.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1)
        self._last: Future[object] | None = None

    def do(self, work: Callable[..., object], *arguments: object) -> None:
        """Wait for the work given before, then let the thread do this and return at once."""
        self.wait()
        self._last = self._thread.submit(work, *arguments)

    def wait(self) -> None:
        """Wait until all is done; raises what went wrong."""
        last, self._last = self._last, None
        if last is not None:
            last.result()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown()
        if kind is None:
            self.wait()
