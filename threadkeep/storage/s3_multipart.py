"""An object made of a stored one's first bytes and of what is new: only the new travels.

S3 calls the pieces parts: one is copied on the server, the other uploaded, and completing the upload puts the object in
its place, on the condition that nobody else wrote meanwhile.
"""

import base64
import hashlib
import secrets
from contextlib import suppress
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from threadkeep.errors import ArchiveFrozen, StoreRefused, ThreadkeepError
from threadkeep.model import ArchiveMeta, StoredObject, fresh_mark
from threadkeep.storage.s3_bucket import S3Bucket
from threadkeep.storage.s3_errors import ConditionFailed, ObjectMissing, mapped
from threadkeep.storage.s3_policy import CONTENT_TYPE, unquoted

if TYPE_CHECKING:
    from types_boto3_s3.type_defs import CompletedPartTypeDef

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
    client, name = bucket.client, bucket.name
    wanted: dict[str, Any] = {**bucket.policy.creation(), "Metadata": meta.to_headers(), "ContentType": CONTENT_TYPE}
    with mapped("CreateMultipartUpload", key):
        made = client.create_multipart_upload(Bucket=name, Key=key, **wanted)
    upload: dict[str, Any] = {"Bucket": name, "Key": key, "UploadId": made["UploadId"]}
    try:
        with mapped("UploadPartCopy", key):
            copied = client.upload_part_copy(
                **upload,
                PartNumber=1,
                CopySource={"Bucket": name, "Key": key},
                CopySourceIfMatch=based_on,
                CopySourceRange=f"bytes=0-{keep - 1}",
            )
        parts = [_part(1, copied["CopyPartResult"]["ETag"]), _part(2, _uploaded(bucket, upload, 2, tail))]
        with mapped("CompleteMultipartUpload", key):
            answer = client.complete_multipart_upload(**upload, IfMatch=based_on, MultipartUpload={"Parts": parts})
    except ArchiveFrozen:
        _abort(bucket, upload)
        raise
    except StoreRefused as error:
        _abort(bucket, upload)
        if error.reason.startswith("NoSuchUpload"):  # it was completed, or the thread erased: whoever looks will see
            raise ConditionFailed(error.store, error.operation, error.reason, error.remedy) from error
        raise
    sent_at = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
    version_id = answer.get("VersionId")
    return StoredObject(
        key=key,
        etag=unquoted(answer["ETag"]),
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

    False also where these credentials may not do what that takes. Deletes what it made.
    """
    meta = ArchiveMeta(rev=0, attempt=fresh_mark(), chain="", count=0, born=0)
    stored = bucket.put(key, secrets.token_bytes(64), meta)
    try:
        return not _completed(bucket, key, if_match="0" * 32) and _completed(bucket, key, if_match=stored.etag)
    except StoreRefused:
        return False
    finally:
        try:
            bucket.purge(key, lambda version: version.key == key)
        except StoreRefused:
            bucket.delete(key)  # no right to versions


def _completed(bucket: S3Bucket, key: str, *, if_match: str) -> bool:
    client, name = bucket.client, bucket.name
    try:
        with mapped("CreateMultipartUpload", key):
            made = client.create_multipart_upload(Bucket=name, Key=key)
        upload: dict[str, Any] = {"Bucket": name, "Key": key, "UploadId": made["UploadId"]}
        parts = [_part(1, _uploaded(bucket, upload, 1, b"probe"))]
        with mapped("CompleteMultipartUpload", key):
            client.complete_multipart_upload(**upload, IfMatch=if_match, MultipartUpload={"Parts": parts})
    except (ConditionFailed, ObjectMissing):
        _abort(bucket, upload)
        return False
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


def _uploaded(bucket: S3Bucket, upload: dict[str, Any], number: int, body: bytes) -> str:
    digest = base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()
    with mapped("UploadPart", upload["Key"]):
        return bucket.client.upload_part(**upload, PartNumber=number, Body=body, ContentMD5=digest)["ETag"]


def _part(number: int, etag: str) -> "CompletedPartTypeDef":
    return {"PartNumber": number, "ETag": etag}


def _abort(bucket: S3Bucket, upload: dict[str, Any]) -> None:
    """Its parts would be kept, and paid for; a lifecycle rule removes those of a worker that was killed."""
    with suppress(ThreadkeepError), mapped("AbortMultipartUpload", upload["Key"]):
        bucket.client.abort_multipart_upload(**upload)
