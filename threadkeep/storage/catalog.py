"""Where each thread is and what it weighs, in PostgreSQL."""

import time
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from sqlalchemy import Connection, Select, select

from threadkeep.config import Settings
from threadkeep.model import ThreadRef
from threadkeep.storage import catalog_writes as writes
from threadkeep.storage.catalog_engine import EngineOfProcess, database_url
from threadkeep.storage.catalog_errors import asking
from threadkeep.storage.catalog_reads import ENTRY, TOTALS, among, cached, conditions, is_thread, seconds
from threadkeep.storage.catalog_rows import as_seen, to_columns, to_entry
from threadkeep.storage.catalog_schema import thread_events, threads
from threadkeep.storage.ports import CatalogEntry, CatalogEvent, CatalogFilter, CatalogRow, TierTotals

T = TypeVar("T")


class PostgresCatalog:
    """A `Catalog` in the database of `THREADKEEP_DATABASE_URL`.

    Connects when first used; may be shared by threads and outlives a fork.

    Raises:
        SettingsError: the URL is malformed or of no PostgreSQL.
    """

    def __init__(self, settings: Settings) -> None:
        self._engine = EngineOfProcess(settings)
        self._secret = database_url(settings).password or ""

    def record(self, rows: Iterable[CatalogRow], events: Iterable[CatalogEvent] = ()) -> None:
        """Write rows and events in one transaction; safe to repeat and to reorder, as the port says.

        All rows go in one statement: give a call hundreds of them, not many thousands; it has to end in time.
        """
        columns, lines = [to_columns(row) for row in rows], list(events)
        if columns or lines:
            self._run("record", lambda connection: writes.record(connection, columns, lines))

    def replace(self, rows: Iterable[tuple[CatalogRow, CatalogEntry]]) -> set[ThreadRef]:
        """Write some hundred rows as they are, each if it still is as it was read, in one transaction."""
        pairs = list(rows)
        columns, seen = [to_columns(row) for row, _ in pairs], [as_seen(row, entry) for row, entry in pairs]
        if not pairs:
            return set()
        found = self._run("replace", lambda connection: writes.replace(connection, columns, seen))
        return {ThreadRef(*address) for address in found}

    def get(self, ref: ThreadRef) -> CatalogEntry | None:
        found = self._read("get", ENTRY.where(is_thread(threads, ref)))
        return to_entry(found[0], now=time.time()) if found else None

    def get_many(self, refs: Iterable[ThreadRef]) -> dict[ThreadRef, CatalogEntry]:
        wanted = list(refs)
        found = self._read("get_many", among(wanted)) if wanted else []
        entries = [to_entry(columns, now=time.time()) for columns in found]
        return {ThreadRef(entry.stat.namespace, entry.stat.thread_id): entry for entry in entries}

    def page(self, where: CatalogFilter, limit: int) -> list[CatalogEntry]:
        query = ENTRY.where(*conditions(where)).order_by(threads.c.namespace, threads.c.thread_id).limit(limit)
        now = time.time()
        return [to_entry(columns, now=now) for columns in self._read("page", query)]

    def cached(self, at: float, *, after: CatalogEntry | None = None, limit: int) -> list[CatalogEntry]:
        now = time.time()
        return [to_entry(columns, now=now) for columns in self._read("cached", cached(at, after).limit(limit))]

    def totals(self) -> dict[str, TierTotals]:
        found = {columns.pop("tier"): TierTotals(**columns) for columns in self._read("totals", TOTALS)}
        return {"hot": TierTotals(), "cold": TierTotals()} | found

    def forks_of(self, ref: ThreadRef) -> list[ThreadRef]:
        query = select(threads.c.namespace, threads.c.thread_id).where(threads.c.forked_from == ref.member)
        ordered = query.order_by(threads.c.namespace, threads.c.thread_id)
        return [ThreadRef(**columns) for columns in self._read("forks_of", ordered)]

    def erase(self, ref: ThreadRef, *, request_id: str, rev: int) -> None:
        """Keep the address and a mark, forget the rest; one born after `rev` is spared. Safe to repeat."""
        self._run("erase", lambda connection: writes.erase(connection, ref, request_id, rev))

    def events(self, ref: ThreadRef, limit: int = 50) -> list[tuple[float, CatalogEvent]]:
        query = select(seconds(thread_events.c.at).label("at"), thread_events.c.kind, thread_events.c.facts)
        newest = query.where(is_thread(thread_events, ref)).order_by(thread_events.c.id.desc()).limit(limit)
        found = self._read("events", newest)
        return [(columns["at"], CatalogEvent(ref, columns["kind"], columns["facts"])) for columns in found]

    def epoch_changed(self, shard: int, epoch: str) -> bool:
        """Remember the epoch of a shard; True if it replaced another. Of many at once, one hears True."""
        changes = self._run("epoch_changed", lambda connection: writes.remember_epoch(connection, shard, epoch))
        return bool(changes)

    def prune_events(self, older_than_days: int) -> int:
        """Delete audit events older than so many days, 10,000 in a transaction; how many were deleted."""
        total = 0
        while True:
            deleted = self._run("prune_events", lambda connection: writes.prune(connection, older_than_days))
            total += deleted
            if deleted < writes.PRUNED_AT_ONCE:
                return total

    def close(self) -> None:
        """Give this process's connections back; the next call opens new ones."""
        self._engine.close()

    def _read(self, operation: str, query: Select[Any]) -> list[dict[str, Any]]:
        return self._run(operation, lambda connection: [row._asdict() for row in connection.execute(query)])

    def _run(self, operation: str, work: Callable[[Connection], T]) -> T:
        with asking(operation, secret=self._secret), self._engine.get().begin() as connection:
            return work(connection)
