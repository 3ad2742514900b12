"""What an app may be told of, and decide, while a run goes on."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, Final

from threadkeep.model import Entry
from threadkeep.session.codecs.base import ToolCall, Usage
from threadkeep.session.loop.calling import never_stopping
from threadkeep.session.loop.outcome import Outcome

# --- what is told ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SessionStarted:
    """A run is about to ask its model for the first time; what the user said is stored."""

    thread_id: str
    agent_name: str
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SessionEnded:
    """A run has ended, one way or the other, and is saved.

    Attributes:
        reason: As in `Result`.
        turns: Model invocations.
        usage: Tokens of all turns.
        flush_enqueued: Whether a flush is on its way.
        archived: Whether the archive is known to hold the run; only with `wait_flush`.
    """

    thread_id: str
    agent_name: str
    metadata: Mapping[str, Any]
    reason: str
    turns: int
    usage: Usage
    flush_enqueued: bool
    archived: bool


@dataclass(frozen=True, slots=True)
class TurnCompleted:
    """An answer and the results of its calls are stored.

    Attributes:
        turn: From 1.
        tool_calls: Calls that the answer made.
        usage: Tokens of the answer.
    """

    thread_id: str
    agent_name: str
    turn: int
    tool_calls: int
    usage: Usage


@dataclass(frozen=True, slots=True)
class MessageEvent:
    """A message that was posted to a running session is about to be stored, or has been."""

    thread_id: str
    content: Any
    id: str


@dataclass(frozen=True, slots=True)
class ToolStarting:
    """A tool is about to run.

    Attributes:
        call: Its `args` are checked and converted, and as the hooks before this one left them.
    """

    call: ToolCall
    thread_id: str
    turn: int


@dataclass(frozen=True, slots=True)
class ToolFinished:
    """A tool has run, or has failed and that was dealt with; its result is not stored yet.

    Attributes:
        call: For hooks of the run with the arguments that the model gave, for those of the tool with the ones that it
            ran with; both checked and converted.
        outcome: What became of it.
        seconds: How long the handler took.
    """

    call: ToolCall
    outcome: Outcome
    thread_id: str
    turn: int
    seconds: float

    @property
    def data(self) -> Any:
        """What the handler meant for the app: `outcome.data`."""
        return self.outcome.data

    @property
    def metadata(self) -> dict[str, Any] | None:
        """The handler's own: `outcome.metadata`."""
        return self.outcome.metadata


@dataclass(frozen=True, slots=True)
class ToolFailed:
    """A handler raised an error.

    Attributes:
        call: As in `ToolFinished`.
        error: The error itself; the model is not told of it unless a hook says so.
    """

    call: ToolCall
    error: Exception
    thread_id: str
    turn: int


# --- what is decided ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Skip:
    """Do not run the tool. The model is told so and why; no hook is told of an end."""

    reason: str = "Skipped by before_tool hook"


@dataclass(frozen=True, slots=True)
class ReplaceArgs:
    """Run the tool with these arguments instead; they are not checked again."""

    args: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Fallback:
    """Tell the model this in the place of a result; to the model the call has not failed."""

    content: Any


@dataclass(frozen=True, slots=True)
class Suppress:
    """Tell the model what the error was, and that it was suppressed."""


Before = Skip | ReplaceArgs | None
OnError = Fallback | Suppress | None

# --- who is told ----------------------------------------------------------------------------------------------------


class Hooks:
    """A base for hooks of a run, each of which does nothing; any object with some of these methods will do.

    Each may be a coroutine function, but for `on_prepare`, `on_prepared` and `on_fork_transform`. Tools that run at
    once call theirs at once, in a session without asyncio in threads. A hook that raises ends the run as failed.
    """

    def on_session_start(self, event: SessionStarted) -> Awaitable[None] | None:
        """The run begins."""

    def on_session_end(self, event: SessionEnded) -> Awaitable[None] | None:
        """The run has ended, also by an error."""

    def on_session_exit(self, result: Any) -> Awaitable[None] | None:
        """The run has ended without an error and gives this `Result`."""

    def on_turn_complete(self, event: TurnCompleted) -> Awaitable[None] | None:
        """A turn is stored; not called for one that was taken back."""

    def before_message(self, event: MessageEvent) -> Awaitable[None] | None:
        """A posted message is about to be stored."""

    def after_message(self, event: MessageEvent) -> Awaitable[None] | None:
        """A posted message is stored."""

    def before_tool(self, event: ToolStarting) -> Awaitable[Before] | Before:
        """Before the tool's own `before`, which sees replaced arguments."""

    def after_tool(self, event: ToolFinished) -> Awaitable[None] | None:
        """After the tool's own `after`."""

    def on_tool_error(self, event: ToolFailed) -> Awaitable[OnError] | OnError:
        """Asked where the tool's own `on_error` decided nothing."""

    def on_prepare(self, entry: Entry, index: int, entries: list[Entry]) -> Entry:  # noqa: ARG002
        """An entry on its way into a request: the one to send, system prompts included."""
        return entry

    def on_prepared(self, native: Any, index: int, messages: list[Any]) -> Any:  # noqa: ARG002
        """A provider's message, last of all before the request: the one to send."""
        return native

    def on_fork_prepare(self, entries: list[Entry]) -> Awaitable[list[Entry]] | list[Entry]:
        """What a fork starts with: the entries to take, any number of them."""
        return entries

    def on_fork_transform(self, entry: Entry, index: int, entries: list[Entry]) -> Entry:  # noqa: ARG002
        """Each entry that `on_fork_prepare` took: the one to store."""
        return entry


