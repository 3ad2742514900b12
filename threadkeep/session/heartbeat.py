"""Keeps the leases of open sessions alive while the app thinks, sync and async."""

import asyncio
import os
import threading
from contextlib import suppress
from weakref import ReferenceType, WeakKeyDictionary, WeakSet
from weakref import ref as weakly

from threadkeep.errors import ThreadkeepError
from threadkeep.session.writer import Writer
from threadkeep.storage.hot import HotTier
from threadkeep.storage.link import run_now


class Heartbeat:
    """One daemon thread for all sessions of a process; it lives only while there are any, and not across a fork.

    A session that the app drops without leaving it is not kept alive: its lease ends.
    """

    def __init__(self, hot: HotTier, every: float) -> None:
        self._hot = hot
        self._every = every
        self._start_over()

    def _start_over(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._writers: WeakSet[Writer] = WeakSet()

    def add(self, writer: Writer) -> None:
        if self._pid != os.getpid():
            self._start_over()
        with self._lock:
            starts = not self._writers
            self._writers.add(writer)
            if starts:
                self._stop.set()
                self._stop = threading.Event()
                threading.Thread(target=self._beat, args=(self._stop,), name="threadkeep-leases", daemon=True).start()

    def remove(self, writer: Writer) -> None:
        if self._pid != os.getpid():
            return
        with self._lock:
            self._writers.discard(writer)
            if not self._writers:
                self._stop.set()

    def _beat(self, stop: threading.Event) -> None:
        while not stop.wait(self._every):
            with self._lock:
                leases = [(writer.ref, writer.token) for writer in self._writers]
                if not leases:  # all were dropped; the next session starts another thread
                    return
            for ref, token in leases:
                with suppress(ThreadkeepError):  # the next write finds out what became of the lease, and says so
                    run_now(self._hot.renew(ref, token))


class AsyncHeartbeat:
    """One asyncio task for one session; it ends with the session, left or dropped."""

    def __init__(self, hot: HotTier, every: float) -> None:
        self._hot = hot
        self._every = every
        self._tasks: WeakKeyDictionary[Writer, asyncio.Task[None]] = WeakKeyDictionary()

    def add(self, writer: Writer) -> None:
        self._tasks[writer] = asyncio.get_running_loop().create_task(self._beat(weakly(writer)))

    def remove(self, writer: Writer) -> None:
        task = self._tasks.pop(writer, None)
        if task is not None:
            task.cancel()

    async def _beat(self, dropped: ReferenceType[Writer]) -> None:
        while True:
            await asyncio.sleep(self._every)
            writer = dropped()
            if writer is None:
                return
            thread, token = writer.ref, writer.token
            del writer
            with suppress(ThreadkeepError):
                await self._hot.renew(thread, token)
