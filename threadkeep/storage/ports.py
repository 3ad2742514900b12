"""What tasks ask of the cold store and of the catalog; each port has a contract suite in `threadkeep.testing`."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from threadkeep.model import ArchiveMeta, StoredObject, ThreadRef, ThreadStat

Announce = Callable[[int], None]
"""Told how many a purge will have deleted, after listing and before deleting them; what it raises stops the purge."""


def unannounced(number: int) -> None:
    """The `Announce` of whoever need not know."""


@dataclass(frozen=True, slots=True)
class ColdFacts:
    """What a probe of the bucket found; each fact is True, False, or None where it could not be tried.

    Attributes:
        reachable: The endpoint answered.
        bucket: The bucket exists and the credentials may use it.
        writable: An object could be written, read back and deleted.
        conditional_create: `If-None-Match: *` was honoured.
        conditional_replace: `If-Match` was honoured.
        versioned: The bucket keeps versions.
        problem: The first error, in one sentence without secrets; empty if none.
        engine: What sends the requests of flushes and hydrates; empty where there is no choice.
    """

    reachable: bool
    bucket: bool | None = None
    writable: bool | None = None
    conditional_create: bool | None = None
    conditional_replace: bool | None = None
    versioned: bool | None = None
    problem: str = ""
    engine: str = ""


class ColdStore(Protocol):
    """One object per thread. Every implementation passes `threadkeep.testing.cold.ColdStoreContract`.

    Raises (all methods):
        StoreUnavailable: no answer or a passing fault; repeat with the same arguments.
        StoreRefused: credentials, rights or the bucket are wrong; repeating does not help.
    """

    def put(self, ref: ThreadRef, body: bytes, *, meta: ArchiveMeta, based_on: str | None) -> StoredObject:
        """Replace the object whose ETag is `based_on`, or create it where that is None.

        A tombstone is written by the same call, with `meta.tombstone`.

        Raises:
            ArchiveMoved: another object is there, or none is (412, 409, and 404 on a wrong ETag); nothing was written
                by this request. After a retry inside the client it may be this call's own success: look again.
            StoreUnavailable: the outcome is unknown.
        """
        ...

    def extends(self, size: int) -> bool:
        """Whether `extend` works here for objects of which `size` bytes are kept; may ask the store, once a process."""
        ...

    def extend(self, ref: ThreadRef, tail: bytes, *, meta: ArchiveMeta, based_on: str, keep: int) -> StoredObject:
        """Replace the object whose ETag is `based_on` by its own first `keep` bytes and `tail` behind them.

        Only what is new travels. Only where `extends(keep)` says so.

        Raises:
            ArchiveMoved, StoreUnavailable: as of `put`.
        """
        ...

    def put_back(self, ref: ThreadRef, body: bytes, *, meta: ArchiveMeta, over: StoredObject | None) -> StoredObject:
        """Put a sound archive in the place of a damaged one, though its revision may be lower; for repairs alone.

        Args:
            ref: The thread.
            body: Verified bytes.
            meta: What their last seal says.
            over: The damaged object; None where none is stored.

        Raises:
            ArchiveMoved: another object is there; nothing was written.
            StoreUnavailable: the outcome is unknown.
        """
        ...

    def head(self, ref: ThreadRef) -> StoredObject | None:
        """What is stored for a thread, a tombstone included; None if nothing is."""
        ...

    def get(self, ref: ThreadRef) -> tuple[StoredObject, bytes] | None:
        """The object and its bytes, of one and the same version; None if nothing is stored.

        Raises:
            ArchiveFrozen: the object lies in a storage class that must be restored first.
        """
        ...

    def earlier(self, ref: ThreadRef) -> Iterator[tuple[StoredObject, bytes]]:
        """What was stored for a thread before, newest first and each read when it is asked for; tombstones too.

        Versions of a versioned bucket, also where the object itself was deleted; lower revisions where each has a key
        of its own; nothing otherwise. What lies in a storage class that must be restored first is passed over.
        """
        ...

    def get_v1(self, ref: ThreadRef) -> tuple[str, bytes] | None:
        """Key and bytes of the snapshot that zeitlich wrote for this thread (`.json.gz`, else `.json`), if any."""
        ...

    def set_aside(self, ref: ThreadRef, *, etag: str) -> str | None:
        """Copy the stored object under `conflicts/` on the server, if its ETag still is `etag`; safe to repeat.

        Returns:
            The copy's key, or None if the object has changed or gone meanwhile.
        """
        ...

    def put_aside(self, ref: ThreadRef, body: bytes, *, meta: ArchiveMeta) -> str:
        """Write bytes under `conflicts/` and return the key; safe to repeat."""
        ...

    def conflicts(self, ref: ThreadRef) -> list[StoredObject]:
        """What lies under `conflicts/` for a thread, oldest first."""
        ...

    def purge_conflicts(self, ref: ThreadRef, *, announce: Announce = unannounced) -> int:
        """Delete all that lies under `conflicts/` for a thread, versions included; how many were there."""
        ...

    def purge_history(self, ref: ThreadRef, *, keep: str, announce: Announce = unannounced) -> int:
        """Delete versions (and delete markers) of the thread's object other than the one whose ETag is `keep`.

        The newest version is never deleted, whatever its ETag: it may be a successor's. How many were deleted.
        """
        ...

    def purge_v1(self, ref: ThreadRef, *, announce: Announce = unannounced) -> int:
        """Delete what zeitlich wrote for a thread, with all versions; how many were deleted."""
        ...

    def purge_late(self, ref: ThreadRef, *, before: int) -> int:
        """Delete what was put beside a thread's object late: copies under `conflicts/` of revisions below `before`.

        Superseded revisions too, where each is an object of its own. Never what is stored. How many were deleted.
        """
        ...

    def scan(
        self, namespace: str | None = None, *, after: ThreadRef | None = None
    ) -> Iterator[tuple[ThreadRef, StoredObject]]:
        """All archived threads, tombstones included, from listings: `meta` is None in what is yielded.

        In key order within a namespace; the order of namespaces is the store's own. With `after`, only those behind
        that thread in this order, whether it is still there or not.
        """
        ...

    def threads_aside(self) -> Iterator[ThreadRef]:
        """Each thread of which something lies under `conflicts/`, once, from listings."""
        ...

    def probe(self) -> ColdFacts:
        """Try the bucket as it is, with one small object of its own under the prefix. Never raises."""
        ...

    def close(self) -> None:
        """Give the connections back."""
        ...


@dataclass(frozen=True, slots=True)
class CatalogRow:
    """What is written to the catalog about one thread. Times are Unix seconds.

    None leaves a column as it is, as long as what the column follows has not grown newer: `cached_until` follows
    `stamp`, what describes the object `archived_rev`, `codec` and `forked_from` the thread's birth.

    Attributes:
        stamp: Redis time in microseconds of the Lua reply that this row was made from; an older stamp never changes
            `tier` and `cached_until`.
    """

    ref: ThreadRef
    tier: Literal["hot", "cold"]
    stamp: int
    rev: int
    archived_rev: int = 0
    cached_until: float | None = None
    object_key: str | None = None
    etag: str | None = None
    version_id: str | None = None
    format: str | None = None
    raw_bytes: int | None = None
    stored_bytes: int | None = None
    count: int | None = None
    chain: str | None = None
    born: int | None = None
    codec: str | None = None
    labels: dict[str, str] | None = None
    forked_from: str | None = None
    active_at: float | None = None
    archived_at: float | None = None


@dataclass(frozen=True, slots=True)
class CatalogEvent:
    """One line of the audit log: ids and numbers only.

    Attributes:
        kind: `archived`, `restored`, `conflict`, `corrupt`, `erased`, `hot_loss`, `set_aside`, …
        facts: Small JSON object of numbers, revisions and keys.
    """

    ref: ThreadRef
    kind: str
    facts: dict[str, Any]


@dataclass(frozen=True, slots=True)
class RowRevs:
    """What the columns of a row follow when rows merge; None where nothing was told yet.

    Attributes:
        stamp: Of `tier` and `cached_until`; microseconds.
        object: Revision of the object that is described.
        labels: Revision that the labels belong to.
        count: Revision that the count of messages belongs to.
        erased: What was born up to this revision is erased.
    """

    stamp: int = 0
    object: int | None = None
    labels: int | None = None
    count: int | None = None
    erased: int | None = None


@dataclass(frozen=True, slots=True)
class CatalogEntry:
    """A row of the catalog as it is read. Times are Unix seconds; two that differ in `revs` alone count as equal."""

    stat: ThreadStat
    object_key: str | None
    version_id: str | None
    chain: str | None
    cached_until: float | None
    created_at: float
    active_at: float
    archived_at: float | None
    erased_at: float | None
    revs: RowRevs = field(default=RowRevs(), compare=False)


@dataclass(frozen=True, slots=True)
class CatalogFilter:
    """Which threads to list; None means any.

    Attributes:
        labels: All of these must be present with these values.
        idle_since: Only threads last active before this Unix time.
        after: Only threads behind this one in (namespace, thread_id) order: the last of the page before.
    """

    namespace: str | None = None
    tier: Literal["hot", "cold"] | None = None
    labels: dict[str, str] | None = None
    id_prefix: str | None = None
    idle_since: float | None = None
    erased: bool = False
    after: ThreadRef | None = None


@dataclass(frozen=True, slots=True)
class TierTotals:
    """Threads, messages and bytes per tier, as of the last sweep."""

    threads: int = 0
    messages: int = 0
    raw_bytes: int = 0
    stored_bytes: int = 0


class Catalog(Protocol):
    """Where each thread is. Derived: losing it loses no thread. Passes `threadkeep.testing.catalog.CatalogContract`.

    Raises (all methods):
        StoreUnavailable: no answer; repeating is safe.
        StoreRefused: no such database or table, or no right to it.
    """

    def record(self, rows: Iterable[CatalogRow], events: Iterable[CatalogEvent] = ()) -> None:
        """Write rows and events in one transaction; safe to repeat and to reorder.

        `rev` and `archived_rev` only grow, what describes the object follows `archived_rev`, `tier` and `cached_until`
        follow `stamp`. A row of an erased thread comes back to life only by a `born` after its erasure.
        """
        ...

    def replace(self, rows: Iterable[tuple[CatalogRow, CatalogEntry]]) -> set[ThreadRef]:
        """Write rows past the rules by which rows merge, each if it still is as it was read; for a reconcile alone.

        What a row does not tell of the object, it forgets; labels stay where they are no newer than the row, codec and
        source where the row tells no codec. An erased row becomes none of a life before its erasure.

        Whoever replaces a row looks at the object once more afterwards, and records it if it changed: a flush that told
        the catalog just before was merged into a row that claimed to be newer.

        Returns:
            The threads whose rows were replaced; the others had changed meanwhile.
        """
        ...

    def get(self, ref: ThreadRef) -> CatalogEntry | None: ...

    def get_many(self, refs: Iterable[ThreadRef]) -> dict[ThreadRef, CatalogEntry]:
        """The rows of some hundred threads, in one statement; those that have none are left out."""
        ...

    def page(self, where: CatalogFilter, limit: int) -> list[CatalogEntry]:
        """At most `limit` rows in (namespace, thread_id) order."""
        ...

    def cached(self, at: float, *, after: CatalogEntry | None = None, limit: int) -> list[CatalogEntry]:
        """At most `limit` cold threads of which a copy may be in Redis at a Unix time, last to leave first.

        `after` is the last of the page before: a walk never meets copies that began to linger meanwhile. Takes no
        longer where there are more threads of which there is no copy.
        """
        ...

    def totals(self) -> dict[str, TierTotals]:
        """Totals by tier: `hot` and `cold`, erased threads left out."""
        ...

    def forks_of(self, ref: ThreadRef) -> list[ThreadRef]:
        """Threads whose `forked_from` is this one."""
        ...

    def erase(self, ref: ThreadRef, *, request_id: str, rev: int) -> None:
        """Keep the row but forget everything about the thread except its address: a mark of erasure. Safe to repeat."""
        ...

    def events(self, ref: ThreadRef, limit: int = 50) -> list[tuple[float, CatalogEvent]]:
        """The newest events of a thread with their Unix times, newest first."""
        ...

    def epoch_changed(self, shard: int, epoch: str) -> bool:
        """Remember the epoch of an index shard; True if another one was remembered before."""
        ...

    def prune_events(self, older_than_days: int) -> int:
        """Delete old audit events; how many."""
        ...

    def close(self) -> None: ...
