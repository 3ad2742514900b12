"""Messages of LangChain, as `langchain_core.messages.messages_to_dict` writes them."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from functools import reduce
from importlib import import_module
from math import inf
from operator import add
from typing import Any, Final

from threadkeep.errors import EmptyReply, InvalidMessage, SdkMissing
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
from threadkeep.session.codecs.plain import KIND_OF_ROLE
from threadkeep.strict_json import check_json

_KINDS: Final[dict[str, Kind]] = {
    "human": "user",
    "system": "system",
    "ai": "assistant",
    "tool": "tool",
    "function": "tool",
    "chat": "user",
}
_TYPE_OF_ROLE: Final = {"user": "human", "developer": "system", "assistant": "ai"}
_TYPE_OF_CHUNK: Final = {
    f"{name}MessageChunk": name.lower() for name in ("Human", "System", "Tool", "Function", "Chat")
}
_GOOD: Final = "tool_calls"
_BAD: Final = "invalid_tool_calls"
_OF_CHUNKS: Final = frozenset({"tool_call_chunks", "chunk_position"})
_STOPS: Final = ("finish_reason", "stop_reason", "stopReason", "done_reason")
_CUT_SHORT: Final = frozenset({"length", "max_tokens", "max_output_tokens", "malformed_function_call"})
_CACHE_WRITES: Final = ("cache_creation", "ephemeral_5m_input_tokens", "ephemeral_1h_input_tokens")
_NO_JSON: Final = "its arguments are not valid JSON"


class LangChainCodec:
    """Keeps each message as `{"type": "human" | "ai" | …, "data": {…}}`, its provider's id included.

    Messages of LangChain's JavaScript are of the same shape. An `artifact`, or an entry of `response_metadata`, that is
    no JSON stays behind and is named in the `dropped` of the entry's meta.
    """

    name = "langchain"

    def encode(self, message: Any, entry_id: str) -> list[Part]:
        """Takes a message, its dict, a dict with `role` and `content`, or the list of a stream's chunks."""
        kind, data = _typed(_joined(message) if isinstance(message, list | tuple) else message)
        data, dropped = _keepable(data)
        _check(kind, data)
        meta = {**_meta(data), **({"dropped": dropped} if dropped else {})}
        if kind == "ai":
            _refuse_empty(data, meta)
            data = _identified(data, entry_id)
        return [Part(_kind(kind, data), {"type": kind, "data": data}, meta)]

    def system(self, content: Any) -> Part:
        return Part("system", {"type": "system", "data": {"content": _content(content)}})

    def user(self, content: Any) -> Part:
        """Text, or a list of text and content blocks."""
        return Part("user", {"type": "human", "data": {"content": _content(content)}})

    def result(self, call: ToolCall, content: Any, *, error: bool = False) -> Part:
        """A tool message; a list of content blocks is kept as it is, other JSON becomes text."""
        value = to_json(content)
        data = {
            "content": value if _is_blocks(value) else dump_text(value),
            "tool_call_id": call.id,
            "name": call.name,
            "status": "error" if error else "success",
        }
        return Part("tool", {"type": "tool", "data": data})

    def reply(self, entries: Sequence[Entry]) -> Reply:
        data = [_data(entry) for entry in entries]
        usage = [_usage(each.get("usage_metadata") or {}) for each in data]
        return Reply(
            calls=[call for entry in entries for call in self.calls(entry)],
            usage=sum(usage, Usage(requests=1)),
            text="".join(_text(each.get("content")) for each in data),
            stop=_stop(data[-1]) if data else "",
        )

    def calls(self, entry: Entry) -> list[ToolCall]:
        """The tool calls of an answer, those whose arguments could not be parsed among them, as the model gave them."""
        if entry.kind != "assistant":
            return []
        data = _identified(deepcopy(_data(entry)), entry.id)
        good = [ToolCall(call["id"], call.get("name") or "", call.get("args") or {}) for call in _list(data, _GOOD)]
        bad = [ToolCall(call["id"], call.get("name") or "", call.get("args"), _NO_JSON) for call in _list(data, _BAD)]
        places = _places(data)
        calls = sorted([*good, *bad], key=lambda call: places.get(call.id, inf))
        if calls and _stop(data).lower() in _CUT_SHORT:
            calls[-1] = replace(calls[-1], problem=f"the answer was cut short ({_stop(data)})")
        return calls

    def answers(self, entry: Entry) -> list[str]:
        answered = _data(entry).get("tool_call_id")
        return [answered] if isinstance(answered, str) else []

    def request(
        self,
        entries: Sequence[Entry],
        *,
        tools: Sequence[ToolDefinition] = (),
        prepared: Prepared | None = None,
    ) -> dict[str, Any]:
        """`input`, fresh `BaseMessage` objects with the system prompt in force as the first, and `tools` if any.

        Args:
            entries: The thread's; of its system prompts only the last is sent.
            tools: As OpenAI writes functions, which every `bind_tools` takes.
            prepared: Called for each message object, the system prompt's too.

        Raises:
            SdkMissing: langchain-core is not installed.
        """
        systems = [entry for entry in entries if entry.kind == "system"]
        talk = [entry for entry in entries if entry.kind != "system"]
        request: dict[str, Any] = {"input": applied(prepared, self.native([*systems[-1:], *talk]))}
        return {**request, "tools": [_function(tool) for tool in tools]} if tools else request

    def native(self, entries: Sequence[Entry]) -> list[Any]:
        """A `BaseMessage` for each entry.

        Raises:
            SdkMissing: langchain-core is not installed.
        """
        try:
            rebuild = import_module("langchain_core.messages").messages_from_dict
        except ImportError as error:
            raise SdkMissing("langchain-core", "langchain") from error
        typed = [_typed(deepcopy(entry.body)) for entry in entries]
        messages: list[Any] = rebuild([{"type": kind, "data": data} for kind, data in typed])
        return messages

    def cut(self, entries: Sequence[Entry], at: int) -> int:
        return at


