"""The algorithm that Threadkeep grew from, written plainly: a list in Redis, one gzipped JSON document in S3.

As its original does: one marker key per message id, everything of a hydrate in one pipeline, the marker of existence
last; a flush reads all, writes all and deletes all. An append is one script.
"""

import gzip
import json
from typing import Any

import redis

from benchmarks.contenders.objects import open_objects
from benchmarks.corpus import Message
from benchmarks.servers import Place

TTL = 90 * 24 * 3600

APPEND = """
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
for i = 2, #ARGV do redis.call('RPUSH', KEYS[2], ARGV[i]) end
redis.call('EXPIRE', KEYS[2], ARGV[1])
redis.call('SET', KEYS[1], '1', 'EX', ARGV[1])
return 1
"""


class Seeds:
    def __init__(self, place: Place) -> None:
        self._redis: Any = redis.Redis.from_url(place.redis_url)
        self._append = self._redis.register_script(APPEND)
        self._objects = open_objects(place)
        self._thread = ""
        self._next = 0

    def put_in_place(self, thread: str, messages: list[Message]) -> None:
        stored = [_stored(f"m-{number}", message) for number, message in enumerate(messages)]
        self._write(thread, stored, None)

    def hydrate(self, thread: str) -> None:
        self._thread = thread
        if self._redis.exists(self._meta):
            return
        snapshot = json.loads(gzip.decompress(self._objects.get(_key(thread))))
        self._redis.delete(self._list, self._state)
        pipe = self._redis.pipeline(transaction=False)
        pipe.rpush(self._list, *snapshot["messages"])
        pipe.expire(self._list, TTL)
        if snapshot["state"] is not None:
            pipe.set(self._state, json.dumps(snapshot["state"]), ex=TTL)
        for message_id in snapshot["dedupIds"]:
            pipe.set(self._dedup(message_id), "1", ex=TTL)
        pipe.execute()
        self._redis.set(self._meta, "1", ex=TTL)

    def read(self) -> list[bytes]:
        if not self._redis.exists(self._meta):
            raise AssertionError("the thread does not exist")
        stored: list[bytes] = self._redis.lrange(self._list, 0, -1)
        self._next = len(stored)
        return stored

    def parse(self, stored: list[bytes]) -> list[Message]:
        return [json.loads(text)["message"] for text in stored]

    def append(self, messages: list[Message]) -> None:
        for message in messages:
            self._append_one(message)

    def join(self, thread: str) -> None:
        """Go on with a thread that another process hydrated."""
        self._thread = thread
        self._next = int(self._redis.llen(self._list))

    def flush_thread(self, thread: str) -> None:
        self._thread = thread
        self.flush()

    def _append_one(self, message: Message) -> None:
        message_id = f"n-{self._next}"
        self._next += 1
        if not self._redis.exists(self._meta):
            raise AssertionError("the thread does not exist")
        if not self._append([self._dedup(message_id), self._list], [TTL, _stored(message_id, message)]):
            raise AssertionError("the message was taken for a double")

    def flush(self) -> None:
        if not self._redis.exists(self._meta):
            return
        stored = [text.decode() for text in self._redis.lrange(self._list, 0, -1)]
        state = self._redis.get(self._state)
        ids = self._write(self._thread, stored, json.loads(state) if state else None)
        self._redis.delete(self._list, self._meta, self._state, *map(self._dedup, ids))

    def contents(self, thread: str) -> list[Message]:
        if self._redis.exists(f"messages:meta:thread:{thread}"):
            raise AssertionError("the thread was not put away")
        snapshot = json.loads(gzip.decompress(self._objects.get(_key(thread))))
        return [json.loads(text)["message"] for text in snapshot["messages"]]

    def object_bytes(self, thread: str) -> int:
        return self._objects.size(_key(thread))

    def close(self) -> None:
        self._redis.close()

    def _write(self, thread: str, stored: list[str], state: object) -> list[str]:
        ids = list(dict.fromkeys(json.loads(text)["id"] for text in stored))
        snapshot = {"v": 1, "messages": stored, "state": state, "dedupIds": ids}
        body = gzip.compress(_json(snapshot).encode(), compresslevel=6)
        self._objects.put(_key(thread), body, "application/gzip")
        return ids

    @property
    def _list(self) -> str:
        return f"messages:thread:{self._thread}"

    @property
    def _meta(self) -> str:
        return f"messages:meta:thread:{self._thread}"

    @property
    def _state(self) -> str:
        return f"messages:state:thread:{self._thread}"

    def _dedup(self, message_id: str) -> str:
        return f"dedup:{message_id}:thread:{self._thread}"


def _key(thread: str) -> str:
    return f"threads/messages/{thread}.json.gz"


def _stored(message_id: str, message: Message) -> str:
    return _json({"id": message_id, "message": message})


def _json(value: object) -> str:
    """As JSON.stringify writes it."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
