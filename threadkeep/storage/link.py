"""The wire to Redis, sync or async, behind one protocol.

What is built on a `Link` is written once, as coroutines. Over a `SyncLink` they never suspend, so `run_now` finishes
them in one step without an event loop; over an `AsyncLink` they are awaited as usual.
"""

import asyncio
import hashlib
import os
import time
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Final, Protocol, TypeVar

import redis
import redis.asyncio
from redis.backoff import NoBackoff
from redis.exceptions import (
    AskError,
    AuthenticationError,
    ClusterDownError,
    DataError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)
from redis.retry import Retry

from threadkeep.config import Settings
from threadkeep.errors import StoreFull, StoreRefused, StoreUnavailable, ThreadkeepError

T = TypeVar("T")
Command = tuple[Any, ...]
Call = tuple[Sequence[str], Sequence[Any]]
"""Keys and arguments of a script."""

FAILURES: Final = (RedisError, UnicodeEncodeError)
"""What a client raises: the latter for an argument that is no text that could be sent."""
UNBOUNDED: Final = 2**31
"""Connections; a pool of redis-py that is given no number stops at 100."""


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua operation: the shared prelude and one file."""

    name: str
    text: str
    sha: str


@cache
def script(name: str) -> Script:
    """The script `lua/<name>.lua`, behind `lua/prelude.lua`."""
    lua = files("threadkeep.storage") / "lua"
    text = f"{(lua / 'prelude.lua').read_text()}\n{(lua / f'{name}.lua').read_text()}"
    return Script(name, text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


class Listener(Protocol):
    """A subscription to one channel."""

    async def wait(self, seconds: float) -> bool:
        """True as soon as something was announced, or may have been unheard; False after `seconds` without."""
        ...


class Link(Protocol):
    """One Redis or Valkey, or a cluster of them (`threadkeep.storage.cluster`).

    After a broken connection a command is sent again, and a batch as a whole: what is written must bear that.

    Raises (all methods):
        StoreUnavailable: no answer; a write may or may not have happened.
        StoreRefused: credentials, rights, or no memory left.
    """

    async def run(self, *command: Any) -> Any:
        """One command; replies are bytes."""
        ...

    async def batch(self, commands: Sequence[Command]) -> list[Any]:
        """Many commands in one round trip, without a transaction."""
        ...

    async def call(self, name: str, keys: Sequence[str], args: Sequence[Any]) -> Any:
        """One script, atomically."""
        ...

    async def call_many(self, name: str, calls: Sequence[Call]) -> list[Any]:
        """One script many times, each time atomically, in as few round trips as can be.

        An error of one call stands in the place of its reply.
        """
        ...

    def listen(self, channel: str) -> Any:
        """An async context manager that yields a `Listener`, subscribed on entry."""
        ...

    async def info(self) -> Sequence[Mapping[str, Any]]:
        """What each server that takes writes says of itself."""
        ...

    async def pause(self, seconds: float) -> None: ...

    async def close(self) -> None: ...


def run_now(coroutine: Coroutine[Any, Any, T]) -> T:
    """Finish a coroutine that stands on a `SyncLink`."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]
    coroutine.close()
    raise RuntimeError("a coroutine over a SyncLink suspended; it awaits something that is not a link")


def each_now(items: AsyncIterator[T]) -> Iterator[T]:
    """The items of an asynchronous iterator that stands on a `SyncLink`, each asked for as it is wanted."""
    with suppress(StopAsyncIteration):
        while True:
            yield run_now(_next(items))


async def _next(items: AsyncIterator[T]) -> T:
    return await anext(items)