# --- what is stored -------------------------------------------------------------------------------------------------


def _joined(chunks: Sequence[Any]) -> Any:
    if not chunks:
        raise EmptyReply("")
    if not all(_is_chunk(chunk) for chunk in chunks):
        raise InvalidMessage("message", "a list", "is no list of a stream's chunks; append messages one by one")
    return reduce(add, chunks)


def _is_chunk(message: Any) -> bool:
    return str(getattr(message, "type", "")).endswith("MessageChunk")


def _typed(message: Any) -> tuple[str, JsonObject]:
    """What a message is and what it says; a chunk is the message that it is a chunk of."""
    if hasattr(message, "model_dump") and hasattr(message, "type"):
        kind, data = message.type, message.model_dump(warnings=False)
    elif isinstance(message, Mapping) and isinstance(message.get("data"), Mapping):
        kind, data = message.get("type"), dict(message["data"])
    elif isinstance(message, Mapping) and "role" in message:
        kind, data = _of_role(message)
    else:
        raise InvalidMessage("message", type(message).__name__, "is no message; for text use user() or system()")
    kind = "ai" if kind == "AIMessageChunk" else _TYPE_OF_CHUNK.get(kind, kind)
    if kind not in _KINDS:
        raise InvalidMessage("message.type", ascii(kind)[:80], f"must be one of {', '.join(_KINDS)}")
    data = {name: value for name, value in data.items() if name not in _OF_CHUNKS}
    return kind, {**data, "type": kind} if "type" in data else data


def _of_role(message: Mapping[str, Any]) -> tuple[Any, JsonObject]:
    role = message["role"]
    if any("function" in call for call in message.get("tool_calls") or ()):
        raise InvalidMessage("message.tool_calls", "OpenAI's form", "is converted by langchain_core's own function")
    return _TYPE_OF_ROLE.get(role, role), {name: value for name, value in message.items() if name != "role"}


def _keepable(data: JsonObject) -> tuple[JsonObject, list[str]]:
    """What JSON can carry of a message, and the names of what it cannot that no provider needs."""
    kept, dropped = dict(data), []
    if "artifact" in kept and not _is_json(kept["artifact"]):
        dropped.append("artifact")
        kept["artifact"] = None
    known = kept.get("response_metadata") or {}
    lost = [name for name, value in known.items() if not _is_json(value)]
    if lost:
        kept["response_metadata"] = {name: value for name, value in known.items() if name not in lost}
    return to_json(kept), [*dropped, *(f"response_metadata.{name}" for name in lost)]


