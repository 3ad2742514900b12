"""A cold store in memory, for unit tests alone: it keeps the port's promises and outlives nothing."""

import hashlib
import itertools
import threading
from collections.abc import Iterator
from dataclasses import replace

from threadkeep.errors import ArchiveMoved
from threadkeep.model import ArchiveMeta, StoredObject, ThreadRef
from threadkeep.storage.cold_keys import ColdKeys, v1_keys
from threadkeep.storage.ports import Announce, ColdFacts, unannounced


class MemoryColdStore:
    """A `ColdStore` over a dictionary, with old versions if `versioned`. Safe to use from several threads.

    Attributes:
        versions: All versions by key, the newest last; what a test may look into or put in place.
    """

    def __init__(self, prefix: str = "threads", *, versioned: bool = False) -> None:
        self.keys = ColdKeys(prefix)
        self.versioned = versioned
        self.versions: dict[str, list[tuple[StoredObject, bytes]]] = {}
        self._lock = threading.RLock()
        self._ticks = itertools.count(1)

    def put(self, ref: ThreadRef, body: bytes, *, meta: ArchiveMeta, based_on: str | None) -> StoredObject:
        key = self.keys.thread(ref)
        with self._lock:
            there = self._newest(key)
            if (there[0].etag if there else None) != based_on:
                raise ArchiveMoved(key)
            return self.write(key, body, meta)

    def extends(self, size: int) -> bool:
        return size > 0

    def extend(self, ref: ThreadRef, tail: bytes, *, meta: ArchiveMeta, based_on: str, keep: int) -> StoredObject:
        with self._lock:
            there = self._newest(self.keys.thread(ref))
            kept = there[1][:keep] if there else b""
            return self.put(ref, kept + tail, meta=meta, based_on=based_on)

    def put_back(self, ref: ThreadRef, body: bytes, *, meta: ArchiveMeta, over: StoredObject | None) -> StoredObject:
        return self.put(ref, body, meta=meta, based_on=over.etag if over else None)

    def head(self, ref: ThreadRef) -> StoredObject | None:
        found = self.get(ref)
        return found and found[0]

    def get(self, ref: ThreadRef) -> tuple[StoredObject, bytes] | None:
        return self._newest(self.keys.thread(ref))

    def earlier(self, ref: ThreadRef) -> Iterator[tuple[StoredObject, bytes]]:
        with self._lock:
            old = self.versions.get(self.keys.thread(ref), [])[:-1]
        yield from reversed(old)

    def get_v1(self, ref: ThreadRef) -> tuple[str, bytes] | None:
        for key in v1_keys(self.keys.prefix, ref):
            if found := self._newest(key):
                return key, found[1]
        return None

    def set_aside(self, ref: ThreadRef, *, etag: str) -> str | None:
        with self._lock:
            found = self.get(ref)
            if found is None or found[0].etag != etag:
                return None
            stored, body = found
            if stored.meta is None:
                key = self.keys.foreign_conflict(ref, stored.modified, etag)
            else:
                key = self.keys.conflict(ref, stored.meta.rev, stored.meta.attempt)
            return self.write(key, body, stored.meta).key

    def put_aside(self, ref: ThreadRef, body: bytes, *, meta: ArchiveMeta) -> str:
        return self.write(self.keys.conflict(ref, meta.rev, meta.attempt), body, meta).key

    def conflicts(self, ref: ThreadRef) -> list[StoredObject]:
        return [self.versions[key][-1][0] for key in self._under(self.keys.conflicts(ref))]

    def purge_conflicts(self, ref: ThreadRef, *, announce: Announce = unannounced) -> int:
        with self._lock:
            return self._purge(self._under(self.keys.conflicts(ref)), announce)

    def purge_history(self, ref: ThreadRef, *, keep: str, announce: Announce = unannounced) -> int:
        with self._lock:
            key = self.keys.thread(ref)
            old = self.versions.get(key, [])[:-1]
            kept = [version for version in old if version[0].etag == keep]
            if len(kept) < len(old):
                announce(len(old) - len(kept))
                self.versions[key] = [*kept, self.versions[key][-1]]
            return len(old) - len(kept)

    def purge_v1(self, ref: ThreadRef, *, announce: Announce = unannounced) -> int:
        with self._lock:
            return self._purge([key for key in v1_keys(self.keys.prefix, ref) if key in self.versions], announce)

    def purge_late(self, ref: ThreadRef, *, before: int) -> int:
        bound = self.keys.conflict(ref, before, "")
        with self._lock:
            return self._purge([key for key in self._under(self.keys.conflicts(ref)) if key < bound], unannounced)

    def _purge(self, keys: list[str], announce: Announce) -> int:
        count = sum(len(self.versions[key]) for key in keys)
        if count:
            announce(count)
        for key in keys:
            del self.versions[key]
        return count

    def scan(
        self, namespace: str | None = None, *, after: ThreadRef | None = None
    ) -> Iterator[tuple[ThreadRef, StoredObject]]:
        behind = self.keys.thread(after) if after else ""
        for key in self._under(self.keys.listing(namespace)):
            if key > behind and (ref := self.keys.thread_of(key)):
                yield ref, replace(self.versions[key][-1][0], meta=None, version_id=None)

    def threads_aside(self) -> Iterator[ThreadRef]:
        for ref, _ in itertools.groupby(map(self.keys.conflict_of, self._under(self.keys.all_conflicts()))):
            if ref is not None:
                yield ref

    def probe(self) -> ColdFacts:
        return ColdFacts(
            reachable=True,
            bucket=True,
            writable=True,
            conditional_create=True,
            conditional_replace=True,
            versioned=self.versioned,
        )

    def close(self) -> None:
        """Nothing to give back."""

    def write(self, key: str, body: bytes, meta: ArchiveMeta | None) -> StoredObject:
        """Put an object in place unconditionally, as a stranger would (then `meta` is None)."""
        with self._lock:
            tick = next(self._ticks)
            etag = hashlib.md5(body, usedforsecurity=False).hexdigest()
            stored = StoredObject(key, etag, len(body), meta, float(tick), str(tick) if self.versioned else None)
            earlier = self.versions.get(key, []) if self.versioned else []
            self.versions[key] = [*earlier, (stored, body)]
            return stored

    def _newest(self, key: str) -> tuple[StoredObject, bytes] | None:
        with self._lock:
            found = self.versions.get(key)
            return found[-1] if found else None

    def _under(self, prefix: str) -> list[str]:
        with self._lock:
            return sorted(key for key in self.versions if key.startswith(prefix))
