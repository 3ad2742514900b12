"""Connections to one Redis server, each lent to one caller at a time, blocking or for asyncio.

The connections are redis-py's own; its clients are not used for commands. Around each command a client looks at the
socket, counts, times and retries in layers, which takes longer than the round trip itself.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final

import redis
import redis.asyncio
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as ConnectionFailed
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as TimedOut
from redis.retry import Retry

from threadkeep.config import Settings

Command = tuple[Any, ...]

BROKEN: Final = (ConnectionFailed, TimedOut)
UNBOUNDED: Final = 2**31
"""Connections; a pool of redis-py that is given no number stops at 100."""


class Connections:
    """Blocking. Safe to share between threads, not between processes."""

    def __init__(self, settings: Settings) -> None:
        self._make: Callable[[], Any] = _maker(settings, redis.ConnectionPool, Retry)
        self._idle: deque[Any] = deque()
        self._left = threading.Semaphore(settings.redis_max_connections)
        self._patience = settings.redis_timeout

    def exchange(self, commands: Sequence[Command]) -> list[Any]:
        """Send commands in one round trip; their replies, in which what the server refused stands as an error.

        Over a connection that breaks they are sent once more, all of them, and over a new one.

        Raises:
            RedisError: no answer, or no connection is free in time; writes may or may not have happened.
        """
        if not self._left.acquire(timeout=self._patience):
            raise ConnectionFailed("all connections are in use")
        connection = self._taken()
        answered = False
        try:
            try:
                replies = _exchanged(connection, commands)
            except BROKEN:
                connection.disconnect()
                replies = _exchanged(connection, commands)
            answered = True
            return replies
        finally:
            if not answered:  # a reply may still be on its way, also where a signal interrupted
                connection.disconnect()
            self._idle.append(connection)
            self._left.release()

    def close(self) -> None:
        """Close those that nobody uses; the others close with their last user."""
        with suppress(IndexError):
            while True:
                self._idle.pop().disconnect()

    def _taken(self) -> Any:
        try:
            return self._idle.pop()
        except IndexError:
            return self._make()


class AsyncConnections:
    """The same for asyncio. Belongs to one loop."""

    def __init__(self, settings: Settings) -> None:
        self._make: Callable[[], Any] = _maker(settings, redis.asyncio.ConnectionPool, redis.asyncio.retry.Retry)
        self._idle: deque[Any] = deque()
        self._left = asyncio.Semaphore(settings.redis_max_connections)
        self._patience = settings.redis_timeout

    async def exchange(self, commands: Sequence[Command]) -> list[Any]:
        """As of `Connections.exchange`."""
        await self._wait_for_one()
        connection = self._idle.pop() if self._idle else self._make()
        answered = False
        try:
            try:
                replies = await _exchanged_later(connection, commands)
            except BROKEN:
                await connection.disconnect(nowait=True)
                replies = await _exchanged_later(connection, commands)
            answered = True
            return replies
        finally:
            if not answered:
                await connection.disconnect(nowait=True)
            self._idle.append(connection)
            self._left.release()

    async def close(self) -> None:
        """As of `Connections.close`."""
        while self._idle:
            await self._idle.pop().disconnect()

    async def _wait_for_one(self) -> None:
        try:
            async with asyncio.timeout(self._patience if self._left.locked() else None):
                await self._left.acquire()
        except TimeoutError:
            raise ConnectionFailed("all connections are in use") from None


def listening_client(settings: Settings, kit: Any, retry: Any) -> Any:
    """A client of redis-py for subscriptions, each of which holds a connection of its own."""
    options = {**_options(settings, retry(NoBackoff(), 1)), "health_check_interval": 10}
    return kit.Redis.from_pool(kit.ConnectionPool.from_url(settings.redis_url, max_connections=UNBOUNDED, **options))


def _maker(settings: Settings, pool: Any, retry: Any) -> Callable[[], Any]:
    """Makes a connection as the URL says, which connects at its first use. Nothing below retries."""
    described = pool.from_url(settings.redis_url, protocol=2, **_options(settings, retry(NoBackoff(), 0)))
    return partial(described.connection_class, **described.connection_kwargs)


def _options(settings: Settings, retry: Any) -> dict[str, Any]:
    return {
        "socket_timeout": settings.redis_timeout,
        "socket_connect_timeout": settings.redis_connect_timeout,
        "socket_keepalive": True,
        "retry": retry,
        "client_name": "threadkeep",
    }


def _exchanged(connection: Any, commands: Sequence[Command]) -> list[Any]:
    connection.send_packed_command(connection.pack_commands(commands))
    return [_reply(connection) for _ in commands]


def _reply(connection: Any) -> Any:
    try:
        return connection.read_response()
    except ResponseError as error:
        return error


async def _exchanged_later(connection: Any, commands: Sequence[Command]) -> list[Any]:
    await connection.send_packed_command(connection.pack_commands(commands))
    return [await _reply_later(connection) for _ in commands]


async def _reply_later(connection: Any) -> Any:
    try:
        return await connection.read_response()
    except ResponseError as error:
        return error
