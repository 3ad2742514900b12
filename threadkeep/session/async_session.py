"""An open thread, for asyncio: `Session` with awaits."""

from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

from threadkeep.model import Entry
from threadkeep.session.heartbeat import AsyncHeartbeat, shielded
from threadkeep.session.session import SessionFacts
from threadkeep.session.writer import Writer


class AsyncSession(SessionFacts):
    """An open thread and its lease; see `Session`, whose every method is here as a coroutine.

    `messages` and `entries` are awaited as they stand: `await session.messages`. Leaving is shielded: a cancelled task
    still saves, releases and queues the flush before the cancellation goes on.
    """

    def __init__(self, writer: Writer, heartbeat: AsyncHeartbeat, wait_flush: float | None) -> None:
        super().__init__(writer, wait_flush)
        self._heartbeat = heartbeat
        heartbeat.add(writer)

    async def append(self, *messages: Any, id: str | None = None, ids: Sequence[str] | None = None) -> list[str]:  # noqa: A002
        """See `Session.append`."""
        return await self._open().append(messages, [id] if id is not None else ids)

    @property
    async def entries(self) -> list[Entry]:
        """See `Session.entries`."""
        return await self._open().entries()

    @property
    async def messages(self) -> list[Any]:
        """See `Session.messages`."""
        return [entry.body for entry in await self._open().entries()]

    async def truncate(self, message_id: str) -> int:
        """See `Session.truncate`."""
        return await self._open().truncate(message_id)

    async def replace(self, *messages: Any, ids: Sequence[str] | None = None) -> list[str]:
        """See `Session.replace`."""
        return await self._open().replace(messages, ids)

    async def label(self, **labels: str | None) -> None:
        """See `Session.label`."""
        await self._open().label(labels)

    async def checkpoint(self, *, wait: float | None = None) -> None:
        """See `Session.checkpoint`."""
        await self._open().checkpoint(wait)

    async def close(self) -> None:
        """See `Session.close`."""
        await self._leave(None)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._leave(error)

    async def _leave(self, error: BaseException | None) -> None:
        if self._writer.closed:
            return
        try:
            left, cancelled = await shielded(self._writer.leave())
        finally:
            self._heartbeat.remove(self._writer)
        self._left(left, error)
        if cancelled is not None:
            raise cancelled
        if self._wait_flush is not None and error is None:
            await self._writer.wait_flushed(self._wait_flush)
