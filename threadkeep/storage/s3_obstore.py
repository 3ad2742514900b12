"""PutObject, HeadObject and GetObject through obstore, for about a sixth of boto3's time where objects are small."""

import hashlib
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PermissionDeniedError, PreconditionError
from obstore.store import S3Store

from threadkeep.errors import AnswerGarbled, ArchiveCorrupt, StoreRefused, StoreUnavailable, ThreadkeepError
from threadkeep.model import ArchiveMeta, StoredObject
from threadkeep.storage.s3_client import S3Access
from threadkeep.storage.s3_errors import CREDENTIALS, STORE, answered, mapped
from threadkeep.storage.s3_policy import CONTENT_TYPE, WritePolicy, unquoted

if TYPE_CHECKING:
    from obstore import Attributes, GetOptions, GetResult, PutMode
    from obstore.store import ClientConfig, RetryConfig, S3Config

_T = TypeVar("_T")

_STATUS: Final = re.compile(r"Server returned non-2xx status code: (\d{3})")
_CODE: Final = re.compile(r"<Code>([A-Za-z0-9._-]{1,80})</Code>")
_CLASS: Final = re.compile(r"<StorageClass>([A-Z_]{1,40})</StorageClass>")
_KIND: Final = re.compile(r"kind: (Timeout|Connect|Request|Interrupt|Decode)\b")
_MD5: Final = re.compile(r"[0-9a-f]{32}")
_STATUS_OF: Final = {
    FileNotFoundError: 404,
    AlreadyExistsError: 409,
    PreconditionError: 412,
    PermissionDeniedError: 403,
}

_WHOLE_REQUEST: Final = timedelta(hours=1)
"""Instead of the 30 s that obstore gives a request with its body; the read timeout bounds how long nothing comes."""
_FIRST_PAUSE: Final = timedelta(milliseconds=50)
_LONGEST_PAUSE: Final = timedelta(seconds=2)
_CREDENTIALS_LAST: Final = timedelta(minutes=10)
"""What botocore hands out is good for at least that long."""


