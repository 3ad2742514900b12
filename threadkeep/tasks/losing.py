"""Losing: what Redis lost and nothing can bring back is told to whoever comes first, and noted."""

from collections.abc import Sequence

from threadkeep.errors import ThreadkeepError
from threadkeep.model import ThreadRef
from threadkeep.storage.hot_flow import HydrateStart
from threadkeep.storage.hot_head import Head
from threadkeep.storage.hot_remains import Loss, Remains
from threadkeep.storage.link import run_now as now
from threadkeep.storage.ports import CatalogRow
from threadkeep.tasks.loading import Absent, Loaded
from threadkeep.tasks.outcome import Outcome
from threadkeep.tasks.stores import Stores, log


def loss_of(remains: Remains | None, loaded: Loaded | Absent) -> Loss | None:
    """What is lost if the archive takes the place of a thread's remains; None if it holds all that was there.

    Where the head is missing nobody knows what was there: as the thread was hot, that counts as a loss.
    """
    if remains is None or (isinstance(loaded, Absent) and remains.rev <= loaded.floor):
        return None
    seal = None if isinstance(loaded, Absent) or loaded.stored is None else loaded.seal
    restored, head = (seal.rev if seal else 0), remains.head
    if head is not None and not head.dirty and restored >= head.rev:
        return None
    if head is not None and seal is not None and restored == head.rev and head.lists(seal.attempt):
        return None
    return Loss(max(remains.rev, restored), restored)


def give_up(stores: Stores, ref: ThreadRef, start: HydrateStart, loaded: Loaded | Absent, loss: Loss) -> Outcome | None:
    """Record a loss, remove the remains and tell whoever waits, or comes first; None if the ticket is gone."""
    broken = start.remains.broken if start.remains is not None else []
    stores.note(ref, "hot_loss", {"known_rev": loss.known, "restored_rev": loss.restored, "broken": broken})
    if not now(stores.flow.tell_lost(ref, start.ticket, loss)):
        return None
    stamp = now(stores.hot.clock(ref))
    if isinstance(loaded, Loaded) and loaded.stored is not None and loaded.stored.meta is not None:
        stores.record_archived(ref, loaded.stored, loaded.stored.meta, hot=False, stamp=stamp, cached_until=None)
    else:
        stores.tell_catalog(CatalogRow(ref, "cold", stamp=stamp, rev=loss.known))
    return Outcome("lost", rev=loss.restored)


def note_fallback(stores: Stores, ref: ThreadRef, head: Head) -> None:
    """Redis fell back behind what a session was told, which a script left word of: record it once."""
    if head.lost:
        loss = Loss.parse(head.lost)
        stores.note(ref, "hot_loss", {"known_rev": loss.known, "restored_rev": loss.restored})
        now(stores.flow.loss_noted(ref))


def note_older(stores: Stores, rows: Sequence[CatalogRow]) -> None:
    """Where Redis holds a thread as it was before the catalog heard of it, nobody has what came after: record it.

    A failover does that to threads whose sessions do not come back to notice. `rows` are what a sweep found.
    """
    try:
        known = stores.catalog.get_many([row.ref for row in rows])
        for row in rows:
            entry = known.get(row.ref)
            if entry is not None and entry.stat.rev > max(row.rev, entry.stat.archived_rev):
                _note_if_older(stores, row.ref, entry.stat.rev)
    except ThreadkeepError as error:
        log.warning("hot threads could not be compared with the catalog", extra={"reason": str(error)})


def _note_if_older(stores: Stores, ref: ThreadRef, known: int) -> None:
    head = now(stores.hot.look(ref)).head  # looked at after the catalog was read: it may only have grown since
    if head is None or head.rev >= known:
        return
    facts = {"known_rev": known, "restored_rev": head.rev}
    if all(event.facts != facts for _, event in stores.catalog.events(ref)):  # else an earlier sweep told
        stores.note(ref, "hot_loss", facts)
