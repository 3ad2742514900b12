"""How boto3 is set up: one client per process, made at first use; all retries of S3 requests are its own."""

import os
import threading
from dataclasses import dataclass, field
from http.client import HTTPException
from typing import TYPE_CHECKING, Any, Final, Literal

from threadkeep.errors import StoreRefused
from threadkeep.storage.s3_errors import STORE, mapped

if TYPE_CHECKING:
    from types_boto3_s3.client import S3Client

DRAFT: Final = "draft"
"""The key of an UploadPart that is put together and not sent: the client returns the request."""


@dataclass(frozen=True, slots=True)
class S3Access:
    """How a bucket is reached. Times are seconds.

    Attributes:
        bucket: Its name; it must exist.
        endpoint: URL of an S3-compatible store; None for AWS.
        region: None to take the SDK's own.
        access_key: None to take the SDK's own chain of credentials (then `secret_key` is None too).
        addressing: How the bucket enters the URL; `auto` is the path wherever `endpoint` is set.
        attempts: Attempts of one request, the first included.
        max_connections: Connections of one process, at most.
    """

    bucket: str
    endpoint: str | None = None
    region: str | None = None
    access_key: str | None = field(default=None, repr=False)
    secret_key: str | None = field(default=None, repr=False)
    session_token: str | None = field(default=None, repr=False)
    addressing: Literal["auto", "path", "virtual"] = "auto"
    connect_timeout: float = 3.0
    read_timeout: float = 20.0
    retry_mode: Literal["standard", "adaptive"] = "standard"
    attempts: int = 3
    max_connections: int = 16

    @property
    def virtual_host(self) -> bool:
        """Whether the bucket's name is part of the host's."""
        automatic = self.endpoint is None and "." not in self.bucket
        return self.addressing == "virtual" or (self.addressing == "auto" and automatic)


class LazyClient:
    """A boto3 client that belongs to the process using it.

    Celery's workers fork: a client made before the fork would share its sockets between processes. So each
    process makes its own, once, at first use; threads of one process share it, as boto3 allows.
    """

    def __init__(self, access: S3Access) -> None:
        self.access = access
        self._made: tuple[int, S3Client] | None = None
        self._locks: dict[int, threading.Lock] = {}

    def get(self) -> "S3Client":
        """The client of this process.

        Raises:
            StoreRefused: the endpoint is no URL, or the SDK's own configuration is unusable.
        """
        process = os.getpid()
        made = self._made
        if made is not None and made[0] == process:
            return made[1]
        # One lock per process: a lock that another thread held during the fork would stay held for ever.
        with self._locks.setdefault(process, threading.Lock()):
            if self._made is None or self._made[0] != process:
                self._made = (process, connect(self.access))
            return self._made[1]

    def close(self) -> None:
        """Close this process's connections; the next `get` opens new ones."""
        made, self._made = self._made, None
        if made is not None and made[0] == os.getpid():
            made[1].close()


def connect(access: S3Access) -> "S3Client":
    """A new client. It opens no connection yet.

    Raises:
        StoreRefused: as of `LazyClient.get`.
    """
    import boto3
    from botocore.config import Config

    config = Config(
        retries={"mode": access.retry_mode, "total_max_attempts": access.attempts},
        connect_timeout=access.connect_timeout,
        read_timeout=access.read_timeout,
        max_pool_connections=access.max_connections,
        tcp_keepalive=True,
        # The SDK's own name would be put together anew for each request: a tenth of its processor time.
        user_agent=f"boto3/{boto3.__version__} threadkeep",
        s3={"addressing_style": access.addressing},
        # Checksums travel where this package asks for them, as plain headers: the SDK's default since 1.36 is
        # a trailer in aws-chunked encoding, which other stores refuse or keep as ContentEncoding.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    try:
        with mapped("connect"):
            client = boto3.Session(
                aws_access_key_id=access.access_key,
                aws_secret_access_key=access.secret_key,
                aws_session_token=access.session_token,
                region_name=access.region,
            ).client("s3", endpoint_url=access.endpoint, config=config)
    except ValueError as error:
        remedy = "Set THREADKEEP_S3_ENDPOINT to a URL such as https://s3.example.com."
        raise StoreRefused(STORE, "connect", "the endpoint is no URL", remedy) from error
    client.meta.events.register_first("needs-retry.s3", _let_interruptions_out)
    client.meta.events.register_last("before-call.s3.UploadPart", _return_draft)
    return client


def _return_draft(params: dict[str, Any], **_: Any) -> Any:
    """Answer with the request itself, if it is for `DRAFT`."""
    from botocore.awsrequest import AWSResponse
    from botocore.compat import HTTPHeaders

    return (
        (AWSResponse(params["url"], 200, HTTPHeaders(), None), params)
        if params["url_path"].endswith(f"/{DRAFT}")
        else None
    )


def interruption_in(caught: Exception | None) -> Exception | None:
    """What a signal handler raised while the SDK waited, such as Celery's soft time limit; None for a fault.

    The SDK takes any exception for a fault of the network. Those it knows have types of their own; what is left is
    wrapped in a bare `HTTPClientError`.
    """
    from botocore.exceptions import HTTPClientError
    from urllib3.exceptions import HTTPError

    if type(caught) is not HTTPClientError:
        return None
    cause = caught.kwargs.get("error")
    if isinstance(cause, Exception) and not isinstance(cause, OSError | ValueError | HTTPError | HTTPException):
        return cause
    return None


def _let_interruptions_out(caught_exception: Exception | None, **_: Any) -> None:
    """Else the SDK would try again."""
    interruption = interruption_in(caught_exception)
    if interruption is not None:
        raise interruption
