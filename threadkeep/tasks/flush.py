"""Flush: read → seal → put → settle → record. Each step may be repeated; the hot copy is given up last."""

from typing import Final

from threadkeep.model import FlushMode, StoredObject, ThreadRef, fresh_mark
from threadkeep.storage.hot_flow import FlushStart, Settled
from threadkeep.storage.hot_head import Head
from threadkeep.storage.link import each_now
from threadkeep.storage.link import run_now as now
from threadkeep.tasks.losing import note_fallback
from threadkeep.tasks.lost_race import put_archive
from threadkeep.tasks.outcome import Outcome
from threadkeep.tasks.sealing import Prepared, compacts, prepare
from threadkeep.tasks.stores import Stores

ROUNDS: Final = 4
"""How often a flush begins again because the thread changed under it, or a foreign object had to be kept aside."""


def flush(stores: Stores, ref: ThreadRef, mode: FlushMode, *, run: str = "") -> Outcome:
    """Bring the archive to what Redis holds, then evict or linger. Idempotent; safe under any number of workers.

    Args:
        stores: Redis, S3 and Postgres.
        ref: The thread.
        mode: At least this strong; what was asked for meanwhile may be stronger.
        run: Names the task's run, the same after a redelivery; runs that die are counted by it.

    Returns:
        `archived`, `unchanged`, `superseded`, `still_hot`, `absent`, `erasing` or `set_aside`.

    Raises:
        StoreUnavailable: a store did not answer; the thread is as hot as before, and a repeat is safe.
        StoreRefused: the bucket or its credentials are wrong; the thread stays hot.
    """
    whole = False
    for turn in range(ROUNDS):
        attempt = fresh_mark()
        start = now(stores.flow.begin_flush(ref, attempt, mode, run=run if turn == 0 else ""))
        if start.head is not None:
            note_fallback(stores, ref, start.head)
        if start.status != "go" or start.head is None:
            return nothing_to_archive(stores, ref, start)
        mode = start.mode
        prepared = read_and_seal(stores, ref, start, start.head, attempt, whole=whole)
        if prepared is None:
            continue
        stored = put_archive(stores, ref, prepared)
        if stored == "again":
            whole = True
            continue
        if isinstance(stored, str):
            return Outcome(stored, rev=prepared.meta.rev)
        settled = now(stores.flow.settle(ref, prepared.sealed, stored, gen=start.head.gen, mode=mode))
        record_flush(stores, ref, prepared, stored, settled)
        return ended(prepared, stored, settled)
    return Outcome("still_hot")


def read_and_seal(
    stores: Stores, ref: ThreadRef, start: FlushStart, head: Head, attempt: str, *, whole: bool
) -> Prepared | None:
    """What is to be put; None if the thread changed otherwise than by growing meanwhile.

    Of a large object that begins with the base only what is new is put, unless it is to be put `whole`.
    """
    hot, small = stores.hot, start.small
    compact = compacts(head, evicting=start.mode == "evict")
    extends = not (whole or compact) and bool(head.etag) and head.base_etag == head.etag
    extends = extends and stores.cold.extends(head.base_bytes)
    base = None if extends else small.base
    if base is None and not extends:
        base = now(hot.same_base(ref, head))
        if base is None:
            return None
    records = small.log if small.log is not None else each_now(hot.records(ref, head))
    prepared = prepare(ref, head, base, records, attempt, compact=compact, settings=stores.settings)
    if small.log is None and not now(hot.still(ref, head)):
        return None
    as_told = prepared.meta.count == head.count and (base is None or len(base) == head.base_bytes)
    return prepared if as_told else None


def nothing_to_archive(stores: Stores, ref: ThreadRef, start: FlushStart) -> Outcome:
    """End a flush that began with nothing to put, or that may not go on."""
    if start.status == "clean" and start.head is not None:
        settled = now(stores.flow.leave(ref, start.head, start.mode))
        return Outcome("unchanged", rev=start.head.rev, residence=settled.status)
    if start.status == "set_aside":
        stores.note(ref, "set_aside", {"task": "flush", "deaths": start.deaths})
    return Outcome("absent" if start.status == "absent" else start.status)


def ended(prepared: Prepared, stored: StoredObject, settled: Settled) -> Outcome:
    """How a flush ended that put `stored`."""
    outcome = "still_hot" if settled.status in ("still_hot", "stage") else "archived"
    return Outcome(
        outcome,
        rev=prepared.meta.rev,
        count=prepared.meta.count,
        bytes=stored.size,
        compressed=prepared.compressed,
        residence=settled.status,
    )


def record_flush(stores: Stores, ref: ThreadRef, prepared: Prepared, stored: StoredObject, settled: Settled) -> None:
    """Tell the catalog of a flush that was settled."""
    head = prepared.head
    if settled.status in ("still_hot", "stage"):
        return
    if (
        settled.status == "gone"
    ):  # evicted by a first try whose reply was lost, or by somebody else: the sweep will tell
        stores.owe_catalog(ref)
        return
    stores.record_archived(
        ref,
        stored,
        stored.meta or prepared.meta,
        hot=settled.status == "kept",
        stamp=settled.stamp,
        cached_until=settled.expires / 1000 if settled.expires else None,
        codec=head.codec,
        labels=head.labels,
        forked_from=head.forked_from,
        active=head.active / 1000,
    )
