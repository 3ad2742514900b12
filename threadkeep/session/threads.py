"""Finding, making, forking and reading threads: what `Threadkeep` and `AsyncThreadkeep` both stand on."""

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Final

from threadkeep.config import Settings
from threadkeep.errors import (
    FormatMismatch,
    InvalidMessage,
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
    checked_record,
    checked_state,
    fresh_id,
    fresh_mark,
)
from threadkeep.session.asking import Asking
from threadkeep.session.codecs import codec_for
from threadkeep.session.codecs.plain import PlainCodec
from threadkeep.session.loop.answers import Repair, repairs_in
from threadkeep.storage.hot import Contents, Parts
from threadkeep.storage.hot_head import Head, identity_fields
from threadkeep.storage.limits import ReadLimits
from threadkeep.storage.parts import entries_of, first_parts, hashes_of, log_bytes, plain_parts, whole_parts
from threadkeep.storage.record_ids import ID_BYTES, id_hash

STAGINGS: Final = 3
"""How often a new thread is staged again, because a full Redis evicted it before it was in its place."""

Reshape = Callable[[list[Entry]], Awaitable[list[Entry]]]
"""What a fork does to the entries that it copies, before anything is written."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What a new thread is, besides its address: how it is kept, and what it begins with."""

    codec: str = "plain"
    state: JsonObject | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    forked_from: str | None = None
    first: Sequence[Entry] = ()

    def parts(self, settings: Settings) -> Parts:
        """All of a new thread, checked; created in one step, so that no retry can lose a part of it."""
        return new_parts(self.first, self.codec, self.fields(settings), settings)

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
        """The messages as their provider, or its framework, has them, oldest first."""
        return codec_for(self.codec).native(self.entries)

    @property
    def repairs(self) -> list[Repair]:
        """Unanswered tool calls that sessions answered so that the thread stays valid, oldest first."""
        return repairs_in(self.entries)


class Threads(Asking):
    """The sans-I/O core: `Asking`, and what it takes to open, make, fork and read a thread."""

    # --- opening ----------------------------------------------------------------------------------------------------

    async def open(
        self, ref: ThreadRef, token: str, *, create: Identity | None, wait: float, codec: str | None = None
    ) -> Head:
        """Take the lease of a thread, bringing it back first if it is cold.

        Args:
            ref: The thread.
            token: The lease's.
            create: What to make if there is no such thread; None raises `ThreadNotFound`.
            wait: Seconds to queue for a lease that another session holds.
            codec: What it must be kept by; None takes any.
        """
        head = await self._opened(ref, token, create, wait)
        if codec is not None and head.codec != codec:
            await self.abandon(ref, token)
            raise FormatMismatch(str(ref), head.codec, codec)
        return head

    async def _opened(self, ref: ThreadRef, token: str, create: Identity | None, wait: float) -> Head:
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

    async def fork(self, source: ThreadRef, target: ThreadRef, token: str, *, chosen: bool, copying: "Copying") -> Head:
        """Copy a thread, or its messages before one of them, to a new address; the source stays as it is."""
        deadline = time.monotonic() + self.settings.hydrate_wait
        while True:
            if (await self.bring(source, deadline - time.monotonic())).status == "absent":
                raise ThreadNotFound(str(source))
            contents = await self.hot.read(source, with_ids=True)
            if contents is None:
                continue
            ticket = ""
            if chosen:
                brought = await self.bring(target, deadline - time.monotonic())
                if brought.status == "here":
                    raise ThreadExists(str(target), await self._tier(target))
                ticket = brought.ticket
            parts = await self._copied(source, contents, copying)
            made = await self.hot.create(target, token, parts, ticket=ticket, gen=fresh_mark())
            if made.head is not None:
                return made.head
            if made.status == "exists":
                raise ThreadExists(str(target), "hot")
            if made.status == "erasing":
                raise ThreadErased(str(target))
            if time.monotonic() >= deadline:
                raise StoreUnavailable("Redis", f"a fork of thread {source}", "the copy kept being refused")

    async def _copied(self, source: ThreadRef, contents: Contents, copying: "Copying") -> Parts:
        head, limits = contents.head, ReadLimits.of(self.settings)
        codec = copying.codec or head.codec
        fields = Identity(codec, head.state, head.labels, source.member).fields(self.settings)
        keep = self._kept(source, contents, copying.before)
        if copying.reshape is None and codec == head.codec:
            if keep == head.count:
                return whole_parts(contents, fields)
            return first_parts(contents, keep, limits=limits, fields=fields)
        entries = entries_of(contents, source, limits=limits)[:keep]
        if copying.reshape is not None:
            entries = await copying.reshape(entries)
        if codec != head.codec:
            entries = as_kept_by(codec, entries)
        return new_parts(entries, codec, fields, self.settings)

    def _kept(self, source: ThreadRef, contents: Contents, before: str | None) -> int:
        """How many entries stand before a message, without those that would be invalid at the end."""
        if before is None:
            return contents.head.count
        at = position(contents.ids, before)
        if at is None:
            raise MessageNotFound(str(source), before)
        codec = codec_for(contents.head.codec)
        if isinstance(codec, PlainCodec):
            return at
        return codec.cut(entries_of(contents, source, limits=ReadLimits.of(self.settings)), at)

    async def _create(self, ref: ThreadRef, token: str, identity: Identity, ticket: str) -> Head | None:
        """Make a thread; None if somebody else was faster or the ticket is gone."""
        parts = identity.parts(self.settings)
        for _ in range(STAGINGS):
            made = await self.hot.create(ref, token, parts, ticket=ticket, gen=fresh_mark())
            if made.status == "erasing":
                raise ThreadErased(str(ref))
            if made.status != "unstaged":
                return made.head
        raise StoreUnavailable("Redis", f"making thread {ref}", "what was staged for it kept vanishing")

    async def _overwrite(self, ref: ThreadRef, token: str, identity: Identity) -> Head | None:
        """Start a thread that is here anew; None if it left meanwhile."""
        parts, gen = identity.parts(self.settings), fresh_mark()
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
            left = await self.hot.release(ref, token, self.settings.exit_flush, flush_token)
            if left.status == "enqueue":
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
                entries = entries_of(contents, ref, limits=ReadLimits.of(self.settings))
                return ThreadView(ref.thread_id, ref.namespace, entries, head.state, head.labels, head.codec, head.rev)
            if (await self.bring(ref, deadline - time.monotonic())).status == "absent":
                raise ThreadNotFound(str(ref))


