"""Connections to one Redis server, each lent to one caller at a time, blocking or for asyncio.

The connections are redis-py's own; its clients are not used for commands. Around each command a client looks at the
socket, counts, times and retries in layers, which takes longer than the round trip itself.
"""

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
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
from threadkeep.errors import StoreRefused

Command = tuple[Any, ...]

BROKEN: Final = (ConnectionFailed, TimedOut)
UNBOUNDED: Final = 2**31
"""Connections; a pool of redis-py that is given no number stops at 100."""
_NOT_OURS: Final = ("protocol=", "timeout=", "decode_responses=")
"""Options of a URL that are for other replies, and for other pools."""


class Connections:
    """Blocking. Safe to share between threads, not between processes."""

    def __init__(self, settings: Settings) -> None:
        self._make, most = _described(settings, redis, Retry(NoBackoff(), 0))
        self._idle: deque[Any] = deque()
        self._left = threading.Semaphore(most)
        self._patience = settings.redis_timeout

    def exchange(self, commands: Sequence[Command]) -> list[Any]:
        """Send commands in one round trip; their replies, in which what the server refused stands as an error.

        Over a connection that breaks they are sent once more, all of them, and over a new one.

        Raises:
            RedisError: no answer, or no connection is free in time; writes may or may not have happened.
        """
        if not self._left.acquire(timeout=self._patience):
            raise ConnectionFailed("all connections are in use")
        try:
            with self._lent() as connection:
                try:
                    return _exchanged(connection, commands)
                except BROKEN:
                    connection.disconnect()
                    return _exchanged(connection, commands)
        finally:
            self._left.release()

    def close(self) -> None:
        """Close those that nobody uses; the others close with their last user."""
        with suppress(IndexError):
            while True:
                self._idle.pop().disconnect()

    @contextmanager
    def _lent(self) -> Iterator[Any]:
        try:
            connection = self._idle.pop()
        except IndexError:
            connection = self._make()
        try:
            yield connection
        except BaseException:  # a reply may still be on its way, also where a signal interrupted
            connection.disconnect()
            self._idle.append(connection)
            raise
        self._idle.append(connection)


class AsyncConnections:
    """The same for asyncio. Belongs to one loop."""

    def __init__(self, settings: Settings) -> None:
        self._make, most = _described(settings, redis.asyncio, redis.asyncio.retry.Retry(NoBackoff(), 0))
        self._idle: deque[Any] = deque()
        self._left = asyncio.Semaphore(most)
        self._patience = settings.redis_timeout

    async def exchange(self, commands: Sequence[Command]) -> list[Any]:
        """As of `Connections.exchange`."""
        await self._wait_for_one()
        try:
            async with self._lent() as connection:
                try:
                    return await _exchanged_later(connection, commands)
                except BROKEN:
                    await connection.disconnect(nowait=True)
                    return await _exchanged_later(connection, commands)
        finally:
            self._left.release()

    async def close(self) -> None:
        """As of `Connections.close`."""
        while self._idle:
            await self._idle.pop().disconnect()

    @asynccontextmanager
    async def _lent(self) -> AsyncIterator[Any]:
        connection = self._idle.pop() if self._idle else self._make()
        try:
            yield connection
        except BaseException:
            await connection.disconnect(nowait=True)
            self._idle.append(connection)
            raise
        self._idle.append(connection)

    async def _wait_for_one(self) -> None:
        try:
            async with asyncio.timeout(self._patience if self._left.locked() else None):
                await self._left.acquire()
        except TimeoutError:
            raise ConnectionFailed("all connections are in use") from None


def listening_client(settings: Settings, kit: Any, retry: Any) -> Any:
    """A client of redis-py for subscriptions, each of which holds a connection of its own."""
    pool = _pool(settings, kit, retry(NoBackoff(), 1), health_check_interval=10)
    pool.max_connections = UNBOUNDED
    return kit.Redis.from_pool(pool)


def _described(settings: Settings, kit: Any, retry: Any) -> tuple[Callable[[], Any], int]:
    """What makes a connection that connects at its first use, and how many there may be. Nothing below retries."""
    try:
        pool = _pool(settings, kit, retry)
        make = partial(pool.connection_class, **pool.connection_kwargs)
        make()
    except (TypeError, ValueError) as error:
        reason = f"THREADKEEP_REDIS_URL is none, or has an option that is not understood ({type(error).__name__})"
        raise StoreRefused("Redis", "connecting", reason, "See `from_url` of redis-py for what it may hold.") from None
    return make, pool.max_connections


def _pool(settings: Settings, kit: Any, retry: Any, **more: Any) -> Any:
    """A pool of redis-py's as the URL says; replies are those of RESP2, whatever it says."""
    place, _, query = settings.redis_url.partition("?")
    options = [option for option in query.split("&") if not option.startswith(_NOT_OURS)]
    if not place.startswith("unix:"):
        more["socket_keepalive"] = True
    return kit.ConnectionPool.from_url(
        f"{place}?{'&'.join(options)}",
        protocol=2,
        max_connections=settings.redis_max_connections,
        socket_timeout=settings.redis_timeout,
        socket_connect_timeout=settings.redis_connect_timeout,
        retry=retry,
        client_name="threadkeep",
        **more,
    )


def _exchanged(connection: Any, commands: Sequence[Command]) -> list[Any]:
    if connection.can_read():  # what nobody asked for, which would be taken for a reply
        connection.disconnect()
    connection.send_packed_command(connection.pack_commands(commands))
    return [_reply(connection) for _ in commands]


def _reply(connection: Any) -> Any:
    try:
        return connection.read_response()
    except ResponseError as error:
        return error


async def _exchanged_later(connection: Any, commands: Sequence[Command]) -> list[Any]:
    if connection.is_connected and await connection.can_read():
        await connection.disconnect(nowait=True)
    await connection.send_packed_command(connection.pack_commands(commands))
    return [await _reply_later(connection) for _ in commands]


async def _reply_later(connection: Any) -> Any:
    try:
        return await connection.read_response()
    except ResponseError as error:
        return error
