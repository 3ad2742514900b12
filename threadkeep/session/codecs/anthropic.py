"""Messages of Anthropic's Messages API. Answers are read by their shape, so no SDK is imported."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from itertools import groupby
from operator import itemgetter
from typing import Any, Final

from threadkeep.errors import EmptyReply, InvalidMessage
from threadkeep.model import Entry, JsonObject, Kind
from threadkeep.session.codecs.anthropic_cache import MAX_BREAKPOINTS, Cache, is_blank_text, with_cache
from threadkeep.session.codecs.base import (
    Part,
    Prepared,
    Reply,
    ToolCall,
    ToolDefinition,
    Usage,
    applied,
    dump_text,
)
from threadkeep.session.codecs.jsonable import to_json
from threadkeep.strict_json import check_json

_META: Final = {
    "model": "model",
    "stop": "stop_reason",
    "stop_sequence": "stop_sequence",
    "stop_details": "stop_details",
    "usage": "usage",
    "container": "container",
    "native_id": "id",
}
"""What is kept of an answer besides its content: our name, and the API's."""

_ROLES: Final[dict[str, Kind]] = {"system": "system", "user": "user", "assistant": "assistant"}
_CUT: Final = ("max_tokens", "model_context_window_exceeded", "refusal")
"""Reasons to stop that can fall inside a tool call. Its input still parses, and lacks what was not written any more."""
_THOUGHTS: Final = ("thinking", "redacted_thinking")


class AnthropicCodec:
    """Messages as the Messages API takes them, answers with every block as it came.

    Content that was a string stays one; blocks of kinds that nobody knows yet, signatures and nulls are kept as they
    are, bytes as base64. A message that holds nothing but tool results is of kind `tool`. What the API says of an
    answer besides its content goes to `meta`: `model`, `stop`, `usage`, `native_id`, and where they are given
    `stop_sequence`, `stop_details` and `container`.
    """

    name = "anthropic"

    def encode(self, message: Any, entry_id: str) -> list[Part]:
        if _is_answer(message):
            return [_answer(message)]
        if not isinstance(message, Mapping):
            raise InvalidMessage("message", type(message).__name__, "is no dict with a role, and no answer of the SDK")
        return [_part(to_json(message))]

    def system(self, content: Any) -> Part:
        return _part({"role": "system", "content": to_json(content)})

    def user(self, content: Any) -> Part:
        return _part({"role": "user", "content": to_json(content)})

    def result(self, call: ToolCall, content: Any, *, error: bool = False) -> Part:
        """A message of one `tool_result`; `is_error` is there only where it is true."""
        block = {"type": "tool_result", "tool_use_id": call.id, "content": _result_content(content)}
        return _part({"role": "user", "content": [{**block, "is_error": True} if error else block]})

    def reply(self, entries: Sequence[Entry]) -> Reply:
        """See `Codec.reply`; a refused answer asks for no tools, whatever it had begun to say."""
        stop = next((str(entry.meta["stop"]) for entry in reversed(entries) if entry.meta.get("stop")), "")
        blocks = [block for entry in entries for block in _as_blocks(_content(entry))]
        return Reply(
            calls=[] if stop == "refusal" else [call for entry in entries for call in self.calls(entry)],
            usage=sum((_usage(entry) for entry in entries), Usage(requests=1)),
            text="".join(str(block.get("text", "")) for block in blocks if block.get("type") == "text"),
            stop=stop,
            again=stop == "pause_turn",
        )

    def calls(self, entry: Entry) -> list[ToolCall]:
        if entry.kind != "assistant":
            return []
        blocks = _as_blocks(_content(entry))
        calls = [_call(entry, at, block) for at, block in enumerate(filter(_is_tool_use, blocks))]
        stop = entry.meta.get("stop")
        if calls and stop in _CUT and _is_tool_use(blocks[-1]):
            calls[-1] = replace(
                calls[-1], problem=f"the answer ended early ({stop}), so its arguments may be incomplete"
            )
        return calls

    def answers(self, entry: Entry) -> list[str]:
        results = filter(_is_result, _as_blocks(_content(entry)))
        return [str(block["tool_use_id"]) for block in results if block.get("tool_use_id")]

    def request(
        self,
        entries: Sequence[Entry],
        *,
        tools: Sequence[ToolDefinition] = (),
        prepared: Prepared | None = None,
        cache: Cache = True,
        max_breakpoints: int = MAX_BREAKPOINTS,
    ) -> dict[str, Any]:
        """`messages`, and `system` and `tools` where there are any.

        Neighbours of the same role become one message, tool results first in it; text without a visible character is
        left out, and messages that hold nothing else, since the API refuses them. It refuses thoughts at the end of an
        assistant's message too, and a server tool's call that has no result although more than the app's own results
        follows; neither is sent.

        Args:
            entries: In order.
            tools: What the model may call.
            prepared: Called for each message once neighbours are one, before it is marked for the cache.
            cache: How long Anthropic caches the prompt: `5m` (or True), `1h`, `auto` to let it choose the places, or
                False.
            max_breakpoints: Cache markers in the request, those that messages bring along included.

        Raises:
            ValueError: `cache` is none of those.
        """
        request: dict[str, Any] = {"messages": applied(prepared, _turns(entries))}
        if system := _system(entries):
            request["system"] = system
        if tools:
            request["tools"] = [_tool(tool) for tool in tools]
        return with_cache(request, cache, max_breakpoints)

    def native(self, entries: Sequence[Entry]) -> list[Any]:
        return [deepcopy(entry.body) for entry in entries]

    def cut(self, entries: Sequence[Entry], at: int) -> int:
        return at


