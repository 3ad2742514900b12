"""Another agent as a tool: it runs in a thread of its own, which can be told to go on later."""

import hashlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from threadkeep.errors import InvalidMessage, ThreadExists, ThreadkeepError
from threadkeep.model import JsonObject
from threadkeep.session.loop.context import AsyncToolContext, ToolContext
from threadkeep.session.loop.hooks import ToolHooks
from threadkeep.session.loop.result import Result
from threadkeep.session.loop.tools import Tool, ToolResult
from threadkeep.strict_json import dump_json

AnyContext = ToolContext | AsyncToolContext
ThreadMode = Literal["new", "fork", "continue"]
OWN_THREAD: Final = ToolResult(
    {"error": "that conversation is the one that is going on here; name another"}, error=True
)


@dataclass(frozen=True, slots=True)
class Source:
    """Where a subagent's thread comes from.

    Attributes:
        mode: What becomes of `thread_id`.
        thread_id: The thread to fork or to continue; None for a new one.
        before: Fork only what stands before this message.
    """

    mode: ThreadMode
    thread_id: str | None = None
    before: str | None = None


@dataclass(frozen=True, slots=True)
class Subagent:
    """An agent that another one calls as a tool: `tools=[Subagent("researcher", "Looks things up", keep, model)]`.

    The id of a new or forked thread is derived from the call, so a redelivered run finds the thread that it began and
    goes on with it. The tokens that the subagent uses count as the caller's.

    Attributes:
        name: The tool's name.
        description: What it is good for, for the model.
        keep: A `Threadkeep`, or an `AsyncThreadkeep` where the calling session is async.
        model: As in `Session.run`.
        thread: `new` for each call, or one that the model may name: `fork` works on a copy of it, `continue` on itself.
        source: What a call that names no thread starts from: a `new` thread, or `parent`, the caller's, without the
            answer that is being worked on. Only a fork can start from the caller's: its own thread is being written.
        codec: Of a new thread.
        system: Of a new thread.
        tools, max_turns, options, run_hooks: As in `Session.run`.
        hooks: As for any tool.
        answer: Makes the tool's result of the run's; the text of its last message if not given.

    Raises:
        InvalidMessage: `source="parent"` with a mode other than `fork`.
    """

    name: str
    description: str
    keep: Any
    model: Callable[[dict[str, Any]], Any]
    thread: ThreadMode = "new"
    source: Literal["new", "parent"] = "new"
    codec: str = "plain"
    system: Any = None
    tools: Sequence[Any] = ()
    max_turns: int = 50
    options: Mapping[str, Any] = field(default_factory=dict)
    run_hooks: Any = None
    hooks: ToolHooks | None = None
    answer: Callable[[Result], Any] | None = None

    def __post_init__(self) -> None:
        if self.source == "parent" and self.thread != "fork":
            rule = 'works with thread="fork" only: the calling session writes its own thread meanwhile'
            raise InvalidMessage("source", "'parent'", rule)

    def as_tool(self) -> Tool:
        """The tool that a router sees."""
        handler = self._run_async if inspect.iscoroutinefunction(self.keep.read) else self._run
        return Tool(self.name, self._described(), handler, schema=self._schema(), hooks=self.hooks)

    def _described(self) -> str:
        if self.thread == "new":
            return self.description
        verb = "work on a copy of" if self.thread == "fork" else "go on with"
        return f"{self.description}\nGive the thread_id of an earlier answer to {verb} that conversation."

    def _schema(self) -> JsonObject:
        properties: JsonObject = {"prompt": {"type": "string", "description": "The task, with all that it needs."}}
        if self.thread != "new":
            about = "The conversation to start from; null for none."
            properties["thread_id"] = {"type": ["string", "null"], "description": about}
        return {"type": "object", "properties": properties, "required": ["prompt"], "additionalProperties": False}

    # --- running ----------------------------------------------------------------------------------------------------

    def _run(self, ctx: ToolContext, prompt: str, thread_id: str | None = None) -> ToolResult:
        source = source_of(self.thread, self.source, thread_id, ctx)
        if source.mode == "continue" and source.thread_id == ctx.thread_id:
            return OWN_THREAD
        if source.thread_id == ctx.thread_id:
            with suppress(ThreadkeepError):  # best effort: what the child reads is as new as can be
                ctx.save()
        with self._session(source, ctx) as session:
            return self._result(session.run(self.model, **self._asked(ctx, prompt)))

    async def _run_async(self, ctx: AsyncToolContext, prompt: str, thread_id: str | None = None) -> ToolResult:
        source = source_of(self.thread, self.source, thread_id, ctx)
        if source.mode == "continue" and source.thread_id == ctx.thread_id:
            return OWN_THREAD
        if source.thread_id == ctx.thread_id:
            with suppress(ThreadkeepError):
                await ctx.save()
        async with await self._async_session(source, ctx) as session:
            return self._result(await session.run(self.model, **self._asked(ctx, prompt)))

    def _session(self, source: Source, ctx: ToolContext) -> Any:
        if source.mode != "fork":
            return self.keep.open(**self._opened(source, ctx))
        try:
            return self.keep.fork(**forked(source, ctx))
        except ThreadExists:  # an earlier attempt at this very call made it
            return self.keep.open(own_id(ctx), namespace=ctx.namespace, wait=self._patience)

    async def _async_session(self, source: Source, ctx: AsyncToolContext) -> Any:
        if source.mode != "fork":
            return await self.keep.open(**self._opened(source, ctx))
        try:
            return await self.keep.fork(**forked(source, ctx))
        except ThreadExists:
            return await self.keep.open(own_id(ctx), namespace=ctx.namespace, wait=self._patience)

    def _opened(self, source: Source, ctx: AnyContext) -> dict[str, Any]:
        where = {"namespace": ctx.namespace, "wait": self._patience}
        if source.mode == "continue":
            return {"id": source.thread_id, **where}
        first = {"codec": self.codec, "system": self.system, "create": True}
        return {"id": own_id(ctx), **where, **first}

    @property
    def _patience(self) -> float:
        """Seconds after which the lease of an attempt that died is over."""
        return float(self.keep.settings.lease_seconds) + 1

    def _asked(self, ctx: AnyContext, prompt: str) -> dict[str, Any]:
        return {
            "input": prompt,
            "tools": self.tools,
            "max_turns": self.max_turns,
            "options": self.options,
            "hooks": self.run_hooks,
            "agent_name": self.name,
            "run_id": own_id(ctx),
        }

    def _result(self, result: Result) -> ToolResult:
        failed = result.reason != "completed"
        said: Any = {"error": f"the subagent ended as {result.reason}"} if failed else self._said(result)
        text = said if isinstance(said, str) else dump_json(said).decode("ascii")
        if self.thread != "new":
            text += f"\n\n[{self.name} thread_id: {result.thread_id}]"
        facts = {"thread_id": result.thread_id, "reason": result.reason}
        return ToolResult(text, data=facts, usage=result.usage, metadata=facts, error=failed)

    def _said(self, result: Result) -> Any:
        return result.text if self.answer is None else self.answer(result)


def source_of(mode: ThreadMode, source: str, thread_id: str | None, ctx: AnyContext) -> Source:
    """Where a call's thread comes from: one that the model names wins; with a mode of `new` none can be named."""
    if mode == "new":
        return Source("new")
    if thread_id:
        return Source(mode, thread_id)
    if source == "parent":
        return Source("fork", ctx.thread_id, before=ctx.assistant_id)
    return Source("new")


def forked(source: Source, ctx: AnyContext) -> dict[str, Any]:
    """What a fork is asked for."""
    return {"source": source.thread_id, "id": own_id(ctx), "namespace": ctx.namespace, "before": source.before}


def own_id(ctx: AnyContext) -> str:
    """The id of a thread, and of a run, that belongs to one call: the same however often the call is made."""
    made_of = dump_json([ctx.namespace, ctx.thread_id, ctx.run_id, ctx.turn, ctx.call_id])
    return hashlib.blake2b(made_of, digest_size=11).hexdigest()
