"""`AsyncThreadkeep`: `Threadkeep` for asyncio, over the same core."""

import asyncio
from collections.abc import Callable, Coroutine, Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

from threadkeep.config import Settings
from threadkeep.model import JsonObject, ThreadRef, ThreadStat, fresh_mark
from threadkeep.session.async_session import AsyncSession
from threadkeep.session.conversation import OnDangling
from threadkeep.session.heartbeat import AsyncHeartbeat
from threadkeep.session.loop.calling import AsyncCalling
from threadkeep.session.making import copying_with, new_identity
from threadkeep.session.threads import Threads, ThreadView, new_ref
from threadkeep.session.writer import Writer
from threadkeep.storage.cluster import async_link
from threadkeep.storage.hot import HotTier
from threadkeep.tasks.adoption import CeleryApp
from threadkeep.tasks.enqueue import Enqueuer


class Opening:
    """What `open`, `new` and `fork` return: `async with` it, or await it for a session to close by hand."""

    def __init__(self, opening: Coroutine[Any, Any, AsyncSession]) -> None:
        self._opening = opening
        self._session: AsyncSession | None = None

    def __await__(self) -> Generator[Any, None, AsyncSession]:
        return self._opening.__await__()

    async def __aenter__(self) -> AsyncSession:
        self._session = await self._opening
        return self._session

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.__aexit__(kind, error, trace)


class AsyncThreadkeep:
    """Opens, makes, forks and reads threads from asyncio; see `Threadkeep`, whose every method is here.

    May be used from several event loops, one after the other: connections belong to the loop that runs. Publishing to
    the broker blocks, so it runs in a small executor of its own.

    Args:
        settings: Where Redis and the broker are; from the environment if not given.
        celery: The app to queue tasks through, prepared by `threadkeep.tasks.adoption.adopt`; our own if not given.
    """

    def __init__(self, settings: Settings | None = None, *, celery: CeleryApp | None = None) -> None:
        self.settings = settings or Settings.load()
        self._link = async_link(self.settings)
        self._publishers = ThreadPoolExecutor(max_workers=4, thread_name_prefix="threadkeep-publish")
        hot = HotTier(self._link, self.settings)
        self._threads = Threads(hot, Enqueuer.publishing(celery, self.settings), self.settings, self._publish)
        self._heartbeat = AsyncHeartbeat(hot, self.settings.lease_seconds / 3)

    def new(
        self,
        id: str | None = None,  # noqa: A002
        *,
        namespace: str | None = None,
        codec: str = "plain",
        system: Any = None,
        state: JsonObject | None = None,
        labels: Mapping[str, str] | None = None,
        overwrite: bool = False,
        wait_flush: float | None = None,
        on_dangling: OnDangling = "answer",
    ) -> Opening:
        """See `Threadkeep.new`."""
        ref, chosen = new_ref(id, namespace or self.settings.namespace)
        token = fresh_mark()
        identity = new_identity(codec, system, state, labels)
        opening = self._threads.new(ref, token, identity, chosen=chosen, overwrite=overwrite)
        return Opening(self._session(ref, token, opening, wait_flush, on_dangling))

    def open(
        self,
        id: str,  # noqa: A002
        *,
        namespace: str | None = None,
        create: bool = False,
        codec: str | None = None,
        system: Any = None,
        wait: float = 0.0,
        wait_flush: float | None = None,
        on_dangling: OnDangling = "answer",
    ) -> Opening:
        """See `Threadkeep.open`."""
        ref, token = self._ref(id, namespace), fresh_mark()
        identity = new_identity(codec or "plain", system, None, None)
        opening = self._threads.open(ref, token, create=identity if create else None, wait=wait, codec=codec)
        return Opening(self._session(ref, token, opening, wait_flush, on_dangling, system))

    def fork(
        self,
        source: str,
        *,
        id: str | None = None,  # noqa: A002
        namespace: str | None = None,
        before: str | None = None,
        codec: str | None = None,
        system: Any = None,
        hooks: Any = None,
        wait_flush: float | None = None,
        on_dangling: OnDangling = "answer",
    ) -> Opening:
        """See `Threadkeep.fork`."""
        origin = self._ref(source, namespace)
        ref, chosen = new_ref(id, origin.namespace)
        token = fresh_mark()
        copying = copying_with(before, codec, system, hooks, AsyncCalling())
        opening = self._threads.fork(origin, ref, token, chosen=chosen, copying=copying)
        return Opening(self._session(ref, token, opening, wait_flush, on_dangling, system))

    async def read(self, id: str, *, namespace: str | None = None) -> ThreadView:  # noqa: A002
        """See `Threadkeep.read`."""
        return await self._threads.view(self._ref(id, namespace))

    async def stat(self, id: str, *, namespace: str | None = None) -> ThreadStat:  # noqa: A002
        """See `Threadkeep.stat`."""
        return await self._threads.stat(self._ref(id, namespace))

    async def exists(self, id: str, *, namespace: str | None = None) -> bool:  # noqa: A002
        """See `Threadkeep.exists`."""
        return (await self.stat(id, namespace=namespace)).tier != "absent"

    async def prefetch(self, id: str, *, namespace: str | None = None) -> bool:  # noqa: A002
        """See `Threadkeep.prefetch`."""
        return await self._threads.prefetch(self._ref(id, namespace))

    async def flush(self, id: str, *, namespace: str | None = None, wait: float | None = None) -> bool:  # noqa: A002
        """See `Threadkeep.flush`."""
        ref = self._ref(id, namespace)
        queued = await self._threads.request_flush(ref, "evict")
        if wait is not None:
            await self._threads.wait_present_archived(ref, "evict", wait)
        return queued

    async def delete(self, id: str, *, namespace: str | None = None, wait: float | None = None) -> str:  # noqa: A002
        """See `Threadkeep.delete`."""
        return await self._threads.erase(self._ref(id, namespace), wait=wait)

    async def close(self) -> None:
        """See `Threadkeep.close`."""
        await self._link.close()
        self._publishers.shutdown(wait=False)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _session(
        self,
        ref: ThreadRef,
        token: str,
        opening: Coroutine[Any, Any, Any],
        wait_flush: float | None,
        on_dangling: OnDangling,
        system: Any = None,
    ) -> AsyncSession:
        head = await self._threads.leased(ref, token, opening)
        session = AsyncSession(Writer(self._threads, ref, token, head), self._heartbeat, wait_flush, on_dangling)
        if system is not None:
            try:
                await session.system(system)
            except BaseException as error:
                await session.__aexit__(type(error), error, error.__traceback__)
                raise
        return session

    async def _publish(self, publish: Callable[[], None]) -> None:
        await asyncio.get_running_loop().run_in_executor(self._publishers, publish)

    def _ref(self, id: str, namespace: str | None) -> ThreadRef:  # noqa: A002
        return ThreadRef.of(id, namespace or self.settings.namespace)
