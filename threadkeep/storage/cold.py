"""The cold store over S3: one object per thread, replaced only by whoever knows its ETag."""

import logging
from collections.abc import Iterator

from threadkeep.config import Settings
from threadkeep.errors import ArchiveMoved, StoreRefused
from threadkeep.model import ArchiveMeta, StoredObject, ThreadRef
from threadkeep.storage.cold_base import S3Base
from threadkeep.storage.cold_revisions import S3RevisionStore
from threadkeep.storage.ports import Announce, ColdStore, unannounced
from threadkeep.storage.s3_bucket import Version
from threadkeep.storage.s3_errors import ConditionFailed, ObjectMissing
from threadkeep.storage.s3_multipart import (
    PART_BYTES,
    abort_uploads,
    completes_atomically,
    completes_conditionally,
    extend,
)

log = logging.getLogger(__name__)


def open_cold(settings: Settings) -> ColdStore:
    """The cold store that the settings describe; connects at first use, in the process that uses it.

    Choose `conditional_writes` once per bucket: each store sees only what was written in its own layout.
    """
    return S3ColdStore.of(settings) if settings.conditional_writes == "on" else S3RevisionStore.of(settings)


class S3ColdStore(S3Base):
    """A `ColdStore` on a store that honours `If-Match` and `If-None-Match`.

    Safe to use from several threads, and from processes forked after it was made.
    """

    _completes: bool | None = None

    def put(self, ref: ThreadRef, body: bytes, *, meta: ArchiveMeta, based_on: str | None) -> StoredObject:
        key = self.keys.thread(ref)
        try:
            return self.bucket.put(key, body, meta, if_match=based_on, create=based_on is None)
        except (ConditionFailed, ObjectMissing) as error:
            raise ArchiveMoved(key) from error

    def extends(self, size: int) -> bool:
        if size < PART_BYTES or not completes_atomically(self.bucket):
            return False
        if self._completes is None:
            reason = "conditions are not honoured"
            try:
                self._completes = completes_conditionally(self.bucket, self.keys.probe())
            except StoreRefused as error:  # whole objects need fewer rights
                self._completes, reason = False, str(error)
            if not self._completes:
                log.warning("large objects are put whole, not extended", extra={"reason": reason})
        return self._completes

    def extend(self, ref: ThreadRef, tail: bytes, *, meta: ArchiveMeta, based_on: str, keep: int) -> StoredObject:
        key = self.keys.thread(ref)
        try:
            return extend(self.bucket, key, tail, meta, based_on=based_on, keep=keep)
        except (ConditionFailed, ObjectMissing) as error:
            raise ArchiveMoved(key) from error

    def put_back(self, ref: ThreadRef, body: bytes, *, meta: ArchiveMeta, over: StoredObject | None) -> StoredObject:
        return self.put(ref, body, meta=meta, based_on=over.etag if over else None)

    def head(self, ref: ThreadRef) -> StoredObject | None:
        return self.bucket.head(self.keys.thread(ref))

    def get(self, ref: ThreadRef) -> tuple[StoredObject, bytes] | None:
        return self._get(ref, self.keys.thread(ref))

    def earlier(self, ref: ThreadRef) -> Iterator[tuple[StoredObject, bytes]]:
        key = self.keys.thread(ref)
        old = [version for version in self.bucket.versions(key) if version.key == key and not version.latest]
        for version in sorted(old, key=lambda version: -version.modified):
            if version.etag and (found := self._thawed(key, version.version_id)):
                yield found

    def purge_history(self, ref: ThreadRef, *, keep: str, announce: Announce = unannounced) -> int:
        """As the port says, and never the current version, whatever its ETag: it may be a successor's.

        Parts that a flush has uploaded and not yet put together go too.
        """
        key = self.keys.thread(ref)

        def old(version: Version) -> bool:
            return version.key == key and not version.latest and version.etag != keep

        abort_uploads(self.bucket, key)
        return self.bucket.purge(key, old, announce)

    def purge_late(self, ref: ThreadRef, *, before: int) -> int:
        """As the port says, and parts that were on their way while the upload was given up, whose worker then died.

        A successor's flush, if one is under way, begins again.
        """
        abort_uploads(self.bucket, self.keys.thread(ref))
        return super().purge_late(ref, before=before)

    def scan(
        self, namespace: str | None = None, *, after: ThreadRef | None = None
    ) -> Iterator[tuple[ThreadRef, StoredObject]]:
        behind = self.keys.thread(after) if after else ""
        for item in self.bucket.listing(self.keys.listing(namespace), after=behind):
            if ref := self.keys.thread_of(item.key):
                yield ref, item
