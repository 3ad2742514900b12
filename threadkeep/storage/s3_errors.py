"""What S3 and its SDK answer, as errors of this package. No vendor exception leaves `storage/` unmapped.

Reasons name codes and exception types only: a server's own sentence may quote ARNs, keys or header values.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    FlexibleChecksumError,
    HTTPClientError,
    IncompleteReadError,
    MetadataRetrievalError,
    NoCredentialsError,
    PartialCredentialsError,
)
from botocore.exceptions import (
    ConnectionError as SdkConnectionError,
)
from botocore.parsers import ResponseParserError
from urllib3.exceptions import HTTPError

from threadkeep.errors import AnswerGarbled, ArchiveFrozen, StoreRefused, StoreUnavailable, ThreadkeepError
from threadkeep.storage.cold_keys import unkeepable

STORE: Final = "S3"

_SDK_PASSING: Final = (
    SdkConnectionError,
    HTTPClientError,
    IncompleteReadError,
    CredentialRetrievalError,
    MetadataRetrievalError,
    ResponseParserError,
    HTTPError,  # the SDK wraps it on the way to a body that is streamed, not where it reads an answer whole
)
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

_CREDENTIALS: Final = (
    "Check THREADKEEP_S3_ACCESS_KEY, THREADKEEP_S3_SECRET_KEY and THREADKEEP_S3_SESSION_TOKEN, "
    "or the role that the AWS SDK finds."
)
_RIGHTS: Final = (
    "Allow these credentials s3:ListBucket, s3:GetObject, s3:PutObject and s3:DeleteObject (for erasing also "
    "s3:ListBucketVersions and s3:DeleteObjectVersion) on THREADKEEP_S3_BUCKET; without s3:ListBucket "
    "a missing object is answered 403."
)
_REGION: Final = "Set THREADKEEP_S3_REGION to the bucket's own region."
_REMEDIES: Final = {
    "NoSuchBucket": "Create the bucket, or set THREADKEEP_S3_BUCKET to one that exists.",
    "AccessDenied": _RIGHTS,
    "AllAccessDisabled": _RIGHTS,
    "403": f"{_CREDENTIALS} {_RIGHTS}",
    "ExpiredToken": _CREDENTIALS,
    "InvalidAccessKeyId": _CREDENTIALS,
    "InvalidToken": _CREDENTIALS,
    "SignatureDoesNotMatch": _CREDENTIALS,
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
_UNKNOWN: Final = "Check the THREADKEEP_S3_* settings with `threadkeep doctor`."


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
    except ClientError as error:
        raise _from_answer(operation, key, error) from error
    except FlexibleChecksumError as error:
        raise AnswerGarbled(STORE, operation, type(error).__name__) from error
    except _SDK_PASSING as error:
        raise StoreUnavailable(STORE, operation, type(error).__name__) from error
    except (NoCredentialsError, PartialCredentialsError) as error:
        raise StoreRefused(STORE, operation, type(error).__name__, _CREDENTIALS) from error
    except BotoCoreError as error:
        raise StoreRefused(STORE, operation, type(error).__name__, _UNKNOWN) from error


def _from_answer(operation: str, key: str, error: ClientError) -> ThreadkeepError:
    code, status, answer = _code_of(error), _status_of(error), error.response.get("Error", {})
    reason = f"{code} (HTTP {status})"
    if code in _FROZEN:
        return ArchiveFrozen(key, str(answer.get("StorageClass") or "an archive storage class"))
    if code in _MISSING or (status == 400 and key and unkeepable(key)):
        return ObjectMissing(STORE, operation, reason, _UNKNOWN)
    if code in _REMEDIES:
        return StoreRefused(STORE, operation, reason, _REMEDIES[code])
    if status in {409, 412}:
        return ConditionFailed(STORE, operation, reason, "Look at what is stored now.")
    if code in _PASSING or status >= 500 or status in {408, 429}:
        return StoreUnavailable(STORE, operation, reason)
    return StoreRefused(STORE, operation, reason, _KMS if code.startswith("KMS.") else _UNKNOWN)


def _code_of(error: ClientError) -> str:
    return error.response.get("Error", {}).get("Code") or "no code"


def _status_of(error: ClientError) -> int:
    return error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
