"""What boto3 raises, as errors of this package."""

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

from threadkeep.errors import AnswerGarbled, StoreRefused, StoreUnavailable, ThreadkeepError
from threadkeep.storage.s3_errors import CREDENTIALS, STORE, UNKNOWN, answered

_PASSING: Final = (
    SdkConnectionError,
    HTTPClientError,
    IncompleteReadError,
    CredentialRetrievalError,
    MetadataRetrievalError,
    ResponseParserError,
    HTTPError,  # the SDK wraps it on the way to a body that is streamed, not where it reads an answer whole
)


def translated(operation: str, key: str, error: Exception) -> ThreadkeepError | None:
    """The error of this package for one of the SDK's; None for what is not the SDK's own."""
    reason = type(error).__name__
    match error:
        case ClientError():
            return _from_answer(operation, key, error)
        case FlexibleChecksumError():
            return AnswerGarbled(STORE, operation, reason)
        case _ if isinstance(error, _PASSING):
            return StoreUnavailable(STORE, operation, reason)
        case NoCredentialsError() | PartialCredentialsError():
            return StoreRefused(STORE, operation, reason, CREDENTIALS)
        case BotoCoreError():
            return StoreRefused(STORE, operation, reason, UNKNOWN)
    return None


def _from_answer(operation: str, key: str, error: ClientError) -> ThreadkeepError:
    answer = error.response.get("Error", {})
    return answered(
        operation,
        key,
        code=answer.get("Code") or "no code",
        status=error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0),
        storage_class=str(answer.get("StorageClass") or ""),
    )