def _is_json(value: Any) -> bool:
    try:
        check_json(value, "")
    except InvalidMessage:
        return False
    return True


def _check(kind: str, data: JsonObject) -> None:
    _content(data.get("content"))
    if kind == "tool" and not isinstance(data.get("tool_call_id"), str):
        raise InvalidMessage("message.tool_call_id", type(data.get("tool_call_id")).__name__, "must be a call's id")


def _content(content: Any) -> Any:
    value = to_json(content)
    if isinstance(value, str) or (isinstance(value, list) and all(isinstance(each, str | dict) for each in value)):
        return value
    raise InvalidMessage("message.content", type(content).__name__, "must be text, or a list of text and blocks")


def _refuse_empty(data: JsonObject, meta: JsonObject) -> None:
    if not any(data.get(name) for name in ("content", _GOOD, _BAD, "additional_kwargs")):
        raise EmptyReply(meta.get("stop", ""))


def _kind(kind: str, data: JsonObject) -> Kind:
    return KIND_OF_ROLE.get(data.get("role", ""), "user") if kind == "chat" else _KINDS[kind]


def _meta(data: JsonObject) -> JsonObject:
    known = data.get("response_metadata") or {}
    meta = {
        "model": known.get("model_name") or known.get("model"),
        "stop": _stop(data),
        "usage": data.get("usage_metadata"),
        "native_id": data.get("id"),
    }
    return {name: value for name, value in meta.items() if value}


def _is_blocks(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(each, dict) and isinstance(each.get("type"), str) for each in value)
    )


# --- what is read and sent ------------------------------------------------------------------------------------------


def _data(entry: Entry) -> JsonObject:
    body = entry.body if isinstance(entry.body, dict) else {}
    data = body.get("data", body)
    return data if isinstance(data, dict) else {}


def _list(data: JsonObject, name: str) -> list[JsonObject]:
    return [each for each in data.get(name) or () if isinstance(each, dict)]


def _identified(data: JsonObject, entry_id: str) -> JsonObject:
    """An answer whose calls all have an id, made from the entry's where the model gave none."""
    named = {name: _list(data, name) for name in (_GOOD, _BAD) if name in data}
    before = {_GOOD: 0, _BAD: len(_list(data, _GOOD))}
    return {
        **data,
        **{
            name: [_with_id(call, entry_id, before[name] + index) for index, call in enumerate(calls)]
            for name, calls in named.items()
        },
    }


def _with_id(call: JsonObject, entry_id: str, index: int) -> JsonObject:
    made = made_call_id(entry_id, index)
    return call if call.get("id") else {**call, "id": made}


def _places(data: JsonObject) -> dict[str, int]:
    """Where each call stood in the answer: LangChain parts the good from the bad, its raw forms still tell."""
    blocks = data["content"] if isinstance(data.get("content"), list) else []
    raw = [*blocks, *_list(data.get("additional_kwargs") or {}, "tool_calls")]
    ids = [each.get("call_id") or each.get("id") for each in raw if isinstance(each, dict)]
    return {call_id: place for place, call_id in enumerate(ids) if isinstance(call_id, str)}


def _stop(data: JsonObject) -> str:
    known = data.get("response_metadata") or {}
    cut = (known.get("incomplete_details") or {}).get("reason")
    return next((str(stop) for stop in (cut, *map(known.get, _STOPS)) if stop), "")


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    blocks = content if isinstance(content, list) else []
    return "".join(each if isinstance(each, str) else _text(each.get("text")) for each in blocks if _speaks(each))


def _speaks(block: Any) -> bool:
    return isinstance(block, str) or block.get("type") == "text"


def _usage(counted: JsonObject) -> Usage:
    into, out = counted.get("input_token_details") or {}, counted.get("output_token_details") or {}
    return Usage(
        input=counted.get("input_tokens") or 0,
        output=counted.get("output_tokens") or 0,
        cache_read=into.get("cache_read") or 0,
        cache_write=sum(into.get(name) or 0 for name in _CACHE_WRITES),
        reasoning=out.get("reasoning") or 0,
    )


def _function(tool: ToolDefinition) -> JsonObject:
    function = {"name": tool.name, "description": tool.description, "parameters": deepcopy(tool.schema)}
    return {"type": "function", "function": function if tool.strict is None else {**function, "strict": tool.strict}}
