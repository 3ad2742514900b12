"""Models that answer by a script, what they say, and hooks that remember what they were told."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any

from tests.conformance.face import Face
from tests.conformance.tiers import Tiers
from threadkeep.model import Entry
from threadkeep.session import Result, Tool
from threadkeep.session.threads import ThreadView

GENERIC = '{"error":"The tool encountered an error. Please try again or use a different approach."}'
INTERRUPTED = {"error": "interrupted"}


class Scripted:
    """A model that gives these answers, one a call, and remembers what it was asked.

    An exception among them is raised; a function is called with the request and gives the answer.
    """

    def __init__(self, *answers: Any) -> None:
        self.requests: list[dict[str, Any]] = []
        self._answers = iter(answers)

    def __call__(self, request: dict[str, Any]) -> Any:
        self.requests.append(deepcopy(request))
        answer = next(self._answers, None)
        assert answer is not None, "the model was asked once too often"
        if isinstance(answer, BaseException):
            raise answer
        return answer(request) if callable(answer) else answer


class Listening:
    """Hooks that remember what they were told, in order."""

    def __init__(self, face: Face, *names: str) -> None:
        self.heard: list[tuple[str, Any]] = []
        for name in names:
            setattr(self, name, face.adapted(partial(self._hear, name)))

    def _hear(self, name: str, event: Any) -> None:
        self.heard.append((name, event))

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.heard]

    def told(self, name: str) -> list[Any]:
        return [event for heard, event in self.heard if heard == name]


def hooks(face: Face, **functions: Callable[..., Any]) -> Any:
    """Hooks of these functions, as this face's app would write them."""
    return SimpleNamespace(**{name: face.adapted(function) for name, function in functions.items()})


def ask(face: Face, session: Any, model: Callable[..., Any], *, tools: Any = (), **asked: Any) -> Result:
    """`session.run`, with a model and tools as this face's app would write them."""
    ended: Result = session.run(face.adapted(model), tools=[_adapted(face, tool) for tool in tools], **asked)
    return ended


def _adapted(face: Face, tool: Any) -> Any:
    if isinstance(tool, Tool):
        return replace(tool, handler=face.adapted(tool.handler))
    return tool if hasattr(tool, "as_tool") else face.adapted(tool)


# --- plain messages ---------------------------------------------------------------------------------------------------


def system(text: str) -> dict[str, Any]:
    return {"role": "system", "content": text}


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def says(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def wants(*calls: dict[str, Any]) -> dict[str, Any]:
    """An answer that calls tools."""
    return {"role": "assistant", "content": "", "tool_calls": list(calls)}


def call(call_id: str, name: str, /, **args: Any) -> dict[str, Any]:
    return {"id": call_id, "name": name, "args": args}


def result(call_id: str, name: str, content: Any) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call_id, "name": name, "content": content}


def error_result(call_id: str, name: str, content: Any) -> dict[str, Any]:
    return {**result(call_id, name, content), "is_error": True}


# --- messages of Anthropic --------------------------------------------------------------------------------------------


def claude(*blocks: Any, used: tuple[int, int] = (0, 0)) -> dict[str, Any]:
    """An answer of the API's; strings are blocks of text, and `used` counts tokens of input and output."""
    content = [{"type": "text", "text": block} if isinstance(block, str) else block for block in blocks]
    calls = any(block["type"] == "tool_use" for block in content)
    return {
        "type": "message",
        "role": "assistant",
        "content": content,
        "stop_reason": "tool_use" if calls else "end_turn",
        "usage": {"input_tokens": used[0], "output_tokens": used[1]},
    }


def uses(call_id: str, name: str, /, **args: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": call_id, "name": name, "input": args}


def tool_result(call_id: str, content: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": call_id, "content": content}


def interrupted(call_id: str) -> dict[str, Any]:
    return {**tool_result(call_id, '{"error":"interrupted"}'), "is_error": True}


# --- what a thread holds ----------------------------------------------------------------------------------------------


def archived(face: Face, tiers: Tiers, thread_id: str) -> ThreadView:
    """A thread as it comes back from the archive, which is how it was in Redis."""
    hot = face.read(thread_id)
    cool(face, tiers, thread_id)
    cold: ThreadView = face.read(thread_id)
    assert (cold.entries, cold.state, cold.labels) == (hot.entries, hot.state, hot.labels)
    return cold


def cool(face: Face, tiers: Tiers, thread_id: str) -> None:
    """Leave a thread to the archive alone; also one that was brought back just now, whose copy a flush would keep."""
    face.flush(thread_id, wait=20)
    tiers.forget(thread_id)


def kinds(thread: Any) -> list[str]:
    return [entry.kind for entry in thread.entries]


def timeless(thread: Any) -> list[Entry]:
    """All entries, without the times at which they were made."""
    return [replace(entry, meta={**entry.meta, "ts": None}) for entry in thread.entries]
