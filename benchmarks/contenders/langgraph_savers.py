"""LangGraph's checkpoint savers: each step of a graph puts a checkpoint, whose `messages` channel holds all messages.

The savers are used directly, so a graph's own work is not counted; nothing is to be brought back or put away.
"""

import os
from contextlib import ExitStack
from typing import Any

from langgraph.checkpoint.base import empty_checkpoint

from benchmarks.corpus import Message
from benchmarks.servers import Place


class _Saver:
    def __init__(self, saver: Any) -> None:
        self._saver = saver
        self._saver.setup()
        self._config: Any = None
        self._version: Any = None
        self._messages: list[Message] = []

    def put_in_place(self, thread: str, messages: list[Message]) -> None:
        self._config, self._version, self._messages = _config(thread), None, messages
        self._put()

    def hydrate(self, thread: str) -> None:
        self._config = _config(thread)

    def read(self) -> list[Message]:
        found = self._saver.get_tuple(self._config)
        self._config, checkpoint = found.config, found.checkpoint
        self._version = checkpoint["channel_versions"]["messages"]
        self._messages = checkpoint["channel_values"]["messages"]
        return list(self._messages)

    def parse(self, stored: list[Message]) -> list[Message]:
        return stored

    def append(self, messages: list[Message]) -> None:
        for message in messages:
            self._messages = [*self._messages, message]
            self._put()

    def flush(self) -> None: ...

    def contents(self, thread: str) -> list[Message]:
        found: list[Message] = self._saver.get_tuple(_config(thread)).checkpoint["channel_values"]["messages"]
        return found

    def object_bytes(self, thread: str) -> int:  # noqa: ARG002
        return 0

    def _put(self) -> None:
        self._version = self._saver.get_next_version(self._version, None)
        checkpoint = empty_checkpoint()
        checkpoint["channel_values"] = {"messages": self._messages}
        checkpoint["channel_versions"] = {"messages": self._version}
        about = {"source": "loop", "step": len(self._messages), "parents": {}}
        self._config = self._saver.put(self._config, checkpoint, about, {"messages": self._version})


class Postgres(_Saver):
    def __init__(self, place: Place) -> None:
        from langgraph.checkpoint.postgres import PostgresSaver  # noqa: PLC0415

        self._open = ExitStack()
        super().__init__(self._open.enter_context(PostgresSaver.from_conn_string(place.postgres_dsn)))

    def close(self) -> None:
        self._open.close()


class RedisStack(_Saver):
    """Needs a Redis with search and JSON, which the embedded one is not: `BENCH_REDIS_STACK_URL` says where one is."""

    def __init__(self, place: Place) -> None:  # noqa: ARG002
        from langgraph.checkpoint.redis import RedisSaver  # noqa: PLC0415

        self._open = ExitStack()
        super().__init__(self._open.enter_context(RedisSaver.from_conn_string(os.environ["BENCH_REDIS_STACK_URL"])))

    def close(self) -> None:
        self._open.close()


def _config(thread: str) -> dict[str, Any]:
    return {"configurable": {"thread_id": thread, "checkpoint_ns": ""}}
