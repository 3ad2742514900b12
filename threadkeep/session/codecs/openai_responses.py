"""OpenAI's Responses, whose items OpenAI Agents keeps too."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any, Final

from threadkeep.errors import EmptyReply, InvalidMessage
from threadkeep.model import Entry, JsonObject, Kind
from threadkeep.session.codecs.base import Part, Prepared, Reply, ToolCall, ToolDefinition, Usage, applied, made_call_id
from threadkeep.session.codecs.jsonable import to_json
from threadkeep.session.codecs.openai_chat import (
    body_of,
    counted,
    fact,
    function,
    last_fact,
    parsed_arguments,
    result_content,
)

_KINDS: Final[dict[str, Kind]] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
}
_RUN_BY_APP: Final = ("function_call", "custom_tool_call")


class OpenAIResponsesCodec:
    """Items of Responses, one entry each.

    A `Response` becomes one entry for each item of its output, all of them the model's, also what OpenAI's own tools
    put out in it; model, usage, reason and id are in the `meta` of the last. Items of a type that is not known are kept
    and sent back as they are. So are calls of tools that OpenAI defines and the app runs, as a shell or a computer;
    whoever offers one appends its output item.

    A reasoning item is refused without the item that it led to. So `cut` takes it along, and a request leaves it out
    where an answer was cut short behind it.
    """

    name = "openai-responses"

    def encode(self, message: Any, entry_id: str) -> list[Part]:
        if fact(message, "object") == "response":
            return _answer(message, entry_id)
        item = to_json(message)
        _check_item(item, type(message).__name__)
        return [Part(_kind(item), item if isinstance(message, Mapping) else _without_helpers(item))]

    def system(self, content: Any) -> Part:
        return Part("system", {"role": "system", "content": to_json(content)})

    def user(self, content: Any) -> Part:
        return Part("user", {"role": "user", "content": to_json(content)})

    def result(self, call: ToolCall, content: Any, *, error: bool = False) -> Part:
        """See `Codec.result`; a call whose arguments are text is a custom tool's."""
        kind = "custom_tool_call_output" if isinstance(call.args, str) else "function_call_output"
        return Part("tool", {"type": kind, "call_id": call.id, "output": result_content(content, "input_")})

    def reply(self, entries: Sequence[Entry]) -> Reply:
        """See `Codec.reply`.

        `stop` is the reason of an incomplete answer, else its status; `refusal` where the model refused.
        """
        answered = {call_id for entry in entries for call_id in self.answers(entry)}
        calls = [call for entry in entries for call in self.calls(entry) if call.id not in answered]
        said = [part for entry in entries for part in _said(entry)]
        refused = any(part.get("type") == "refusal" for part in said)
        return Reply(
            calls=calls,
            usage=_usage(last_fact(entries, "usage")),
            text="".join(part.get("text", "") for part in said if part.get("type") == "output_text"),
            stop="refusal" if refused else last_fact(entries, "stop") or "",
        )

    def calls(self, entry: Entry) -> list[ToolCall]:
        item = body_of(entry, "assistant")
        if item.get("type") not in _RUN_BY_APP:
            return []
        call_id, name = item.get("call_id") or made_call_id(entry.id, 0), item.get("name", "")
        cut_short = "the answer was cut short inside this call" if _is_cut_short(entry) else ""
        if item["type"] == "custom_tool_call":
            return [ToolCall(call_id, name, item.get("input", ""), cut_short)]
        args, problem = parsed_arguments(item.get("arguments"))
        return [ToolCall(call_id, name, args, cut_short or problem)]

    def answers(self, entry: Entry) -> list[str]:
        item = body_of(entry, "tool") or body_of(entry, "assistant")
        answered = item.get("call_id") if str(item.get("type")).endswith("_output") else None
        return [answered] if isinstance(answered, str) else []

    def request(
        self,
        entries: Sequence[Entry],
        *,
        tools: Sequence[ToolDefinition] = (),
        prepared: Prepared | None = None,
    ) -> dict[str, Any]:
        """`input`, `instructions` and `tools`; see `Codec.request`.

        A system prompt of plain text travels apart as `instructions`; any other is the first item of `input`.
        """
        system = [entry.body for entry in entries if entry.kind == "system"][-1:]
        items = [_without_helpers(deepcopy(entry.body)) for entry in _followed(entries)]
        request: dict[str, Any] = {}
        if system and isinstance(system[0].get("content"), str):
            request["instructions"] = system[0]["content"]
        elif system:
            items.insert(0, {**deepcopy(system[0]), "role": "developer"})
        request["input"] = applied(prepared, items)
        if tools:
            request["tools"] = [{"type": "function", **function(tool)} for tool in tools]
        return request

    def native(self, entries: Sequence[Entry]) -> list[Any]:
        return [deepcopy(entry.body) for entry in entries]

    def cut(self, entries: Sequence[Entry], at: int) -> int:
        while 0 < at < len(entries) and _is_reasoning(entries[at - 1]):
            at -= 1
        return at


