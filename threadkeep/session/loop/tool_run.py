"""One tool call on its way: hooks, the handler, hooks again."""

import logging
import traceback
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any

from threadkeep.session.codecs.base import ToolCall
from threadkeep.session.loop.calling import Calling, is_cancellation
from threadkeep.session.loop.context import RunningBatch
from threadkeep.session.loop.hooks import Fallback, ReplaceArgs, Skip, Suppress, ToolFailed, ToolFinished, ToolStarting
from threadkeep.session.loop.hooks import hook as find
from threadkeep.session.loop.outcome import Outcome, as_json, failed, recovered, skipped, suppressed
from threadkeep.session.loop.schema import Arguments
from threadkeep.session.loop.tools import Rewind, Tool, ToolResult

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ParsedCall:
    """A call that may be run.

    Attributes:
        call: The call as the model made it.
        tool: What it calls.
        arguments: Its arguments as the handler takes them.
    """

    call: ToolCall
    tool: Tool
    arguments: Arguments


def where_raised(error: BaseException) -> str:
    """File, line and function of an error, without its words, which may tell what was said."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"{frames[-1].filename}:{frames[-1].lineno} in {frames[-1].name}" if frames else "an unknown place"


class ToolRun:
    """One call, from the hooks before its handler to those after it. The run's hooks stand outermost."""

    def __init__(self, parsed: ParsedCall, batch: RunningBatch, calling: Calling, hooks: Any) -> None:
        self._tool = parsed.tool
        self._call = parsed.call
        self._given = replace(parsed.call, args=parsed.arguments.values)
        self._arguments = parsed.arguments
        self._batch = batch
        self._calling = calling
        self._hooks = hooks

    async def outcome(self) -> Outcome | None:
        """What became of the call; None if the answer that made it is taken back.

        Raises:
            Exception: what a hook raised.
            BaseException: a cancellation (see `is_cancellation`), whoever raised it.
        """
        try:
            return await self._all()
        except BaseException as error:
            self._batch.cancelled |= is_cancellation(error)
            raise

    async def bare_outcome(self) -> Outcome | None:
        """The same without any hooks, and with the handler's errors raised."""
        if self._batch.cancelled:
            return None
        started = perf_counter()
        given = await self._calling.call(
            self._tool.handler, **self._tool.keywords(self._arguments, self._call, self._batch)
        )
        outcome = self._read(given)
        return None if outcome is None else replace(outcome, seconds=perf_counter() - started)

    async def _all(self) -> Outcome | None:
        if self._batch.cancelled:
            return None
        skip = await self._before()
        if skip is not None:
            return skipped(self._call, skip.reason)
        outcome = await self._handled()
        if outcome is not None:
            await self._after(outcome)
        return outcome

    # --- before -----------------------------------------------------------------------------------------------------

    async def _before(self) -> Skip | None:
        for hooks, name in ((self._hooks, "before_tool"), (self._tool.hooks, "before")):
            verdict = await self._asked(hooks, name, ToolStarting(self._effective, *self._where))
            match verdict:
                case None:
                    pass
                case Skip():
                    return verdict
                case ReplaceArgs(args):
                    self._arguments = self._tool.replaced(self._arguments, args)
                case _:
                    raise TypeError(f"{name} of tool {self._tool.name!r} must return Skip, ReplaceArgs or None")
        return None

    # --- the handler ------------------------------------------------------------------------------------------------

    async def _handled(self) -> Outcome | None:
        started = perf_counter()
        try:
            return await self.bare_outcome()
        except Exception as error:
            if is_cancellation(error):
                raise
            seconds = perf_counter() - started
            return replace(await self._failed(error), seconds=seconds)

    def _read(self, given: Any) -> Outcome | None:
        match given:
            case Rewind():
                self._batch.ask_rewind(self._call)
                return None
            case ToolResult():
                return Outcome(
                    self._call,
                    as_json(given.content),
                    given.data,
                    error=given.error,
                    usage=given.usage,
                    metadata=given.metadata,
                )
            case _:
                return Outcome(self._call, as_json(given), given)

    # --- after ------------------------------------------------------------------------------------------------------

    async def _failed(self, error: Exception) -> Outcome:
        asked = ((self._tool.hooks, "on_error", self._effective), (self._hooks, "on_tool_error", self._given))
        for hooks, name, call in asked:
            verdict = await self._asked(hooks, name, ToolFailed(call, error, *self._where))
            match verdict:
                case None:
                    pass
                case Fallback(content):
                    return recovered(self._call, error, content)
                case Suppress():
                    return suppressed(self._call, error)
                case _:
                    raise TypeError(f"{name} of tool {self._tool.name!r} must return Fallback, Suppress or None")
        facts = {"thread_id": self._batch.facts.thread_id, "tool": self._tool.name, "call_id": self._call.id}
        log.warning(
            "tool %r failed in thread %s with %s at %s; the model is told to try otherwise",
            self._tool.name,
            self._batch.facts.thread_id,
            type(error).__name__,
            where_raised(error),
            extra={**facts, "error": type(error).__name__},
        )
        return failed(self._call, error)

    async def _after(self, outcome: Outcome) -> None:
        for hooks, name, call in (
            (self._tool.hooks, "after", self._effective),
            (self._hooks, "after_tool", self._given),
        ):
            await self._asked(hooks, name, ToolFinished(call, outcome, *self._where, outcome.seconds))

    # --- common -----------------------------------------------------------------------------------------------------

    async def _asked(self, hooks: Any, name: str, event: Any) -> Any:
        found = find(hooks, name)
        return None if found is None else await self._calling.call(found, event)

    @property
    def _effective(self) -> ToolCall:
        return replace(self._call, args=self._arguments.values)

    @property
    def _where(self) -> tuple[str, int]:
        return self._batch.facts.thread_id, self._batch.turn
