"""The hot tier as workers use it: what a flush, a hydrate, an erase and the sweep do to a thread in Redis."""

import logging
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeVar

from threadkeep.config import Settings
from threadkeep.errors import ArchiveCorrupt, InvalidThreadId, StoreFull, ThreadkeepError
from threadkeep.model import FlushMode, StoredObject, ThreadRef, fresh_mark
from threadkeep.storage.hot import INLINE_BYTES, Erasing, HotTier, Piece, SmallParts
from threadkeep.storage.hot_head import Head, base_fields
from threadkeep.storage.hot_keys import all_shards, graves_key, index_key, owed_key, tries_key
from threadkeep.storage.hot_remains import Loss, Remains
from threadkeep.storage.record_ids import ID_BYTES

T = TypeVar("T")

log = logging.getLogger(__name__)

VERDICT_MS: Final = 10_000
"""How long a verdict is believed by those who come later."""
LOST_MS: Final = 30 * 86_400_000
"""How long a loss that nobody has asked about yet waits for somebody who does."""
ANSWER_MS: Final = 30_000
ERASED_MS: Final = 30 * 86_400_000
"""How long an erase request's completion is remembered."""
SHARDS_AT_ONCE: Final = 128
SWEEPING: Final = ThreadRef("threadkeep", "sweep")
"""Not a thread: it says on which server's clock sweeps agree."""

Residence = Literal["evicted", "lingers", "kept"]


@dataclass(frozen=True, slots=True)
class FlushStart:
    """What a flush found: `go` lists its attempt, `clean` has nothing to archive."""

    status: Literal["go", "clean", "absent", "set_aside", "erasing"]
    mode: FlushMode = "linger"
    head: Head | None = None
    deaths: int = 0
    small: SmallParts = field(default_factory=SmallParts)


@dataclass(frozen=True, slots=True)
class Settled:
    """Where a thread is after its flush: `stage` and `still_hot` changed nothing.

    Attributes:
        stamp: Redis time in microseconds.
        expires: Unix milliseconds until which a cached copy stays; 0 if there is none, or it does not expire.
    """

    status: Residence | Literal["stage", "still_hot", "gone"]
    stamp: int = 0
    expires: int = 0


@dataclass(frozen=True, slots=True)
class HydrateStart:
    """What a hydrate found; `epoch` vanishes with the shard's memory.

    Attributes:
        status: `untold` where something was lost, and nobody has asked for the thread since: whoever does is told.
        remains: What is left of a thread that is not whole.
    """

    status: Literal["present", "go", "untold", "set_aside", "erasing"]
    epoch: str = ""
    ticket: str = ""
    head: Head | None = None
    deaths: int = 0
    remains: Remains | None = None


@dataclass(frozen=True, slots=True)
class Restored:
    """Outcome of a restore."""

    status: Literal["restored", "present", "refused", "unstaged", "erasing"]
    stamp: int = 0
    expires: int = 0


@dataclass(frozen=True, slots=True)
class Restorable:
    """A thread ready to be brought in: frames as pieces, ids, and pairs for the head."""

    pieces: Sequence[Piece]
    ids: bytes
    rev: int
    archived: int
    fields: Sequence[Any]


@dataclass(frozen=True, slots=True)
class Mending:
    """A base and the ids of all messages, for a thread whose head and log are whole; pairs for the head."""

    pieces: Sequence[Piece]
    ids: bytes
    fields: Sequence[Any]


@dataclass(frozen=True, slots=True)
class SealedFlush:
    """What a flush archived, for `TierFlow.settle`.

    Attributes:
        rev: Revision that was sealed.
        records: Records of the log that the archive now holds.
        record_bytes: Their bytes in the log.
        frames_pieces: Pieces of what is new, or of the whole base if `replaces` is set.
        base_count: Messages in the archive.
    """

    attempt: str
    rev: int
    records: int
    record_bytes: int
    pieces: Sequence[Piece]
    replaces: bool
    base_count: int
    base_bytes: int
    frames: int
    chain: str
    raw_bytes: int


@dataclass(frozen=True, slots=True)
class Lapsed:
    """What the sweep found behind one member of the index."""

    status: Literal["hot", "fading", "dropped", "broken", "erasing"]
    head: Head | None = None
    request: str = ""
    upto: int = 0


