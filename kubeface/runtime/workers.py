"""The same work on many items, on every processor, with results in the order of the items."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_order(work: Callable[[Item], Result], items: Iterable[Item], workers: int) -> Generator[Result, None, None]:
    """The results of `work` on each item, in the order of the items whatever the number of workers.

    Workers are threads: the networks, OpenCV, Pillow and zlib work without Python's lock. Items are taken one at a
    time, in the caller's thread, and at most twice as many as workers are begun before their results are taken, so that
    memory stays flat. What `work` raises comes out at the item's turn and ends the rest.
    """
    begun: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for item in items:
                begun.append(pool.submit(work, item))
                if len(begun) >= 2 * workers:
                    yield begun.popleft().result()
            while begun:
                yield begun.popleft().result()
        finally:
            for future in begun:
                future.cancel()
