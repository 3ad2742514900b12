"""What S3 answers, as errors of this package. No vendor exception leaves `storage/` unmapped.

Reasons name codes and exception types only: a server's own sentence may quote ARNs, keys or header values.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from threadkeep.errors import ArchiveFrozen, StoreRefused, StoreUnavailable, ThreadkeepError
from threadkeep.storage.cold_keys import unkeepable

STORE: Final = "S3"

_PASSING: Final = {
    "BadDigest",
    "IncompleteBody",
    "InternalError",
    "RequestTimeout",
    "RequestTimeoutException",
    "ServiceUnavailable",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "TooManyRequests",
    "XAmzContentChecksumMismatch",
}
_MISSING: Final = {"NoSuchKey", "NoSuchVersion", "NotFound", "404"}
_FROZEN: Final = {"InvalidObjectState", "ObjectNotInActiveTierError"}

CREDENTIALS: Final = (
    "Check THREADKEEP_S3_ACCESS_KEY, THREADKEEP_S3_SECRET_KEY and THREADKEEP_S3_SESSION_TOKEN, "
    "or the role that the AWS SDK finds."
)
_RIGHTS: Final = (
    "Allow these credentials s3:ListBucket, s3:GetObject, s3:PutObject and s3:DeleteObject (for erasing also "
    "s3:ListBucketVersions, s3:DeleteObjectVersion, s3:ListBucketMultipartUploads and s3:AbortMultipartUpload) on "
    "THREADKEEP_S3_BUCKET; without s3:ListBucket a missing object is answered 403."
)
_REGION: Final = "Set THREADKEEP_S3_REGION to the bucket's own region."
_REMEDIES: Final = {
    "NoSuchBucket": "Create the bucket, or set THREADKEEP_S3_BUCKET to one that exists.",
    "AccessDenied": _RIGHTS,
    "AllAccessDisabled": _RIGHTS,
    "403": f"{CREDENTIALS} {_RIGHTS}",
    "ExpiredToken": CREDENTIALS,
    "InvalidAccessKeyId": CREDENTIALS,
    "InvalidToken": CREDENTIALS,
    "SignatureDoesNotMatch": CREDENTIALS,
    "RequestTimeTooSkewed": "Set this machine's clock.",
    "AuthorizationHeaderMalformed": _REGION,
    "PermanentRedirect": _REGION,
    "301": _REGION,
    "InvalidStorageClass": "Check THREADKEEP_S3_STORAGE_CLASS.",
    "InvalidTag": "Check THREADKEEP_S3_TAGS.",
    "EntityTooLarge": "One request takes at most 5 GiB; lower THREADKEEP_MAX_THREAD_BYTES.",
    "NoSuchUpload": "Somebody completed or gave up this upload; look at what is stored now.",
    "NotImplemented": "This store lacks the operation; see docs/reference/stores.md.",
}
_KMS: Final = "Check THREADKEEP_S3_SSE_KMS_KEY, and that these credentials may use it."
UNKNOWN: Final = "Check the THREADKEEP_S3_* settings with `threadkeep doctor`."


class ObjectMissing(StoreRefused):
    """There is no object of that key (or none of that version)."""


class ConditionFailed(StoreRefused):
    """412 or 409: a conditional request lost."""


@contextmanager
def mapped(operation: str, key: str = "") -> Iterator[None]:
    """Run SDK calls and raise what they raise as errors of this package.

    Args:
        operation: The S3 operation, for the message.
        key: The object's key, where there is one.

    Raises:
        ObjectMissing: 404 on a key, or a key that this store cannot hold.
        ConditionFailed: 412 or 409.
        ArchiveFrozen: the storage class must be restored first.
        StoreUnavailable: no answer, half an answer, or a passing fault; a write's outcome is unknown.
        StoreRefused: all else.
    """
    try:
        yield
    except Exception as error:
        from threadkeep.storage.s3_sdk_errors import translated  # noqa: PLC0415  botocore: what raised has loaded it

        known = translated(operation, key, error)
        if known is None:
            raise
        raise known from error


def answered(operation: str, key: str, *, code: str, status: int, storage_class: str = "") -> ThreadkeepError:
    """What an answer other than success means.

    Args:
        operation: The S3 operation, for the message.
        key: The object's key, where there is one.
        code: S3's, or the status as text where the answer has no body.
        status: HTTP's.
        storage_class: Of an object that must be restored first, where the answer names it.
    """
    reason = f"{code} (HTTP {status})"
    if code in _FROZEN:
        return ArchiveFrozen(key, storage_class or "an archive storage class")
    if code in _MISSING or (status == 400 and key and unkeepable(key)):
        return ObjectMissing(STORE, operation, reason, UNKNOWN)
    if code in _REMEDIES:
        return StoreRefused(STORE, operation, reason, _REMEDIES[code])
    if status in {409, 412}:
        return ConditionFailed(STORE, operation, reason, "Look at what is stored now.")
    if code in _PASSING or status >= 500 or status in {408, 429}:
        return StoreUnavailable(STORE, operation, reason)
    return StoreRefused(STORE, operation, reason, _KMS if code.startswith("KMS.") else UNKNOWN)
