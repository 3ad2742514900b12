"""A catalog in the memory of one process, for unit tests; it passes `CatalogContract`."""

import threading
import time
from collections.abc import Iterable
from copy import deepcopy
from typing import Any

from threadkeep.model import ThreadRef
from threadkeep.storage.catalog_rows import (
    EMPTY,
    FOLLOWS,
    GROWING,
    LIFE_REVS,
    OBJECT_COLUMNS,
    Columns,
    as_seen,
    to_columns,
    to_entry,
)
from threadkeep.storage.ports import CatalogEntry, CatalogEvent, CatalogFilter, CatalogRow, TierTotals

_NO_MARK: Columns = {"erased_at": None, "erased_rev": None, "erase_request": None}


class MemoryCatalog:
    def __init__(self) -> None:
        self._rows: dict[ThreadRef, Columns] = {}
        self._events: list[tuple[float, CatalogEvent]] = []
        self._epochs: dict[int, str] = {}
        self._lock = threading.Lock()

    def record(self, rows: Iterable[CatalogRow], events: Iterable[CatalogEvent] = ()) -> None:
        with self._lock:
            for row in rows:
                self._rows[row.ref] = _merged(self._rows.get(row.ref), deepcopy(to_columns(row)))
            self._events.extend((time.time(), deepcopy(event)) for event in events)

    def replace(self, rows: Iterable[tuple[CatalogRow, CatalogEntry]]) -> set[ThreadRef]:
        replaced = set()
        with self._lock:
            for row, entry in rows:
                old, seen = self._rows.get(row.ref), as_seen(row, entry)
                if old is not None and _still(old, seen):
                    self._rows[row.ref] = _merged(_reset(old, seen), deepcopy(to_columns(row)))
                    replaced.add(row.ref)
        return replaced

    def get(self, ref: ThreadRef) -> CatalogEntry | None:
        with self._lock:
            columns = self._rows.get(ref)
            return None if columns is None else to_entry(deepcopy(columns), now=time.time())

    def get_many(self, refs: Iterable[ThreadRef]) -> dict[ThreadRef, CatalogEntry]:
        return {ref: entry for ref in refs if (entry := self.get(ref)) is not None}

    def page(self, where: CatalogFilter, limit: int) -> list[CatalogEntry]:
        with self._lock:
            found = [columns for ref, columns in sorted(self._rows.items()) if _matches(where, ref, columns)]
            return [to_entry(deepcopy(columns), now=time.time()) for columns in found[:limit]]

    def cached(self, at: float, *, after: CatalogEntry | None = None, limit: int) -> list[CatalogEntry]:
        with self._lock:
            cold = [each for each in self._rows.values() if each["tier"] == "cold" and each["erased_at"] is None]
            entries = [to_entry(deepcopy(columns), now=time.time()) for columns in cold]
        found = sorted((entry for entry in entries if (entry.cached_until or 0) > at), key=_leaving, reverse=True)
        return [entry for entry in found if after is None or _leaving(entry) < _leaving(after)][:limit]

    def totals(self) -> dict[str, TierTotals]:
        with self._lock:
            living = [columns for columns in self._rows.values() if columns["erased_at"] is None]
        return {tier: _total([columns for columns in living if columns["tier"] == tier]) for tier in ("hot", "cold")}

    def forks_of(self, ref: ThreadRef) -> list[ThreadRef]:
        with self._lock:
            return sorted(fork for fork, columns in self._rows.items() if columns["forked_from"] == ref.member)

    def erase(self, ref: ThreadRef, *, request_id: str, rev: int) -> None:
        with self._lock:
            columns = self._rows.setdefault(ref, _address(ref) | EMPTY | _NO_MARK)
            columns["erased_rev"] = max(rev, columns["erased_rev"] or 0)
            if (columns["born"] or 0) <= rev:
                mark = {"erased_at": columns["erased_at"] or time.time()}
                columns |= EMPTY | mark | {"erase_request": columns["erase_request"] or request_id}
            if (columns["object_rev"] or 0) <= rev:
                columns |= dict.fromkeys((*OBJECT_COLUMNS, "object_rev"))
            if columns["archived_rev"] <= rev:
                columns["archived_rev"] = 0
            birth = columns["created_at"] or float("inf")
            self._events = [
                (at, CatalogEvent(ref, event.kind, {}) if _forgotten(event, ref) and at < birth else event)
                for at, event in self._events
            ]

    def events(self, ref: ThreadRef, limit: int = 50) -> list[tuple[float, CatalogEvent]]:
        with self._lock:
            return [(at, deepcopy(event)) for at, event in reversed(self._events) if event.ref == ref][:limit]

    def epoch_changed(self, shard: int, epoch: str) -> bool:
        with self._lock:
            before, self._epochs[shard] = self._epochs.get(shard, epoch), epoch
            return before != epoch

    def prune_events(self, older_than_days: int) -> int:
        with self._lock:
            kept = [line for line in self._events if line[0] >= time.time() - older_than_days * 86_400]
            deleted, self._events = len(self._events) - len(kept), kept
            return deleted

    def close(self) -> None:
        pass