class ObstoreRequests:
    """As of `QuickRequests`, in the one process that used it first: what obstore runs on does not outlive a fork."""

    _started: int | None = None
    """The process, or the parent of this one, in which obstore's threads were started."""

    def __init__(self, access: S3Access, policy: WritePolicy) -> None:
        self.access = access
        self.policy = policy
        plain = (access.endpoint or "").startswith("http://")  # TLS protects what it carries by itself
        self.digests = plain and policy.checksum is not None and policy.sse != "aws:kms"
        self.proven = False
        self._store: S3Store | None = None
        self._helper: _Helper | None = None

    def serves(self, key: str) -> bool:
        """As of `QuickRequests`. obstore refuses keys with empty or dotted segments, and strips outer slashes."""
        here = ObstoreRequests._started in {None, os.getpid()}
        return here and key == key.strip("/") and not {"", ".", ".."} & set(key.split("/"))

    def put(
        self, key: str, body: bytes, meta: ArchiveMeta, *, if_match: str | None = None, create: bool = False
    ) -> StoredObject:
        attributes: Attributes = {"Content-Type": CONTENT_TYPE, **meta.to_headers()}
        if self.policy.storage_class is not None:
            attributes["Storage-Class"] = self.policy.storage_class
        mode: PutMode = "overwrite"
        if create:
            mode = "create"
        elif if_match is not None:
            mode = {"e_tag": if_match}

        def send(store: S3Store) -> Any:
            tags = self.policy.tags or None
            return obstore.put(store, key, body, attributes=attributes, tags=tags, mode=mode, use_multipart=False)

        with _mapped("PutObject", key):
            answer = self._interruptible(send)
        etag = unquoted(answer["e_tag"])
        if not self.proven:
            self.sound(etag, body)
        return StoredObject(
            key=key,
            etag=etag,
            size=len(body),
            meta=meta,
            modified=time.time(),
            version_id=_version(answer["version"]),
        )

    def head(self, key: str) -> StoredObject:
        with _mapped("HeadObject", key):
            return _stored(key, self._interruptible(lambda store: obstore.get(store, key, options={"head": True})))

    def get(
        self, key: str, *, version_id: str | None = None, most: int | None = None, thread: str = ""
    ) -> tuple[StoredObject, bytes] | None:
        options: GetOptions = {} if version_id is None else {"version": version_id}

        def fetch(store: S3Store) -> tuple[StoredObject, bytes]:
            result = obstore.get(store, key, options=options)
            stored = _stored(key, result)
            if most is not None and stored.size > most:
                raise ArchiveCorrupt(thread, key, "it is larger than THREADKEEP_MAX_THREAD_BYTES allows")
            return stored, result.bytes().to_bytes()

        with _mapped("GetObject", key):
            stored, body = self._interruptible(fetch)
        if len(body) != stored.size:
            raise StoreUnavailable(STORE, "GetObject", f"{len(body)} of {stored.size} bytes came")
        return (stored, body) if self.sound(stored.etag, body) else None

    def close(self) -> None:
        self._store = self._helper = None

    def sound(self, etag: str, body: bytes) -> bool:
        """As of `QuickRequests`. An object of several parts has another kind of ETag."""
        if not self.digests or not _MD5.fullmatch(etag):
            return True
        same = _md5(body) == etag
        self.proven = self.proven or same
        return same

    def _interruptible(self, request: Callable[[S3Store], _T]) -> _T:
        """Run a request so that what a signal handler raises, as Celery's soft time limit, comes through at once.

        Signals reach Python code in the main thread, and obstore's calls are none: there another thread makes them.
        A request that is left behind so ends by itself; a write's outcome is then unknown.
        """
        if self._store is None:
            self._store = _connected(self.access, self.policy)
        store = self._store
        ObstoreRequests._started = os.getpid()
        if threading.current_thread() is not threading.main_thread():
            return request(store)
        helper = self._helper or _Helper()
        self._helper = None
        outcome = helper.run(lambda: request(store))
        self._helper = helper  # only if it is idle again
        return outcome


class _Helper:
    """A thread that makes one call after another for the main thread. It ends with what refers to it."""

    def __init__(self) -> None:
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        threading.Thread(target=_serve, args=(self._calls,), name="threadkeep-obstore", daemon=True).start()

    def run(self, call: Callable[[], _T]) -> _T:
        outcome: SimpleQueue[tuple[_T | None, Exception | None]] = SimpleQueue()

        def made() -> None:
            try:
                outcome.put((call(), None))
            except Exception as error:  # noqa: BLE001  raised where the call was asked for
                outcome.put((None, error))

        self._calls.put(made)
        value, error = outcome.get()
        if error is not None:
            raise error
        return cast("_T", value)

    def __del__(self) -> None:
        self._calls.put(None)


def _serve(calls: "SimpleQueue[Callable[[], None] | None]") -> None:
    while (call := calls.get()) is not None:
        call()
        del call


def _connected(access: S3Access, policy: WritePolicy) -> S3Store:
    """A store; it opens no connection yet.

    Raises:
        StoreRefused: the endpoint is no URL, or there are no credentials.
    """
    config: S3Config = {"virtual_hosted_style_request": access.virtual_host}
    if access.endpoint is not None:
        config["endpoint"] = _endpoint(access)
    if policy.checksum == "SHA256":
        config["checksum_algorithm"] = "SHA256"
    if policy.sse is not None:
        config["server_side_encryption"] = policy.sse
    if policy.sse_kms_key is not None:
        config["sse_kms_key_id"] = policy.sse_kms_key
    client: ClientConfig = {
        "allow_http": True,
        "connect_timeout": timedelta(seconds=access.connect_timeout),
        "read_timeout": timedelta(seconds=access.read_timeout),
        "timeout": _WHOLE_REQUEST,
        "pool_max_idle_per_host": str(access.max_connections),
    }
    retry: RetryConfig = {
        "max_retries": access.attempts - 1,
        "retry_timeout": access.attempts * timedelta(seconds=access.connect_timeout + access.read_timeout),
        "backoff": {"init_backoff": _FIRST_PAUSE, "max_backoff": _LONGEST_PAUSE, "base": 2},
    }
    provider = _credentials(access, config)
    try:
        return S3Store(
            access.bucket, config=config, client_options=client, retry_config=retry, credential_provider=provider
        )
    except (BaseError, ValueError) as error:
        remedy = "Set THREADKEEP_S3_ENDPOINT to a URL such as https://s3.example.com."
        raise StoreRefused(STORE, "connect", "the endpoint is no URL", remedy) from error