class TierFlow:
    """The worker's side of `HotTier`; coroutines, like there."""

    def __init__(self, hot: HotTier, settings: Settings) -> None:
        self.hot = hot
        self._settings = settings

    # --- flush ------------------------------------------------------------------------------------------------------

    async def begin_flush(self, ref: ThreadRef, attempt: str, mode: FlushMode, *, run: str = "") -> FlushStart:
        """Clear the request's marker and list the attempt.

        Args:
            ref: The thread.
            attempt: Fresh and random.
            mode: At least this strong; what was asked for meanwhile may be stronger.
            run: Names the task's run, the same after a redelivery; empty where the same run begins again.
        """
        return _started(await self.hot.call("begin_flush", ref, self._beginning(attempt, mode, run)))

    async def begin_flushes(
        self, attempts: Sequence[tuple[ThreadRef, str]], mode: FlushMode, *, run: str
    ) -> list[FlushStart | ThreadkeepError]:
        """`begin_flush` of many threads, each with its attempt; an error stands in the place of what it befell."""
        calls = [(ref, self._beginning(attempt, mode, run)) for ref, attempt in attempts]
        return _each(await self.hot.call_many("begin_flush", calls), _started)

    def _beginning(self, attempt: str, mode: FlushMode, run: str) -> list[Any]:
        return [attempt, mode, self._settings.poison_after, run, self._run_ms, INLINE_BYTES]

    async def settle(
        self, ref: ThreadRef, sealed: SealedFlush, stored: StoredObject, *, gen: str, mode: FlushMode
    ) -> Settled:
        """Trim what the archive holds and leave, or stay. Stages frames only where something stays; safe to repeat.

        Where Redis has no memory left for a cached copy, the thread leaves at once.
        """
        new_gen = fresh_mark()
        inline = _inline(sealed.pieces)
        if inline or mode == "evict":
            outcome = await self._settle(ref, sealed, stored, gen, new_gen, mode, inline=inline)
            if outcome.status != "stage":
                return outcome
        return await self._stage_or_leave(ref, sealed, stored, gen, new_gen, mode)

    async def _stage_or_leave(
        self, ref: ThreadRef, sealed: SealedFlush, stored: StoredObject, gen: str, new_gen: str, mode: FlushMode
    ) -> Settled:
        staging = self.hot.keys(ref).staging(new_gen)
        try:
            await self.hot.stage(staging, pieces=sealed.pieces)
        except StoreFull:
            if mode == "checkpoint":
                raise
            left = await self._settle(ref, sealed, stored, gen, new_gen, "evict")
            if left.status == "stage":  # it cannot leave: somebody writes it
                raise
            return left
        return await self._settle(ref, sealed, stored, gen, new_gen, mode, staged=staging[0])

    async def _settle(
        self,
        ref: ThreadRef,
        sealed: SealedFlush,
        stored: StoredObject,
        gen: str,
        new_gen: str,
        mode: FlushMode,
        *,
        inline: bytes = b"",
        staged: str = "",
    ) -> Settled:
        pieces = len(sealed.pieces) if inline or staged else 0
        args = _settling(sealed, stored, gen, new_gen, mode, pieces, inline)
        return _settled(await self.hot.call("settle", ref, args, staging=[staged] if staged else []))

    async def settle_many(
        self, flushes: Sequence[tuple[ThreadRef, SealedFlush, StoredObject, str, FlushMode]]
    ) -> list[Settled | ThreadkeepError]:
        """`settle` of many threads, with the gen and mode of each; of what is not small `stage` is returned."""
        calls = []
        for ref, sealed, stored, gen, mode in flushes:
            inline = _inline(sealed.pieces)
            calls.append((ref, _settling(sealed, stored, gen, fresh_mark(), mode, int(bool(inline)), inline)))
        return _each(await self.hot.call_many("settle", calls), _settled)

    async def leave(self, ref: ThreadRef, head: Head, mode: FlushMode) -> Settled:
        """Let a thread that is archived already go, if it still is as it was."""
        return _settled(await self.hot.call("leave", ref, [head.gen, head.rev, mode]))

    async def classify(self, ref: ThreadRef, attempt: str, stored: StoredObject) -> tuple[str, bool]:
        """`own`, `foreign` or `gone`, and whether the thread was never archived."""
        theirs = stored.meta.attempt if stored.meta else ""
        status, never = await self.hot.call("classify", ref, [attempt, theirs, stored.etag])
        return status.decode(), never == b"1"

    async def adopt(self, ref: ThreadRef, attempt: str, stored: StoredObject) -> bool:
        """Continue from an object that was kept aside, or a tombstone; False if the thread moved on meanwhile."""
        rev, buried = (stored.meta.rev, stored.meta.tombstone) if stored.meta else (0, False)
        return bool(await self.hot.call("adopt", ref, [attempt, stored.etag, rev, int(buried)]) == b"ok")

    async def distrust(self, ref: ThreadRef, head: Head, etag: str) -> bool:
        """Have a thread's copy archived anew over a damaged object; False if the thread changed since it was read.

        Args:
            ref: The thread.
            head: The copy's, as it was read and found whole.
            etag: Of the damaged object, which the next flush replaces; empty if there is none.
        """
        args = [head.gen, head.rev, fresh_mark(), etag]
        return bool((await self.hot.call("distrust", ref, args))[0] == b"ok")

    # --- hydrate ----------------------------------------------------------------------------------------------------

    async def begin_hydrate(self, ref: ThreadRef, *, run: str = "") -> HydrateStart:
        """Present, or the ticket under which the thread may be restored; `run` as in `begin_flush`."""
        ticket_ms = int(2000 * self._settings.hard_time_limit)
        args = [fresh_mark(), ticket_ms, self._settings.poison_after, fresh_mark(), run, self._run_ms]
        status, *rest = await self.hot.call("begin_hydrate", ref, args)
        match status:
            case b"present":
                return HydrateStart("present", rest[0].decode(), head=Head.parse(rest[1:]))
            case b"go":
                return HydrateStart("go", rest[0].decode(), rest[1].decode(), remains=Remains.parse(rest[2:]))
            case b"set_aside":
                return HydrateStart("set_aside", ticket=rest[1].decode(), deaths=int(rest[0]))
            case _:
                return HydrateStart(status.decode())

    async def restore(self, ref: ThreadRef, ticket: str, copy: Restorable) -> Restored:
        """Bring a copy in, if the ticket still stands; a large one is staged first."""
        gen = fresh_mark()
        base, ids = _inline(copy.pieces), copy.ids
        small = bool(base or not copy.pieces) and len(ids) <= INLINE_BYTES
        staging = [] if small else self.hot.keys(ref).staging(gen)
        if not small:
            base, ids = b"", b""
            await self.hot.stage(staging, pieces=copy.pieces, ids=copy.ids)
        args = [
            ticket,
            gen,
            len(copy.pieces),
            len(copy.ids) // ID_BYTES,
            copy.rev,
            copy.archived,
            base,
            ids,
            *copy.fields,
        ]
        status, *rest = await self.hot.call("restore", ref, args, staging=staging)
        return Restored(status.decode(), *(int(part) for part in rest))

    async def mend(self, ref: ThreadRef, ticket: str, found: Head, mending: Mending) -> str:
        """Make a thread whole again, if it still is as it was found and the ticket still stands.

        Returns:
            `mended`, `present`, `refused`, `moved`, `unstaged` or `erasing`.
        """
        gen = fresh_mark()
        staging = self.hot.keys(ref).staging(gen)
        await self.hot.stage(staging, pieces=mending.pieces, ids=mending.ids)
        args = [ticket, gen, found.gen, found.rev, len(mending.pieces), *mending.fields]
        (status,) = await self.hot.call("mend", ref, args, staging=staging)
        return str(status.decode())

    async def tell(
        self,
        ref: ThreadRef,
        ticket: str,
        verdict: Literal["absent", "failed"],
        reason: str = "",
        *,
        floor: int = 0,
        remains: Literal["stays", "shelved"] = "stays",
    ) -> bool:
        """Tell those who wait that nothing comes; False if the ticket is gone.

        What is then created is born after `floor`, the revision of the tombstone that was found. Of a thread that is
        half here nothing is removed; the sweep leaves it alone once it is `shelved`.
        """
        args = [ticket, verdict, reason, VERDICT_MS, floor, remains]
        return bool(await self.hot.call("verdict", ref, args) == b"told")

    async def tell_lost(self, ref: ThreadRef, ticket: str, loss: Loss) -> bool:
        """Remove what is left of a thread, and tell whoever waits or comes first what was lost; False as for `tell`."""
        return bool(await self.hot.call("verdict", ref, [ticket, "lost", str(loss), LOST_MS, 0, "goes"]) == b"told")

    async def loss_noted(self, ref: ThreadRef) -> None:
        """That Redis fell back under a session has been noted."""
        await self.hot.link.run("HDEL", self.hot.keys(ref).head, "lost")

    # --- runs that do not end ---------------------------------------------------------------------------------------

    async def forget_runs(self, ref: ThreadRef, kind: Literal["flush", "hydrate"]) -> None:
        """A run came to an end, good or bad: it did not take its worker with it. Forgets those that did."""
        await self.hot.link.run("HDEL", self.hot.keys(ref).tries, f"{kind}|{ref.member}")

    async def forget_many(self, refs: Sequence[ThreadRef], kind: Literal["flush", "hydrate"]) -> None:
        """`forget_runs` for many threads, in one round trip."""
        if refs:
            await self.hot.link.batch([("HDEL", self.hot.keys(ref).tries, f"{kind}|{ref.member}") for ref in refs])

    async def deaths(self, ref: ThreadRef, kind: Literal["flush", "hydrate"]) -> int:
        """How many of a thread's runs have died since one ended."""
        run = await self.hot.link.run("HGET", self.hot.keys(ref).tries, f"{kind}|{ref.member}")
        return int(run.split()[0]) if run else 0

    async def unfinished(self) -> AsyncIterator[tuple[str, ThreadRef, int]]:
        """Kind (`flush` or `hydrate`), thread, and how many of its runs have died, over all shards."""
        async for replies in self._per_shard("HGETALL", tries_key):
            for flat in replies:
                for named, run in _pairs(flat):
                    kind, _, member = named.decode(errors="replace").partition("|")
                    if ref := _thread_of(member):
                        yield kind, ref, int(run.split()[0])

    # --- questions --------------------------------------------------------------------------------------------------

    async def answer(self, ref: ThreadRef, question: str, text: str) -> None:
        """Answer whoever asked about a cold thread; the answer vanishes after half a minute."""
        await self.hot.link.run("SET", self.hot.keys(ref).answer(question), text, "PX", ANSWER_MS)
        await self.hot.link.run("PUBLISH", self.hot.keys(ref).channel, "answer")

    # --- sweep ------------------------------------------------------------------------------------------------------

    async def clock(self) -> int:
        """The time in Unix microseconds that all sweeps agree on."""
        return await self.hot.clock(SWEEPING)

    async def claim_sweep(self, slot: int, seconds: float) -> bool:
        """Whether this sweep is the first one of its time slot, under any number of beats."""
        return await self.claim("sweep", slot, seconds)

    async def claim(self, work: str, slot: int, seconds: float, *, run: str = "") -> bool:
        """Whether this run of periodic work is the first one of its time slot, or `run` names the first one."""
        key = f"{self._settings.key_prefix}:{work}:{slot}"
        if await self.hot.link.run("SET", key, run, "NX", "EX", max(1, int(seconds))):
            return True
        return bool(run) and bool(await self.hot.link.run("GET", key) == run.encode())

    async def index(self) -> AsyncIterator[ThreadRef]:
        """Every thread of the index, shard by shard."""
        async for replies in self._per_shard("ZRANGE", index_key, 0, -1):
            for members in replies:
                for member in members:
                    if ref := _thread_of(member.decode(errors="replace")):
                        yield ref

    async def owe(self, ref: ThreadRef) -> None:
        """Remember that the catalog is still to be told about a thread."""
        await self.hot.call("owe", ref, [])

    async def owed(self) -> AsyncIterator[ThreadRef]:
        """Every thread that the catalog is still to be told about."""
        await self._date_debts()
        async for replies in self._per_shard("ZRANGE", owed_key, 0, -1):
            for members in replies:
                for member in members:
                    if ref := _thread_of(member.decode(errors="replace")):
                        yield ref

    async def paid_many(self, stamps: Sequence[tuple[ThreadRef, int]]) -> None:
        """`paid` for many threads; what fails is told once more by the sweep."""
        await self.hot.call_many("paid", [(ref, [stamp]) for ref, stamp in stamps])

    async def paid(self, ref: ThreadRef, stamp: int) -> None:
        """The catalog has been told how things stood at `stamp`, in Redis's microseconds; a later debt stays."""
        await self.hot.call("paid", ref, [stamp])

    async def _date_debts(self) -> None:
        """Sets of an earlier version become sorted sets at the first debt that is added."""
        kinds = [kind async for replies in self._per_shard("TYPE", owed_key) for kind in replies]
        for shard, kind in enumerate(kinds):
            if kind == b"set":
                member = await self.hot.link.run("SRANDMEMBER", owed_key(self._settings.key_prefix, shard))
                if ref := _thread_of(member.decode(errors="replace")):
                    await self.owe(ref)

    async def hot_count(self) -> int:
        return sum([sum(replies) async for replies in self._per_shard("ZCARD", index_key)])

    async def lapse_many(self, refs: Sequence[ThreadRef]) -> list[Lapsed | ThreadkeepError]:
        """Take ended leases away, let what is clean fade, drop what is gone from the index.

        What is `broken` stays there: it is not whole, and may have held what the archive does not. An error stands in
        the place of what it befell.
        """
        return _each(await self.hot.call_many("lapse", [(ref, []) for ref in refs]), _lapsed)

    async def drop_outdated(self, archived: Sequence[tuple[ThreadRef, int]]) -> list[bool | ThreadkeepError]:
        """Drop cached copies that are older than revisions which the archive is known to hold; which of them were.

        An error stands in the place of what it befell.
        """
        return _each(await self.hot.call_many("drop_outdated", [(ref, [rev]) for ref, rev in archived]), bool)

    # --- erase ------------------------------------------------------------------------------------------------------

    async def erase_mark(self, ref: ThreadRef, request: str, upto: int) -> Erasing:
        """Begin or resume an erasure of what was born up to `upto`; of all that there is now where that is 0."""
        return await self.hot.mark(ref, request, upto=upto)

    async def erase_note(self, ref: ThreadRef, erasing: Erasing, what: str, number: int) -> bool:
        """Note what an erasure is about to remove, or has, the greater number stays; False if its mark is gone."""
        return bool(await self.hot.call("erase_note", ref, [erasing.mark, what, number]) == b"ok")

    async def erase_unmark(self, ref: ThreadRef, erasing: Erasing, receipt: str, *, buried: int) -> bool:
        """End the erasure; False if its mark had vanished, and all must be done again.

        Args:
            ref: The thread.
            erasing: What `erase_mark` told.
            receipt: What it removed.
            buried: Revision of the tombstone, 0 if there is none. The sweep has the grave looked at once more, when
                whatever was under way has ended.
        """
        keys = [self._erased(ref, erasing.request), graves_key(self._settings.key_prefix, ref.shard)]
        args = [erasing.mark, ERASED_MS, receipt, buried or "", 2 * self._run_ms]
        return bool(await self.hot.call("erase_unmark", ref, args, staging=keys) == b"ok")

    async def graves(self, due_ms: int) -> AsyncIterator[tuple[ThreadRef, int]]:
        """Every erased thread that is to be looked at again by `due_ms`, with the revision of its tombstone."""
        async for replies in self._per_shard("ZRANGEBYSCORE", graves_key, "-inf", due_ms):
            for members in replies:
                for grave in members:
                    rev, _, member = grave.decode(errors="replace").partition(" ")
                    if (ref := _thread_of(member)) and rev.isdecimal():
                        yield ref, int(rev)

    async def postpone_grave(self, ref: ThreadRef, rev: int, due_ms: int) -> None:
        """Look at a grave at `due_ms` instead, if it still is to be looked at."""
        key = graves_key(self._settings.key_prefix, ref.shard)
        await self.hot.link.run("ZADD", key, "XX", due_ms, f"{rev} {ref.member}")

    async def close_grave(self, ref: ThreadRef, rev: int) -> None:
        """It was looked at."""
        await self.hot.link.run("ZREM", graves_key(self._settings.key_prefix, ref.shard), f"{rev} {ref.member}")

    async def keep_receipt(self, ref: ThreadRef, request: str, receipt: str) -> None:
        """Record what became of a request, beside an erasure."""
        await self.hot.link.run("SET", self._erased(ref, request), receipt, "PX", ERASED_MS)
        await self.hot.link.run("PUBLISH", self.hot.keys(ref).channel, "erased")

    def _erased(self, ref: ThreadRef, request: str) -> str:
        return self.hot.keys(ref).erased(request)

    @property
    def _run_ms(self) -> int:
        """A run that began longer ago than this and has not ended has died."""
        return int(1000 * self._settings.hard_time_limit)

    async def _per_shard(self, command: str, key: Any, *args: Any) -> AsyncIterator[list[Any]]:
        shards = list(all_shards())
        for at in range(0, len(shards), SHARDS_AT_ONCE):
            some = shards[at : at + SHARDS_AT_ONCE]
            yield await self.hot.link.batch([(command, key(self._settings.key_prefix, shard), *args) for shard in some])


