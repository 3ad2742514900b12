"""Redis Cluster as one `Link`, over a link to each of its servers; and which link the settings ask for.

redis-py's own cluster client is not used: every command here names its one slot, so little is left to route, and each
server gets the same bounded connections, retries, scripts and subscriptions as a single one.
"""

import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot
from redis.exceptions import AskError, MovedError

from threadkeep.config import Settings
from threadkeep.errors import StoreRefused, StoreUnavailable
from threadkeep.storage.connections import Command
from threadkeep.storage.link import AsyncLink, Call, Link, Listener, SyncLink

T = TypeVar("T")

BETWEEN_TRIES: Final = 0.1
"""Seconds before a command is sent again while servers fail over."""


def sync_link(settings: Settings) -> Link:
    """A blocking link to what the settings name: one server, or a cluster."""
    return ClusterLink(settings, SyncLink) if settings.redis_cluster else SyncLink(settings)


def async_link(settings: Settings) -> Link:
    """The same, for asyncio."""
    return ClusterLink(settings, AsyncLink) if settings.redis_cluster else AsyncLink(settings)


class ClusterLink:
    """A cluster; blocking or not as the links to its servers are, and as safe to share.

    A command goes to the primary of its key's slot. While a slot has none, or is on the move, the command is sent again
    to wherever the slot is by then, for `redis_timeout` seconds in all.

    Args:
        settings: `redis_url` names one server or several: `redis://user:password@one:6379,other:6379`.
        connect: Makes the link to one server.
    """

    def __init__(self, settings: Settings, connect: Callable[[Settings], Link]) -> None:
        self._settings = settings
        self._connect = connect
        self._links: dict[str, Link] = {}
        self._primaries: list[str | None] = []
        self._failed: str | None = None

    async def run(self, *command: Any) -> Any:
        return await self._sent(key_of(command), lambda link: link.run(*command))

    async def call(self, name: str, keys: Sequence[str], args: Sequence[Any]) -> Any:
        return await self._sent(keys[0], lambda link: link.call(name, keys, args))

    async def call_many(self, name: str, calls: Sequence[Call]) -> list[Any]:
        """One after the other: each goes wherever its slot is by then."""
        replies: list[Any] = []
        for keys, args in calls:
            try:
                replies.append(await self.call(name, keys, args))
            except StoreRefused as error:
                replies.append(error)
        return replies

    async def batch(self, commands: Sequence[Command]) -> list[Any]:
        """One round trip to each server that holds some of the keys."""
        replies: dict[int, Any] = {}

        async def once() -> None:
            left = [place for place in range(len(commands)) if place not in replies]
            for url, places in (await self._by_holder(commands, left)).items():
                some = [commands[place] for place in places]
                told = await self._ask(url, lambda link: link.batch(some))  # noqa: B023  awaited at once
                replies.update(zip(places, told, strict=True))

        await self._patiently(once)
        return [replies[place] for place in range(len(commands))]

    @asynccontextmanager
    async def listen(self, channel: str) -> AsyncIterator[Listener]:
        listener = _Listening(self, channel)
        try:
            await listener.subscribe()
            yield listener
        finally:
            await listener.leave()

    async def listen_at_holder(self, channel: str, stack: AsyncExitStack) -> Any:
        """A listener at the primary of the channel's slot, which `stack` ends."""
        return await self._sent(channel, lambda link: stack.enter_async_context(link.listen(channel)))

    async def info(self) -> Sequence[Mapping[str, Any]]:
        async def once() -> list[Mapping[str, Any]]:
            servers = sorted({url for url in await self._learn() if url is not None})
            return [told for url in servers for told in await self._ask(url, lambda link: link.info())]

        return await self._patiently(once)

    async def pause(self, seconds: float) -> None:
        await self._link(seeds(self._settings.redis_url)[0]).pause(seconds)

    async def close(self) -> None:
        for link in list(self._links.values()):
            await link.close()

    # --- where slots are --------------------------------------------------------------------------------------------

    async def _holder(self, key: str) -> str:
        """The server that takes a key's writes."""
        slot = key_slot(key.encode())
        url = (self._primaries or await self._learn())[slot]
        if url is None:
            raise StoreUnavailable("Redis", "finding a server", f"no server of the cluster holds slot {slot}")
        return url

    async def _by_holder(self, commands: Sequence[Command], places: Iterable[int]) -> dict[str, list[int]]:
        groups: dict[str, list[int]] = {}
        for place in places:
            groups.setdefault(await self._holder(key_of(commands[place])), []).append(place)
        return groups

    async def _learn(self, *, first: str | None = None) -> list[str | None]:
        """Ask one server after the other where the slots are, until one answers; the one that just failed is last."""
        known = list({*seeds(self._settings.redis_url), *self._links})
        random.shuffle(known)
        known.sort(key=lambda url: (url != first, url == self._failed))
        for url in known:
            try:
                ranges = await self._link(url).run("CLUSTER", "SLOTS")
            except StoreUnavailable as error:
                silent = error
            except StoreRefused as error:
                raise _no_cluster(error) from error
            else:
                self._primaries = primaries(ranges, asked=url)
                return self._primaries
        raise silent

    async def _ask(self, url: str, send: Callable[[Link], Awaitable[T]]) -> T:
        try:
            return await send(self._link(url))
        except StoreUnavailable:
            self._failed = url
            raise

    def _link(self, url: str) -> Link:
        link = self._links.get(url)
        if link is None:
            link = self._connect(self._settings.model_copy(update={"redis_url": url}))
            link = self._links.setdefault(url, link)
        return link

    # --- patience ---------------------------------------------------------------------------------------------------

    async def _sent(self, key: str, send: Callable[[Link], Awaitable[T]]) -> T:
        async def once() -> T:
            return await self._ask(await self._holder(key), send)

        return await self._patiently(once)

    async def _patiently(self, attempt: Callable[[], Awaitable[T]]) -> T:
        deadline = time.monotonic() + self._settings.redis_timeout
        while True:
            try:
                return await attempt()
            except (StoreUnavailable, StoreRefused) as error:
                await self._recover(error, deadline)

    async def _recover(self, error: StoreUnavailable | StoreRefused, deadline: float) -> None:
        """Look where the slots are by now; raises what cannot get better, or did not in time."""
        cause = error.__cause__
        if isinstance(error, StoreRefused) and not isinstance(cause, AskError):
            raise error
        if time.monotonic() >= deadline:
            self._primaries = []  # whoever calls again looks first
            raise StoreUnavailable("Redis", error.operation, error.reason) from cause
        with suppress(StoreUnavailable):  # the next try tells
            if isinstance(cause, MovedError):
                await self._follow(cause)
                return
            await self.pause(BETWEEN_TRIES)
            await self._learn()

    async def _follow(self, moved: MovedError) -> None:
        """Take the word of the server that sent us away over what the next one says, which may not have heard yet."""
        told = server_url(seeds(self._settings.redis_url)[0], moved.host, moved.port)
        (await self._learn(first=told))[moved.slot_id] = told


