"""The cold store for S3-compatible stores without conditional writes: one immutable object per revision.

Nothing is ever replaced, so no condition is needed: who writes late writes beside, and the highest counts.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Final, TypeVar

from threadkeep.errors import ArchiveMoved, StoreUnavailable, ThreadkeepError
from threadkeep.model import ArchiveMeta, StoredObject, ThreadRef
from threadkeep.storage.cold_base import S3Base
from threadkeep.storage.ports import Announce, unannounced
from threadkeep.storage.s3_bucket import Version
from threadkeep.storage.s3_errors import STORE

KEPT_REVISIONS: Final = 2
"""The newest revisions that no put ever deletes."""
GRACE_SECONDS: Final = 3600.0
"""How long an older revision stays readable for whoever listed it before it was superseded."""

_ROUNDS: Final = 4

_log = logging.getLogger(__name__)
_Read = TypeVar("_Read")


class S3RevisionStore(S3Base):
    """A `ColdStore` in which the highest (rev, attempt) of a thread is what is stored.

    `put` does not look before it writes, but after: a writer below whom nobody reads takes its revision back and is
    told `ArchiveMoved`, as one that lost a conditional write would be.
    """

    def put(self, ref: ThreadRef, body: bytes, *, meta: ArchiveMeta, based_on: str | None) -> StoredObject:  # noqa: ARG002  # the port's
        stored = self.bucket.put(self.keys.revision(ref, meta.rev, meta.attempt), body, meta)
        revisions = self._revisions(ref)
        self._take_back_if_late(stored, revisions)
        try:
            now = max((item.modified for item in revisions), default=0.0)  # the store's clock, of what was just written
            for item in stale(revisions, now=now):
                self.bucket.delete(item.key)
        except ThreadkeepError as error:
            _log.warning("old revisions were not pruned", extra={"key": stored.key, "problem": str(error)})
        return stored

    def extends(self, size: int) -> bool:  # noqa: ARG002  the port's
        """Never: each revision is an object of its own."""
        return False

    def extend(self, ref: ThreadRef, tail: bytes, *, meta: ArchiveMeta, based_on: str, keep: int) -> StoredObject:
        raise NotImplementedError

    def put_back(self, ref: ThreadRef, body: bytes, *, meta: ArchiveMeta, over: StoredObject | None) -> StoredObject:
        """Under the damaged revision's own key, since a lower one would not count: the only object ever replaced."""
        there = self.head(ref)
        if (there and (there.key, there.etag)) != (over and (over.key, over.etag)):
            raise ArchiveMoved(there.key if there else self.keys.revisions(ref))
        if over is None:
            return self.put(ref, body, meta=meta, based_on=None)
        stored = self.bucket.put(over.key, body, meta)
        self._take_back_if_late(stored, self._revisions(ref))
        return stored

    def head(self, ref: ThreadRef) -> StoredObject | None:
        return self._highest(ref, self.bucket.head)

    def get(self, ref: ThreadRef) -> tuple[StoredObject, bytes] | None:
        return self._highest(ref, lambda key: self._get(ref, key))

    def earlier(self, ref: ThreadRef) -> Iterator[tuple[StoredObject, bytes]]:
        for item in reversed(self._revisions(ref)[:-1]):
            if found := self._thawed(item.key):
                yield found

    def purge_history(self, ref: ThreadRef, *, keep: str, announce: Announce = unannounced) -> int:
        """As the port says, and never the highest revision, whatever its ETag: it may be a successor's."""
        highest = self._highest_key(ref)

        def old(version: Version) -> bool:
            current = version.latest and version.key >= highest
            return self._is_of(ref, version.key) and version.etag != keep and not current

        return self.bucket.purge(self.keys.revisions(ref), old, announce)

    def purge_late(self, ref: ThreadRef, *, before: int) -> int:
        """As the port says: a writer that was killed before it saw that it came too late left its revision behind."""
        bound = min(self._highest_key(ref), self.keys.revision(ref, before, ""))

        def late(version: Version) -> bool:
            return self._is_of(ref, version.key) and version.key < bound

        return self.bucket.purge(self.keys.revisions(ref), late) + super().purge_late(ref, before=before)

    def scan(
        self, namespace: str | None = None, *, after: ThreadRef | None = None
    ) -> Iterator[tuple[ThreadRef, StoredObject]]:
        behind = self.keys.behind_revisions(after) if after else ""
        for ref, items in groupby(self.bucket.listing(self.keys.listing(namespace), after=behind), self._ref_of):
            if ref is not None:
                yield ref, max(items, key=_by_key)

    def _highest(self, ref: ThreadRef, read: Callable[[str], _Read | None]) -> _Read | None:
        for _ in range(_ROUNDS):
            revisions = self._revisions(ref)
            if not revisions:
                self.bucket.must_exist()
                return None
            if found := read(revisions[-1].key):
                return found
        raise StoreUnavailable(
            STORE, "GetObject", f"the newest revision of {ref} vanished {_ROUNDS} times while it was read"
        )

    def _take_back_if_late(self, stored: StoredObject, revisions: Sequence[StoredObject]) -> None:
        """What was written below the highest revision goes with all its versions: the thread may have been erased."""
        if revisions and revisions[-1].key > stored.key:
            self.bucket.purge(stored.key, lambda version: version.key == stored.key)
            raise ArchiveMoved(revisions[-1].key)

    def _highest_key(self, ref: ThreadRef) -> str:
        return max((item.key for item in self._revisions(ref)), default="")

    def _revisions(self, ref: ThreadRef) -> list[StoredObject]:
        """All revisions of a thread, lowest first."""
        listed = self.bucket.listing(self.keys.revisions(ref))
        return sorted((item for item in listed if self._is_of(ref, item.key)), key=_by_key)

    def _is_of(self, ref: ThreadRef, key: str) -> bool:
        found = self.keys.revision_of(key)
        return found is not None and found[0] == ref

    def _ref_of(self, item: StoredObject) -> ThreadRef | None:
        found = self.keys.revision_of(item.key)
        return found and found[0]


def stale(revisions: Sequence[StoredObject], *, now: float) -> list[StoredObject]:
    """Which of a thread's revisions, lowest first, nobody reads any more; `now` is Unix time."""
    return [item for item in revisions[:-KEPT_REVISIONS] if item.modified < now - GRACE_SECONDS]


def _by_key(item: StoredObject) -> str:
    return item.key
