"""The wire to Redis, sync or async, behind one protocol.

What is built on a `Link` is written once, as coroutines. Over a `SyncLink` they never suspend, so `run_now` finishes
them in one step without an event loop; over an `AsyncLink` they are awaited as usual.
"""

import asyncio
import os
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar

import redis
import redis.asyncio
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
from threadkeep.storage.connections import AsyncConnections, Command, Connections, listening_client
from threadkeep.storage.scripts import script

T = TypeVar("T")
Call = tuple[Sequence[str], Sequence[Any]]
"""Keys and arguments of a script."""

FAILURES: Final = (RedisError, UnicodeEncodeError)
"""What a client raises: the latter for an argument that is no text that could be sent."""


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


class _ServerLink(ABC):
    """What both links to one server have in common."""

    @abstractmethod
    async def _exchange(self, commands: Sequence[Command]) -> list[Any]:
        """As of `Connections.exchange`."""

    async def run(self, *command: Any) -> Any:
        try:
            (reply,) = await self._exchange([command])
            return _sound(reply)
        except FAILURES as error:
            raise mapped(error, str(command[0])) from error

    async def batch(self, commands: Sequence[Command]) -> list[Any]:
        try:
            return [_sound(reply) for reply in await self._exchange(commands)]
        except FAILURES as error:
            raise mapped(error, "a batch of commands") from error

    async def call(self, name: str, keys: Sequence[str], args: Sequence[Any]) -> Any:
        body = script(name)
        try:
            (reply,) = await self._exchange([("EVALSHA", body.sha, len(keys), *keys, *args)])
            if isinstance(reply, NoScriptError):
                (reply,) = await self._exchange([("EVAL", body.text, len(keys), *keys, *args)])
            return _sound(reply)
        except FAILURES as error:
            raise mapped(error, name) from error

    async def call_many(self, name: str, calls: Sequence[Call]) -> list[Any]:
        try:
            replies = await self._exchange(list(_loaded(name, calls)))
        except FAILURES as error:
            raise mapped(error, name) from error
        return [mapped(reply, name) if isinstance(reply, RedisError) else reply for reply in replies]


class SyncLink(_ServerLink):
    """Blocking, to one server. Safe to share between threads; connections are made in the process that uses them."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._connections: Connections | None = None
        self._listening: Any = None
        self._pid = 0

    async def _exchange(self, commands: Sequence[Command]) -> list[Any]:
        self._enter()
        connections = self._connections  # another thread may close the link meanwhile
        if connections is None:
            connections = self._connections = Connections(self._settings)
        return connections.exchange(commands)

    @asynccontextmanager
    async def listen(self, channel: str) -> AsyncIterator["Listener"]:
        pubsub = self._listener().pubsub(ignore_subscribe_messages=True)
        try:
            try:
                pubsub.subscribe(channel)
            except FAILURES as error:
                raise mapped(error, "SUBSCRIBE") from error
            yield _SyncListener(pubsub)
        finally:
            pubsub.close()

    async def info(self) -> Sequence[Mapping[str, Any]]:
        try:
            return [self._listener().info()]
        except FAILURES as error:
            raise mapped(error, "INFO") from error

    async def pause(self, seconds: float) -> None:
        time.sleep(seconds)  # noqa: ASYNC251  a SyncLink blocks: that is what it is for

    async def close(self) -> None:
        self._enter()
        connections, self._connections = self._connections, None
        listening, self._listening = self._listening, None
        if connections is not None:
            connections.close()
        if listening is not None:
            listening.close()

    def _listener(self) -> Any:
        self._enter()
        if self._listening is None:
            self._listening = listening_client(self._settings, redis, Retry)
        return self._listening

    def _enter(self) -> None:
        """Leave a parent's connections alone.

        No lock is taken, since a fork would copy it as it is; two threads at once only make connections too many.
        """
        if self._pid != os.getpid():
            self._connections = self._listening = None
            self._pid = os.getpid()


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


class AsyncLink(_ServerLink):
    """For asyncio, to one server. Connections belong to the running loop; another loop gets its own."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._connections: AsyncConnections | None = None
        self._listening: Any = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def _exchange(self, commands: Sequence[Command]) -> list[Any]:
        self._enter()
        if self._connections is None:
            self._connections = AsyncConnections(self._settings)
        return await self._connections.exchange(commands)

    @asynccontextmanager
    async def listen(self, channel: str) -> AsyncIterator["Listener"]:
        pubsub = self._listener().pubsub(ignore_subscribe_messages=True)
        try:
            try:
                await pubsub.subscribe(channel)
            except FAILURES as error:
                raise mapped(error, "SUBSCRIBE") from error
            yield _AsyncListener(pubsub)
        finally:
            await pubsub.aclose()

    async def info(self) -> Sequence[Mapping[str, Any]]:
        try:
            return [await self._listener().info()]
        except FAILURES as error:
            raise mapped(error, "INFO") from error

    async def pause(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def close(self) -> None:
        self._enter()
        connections, self._connections = self._connections, None
        listening, self._listening = self._listening, None
        if connections is not None:
            await connections.close()
        if listening is not None:
            await listening.aclose()

    def _listener(self) -> Any:
        self._enter()
        if self._listening is None:
            self._listening = listening_client(self._settings, redis.asyncio, redis.asyncio.retry.Retry)
        return self._listening

    def _enter(self) -> None:
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._connections = self._listening = None
            self._loop = loop


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


def _loaded(name: str, calls: Sequence[Call]) -> Iterator[Command]:
    """The calls, the first with the script's text, which a server that was restarted has forgotten."""
    body = script(name)
    for number, (keys, args) in enumerate(calls):
        told = ("EVALSHA", body.sha) if number else ("EVAL", body.text)
        yield *told, len(keys), *keys, *args


def _sound(reply: Any) -> Any:
    if isinstance(reply, RedisError):
        raise reply
    return reply


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
