"""Looking on while a run goes on: the archive's revisions every second, and when the catalog was last told."""

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from http.client import HTTPConnection, HTTPException
from typing import Any, Final, Self
from urllib.parse import urlsplit

import boto3
import psycopg

from tests.chaos.history import Violation
from threadkeep.config import Settings
from threadkeep.model import ArchiveMeta
from threadkeep.storage.cold_keys import ColdKeys

EVERY: Final = 1.0
PRESIGNED: Final = 86_400


class Watch(ABC):
    """Looks again and again in a thread of its own; a look that fails is made up for by the next."""

    def __init__(self, every: float) -> None:
        self._every, self._stop = every, threading.Event()
        self._thread = threading.Thread(target=self._run, name=type(self).__name__, daemon=True)
        self.looks = 0

    @abstractmethod
    def look(self) -> None: ...

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(self._every):
            self.look()
            self.looks += 1


class RevisionWatch(Watch):
    """Asks S3 itself, past the wire, for the revision of every thread's object: it never goes down, none goes away."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(EVERY)
        self._client: Any = boto3.client(
            "s3",
            endpoint_url=settings.s3_endpoint,
            region_name=settings.s3_region,
            aws_access_key_id=_plain(settings.s3_access_key),
            aws_secret_access_key=_plain(settings.s3_secret_key),
        )
        self._bucket, self._keys = settings.s3_bucket, ColdKeys(settings.s3_prefix)
        self._address = urlsplit(str(settings.s3_endpoint))
        self._signed: dict[str, str] = {}
        self._revs: dict[str, int] = {}
        self.heads = 0
        self.violations: list[Violation] = []

    @property
    def objects(self) -> int:
        return len(self._revs)

    def look(self) -> None:
        listed = self._client.list_objects_v2(Bucket=self._bucket, Prefix=self._keys.listing(None))
        found = {item["Key"] for item in listed.get("Contents", []) if self._keys.thread_of(item["Key"])}
        link = HTTPConnection(self._address.hostname or "", self._address.port, timeout=5)
        with suppress(OSError, HTTPException):
            for key in sorted(found | set(self._revs)):
                self._compare(key, self._rev(link, key))
        link.close()

    def _compare(self, key: str, rev: int) -> None:
        before = self._revs.get(key, 0)
        if rev < before:
            what = f"the archive went from revision {before} back to {rev or 'nothing'}"
            self.violations.append(Violation(key, what, time.time()))
        self._revs[key] = rev

    def _rev(self, link: HTTPConnection, key: str) -> int:
        if key not in self._signed:
            named = {"Bucket": self._bucket, "Key": key}
            url = urlsplit(self._client.generate_presigned_url("head_object", named, ExpiresIn=PRESIGNED))
            self._signed[key] = f"{url.path}?{url.query}"
        link.request("HEAD", self._signed[key])
        reply = link.getresponse()
        reply.read()
        self.heads += 1
        if reply.status == 404:
            return 0
        names = {name.lower().removeprefix("x-amz-meta-"): value for name, value in reply.getheaders()}
        meta = ArchiveMeta.from_headers(names)
        if meta is None:
            raise HTTPException(f"{reply.status} for {key}")
        return meta.rev


class CatalogWatch(Watch):
    """Notes when the catalog was found to know of which moment.

    Attributes:
        told: Pairs of the Unix time of a look, and the newest Unix time that any row told of.
    """

    def __init__(self, url: Callable[[], str]) -> None:
        super().__init__(0.5)
        self._url = url
        self._link: Any = None
        self.told: list[tuple[float, float]] = []

    def look(self) -> None:
        try:
            if self._link is None:
                self._link = psycopg.connect(self._url(), connect_timeout=2, autocommit=True)
            found = self._link.execute("SELECT max(stamp) FROM threads").fetchone()
        except psycopg.Error:
            self._link = None
        else:
            self.told.append((time.time(), (found[0] or 0) / 1e6))

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        if self._link is not None:
            self._link.close()


def _plain(secret: Any) -> str:
    return str(secret.get_secret_value())
