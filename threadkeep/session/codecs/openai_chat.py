"""OpenAI's Chat Completions, and whatever other provider speaks that protocol."""

import json
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any, Final, NoReturn

from threadkeep.errors import EmptyReply, InvalidMessage
from threadkeep.model import Entry, JsonObject, Kind
from threadkeep.session.codecs.base import (
    Part,
    Prepared,
    Reply,
    ToolCall,
    ToolDefinition,
    Usage,
    applied,
    dump_text,
    made_call_id,
)
from threadkeep.session.codecs.jsonable import to_json
from threadkeep.strict_json import check_json

_KINDS: Final[dict[str, Kind]] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",
}
_SPEECH: Final = ("content", "refusal", "tool_calls", "function_call", "audio")
"""What an assistant message can say. One with none of it is refused when it is sent back."""
_SENT: Final = ("role", "name", *_SPEECH)
"""What OpenAI takes back of an assistant message; other fields are extras of a vendor."""
_CUT_SHORT: Final = ("length", "content_filter")


class OpenAIChatCodec:
    """Messages of Chat Completions, one entry each.

    A `ChatCompletion` is kept as the message of its first choice, with model, usage, reason and id in `meta`. Of what
    the SDK's helpers add (`parsed`, `parsed_arguments`, a call's `index`) nothing is kept, since no provider takes it
    back. A vendor's own fields, as `reasoning_content`, are kept, and sent back only on demand. The arguments of a call
    stay the text that they were.
    """

    name = "openai-chat"

    def encode(self, message: Any, entry_id: str) -> list[Part]:
        if fact(message, "choices") is not None:
            return [_answer(message, entry_id)]
        body = _body(message, entry_id)
        if not isinstance(message, Mapping) and _is_silent(body):
            raise EmptyReply("")
        return [Part(_KINDS[body["role"]], body)]

    def system(self, content: Any) -> Part:
        return Part("system", {"role": "system", "content": to_json(content)})

    def user(self, content: Any) -> Part:
        return Part("user", {"role": "user", "content": to_json(content)})

    def result(self, call: ToolCall, content: Any, *, error: bool = False) -> Part:
        return Part("tool", {"role": "tool", "tool_call_id": call.id, "content": result_content(content)})

    def reply(self, entries: Sequence[Entry]) -> Reply:
        """See `Codec.reply`; `stop` is `refusal` where the model refused, whatever the provider's own word."""
        bodies = [body_of(entry, "assistant") for entry in entries]
        refused = any(body.get("refusal") for body in bodies)
        return Reply(
            calls=[call for entry in entries for call in self.calls(entry)],
            usage=_usage(last_fact(entries, "usage")),
            text="".join(_text(body.get("content")) for body in bodies),
            stop="refusal" if refused else last_fact(entries, "stop") or "",
        )

    def calls(self, entry: Entry) -> list[ToolCall]:
        asked = body_of(entry, "assistant").get("tool_calls") or []
        calls = [_call(call, made_call_id(entry.id, index)) for index, call in enumerate(asked)]
        if calls and entry.meta.get("stop") in _CUT_SHORT:
            last = calls[-1]
            calls[-1] = ToolCall(last.id, last.name, last.args, "the answer was cut short inside this call")
        return calls

    def answers(self, entry: Entry) -> list[str]:
        answered = body_of(entry, "tool").get("tool_call_id")
        return [answered] if isinstance(answered, str) else []

    def request(
        self,
        entries: Sequence[Entry],
        *,
        tools: Sequence[ToolDefinition] = (),
        prepared: Prepared | None = None,
        send_extras: bool = False,
    ) -> dict[str, Any]:
        """`messages`, the system prompt in force first, and `tools`.

        Args:
            entries: See `Codec.request`.
            tools: See `Codec.request`.
            prepared: See `Codec.request`; sees the system prompt too, which is a message here.
            send_extras: Send a vendor's own fields of assistant messages back, as some require of their
                `reasoning_content`; OpenAI refuses them.
        """
        system = [entry for entry in entries if entry.kind == "system"][-1:]
        others = [entry for entry in entries if entry.kind != "system"]
        messages = [_sent(entry.body, extras=send_extras) for entry in [*system, *others]]
        request: dict[str, Any] = {"messages": applied(prepared, messages)}
        if tools:
            request["tools"] = [{"type": "function", "function": function(tool)} for tool in tools]
        return request

    def native(self, entries: Sequence[Entry]) -> list[Any]:
        return [deepcopy(entry.body) for entry in entries]

    def cut(self, entries: Sequence[Entry], at: int) -> int:
        return at


# --- what is stored -------------------------------------------------------------------------------------------------


def _answer(completion: Any, entry_id: str) -> Part:
    choices = fact(completion, "choices")
    if not choices:
        raise EmptyReply("")
    said, stop = fact(choices[0], "message"), fact(choices[0], "finish_reason")
    if said is None:
        rule = "is a piece of a stream; append the answer as a whole"
        raise InvalidMessage("message", type(completion).__name__, rule)
    body = _body({**to_json(said), "role": "assistant"}, entry_id)  # a role repeated in each chunk has piled up by now
    if _is_silent(body):
        raise EmptyReply(stop or "")
    facts = {
        "model": fact(completion, "model"),
        "stop": stop,
        "usage": to_json(fact(completion, "usage")),
        "native_id": fact(completion, "id"),
    }
    return Part("assistant", body, {name: value for name, value in facts.items() if value is not None})


