"""Flush: read → seal → put → settle → record. Each step may be repeated; the hot copy is given up last."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Final, Literal

from threadkeep.errors import ArchiveMoved, StoreUnavailable
from threadkeep.model import ArchiveMeta, FlushMode, Seal, StoredObject, ThreadRef, fresh_mark
from threadkeep.storage.archive import NO_CHAIN, SealedTail, read_frames, seal_tail, should_compact
from threadkeep.storage.hot import Contents, cut
from threadkeep.storage.hot_flow import FlushStart, SealedFlush, Settled
from threadkeep.storage.hot_head import Head
from threadkeep.storage.link import run_now as now
from threadkeep.storage.parts import log_bytes
from threadkeep.tasks.outcome import Outcome
from threadkeep.tasks.stores import Stores

ROUNDS: Final = 4
"""How often a flush begins again because the thread changed under it, or a foreign object had to be kept aside."""
LOOKS: Final = 4
"""How often it looks again after a lost race."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """Everything to be put and settled: the whole object, and what of it is new."""

    head: Head
    attempt: str
    body: bytes
    meta: ArchiveMeta
    sealed: SealedFlush
    compressed: int


LostRace = Literal["done", "retry", "superseded", "another_timeline", "set_aside", "adopt_tombstone", "erased"]


def flush(stores: Stores, ref: ThreadRef, mode: FlushMode) -> Outcome:
    """Bring the archive to what Redis holds, then evict or linger. Idempotent; safe under any number of workers.

    Returns:
        `archived`, `unchanged`, `superseded`, `still_hot`, `absent`, `erasing` or `set_aside`.

    Raises:
        StoreUnavailable: a store did not answer; the thread is as hot as before, and a repeat is safe.
        StoreRefused: the bucket or its credentials are wrong; the thread stays hot.
    """
    for _ in range(ROUNDS):
        attempt = fresh_mark()
        start = now(stores.flow.begin_flush(ref, attempt, mode))
        if start.status != "go" or start.head is None:
            return _nothing_to_archive(stores, ref, start)
        mode = start.mode
        contents = now(stores.hot.copy(ref, start.head))
        if contents is None:
            continue
        prepared = prepare(ref, contents, attempt, evicting=mode == "evict", stores=stores)
        stored = _put(stores, ref, prepared)
        if stored == "again":
            continue
        if isinstance(stored, str):
            return Outcome(stored, rev=prepared.meta.rev)
        settled = now(stores.flow.settle(ref, prepared.sealed, stored, gen=start.head.gen, mode=mode))
        _record(stores, ref, prepared, stored, settled)
        return _ended(prepared, stored, settled)
    return Outcome("still_hot")


def prepare(ref: ThreadRef, contents: Contents, attempt: str, *, evicting: bool, stores: Stores) -> Prepared:
    """Seal what is new and lay the object out. Compresses the tail alone, unless many small frames become one."""
    head, settings = contents.head, stores.settings
    seal = Seal(
        namespace=ref.namespace,
        thread_id=ref.thread_id,
        rev=head.rev,
        attempt=attempt,
        born=head.born,
        count=0,
        state=head.state,
        chain=NO_CHAIN,
        codec=head.codec,
        labels=head.labels,
        forked_from=head.forked_from,
    )
    compact = should_compact(frames=head.frames, base_bytes=head.base_bytes, evicting=evicting)
    if compact:
        frames = read_frames(contents.base, where=f"base of {ref}", thread=str(ref), max_bytes=settings.max_thread_bytes)
        old = chain.from_iterable(frame.records() for frame in frames)
        fresh = seal_tail(chain(old, contents.tail), seal, base_count=0, base_chain=NO_CHAIN, level=settings.compression_level)
    else:
        fresh = seal_tail(
            contents.tail, seal, base_count=head.base_count, base_chain=head.chain, level=settings.compression_level
        )
    return _laid_out(contents, attempt, fresh, compact=compact)


def _laid_out(contents: Contents, attempt: str, fresh: SealedTail, *, compact: bool) -> Prepared:
    head = contents.head
    body = fresh.body if compact else contents.base + fresh.body
    raw_bytes = fresh.raw_bytes + (0 if compact else head.raw_bytes)
    sealed = SealedFlush(
        attempt=attempt,
        rev=head.rev,
        records=len(contents.tail),
        record_bytes=log_bytes(contents.tail),
        pieces=cut(fresh.body),
        replaces=compact,
        base_count=fresh.seal.count,
        base_bytes=len(body),
        frames=fresh.frames + (0 if compact else head.frames),
        chain=fresh.seal.chain,
        raw_bytes=raw_bytes,
    )
    meta = ArchiveMeta(
        rev=head.rev,
        attempt=attempt,
        chain=fresh.seal.chain,
        count=fresh.seal.count,
        born=head.born,
        raw_bytes=raw_bytes,
    )
    return Prepared(head, attempt, body, meta, sealed, fresh.raw_bytes)



def _put(stores: Stores, ref: ThreadRef, prepared: Prepared) -> StoredObject | Literal["again", "superseded", "erasing"]:
    """PUT on the condition that nobody else wrote; after a lost race, look, decide, and go on or stop."""
    based_on = prepared.head.etag or None
    for _ in range(LOOKS):
        unknown = False
        try:
            return stores.cold.put(ref, prepared.body, meta=prepared.meta, based_on=based_on)
        except ArchiveMoved:
            pass
        except StoreUnavailable:
            unknown = True
        there = stores.cold.head(ref)
        decision = _decide(stores, ref, prepared, there, based_on=based_on, unknown=unknown)
        match decision:
            case "retry":
                based_on = there.etag if there is not None else None
            case "done" if there is not None:
                return there
            case "adopt_tombstone" if there is not None:
                now(stores.flow.adopt(ref, prepared.attempt, there))
                return "again"
            case "set_aside" if there is not None:
                if stores.cold.set_aside(ref, etag=there.etag) is not None:
                    return _adopt(stores, ref, prepared, there)
            case "another_timeline":
                if there is None or there.meta is None or there.meta.rev < prepared.meta.rev:
                    _keep_mine_aside(stores, ref, prepared)
                return "superseded"
            case "erased":
                return "erasing"
            case _:
                return "superseded"
    raise StoreUnavailable("S3", "a flush", "other writers kept changing the object")


def _decide(
    stores: Stores, ref: ThreadRef, mine: Prepared, there: StoredObject | None, *, based_on: str | None, unknown: bool
) -> LostRace:
    if there is None or (there.meta is not None and there.meta.attempt == mine.attempt):
        return decide_lost_race(mine, there, belongs="own", never_archived=False)
    if unknown and there.etag == based_on:
        return "retry"
    belongs, never = now(stores.flow.classify(ref, mine.attempt, there))
    return decide_lost_race(mine, there, belongs=belongs, never_archived=never)


def decide_lost_race(mine: Prepared, there: StoredObject | None, *, belongs: str, never_archived: bool) -> LostRace:
    """What to do about the object that is there instead of the expected one.

    Args:
        mine: What this flush wants to put.
        there: What a HEAD found.
        belongs: Whether the current head of the thread knows it (`own`), does not (`foreign`), or no longer lists
            this flush's own attempt (`gone`).
        never_archived: The thread in Redis has never had an object.
    """
    if there is None:
        return "retry"
    meta = there.meta
    if meta is not None and meta.attempt == mine.attempt:
        return "done"
    if meta is not None and meta.tombstone:
        if belongs == "own":
            return "retry"
        return "adopt_tombstone" if belongs == "foreign" and never_archived else "erased"
    if belongs == "gone":
        return "another_timeline"
    if belongs == "foreign":
        return "set_aside"
    if meta is not None and meta.rev > mine.meta.rev:
        return "superseded"
    if meta is not None and meta.rev == mine.meta.rev:
        return "done"
    return "retry"


def _adopt(stores: Stores, ref: ThreadRef, prepared: Prepared, foreign: StoredObject) -> Literal["again", "superseded"]:
    stores.note(ref, "conflict", {"kept": "theirs", "rev": prepared.meta.rev, "etag": foreign.etag})
    _clear_if_erased(stores, ref)
    if now(stores.flow.adopt(ref, prepared.attempt, foreign)):
        return "again"
    _keep_mine_aside(stores, ref, prepared)
    return "superseded"


def _keep_mine_aside(stores: Stores, ref: ThreadRef, prepared: Prepared) -> None:
    key = stores.cold.put_aside(ref, prepared.body, meta=prepared.meta)
    stores.note(ref, "conflict", {"kept": "mine", "rev": prepared.meta.rev, "key": key})
    _clear_if_erased(stores, ref)


def _clear_if_erased(stores: Stores, ref: ThreadRef) -> None:
    """Whoever put a copy aside looks again: of an erased thread nothing may stay."""
    there = stores.cold.head(ref)
    if there is not None and there.meta is not None and there.meta.tombstone:
        stores.cold.purge_conflicts(ref)


def _nothing_to_archive(stores: Stores, ref: ThreadRef, start: FlushStart) -> Outcome:
    if start.status == "clean" and start.head is not None:
        settled = now(stores.flow.leave(ref, start.head, start.mode))
        return Outcome("unchanged", rev=start.head.rev, residence=settled.status)
    if start.status == "set_aside":
        stores.note(ref, "set_aside", {"task": "flush", "runs": start.runs})
    return Outcome("absent" if start.status == "absent" else start.status)


def _ended(prepared: Prepared, stored: StoredObject, settled: Settled) -> Outcome:
    outcome = "still_hot" if settled.status in ("still_hot", "stage") else "archived"
    return Outcome(
        outcome,
        rev=prepared.meta.rev,
        count=prepared.meta.count,
        bytes=stored.size,
        compressed=prepared.compressed,
        residence=settled.status,
    )


def _record(stores: Stores, ref: ThreadRef, prepared: Prepared, stored: StoredObject, settled: Settled) -> None:
    head = prepared.head
    if settled.status in ("still_hot", "stage", "gone"):
        return
    stores.record_archived(
        ref,
        stored,
        prepared.meta,
        hot=settled.status == "kept",
        stamp=settled.stamp,
        cached_until=settled.expires / 1000 if settled.expires else None,
        codec=head.codec,
        labels=head.labels,
        forked_from=head.forked_from,
        active=head.active / 1000,
    )
