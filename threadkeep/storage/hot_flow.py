"""The hot tier as workers use it: what a flush, a hydrate, an erase and the sweep do to a thread in Redis."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from threadkeep.config import Settings
from threadkeep.errors import StoreFull
from threadkeep.model import FlushMode, StoredObject, ThreadRef, fresh_mark
from threadkeep.storage.hot import HotTier
from threadkeep.storage.hot_head import Head, base_fields
from threadkeep.storage.hot_keys import all_shards, index_key, owed_key, tries_key

VERDICT_MS: Final = 10_000
"""How long a verdict is believed by those who come later."""
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
    """What a hydrate found; `epoch` vanishes with the shard's memory."""

    status: Literal["present", "go", "set_aside", "erasing"]
    epoch: str = ""
    ticket: str = ""
    head: Head | None = None
    deaths: int = 0


@dataclass(frozen=True, slots=True)
class Restored:
    """Outcome of a restore."""

    status: Literal["restored", "present", "refused", "unstaged", "erasing"]
    stamp: int = 0
    expires: int = 0


@dataclass(frozen=True, slots=True)
class Restorable:
    """A thread ready to be brought in: frames as pieces, ids, and pairs for the head."""

    pieces: Sequence[bytes]
    ids: bytes
    rev: int
    archived: int
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
    pieces: Sequence[bytes]
    replaces: bool
    base_count: int
    base_bytes: int
    frames: int
    chain: str
    raw_bytes: int


