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
        if revisions and revisions[-1].key > stored.key:
            self.bucket.delete(stored.key)
            raise ArchiveMoved(revisions[-1].key)
        try:
            for item in stale(revisions, now=stored.modified):
                self.bucket.delete(item.key)
        except ThreadkeepError as error:
            _log.warning("old revisions were not pruned", extra={"key": stored.key, "problem": str(error)})
        return stored

    def head(self, ref: ThreadRef) -> StoredObject | None:
        return self._highest(ref, self.bucket.head)

    def get(self, ref: ThreadRef) -> tuple[StoredObject, bytes] | None:
        return self._highest(ref, self.bucket.get)

    def purge_history(self, ref: ThreadRef, *, keep: str) -> int:
        """As the port says, and never the highest revision, whatever its ETag: it may be a successor's."""
        highest = max((item.key for item in self._revisions(ref)), default="")

        def old(version: Version) -> bool:
            current = version.latest and version.key >= highest
            return self._is_of(ref, version.key) and version.etag != keep and not current

        return self.bucket.purge(self.keys.revisions(ref), old) + self._purge_v1(ref)

    def scan(self, namespace: str | None = None) -> Iterator[tuple[ThreadRef, StoredObject]]:
        for ref, items in groupby(self.bucket.listing(self.keys.listing(namespace)), self._ref_of):
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