class _Listening:
    """Listens where a channel's slot is; goes after it when that server is gone."""

    def __init__(self, cluster: ClusterLink, channel: str) -> None:
        self._cluster, self._channel = cluster, channel
        self._stack = AsyncExitStack()
        self._listener: Listener | None = None

    async def subscribe(self) -> None:
        self._listener = await self._cluster.listen_at_holder(self._channel, self._stack)

    async def wait(self, seconds: float) -> bool:
        if self._listener is None:
            await self.subscribe()
            return True
        try:
            return await self._listener.wait(seconds)
        except StoreUnavailable:
            await self.leave()
            return True  # whoever waits looks for himself, and then waits on

    async def leave(self) -> None:
        self._listener = None
        await self._stack.aclose()


def _no_cluster(error: StoreRefused) -> StoreRefused:
    if "cluster support disabled" not in error.reason:
        return error
    return StoreRefused("Redis", error.operation, error.reason, "Set THREADKEEP_REDIS_CLUSTER=false.")


def key_of(command: Command) -> str:
    """The key, or channel, that says where a command belongs."""
    return str(command[2] if command[0] == "MEMORY" else command[1])


def seeds(url: str) -> list[str]:
    """One URL for each server that a URL names: `redis://:password@one:6379,other:6379/0`."""
    parts = urlsplit(url)
    user, at, servers = parts.netloc.rpartition("@")
    return [parts._replace(netloc=f"{user}{at}{server}").geturl() for server in servers.split(",")]


def server_url(url: str, host: str, port: int) -> str:
    """The URL of another server of the same cluster; `host` is empty where it is that of `url`."""
    parts = urlsplit(url)
    user, at, _ = parts.netloc.rpartition("@")
    host = host or parts.hostname or ""
    return parts._replace(netloc=f"{user}{at}{f'[{host}]' if ':' in host else host}:{port}").geturl()


def primaries(ranges: Iterable[Any], *, asked: str) -> list[str | None]:
    """The URL of each slot's primary, from CLUSTER SLOTS as the server `asked` answers it; None if nobody holds it."""
    table: list[str | None] = [None] * REDIS_CLUSTER_HASH_SLOTS
    for first, last, (host, port, *_), *_ in ranges:
        named = "" if host in (None, b"", b"?") else host.decode()  # a server that knows no name for itself: as asked
        table[first : last + 1] = [server_url(asked, named, port)] * (last - first + 1)
    return table
