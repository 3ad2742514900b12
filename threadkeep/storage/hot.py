"""The hot tier as sessions use it: every method is one script on one slot, or plain reads in pages.

Bulk never passes through a script: it is staged under keys of its own, which one small call then commits.
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Final, Literal, Self

from threadkeep.config import Settings
from threadkeep.errors import ArchiveCorrupt, ThreadkeepError
from threadkeep.model import FlushMode, ThreadRef, fresh_mark
from threadkeep.storage.connections import Command
from threadkeep.storage.hot_head import Head
from threadkeep.storage.hot_keys import PIECE_BYTES, ThreadKeys, keys_of
from threadkeep.storage.hot_remains import Remains
from threadkeep.storage.link import Link
from threadkeep.storage.record_ids import ID_BYTES

INLINE_BYTES: Final = 256 * 1024
"""Parts of up to this many bytes come and go with a script; larger ones are staged, and read in pages."""
PAGE_RECORDS: Final = 256
STAGING_MS: Final = 600_000
"""Staged keys vanish by themselves after this, if the commit never came."""

Piece = bytes | memoryview
"""Some of a base's bytes."""
Refusal = Literal["absent", "erasing", "fenced", "moved", "unstaged"]


@dataclass(frozen=True, slots=True)
class Acquired:
    """Outcome of taking a lease: the head if it was taken, else why not."""

    status: Literal["ok", "busy", "absent", "erasing"]
    head: Head | None = None
    busy_ms: int = 0


@dataclass(frozen=True, slots=True)
class Written:
    """Outcome of a session's write: the revision and count as they are now if it was done, else why not.

    `count` is None where the write does not touch messages.
    """

    status: Literal["ok", "known", "behind"] | Refusal
    rev: int = 0
    count: int | None = None


@dataclass(frozen=True, slots=True)
class Looked:
    """What is here: a head, or the ticket of a hydrate and what it was told.

    Attributes:
        floor: Revision of the tombstone on whose strength `absent` was told; 0 if there was none.
        remains: What is left of a thread that is not whole.
    """

    status: Literal["here", "absent", "erasing"]
    head: Head | None = None
    ticket: str = ""
    verdict: str = ""
    reason: str = ""
    floor: int = 0
    remains: Remains | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """Outcome of asking for a hydrate; `enqueue` means that the caller publishes the task with `token`.

    `lost` is said once, to whoever asks first: see `Loss`.
    """

    status: Literal["present", "enqueue", "asked", "absent", "lost", "erasing"]
    ticket: str = ""
    token: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Released:
    """Outcome of giving a lease back, and the thread's revision if it is here: lower than told if Redis fell back."""

    status: Literal["enqueue", "coalesced", "clean", "fenced", "absent", "erasing"]
    rev: int | None = None


@dataclass(frozen=True, slots=True)
class Created:
    """Outcome of making a thread."""

    status: Literal["ok", "exists", "stale", "unstaged", "erasing"]
    head: Head | None = None


@dataclass(frozen=True, slots=True)
class Erasing:
    """Outcome of marking an erasure; all but `status` tell of the mark that stands now.

    Attributes:
        status: `marked`; `under_way` where another request's mark was found; `newer` where the thread was born after
            `upto`; `done` where this request is complete.
        mark: Names this very mark: another one of the same request, set after it was lost, is called otherwise.
        upto: Revision up to which a thread is meant.
        rev: What the tombstone's revision must reach.
        standing: Whether the mark is there since the request was made, without a break: nothing was created meanwhile.
        noted: What was removed so far, as small numbers by name.
    """

    status: Literal["marked", "under_way", "newer", "done"]
    request: str = ""
    mark: str = ""
    upto: int = 0
    rev: int = 0
    standing: bool = False
    noted: dict[str, int] = field(default_factory=dict)

    @classmethod
    def parse(cls, status: bytes, flat: Sequence[bytes]) -> Self:
        """From the flat field-value list that the script returns."""
        fields = {flat[i].decode(): flat[i + 1].decode() for i in range(0, len(flat), 2)}
        request, mark, standing = (fields.pop(name, "") for name in ("request", "mark", "standing"))
        numbers = {name: int(value) for name, value in fields.items()}
        upto, rev = numbers.pop("upto", 0), numbers.pop("rev", 0)
        return cls(status.decode(), request, mark, upto, rev, standing == "1", numbers)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class SmallParts:
    """What came along with a thread's head, of the same moment; None for a part that is too large for that."""

    base: bytes | None = None
    log: list[bytes] | None = None
    ids: bytes | None = None

    @classmethod
    def parse(cls, parts: Sequence[Any]) -> Self:
        """From what scripts append to a head."""
        pieces, log, ids = (*parts, None, None, None)[:3]
        return cls(None if pieces is None else b"".join(pieces), log, ids)