# --- storing --------------------------------------------------------------------------------------------------------


def _is_answer(message: Any) -> bool:
    """An answer of the API: an object of the SDK's, or its JSON."""
    if isinstance(message, Mapping):
        return message.get("type") == "message"
    return all(hasattr(message, name) for name in ("role", "content", "stop_reason", "usage"))


def _answer(message: Any) -> Part:
    def fact(name: str) -> Any:
        return message.get(name) if isinstance(message, Mapping) else getattr(message, name, None)

    part = _part({"role": fact("role"), "content": to_json(fact("content"))}, stop=fact("stop_reason"))
    meta = {ours: to_json(fact(theirs)) for ours, theirs in _META.items() if fact(theirs) is not None}
    return replace(part, meta=meta)


def _part(body: JsonObject, *, stop: str | None = None) -> Part:
    role, content = body.get("role"), body.get("content")
    kind = _ROLES.get(role) if isinstance(role, str) else None
    if kind is None:
        raise InvalidMessage("message: role", ascii(role)[:40], f"must be one of {', '.join(_ROLES)}")
    if not isinstance(content, str) and not _are_blocks(content):
        raise InvalidMessage(f"{role} message: content", type(content).__name__, "must be text, or blocks with a type")
    if kind == "assistant" and not content:
        raise EmptyReply(stop or "")
    if kind == "user" and not _visible(content):
        raise InvalidMessage(
            "user message: content", "blank", "must hold a visible character, or a block of another kind"
        )
    results_only = kind == "user" and all(_is_result(block) for block in _as_blocks(content))
    return Part("tool" if results_only else kind, body)


def _result_content(content: Any) -> Any:
    value = to_json(content)
    if isinstance(value, list) and value and _are_blocks(value):
        return value
    check_json(value, "tool result")
    return "null" if value is None else dump_text(value)


def _are_blocks(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(block, dict) and isinstance(block.get("type"), str) for block in value
    )


# --- reading --------------------------------------------------------------------------------------------------------


def _content(entry: Entry) -> Any:
    return _object(entry.body).get("content")


def _as_blocks(content: Any) -> list[JsonObject]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    return [block for block in content if isinstance(block, dict)] if isinstance(content, list) else []


def _is_tool_use(block: JsonObject) -> bool:
    return block.get("type") == "tool_use"


def _is_result(block: JsonObject) -> bool:
    return block.get("type") == "tool_result"


def _call(entry: Entry, at: int, block: JsonObject) -> ToolCall:
    made = f"{entry.id}-call-{at}"
    return ToolCall(str(block.get("id") or made), str(block.get("name", "")), deepcopy(block.get("input") or {}))