def restored_fields(
    stored: StoredObject | None, *, base_bytes: int, frames: int, chain: str, raw_bytes: int, born: int
) -> list[Any]:
    """Pairs for the head of a restored thread that say where it came from."""
    etag, key = (stored.etag, stored.key) if stored else ("", "")
    place = ["etag", etag, "base_etag", etag, "key", key, "born", born]
    return [
        *base_fields(base_bytes=base_bytes, frames=frames, chain=chain, raw_bytes=raw_bytes, log_bytes=0),
        *place,
    ]


def _each(replies: Sequence[Any], parse: Callable[[Any], T]) -> list[T | ThreadkeepError]:
    found: list[T | ThreadkeepError] = []
    for reply in replies:
        try:
            found.append(reply if isinstance(reply, ThreadkeepError) else parse(reply))
        except ArchiveCorrupt as error:  # a head that is damaged
            found.append(error)
    return found


def _started(reply: Sequence[Any]) -> FlushStart:
    status, *rest = reply
    if status in (b"go", b"clean"):
        head, small = Head.parse(rest[1]), SmallParts.parse(rest[2:])
        return FlushStart(status.decode(), rest[0].decode(), head, small=small)
    return FlushStart(status.decode(), deaths=int(rest[0]) if rest else 0)


def _settling(
    sealed: SealedFlush, stored: StoredObject, gen: str, new_gen: str, mode: FlushMode, pieces: int, inline: bytes
) -> list[Any]:
    """What settles a flush: its `pieces` are staged, or one comes along `inline`."""
    facts = ["base_bytes", sealed.base_bytes, "frames", sealed.frames, "chain", sealed.chain]
    mine = stored.meta is not None and stored.meta.attempt == sealed.attempt  # another's frames need not be the base's
    etags = ["etag", stored.etag, "base_etag", stored.etag if mine else ""]
    place = ["raw_bytes", sealed.raw_bytes, *etags, "key", stored.key]
    known = [sealed.attempt, gen, new_gen, sealed.rev, sealed.records, sealed.record_bytes, sealed.base_count]
    return [*known, pieces, int(sealed.replaces), mode, inline, *facts, *place]


