"""Reconcile: hold the catalog against the bucket and Redis, and set right what it says. Deletes no thread.

First the bucket is walked, and what the catalog does not know or describes otherwise is looked at; then the catalog's
rows, and those are looked at that claim an object which no listing shows, or a hot thread that Redis does not have.
"""

import math
import time
from dataclasses import dataclass, replace
from itertools import groupby, islice
from typing import Any, Final

from threadkeep.model import StoredObject, ThreadRef
from threadkeep.storage.hot import Looked
from threadkeep.storage.link import run_now as now
from threadkeep.storage.ports import CatalogEntry, CatalogFilter
from threadkeep.storage.tombstones import TOMBSTONE_BYTES
from threadkeep.tasks.erase import forget
from threadkeep.tasks.examine import Examined
from threadkeep.tasks.repair import archive_anew
from threadkeep.tasks.stores import Stores, head_row
from threadkeep.tasks.truth import AHEAD_US, note_once, set_right, told_by
from threadkeep.tasks.walking import PAGE, pages

LISTED: Final = 3 * PAGE
"""How far a listing is followed to find a page of rows; what it does not show by then is asked for by name."""


@dataclass(slots=True)
class Reconciled:
    """What a reconcile saw and did; numbers of threads.

    Attributes:
        objects: Objects that were listed, tombstones included.
        rows: Rows that were compared.
        recorded: Threads that the catalog did not know.
        corrected: Rows that said something else than the object.
        forgotten: Tombstones that the catalog had not heard of.
        outdated: Objects older than the catalog knows, or of erased threads; named, and left for `verify`.
        unlabelled: Objects without metadata of ours; left for `verify`.
        missing: Rows that claim an object which is not there.
        rearchived: Of these, threads that Redis still had whole.
        cooled: Rows that said hot, of threads that are not.
        lost: Of these, threads of which Redis lost something that was never archived.
        purged: Copies under `conflicts/` of erased threads that were deleted.
        skipped: Another run had taken the period.
        after: Where the time ended before the walk: the last thread that was compared.
        in_rows: Whether it was met among the rows; else among the objects.
    """

    objects: int = 0
    rows: int = 0
    recorded: int = 0
    corrected: int = 0
    forgotten: int = 0
    outdated: int = 0
    unlabelled: int = 0
    missing: int = 0
    rearchived: int = 0
    cooled: int = 0
    lost: int = 0
    purged: int = 0
    skipped: bool = False
    after: ThreadRef | None = None
    in_rows: bool = False

    @property
    def unsound(self) -> int:
        """Threads that need somebody's attention."""
        return self.outdated + self.unlabelled + self.missing - self.rearchived + self.lost

    def to_result(self) -> dict[str, Any]:
        """The counts that are not zero."""
        names = [name for name in self.__dataclass_fields__ if name not in ("after", "in_rows")]
        return {name: value for name in names if (value := getattr(self, name))}


def reconcile(
    stores: Stores,
    *,
    namespace: str | None = None,
    after: ThreadRef | None = None,
    in_rows: bool = False,
    deadline: float = math.inf,
) -> Reconciled:
    """Compare bucket, catalog and Redis once. Safe to repeat, at any number of places at once, and beside everything.

    Args:
        stores: What to compare.
        namespace: Only this one.
        after: Go on behind this thread, which was met among the rows if `in_rows` is set.
        in_rows: The bucket was walked already.
        deadline: Monotonic time at which to stop; `Reconciled.after` tells where.

    Raises:
        StoreUnavailable: a store did not answer.
        StoreRefused: no such bucket or table, or no right to it.
    """
    run = _Run(stores, namespace, deadline, Reconciled())
    if in_rows or run.walk_bucket(after):
        run.counts.in_rows = True
        if run.walk_rows(after if in_rows else None):
            run.purge_strays()
    return run.counts