def _usage(entry: Entry) -> Usage:
    """Anthropic's own `input_tokens` leaves out what was read from a cache or written to one."""
    usage = _object(entry.meta.get("usage"))
    read, written = _count(usage, "cache_read_input_tokens"), _count(usage, "cache_creation_input_tokens")
    return Usage(
        input=_count(usage, "input_tokens") + read + written,
        output=_count(usage, "output_tokens"),
        cache_read=read,
        cache_write=written,
        reasoning=_count(_object(usage.get("output_tokens_details")), "thinking_tokens"),
    )


def _object(value: Any) -> JsonObject:
    return value if isinstance(value, dict) else {}


def _count(usage: JsonObject, name: str) -> int:
    count = usage.get(name)
    return count if isinstance(count, int) else 0


# --- sending --------------------------------------------------------------------------------------------------------


def _system(entries: Sequence[Entry]) -> Any:
    """The last system prompt, if it says anything."""
    last = next((entry for entry in reversed(entries) if entry.kind == "system"), None)
    return _visible(deepcopy(_content(last))) if last is not None else None


def _turns(entries: Sequence[Entry]) -> list[Any]:
    bodies = [deepcopy(entry.body) for entry in entries if entry.kind != "system"]
    turns = _merged([{**body, "content": _visible(body["content"])} for body in bodies])
    return _merged([_without_last_thoughts(turn) for turn in _without_lost_calls(turns)])


def _merged(messages: list[JsonObject]) -> list[JsonObject]:
    """Neighbours of the same role as one; none that is empty."""
    said = [message for message in messages if message["content"]]
    return [_turn(list(neighbours)) for _, neighbours in groupby(said, key=itemgetter("role"))]


def _turn(neighbours: list[JsonObject]) -> JsonObject:
    turn = neighbours[0]
    if len(neighbours) > 1:
        turn["content"] = [block for message in neighbours for block in _as_blocks(message["content"])]
    if turn["role"] == "user" and isinstance(turn["content"], list):
        turn["content"].sort(key=lambda block: not _is_result(block))
    return turn


def _without_lost_calls(turns: list[JsonObject]) -> list[JsonObject]:
    """Without server tools' calls that never got a result; those of an answer that the API is to go on with stay."""
    said = [_as_blocks(turn["content"]) for turn in turns]
    served = {str(block.get("tool_use_id")) for blocks in said for block in blocks if _is_served(block)}
    last = max((at for at, blocks in enumerate(said) if not all(map(_is_result, blocks))), default=0)
    return [_without_unserved(turn, served) for turn in turns[:last]] + turns[last:]


def _without_unserved(turn: JsonObject, served: set[str]) -> JsonObject:
    if turn["role"] != "assistant" or isinstance(turn["content"], str):
        return turn
    kept = [block for block in turn["content"] if not _is_server_call(block) or str(block.get("id")) in served]
    return {**turn, "content": kept}


def _is_server_call(block: JsonObject) -> bool:
    return block.get("type") == "server_tool_use"


def _is_served(block: JsonObject) -> bool:
    """Whether a block is a server tool's result, as `web_search_tool_result`; the app's own is a `tool_result`."""
    return str(block.get("type")).endswith("_tool_result")


def _without_last_thoughts(turn: JsonObject) -> JsonObject:
    content = turn["content"]
    if turn["role"] == "assistant" and isinstance(content, list):
        while content and content[-1].get("type") in _THOUGHTS:
            content.pop()
    return turn


def _visible(content: Any) -> Any:
    """Content without blank text, that in tool results included; empty if nothing is left."""
    if isinstance(content, str):
        return content if content.strip() else ""
    return [_visible_result(block) for block in _as_blocks(content) if not is_blank_text(block)]


def _visible_result(block: JsonObject) -> JsonObject:
    """The block itself, unless it is a tool result made of blocks."""
    inner = block.get("content")
    return {**block, "content": _visible(inner)} if _is_result(block) and isinstance(inner, list) else block


def _tool(tool: ToolDefinition) -> JsonObject:
    described = {"name": tool.name, "description": tool.description, "input_schema": deepcopy(tool.schema)}
    return described if tool.strict is None else {**described, "strict": tool.strict}
