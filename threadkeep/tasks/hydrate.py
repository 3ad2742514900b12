"""Hydrate: ticket → get → verify → stage → restore. Nothing older, nothing damaged and nothing erased comes back.

Of a thread that Redis lost in part, what only Redis had is kept where it can be (`mending`), else told (`losing`).
"""

from typing import Final

from threadkeep.errors import (
    ArchiveCorrupt,
    ArchiveFrozen,
    StoreRefused,
    StoreUnavailable,
    ThreadkeepError,
)
from threadkeep.model import ThreadRef
from threadkeep.storage.hot_flow import HydrateStart, Restored
from threadkeep.storage.hot_remains import Loss
from threadkeep.storage.link import run_now as now
from threadkeep.storage.ports import CatalogRow
from threadkeep.tasks.loading import Absent, Loaded, load
from threadkeep.tasks.losing import give_up, loss_of
from threadkeep.tasks.mending import mend
from threadkeep.tasks.outcome import Outcome
from threadkeep.tasks.stores import Stores

ROUNDS: Final = 3


def hydrate(stores: Stores, ref: ThreadRef, *, run: str = "") -> Outcome:
    """Bring a thread back into Redis, if it is not there. Idempotent; any number may run at once, one restores.

    Args:
        stores: Redis, S3 and Postgres.
        ref: The thread.
        run: Names the task's run, the same after a redelivery; runs that die are counted by it.

    Returns:
        `present`, `restored`, `mended`, `lost`, `absent`, `corrupt`, `erasing` or `set_aside`.

    Raises:
        StoreUnavailable: a store did not answer; a repeat is safe.
        StoreRefused: the bucket or its credentials are wrong; those who wait have been told.
        ArchiveFrozen: the object must be restored from its storage class first; those who wait have been told.
    """
    for turn in range(ROUNDS):
        start = now(stores.flow.begin_hydrate(ref, run=run if turn == 0 else ""))
        if start.status != "go":
            return _nothing_to_restore(stores, ref, start)
        outcome = _brought(stores, ref, start)
        if outcome is not None:
            return outcome
    raise StoreUnavailable("Redis", "a restore", "the thread's ticket kept changing")


def _brought(stores: Stores, ref: ThreadRef, start: HydrateStart) -> Outcome | None:
    """One try, under one ticket; None if all must begin again."""
    try:
        mended = mend(stores, ref, start)
        if mended is not None:
            return mended if isinstance(mended, Outcome) else None
        loaded = load(stores, ref)
    except ArchiveCorrupt as error:
        return _corrupt(stores, ref, start, error)
    except (StoreRefused, ArchiveFrozen) as error:
        now(stores.flow.tell(ref, start.ticket, "failed", str(error)))
        raise
    loss = loss_of(start.remains, loaded)
    if loss is not None:
        return give_up(stores, ref, start, loaded, loss)
    return _restored(stores, ref, start, loaded)


def _restored(stores: Stores, ref: ThreadRef, start: HydrateStart, loaded: Loaded | Absent) -> Outcome | None:
    if isinstance(loaded, Absent):
        return Outcome("absent") if _tell_nothing(stores, ref, start, loaded.floor) else None
    restored = now(stores.flow.restore(ref, start.ticket, loaded.copy))
    if restored.status not in ("restored", "present", "erasing"):
        return None
    _record(stores, ref, start, loaded, restored)
    return Outcome(restored.status, rev=loaded.seal.rev, count=loaded.seal.count, bytes=loaded.bytes)


def _nothing_to_restore(stores: Stores, ref: ThreadRef, start: HydrateStart) -> Outcome:
    if start.status == "present" and start.head is not None:
        return Outcome("present", rev=start.head.rev, count=start.head.count)
    if start.status == "set_aside":
        stores.note(ref, "set_aside", {"task": "hydrate", "deaths": start.deaths})
        if start.ticket:
            reason = f"{start.deaths} workers died bringing it back, so it was set aside."
            now(stores.flow.tell(ref, start.ticket, "failed", f"{reason} `threadkeep hydrate --force` tries again."))
    return Outcome("lost" if start.status == "untold" else start.status)


def _corrupt(stores: Stores, ref: ThreadRef, start: HydrateStart, error: ArchiveCorrupt) -> Outcome:
    """What only Redis has stays there for when the object is put right; the sweep does not try it again and again."""
    now(stores.flow.tell(ref, start.ticket, "failed", str(error), remains="shelved"))
    facts = {"key": error.key, "reason": error.reason}
    stores.note(ref, "corrupt", facts if start.remains is None else {**facts, "broken": start.remains.broken})
    return Outcome("corrupt")


def _tell_nothing(stores: Stores, ref: ThreadRef, start: HydrateStart, floor: int) -> bool:
    """Say that there is no such thread; False if the ticket is gone.

    A thread that the catalog knows as hot and never archived was lost with Redis's memory, unless it lies under a
    tombstone of which the catalog has not heard yet. Whoever comes first is told so; after that the id is free.
    """
    try:
        stores.catalog.epoch_changed(ref.shard, start.epoch)
        known = stores.catalog.get(ref)
    except ThreadkeepError:
        known = None
    if known is None or known.stat.tier != "hot" or known.stat.archived_rev or known.stat.rev <= floor:
        return now(stores.flow.tell(ref, start.ticket, "absent", floor=floor))
    stores.note(ref, "hot_loss", {"known_rev": known.stat.rev, "restored_rev": 0})
    if not now(stores.flow.tell_lost(ref, start.ticket, Loss(known.stat.rev, 0))):
        return False
    stores.tell_catalog(CatalogRow(ref, "cold", stamp=now(stores.hot.clock(ref)), rev=known.stat.rev))
    return True


def _record(stores: Stores, ref: ThreadRef, start: HydrateStart, loaded: Loaded, restored: Restored) -> None:
    """The catalog hears of the restore, and notices if Redis had lost its memory: neither may fail the hydrate."""
    if restored.status != "restored":
        return
    seal = loaded.seal
    try:
        before = stores.catalog.get(ref)
        lost_shard = stores.catalog.epoch_changed(ref.shard, start.epoch)
    except ThreadkeepError:
        before, lost_shard = None, False
    known = before.stat.rev if before is not None and before.stat.tier == "hot" else 0
    if lost_shard or known > seal.rev:
        facts = {"known_rev": known, "restored_rev": seal.rev, "epoch_changed": lost_shard}
        stores.note(ref, "hot_loss", facts)
    if loaded.stored is None or loaded.stored.meta is None:
        return
    stores.record_archived(
        ref,
        loaded.stored,
        loaded.stored.meta,
        hot=False,
        stamp=restored.stamp,
        cached_until=restored.expires / 1000 if restored.expires else None,
        codec=seal.codec,
        labels=seal.labels,
        forked_from=seal.forked_from,
    )
