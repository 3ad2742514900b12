"""Truth: what the catalog should say of a thread by what is stored of it, and how it comes to say so."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from threadkeep.errors import ThreadkeepError
from threadkeep.model import ArchiveMeta, Seal, StoredObject, ThreadRef
from threadkeep.storage.link import run_now as now
from threadkeep.storage.ports import CatalogEntry, CatalogRow
from threadkeep.tasks.stores import Stores, archived_row, head_row, log

AHEAD_US: Final = 3_600_000_000
"""A stamp that lies further ahead of Redis's clock was never taken from it, failovers to a skewed host included."""


@dataclass(frozen=True, slots=True)
class Told:
    """What is so of one archived thread: the row of its object, and the row of its hot copy if there is one."""

    ref: ThreadRef
    stored: StoredObject
    row: CatalogRow
    hot: CatalogRow | None

    @property
    def rows(self) -> list[CatalogRow]:
        return [self.row] if self.hot is None else [self.row, self.hot]


def told_by(stores: Stores, ref: ThreadRef, stored: StoredObject, meta: ArchiveMeta, seal: Seal | None = None) -> Told:
    """What a stored object and Redis tell of a thread; labels, codec and source only by its seal."""
    stamp = now(stores.hot.clock(ref))
    head = now(stores.hot.look(ref)).head
    hot = head is not None and head.to_stat(ref, now_ms=stamp // 1000).tier == "hot"
    cached = head is not None and not hot
    identity: dict[str, Any] = {}
    if seal is not None:
        identity = {"codec": seal.codec, "labels": seal.labels, "forked_from": seal.forked_from}
    row = archived_row(
        ref,
        stored,
        meta,
        hot=hot,
        stamp=stamp,
        cached_until=stamp / 1e6 + stores.settings.linger_seconds if cached else None,
        active_at=meta.rev // 1000 / 1000,
        **identity,
    )
    return Told(ref, stored, row, head_row(ref, head, "hot", stamp // 1000, 0) if head is not None and hot else None)


def set_right(stores: Stores, told: Sequence[Told]) -> set[ThreadRef]:
    """Have the catalog say what is so; a row that claims more than is there is replaced. Safe to repeat.

    Returns:
        The threads of which it still says something else: erased ones, and those that changed meanwhile.
    """
    stores.catalog.record([row for one in told for row in one.rows])
    wrong = _wrong(stores, told)
    replaced = stores.catalog.replace([(one.row, entry) for one, entry in wrong if _may_replace(one, entry)])
    again = [one for one, _ in wrong if one.ref in replaced]
    stores.catalog.record([one.hot for one in again if one.hot is not None])
    for one in again:
        _look_again(stores, one)
    return {one.ref for one, _ in wrong} - replaced


def agrees(entry: CatalogEntry, row: CatalogRow) -> bool:
    """Whether the catalog says of a thread what `row`, which was recorded just now, says of its object."""
    stat, revs = entry.stat, entry.revs
    object_facts = (stat.archived_rev, stat.etag, stat.stored_bytes, stat.raw_bytes, stat.born, revs.object)
    if object_facts != (row.rev, row.etag, row.stored_bytes, row.raw_bytes, row.born, row.rev):
        return False
    if (entry.object_key, entry.version_id, entry.chain) != (row.object_key, row.version_id, row.chain):
        return False
    if row.codec is not None and (stat.codec, stat.forked_from) != (row.codec, row.forked_from):
        return False
    if max(revs.labels or 0, revs.count or 0) > stat.rev or entry.erased_at is not None:
        return False
    if stat.tier != row.tier or abs(entry.created_at - (row.born or 0) / 1e6) > 1e-3:
        return False
    cold = (stat.rev, stat.count, stat.labels if row.labels is not None else None)
    return row.tier == "hot" or (cold == (row.rev, row.count, row.labels) and _close(entry.active_at, row.active_at))


def note_once(stores: Stores, ref: ThreadRef, kind: str, facts: dict[str, Any]) -> None:
    """An event, unless the thread's last one says the same: what is found again every day is told once."""
    try:
        last = [event for _, event in stores.catalog.events(ref, 1)]
    except ThreadkeepError:
        last = []
    if any((event.kind, event.facts) == (kind, facts) for event in last):
        log.warning("thread %s, still", kind, extra={"thread_id": str(ref), **facts})
    else:
        stores.note(ref, kind, facts)


def _wrong(stores: Stores, told: Sequence[Told]) -> list[tuple[Told, CatalogEntry]]:
    entries = stores.catalog.get_many([one.ref for one in told])
    found = ((one, entries.get(one.ref)) for one in told)
    return [(one, entry) for one, entry in found if entry is not None and not agrees(entry, one.row)]


def _may_replace(one: Told, entry: CatalogEntry) -> bool:
    """Not where somebody has told the catalog something later than what is known here."""
    later = entry.revs.stamp > one.row.stamp
    return not later or entry.revs.stamp > one.row.stamp + AHEAD_US


def _look_again(stores: Stores, one: Told) -> None:
    """A flush that was recorded just before the replacement was merged into the row that it replaced."""
    there = stores.cold.head(one.ref)
    if there is None or there.meta is None or there.meta.tombstone or there.etag == one.stored.etag:
        return
    stores.catalog.record(told_by(stores, one.ref, there, there.meta).rows)


def _close(one: float, other: float | None) -> bool:
    return other is None or abs(one - other) < 1