def _inline(pieces: Sequence[Piece]) -> bytes:
    """The one piece that is small enough to come along with a script; empty if they are not."""
    return bytes(pieces[0]) if len(pieces) == 1 and len(pieces[0]) <= INLINE_BYTES else b""


def _lapsed(reply: Sequence[bytes]) -> Lapsed:
    status, *rest = reply
    if status in (b"hot", b"fading"):
        return Lapsed(status.decode(), Head.parse(rest))  # type: ignore[arg-type]
    if status == b"erasing":
        return Lapsed("erasing", None, rest[0].decode(), int(rest[1]))
    return Lapsed(status.decode())  # type: ignore[arg-type]


def _settled(reply: Sequence[bytes]) -> Settled:
    status, *rest = reply
    return Settled(status.decode(), *(int(part) for part in rest))  # type: ignore[arg-type]


def _pairs(flat: Any) -> list[tuple[bytes, bytes]]:
    if isinstance(flat, dict):
        return list(flat.items())
    return list(zip(flat[::2], flat[1::2], strict=True))


def _thread_of(member: str) -> ThreadRef | None:
    """The thread of an index member; None, and a warning, for what is no thread's: it must not stop a sweep."""
    try:
        return ThreadRef.from_member(member)
    except InvalidThreadId:
        log.warning("a member of an index is no thread's", extra={"member": ascii(member)[:80]})
        return None