class ToolHooks:
    """A base for hooks of one tool, each of which does nothing; any object with some of these methods will do."""

    def before(self, event: ToolStarting) -> Awaitable[Before] | Before:
        """After the run's `before_tool`; what this one decides counts."""

    def after(self, event: ToolFinished) -> Awaitable[None] | None:
        """Before the run's `after_tool`; also after a failure."""

    def on_error(self, event: ToolFailed) -> Awaitable[OnError] | OnError:
        """Asked first; the run's `on_tool_error` is asked if this one decides nothing."""


_PASSED_ON: Final = frozenset({"on_prepare", "on_prepared", "on_fork_prepare", "on_fork_transform"})
"""Hooks that give a new value of their first argument."""
_NAMES: Final = [name for name in vars(Hooks) if name[0] != "_"]
_BASES: Final = {name: method for base in (Hooks, ToolHooks) for name, method in vars(base).items() if name[0] != "_"}


def hook(hooks: Any, name: str) -> Callable[..., Any] | None:
    """A hook by its name; None where there is none, or only the base's, which does nothing."""
    found = getattr(hooks, name, None)
    if not callable(found) or getattr(found, "__func__", found) is _BASES.get(name):
        return None
    return found  # type: ignore[no-any-return]


def check_hooks(hooks: Any) -> None:
    """Refuse what can only be a mistake.

    Raises:
        TypeError: a class, an object without any hook, or a name that is one letter off.
    """
    known = isinstance(hooks, _Composed | None) or any(hasattr(hooks, name) for name in _NAMES)
    if isinstance(hooks, type) or not known:
        raise TypeError(f"hooks must be one object with methods of Hooks, not {hooks!r}; for several use compose()")
    for name in dir(hooks):
        meant = get_close_matches(name, _NAMES, n=1, cutoff=0.85)
        if meant and name not in _NAMES:
            raise TypeError(f"no hook is called {name!r}; is {meant[0]!r} meant?")


def compose(*hooks: Any) -> Any:
    """Several objects with hooks as one: each hook is called in order, and the last that decides something counts.

    Hooks that give a new value (`on_prepare`, `on_prepared` and the two of a fork) get what the one before gave.
    """
    return _Composed(hooks)


class _Composed:
    """Has the hooks that any of its members has."""

    def __init__(self, members: Sequence[Any]) -> None:
        self._members = members

    def __getattr__(self, name: str) -> Callable[..., Any]:
        members = self._members if name in _BASES else ()
        found = [each for each in (hook(member, name) for member in members) if each is not None]
        if not found:
            raise AttributeError(name)
        if name in _PASSED_ON:
            return lambda first, *rest: _call_all(found, first, rest, passed_on=True)
        return lambda *args: _call_all(found, None, args, passed_on=False)


def _call_all(functions: Sequence[Any], answer: Any, args: Sequence[Any], *, passed_on: bool) -> Any:
    """The answer of all; a coroutine of it from the first function on that gives something to await."""
    for place, function in enumerate(functions):
        given = function(answer, *args) if passed_on else function(*args)
        if inspect.isawaitable(given):
            return _await_rest(given, functions[place + 1 :], answer, args, passed_on=passed_on)
        answer = answer if given is None else given
    return answer


async def _await_rest(
    awaited: Awaitable[Any], functions: Sequence[Any], answer: Any, args: Sequence[Any], *, passed_on: bool
) -> Any:
    given = await awaited
    answer = answer if given is None else given
    for function in functions:  # plain functions may block, and there is an event loop here
        given = await asyncio.to_thread(never_stopping, function, *((answer, *args) if passed_on else args))
        given = await given if inspect.isawaitable(given) else given
        answer = answer if given is None else given
    return answer