@dataclass(frozen=True, slots=True)
class Contents:
    """A consistent copy of a whole thread: its head, its base as stored, the records behind it, and all id hashes.

    `ids` is empty where it was not asked for.
    """

    head: Head
    base: bytes
    tail: list[bytes]
    ids: bytes = b""


@dataclass(frozen=True, slots=True)
class Parts:
    """A base, a log and ids to be put in place as a whole; sizes in bytes."""

    base: bytes
    base_count: int
    log: Sequence[bytes]
    ids: bytes
    fields: Sequence[Any]

    @property
    def pieces(self) -> list[Piece]:
        return cut(self.base)


class HotTier:
    """Threads in Redis. Coroutines: see `Link` for how they run with and without an event loop."""

    def __init__(self, link: Link, settings: Settings) -> None:
        self.link = link
        self._settings = settings

    def keys(self, ref: ThreadRef) -> ThreadKeys:
        return keys_of(self._settings.key_prefix, ref)

    # --- leases -----------------------------------------------------------------------------------------------------

    async def acquire(self, ref: ThreadRef, token: str) -> Acquired:
        """Take the lease of a thread that is here; repeating with the same token is safe."""
        status, *rest = await self.call("acquire", ref, [token, self._lease_ms])
        if status == b"ok":
            return Acquired("ok", Head.parse(rest))
        return Acquired(status.decode(), busy_ms=int(rest[0]) if rest else 0)

    async def renew(self, ref: ThreadRef, token: str) -> bool:
        """Keep a lease alive; False if it was lost."""
        return bool(await self.call("renew", ref, [token, self._lease_ms]) == b"ok")

    async def release(
        self, ref: ThreadRef, token: str, mode: FlushMode, flush_token: str, *, told: int = 0
    ) -> Released:
        """Give the lease back and mark the flush, which follows in any case if the thread is older than rev `told`."""
        args = [token, mode, flush_token, self._ms(self._settings.marker_seconds), told]
        status, *rest = await self.call("release", ref, args)
        return Released(status.decode(), int(rest[0]) if rest else None)

    # --- requests, coalesced ----------------------------------------------------------------------------------------

    async def request_flush(self, ref: ThreadRef, mode: FlushMode, token: str) -> str:
        """Mark that a flush is wanted: `enqueue`, `coalesced`, `clean`, `absent` or `erasing`."""
        reply = await self.call("request_flush", ref, [mode, token, self._ms(self._settings.marker_seconds)])
        return str(reply.decode())

    async def request_flushes(self, refs: Sequence[ThreadRef], mode: FlushMode, token: str) -> list[str]:
        """`request_flush` for many threads under one token; `broken` for one that cannot be looked at."""
        marker = self._ms(self._settings.marker_seconds)
        replies = await self.call_many("request_flush", [(ref, [mode, token, marker]) for ref in refs])
        return ["broken" if isinstance(reply, ThreadkeepError) else reply.decode() for reply in replies]

    async def ask(self, ref: ThreadRef, *, keep: float) -> Asked:
        """Ask for a hydrate; a copy restored for it is kept for `keep` seconds from now."""
        token = fresh_mark()
        again = max(0, self._ms(self._settings.ask_again) - 50)
        args = [fresh_mark(), token, self._ticket_ms, again, self._ms(keep)]
        status, *rest = await self.call("ask", ref, args)
        ticket, reason = (*(part.decode() for part in rest), "", "")[:2]
        return Asked(status.decode(), ticket, token, reason)

    async def heard(self, ref: ThreadRef, ticket: str) -> None:
        """Somebody who waited was told what was lost."""
        await self.call("heard", ref, [ticket, self._ticket_ms])

    async def withdraw(self, ref: ThreadRef, what: Literal["flush", "hydrate"], token: str) -> None:
        """Take a request's marker back, because its message could not be published."""
        await self.call("withdraw", ref, [what, token])

    # --- reading ----------------------------------------------------------------------------------------------------

    async def look(self, ref: ThreadRef) -> Looked:
        """What is here, without changing anything."""
        status, *rest = await self.call("look", ref, [])
        if status == b"here":
            return Looked("here", Head.parse(rest))
        if status == b"erasing":
            return Looked("erasing")
        ticket, verdict, reason, floor = (part.decode() for part in rest[:4])
        return Looked("absent", None, ticket, verdict, reason, int(floor), Remains.parse(rest[4:]))

    async def clock(self, ref: ThreadRef) -> int:
        """The clock of the server that holds a thread, in Unix microseconds: what its revisions are counted in."""
        return int(await self.call("clock", ref, []))

    async def read(self, ref: ThreadRef, *, with_ids: bool = False) -> Contents | None:
        """A consistent copy of a thread, leased or not; None if it is not here.

        Appends may go on meanwhile: what was there when the reading began is returned.

        Raises:
            ArchiveCorrupt: the head does not describe what is here.
        """
        before = ""
        while (seen := await self._read(ref, with_ids=with_ids)) is not None:
            head, small = seen
            copy = await self.copy(ref, head, small, with_ids=with_ids)
            if copy is not None:
                return copy
            if head.gen == before:  # nothing but a new gen can have been in the way
                raise ArchiveCorrupt(str(ref), f"{ref} in Redis", "it is not as long as its head says")
            before = head.gen
        return None

    async def _read(self, ref: ThreadRef, *, with_ids: bool) -> tuple[Head, SmallParts] | None:
        status, *rest = await self.call("read", ref, [INLINE_BYTES, int(with_ids)])
        return (Head.parse(rest[0]), SmallParts.parse(rest[1:])) if status == b"here" else None

    async def copy(
        self,
        ref: ThreadRef,
        head: Head,
        small: SmallParts = SmallParts(),
        *,
        with_ids: bool = False,
    ) -> Contents | None:
        """The base and tail that `head` counts; None if the thread changed otherwise than by growing meanwhile.

        What came along with the head is not read again.
        """
        tail = small.log if small.log is not None else await self.log(ref, head)
        ids = b""
        if with_ids:
            ids = small.ids if small.ids is not None else (await self.ids(ref))[: ID_BYTES * head.count]
        base = small.base
        if base is None:
            base = await self.same_base(ref, head)
        elif (small.log is None or (with_ids and small.ids is None)) and not await self.still(ref, head):
            return None
        if base is None or len(base) != head.base_bytes or len(tail) != head.tail_count:
            return None
        return Contents(head, base, tail, ids)

    async def still(self, ref: ThreadRef, head: Head) -> bool:
        """Whether the thread has not changed since, otherwise than by growing."""
        return _is_still(head, await self.link.run(*self._asked(ref)))

    async def same_base(self, ref: ThreadRef, head: Head) -> bytes | None:
        """The base as it is now, if the thread has not changed since otherwise than by growing."""
        pages = self._pages(ref, head.pieces)
        found = [piece for page in pages[:-1] for piece in await self.link.run(*page)]
        *last, told = await self.link.batch([*pages[-1:], self._asked(ref)])
        return b"".join([*found, *chain.from_iterable(last)]) if _is_still(head, told) else None

    async def base(self, ref: ThreadRef, pieces: int) -> bytes:
        """The base as it is now, whole or not."""
        return b"".join([piece for page in self._pages(ref, pieces) for piece in await self.link.run(*page)])

    async def log(self, ref: ThreadRef, head: Head) -> list[bytes]:
        """The records behind the base as they are now."""
        return [record async for record in self.records(ref, head)]

    async def ids(self, ref: ThreadRef, start: int = 0) -> bytes:
        """The hashes of the message ids from the `start`-th on."""
        pages, at = list[bytes](), ID_BYTES * start
        while not pages or len(pages[-1]) == PIECE_BYTES:
            pages.append(await self.link.run("GETRANGE", self.keys(ref).ids, at, at + PIECE_BYTES - 1))
            at += PIECE_BYTES
        return b"".join(pages)

    async def mark_erasing(self, ref: ThreadRef, request: str) -> Erasing:
        """Begin an erasure of all that there is now: Redis forgets it, and nothing comes back until it is complete.

        Durable: should the task's message be lost, the sweep queues it again. Safe to repeat. One that is `under_way`
        already, and has been since it was asked for, removes all that this request means.
        """
        return await self.mark(ref, request, upto=0)

    async def mark(self, ref: ThreadRef, request: str, *, upto: int) -> Erasing:
        """Begin or resume an erasure of what was born up to `upto`; 0 where the request is made by this call."""
        args, erased = [request, upto or ""], self.keys(ref).erased(request)
        status, *rest = await self.call("erase_mark", ref, args, staging=[erased])
        return Erasing.parse(status, rest)

    async def receipt(self, ref: ThreadRef, request: str) -> str | None:
        """What a completed erasure recorded under its request."""
        found = await self.link.run("GET", self.keys(ref).erased(request))
        return found.decode() if found is not None else None

    async def answer_to(self, ref: ThreadRef, question: str) -> str | None:
        """What a worker answered to a question about a cold thread."""
        found = await self.link.run("GET", self.keys(ref).answer(question))
        return found.decode() if found is not None else None

    # --- writing, fenced by the lease -------------------------------------------------------------------------------

    async def append(
        self,
        ref: ThreadRef,
        token: str,
        records: Sequence[bytes],
        ids: bytes,
        *,
        checked: int,
        fields: Sequence[Any] = (),
        told: int = 0,
    ) -> Written:
        """Add records whose ids are known to be absent among the first `checked` messages, and set fields of the head.

        All of it or nothing. `known` means that one of the ids was added since: look at it, then decide. Of this and of
        every write, `behind` means that the thread is older than rev `told`: Redis fell back.
        """
        size = sum(map(len, records)) + len(records)
        args = [token, self._lease_ms, told, checked, len(records), size, ids, len(fields), *fields]
        if size <= INLINE_BYTES:
            return _written(await self.call("append", ref, [*args, *records]))
        staging = self.keys(ref).staging(fresh_mark())
        await self.stage(staging, log=records)
        return _written(await self.call("append", ref, args, staging=[staging[1]]))

    async def save(self, ref: ThreadRef, token: str, fields: Sequence[Any], *, told: int = 0) -> Written:
        """Set the head's `state` or `labels`; pairs of a name and a value."""
        return _written(await self.call("save", ref, [token, self._lease_ms, told, *fields]))

    async def truncate(
        self, ref: ThreadRef, token: str, head: Head, *, keep: int, cut_bytes: int, gen: str, told: int = 0
    ) -> Written:
        """Keep the first `keep` messages; the cut lies in the log."""
        args = [token, self._lease_ms, head.gen, gen, keep, cut_bytes, told]
        return _written(await self.call("truncate", ref, args))

    async def rewrite(
        self, ref: ThreadRef, token: str, head: Head, parts: Parts, *, gen: str, anew: bool = False, told: int = 0
    ) -> Written:
        """Put other messages in the place of all; `anew` makes it another thread, born now, on the same archive."""
        staging = self.keys(ref).staging(fresh_mark())
        await self.stage(staging, pieces=parts.pieces, log=parts.log, ids=parts.ids)
        count = parts.base_count + len(parts.log)
        args = [
            token,
            self._lease_ms,
            head.gen,
            gen,
            len(parts.pieces),
            parts.base_count,
            count,
            int(anew),
            told,
            *parts.fields,
        ]
        return _written(await self.call("rewrite", ref, args, staging=staging))

    async def create(self, ref: ThreadRef, token: str, parts: Parts, *, ticket: str, gen: str) -> Created:
        """Make a thread, leased to its maker; `ticket` is the one under which a worker said `absent`."""
        staging = self.keys(ref).staging(fresh_mark())
        await self.stage(staging, pieces=parts.pieces, log=parts.log, ids=parts.ids)
        count = parts.base_count + len(parts.log)
        args = [token, self._lease_ms, ticket, gen, len(parts.pieces), parts.base_count, count, *parts.fields]
        status, *rest = await self.call("create", ref, args, staging=staging)
        return Created(status.decode(), Head.parse(rest) if status == b"ok" else None)

    # --- shared with `TierFlow` -------------------------------------------------------------------------------------

    async def call(self, name: str, ref: ThreadRef, args: Sequence[Any], *, staging: Sequence[str] = ()) -> Any:
        """Run the script `name` on a thread's keys, then those of `staging`."""
        keys = self.keys(ref)
        shared = [ref.member, keys.channel, self._ms(self._settings.linger_seconds)]
        return await self.link.call(name, [*keys.all, *staging], [*shared, *args])

    async def call_many(self, name: str, calls: Sequence[tuple[ThreadRef, Sequence[Any]]]) -> list[Any]:
        """Run the script `name` on many threads; an error of one call stands in the place of its reply."""
        linger = self._ms(self._settings.linger_seconds)
        keyed = [(self.keys(ref), ref, args) for ref, args in calls]
        return await self.link.call_many(
            name, [(keys.all, [ref.member, keys.channel, linger, *args]) for keys, ref, args in keyed]
        )

    async def stage(
        self, staging: Sequence[str], *, pieces: Sequence[Piece] = (), log: Sequence[bytes] = (), ids: bytes = b""
    ) -> None:
        """Stage what there is of a thread, each piece, page or record in a command of its own, in one round trip."""
        base_key, log_key, ids_key = staging
        commands = list[Command]()
        if pieces:
            commands += _staged(base_key, [("RPUSH", base_key, piece) for piece in pieces])
        if log:
            commands += self._push(log_key, log)
        if ids:
            commands += _staged(ids_key, [("APPEND", ids_key, page) for page in cut(ids)])
        if commands:
            await self.link.batch(commands)

    def _push(self, key: str, records: Sequence[bytes]) -> list[Command]:
        commands: list[Command] = []
        page: list[bytes] = []
        size = 0
        for record in records:
            if page and (len(page) == PAGE_RECORDS or size + len(record) > PIECE_BYTES):
                commands.append(("RPUSH", key, *page))
                page, size = [], 0
            page.append(record)
            size += len(record)
        commands.append(("RPUSH", key, *page))
        return _staged(key, commands)

    def _pages(self, ref: ThreadRef, pieces: int) -> list[Command]:
        return [("LRANGE", self.keys(ref).base, at, min(at + 3, pieces - 1)) for at in range(0, pieces, 4)]

    def _asked(self, ref: ThreadRef) -> Command:
        return ("HMGET", self.keys(ref).head, "gen", "base_count")

    async def records(self, ref: ThreadRef, head: Head) -> AsyncIterator[bytes]:
        """The records behind the base as they are now, read as they are asked for."""
        count = head.tail_count
        page = max(1, min(PAGE_RECORDS, PIECE_BYTES * count // max(head.log_bytes, 1)))
        for at in range(0, count, page):
            stop = min(at + page, count) - 1
            for record in await self.link.run("LRANGE", self.keys(ref).log, at, stop):
                yield record

    @property
    def _lease_ms(self) -> int:
        return self._ms(self._settings.lease_seconds)

    @property
    def _ticket_ms(self) -> int:
        """Longer than a task may run, so that a ticket outlives the hydrate that holds it."""
        return self._ms(2 * self._settings.hard_time_limit)

    @staticmethod
    def _ms(seconds: float) -> int:
        return int(seconds * 1000)


def _is_still(head: Head, told: Sequence[bytes | None]) -> bool:
    gen, base_count = told
    return gen is not None and gen.decode() == head.gen and int(base_count or -1) == head.base_count


def _staged(key: str, commands: Sequence[Command]) -> list[Command]:
    """What stages a key, however often it is sent: after a broken connection that is unknown.

    It expires from its first command on, since the connection may break behind any.
    """
    expire = ("PEXPIRE", key, STAGING_MS)
    return [("UNLINK", key), commands[0], expire, *commands[1:], *([expire] if commands[1:] else [])]


def cut(data: bytes) -> list[Piece]:
    """Pieces of at most `PIECE_BYTES`, none of them a copy; none of nothing."""
    if len(data) <= PIECE_BYTES:
        return [data] if data else []
    view = memoryview(data)
    return [view[at : at + PIECE_BYTES] for at in range(0, len(data), PIECE_BYTES)]


def _written(reply: Sequence[bytes]) -> Written:
    status, *rest = reply
    return Written(status.decode(), *(int(part) for part in rest))  # type: ignore[arg-type]
