"""What sessions ask of workers, and how they wait for it: at the hot tier, so that any number share one task."""

import logging
import time
from dataclasses import dataclass
from typing import Any, Final, Literal

from threadkeep.config import Settings
from threadkeep.errors import (
    BrokerUnavailable,
    FlushTimeout,
    HotTierLost,
    HydrateFailed,
    HydrateTimeout,
    StoreRefused,
    StoreUnavailable,
    ThreadErased,
    ThreadkeepError,
)
from threadkeep.model import FlushMode, ThreadRef, ThreadStat, fresh_mark
from threadkeep.storage.hot import Erasing, HotTier
from threadkeep.storage.hot_remains import Loss
from threadkeep.tasks.enqueue import Dispatch, Enqueuer

log = logging.getLogger(__name__)

GRACE: Final = 5.0
"""Seconds that a restored copy is kept beyond its waiter's deadline."""


@dataclass(frozen=True, slots=True)
class Brought:
    """How waiting for a thread ended: it is here, or known to be absent under `ticket`."""

    status: Literal["here", "absent"]
    ticket: str = ""


class Asking:
    """Coroutines over a `Link`, and a `Dispatch` for the broker."""

    def __init__(self, hot: HotTier, enqueuer: Enqueuer, settings: Settings, dispatch: Dispatch) -> None:
        self.hot = hot
        self.enqueuer = enqueuer
        self.settings = settings
        self._dispatch = dispatch

    # --- waiting ----------------------------------------------------------------------------------------------------

    async def bring(self, ref: ThreadRef, seconds: float) -> Brought:
        """Wait until a thread is in Redis, or a worker has said that it is absent. All waiters share one task.

        Raises:
            HydrateTimeout, HydrateFailed, ThreadErased, BrokerUnavailable
            HotTierLost: Redis lost a part of it. Said once: asking again brings back what the archive holds.
        """
        deadline = time.monotonic() + seconds
        async with self.hot.link.listen(self.hot.keys(ref).channel) as news:
            while True:
                left = deadline - time.monotonic()
                asked = await self.ask(ref, keep=max(left, 0) + GRACE)
                if asked.status == "present":
                    return Brought("here")
                if asked.status == "absent":
                    return Brought("absent", asked.ticket)
                told = await self._hear(ref, news, min(deadline, time.monotonic() + self.settings.ask_again))
                if told is not None:
                    return told
                if time.monotonic() >= deadline:
                    raise HydrateTimeout(str(ref), round(seconds, 1))

    async def ask(self, ref: ThreadRef, *, keep: float) -> Any:
        """Ask for a hydrate, and queue it unless one is queued."""
        asked = await self.hot.ask(ref, keep=keep)
        if asked.status == "erasing":
            raise ThreadErased(str(ref))
        if asked.status == "lost":
            raise _lost(ref, asked.reason)
        if asked.status == "enqueue":
            try:
                await self._dispatch(lambda: self.enqueuer.hydrate(ref, asked.token, expires=keep))
            except BrokerUnavailable:
                await self.hot.withdraw(ref, "hydrate", asked.token)
                raise
        return asked

    async def _hear(self, ref: ThreadRef, news: Any, deadline: float) -> Brought | None:
        """What became of a hydrate by `deadline`; None if nothing yet."""
        while (left := deadline - time.monotonic()) > 0:
            await news.wait(left)
            seen = await self.hot.look(ref)
            if seen.status == "erasing":
                raise ThreadErased(str(ref))
            if seen.head is not None:
                return Brought("here")
            if seen.verdict == "absent":
                return Brought("absent", seen.ticket)
            if seen.verdict == "failed":
                raise HydrateFailed(str(ref), seen.reason)
            if seen.verdict == "lost":
                await self.hot.heard(ref, seen.ticket)
                raise _lost(ref, seen.reason)
        return None

    async def wait_archived(self, ref: ThreadRef, rev: int, mode: FlushMode, seconds: float) -> None:
        """Wait until the archive holds `rev`; asks for the flush again every few seconds, should its message be lost.

        Raises:
            FlushTimeout: the thread is still safe in Redis.
            HotTierLost: Redis lost it, or fell back to before `rev`.
        """
        deadline = time.monotonic() + seconds
        async with self.hot.link.listen(self.hot.keys(ref).channel) as news:
            while True:
                seen = await self.hot.look(ref)
                if seen.status == "erasing":
                    raise ThreadErased(str(ref))
                left = deadline - time.monotonic()
                if seen.remains is not None and left > 0:
                    await self.bring(ref, left)
                    continue
                if seen.head is None:
                    await self._check_archived(ref, rev)
                    return
                if seen.head.archived >= rev:
                    return
                if seen.head.rev < rev:
                    raise HotTierLost(str(ref), rev, seen.head.rev)
                if left <= 0:
                    raise FlushTimeout(str(ref), seconds)
                if not await news.wait(min(left, self.settings.ask_again)):
                    await self.request_flush(ref, mode)

    async def _check_archived(self, ref: ThreadRef, rev: int) -> None:
        """A thread that left Redis must be in the archive.

        Raises:
            HotTierLost: it is not, or an older revision is.
            ThreadErased: it was erased since.
        """
        stat = await self.stat(ref)
        if stat.tier == "absent" and stat.rev > rev:
            raise ThreadErased(str(ref))
        if stat.archived_rev < rev:
            raise HotTierLost(str(ref), rev, stat.archived_rev)

    async def wait_present_archived(self, ref: ThreadRef, mode: FlushMode, seconds: float) -> None:
        """Wait until the archive holds what is in Redis now."""
        seen = await self.hot.look(ref)
        if seen.head is not None:
            await self.wait_archived(ref, seen.head.rev, mode, seconds)

    # --- asking and telling -----------------------------------------------------------------------------------------

    async def request_flush(self, ref: ThreadRef, mode: FlushMode) -> bool:
        """Queue a flush unless one is queued; False, and a warning, if the broker is away: the sweep will queue it."""
        try:
            return await self.enqueuer.request_flush(self.hot, ref, mode, self._dispatch)
        except BrokerUnavailable as error:
            log.warning("%s", error, extra={"thread_id": str(ref)})
            return False

    async def publish_flush(self, ref: ThreadRef, mode: FlushMode, token: str, *, delay: float = 0.0) -> bool:
        """Publish a flush whose marker is set; a failed one takes the marker back and warns."""
        try:
            await self.enqueuer.marked_flush(self.hot, ref, mode, token, self._dispatch, delay=delay)
        except BrokerUnavailable as error:
            log.warning("%s", error, extra={"thread_id": str(ref)})
            return False
        return True

    async def prefetch(self, ref: ThreadRef) -> bool:
        """Ask for a hydrate and do not wait; False, and a warning, if the broker is away."""
        try:
            await self.ask(ref, keep=self.settings.hydrate_wait)
        except BrokerUnavailable as error:
            log.warning("%s", error, extra={"thread_id": str(ref)})
            return False
        return True

    async def stat(self, ref: ThreadRef) -> ThreadStat:
        """What is known of a thread: from Redis if it is there, else a worker is asked. Does not bring it back."""
        seen = await self.hot.look(ref)
        if seen.head is not None:
            return seen.head.to_stat(ref, now_ms=await self.hot.clock(ref) // 1000)
        question, wait = fresh_mark(), self.settings.hydrate_wait
        deadline = time.monotonic() + wait
        async with self.hot.link.listen(self.hot.keys(ref).channel) as news:
            while time.monotonic() < deadline:
                await self._dispatch(lambda: self.enqueuer.describe(ref, question, expires=wait))
                again = min(deadline, time.monotonic() + self.settings.ask_again)
                while (left := again - time.monotonic()) > 0:
                    await news.wait(left)
                    answer = await self.hot.answer_to(ref, question)
                    if answer is not None:
                        return _described(ref, answer)
        raise StoreUnavailable("the workers", f"a question about thread {ref}", f"no answer within {wait:g} s")

    async def erase(self, ref: ThreadRef, *, wait: float | None) -> str:
        """Begin to erase all that is known of a thread up to now; returns the request's id.

        It is gone from Redis when this returns; a worker, or should its message be lost the sweep, does the rest.
        """
        erasing = await self.begin_erase(ref)
        if wait is not None:
            await self.wait_erased(ref, erasing.request, wait)
        return erasing.request

    async def begin_erase(self, ref: ThreadRef) -> Erasing:
        """Mark the thread and queue its erasure; one that is under way already is joined, and queued again."""
        erasing = await self.hot.mark_erasing(ref, fresh_mark())
        try:
            await self._dispatch(lambda: self.enqueuer.erase(ref, request=erasing.request, upto=erasing.upto))
        except BrokerUnavailable as error:
            log.warning("%s", error, extra={"thread_id": str(ref)})
        return erasing

    async def wait_erased(self, ref: ThreadRef, request: str, wait: float) -> None:
        """Wait until an erasure is complete.

        Raises:
            StoreUnavailable: it is not, within `wait` seconds; it goes on.
        """
        deadline = time.monotonic() + wait
        async with self.hot.link.listen(self.hot.keys(ref).channel) as news:
            while await self.hot.receipt(ref, request) is None:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise StoreUnavailable("the workers", f"erasure {request}", f"not complete within {wait:g} s")
                await news.wait(min(left, 1.0))


def _lost(ref: ThreadRef, reason: str) -> ThreadkeepError:
    loss = Loss.parse(reason)
    if loss.restored:
        return HotTierLost(str(ref), loss.known, loss.restored)
    lost = f"Redis lost it, or a part of it, and with it revision {loss.known}, which was never archived"
    return HydrateFailed(str(ref), f"{lost} or whose archive is gone.")


def _described(ref: ThreadRef, answer: str) -> ThreadStat:
    try:
        return ThreadStat.from_json(answer)
    except ValueError:
        operation, remedy = f"a question about thread {ref}", "Do apps and workers run the same version?"
        raise StoreRefused("the workers", operation, "the answer is malformed", remedy) from None