@dataclass(frozen=True, slots=True)
class Copying:
    """What of a thread a fork takes, and what it makes of it."""

    before: str | None = None
    codec: str | None = None
    reshape: Reshape | None = None


def new_parts(entries: Sequence[Entry], codec: str, fields: Sequence[Any], settings: Settings) -> Parts:
    """A new thread of these entries.

    Raises:
        InvalidMessage: an entry that cannot be kept, an id that stands twice, or too much for one thread.
        FormatMismatch: an entry of another codec.
    """
    records = [checked_record(entry, max_bytes=settings.max_message_bytes) for entry in entries]
    size, limit = log_bytes(records), settings.max_thread_bytes
    if size > limit:
        rule = f"the thread would exceed THREADKEEP_MAX_THREAD_BYTES ({limit:,})"
        raise InvalidMessage("messages", f"{size:,} bytes in all", rule)
    check_batch(entries, codec, "to be made")
    return plain_parts(records, hashes_of(entries), fields)


def as_kept_by(codec: str, entries: Sequence[Entry]) -> list[Entry]:
    """Entries that came from another codec, with their bodies as this one keeps them.

    Raises:
        InvalidMessage: names the entry whose body, or `fmt`, is still another's.
    """
    kept: list[Entry] = []
    for entry in entries:
        where = f"entry {ascii(entry.id)[:80]}"
        rule = f"to fork to {codec!r}, on_fork_transform must give each entry one message of that codec's, and its fmt"
        if entry.fmt != codec:
            raise InvalidMessage(where, f"fmt {entry.fmt!r}", rule)
        try:
            (part,) = codec_for(codec).encode(entry.body, entry.id)
        except (ThreadkeepError, ValueError, TypeError) as error:
            raise InvalidMessage(where, str(error), rule) from None
        kept.append(replace(entry, kind=part.kind, body=part.body))
    return kept


def check_batch(entries: Sequence[Entry], codec: str, thread: str) -> None:
    """Refuse ids that stand twice, and entries of another codec."""
    seen: set[str] = set()
    for entry in entries:
        if entry.id in seen:
            raise InvalidMessage("ids", ascii(entry.id)[:80], "stands twice; give each message its own id")
        seen.add(entry.id)
        if entry.fmt != codec:
            raise FormatMismatch(thread, codec, str(entry.fmt))


def position(ids: bytes, message_id: str) -> int | None:
    """Where a message stands, from the hashes of all ids."""
    wanted, at = id_hash(message_id), -1
    while (at := ids.find(wanted, at + 1)) >= 0:
        if at % ID_BYTES == 0:
            return at // ID_BYTES
    return None


def timestamp() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def new_ref(thread_id: str | None, namespace: str) -> tuple[ThreadRef, bool]:
    """The address of a new thread, and whether the caller chose its id."""
    return ThreadRef.of(thread_id if thread_id is not None else fresh_id(), namespace), thread_id is not None