def _leaving(entry: CatalogEntry) -> tuple[float, str, str]:
    return entry.cached_until or 0, entry.stat.namespace, entry.stat.thread_id


def _still(old: Columns, seen: Columns) -> bool:
    if old["erased_rev"] is not None and not (seen["born"] or 0) > old["erased_rev"]:
        return False
    return all(old[name] == seen[name] for name in ("stamp", "rev", "archived_rev", "object_rev", "etag"))


def _reset(old: Columns, seen: Columns) -> Columns:
    forgotten = (*OBJECT_COLUMNS, "object_rev", "born", "count_rev", "active_at", "cached_until")
    labels = old["labels_rev"] if (old["labels_rev"] or 0) <= seen["now_rev"] else None
    source = old["forked_from"] if seen["codec"] is None else None
    versions = {"rev": 0, "archived_rev": 0, "stamp": 0, "labels_rev": labels, "forked_from": source}
    return old | dict.fromkeys(forgotten) | versions


def _merged(old: Columns | None, new: Columns) -> Columns:
    if old is None:
        return new | _NO_MARK
    if not _outlives_erasure(old, new):
        return old
    merged = old | {"erased_at": None, "erase_request": None}
    for name in GROWING:
        merged[name] = _greatest(old[name], new[name])
    for name in LIFE_REVS:
        side = _later(old, new, ("born",))
        merged[name] = _greatest(old[name], new[name]) if side is None else side[name]
    for name, versions in FOLLOWS.items():
        side = _later(old, new, versions) or (old if new[name] is None else new)
        merged[name] = side[name]
    return merged


def _outlives_erasure(old: Columns, new: Columns) -> bool:
    if old["erased_rev"] is None:
        return True
    if new["born"] is None:
        return bool(old["erased_at"] is None and new["rev"] > old["erased_rev"])
    return bool(new["born"] > old["erased_rev"])


def _later(old: Columns, new: Columns, versions: tuple[str, ...]) -> Columns | None:
    for version in versions:
        if old[version] is not None and new[version] is not None and old[version] != new[version]:
            return new if new[version] > old[version] else old
    return None


def _greatest(one: Any, other: Any) -> Any:
    return max((value for value in (one, other) if value is not None), default=None)


def _address(ref: ThreadRef) -> Columns:
    return {"namespace": ref.namespace, "thread_id": ref.thread_id}


def _forgotten(event: CatalogEvent, ref: ThreadRef) -> bool:
    return event.ref == ref and event.kind != "erased"


def _matches(where: CatalogFilter, ref: ThreadRef, columns: Columns) -> bool:
    labels = columns["labels"] or {}
    return (
        where.erased == (columns["erased_at"] is not None)
        and where.namespace in (None, ref.namespace)
        and where.tier in (None, columns["tier"])
        and ref.thread_id.startswith(where.id_prefix or "")
        and (where.labels or {}).items() <= labels.items()
        and (where.idle_since is None or (columns["active_at"] or 0) < where.idle_since)
        and (where.after is None or ref > where.after)
    )


def _total(rows: list[Columns]) -> TierTotals:
    sums = (sum(columns[name] or 0 for columns in rows) for name in ("message_count", "raw_bytes", "stored_bytes"))
    return TierTotals(len(rows), *sums)
