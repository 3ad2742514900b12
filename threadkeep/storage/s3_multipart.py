"""An object made of a stored one's first bytes and of what is new: only the new travels.

S3 calls the pieces parts: one is copied on the server, the other uploaded, and completing the upload puts the object in
its place, on the condition that nobody else wrote meanwhile.
"""

import base64
import hashlib
import secrets
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from html import escape
from typing import Any, Final, Self
from urllib.parse import quote, urlencode, urlsplit

from threadkeep.errors import StoreRefused, ThreadkeepError
from threadkeep.model import ArchiveMeta, StoredObject, fresh_mark
from threadkeep.storage.s3_bucket import S3Bucket
from threadkeep.storage.s3_errors import ConditionFailed, ObjectMissing, mapped
from threadkeep.storage.s3_policy import CONTENT_TYPE
from threadkeep.storage.s3_template import Answer

_XML: Final = "http://s3.amazonaws.com/doc/2006-03-01/"

PART_BYTES: Final = 5 * 1024 * 1024
"""S3 takes no smaller part, but for the last one."""


def extend(bucket: S3Bucket, key: str, tail: bytes, meta: ArchiveMeta, *, based_on: str, keep: int) -> StoredObject:
    """Put the first `keep` bytes of an object, and `tail` behind them, in its place.

    Args:
        bucket: Where it lies; it must complete uploads conditionally, and atomically.
        key: Its key.
        tail: New bytes.
        meta: What the new object carries.
        based_on: Its ETag.
        keep: At least `PART_BYTES`.

    Raises:
        ConditionFailed, ObjectMissing: another object is there, or none; nothing was written by this call, unless the
            SDK asked twice and this is its own success.
        ArchiveFrozen: what is there cannot be copied, but replaced.
        StoreUnavailable: the outcome is unknown.
    """
    upload = _Upload.begun(bucket, key, meta)
    try:
        parts = [upload.copied(1, based_on, keep), upload.sent(2, tail)]
        answer = upload.completed(parts, if_match=based_on)
    except ThreadkeepError as error:
        upload.given_up()
        if isinstance(error, StoreRefused) and error.reason.startswith("NoSuchUpload"):
            # it was completed, or the thread erased: whoever looks will see
            raise ConditionFailed(error.store, error.operation, error.reason, error.remedy) from error
        raise
    sent_at, version_id = answer.headers.get("date"), answer.headers.get("x-amz-version-id")
    return StoredObject(
        key=key,
        etag=answer.told("ETag"),
        size=keep + len(tail),
        meta=meta,
        modified=parsedate_to_datetime(sent_at).timestamp() if sent_at else 0.0,
        version_id=None if version_id == "null" else version_id,
    )


def completes_atomically(bucket: S3Bucket) -> bool:
    """Whether a store looks at `If-Match` and completes an upload in one step: AWS says so of S3, else whoever set it.

    No trial shows it. SeaweedFS 4.48 honours the condition, but of two writers at once it may tell both that they won:
    the archive would go backwards.
    """
    if bucket.policy.copied_parts != "auto":
        return bucket.policy.copied_parts == "on"
    host = urlsplit(bucket.client.meta.endpoint_url).hostname or ""
    return host.endswith((".amazonaws.com", ".amazonaws.com.cn"))


def completes_conditionally(bucket: S3Bucket, key: str) -> bool:
    """Whether a store honours `If-Match` where it completes an upload: tried out at `key`, which nobody else uses.

    Deletes what it made.

    Raises:
        StoreRefused: these credentials may not do what that takes, or the store cannot.
        StoreUnavailable: not known.
    """
    meta = ArchiveMeta(rev=0, attempt=fresh_mark(), chain="", count=0, born=0)
    stored = bucket.put(key, secrets.token_bytes(64), meta)
    try:
        return not _completed(bucket, key, if_match="0" * 32) and _completed(bucket, key, if_match=stored.etag)
    finally:
        try:
            bucket.purge(key, lambda version: version.key == key)
        except StoreRefused:
            bucket.delete(key)  # no right to versions


