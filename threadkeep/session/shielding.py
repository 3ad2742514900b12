"""Finishing what must not be left half done, whatever asks the program to stop meanwhile."""

import asyncio
import signal
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeVar

T = TypeVar("T")

STOPPING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
"""Ctrl-C, a polite stop, Celery's soft time limit (SIGUSR1 in a worker's child), a terminal that went away."""


async def shielded(work: Coroutine[Any, Any, T]) -> tuple[T, asyncio.CancelledError | None]:
    """Finish `work` even if the caller is cancelled meanwhile; its result, and the cancellation to raise afterwards."""
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            if task.cancelled():
                raise
            cancelled = error
        except Exception:  # noqa: BLE001, S110  raised again by task.result() below
            pass
    return task.result(), cancelled


@contextmanager
def deferred_signals() -> Iterator[None]:
    """Let signals that ask to stop wait until the block is done; then they do what they would have done.

    Only in the main thread, since only there Python's handlers run. Signals that are ignored stay so.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    arrived: list[int] = []
    before = {number: signal.getsignal(number) for number in STOPPING}
    taken = {number: handler for number, handler in before.items() if callable(handler) or handler is signal.SIG_DFL}
    for taken_over in taken:
        signal.signal(taken_over, lambda number, _: arrived.append(number))
    try:
        yield
    finally:
        for number, handler in taken.items():
            signal.signal(number, handler)
        for late in arrived:
            signal.raise_signal(late)
