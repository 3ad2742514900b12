"""The three envelopes in which zeitlich's adapters stored messages, and the entries that they are here. Pure JSON.

    {"id", "message": {"role", "content"}, "isSystem"?}    anthropic
    {"id", "content": {"role", "parts"}}                   google-genai
    {"type", "data"}                                       langchain

An envelope is known by its shape, strictly: what would have to be guessed at is none.
"""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from threadkeep.errors import InvalidMessage
from threadkeep.model import Entry, JsonObject, Kind
from threadkeep.strict_json import check_json, dump_json

_LONE_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_KIND_OF_ROLE: Final[dict[str, Kind]] = {"user": "user", "model": "assistant", "system": "system"}
_KIND_OF_TYPE: Final[dict[str, Kind]] = {"human": "user", "ai": "assistant", "system": "system", "tool": "tool"}


@dataclass(frozen=True, slots=True)
class Unwrapped:
    """What an envelope holds.

    Attributes:
        id: The message's own.
        known_as: The id under which zeitlich knew it; of a LangChain tool result the id of the call.
        kind: Who speaks.
        body: The provider's own JSON.
    """

    id: str
    known_as: str
    kind: Kind
    body: JsonObject


@dataclass(frozen=True, slots=True)
class _Shape:
    """One of the three; `wrap` takes a body and an id."""

    unwrap: Callable[[JsonObject], Unwrapped | None]
    wrap: Callable[[JsonObject, str], JsonObject]


def unwrap_all(messages: Sequence[str]) -> tuple[str, list[Unwrapped]] | None:
    """The codec of the one shape that all messages have, and what is in each; None if there is no such shape."""
    values = [_parsed(message) for message in messages]
    for codec, shape in _SHAPES.items():
        if found := _unwrapped(shape, values):
            return codec, found
    return None


def has_envelope(codec: str) -> bool:
    """Whether zeitlich has an envelope for messages of this codec."""
    return codec in _SHAPES


def is_wrappable(entry: Entry) -> bool:
    """Whether an entry fits into zeitlich's envelope: of a body that an app made up itself this is not certain."""
    if not has_envelope(entry.fmt) or not isinstance(entry.body, dict):
        return False
    return entry.fmt != "langchain" or ("type" in entry.body and isinstance(entry.body.get("data"), dict))


def known_as(entry: Entry) -> str:
    """The id under which zeitlich knows an entry's envelope."""
    value = _envelope(entry)
    if entry.fmt == "langchain" and value["type"] == "tool" and value["data"].get("tool_call_id"):
        return str(value["data"]["tool_call_id"])
    return str(value["data"]["id"] if entry.fmt == "langchain" else value["id"])


def envelope_text(entry: Entry) -> str:
    """The envelope of an entry as text: the very one that it came in, as long as its body is what that held."""
    original = entry.meta.get("v1")
    if isinstance(original, str) and _holds(original, entry):
        return original
    return _compact(_envelope(entry))


def _envelope(entry: Entry) -> JsonObject:
    return _SHAPES[entry.fmt].wrap(entry.body, str(entry.meta.get("v1_id", entry.id)))