def _body(message: Any, entry_id: str) -> JsonObject:
    body = to_json(message)
    if not isinstance(body, dict):
        raise InvalidMessage("message", type(message).__name__, "must be an object with a role, or an SDK's answer")
    role, calls = body.get("role"), body.get("tool_calls") or []
    if not isinstance(role, str) or role not in _KINDS:
        raise InvalidMessage("message: role", ascii(role)[:80], f"must be one of {', '.join(_KINDS)}")
    if not isinstance(calls, list) or not all(isinstance(call, dict) for call in calls):
        raise InvalidMessage("message: tool_calls", type(calls).__name__, "must be a list of objects")
    return _without_helpers(body, entry_id) if role == "assistant" else body


def _without_helpers(body: JsonObject, entry_id: str) -> JsonObject:
    """Without what the SDK's helpers add, and without lists and objects that are empty."""
    body.pop("parsed", None)
    for name in ("annotations", "audio", "function_call", "tool_calls"):
        if not body.get(name):
            body.pop(name, None)
    for index, call in enumerate(body.get("tool_calls", [])):
        call.pop("index", None)
        call["id"] = call.get("id") or made_call_id(entry_id, index)
        if isinstance(call.get("function"), dict):
            call["function"].pop("parsed_arguments", None)
    return body


def _is_silent(body: JsonObject) -> bool:
    return body["role"] == "assistant" and not any(body.get(name) for name in _SPEECH)


# --- what is read and sent ------------------------------------------------------------------------------------------


def _call(call: JsonObject, made_id: str) -> ToolCall:
    call_id, kind = call.get("id") or made_id, call.get("type") or "function"
    asked = call.get(kind) if isinstance(kind, str) else None
    name = asked.get("name", "") if isinstance(asked, dict) else ""
    if kind not in ("function", "custom"):
        return ToolCall(call_id, name, {}, f"calls of type {ascii(kind)[:80]} are not known here")
    if not isinstance(asked, dict):
        return ToolCall(call_id, name, {}, f"its {kind} is no object")
    if kind == "custom":
        return ToolCall(call_id, name, asked.get("input", ""))
    return ToolCall(call_id, name, *parsed_arguments(asked.get("arguments")))


def _text(content: Any) -> str:
    if not isinstance(content, list):
        return content if isinstance(content, str) else ""
    texts = [part for part in content if isinstance(part, dict) and part.get("type") == "text"]
    return "".join(part.get("text", "") for part in texts)


def _usage(usage: Any) -> Usage:
    return Usage(
        input=counted(usage, "prompt_tokens"),
        output=counted(usage, "completion_tokens"),
        cache_read=counted(usage, "prompt_tokens_details", "cached_tokens"),
        cache_write=counted(usage, "prompt_tokens_details", "cache_write_tokens"),
        reasoning=counted(usage, "completion_tokens_details", "reasoning_tokens"),
        requests=1,
    )


def _sent(body: JsonObject, *, extras: bool) -> JsonObject:
    """A copy of a message as it goes back: an assistant's without nulls and annotations, its audio by id."""
    copy: JsonObject = deepcopy(body)
    if copy.get("role") != "assistant":
        return copy
    for name, value in list(copy.items()):
        if name == "annotations" or (name != "content" and value is None) or not (extras or name in _SENT):
            del copy[name]
    if isinstance(copy.get("audio"), dict):
        copy["audio"] = {"id": copy["audio"].get("id")}
    return copy


# --- shared with the other codec of OpenAI's ------------------------------------------------------------------------


def fact(value: Any, name: str) -> Any:
    """A field of an SDK's object, or of the same thing as JSON; None where there is none."""
    return value.get(name) if isinstance(value, Mapping) else getattr(value, name, None)


def body_of(entry: Entry, kind: Kind) -> JsonObject:
    """The body of an entry of this kind; nothing for another's, and for what was imported and is no message."""
    return entry.body if entry.kind == kind and isinstance(entry.body, dict) else {}


def last_fact(entries: Sequence[Entry], name: str) -> Any:
    """What the last entry that knows says of a fact of its answer."""
    return next((entry.meta[name] for entry in reversed(entries) if name in entry.meta), None)


def function(tool: ToolDefinition) -> JsonObject:
    """A function as OpenAI is told of it."""
    told = {"name": tool.name, "description": tool.description, "parameters": deepcopy(tool.schema)}
    return told if tool.strict is None else {**told, "strict": tool.strict}


def result_content(content: Any, prefix: str = "") -> str | list[Any]:
    """A tool's result as OpenAI takes it: a list of content parts as it is, all else as text.

    Args:
        content: The result.
        prefix: What the type of each content part begins with.
    """
    value = to_json(content)
    check_json(value, "result")
    if isinstance(value, list) and value and all(_is_part(part, prefix) for part in value):
        return value
    return dump_text(value)


def _is_part(part: Any, prefix: str) -> bool:
    kind = part.get("type") if isinstance(part, dict) else None
    return isinstance(kind, str) and kind.startswith(prefix)


def parsed_arguments(text: Any) -> tuple[Any, str]:
    """The arguments of a call, an object, and what is wrong with them; models leave them blank for want of any."""
    if text is None or (isinstance(text, str) and not text.strip()):
        return {}, ""
    try:
        args = json.loads(text, parse_constant=_refuse)
    except (ValueError, TypeError, RecursionError) as error:
        return {}, f"its arguments are no JSON: {error}"
    return (args, "") if isinstance(args, dict) else ({}, "its arguments are no JSON object")


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is none of its values")


def counted(usage: Any, *path: str) -> int:
    """A number of tokens; 0 where the provider does not count them."""
    for name in path:
        usage = usage.get(name) if isinstance(usage, dict) else None
    return usage if isinstance(usage, int) else 0
