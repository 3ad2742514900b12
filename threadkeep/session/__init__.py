"""Sessions: what an app uses to open, write, fork and read threads, and to run an agent over one."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from threadkeep.session.agents_session import AgentsSession
    from threadkeep.session.codecs.base import Codec, Reply, ToolCall, ToolDefinition, Usage
    from threadkeep.session.loop.answers import Repair
    from threadkeep.session.loop.context import AsyncToolContext, ToolContext
    from threadkeep.session.loop.hooks import (
        Fallback,
        Hooks,
        MessageEvent,
        ReplaceArgs,
        SessionEnded,
        SessionStarted,
        Skip,
        Suppress,
        ToolFailed,
        ToolFinished,
        ToolHooks,
        ToolStarting,
        TurnCompleted,
        compose,
    )
    from threadkeep.session.loop.outcome import Outcome
    from threadkeep.session.loop.result import Result
    from threadkeep.session.loop.state import State, Status, Task
    from threadkeep.session.loop.subagent import Subagent
    from threadkeep.session.loop.tools import Rewind, Tool, ToolResult

__all__ = [
    "AgentsSession",
    "AsyncToolContext",
    "Codec",
    "Fallback",
    "Hooks",
    "MessageEvent",
    "Outcome",
    "Repair",
    "ReplaceArgs",
    "Reply",
    "Result",
    "Rewind",
    "SessionEnded",
    "SessionStarted",
    "Skip",
    "State",
    "Status",
    "Subagent",
    "Suppress",
    "Task",
    "Tool",
    "ToolCall",
    "ToolContext",
    "ToolDefinition",
    "ToolFailed",
    "ToolFinished",
    "ToolHooks",
    "ToolResult",
    "ToolStarting",
    "TurnCompleted",
    "Usage",
    "compose",
]

_HOMES = {
    "AgentsSession": "agents_session",
    "AsyncToolContext": "loop.context",
    "Codec": "codecs.base",
    "Fallback": "loop.hooks",
    "Hooks": "loop.hooks",
    "MessageEvent": "loop.hooks",
    "Outcome": "loop.outcome",
    "Repair": "loop.answers",
    "ReplaceArgs": "loop.hooks",
    "Reply": "codecs.base",
    "Result": "loop.result",
    "Rewind": "loop.tools",
    "SessionEnded": "loop.hooks",
    "SessionStarted": "loop.hooks",
    "Skip": "loop.hooks",
    "State": "loop.state",
    "Status": "loop.state",
    "Subagent": "loop.subagent",
    "Suppress": "loop.hooks",
    "Task": "loop.state",
    "Tool": "loop.tools",
    "ToolCall": "codecs.base",
    "ToolContext": "loop.context",
    "ToolDefinition": "codecs.base",
    "ToolFailed": "loop.hooks",
    "ToolFinished": "loop.hooks",
    "ToolHooks": "loop.hooks",
    "ToolResult": "loop.tools",
    "ToolStarting": "loop.hooks",
    "TurnCompleted": "loop.hooks",
    "Usage": "codecs.base",
    "compose": "loop.hooks",
}


def __getattr__(name: str) -> Any:
    """Load a public name where it is first used: an app that only appends needs no agent loop."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*globals(), *__all__]