def _compact(value: Any) -> str:
    """JSON as JavaScript writes it: no spaces, and of what is not ASCII only lone surrogates escaped."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return _LONE_SURROGATE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def _holds(text: str, entry: Entry) -> bool:
    found = _SHAPES[entry.fmt].unwrap(_parsed(text) or {})
    return found is not None and dump_json(found.body) == dump_json(entry.body)


def _unwrapped(shape: _Shape, values: Sequence[JsonObject | None]) -> list[Unwrapped]:
    """What is in each, or nothing where one is of another shape."""
    found: list[Unwrapped] = []
    for value in values:
        unwrapped = shape.unwrap(value) if value is not None else None
        if unwrapped is None:
            return []
        found.append(unwrapped)
    return found


def _parsed(message: str) -> JsonObject | None:
    """The object that a message is, if it is one that can be kept as it is."""
    try:
        value = json.loads(message)
        check_json(value, "message")
    except (ValueError, RecursionError, InvalidMessage):
        return None
    return value if isinstance(value, dict) else None


# --- Anthropic --------------------------------------------------------------------------------------------------------


def _unwrap_anthropic(value: JsonObject) -> Unwrapped | None:
    message, own, system = value.get("message"), value.get("id"), "isSystem" in value
    if value.keys() - {"isSystem"} != {"id", "message"} or (system and value["isSystem"] is not True):
        return None
    if not isinstance(own, str) or not isinstance(message, dict) or message.keys() != {"role", "content"}:
        return None
    role, content = message["role"], message["content"]
    if role not in (("user",) if system else ("user", "assistant")) or not _is_content(content):
        return None
    if system:
        return Unwrapped(own, own, "system", {"role": "system", "content": content})
    results = role == "user" and _all_have(content, lambda block: block["type"] == "tool_result")
    return Unwrapped(own, own, "tool" if results else role, message)


def _wrap_anthropic(body: JsonObject, own: str) -> JsonObject:
    if body.get("role") == "system":
        return {"id": own, "message": {**body, "role": "user"}, "isSystem": True}
    return {"id": own, "message": body}


def _is_content(content: Any) -> bool:
    """Text, or blocks that each have a type."""
    if isinstance(content, list):
        return all(isinstance(block, dict) and isinstance(block.get("type"), str) for block in content)
    return isinstance(content, str)


# --- Google GenAI -----------------------------------------------------------------------------------------------------


def _unwrap_google(value: JsonObject) -> Unwrapped | None:
    content, own = value.get("content"), value.get("id")
    if value.keys() != {"id", "content"} or not isinstance(own, str):
        return None
    if not isinstance(content, dict) or content.keys() != {"role", "parts"}:
        return None
    role, parts = content["role"], content["parts"]
    if not isinstance(role, str) or role not in _KIND_OF_ROLE:
        return None
    if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
        return None
    results = role == "user" and _all_have(parts, lambda part: "functionResponse" in part)
    return Unwrapped(own, own, "tool" if results else _KIND_OF_ROLE[role], content)


def _wrap_google(body: JsonObject, own: str) -> JsonObject:
    return {"id": own, "content": body}


# --- LangChain --------------------------------------------------------------------------------------------------------


def _unwrap_langchain(value: JsonObject) -> Unwrapped | None:
    kind, data = value.get("type"), value.get("data")
    if value.keys() != {"type", "data"} or not isinstance(data, dict):
        return None
    if not isinstance(kind, str) or kind not in _KIND_OF_TYPE:
        return None
    own, call = data.get("id"), data.get("tool_call_id")
    wanted = call if kind == "tool" else own
    if not isinstance(data.get("content"), str | list) or not isinstance(wanted, str) or not wanted:
        return None
    if own is not None and not isinstance(own, str):
        return None
    return Unwrapped(own or wanted, wanted, _KIND_OF_TYPE[kind], value)


def _wrap_langchain(body: JsonObject, own: str) -> JsonObject:
    """A message without an id of its own gets the entry's: zeitlich cannot keep one without."""
    data = body["data"]
    if data.get("id") or (body["type"] == "tool" and data.get("tool_call_id")):
        return body
    return {**body, "data": {**data, "id": own}}


def _all_have(items: Any, fact: Callable[[JsonObject], bool]) -> bool:
    return isinstance(items, list) and bool(items) and all(fact(item) for item in items)


_SHAPES: Final = {
    "anthropic": _Shape(_unwrap_anthropic, _wrap_anthropic),
    "google-genai": _Shape(_unwrap_google, _wrap_google),
    "langchain": _Shape(_unwrap_langchain, _wrap_langchain),
}


# --- state ------------------------------------------------------------------------------------------------------------


def flat_state(state: JsonObject) -> JsonObject | None:
    """A state whose `custom` values and `tasks` stand side by side, from zeitlich's slice; None if it is no slice."""
    tasks, custom = state.get("tasks"), state.get("custom")
    if state.keys() != {"tasks", "custom"} or not _are_tasks(tasks) or not isinstance(custom, dict):
        return None
    if "tasks" in custom:
        return None
    return {**custom, "tasks": tasks} if tasks else dict(custom)


def slice_of(state: JsonObject) -> JsonObject:
    """Zeitlich's slice of a state; `tasks` that are no list of tasks stay among the custom values."""
    if not _are_tasks(state.get("tasks")):
        return {"tasks": [], "custom": state}
    return {"tasks": state["tasks"], "custom": {name: value for name, value in state.items() if name != "tasks"}}


def _are_tasks(tasks: Any) -> bool:
    """Whether it is `[[id, task], …]`."""
    return isinstance(tasks, list) and all(_is_task(item) for item in tasks)


def _is_task(item: Any) -> bool:
    return isinstance(item, list) and len(item) == 2 and isinstance(item[0], str) and isinstance(item[1], dict)
