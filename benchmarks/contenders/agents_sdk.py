"""Sessions of the OpenAI Agents SDK: `RedisSession`, which stays in Redis for good, and `SQLAlchemySession`."""

import asyncio
from typing import Any

import redis.asyncio
from agents.extensions.memory import RedisSession, SQLAlchemySession
from sqlalchemy.ext.asyncio import create_async_engine

from benchmarks.corpus import Message
from benchmarks.servers import Place


class _Session:
    """Nothing has to be brought back or put away: the store that is read from is where the items stay."""

    def __init__(self) -> None:
        self._runner = asyncio.Runner()
        self._session: Any = None

    def _open(self, thread: str) -> Any:
        raise NotImplementedError

    def put_in_place(self, thread: str, messages: list[Message]) -> None:
        self._runner.run(self._add(self._open(thread), messages, 500))

    def hydrate(self, thread: str) -> None:
        self._session = self._open(thread)

    def read(self) -> list[Message]:
        items: list[Message] = self._runner.run(self._session.get_items())
        return items

    def parse(self, stored: list[Message]) -> list[Message]:
        return stored

    def append(self, messages: list[Message]) -> None:
        self._runner.run(self._add(self._session, messages, 1))

    def flush(self) -> None: ...

    def contents(self, thread: str) -> list[Message]:
        items: list[Message] = self._runner.run(self._open(thread).get_items())
        return items

    def object_bytes(self, thread: str) -> int:  # noqa: ARG002
        return 0

    @staticmethod
    async def _add(session: Any, messages: list[Message], at_once: int) -> None:
        for at in range(0, len(messages), at_once):
            await session.add_items(messages[at : at + at_once])


class InRedis(_Session):
    def __init__(self, place: Place) -> None:
        super().__init__()
        self._client = redis.asyncio.from_url(place.redis_url)

    def _open(self, thread: str) -> Any:
        return RedisSession(thread, redis_client=self._client)

    def close(self) -> None:
        self._runner.run(self._client.aclose())
        self._runner.close()


class InPostgres(_Session):
    def __init__(self, place: Place) -> None:
        super().__init__()
        self._engine = create_async_engine(place.postgres_dsn.replace("postgresql://", "postgresql+asyncpg://"))
        first = SQLAlchemySession("first", engine=self._engine, create_tables=True)
        self._runner.run(first.get_items())

    def _open(self, thread: str) -> Any:
        return SQLAlchemySession(thread, engine=self._engine)

    def close(self) -> None:
        self._runner.run(self._engine.dispose())
        self._runner.close()
