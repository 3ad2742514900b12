"""Sweep: what repairs everything that a queue, a worker or an app has dropped. Safe under any number of beats."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any, Final, Literal

from threadkeep.config import Settings
from threadkeep.errors import BrokerUnavailable, StoreRefused, ThreadkeepError
from threadkeep.model import FlushMode, ThreadRef, fresh_mark
from threadkeep.storage.hot_flow import Lapsed
from threadkeep.storage.hot_head import Head
from threadkeep.storage.link import run_now as now
from threadkeep.storage.ports import CatalogRow
from threadkeep.tasks.enqueue import Enqueuer
from threadkeep.tasks.erase import forget
from threadkeep.tasks.losing import note_fallback, note_older
from threadkeep.tasks.stores import Stores, archived_row, head_row, log

ROWS_AT_ONCE: Final = 500
COPIES_AT_ONCE: Final = 200
MEMBERS_AT_ONCE: Final = 200
"""Threads that are looked at in one round trip, at most."""
STATES_AT_ONCE: Final = 32 * 1024 * 1024
"""Bytes that their states may have together."""

Due = Literal["none", "flush", "checkpoint"]


@dataclass(slots=True)
class SweepCounts:
    """What one sweep saw and did; numbers of threads."""

    hot: int = 0
    flushes: int = 0
    checkpoints: int = 0
    lapsed: int = 0
    dropped: int = 0
    broken: int = 0
    outdated: int = 0
    erasing: int = 0
    graves: int = 0
    set_aside: int = 0
    catalog_rows: int = 0
    skipped: bool = False

    def to_result(self) -> dict[str, Any]:
        """The non-zero counts."""
        return {name: value for name, value in asdict(self).items() if value}


@dataclass(slots=True)
class _Batch:
    """Catalog rows on their way; written in one statement each few hundred."""

    stores: Stores
    counts: SweepCounts
    rows: list[CatalogRow] = field(default_factory=list)
    broken: bool = False

    def add(self, row: CatalogRow) -> None:
        self.rows.append(row)
        if len(self.rows) >= ROWS_AT_ONCE:
            self.write()

    def write(self) -> None:
        rows, self.rows = self.rows, []
        if not rows:
            return
        if self.broken or not self._told(rows):
            self.broken = True  # a catalog that failed once is not asked again in this sweep
            for row in rows:
                if row.tier == "cold":
                    self.stores.owe_catalog(row.ref)

    def _told(self, rows: list[CatalogRow]) -> bool:
        try:
            self.stores.catalog.record(rows)
        except ThreadkeepError as error:
            log.warning("the catalog could not be told in this sweep", extra={"rows": len(rows), "reason": str(error)})
            return False
        self.counts.catalog_rows += len(rows)
        note_older(self.stores, rows)
        return True


def due(head: Head, settings: Settings, *, now_ms: int) -> Due:
    """What a hot thread needs.

    A dirty thread that nobody leases and for which no flush is queued was left by a session whose message got lost, or
    whose process died: flush it. One that is leased and has been dirty for long is checkpointed.
    """
    if not head.dirty:
        return "none"
    if head.flush_at and now_ms - head.flush_at < settings.marker_seconds * 1000:
        return "none"
    if not head.lease or head.lease_until <= now_ms:
        return "flush"
    return "checkpoint" if now_ms - head.dirty_since >= settings.checkpoint_after * 1000 else "none"


def sweep(stores: Stores, enqueuer: Enqueuer, *, force: bool = False) -> SweepCounts:
    """Walk the index once: queue what is due, end what lapsed, and tell the catalog.

    Args:
        stores: What to sweep.
        enqueuer: Where flushes are queued.
        force: Sweep even if another sweep has taken this time slot.
    """
    counts = SweepCounts()
    period = stores.settings.sweep_every
    started = now(stores.flow.clock()) // 1000
    if not force and not now(stores.flow.claim_sweep(int(started / 1000 / period), 2 * period)):
        counts.skipped = True
        return counts
    aside = {(kind, ref) for kind, ref, _ in _set_aside(stores)}
    counts.set_aside = sum(kind == "flush" for kind, _ in aside)
    batch, members = _Batch(stores, counts), _index(stores)
    at_once = max(1, min(MEMBERS_AT_ONCE, STATES_AT_ONCE // stores.settings.max_state_bytes))
    while some := list(islice(members, at_once)):
        wanted: dict[Due, list[ThreadRef]] = {"flush": [], "checkpoint": []}
        for ref, found in zip(some, now(stores.flow.lapse_many(some)), strict=True):
            if isinstance(found, ThreadkeepError):  # its head is damaged; the others are none the worse for it
                log.warning("a thread could not be looked at", extra={"thread_id": str(ref), "reason": str(found)})
                continue
            _look_after(stores, enqueuer, ref, found, batch, now_ms=started, aside=aside)
            if found.status == "hot" and found.head is not None and ("flush", ref) not in aside:
                wanted.setdefault(due(found.head, stores.settings, now_ms=started), []).append(ref)
        _queue_flushes(stores, enqueuer, wanted, counts)
    batch.write()
    for ref in now(_collect(stores.flow.owed())):
        if not _pay(stores, ref, counts):
            break
    _drop_outdated(stores, counts, started / 1000)
    _queue_graves(stores, enqueuer, counts, started)
    _prune(stores)
    return counts


def _look_after(
    stores: Stores,
    enqueuer: Enqueuer,
    ref: ThreadRef,
    found: Lapsed,
    batch: _Batch,
    *,
    now_ms: int,
    aside: set[tuple[str, ThreadRef]],
) -> None:
    counts = batch.counts
    if found.head is not None:
        note_fallback(stores, ref, found.head)
    match found.status:
        case "erasing":
            counts.erasing += 1
            _queue(lambda: enqueuer.erase(ref, request=found.request, upto=found.upto))
        case "dropped":
            counts.dropped += 1
            stores.owe_catalog(ref)
        case "broken":
            counts.broken += 1
            if ("hydrate", ref) not in aside:
                expires = 2 * stores.settings.sweep_every
                _queue(lambda: enqueuer.hydrate(ref, fresh_mark(), expires=expires))
        case "fading" if found.head is not None:
            counts.lapsed += 1
            batch.add(head_row(ref, found.head, "cold", now_ms, stores.settings.linger_seconds))
        case _ if found.head is not None:
            counts.hot += 1
            batch.add(head_row(ref, found.head, "hot", now_ms, 0))


def _queue_flushes(stores: Stores, enqueuer: Enqueuer, wanted: dict[Due, list[ThreadRef]], counts: SweepCounts) -> None:
    for kind, refs in wanted.items():
        if kind == "none" or not refs:
            continue
        mode: FlushMode = "checkpoint" if kind == "checkpoint" else stores.settings.exit_flush
        queued: list[ThreadRef] = []
        _queue(lambda: queued.extend(now(enqueuer.request_flushes(stores.hot, refs, mode))))  # noqa: B023  called at once
        counts.checkpoints += len(queued) * (kind == "checkpoint")
        counts.flushes += len(queued) * (kind == "flush")


def _queue(publish: Any) -> bool:
    try:
        publish()
    except BrokerUnavailable as error:
        log.warning("a sweep could not queue a task; the next one will", extra={"reason": error.reason})
        return False
    return True


def _pay(stores: Stores, ref: ThreadRef, counts: SweepCounts) -> bool:
    """Tell the catalog what it missed about a thread; False if a store is still away, and the next sweep will."""
    stamp = now(stores.hot.clock(ref))
    try:
        _tell(stores, ref, counts, stamp)
    except ThreadkeepError as error:
        log.warning("the catalog could not be told", extra={"thread_id": str(ref), "reason": str(error)})
        return not error.retryable and not isinstance(error, StoreRefused)
    now(stores.flow.paid(ref, stamp))
    return True


def _tell(stores: Stores, ref: ThreadRef, counts: SweepCounts, stamp: int) -> None:
    seen = now(stores.hot.look(ref))
    if seen.head is not None:
        note_fallback(stores, ref, seen.head)
    there = stores.cold.head(ref)
    if there is None or there.meta is None:
        return
    if there.meta.tombstone:  # of a successor that is here already, this leaves all that is its own
        forget(stores, ref, there.meta)
        return
    hot = seen.head is not None and seen.head.dirty
    cached = seen.head is not None and not hot
    until = stamp / 1e6 + stores.settings.linger_seconds if cached else None
    stores.catalog.record([archived_row(ref, there, there.meta, hot=hot, stamp=stamp, cached_until=until)])
    counts.catalog_rows += 1


def _drop_outdated(stores: Stores, counts: SweepCounts, now_s: float) -> None:
    """A failover may bring back a cached copy that is older than the archive: the catalog knows, and the copy goes."""
    last = None
    try:
        while page := stores.catalog.cached(now_s, after=last, limit=COPIES_AT_ONCE):
            archived = [(ThreadRef(each.stat.namespace, each.stat.thread_id), each.stat.archived_rev) for each in page]
            for (ref, _), dropped in zip(archived, now(stores.flow.drop_outdated(archived)), strict=True):
                if isinstance(dropped, ThreadkeepError):
                    log.warning(
                        "a cached copy could not be compared with the catalog",
                        extra={"thread_id": str(ref), "reason": str(dropped)},
                    )
                else:
                    counts.outdated += dropped
            last = page[-1]
    except ThreadkeepError as error:
        log.warning("cached copies could not be compared with the catalog", extra={"reason": str(error)})


def _queue_graves(stores: Stores, enqueuer: Enqueuer, counts: SweepCounts, now_ms: int) -> None:
    """Have erased threads looked at again that are due; the next sweep to come asks again if the message is lost."""
    later = now_ms + int(1000 * stores.settings.marker_seconds)
    for ref, rev in now(_collect(stores.flow.graves(now_ms))):
        if not _queue(lambda ref=ref, rev=rev: enqueuer.purge_conflicts(ref, rev=rev)):
            return
        now(stores.flow.postpone_grave(ref, rev, later))
        counts.graves += 1


def _prune(stores: Stores) -> None:
    try:
        stores.catalog.prune_events(stores.settings.events_keep_days)
    except ThreadkeepError as error:
        log.warning("old events could not be pruned", extra={"reason": str(error)})


def _index(stores: Stores) -> Iterator[ThreadRef]:
    return iter(now(_collect(stores.flow.index())))


def _set_aside(stores: Stores) -> Iterable[tuple[str, ThreadRef, int]]:
    limit = stores.settings.poison_after
    return [item for item in now(_collect(stores.flow.unfinished())) if item[2] >= limit]


async def _collect(items: Any) -> list[Any]:
    return [item async for item in items]