def _completed(bucket: S3Bucket, key: str, *, if_match: str) -> bool:
    upload = _Upload.begun(bucket, key, None)
    try:
        upload.completed([upload.sent(1, b"probe")], if_match=if_match)
    except ThreadkeepError as error:
        upload.given_up()
        if isinstance(error, ConditionFailed | ObjectMissing):
            return False
        raise
    return True


def abort_uploads(bucket: S3Bucket, key: str) -> int:
    """Give up all uploads of a key that were not completed, and their parts with them; how many there were."""
    pages = bucket.client.get_paginator("list_multipart_uploads").paginate(Bucket=bucket.name, Prefix=key)
    found: list[dict[str, Any]] = []
    try:
        with mapped("ListMultipartUploads"):
            for page in pages:
                uploads = [item for item in page.get("Uploads", []) if item["Key"] == key]
                found += [{"Bucket": bucket.name, "Key": key, "UploadId": item["UploadId"]} for item in uploads]
    except StoreRefused as error:
        if not error.reason.startswith(("NotImplemented", "MethodNotAllowed")):
            raise
    for upload in found:
        try:
            with suppress(ObjectMissing), mapped("AbortMultipartUpload", key):
                bucket.client.abort_multipart_upload(**upload)
        except StoreRefused as error:
            if not error.reason.startswith("NoSuchUpload"):  # who completed it was refused, or came before the erasure
                raise
    return len(found)


@dataclass(frozen=True, slots=True)
class _Upload:
    """A multipart upload that has begun.

    Its parts are kept, and paid for, until it is completed or given up; a lifecycle rule removes those of a worker that
    was killed.
    """

    bucket: S3Bucket
    key: str
    name: str

    @classmethod
    def begun(cls, bucket: S3Bucket, key: str, meta: ArchiveMeta | None) -> Self:
        headers = {}
        if meta is not None:
            named = {f"x-amz-meta-{name}": value for name, value in meta.to_headers().items()}
            headers = {**bucket.policy.creation_headers(), **named, "Content-Type": CONTENT_TYPE}
        made = bucket.multipart.send("CreateMultipartUpload", key, "uploads", headers)
        return cls(bucket, key, made.told("UploadId"))

    def copied(self, number: int, based_on: str, size: int) -> tuple[int, str]:
        """A part of the first `size` bytes of what is stored, if its ETag still is that."""
        bucket = self.bucket.name
        place = f"{bucket}/object/{self.key}" if bucket.startswith("arn:") else f"{bucket}/{self.key}"
        headers = {
            "x-amz-copy-source": quote(place, safe="/~"),
            "x-amz-copy-source-if-match": based_on,
            "x-amz-copy-source-range": f"bytes=0-{size - 1}",
        }
        answer = self._send("UploadPartCopy", headers, number=number)
        return number, answer.told("ETag")

    def sent(self, number: int, body: bytes) -> tuple[int, str]:
        """A part of these bytes."""
        digest = base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()
        answer = self._send("UploadPart", {"Content-MD5": digest}, body, number=number)
        return number, answer.told("ETag")

    def completed(self, parts: Sequence[tuple[int, str]], *, if_match: str) -> Answer:
        """Put the parts together in the place of the object with that ETag."""
        listed = "".join(
            f"<Part><PartNumber>{number}</PartNumber><ETag>{escape(etag)}</ETag></Part>" for number, etag in parts
        )
        body = f'<CompleteMultipartUpload xmlns="{_XML}">{listed}</CompleteMultipartUpload>'.encode()
        return self._send("CompleteMultipartUpload", {"If-Match": if_match, "Content-Type": "application/xml"}, body)

    def given_up(self) -> None:
        with suppress(ThreadkeepError):
            self._send("AbortMultipartUpload", {})

    def _send(self, operation: str, headers: dict[str, str], body: bytes = b"", *, number: int | None = None) -> Answer:
        named = {"uploadId": self.name} if number is None else {"partNumber": str(number), "uploadId": self.name}
        return self.bucket.multipart.send(operation, self.key, urlencode(named, quote_via=quote), headers, body)
