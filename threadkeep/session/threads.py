"""Finding, making and waiting for threads: what `Threadkeep` and `AsyncThreadkeep` both stand on."""

import json
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Literal

from threadkeep.config import Settings
from threadkeep.errors import (
    BrokerUnavailable,
    FlushTimeout,
    HotTierLost,
    HydrateFailed,
    HydrateTimeout,
    MessageNotFound,
    StoreUnavailable,
    ThreadBusy,
    ThreadErased,
    ThreadExists,
    ThreadkeepError,
    ThreadNotFound,
)
from threadkeep.model import (
    Entry,
    FlushMode,
    JsonObject,
    ThreadRef,
    ThreadStat,
    checked_labels,
    checked_state,
    fresh_id,
    fresh_mark,
)
from threadkeep.storage.archive import id_hash
from threadkeep.storage.hot import Contents, HotTier, Parts
from threadkeep.storage.hot_head import Head, identity_fields
from threadkeep.storage.parts import entries_of, first_parts, plain_parts, whole_parts
from threadkeep.tasks.enqueue import Enqueuer

log = logging.getLogger(__name__)

GRACE: Final = 5.0
"""Seconds that a restored copy is kept beyond its waiter's deadline."""

Dispatch = Callable[[Callable[[], None]], Awaitable[None]]
"""Runs what blocks on the broker: at once where blocking is fine, in an executor under asyncio."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What a new thread is, besides its address and its messages."""

    codec: str = "plain"
    state: JsonObject | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    forked_from: str | None = None

    def fields(self, settings: Settings) -> list[Any]:
        """Pairs for the head, checked."""
        state = checked_state(self.state, max_bytes=settings.max_state_bytes)
        return identity_fields(
            codec=self.codec, state=state, labels=checked_labels(self.labels), forked_from=self.forked_from
        )


@dataclass(frozen=True, slots=True)
class ThreadView:
    """A thread as it was at one moment, read without a lease."""

    id: str
    namespace: str
    entries: list[Entry]
    state: JsonObject | None
    labels: dict[str, str]
    codec: str
    rev: int

    @property
    def messages(self) -> list[Any]:
        """The bodies, oldest first."""
        return [entry.body for entry in self.entries]


@dataclass(frozen=True, slots=True)
class Brought:
    """How waiting for a thread ended: it is here, or known to be absent under `ticket`."""

    status: Literal["here", "absent"]
    ticket: str = ""