# --- what is stored -------------------------------------------------------------------------------------------------


def _answer(response: Any, entry_id: str) -> list[Part]:
    stop = fact(fact(response, "incomplete_details"), "reason") or fact(response, "status")
    items = [_without_helpers(to_json(item)) for item in fact(response, "output") or []]
    if not items:
        raise EmptyReply(stop or "")
    for index, item in enumerate(items):
        if item.get("type") in _RUN_BY_APP:
            item["call_id"] = item.get("call_id") or made_call_id(entry_id, index)
    facts = {
        "model": fact(response, "model"),
        "stop": stop,
        "usage": to_json(fact(response, "usage")),
        "native_id": fact(response, "id"),
    }
    known = {name: value for name, value in facts.items() if value is not None}
    return [*[Part("assistant", item) for item in items[:-1]], Part("assistant", items[-1], known)]


def _check_item(item: Any, shown: str) -> None:
    if not isinstance(item, dict):
        raise InvalidMessage("message", shown, "must be an item, an object with a type or a role, or a whole response")
    kind, role = item.get("type") or "message", item.get("role")
    if not isinstance(kind, str):
        raise InvalidMessage("message: type", type(kind).__name__, "must be a string")
    if kind.startswith("response."):
        rule = "is a piece of a stream; append the response as a whole"
        raise InvalidMessage("message: type", ascii(kind)[:80], rule)
    if kind == "message" and not (isinstance(role, str) and role in _KINDS):
        raise InvalidMessage("message: role", ascii(role)[:80], f"must be one of {', '.join(_KINDS)}")


def _kind(item: JsonObject) -> Kind:
    kind = item.get("type") or "message"
    if kind == "message":
        return _KINDS.get(item.get("role", ""), "assistant")
    if kind.endswith("_output"):
        return "tool"
    return "user" if kind == "mcp_approval_response" else "assistant"


def _without_helpers(item: JsonObject) -> JsonObject:
    """Without what the SDK's parsing helpers add, which is refused when it is sent back."""
    if item.get("type") == "function_call":
        item.pop("parsed_arguments", None)
    for part in _parts(item):
        if part.get("type") == "output_text":
            part.pop("parsed", None)
    return item


# --- what is read and sent ------------------------------------------------------------------------------------------


def _parts(item: JsonObject) -> list[JsonObject]:
    content = item.get("content")
    return [part for part in content if isinstance(part, dict)] if isinstance(content, list) else []


def _said(entry: Entry) -> list[JsonObject]:
    """The content parts of a model's message; text as a part of its own."""
    item = body_of(entry, "assistant")
    if (item.get("type") or "message") != "message":
        return []
    content = item.get("content")
    return [{"type": "output_text", "text": content}] if isinstance(content, str) else _parts(item)


def _is_cut_short(entry: Entry) -> bool:
    """Whether an answer ended inside this item: the last of an answer knows how that ended."""
    stop, status = entry.meta.get("stop", "completed"), entry.body.get("status") or "completed"
    return stop != "completed" or status != "completed"


def _is_reasoning(entry: Entry) -> bool:
    return body_of(entry, "assistant").get("type") == "reasoning"


def _followed(entries: Sequence[Entry]) -> list[Entry]:
    """The conversation without reasoning that led to nothing."""
    kept: list[Entry] = []
    follower = False
    for entry in reversed(entries):
        if entry.kind == "system":
            continue
        if not _is_reasoning(entry):
            follower = entry.kind == "assistant"
        if follower or not _is_reasoning(entry):
            kept.append(entry)
    return kept[::-1]


def _usage(usage: Any) -> Usage:
    return Usage(
        input=counted(usage, "input_tokens"),
        output=counted(usage, "output_tokens"),
        cache_read=counted(usage, "input_tokens_details", "cached_tokens"),
        cache_write=counted(usage, "input_tokens_details", "cache_write_tokens"),
        reasoning=counted(usage, "output_tokens_details", "reasoning_tokens"),
        requests=1,
    )
