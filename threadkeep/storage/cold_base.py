"""What both layouts of the archive share: `conflicts/`, the keys of zeitlich, the probe."""

from abc import ABC, abstractmethod
from typing import Self

from pydantic import SecretStr

from threadkeep.config import Settings
from threadkeep.model import ArchiveMeta, StoredObject, ThreadRef
from threadkeep.storage.cold_keys import ColdKeys, v1_keys
from threadkeep.storage.cold_probe import probed
from threadkeep.storage.ports import ColdFacts
from threadkeep.storage.s3_bucket import S3Bucket, WritePolicy
from threadkeep.storage.s3_client import LazyClient, S3Access


class S3Base(ABC):
    """The part of the `ColdStore` port that does not depend on where a thread's own object lies."""

    def __init__(self, bucket: S3Bucket, keys: ColdKeys) -> None:
        self.bucket = bucket
        self.keys = keys

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """The store that the settings describe. Nothing is connected yet."""
        return cls(S3Bucket(LazyClient(_access(settings)), _policy(settings)), ColdKeys(settings.s3_prefix))

    @abstractmethod
    def head(self, ref: ThreadRef) -> StoredObject | None: ...

    def get_v1(self, ref: ThreadRef) -> tuple[str, bytes] | None:
        for key in v1_keys(self.keys.prefix, ref):
            if found := self.bucket.get(key):
                return key, found[1]
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

    def purge_conflicts(self, ref: ThreadRef) -> int:
        return self.bucket.purge(self.keys.conflicts(ref), lambda version: True)  # noqa: ARG005  # all of them

    def probe(self) -> ColdFacts:
        return probed(self.bucket, self.keys.probe())

    def close(self) -> None:
        self.bucket.close()

    def _purge_v1(self, ref: ThreadRef) -> int:
        keys = v1_keys(self.keys.prefix, ref)
        return sum(self.bucket.purge(key, lambda version: version.key in keys) for key in keys)


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
    )
