"""Finding, making, forking and reading threads: what `Threadkeep` and `AsyncThreadkeep` both stand on."""

import time
from collections.abc import Awaitable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from threadkeep.config import Settings
from threadkeep.errors import (
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
    JsonObject,
    ThreadRef,
    checked_labels,
    checked_state,
    fresh_id,
    fresh_mark,
)
from threadkeep.session.asking import Asking
from threadkeep.storage.archive import id_hash
from threadkeep.storage.hot import Contents, Parts
from threadkeep.storage.hot_head import Head, identity_fields
from threadkeep.storage.parts import entries_of, first_parts, plain_parts, whole_parts


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


class Threads(Asking):
    """The sans-I/O core: `Asking`, and what it takes to open, make, fork and read a thread."""

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