class Threads:
    """The sans-I/O core: coroutines over a `Link`, and a `Dispatch` for the broker."""

    def __init__(self, hot: HotTier, enqueuer: Enqueuer, settings: Settings, dispatch: Dispatch) -> None:
        self.hot = hot
        self.enqueuer = enqueuer
        self.settings = settings
        self._dispatch = dispatch

    # --- opening ----------------------------------------------------------------------------------------------------

    async def open(self, ref: ThreadRef, token: str, *, create: Identity | None, wait: float) -> Head:
        """Take the lease of a thread, bringing it back first if it is cold.

        Args:
            ref: The thread.
            token: The lease's.
            create: What to make if there is no such thread; None raises `ThreadNotFound`.
            wait: Seconds to queue for a lease that another session holds.
        """
        lease_deadline = time.monotonic() + wait
        deadline = time.monotonic() + self.settings.hydrate_wait + wait
        while True:
            got = await self.hot.acquire(ref, token)
            if got.head is not None:
                return got.head
            if got.status == "erasing":
                raise ThreadErased(str(ref))
            if got.status == "busy":
                if time.monotonic() >= lease_deadline:
                    raise ThreadBusy(str(ref), got.busy_ms / 1000)
                await self.hot.link.pause(min(0.1, max(0.01, lease_deadline - time.monotonic())))
                continue
            head = await self._open_absent(ref, token, create, deadline)
            if head is not None:
                return head

    async def _open_absent(self, ref: ThreadRef, token: str, create: Identity | None, deadline: float) -> Head | None:
        """Bring the thread, or make it if it is absent everywhere; None to try the lease again."""
        brought = await self.bring(ref, deadline - time.monotonic())
        if brought.status == "here":
            return None
        if create is None:
            raise ThreadNotFound(str(ref))
        return await self._create(ref, token, create, brought.ticket)

    async def new(self, ref: ThreadRef, token: str, identity: Identity, *, chosen: bool, overwrite: bool) -> Head:
        """Make a thread.

        Args:
            ref: The thread.
            token: The lease's.
            identity: What it is.
            chosen: The caller chose the id, so whether it is taken must be found out first.
            overwrite: Replace a thread that is there.
        """
        if not chosen:
            head = await self._create(ref, token, identity, "")
            if head is None:
                raise ThreadExists(str(ref), "hot")
            return head
        deadline = time.monotonic() + self.settings.hydrate_wait
        while True:
            brought = await self.bring(ref, deadline - time.monotonic())
            if brought.status == "absent":
                head = await self._create(ref, token, identity, brought.ticket)
            elif overwrite:
                head = await self._overwrite(ref, token, identity)
            else:
                raise ThreadExists(str(ref), await self._tier(ref))
            if head is not None:
                return head

    async def fork(self, source: ThreadRef, target: ThreadRef, token: str, *, chosen: bool, before: str | None) -> Head:
        """Copy a thread, or its messages before one of them, to a new address; the source stays as it is."""
        deadline = time.monotonic() + self.settings.hydrate_wait
        while True:
            if (await self.bring(source, deadline - time.monotonic())).status == "absent":
                raise ThreadNotFound(str(source))
            contents = await self.hot.read(source, with_ids=True)
            if contents is None:
                continue
            parts = self._copied(source, contents, before)
            ticket = ""
            if chosen:
                brought = await self.bring(target, deadline - time.monotonic())
                if brought.status == "here":
                    raise ThreadExists(str(target), await self._tier(target))
                ticket = brought.ticket
            made = await self.hot.create(target, token, parts, ticket=ticket, gen=fresh_mark())
            if made.head is not None:
                return made.head
            if made.status == "exists":
                raise ThreadExists(str(target), "hot")
            if made.status == "erasing":
                raise ThreadErased(str(target))
            if time.monotonic() >= deadline:
                raise StoreUnavailable("Redis", f"a fork of thread {source}", "the copy kept being refused")

    def _copied(self, source: ThreadRef, contents: Contents, before: str | None) -> Parts:
        head = contents.head
        fields = Identity(head.codec, head.state, head.labels, source.member).fields(self.settings)
        if before is None:
            return whole_parts(contents, fields)
        keep = position(contents.ids, before)
        if keep is None:
            raise MessageNotFound(str(source), before)
        return first_parts(contents, keep, max_bytes=self.settings.max_thread_bytes, fields=fields)

    async def _create(self, ref: ThreadRef, token: str, identity: Identity, ticket: str) -> Head | None:
        """Make an empty thread; None if somebody else was faster or the ticket is gone."""
        parts = plain_parts([], b"", identity.fields(self.settings))
        made = await self.hot.create(ref, token, parts, ticket=ticket, gen=fresh_mark())
        if made.status == "erasing":
            raise ThreadErased(str(ref))
        return made.head

    async def _overwrite(self, ref: ThreadRef, token: str, identity: Identity) -> Head | None:
        """Start a thread that is here anew; None if it left meanwhile."""
        parts, gen = plain_parts([], b"", identity.fields(self.settings)), fresh_mark()
        while True:
            got = await self.hot.acquire(ref, token)
            if got.status == "busy":
                raise ThreadBusy(str(ref), got.busy_ms / 1000)
            if got.head is None or got.head.gen == gen:
                return got.head
            await self.hot.rewrite(ref, token, got.head, parts, gen=gen, anew=True)

    async def leased(self, ref: ThreadRef, token: str, opening: Awaitable[Head]) -> Head:
        """Finish an opening; if it is interrupted, a lease that it may have taken is given back."""
        try:
            return await opening
        except ThreadkeepError:
            raise
        except BaseException:
            await self.abandon(ref, token)
            raise

    async def abandon(self, ref: ThreadRef, token: str) -> None:
        """Give a lease back that nobody will use, if it was taken."""
        flush_token = fresh_mark()
        with suppress(ThreadkeepError):  # the lease ends by itself, and the sweep looks after the thread
            if await self.hot.release(ref, token, self.settings.exit_flush, flush_token) == "enqueue":
                await self.publish_flush(ref, self.settings.exit_flush, flush_token)

    async def _tier(self, ref: ThreadRef) -> str:
        seen = await self.hot.look(ref)
        return "hot" if seen.head is not None and seen.head.dirty else "archived"

    # --- waiting ----------------------------------------------------------------------------------------------------

    async def bring(self, ref: ThreadRef, seconds: float) -> Brought:
        """Wait until a thread is in Redis, or a worker has said that it is absent. All waiters share one task.

        Raises:
            HydrateTimeout, HydrateFailed, ThreadErased, BrokerUnavailable
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
        return None

    async def wait_archived(self, ref: ThreadRef, rev: int, mode: FlushMode, seconds: float) -> None:
        """Wait until the archive holds `rev`; asks for the flush again every few seconds, should its message be lost.

        Raises:
            FlushTimeout: the thread is still safe in Redis.
        """
        deadline = time.monotonic() + seconds
        async with self.hot.link.listen(self.hot.keys(ref).channel) as news:
            while True:
                seen = await self.hot.look(ref)
                if seen.head is None:
                    await self._check_archived(ref, rev)
                    return
                if seen.head.archived >= rev:
                    return
                left = deadline - time.monotonic()
                if left <= 0:
                    raise FlushTimeout(str(ref), seconds)
                if not await news.wait(min(left, self.settings.ask_again)):
                    await self.request_flush(ref, mode)

    async def _check_archived(self, ref: ThreadRef, rev: int) -> None:
        """A thread that left Redis must be in the archive.

        Raises:
            HotTierLost: it is not, or an older revision is.
        """
        archived = (await self.stat(ref)).archived_rev
        if archived < rev:
            raise HotTierLost(str(ref), rev, archived)

    async def wait_present_archived(self, ref: ThreadRef, mode: FlushMode, seconds: float) -> None:
        """Wait until the archive holds what is in Redis now."""
        seen = await self.hot.look(ref)
        if seen.head is not None:
            await self.wait_archived(ref, seen.head.rev, mode, seconds)

    # --- asking and telling -----------------------------------------------------------------------------------------

    async def request_flush(self, ref: ThreadRef, mode: FlushMode, *, delay: float = 0.0) -> bool:
        """Queue a flush unless one is queued; False, and a warning, if the broker is away: the sweep will queue it."""
        token = fresh_mark()
        asked = await self.hot.request_flush(ref, mode, token)
        if asked == "enqueue":
            return await self.publish_flush(ref, mode, token, delay=delay)
        return asked == "coalesced"

    async def publish_flush(self, ref: ThreadRef, mode: FlushMode, token: str, *, delay: float = 0.0) -> bool:
        """Publish a flush whose marker is set; a failed one takes the marker back and warns."""
        try:
            await self._dispatch(lambda: self.enqueuer.flush(ref, mode, token, delay=delay))
        except BrokerUnavailable as error:
            log.warning("%s", error, extra={"thread_id": str(ref)})
            await self.hot.withdraw(ref, "flush", token)
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

    async def view(self, ref: ThreadRef) -> ThreadView:
        """Read a thread without a lease, bringing it back first if it is cold."""
        deadline = time.monotonic() + self.settings.hydrate_wait
        while True:
            contents = await self.hot.read(ref)
            if contents is not None:
                head = contents.head
                entries = entries_of(contents, ref, max_bytes=self.settings.max_thread_bytes)
                return ThreadView(ref.thread_id, ref.namespace, entries, head.state, head.labels, head.codec, head.rev)
            if (await self.bring(ref, deadline - time.monotonic())).status == "absent":
                raise ThreadNotFound(str(ref))

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
                        return ThreadStat(**json.loads(answer))
        raise StoreUnavailable("the workers", f"a question about thread {ref}", f"no answer within {wait:g} s")

    async def erase(self, ref: ThreadRef, *, wait: float | None) -> str:
        """Begin to erase all that is known of a thread up to now; returns the request's id.

        It is gone from Redis when this returns; a worker, or should its message be lost the sweep, does the rest.
        """
        request = fresh_mark()
        upto = await self.hot.mark_erasing(ref, request)
        try:
            await self._dispatch(lambda: self.enqueuer.erase(ref, request=request, upto=upto))
        except BrokerUnavailable as error:
            log.warning("%s", error, extra={"thread_id": str(ref)})
        if wait is None:
            return request
        deadline = time.monotonic() + wait
        async with self.hot.link.listen(self.hot.keys(ref).channel) as news:
            while await self.hot.receipt(ref, request) is None:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise StoreUnavailable("the workers", f"erasure {request}", f"not complete within {wait:g} s")
                await news.wait(min(left, 1.0))
        return request


def position(ids: bytes, message_id: str) -> int | None:
    """Where a message stands, from the 16-byte hashes of all ids."""
    wanted, at = id_hash(message_id), -1
    while (at := ids.find(wanted, at + 1)) >= 0:
        if at % 16 == 0:
            return at // 16
    return None


def timestamp() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def new_ref(thread_id: str | None, namespace: str) -> tuple[ThreadRef, bool]:
    """The address of a new thread, and whether the caller chose its id."""
    return ThreadRef.of(thread_id if thread_id is not None else fresh_id(), namespace), thread_id is not None
