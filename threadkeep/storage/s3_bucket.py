"""One bucket as typed operations on keys: ETags unquoted, metadata parsed, errors mapped."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from threadkeep.errors import AnswerGarbled, ArchiveCorrupt, StoreRefused, StoreUnavailable
from threadkeep.model import ArchiveMeta, StoredObject
from threadkeep.storage.ports import Announce, unannounced
from threadkeep.storage.s3_client import LazyClient
from threadkeep.storage.s3_engine import LARGEST_PUT, Engine, QuickRequests, quick_requests
from threadkeep.storage.s3_errors import STORE, ConditionFailed, ObjectMissing, mapped
from threadkeep.storage.s3_policy import CONTENT_TYPE, WritePolicy, unquoted
from threadkeep.storage.s3_template import TemplateRequests

if TYPE_CHECKING:
    from types_boto3_s3.client import S3Client


@dataclass(frozen=True, slots=True)
class Version:
    """One version of a key, or a delete marker.

    Attributes:
        version_id: None on a store without versions, `null` for an object older than the bucket's versioning.
        etag: Unquoted; empty for a delete marker.
        latest: Whether it is what a plain GET sees (or does not see, for a marker).
        modified: Unix seconds of the store's clock; 0 on a store without versions.
    """

    key: str
    version_id: str | None
    etag: str
    latest: bool
    modified: float = 0.0


class S3Bucket:
    """The operations of one bucket. Safe to use from several threads, and after a fork.

    Raises (all methods):
        StoreUnavailable, StoreRefused: as of `s3_errors.mapped`; `ObjectMissing` and `ConditionFailed` are
            among the latter.
    """

    def __init__(self, connection: LazyClient, policy: WritePolicy, engine: Engine = "boto3") -> None:
        """Over a connection; `engine` says who sends PutObject, HeadObject and GetObject.

        Raises:
            SettingsError: obstore is asked for and not installed.
        """
        self.name = connection.access.bucket
        self.policy = policy
        self.connection = connection
        self.multipart = TemplateRequests(connection)
        self._quick = quick_requests(connection.access, policy, engine)
        self._seen = False

    @property
    def engine(self) -> str:
        """Who sends PutObject, HeadObject and GetObject; boto3 sends all else."""
        return "obstore" if self._quick_for("any") else "boto3"

    @property
    def client(self) -> "S3Client":
        return self.connection.get()

    def put(
        self, key: str, body: bytes, meta: ArchiveMeta, *, if_match: str | None = None, create: bool = False
    ) -> StoredObject:
        """One PutObject; with `create` only where no object is, with `if_match` only over that ETag."""
        if len(body) <= LARGEST_PUT and (quick := self._quick_for(key)):
            return quick.put(key, body, meta, if_match=if_match, create=create)
        request: dict[str, Any] = {**self.policy.upload(body), "Metadata": meta.to_headers()}
        if create:
            request["IfNoneMatch"] = "*"
        elif if_match is not None:
            request["IfMatch"] = if_match  # unquoted: some stores compare the text as it is, all accept it so
        with mapped("PutObject", key):
            answer = self.client.put_object(Bucket=self.name, Key=key, Body=body, ContentType=CONTENT_TYPE, **request)
        sent_at = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
        return StoredObject(
            key=key,
            etag=unquoted(answer["ETag"]),
            size=len(body),
            meta=meta,
            modified=parsedate_to_datetime(sent_at).timestamp() if sent_at else 0.0,
            version_id=_version(answer),
        )

    def head(self, key: str) -> StoredObject | None:
        try:
            if quick := self._quick_for(key):
                return quick.head(key)
            with mapped("HeadObject", key):
                answer = self.client.head_object(Bucket=self.name, Key=key)
        except ObjectMissing:
            self.must_exist(key)
            return None
        return _stored(key, answer)

    def get(
        self, key: str, *, version_id: str | None = None, most: int | None = None, thread: str = ""
    ) -> tuple[StoredObject, bytes] | None:
        """Metadata and body of one answer, so of one version: the current one if none is named.

        Raises:
            ArchiveCorrupt: it has more than `most` bytes, none of which was read; names the `thread`.
        """
        verify: dict[str, Any] = {"ChecksumMode": "ENABLED"} if self.policy.checksum else {}
        if version_id is not None:
            verify["VersionId"] = version_id
        try:
            quick = self._quick_for(key)
            if quick and (found := quick.get(key, version_id=version_id, most=most, thread=thread)):
                return found
            with mapped("GetObject", key):
                answer = self.client.get_object(Bucket=self.name, Key=key, **verify)
                if most is not None and answer["ContentLength"] > most:
                    answer["Body"].close()
                    raise ArchiveCorrupt(thread, key, "it is larger than THREADKEEP_MAX_THREAD_BYTES allows")
                body = answer["Body"].read()
            if quick and answer.get("ServerSideEncryption", "").startswith("aws:kms"):
                quick.digests = False
        except ObjectMissing as error:
            self._seen |= error.reason.startswith("NoSuchKey")
            self.must_exist()
            return None
        if len(body) != answer["ContentLength"]:
            reason = f"{len(body)} of {answer['ContentLength']} bytes came"
            raise StoreUnavailable(STORE, "GetObject", reason)
        stored = _stored(key, answer)
        if quick and not quick.sound(stored.etag, body):
            if quick.proven:
                raise AnswerGarbled(STORE, "GetObject", "twice its bytes did not have the MD5 that is their ETag")
            quick.digests = False  # ETags are something else here: nothing is read twice for that any more
        return stored, body

    def copy(self, source: StoredObject, key: str) -> bool:
        """Copy an object on the server with its metadata if its ETag is still the same; whether that was so.

        The copy is looked at afterwards, because some stores (moto) ignore the condition. Its ETag is not
        compared: under SSE-KMS a copy has another.
        """
        origin: dict[str, str] = {"Bucket": self.name, "Key": source.key}
        if source.version_id is not None:
            origin["VersionId"] = source.version_id
        request: dict[str, Any] = {**self.policy.placement(), "CopySource": origin}
        try:
            with mapped("CopyObject", source.key):
                self.client.copy_object(
                    Bucket=self.name,
                    Key=key,
                    CopySourceIfMatch=source.etag,
                    MetadataDirective="COPY",
                    **request,
                )
        except (ObjectMissing, ConditionFailed):
            return False
        copied = self.head(key)
        if copied is not None and (copied.size, copied.meta) == (source.size, source.meta):
            return True
        self.delete(key)
        return False

    def delete(self, key: str, version_id: str | None = None) -> None:
        """Delete a key, or for good one version of it; no error if there is none.

        Objects go one by one: DeleteObjects needs a checksum that S3-compatible stores disagree about.
        """
        request: dict[str, Any] = {} if version_id is None else {"VersionId": version_id}
        try:
            with mapped("DeleteObject", key):
                self.client.delete_object(Bucket=self.name, Key=key, **request)
        except ObjectMissing:
            return

    def purge(self, prefix: str, doomed: Callable[[Version], bool], announce: Announce = unannounced) -> int:
        """Delete for good what is doomed among the versions and markers under a prefix; how many there were.

        Lists again until nothing new is doomed, since SeaweedFS 4.48 loses versions between two pages of a listing.
        """
        gone: set[Version] = set()
        while found := {version for version in self.versions(prefix) if doomed(version)} - gone:
            announce(len(gone) + len(found))
            for version in found:
                self.delete(version.key, version.version_id)
            gone |= found
        return len(gone)

    def listing(self, prefix: str, *, after: str = "") -> Iterator[StoredObject]:
        """All objects under a prefix, behind the key `after`, in the store's order; without `meta` and `version_id`."""
        start: dict[str, Any] = {"StartAfter": after} if after else {}
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=prefix, **start)
        with mapped("ListObjectsV2"):
            for page in pages:
                for item in page.get("Contents", []):
                    modified = item["LastModified"].timestamp()
                    yield StoredObject(item["Key"], unquoted(item["ETag"]), item["Size"], None, modified)

    def versions(self, prefix: str) -> list[Version]:
        """All versions and delete markers under a prefix; the objects, on a store that knows no versions."""
        pages = self.client.get_paginator("list_object_versions").paginate(Bucket=self.name, Prefix=prefix)
        found: list[Version] = []
        try:
            with mapped("ListObjectVersions"):
                for page in pages:
                    found += map(_version_of, page.get("Versions", []))
                    found += map(_version_of, page.get("DeleteMarkers", []))
        except StoreRefused as error:
            if not error.reason.startswith(("NotImplemented", "MethodNotAllowed")):
                raise
            return [Version(item.key, None, item.etag, latest=True) for item in self.listing(prefix)]
        return found

    def versioned(self) -> bool:
        with mapped("GetBucketVersioning"):
            return self.client.get_bucket_versioning(Bucket=self.name).get("Status") == "Enabled"

    def must_exist(self, missing: str | None = None) -> None:
        """Tell a missing object from a missing bucket, which a HEAD answers alike with a bare 404.

        Asks once per process: a PUT into a bucket that went away later is refused by name.

        Args:
            missing: A key that a HEAD did not find; a GET of it is answered by name.
        """
        if not self._seen and missing is not None and self._quick_for(missing):
            with suppress(ArchiveCorrupt):  # it is there by now, and larger than nothing
                self.get(missing, most=0)
        if not self._seen:
            self.check()

    def check(self) -> None:
        """Ask for the bucket itself.

        Raises:
            StoreRefused: there is none of that name, or these credentials may not use it.
        """
        try:
            with mapped("HeadBucket"):
                self.client.head_bucket(Bucket=self.name)
        except ObjectMissing as error:
            remedy = "Create the bucket, or set THREADKEEP_S3_BUCKET to one that exists."
            raise StoreRefused(STORE, "HeadBucket", f"there is no bucket {self.name}", remedy) from error
        self._seen = True

    def close(self) -> None:
        self.connection.close()
        if self._quick:
            self._quick.close()

    def _quick_for(self, key: str) -> QuickRequests | None:
        return self._quick if self._quick and self._quick.serves(key) else None


def _stored(key: str, answer: Any) -> StoredObject:
    headers = {name.lower(): value for name, value in answer.get("Metadata", {}).items()}
    modified: datetime = answer["LastModified"]
    return StoredObject(
        key=key,
        etag=unquoted(answer["ETag"]),
        size=answer["ContentLength"],
        meta=ArchiveMeta.from_headers(headers),
        modified=modified.timestamp(),
        version_id=_version(answer),
    )


def _version(answer: Any) -> str | None:
    version_id: str | None = answer.get("VersionId")
    return None if version_id == "null" else version_id


def _version_of(item: Any) -> Version:
    etag, modified = unquoted(item.get("ETag", "")), item["LastModified"].timestamp()
    return Version(item["Key"], item["VersionId"], etag, item["IsLatest"], modified)
