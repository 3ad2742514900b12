"""Finishing what must not be left half done, whatever asks the program to stop meanwhile."""

import asyncio
import os
import signal
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeVar

T = TypeVar("T")

STOPPING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
"""Ctrl-C, a polite stop, Celery's soft time limit (SIGUSR1 in a worker's child), a terminal that went away."""


async def shielded(work: Coroutine[Any, Any, T]) -> tuple[T, asyncio.CancelledError | None]:
    """Finish `work` even if the caller is cancelled meanwhile; its result, and the cancellation to raise afterwards.

    A signal waits too: its handler may raise, which ends the loop and cancels all tasks, this one included.
    """
    with deferred_signals():
        return await _unbroken(asyncio.ensure_future(work))


async def _unbroken(task: "asyncio.Task[T]") -> tuple[T, asyncio.CancelledError | None]:
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

    Only in the main thread, since only there Python's handlers run. Signals that are ignored stay so. Blocks may
    overlap, as those of tasks on one event loop do: a signal waits for those that had begun when it came.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    block = _deferral.enter()
    try:
        yield
    finally:
        _deferral.leave(block)


class _Deferral:
    """The blocks that are going on, the handlers that were taken over, and the signals that came; the main thread's."""

    def __init__(self) -> None:
        self._blocks: set[object] = set()
        self._waited_for: set[object] = set()
        self._arrived: list[int] = []
        self._taken: dict[signal.Signals, Any] = {}

    def forget(self) -> None:
        """In a child of a fork: whoever began a block is in the parent."""
        self._blocks.clear()
        self._waited_for.clear()
        self._arrived.clear()
        self._give_back()

    def enter(self) -> object:
        if not self._blocks:
            self._take()
        block = object()
        self._blocks.add(block)
        return block

    def leave(self, block: object) -> None:
        self._blocks.discard(block)
        self._waited_for.discard(block)
        if self._waited_for or (self._blocks and not self._arrived):
            return
        try:
            self._give_back()
        finally:
            if self._blocks:
                self._take()

    def _take(self) -> None:
        for number in STOPPING:
            handler = signal.getsignal(number)
            if _may_stop(handler) and handler != self._note:
                self._taken[number] = handler
                signal.signal(number, self._note)

    def _note(self, number: int, _: Any) -> None:
        if not self._arrived:
            self._waited_for = set(self._blocks)
        self._arrived.append(number)

    def _give_back(self) -> None:
        """All handlers, then all signals, though any of these steps may raise what a handler raises."""
        try:
            if self._taken:
                signal.signal(*self._taken.popitem())
            elif self._arrived:
                signal.raise_signal(self._arrived.pop(0))
            else:
                return
        finally:
            if self._taken or self._arrived:
                self._give_back()


def _may_stop(handler: Any) -> bool:
    """Not those of `loop.add_signal_handler`: the loop hears of a signal by itself, and calls them as any callback."""
    if handler is signal.SIG_DFL:
        return True
    return callable(handler) and getattr(handler, "__module__", "") != "asyncio.unix_events"


_deferral = _Deferral()
os.register_at_fork(after_in_child=_deferral.forget)