class SyncLink:
    """Blocking, to one server. Safe to share between threads; connections are made in the process that uses them."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._clients: _Clients | None = None
        self._pid = 0

    async def run(self, *command: Any) -> Any:
        try:
            return self._connected().commands.execute_command(*command)
        except FAILURES as error:
            raise mapped(error, str(command[0])) from error

    async def batch(self, commands: Sequence[Command]) -> list[Any]:
        try:
            with self._connected().commands.pipeline(transaction=False) as pipe:
                for command in commands:
                    pipe.execute_command(*command)
                return _sound(pipe.execute(raise_on_error=False))
        except FAILURES as error:
            raise mapped(error, "a batch of commands") from error

    async def call(self, name: str, keys: Sequence[str], args: Sequence[Any]) -> Any:
        client, body = self._connected().commands, script(name)
        try:
            try:
                return client.execute_command("EVALSHA", body.sha, len(keys), *keys, *args)
            except NoScriptError:
                return client.execute_command("EVAL", body.text, len(keys), *keys, *args)
        except FAILURES as error:
            raise mapped(error, name) from error

    async def call_many(self, name: str, calls: Sequence[Call]) -> list[Any]:
        try:
            with self._connected().commands.pipeline(transaction=False) as pipe:
                for command in _loaded(name, calls):
                    pipe.execute_command(*command)
                return _each_mapped(pipe.execute(raise_on_error=False), name)
        except FAILURES as error:
            raise mapped(error, name) from error

    @asynccontextmanager
    async def listen(self, channel: str) -> AsyncIterator["Listener"]:
        pubsub = self._connected().listeners.pubsub(ignore_subscribe_messages=True)
        try:
            try:
                pubsub.subscribe(channel)
            except FAILURES as error:
                raise mapped(error, "SUBSCRIBE") from error
            yield _SyncListener(pubsub)
        finally:
            pubsub.close()

    async def info(self) -> Sequence[Mapping[str, Any]]:
        return [await self.run("INFO")]

    async def pause(self, seconds: float) -> None:
        time.sleep(seconds)  # noqa: ASYNC251  a SyncLink blocks: that is what it is for

    async def close(self) -> None:
        clients, self._clients = self._clients, None
        if clients is not None and self._pid == os.getpid():
            clients.commands.close()
            clients.listeners.close()

    def _connected(self) -> "_Clients":
        """No lock is taken, since a fork would copy it as it is; two threads at once only make a client too many."""
        clients = self._clients
        if clients is None or self._pid != os.getpid():
            clients = _connect(self._settings, redis, Retry)
            self._clients, self._pid = clients, os.getpid()
        return clients


@dataclass(slots=True)
class _SyncListener:
    pubsub: Any

    async def wait(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            try:
                if self.pubsub.get_message(timeout=left) is not None:
                    return True
            except FAILURES as error:
                raise mapped(error, "waiting for news") from error
        return False


class AsyncLink:
    """For asyncio, to one server. Connections belong to the running loop; another loop gets its own."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._clients: _Clients | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def run(self, *command: Any) -> Any:
        try:
            return await self._connected().commands.execute_command(*command)
        except FAILURES as error:
            raise mapped(error, str(command[0])) from error

    async def batch(self, commands: Sequence[Command]) -> list[Any]:
        try:
            async with self._connected().commands.pipeline(transaction=False) as pipe:
                for command in commands:
                    pipe.execute_command(*command)
                return _sound(await pipe.execute(raise_on_error=False))
        except FAILURES as error:
            raise mapped(error, "a batch of commands") from error

    async def call(self, name: str, keys: Sequence[str], args: Sequence[Any]) -> Any:
        client, body = self._connected().commands, script(name)
        try:
            try:
                return await client.execute_command("EVALSHA", body.sha, len(keys), *keys, *args)
            except NoScriptError:
                return await client.execute_command("EVAL", body.text, len(keys), *keys, *args)
        except FAILURES as error:
            raise mapped(error, name) from error

    async def call_many(self, name: str, calls: Sequence[Call]) -> list[Any]:
        try:
            async with self._connected().commands.pipeline(transaction=False) as pipe:
                for command in _loaded(name, calls):
                    pipe.execute_command(*command)
                return _each_mapped(await pipe.execute(raise_on_error=False), name)
        except FAILURES as error:
            raise mapped(error, name) from error

    @asynccontextmanager
    async def listen(self, channel: str) -> AsyncIterator["Listener"]:
        pubsub = self._connected().listeners.pubsub(ignore_subscribe_messages=True)
        try:
            try:
                await pubsub.subscribe(channel)
            except FAILURES as error:
                raise mapped(error, "SUBSCRIBE") from error
            yield _AsyncListener(pubsub)
        finally:
            await pubsub.aclose()

    async def info(self) -> Sequence[Mapping[str, Any]]:
        return [await self.run("INFO")]

    async def pause(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def close(self) -> None:
        clients, self._clients = self._clients, None
        if clients is not None and self._loop is asyncio.get_running_loop():
            await clients.commands.aclose()
            await clients.listeners.aclose()

    def _connected(self) -> "_Clients":
        loop = asyncio.get_running_loop()
        if self._clients is None or self._loop is not loop:
            self._clients = _connect(self._settings, redis.asyncio, redis.asyncio.retry.Retry)
            self._loop = loop
        return self._clients


@dataclass(slots=True)
class _AsyncListener:
    pubsub: Any

    async def wait(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            try:
                if await self.pubsub.get_message(timeout=left) is not None:
                    return True
            except FAILURES as error:
                raise mapped(error, "waiting for news") from error
        return False


@dataclass(frozen=True, slots=True)
class _Clients:
    """One for commands, whose callers queue for a connection, and one for listeners, each of which holds its own."""

    commands: Any
    listeners: Any


def _connect(settings: Settings, kit: Any, retry: Any) -> _Clients:
    """Clients that retry a broken connection once, at once: the only layer in which a server is asked again."""
    options: dict[str, Any] = {
        "socket_timeout": settings.redis_timeout,
        "socket_connect_timeout": settings.redis_connect_timeout,
        "socket_keepalive": True,
        "health_check_interval": 10,
        "retry": retry(NoBackoff(), 1),
        "client_name": "threadkeep",
    }
    queueing = kit.BlockingConnectionPool.from_url(
        settings.redis_url, max_connections=settings.redis_max_connections, timeout=settings.redis_timeout, **options
    )
    unbounded = kit.ConnectionPool.from_url(settings.redis_url, max_connections=UNBOUNDED, **options)
    return _Clients(kit.Redis.from_pool(queueing), kit.Redis.from_pool(unbounded))


def _loaded(name: str, calls: Sequence[Call]) -> Iterator[Command]:
    """The calls, the first with the script's text, which a server that was restarted has forgotten."""
    body = script(name)
    for number, (keys, args) in enumerate(calls):
        told = ("EVALSHA", body.sha) if number else ("EVAL", body.text)
        yield *told, len(keys), *keys, *args


def _each_mapped(replies: Sequence[Any], operation: str) -> list[Any]:
    return [mapped(reply, operation) if isinstance(reply, RedisError) else reply for reply in replies]


def _sound(replies: Sequence[Any]) -> list[Any]:
    """The replies of a batch; an error among them is raised as it came, for a pipeline's own quotes the command."""
    for reply in replies:
        if isinstance(reply, RedisError):
            raise reply
    return list(replies)


def mapped(error: Exception, operation: str) -> ThreadkeepError:
    """Redis's error as ours; its text names commands and limits, never values."""
    reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
    if isinstance(error, UnicodeEncodeError | DataError):
        return StoreRefused("Redis", operation, "an argument cannot be sent", "Nothing was; its caller is at fault.")
    if isinstance(error, AuthenticationError | NoPermissionError):
        return StoreRefused("Redis", operation, reason, "Check the user and password in THREADKEEP_REDIS_URL.")
    if isinstance(error, OutOfMemoryError):
        return StoreFull("Redis", operation, reason, "Free memory or raise maxmemory; what was acknowledged is safe.")
    if isinstance(error, AskError):  # MOVED is one of these
        return StoreRefused("Redis", operation, f"MOVED or ASK {reason}", "Set THREADKEEP_REDIS_CLUSTER=true.")
    if isinstance(error, ReadOnlyError | ClusterDownError | TryAgainError) or not isinstance(error, ResponseError):
        return StoreUnavailable("Redis", operation, reason)
    return StoreRefused("Redis", operation, reason, "Run `threadkeep doctor`.")
