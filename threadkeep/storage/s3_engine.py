"""Which client sends the requests that flushes and hydrates are made of: obstore where it can, else boto3."""

from importlib.util import find_spec
from typing import Final, Literal, Protocol

from threadkeep.errors import SettingsError
from threadkeep.model import ArchiveMeta, StoredObject
from threadkeep.storage.s3_client import S3Access
from threadkeep.storage.s3_policy import WritePolicy

Engine = Literal["auto", "boto3", "obstore"]

LARGEST_PUT: Final = 1024 * 1024
"""Bytes that obstore is given to send, at most: its read timeout runs while a body is on its way, boto3's after it.
Processor time matters for small objects; large ones wait for the network."""


class QuickRequests(Protocol):
    """PutObject, HeadObject and GetObject without boto3. Safe to use from several threads.

    Attributes:
        digests: Whether ETags may be taken for the MD5 of what they belong to; not so under SSE-KMS, and of no use
            over TLS.
        proven: Whether one was, in this process.

    Raises (all methods):
        StoreUnavailable, StoreRefused, ObjectMissing, ConditionFailed, ArchiveFrozen: as of `s3_errors.answered`.
    """

    digests: bool
    proven: bool

    def serves(self, key: str) -> bool:
        """Whether this process may use it for that key."""
        ...

    def put(
        self, key: str, body: bytes, meta: ArchiveMeta, *, if_match: str | None = None, create: bool = False
    ) -> StoredObject:
        """As of `S3Bucket.put`; `modified` is this machine's time."""
        ...

    def head(self, key: str) -> StoredObject:
        """What is there."""
        ...

    def get(
        self, key: str, *, version_id: str | None = None, most: int | None = None, thread: str = ""
    ) -> tuple[StoredObject, bytes] | None:
        """As of `S3Bucket.get`; None where the bytes are not those that the ETag is the MD5 of."""
        ...

    def sound(self, etag: str, body: bytes) -> bool:
        """Whether bytes have their ETag's MD5, where it may be one."""
        ...

    def close(self) -> None:
        """Let this process's connections go."""
        ...


def quick_requests(access: S3Access, policy: WritePolicy, engine: Engine) -> QuickRequests | None:
    """The quick client that the settings ask for; None for boto3 alone.

    Raises:
        SettingsError: obstore is asked for and not installed.
    """
    if engine == "boto3" or (engine == "auto" and (find_spec("obstore") is None or access.retry_mode != "standard")):
        return None
    try:
        from threadkeep.storage.s3_obstore import ObstoreRequests  # noqa: PLC0415  an extra
    except ImportError as error:
        problem = "THREADKEEP_S3_ENGINE: obstore is not installed; pip install 'threadkeep[obstore]'"
        raise SettingsError(problem) from error
    return ObstoreRequests(access, policy)
