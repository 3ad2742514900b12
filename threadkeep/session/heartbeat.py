"""Keeps the leases of open sessions alive while the app thinks, sync and async."""

import asyncio
import os
import threading
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, TypeVar

from threadkeep.errors import ThreadkeepError
from threadkeep.session.writer import Writer
from threadkeep.storage.hot import HotTier
from threadkeep.storage.link import run_now

T = TypeVar("T")


class Heartbeat:
    """One daemon thread for all sessions of a process; it lives only while there are any, and not across a fork."""

    def __init__(self, hot: HotTier, every: float) -> None:
        self._hot = hot
        self._every = every
        self._writers: set[Writer] = set()
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._pid = 0

    def add(self, writer: Writer) -> None:
        with self._lock:
            if self._pid != os.getpid():
                self._pid, self._wake, self._writers = os.getpid(), threading.Event(), set()
            starts = not self._writers
            self._writers.add(writer)
            if starts:
                self._wake = threading.Event()
                threading.Thread(target=self._beat, args=(self._wake,), name="threadkeep-leases", daemon=True).start()

    def remove(self, writer: Writer) -> None:
        with self._lock:
            self._writers.discard(writer)
            if not self._writers:
                self._wake.set()

    def _beat(self, stop: threading.Event) -> None:
        while not stop.wait(self._every):
            with self._lock:
                writers = list(self._writers)
            for writer in writers:
                with suppress(ThreadkeepError):  # the next write finds out what became of the lease, and says so
                    run_now(self._hot.renew(writer.ref, writer.token))


class AsyncHeartbeat:
    """One asyncio task for one session."""

    def __init__(self, hot: HotTier, every: float) -> None:
        self._hot = hot
        self._every = every
        self._tasks: dict[Writer, asyncio.Task[None]] = {}

    def add(self, writer: Writer) -> None:
        self._tasks[writer] = asyncio.get_running_loop().create_task(self._beat(writer))

    def remove(self, writer: Writer) -> None:
        task = self._tasks.pop(writer, None)
        if task is not None:
            task.cancel()

    async def _beat(self, writer: Writer) -> None:
        while True:
            await asyncio.sleep(self._every)
            with suppress(ThreadkeepError):
                await self._hot.renew(writer.ref, writer.token)


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
        except BaseException:  # noqa: BLE001, S110  raised again by task.result() below
            pass
    return task.result(), cancelled
