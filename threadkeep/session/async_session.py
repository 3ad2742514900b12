"""An open thread, for asyncio: `Session` with awaits."""

from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from threadkeep.model import Entry, fresh_id
from threadkeep.session.codecs.base import ToolCall
from threadkeep.session.conversation import OnDangling
from threadkeep.session.heartbeat import AsyncHeartbeat
from threadkeep.session.loop.answers import Repair
from threadkeep.session.loop.calling import AsyncCalling
from threadkeep.session.loop.options import RunOptions
from threadkeep.session.loop.result import Result
from threadkeep.session.loop.run import Leaving, Run
from threadkeep.session.loop.tools import definitions_of
from threadkeep.session.session import SessionFacts
from threadkeep.session.shielding import shielded
from threadkeep.session.writer import Writer

if TYPE_CHECKING:
    from threadkeep.session.agents_session import AgentsSession


class AsyncSession(SessionFacts):
    """An open thread and its lease; see `Session`, whose every method is here as a coroutine.

    `messages`, `entries`, `repairs` and `unanswered` are awaited as they stand: `await session.messages`. Leaving is
    shielded: a cancelled task still saves, releases and queues the flush before the cancellation goes on.
    """

    def __init__(
        self, writer: Writer, heartbeat: AsyncHeartbeat, wait_flush: float | None, on_dangling: OnDangling = "answer"
    ) -> None:
        super().__init__(writer, wait_flush, on_dangling)
        self._heartbeat = heartbeat
        heartbeat.add(writer)

    async def append(self, *messages: Any, id: str | None = None, ids: Sequence[str] | None = None) -> list[str]:  # noqa: A002
        """See `Session.append`."""
        return await self._writing().append(messages, [id] if id is not None else ids)

    async def user(self, content: Any, *, id: str | None = None) -> str:  # noqa: A002
        """See `Session.user`."""
        return await self._writing().say(self._talk.codec.user(content), id)

    async def system(self, content: Any, *, id: str | None = None) -> str:  # noqa: A002
        """See `Session.system`."""
        return await self._writing().system(content, id)

    async def tool(self, call: ToolCall | str, content: Any, *, error: bool = False, id: str | None = None) -> str:  # noqa: A002
        """See `Session.tool`."""
        return await self._writing().result(call, content, error=error, message_id=id)

    async def post(self, content: Any, *, id: str | None = None) -> str:  # noqa: A002
        """See `Session.post`; may be called from other tasks of the loop while a run is going on."""
        return await self._talking().post(content, id)

    async def truncate(self, message_id: str) -> int:
        """See `Session.truncate`."""
        return await self._writing().truncate(message_id)

    async def pop(self) -> Any:
        """See `Session.pop`."""
        return await self._writing().pop()

    async def replace(self, *messages: Any, ids: Sequence[str] | None = None) -> list[str]:
        """See `Session.replace`."""
        return await self._writing().replace(messages, ids)

    async def label(self, **labels: str | None) -> None:
        """See `Session.label`."""
        await self._open().label(labels)

    async def checkpoint(self, *, wait: float | None = None) -> None:
        """See `Session.checkpoint`."""
        await self._open().checkpoint(wait)

    @property
    async def entries(self) -> list[Entry]:
        """See `Session.entries`."""
        return await self._open().entries()

    @property
    async def messages(self) -> list[Any]:
        """See `Session.messages`."""
        return await self._talking().messages()

    @property
    async def unanswered(self) -> bool:
        """See `Session.unanswered`."""
        return await self._talking().unanswered()

    @property
    async def repairs(self) -> list[Repair]:
        """See `Session.repairs`."""
        return await self._talking().all_repairs()

    async def request(self, *, tools: Iterable[Any] = (), hooks: Any = None, **options: Any) -> dict[str, Any]:
        """See `Session.request`."""
        return await self._talking().request(definitions_of(tools), hooks, options)

    def as_agents_session(self) -> "AgentsSession":
        """See `Session.as_agents_session`."""
        from threadkeep.session.agents_session import AgentsSession  # noqa: PLC0415  few need it

        self._talk.on_dangling = "keep"
        return AgentsSession(self)

    async def run(
        self,
        model: Callable[[dict[str, Any]], Any],
        *,
        input: Any = None,  # noqa: A002
        tools: Iterable[Any] = (),
        max_turns: int = 50,
        parallel: bool = True,
        hooks: Any = None,
        run_id: str | None = None,
        agent_name: str = "agent",
        metadata: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
        wait_flush: float | None = None,
    ) -> Result:
        """See `Session.run`; the model, tools and hooks may be coroutine functions.

        Other tools run in a thread each. A cancelled run is left as any other: the thread is made valid, saved
        and queued for its flush before the cancellation goes on.
        """
        asked = RunOptions(
            model,
            run_id=fresh_id(12) if run_id is None else run_id,
            input=input,
            tools=tuple(tools),
            max_turns=max_turns,
            parallel=parallel,
            hooks=hooks,
            agent_name=agent_name,
            metadata=metadata or {},
            options=options or {},
            wait_flush=wait_flush,
        )
        run = Run(self._writing(), AsyncCalling(), asked, shield=_unbroken, archive=self._writer.archive)
        return await run.go()

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
            left, cancelled = await shielded(self._talk.leave(failed=error is not None))
        finally:
            self._heartbeat.remove(self._writer)
        self._left(left, error)
        if cancelled is not None:
            raise cancelled
        if self._wait_flush is not None and error is None:
            await self._writer.wait_flushed(self._wait_flush)


async def _unbroken(work: Coroutine[Any, Any, Leaving]) -> Leaving:
    """Finish leaving a run, then let a cancellation go on that came meanwhile."""
    left, cancelled = await shielded(work)
    left.error = cancelled or left.error
    return left