@dataclass(frozen=True, slots=True)
class _Run:
    stores: Stores
    namespace: str | None
    deadline: float
    counts: Reconciled

    # --- what is in the bucket ---

    def walk_bucket(self, after: ThreadRef | None) -> bool:
        """False if the time ended first."""
        for page in pages(self.stores.cold.scan(self.namespace, after=after)):
            clock = now(self.stores.flow.clock())
            known = self.stores.catalog.get_many([ref for ref, _ in page])
            for ref, listed in page:
                self.counts.objects += 1
                if not fits(known.get(ref), listed, now_us=clock):
                    self.look_at_object(ref, known.get(ref))
                if self.is_late(ref):
                    return False
        return True

    def look_at_object(self, ref: ThreadRef, known: CatalogEntry | None) -> None:
        stored = self.stores.cold.head(ref)
        if stored is None:
            return
        meta = stored.meta
        if meta is None:
            self.counts.unlabelled += 1
        elif meta.tombstone:
            if known is None or meta.rev > max(known.revs.erased or 0, known.stat.archived_rev):
                forget(self.stores, ref, meta)
                self.counts.forgotten += 1
        elif known is not None and is_outdated(known, stored):
            self.counts.outdated += 1
            facts = {
                "key": stored.key,
                "rev": meta.rev,
                "known_rev": max(known.stat.archived_rev, known.revs.erased or 0),
            }
            note_once(self.stores, ref, "outdated", facts)
        else:
            set_right(self.stores, [told_by(self.stores, ref, stored, meta)])
            self.counts.recorded += known is None
            self.counts.corrected += known is not None

    # --- what is in the catalog ---

    def walk_rows(self, after: ThreadRef | None) -> bool:
        """False if the time ended first."""
        where = CatalogFilter(namespace=self.namespace, after=after)
        while page := self.stores.catalog.page(where, PAGE):
            listed = self.listed([entry for entry in page if entry.stat.archived_rev])
            for entry in page:
                ref = _ref(entry)
                self.counts.rows += 1
                if entry.stat.archived_rev and ref not in listed and self.stores.cold.head(ref) is None:
                    self.miss(ref, entry)
                elif entry.stat.tier == "hot":
                    self.look_for_copy(ref, entry)
                if self.is_late(ref):
                    return False
            where = replace(where, after=ref)
        return True

    def listed(self, entries: list[CatalogEntry]) -> set[ThreadRef]:
        """Of these threads those that a short listing shows. The orders of rows and of keys differ a little."""
        found: set[ThreadRef] = set()
        for namespace, group in groupby(map(_ref, entries), key=lambda ref: ref.namespace):
            wanted = set(group)
            if len(wanted) == 1:  # as cheap to ask for
                continue
            first = min(wanted, key=lambda ref: ref.member)
            for ref, _ in islice(self.stores.cold.scan(namespace, after=first), LISTED):
                found.add(ref)
                wanted.discard(ref)
                if wanted <= {first}:
                    break
        return found

    def miss(self, ref: ThreadRef, entry: CatalogEntry) -> None:
        self.counts.missing += 1
        note_once(
            self.stores, ref, "archive_missing", {"known_rev": entry.stat.archived_rev, "key": entry.object_key or ""}
        )
        if archive_anew(self.stores, Examined(ref, "missing"), entry) is not None:
            self.counts.rearchived += 1

    def look_for_copy(self, ref: ThreadRef, entry: CatalogEntry) -> None:
        """A row says that the truth is in Redis."""
        stamp = now(self.stores.hot.clock(ref))
        seen = now(self.stores.hot.look(ref))
        if seen.head is not None and (seen.head.dirty or seen.head.lease):
            return
        if seen.head is not None:
            lingers = self.stores.settings.linger_seconds
            self.stores.catalog.record([head_row(ref, seen.head, "cold", stamp // 1000, lingers)])
            self.counts.cooled += 1
        elif _is_gone(seen):
            self.cool(ref, entry)

    def cool(self, ref: ThreadRef, entry: CatalogEntry) -> None:
        """Not in Redis: the archive is all that there is.

        The row of a thread that never had one still says hot, so that whoever comes first is told of the loss.
        """
        stored = self.stores.cold.head(ref)
        meta = stored.meta if stored is not None else None
        if stored is not None and meta is None:  # counted among the objects
            return
        if meta is not None and meta.tombstone:
            forget(self.stores, ref, meta)
            self.counts.forgotten += 1
            return
        archived = meta.rev if meta is not None else 0
        if entry.stat.rev > archived:
            note_once(self.stores, ref, "hot_loss", {"known_rev": entry.stat.rev, "restored_rev": archived})
            self.counts.lost += 1
        if stored is not None and meta is not None:
            set_right(self.stores, [told_by(self.stores, ref, stored, meta)])
            self.counts.cooled += 1

    # --- what lies aside ---

    def purge_strays(self) -> None:
        """Nothing of an erased thread may stay under `conflicts/`, should an erasure have been cut short."""
        for ref in self.stores.cold.threads_aside():
            there = self.stores.cold.head(ref)
            if there is not None and there.meta is not None and there.meta.tombstone:
                self.counts.purged += self.stores.cold.purge_late(ref, before=there.meta.rev)

    def is_late(self, ref: ThreadRef) -> bool:
        if time.monotonic() < self.deadline:
            return False
        self.counts.after = ref
        return True


def fits(known: CatalogEntry | None, listed: StoredObject, *, now_us: int) -> bool:
    """Whether a row may well describe a listed object: then nobody asks for the object's metadata."""
    if known is None:
        return False
    if known.erased_at is not None:  # what an erasure left was there before the catalog heard of it
        return listed.size < TOMBSTONE_BYTES and listed.modified <= known.erased_at
    stat, revs = known.stat, known.revs
    if (stat.etag, stat.stored_bytes, known.object_key) != (listed.etag, listed.size, listed.key):
        return False
    if revs.object != stat.archived_rev or stat.rev < stat.archived_rev or stat.born > stat.rev:
        return False
    if stat.tier == "cold" and stat.rev != stat.archived_rev:
        return False
    return max(revs.labels or 0, revs.count or 0) <= stat.rev and revs.stamp <= now_us + AHEAD_US


def is_outdated(known: CatalogEntry, stored: StoredObject) -> bool:
    """Whether the catalog knows of something later than this object; a row that names it only lies about it."""
    if stored.meta is None:
        return False
    if known.erased_at is not None:
        return stored.meta.born <= (known.revs.erased or 0)
    return known.stat.archived_rev > stored.meta.rev and known.stat.etag != stored.etag


def _is_gone(seen: Looked) -> bool:
    """Nothing is left in Redis; what is half there, or being erased, others look after."""
    return seen.status == "absent" and seen.remains is None


def _ref(entry: CatalogEntry) -> ThreadRef:
    return ThreadRef(entry.stat.namespace, entry.stat.thread_id)