@dataclass(frozen=True, slots=True)
class Lapsed:
    """What the sweep found behind one member of the index."""

    status: Literal["hot", "fading", "dropped", "erasing"]
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
        args = [attempt, mode, self._settings.poison_after, run, self._run_ms]
        status, *rest = await self.hot.call("begin_flush", ref, args)
        if status in (b"go", b"clean"):
            return FlushStart(status.decode(), rest[0].decode(), Head.parse(rest[1:]))
        return FlushStart(status.decode(), deaths=int(rest[0]) if rest else 0)

    async def settle(
        self, ref: ThreadRef, sealed: SealedFlush, stored: StoredObject, *, gen: str, mode: FlushMode
    ) -> Settled:
        """Trim what the archive holds and leave, or stay. Stages frames only where something stays; safe to repeat.

        Where Redis has no memory left for a cached copy, the thread leaves at once.
        """
        new_gen = fresh_mark()
        if mode == "evict":
            outcome = await self._settle(ref, sealed, stored, gen, new_gen, mode, staged=None)
            if outcome.status != "stage":
                return outcome
        return await self._stage_or_leave(ref, sealed, stored, gen, new_gen, mode)

    async def _stage_or_leave(
        self, ref: ThreadRef, sealed: SealedFlush, stored: StoredObject, gen: str, new_gen: str, mode: FlushMode
    ) -> Settled:
        staged = self.hot.keys(ref).staging(new_gen)[0]
        try:
            await self.hot.stage_pieces(staged, sealed.pieces)
        except StoreFull:
            if mode == "checkpoint":
                raise
            left = await self._settle(ref, sealed, stored, gen, new_gen, "evict", staged=None)
            if left.status == "stage":  # it cannot leave: somebody writes it
                raise
            return left
        return await self._settle(ref, sealed, stored, gen, new_gen, mode, staged=staged)

    async def _settle(
        self,
        ref: ThreadRef,
        sealed: SealedFlush,
        stored: StoredObject,
        gen: str,
        new_gen: str,
        mode: FlushMode,
        *,
        staged: str | None,
    ) -> Settled:
        pieces = len(sealed.pieces) if staged else 0
        args = [
            sealed.attempt,
            gen,
            new_gen,
            sealed.rev,
            sealed.records,
            sealed.record_bytes,
            sealed.base_count,
        ]
        facts = ["base_bytes", sealed.base_bytes, "frames", sealed.frames, "chain", sealed.chain]
        place = ["raw_bytes", sealed.raw_bytes, "etag", stored.etag, "key", stored.key]
        tail = [pieces, int(sealed.replaces), mode, *facts, *place]
        return _settled(await self.hot.call("settle", ref, [*args, *tail], staging=[staged or self.hot.keys(ref).base]))

    async def leave(self, ref: ThreadRef, head: Head, mode: FlushMode) -> Settled:
        """Let a thread that is archived already go, if it still is as it was."""
        return _settled(await self.hot.call("leave", ref, [head.gen, head.rev, mode]))

    async def classify(self, ref: ThreadRef, attempt: str, stored: StoredObject) -> tuple[str, bool]:
        """`own`, `foreign` or `gone`, and whether the thread was never archived."""
        theirs = stored.meta.attempt if stored.meta else ""
        status, never = await self.hot.call("classify", ref, [attempt, theirs, stored.etag])
        return status.decode(), never == b"1"

    async def adopt(self, ref: ThreadRef, attempt: str, stored: StoredObject) -> bool:
        """Continue from a stored object that was kept aside; False if the thread moved on without this attempt."""
        rev = stored.meta.rev if stored.meta else 0
        return bool(await self.hot.call("adopt", ref, [attempt, stored.etag, rev]) == b"ok")

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
                return HydrateStart("go", rest[0].decode(), rest[1].decode())
            case b"set_aside":
                return HydrateStart("set_aside", ticket=rest[1].decode(), deaths=int(rest[0]))
            case _:
                return HydrateStart("erasing")

    async def restore(self, ref: ThreadRef, ticket: str, copy: Restorable) -> Restored:
        """Stage a copy and bring it in, if the ticket still stands."""
        gen = fresh_mark()
        staging = self.hot.keys(ref).staging(gen)
        if copy.pieces:
            await self.hot.stage_pieces(staging[0], copy.pieces)
        if copy.ids:
            await self.hot.stage_ids(staging[2], copy.ids)
        count = len(copy.ids) // 16
        args = [ticket, gen, len(copy.pieces), count, copy.rev, copy.archived, *copy.fields]
        status, *rest = await self.hot.call("restore", ref, args, staging=staging)
        return Restored(status.decode(), *(int(part) for part in rest))

    async def tell(self, ref: ThreadRef, ticket: str, verdict: Literal["absent", "failed"], reason: str = "") -> bool:
        """Tell those who wait that nothing comes; False if the ticket is gone."""
        return bool(await self.hot.call("verdict", ref, [ticket, verdict, reason, VERDICT_MS]) == b"told")

    # --- runs that do not end ---------------------------------------------------------------------------------------

    async def forget_runs(self, ref: ThreadRef, kind: Literal["flush", "hydrate"]) -> None:
        """A run came to an end, good or bad: it did not take its worker with it. Forgets those that did."""
        await self.hot.link.run("HDEL", self.hot.keys(ref).tries, f"{kind}|{ref.member}")

    async def deaths(self, ref: ThreadRef, kind: Literal["flush", "hydrate"]) -> int:
        """How many of a thread's runs have died since one ended."""
        run = await self.hot.link.run("HGET", self.hot.keys(ref).tries, f"{kind}|{ref.member}")
        return int(run.split()[0]) if run else 0

    async def unfinished(self) -> AsyncIterator[tuple[str, ThreadRef, int]]:
        """Kind (`flush` or `hydrate`), thread, and how many of its runs have died, over all shards."""
        async for replies in self._per_shard("HGETALL", tries_key):
            for flat in replies:
                for field, run in _pairs(flat):
                    kind, _, member = field.decode().partition("|")
                    yield kind, ThreadRef.from_member(member), int(run.split()[0])

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
        key = f"{self._settings.key_prefix}:sweep:{slot}"
        return bool(await self.hot.link.run("SET", key, "1", "NX", "EX", max(1, int(seconds))))

    async def index(self) -> AsyncIterator[ThreadRef]:
        """Every thread of the index, shard by shard."""
        async for replies in self._per_shard("ZRANGE", index_key, 0, -1):
            for members in replies:
                for member in members:
                    yield ThreadRef.from_member(member.decode())

    async def owe(self, ref: ThreadRef) -> None:
        """Remember that the catalog is still to be told about a thread."""
        await self.hot.link.run("SADD", owed_key(self._settings.key_prefix, ref.shard), ref.member)

    async def owed(self) -> AsyncIterator[ThreadRef]:
        """Every thread that the catalog is still to be told about."""
        async for replies in self._per_shard("SMEMBERS", owed_key):
            for members in replies:
                for member in members:
                    yield ThreadRef.from_member(member.decode())

    async def paid(self, ref: ThreadRef) -> None:
        """The catalog has been told."""
        await self.hot.link.run("SREM", owed_key(self._settings.key_prefix, ref.shard), ref.member)

    async def hot_count(self) -> int:
        return sum([sum(replies) async for replies in self._per_shard("ZCARD", index_key)])

    async def lapse(self, ref: ThreadRef) -> Lapsed:
        """Take an ended lease away, let what is clean fade, drop what is gone from the index."""
        status, *rest = await self.hot.call("lapse", ref, [])
        if status in (b"hot", b"fading"):
            return Lapsed(status.decode(), Head.parse(rest))
        if status == b"erasing":
            return Lapsed("erasing", None, rest[0].decode(), int(rest[1]))
        return Lapsed("dropped")

    async def drop_outdated(self, ref: ThreadRef, archived: int) -> bool:
        """Drop a cached copy that is older than revision `archived`, which the archive is known to hold."""
        return bool(await self.hot.call("drop_outdated", ref, [archived]))

    # --- erase ------------------------------------------------------------------------------------------------------

    async def erase_mark(self, ref: ThreadRef, request: str, upto: int) -> tuple[str, int]:
        """`marked` and the revision of the erasure, `newer` (born after `upto`: spared), or `done` before."""
        status, *rest = await self.hot.call("erase_mark", ref, [request, upto], staging=[self._erased(ref, request)])
        return status.decode(), int(rest[0]) if rest else 0

    async def erase_unmark(self, ref: ThreadRef, request: str, receipt: str) -> bool:
        """End the erasure; False if its mark had vanished, and all must be done again."""
        args = [ERASED_MS, receipt]
        return bool(await self.hot.call("erase_unmark", ref, args, staging=[self._erased(ref, request)]) == b"ok")

    async def keep_receipt(self, ref: ThreadRef, request: str, receipt: str) -> None:
        """Record that a request is complete without an erasure."""
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
    place = ["etag", stored.etag if stored else "", "key", stored.key if stored else "", "born", born]
    return [
        *base_fields(base_bytes=base_bytes, frames=frames, chain=chain, raw_bytes=raw_bytes, log_bytes=0),
        *place,
    ]


def _settled(reply: Sequence[bytes]) -> Settled:
    status, *rest = reply
    return Settled(status.decode(), *(int(part) for part in rest))  # type: ignore[arg-type]


def _pairs(flat: Any) -> list[tuple[bytes, bytes]]:
    if isinstance(flat, dict):
        return list(flat.items())
    return list(zip(flat[::2], flat[1::2], strict=True))
