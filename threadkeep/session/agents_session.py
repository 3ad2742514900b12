"""A thread as the session of OpenAI Agents: what a `Runner` keeps of a conversation, hot at once and archived later."""

import asyncio
import inspect
import threading
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar

from threadkeep.errors import FormatMismatch, InvalidMessage
from threadkeep.model import ThreadRef
from threadkeep.session.codecs.jsonable import to_json
from threadkeep.session.codecs.openai_responses import OpenAIResponsesCodec
from threadkeep.session.shielding import shielded
from threadkeep.storage.link import run_now

if TYPE_CHECKING:
    from threadkeep.session.async_session import AsyncSession
    from threadkeep.session.session import Session

T = TypeVar("T")

_CODEC: Final = OpenAIResponsesCodec()
_TURN: Final = 0.002
"""Seconds between two looks at whether another call is done."""


class AgentsSession:
    """An open thread behind the `Session` protocol of `openai-agents`, which needs not be installed for it.

    Each call is done before the next begins, is durable when it returns, and is finished even if its caller is
    cancelled meanwhile. It may be used from several event loops, one after the other. Leaving the thread's own session
    is left to whoever opened it.

    Args:
        session: Open, and of codec `openai-responses`.

    Attributes:
        session_id: The thread's id.
        session_settings: A `SessionSettings` of the SDK's, whose `limit` bounds `get_items()`; None for no bound.

    Raises:
        FormatMismatch: the thread keeps messages of another codec.
    """

    def __init__(self, session: "Session | AsyncSession") -> None:
        if session.codec != _CODEC.name:
            raise FormatMismatch(str(ThreadRef(session.namespace, session.id)), session.codec, _CODEC.name)
        self.session_id = session.id
        self.session_settings: Any = None
        self._session = session
        self._lock = threading.Lock()

    async def get_items(self, limit: int | None = None) -> list[Any]:
        """Items as they were added, oldest first; copies.

        Args:
            limit: Only the latest so many; as the settings say if not given.
        """
        items = await self._done(_items)
        most = limit if limit is not None else _limit_of(self.session_settings)
        return items if most is None else items[max(0, len(items) - max(0, most)) :]

    async def add_items(self, items: Sequence[Any]) -> None:
        """Append items, all or none; in several appends only where one would exceed the settings' limits."""
        if items:
            await self._done(_add, [to_json(item) for item in items])

    async def pop_item(self) -> Any:
        """Remove the last item and return it; None if there is none."""
        return await self._done(_pop)

    async def clear_session(self) -> None:
        """Remove all items. The archive's earlier version stays where the bucket keeps versions."""
        await self._done(_clear)

    async def _done(self, step: Callable[..., Awaitable[T]], *args: Any) -> T:
        asynchronous = inspect.iscoroutinefunction(self._session.append)
        work = self._here(step, args) if asynchronous else asyncio.to_thread(self._in_thread, step, args)
        value, cancelled = await shielded(work)
        if cancelled is not None:
            raise cancelled
        return value

    def _in_thread(self, step: Callable[..., Any], args: Sequence[Any]) -> Any:
        with self._lock:
            return run_now(step(self._session, *args))

    async def _here(self, step: Callable[..., Awaitable[T]], args: Sequence[Any]) -> T:
        """In the running loop, once the lock is free."""
        while not self._lock.acquire(blocking=False):  # noqa: ASYNC110  an Event would belong to one loop
            await asyncio.sleep(_TURN)
        try:
            return await step(self._session, *args)
        finally:
            self._lock.release()


# --- the steps: coroutines that suspend only where the session's own calls do ---------------------------------------


async def _items(session: Any) -> list[Any]:
    return [entry.body for entry in await _given(session.entries)]


async def _add(session: Any, items: list[Any]) -> None:
    try:
        await _given(session.append(*items))
    except InvalidMessage as refused:
        if refused.field != "append" or len(items) < 2:
            raise
        middle = len(items) // 2
        await _add(session, items[:middle])
        await _add(session, items[middle:])


async def _pop(session: Any) -> Any:
    entries = await _given(session.entries)
    if not entries:
        return None
    *others, last = entries
    if _CODEC.cut(entries, len(others)) == len(others):
        await _given(session.truncate(last.id))
    else:  # a truncation would take along the reasoning that led to the item
        await _given(session.replace(*others))
    return last.body


async def _clear(session: Any) -> None:
    if session.count:
        await _given(session.replace())


async def _given(value: Any) -> Any:
    """What an `AsyncSession` has to be awaited for, and a `Session` just gives."""
    return await value if inspect.isawaitable(value) else value


def _limit_of(settings: Any) -> int | None:
    limit: int | None = settings.get("limit") if isinstance(settings, dict) else getattr(settings, "limit", None)
    return limit
