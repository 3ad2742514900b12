"""Redis and the bucket as they are, past the library."""

import json
import sys
from typing import Any

from tests.conformance.face import Face
from tests.waiting import until
from threadkeep import ThreadRef
from threadkeep.model import StoredObject
from threadkeep.storage.hot_keys import ThreadKeys
from threadkeep.storage.link import run_now as now
from threadkeep.tasks.stores import Stores

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd


class Tiers:
    """What each tier holds of a thread.

    Attributes:
        stores: Of a worker, in this process.
    """

    def __init__(self, stores: Stores) -> None:
        self.stores = stores

    def hot_keys(self, thread_id: str, namespace: str = "messages") -> dict[str, int]:
        """The parts of a thread that are in Redis (`head`, `base`, `log`, `ids`), and their ms to live; -1 for ever."""
        keys = self.names(thread_id, namespace)
        found = {part: self.redis("PTTL", getattr(keys, part)) for part in ("head", "base", "log", "ids")}
        return {part: left for part, left in found.items() if left != -2}

    def all_keys(self, thread_id: str) -> list[str]:
        """Every key of Redis that has to do with this thread alone, without what all of them start with.

        Answers to questions about it are left out; they last half a minute.
        """
        own = self.names(thread_id).own
        found = sorted(key.decode().removeprefix(own) for key in self.redis("KEYS", f"{own}*"))
        return [part for part in found if not part.startswith("answer:")]

    def names(self, thread_id: str, namespace: str = "messages") -> ThreadKeys:
        return self.stores.hot.keys(ThreadRef(namespace, thread_id))

    def redis(self, *command: Any) -> Any:
        return now(self.stores.hot.link.run(*command))

    def archived(self, thread_id: str) -> StoredObject | None:
        """The thread's object in the bucket."""
        return self.stores.cold.head(ThreadRef.of(thread_id))

    def lines(self, thread_id: str) -> list[Any]:
        """The lines of a thread's object, as zstdcat shows them: its records, and a seal after each part of them."""
        stored = self.stores.cold.get(ThreadRef.of(thread_id))
        assert stored is not None
        return [json.loads(line) for line in zstd.decompress(stored[1]).splitlines()]

    def put_away(self, face: Face, thread_id: str) -> None:
        """Have a thread archived, and wait until it has left Redis."""
        face.flush(thread_id, wait=20)
        face.flush(thread_id)  # where the flush on leaving was the faster one, the copy that it left goes now
        until(lambda: not self.hot_keys(thread_id))

    def forget(self, thread_id: str) -> None:
        """Drop a cached copy, as Redis itself may at any moment."""
        assert -1 not in self.hot_keys(thread_id).values(), "it is not clean"
        self.redis("UNLINK", self.names(thread_id).head)

    @property
    def s3(self) -> Any:
        """A boto3 client."""
        return self.stores.cold.bucket.client

    def put_snapshot(self, thread_id: str, snapshot: Any, *, suffix: str = ".json", pack: Any = bytes) -> None:
        """Store a snapshot where zeitlich would have."""
        settings = self.stores.settings
        key = f"{settings.s3_prefix}/messages/{thread_id}{suffix}"
        text = json.dumps(snapshot, ensure_ascii=False, separators=(",", ":"))
        self.s3.put_object(Bucket=settings.s3_bucket, Key=key, Body=pack(text.encode()))
