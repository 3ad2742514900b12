"""Walking over many threads: in pages, some at a time, within a time budget."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Final, TypeVar

PAGE: Final = 500
"""Threads whose rows are read or written in one statement."""
WIDTH: Final = 4
"""Objects that are read at a time; so many are held in memory."""

Item = TypeVar("Item")
Result = TypeVar("Result")


def pages(items: Iterable[Item], size: int = PAGE) -> Iterator[list[Item]]:
    """The items in lists of `size`, the last one shorter."""
    rest = iter(items)
    while page := list(islice(rest, size)):
        yield page


def side_by_side(work: Callable[[Item], Result], items: Iterable[Item], width: int) -> Iterator[Result]:
    """Results in the order of the items, `width` of which are worked on at a time, and no more are held.

    An error comes where its result would have; whoever stops taking results stops the work.
    """
    pool = ThreadPoolExecutor(width)
    under_way: deque[Future[Result]] = deque()
    try:
        for item in items:
            if len(under_way) == width:
                yield under_way.popleft().result()
            under_way.append(pool.submit(work, item))
        while under_way:
            yield under_way.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
