"""What both layouts of the archive share: `conflicts/`, the keys of zeitlich, the probe."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from itertools import groupby
from typing import Self

from pydantic import SecretStr

from threadkeep.config import Settings
from threadkeep.errors import ArchiveCorrupt, ArchiveFrozen
from threadkeep.model import ArchiveMeta, StoredObject, ThreadRef
from threadkeep.storage.cold_keys import ColdKeys, v1_keys
from threadkeep.storage.cold_probe import probed
from threadkeep.storage.limits import ReadLimits
from threadkeep.storage.ports import Announce, ColdFacts, unannounced
from threadkeep.storage.s3_bucket import S3Bucket
from threadkeep.storage.s3_client import LazyClient, S3Access
from threadkeep.storage.s3_policy import WritePolicy


class S3Base(ABC):
    """The part of the `ColdStore` port that does not depend on where a thread's own object lies."""

    def __init__(self, bucket: S3Bucket, keys: ColdKeys, *, most: int | None = None) -> None:
        """Over a bucket; objects of more than `most` bytes are not read."""
        self.bucket = bucket
        self.keys = keys
        self._most = most

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """The store that the settings describe. Nothing is connected yet."""
        bucket = S3Bucket(LazyClient(_access(settings)), _policy(settings), settings.s3_engine)
        return cls(bucket, ColdKeys(settings.s3_prefix), most=ReadLimits.of(settings).object)

    @abstractmethod
    def head(self, ref: ThreadRef) -> StoredObject | None: ...

    def get_v1(self, ref: ThreadRef) -> tuple[str, bytes] | None:
        for key in v1_keys(self.keys.prefix, ref):
            if found := self._get(ref, key):
                return key, found[1]
        return None

    def _get(self, ref: ThreadRef, key: str) -> tuple[StoredObject, bytes] | None:
        return self.bucket.get(key, most=self._most, thread=str(ref))

    def _thawed(self, key: str, version_id: str | None = None) -> tuple[StoredObject, bytes] | None:
        """An object of the past; None where it has gone, cannot be read by its storage class, or is larger than any."""
        try:
            return self.bucket.get(key, version_id=version_id, most=self._most)
        except (ArchiveFrozen, ArchiveCorrupt):
            return None

    def set_aside(self, ref: ThreadRef, *, etag: str) -> str | None:
        stored = self.head(ref)
        if stored is None or stored.etag != etag:
            return None
        if stored.meta is None:
            key = self.keys.foreign_conflict(ref, stored.modified, etag)
        else:
            key = self.keys.conflict(ref, stored.meta.rev, stored.meta.attempt)
        return key if self.bucket.copy(stored, key) else None

    def put_aside(self, ref: ThreadRef, body: bytes, *, meta: ArchiveMeta) -> str:
        return self.bucket.put(self.keys.conflict(ref, meta.rev, meta.attempt), body, meta).key

    def conflicts(self, ref: ThreadRef) -> list[StoredObject]:
        listed = sorted(item.key for item in self.bucket.listing(self.keys.conflicts(ref)))
        return [stored for key in listed if (stored := self.bucket.head(key))]

    def threads_aside(self) -> Iterator[ThreadRef]:
        listed = self.bucket.listing(self.keys.all_conflicts())
        for ref, _ in groupby(self.keys.conflict_of(item.key) for item in listed):
            if ref is not None:
                yield ref

    def purge_conflicts(self, ref: ThreadRef, *, announce: Announce = unannounced) -> int:
        return self.bucket.purge(self.keys.conflicts(ref), lambda version: True, announce)  # noqa: ARG005  # all of them

    def purge_v1(self, ref: ThreadRef, *, announce: Announce = unannounced) -> int:
        keys, gone = v1_keys(self.keys.prefix, ref), 0
        for key in keys:
            before = gone
            gone += self.bucket.purge(
                key,
                lambda version: version.key in keys,
                lambda number: announce(before + number),  # noqa: B023
            )
        return gone

    def purge_late(self, ref: ThreadRef, *, before: int) -> int:
        bound = self.keys.conflict(ref, before, "")
        return self.bucket.purge(self.keys.conflicts(ref), lambda version: version.key < bound)

    def probe(self) -> ColdFacts:
        return probed(self.bucket, self.keys.probe())

    def close(self) -> None:
        self.bucket.close()


def _access(settings: Settings) -> S3Access:
    return S3Access(
        bucket=settings.s3_bucket,
        endpoint=settings.s3_endpoint,
        region=settings.s3_region,
        access_key=_plain(settings.s3_access_key),
        secret_key=_plain(settings.s3_secret_key),
        session_token=_plain(settings.s3_session_token),
        addressing=settings.s3_addressing,
        connect_timeout=settings.s3_connect_timeout,
        read_timeout=settings.s3_read_timeout,
        retry_mode=settings.s3_retry_mode,
        attempts=settings.s3_attempts,
        max_connections=settings.s3_max_connections,
    )


def _plain(secret: SecretStr | None) -> str | None:
    return None if secret is None else secret.get_secret_value()


def _policy(settings: Settings) -> WritePolicy:
    return WritePolicy(
        storage_class=settings.s3_storage_class,
        sse=settings.s3_sse,
        sse_kms_key=settings.s3_sse_kms_key,
        tags=dict(settings.s3_tags),
        checksum=settings.s3_checksum,
        copied_parts=settings.s3_copied_parts,
    )