def _endpoint(access: S3Access) -> str:
    """The URL, which for obstore names the bucket where that is part of the host."""
    scheme, found, host = (access.endpoint or "").partition("://")
    if not found or not host:
        remedy = "Set THREADKEEP_S3_ENDPOINT to a URL such as https://s3.example.com."
        raise StoreRefused(STORE, "connect", "the endpoint is no URL", remedy)
    return f"{scheme}://{access.bucket}.{host}" if access.virtual_host else f"{scheme}://{host}"


def _credentials(access: S3Access, config: "S3Config") -> Any:
    """Put region and keys into the configuration; where the SDK's own are to be taken, ask the SDK."""
    if access.access_key is not None and access.region is not None:
        config["region"] = access.region
    else:
        return _sdks_own(access, config)
    _keys(access, config)
    return None


def _keys(access: S3Access, config: "S3Config") -> None:
    config["access_key_id"] = access.access_key or ""
    config["secret_access_key"] = access.secret_key or ""
    if access.session_token is not None:
        config["session_token"] = access.session_token


def _sdks_own(access: S3Access, config: "S3Config") -> Any:
    from boto3.session import Session  # noqa: PLC0415  only where the settings leave the choice to it
    from obstore.auth.boto3 import Boto3CredentialProvider  # noqa: PLC0415

    try:
        with mapped("connect"):
            session = Session(region_name=access.region)
            config["region"] = session.region_name or "us-east-1"
            if access.access_key is None:
                return Boto3CredentialProvider(session, ttl=_CREDENTIALS_LAST)
            _keys(access, config)
            return None
    except ValueError as error:
        raise StoreRefused(STORE, "connect", "NoCredentialsError", CREDENTIALS) from error


@contextmanager
def _mapped(operation: str, key: str) -> Iterator[None]:
    try:
        yield
    except (BaseError, FileNotFoundError) as error:
        raise _from_answer(operation, key, error) from _Unquoted(type(error).__name__)


class _Unquoted(Exception):
    """In place of an error of obstore, whose text quotes what the server said."""


def _from_answer(operation: str, key: str, error: Exception) -> ThreadkeepError:
    text = str(error).replace(key, "")
    status = _STATUS.search(text)
    number = int(status[1]) if status else _STATUS_OF.get(type(error), 0)
    if not number:
        kind = _KIND.search(text)
        return StoreUnavailable(STORE, operation, f"{type(error).__name__} ({kind[1] if kind else 'no answer'})")
    code, storage_class = _CODE.search(text), _CLASS.search(text)
    return answered(
        operation,
        key,
        code=code[1] if code else str(number),
        status=number,
        storage_class=storage_class[1] if storage_class else "",
    )


def _stored(key: str, result: "GetResult") -> StoredObject:
    meta = result.meta
    if meta["e_tag"] is None:
        raise AnswerGarbled(STORE, "GetObject", "an answer without an ETag")
    return StoredObject(
        key=key,
        etag=unquoted(meta["e_tag"]),
        size=meta["size"],
        meta=ArchiveMeta.from_headers({name.lower(): value for name, value in result.attributes.items()}),
        modified=meta["last_modified"].timestamp(),
        version_id=_version(meta["version"]),
    )


def _md5(body: bytes) -> str:
    return hashlib.md5(body, usedforsecurity=False).hexdigest()


def _version(version_id: str | None) -> str | None:
    return None if version_id == "null" else version_id
