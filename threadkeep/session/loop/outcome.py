"""What became of a tool call, and what its model is told."""

import json
from dataclasses import dataclass
from typing import Any, Final

from pydantic import BaseModel
from pydantic_core import PydanticSerializationError, to_jsonable_python

from threadkeep.errors import InvalidMessage
from threadkeep.session.codecs.base import ToolCall, Usage
from threadkeep.session.codecs.jsonable import to_json
from threadkeep.strict_json import MAX_JSON_DEPTH, check_json

FAILED: Final = "The tool encountered an error. Please try again or use a different approach."
"""All that a model learns of a failure that no hook has decided on: an error may hold what is not its business."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one tool call.

    Attributes:
        call: The call as the model made it.
        content: What the model is told, as JSON.
        data: For the app: what the handler returned, or the `data` of its `ToolResult`; after a failure an object with
            `error` ("ValueError: no such file") and `recovered` or `suppressed`.
        error: The model is told that the call failed.
        skipped: A hook had it skipped; the handler did not run.
        invalid: It could not be run: no such tool, or arguments that do not fit.
        usage: Tokens that the handler used by itself.
        metadata: The app's own, from the `ToolResult`.
        seconds: How long the handler took.
    """

    call: ToolCall
    content: Any
    data: Any = None
    error: bool = False
    skipped: bool = False
    invalid: bool = False
    usage: Usage | None = None
    metadata: dict[str, Any] | None = None
    seconds: float = 0.0

    @property
    def name(self) -> str:
        """The tool's name."""
        return self.call.name


def skipped(call: ToolCall, reason: str) -> Outcome:
    return Outcome(call, compact({"skipped": True, "reason": reason}), skipped=True)


def invalid(call: ToolCall, problem: str) -> Outcome:
    data = {"error": f'Invalid tool call for "{call.name}": {problem}'}
    return Outcome(call, compact(data), data, error=True, invalid=True)


def failed(call: ToolCall, error: Exception) -> Outcome:
    return Outcome(call, compact({"error": FAILED}), {"error": told(error), "suppressed": True}, error=True)


def suppressed(call: ToolCall, error: Exception) -> Outcome:
    data = {"error": told(error), "suppressed": True}
    return Outcome(call, compact(data), data, error=True)


def recovered(call: ToolCall, error: Exception, content: Any) -> Outcome:
    return Outcome(call, as_json(content), {"error": told(error), "recovered": True})


def told(error: Exception) -> str:
    """An error as `Type: message`."""
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def compact(value: Any) -> str:
    """JSON text for a model, which reads letters better than escapes."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def as_json(value: Any) -> Any:
    """What a handler returned, as JSON: objects of SDKs as their provider takes them, the rest as pydantic writes it.

    Raises:
        InvalidMessage: names the type that is no JSON.
    """
    try:
        content = to_json(_with_own_models_dumped(value))
        check_json(content, "result")
    except (InvalidMessage, PydanticSerializationError):
        content = _as_pydantic_would(value)
        check_json(content, "result")
    return content


def _with_own_models_dumped(value: Any, depth: int = 0) -> Any:
    """The app's own pydantic models as JSON, defaults included; those of SDKs (they have `to_dict`) are left alone."""
    if depth > MAX_JSON_DEPTH:
        return value
    if isinstance(value, BaseModel) and not hasattr(value, "to_dict"):
        return to_jsonable_python(value, by_alias=True, bytes_mode="base64", inf_nan_mode="null")
    if isinstance(value, dict):
        return {key: _with_own_models_dumped(inner, depth + 1) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_with_own_models_dumped(inner, depth + 1) for inner in value]
    return value


def _as_pydantic_would(value: Any) -> Any:
    try:
        return to_jsonable_python(value, by_alias=True, inf_nan_mode="null")
    except (PydanticSerializationError, ValueError) as error:
        rule = "a tool must return JSON, or what pydantic can make JSON of"
        raise InvalidMessage("result", type(value).__name__, rule) from error
