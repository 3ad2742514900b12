"""Finds the tool of each call, and runs the calls of one answer."""

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from threadkeep.session.codecs.base import ToolCall, ToolDefinition
from threadkeep.session.loop.calling import Calling, Work
from threadkeep.session.loop.context import BatchFacts, RunningBatch
from threadkeep.session.loop.outcome import Outcome, invalid
from threadkeep.session.loop.schema import InvalidToolCall
from threadkeep.session.loop.tool_run import ParsedCall, ToolRun
from threadkeep.session.loop.tools import Tool, as_tool

__all__ = ["Batch", "BatchFacts", "InvalidToolCall", "Outcome", "ParsedCall", "Router"]

log = logging.getLogger(__name__)


class Named(Protocol):
    """A call, or what became of one."""

    @property
    def name(self) -> str: ...


N = TypeVar("N", bound=Named)


@dataclass(frozen=True, slots=True)
class Batch:
    """What became of the calls of one answer.

    Attributes:
        outcomes: One for each call, in call order; none if the answer is to be taken back.
        rewind: The call whose handler asked for that.
    """

    outcomes: list[Outcome] = field(default_factory=list)
    rewind: ToolCall | None = None


class Router:
    """The tools of a run. The last of several with one name counts.

    Args:
        tools: What `as_tool` takes.
        hooks: An object with any of the methods of `Hooks`; None for none.
        calling: With an event loop, or without.

    Raises:
        TypeError: a tool that cannot be described; says why.
    """

    def __init__(self, tools: Iterable[Any], hooks: Any, calling: Calling) -> None:
        self._tools = {made.name: made for made in map(as_tool, tools)}
        self._hooks = hooks
        self._calling = calling

    def definitions(self) -> list[ToolDefinition]:
        """How a provider is told of the tools that are enabled, now."""
        return [tool.definition() for tool in self._enabled()]

    @property
    def has_tools(self) -> bool:
        """Whether any is enabled."""
        return bool(self._enabled())

    def has_tool(self, name: str) -> bool:
        """Whether one of that name is enabled."""
        return name in self._tools and self._tools[name].is_enabled

    def names(self) -> list[str]:
        """Of those that are enabled."""
        return [tool.name for tool in self._enabled()]

    def _enabled(self) -> list[Tool]:
        return [tool for tool in self._tools.values() if tool.is_enabled]

    def parse(self, call: ToolCall) -> ParsedCall:
        """A call that may be run.

        Raises:
            InvalidToolCall: no such tool, or arguments that do not fit it.
        """
        if not self.has_tool(call.name):
            raise InvalidToolCall(f"Tool {call.name} not found")
        if call.problem:
            raise InvalidToolCall(call.problem)
        tool = self._tools[call.name]
        return ParsedCall(call, tool, tool.read(call.args))

    async def process(
        self, calls: Sequence[ToolCall], *, facts: BatchFacts, turn: int = 0, parallel: bool = True
    ) -> Batch:
        """Run the calls of one answer; nothing is stored.

        Args:
            calls: In the order in which the model made them.
            facts: What handlers may know.
            turn: The run's turn, from 1.
            parallel: All at once, hooks included; else one after the other.

        Raises:
            Exception: what a hook raised, the first in call order, once all calls have ended (or, one after the other,
                before the next begins).
            BaseException: a cancellation; handlers that cannot be stopped go on, and are told so by `ctx.cancelled`.
        """
        batch = RunningBatch(facts, self._calling, turn)
        outcomes: list[Outcome | None] = [None] * len(calls)
        works: dict[int, Work[Outcome | None]] = {}
        for place, call in enumerate(calls):
            try:
                works[place] = ToolRun(self.parse(call), batch, self._calling, self._hooks).outcome
            except InvalidToolCall as problem:
                outcomes[place] = _refused(call, problem, facts)
        for place, outcome in zip(works, await self._carry_out(batch, list(works.values()), parallel), strict=False):
            outcomes[place] = outcome
        return _ended(batch, outcomes)

    async def by_name(
        self,
        calls: Sequence[ToolCall],
        name: str,
        handler: Callable[..., Any],
        *,
        facts: BatchFacts,
        turn: int = 0,
        parallel: bool = True,
    ) -> Batch:
        """Run the calls of one tool by a handler of one's own, without hooks; the others are left alone.

        Raises:
            InvalidToolCall: arguments that do not fit the handler.
            Exception: what the handler raised, the first in call order.
        """
        tool, batch = Tool(name, "", handler), RunningBatch(facts, self._calling, turn)
        parsed = [ParsedCall(call, tool, tool.read(call.args)) for call in self.filter_by_name(calls, name)]
        works = [ToolRun(each, batch, self._calling, None).bare_outcome for each in parsed]
        return _ended(batch, await self._carry_out(batch, works, parallel))

    async def _carry_out(
        self, batch: RunningBatch, works: Sequence[Work[Outcome | None]], parallel: bool
    ) -> list[Outcome | None]:
        try:
            return await self._at_once(works) if parallel else [await work() for work in works]
        except BaseException:
            batch.cancelled = True
            raise
        finally:
            await batch.close()

    async def _at_once(self, works: Sequence[Work[Outcome | None]]) -> list[Outcome | None]:
        outcomes: list[Outcome | None] = []
        for outcome in await self._calling.together(works):
            if isinstance(outcome, Exception):
                raise outcome
            outcomes.append(outcome)
        return outcomes

    # --- asking about calls and outcomes ----------------------------------------------------------------------------

    @staticmethod
    def filter_by_name(calls: Iterable[N], name: str) -> list[N]:
        """The calls, or outcomes, of one tool."""
        return [call for call in calls if call.name == name]

    @staticmethod
    def has_call(calls: Iterable[Named], name: str) -> bool:
        """Whether a tool was called."""
        return any(call.name == name for call in calls)

    @staticmethod
    def results_by_name(outcomes: Iterable[Outcome], name: str) -> list[Any]:
        """The `data` of one tool's outcomes, of those that were run."""
        return [each.data for each in outcomes if each.name == name and not (each.skipped or each.invalid)]

    @staticmethod
    def has_no_other_calls(calls: Iterable[Named], name: str) -> bool:
        """Whether no other tool was called; true of no calls at all."""
        return all(call.name == name for call in calls)


def _refused(call: ToolCall, problem: InvalidToolCall, facts: BatchFacts) -> Outcome:
    about = {"thread_id": facts.thread_id, "tool": call.name, "call_id": call.id}
    log.info("a tool call was refused", extra={**about, "cause": type(problem.__cause__).__name__})
    return invalid(call, str(problem))


def _ended(batch: RunningBatch, outcomes: Sequence[Outcome | None]) -> Batch:
    if batch.rewind is not None:
        return Batch(rewind=batch.rewind)
    return Batch([outcome for outcome in outcomes if outcome is not None])
