"""Messages of Google's Gemini: contents and their parts as they travel, in camelCase."""

import json
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any, Final

from threadkeep.errors import EmptyReply, InvalidMessage
from threadkeep.model import Entry, JsonObject, Kind
from threadkeep.session.codecs.base import Part, Prepared, Reply, ToolCall, ToolDefinition, Usage, applied, made_call_id
from threadkeep.session.codecs.jsonable import to_json

_KINDS: Final[dict[str, Kind]] = {"user": "user", "model": "assistant", "system": "system"}
_ANSWER: Final = ("candidates", "prompt_feedback", "usage_metadata", "model_version", "response_id")
_MESSAGES: Final = frozenset(
    {"candidates", "content", "parts", "promptFeedback", "usageMetadata"}
    | {"inlineData", "fileData", "videoMetadata", "mediaResolution", "executableCode", "codeExecutionResult"}
    | {"functionCall", "partialArgs", "functionResponse", "toolCall", "toolResponse"}
)
"""Fields whose own fields are Gemini's to name. All others, such as `args` and `response`, are kept as they are."""
_RESULT_PARTS: Final = frozenset({"text", "inlineData", "fileData", "functionResponse"})
_CUT_SHORT: Final = frozenset({"MAX_TOKENS", "MALFORMED_FUNCTION_CALL", "CONTINUATION"})


class GoogleGenAICodec:
    """Keeps each message as a `Content`: `{"role": "user" | "model", "parts": […]}`, thoughts and signatures included.

    A system prompt is kept as `{"role": "system", "content": …}`, its content being text or a list of parts. Parts that
    the installed SDK does not know reach us empty, and are marked with `lossy` in the entry's meta.
    """

    name = "google-genai"

    def encode(self, message: Any, entry_id: str) -> list[Part]:
        """Takes a `Content`, a `GenerateContentResponse`, the list of a stream's chunks, or these as dicts."""
        if isinstance(message, list | tuple):
            return [_answered(message, entry_id)]
        if _is_answer(message):
            return [_answered([message], entry_id)]
        return [_content(message, entry_id)]

    def system(self, content: Any) -> Part:
        return Part("system", {"role": "system", "content": content if isinstance(content, str) else _parts(content)})

    def user(self, content: Any) -> Part:
        """Text, a part, an uploaded file, or a list of these."""
        return _spoken("user", _parts(content))

    def result(self, call: ToolCall, content: Any, *, error: bool = False) -> Part:
        """One `functionResponse` with the id and the name of its call.

        An object is the response as it stands; any other JSON becomes `{"result": …}`, or `{"error": …}`. Of a list of
        parts the texts become the result and the media travel inside the response, which needs Gemini 3; a list with a
        `functionResponse` of its own is kept as it is.
        """
        parts = _result_parts(content)
        for given in _inner(parts, "functionResponse"):
            given.update(id=call.id, name=call.name)
            return _spoken("user", parts)
        media = _media(parts)
        said = _text(parts) if media else to_json(content)
        response = {"id": call.id, "name": call.name, "response": _response(said, error=error)}
        return _spoken("user", [{"functionResponse": {**response, "parts": media} if media else response}])

    def reply(self, entries: Sequence[Entry]) -> Reply:
        parts = [part for entry in entries for part in _stored_parts(entry)]
        meta: JsonObject = {name: value for entry in entries for name, value in entry.meta.items()}
        return Reply(
            calls=[call for entry in entries for call in self.calls(entry)],
            usage=_usage(meta.get("usage") or {}),
            text=_text(part for part in parts if not part.get("thought")),
            stop=meta.get("stop") or "",
        )

    def calls(self, entry: Entry) -> list[ToolCall]:
        if entry.kind != "assistant":
            return []
        asked = _inner(_identified(_stored_parts(entry), entry.id), "functionCall")
        calls = [ToolCall(call["id"], call.get("name") or "", deepcopy(call.get("args") or {})) for call in asked]
        if calls and entry.meta.get("stop") in _CUT_SHORT:
            calls[-1] = replace(calls[-1], problem=f"the answer was cut short ({entry.meta['stop']})")
        return calls

    def answers(self, entry: Entry) -> list[str]:
        """See `Codec.answers`; a response without an id answers `name:<tool>`, the first open call of that tool."""
        given = _inner(_stored_parts(entry), "functionResponse")
        return [answered for response in given if (answered := _answered_call(response))]

    def request(
        self,
        entries: Sequence[Entry],
        *,
        tools: Sequence[ToolDefinition] = (),
        prepared: Prepared | None = None,
        config: Any = None,
    ) -> dict[str, Any]:
        """`contents`, and `config` where there is any.

        Neighbours of one role become one content, so parallel results and what the user says next are one turn; the
        last system prompt is in force; parts that say nothing are left out; a response without an id gets that of the
        first call of its tool that no other response answers.

        Args:
            entries: The thread's.
            tools: Declared to the model as functions.
            prepared: Called for each content, not for the system prompt.
            config: More of the configuration, a dict or a `GenerateContentConfig`. One with a `cached_content` takes
                the place of the system prompt and the tools, which are then in that cache.

        Raises:
            ValueError: `config` carries a system prompt or tools.
        """
        own = {**_system_instruction(entries), **_declared(tools)}
        full = _config(own, config)
        contents = applied(prepared, _paired(_contents(entries)))
        return {"contents": contents, "config": full} if full else {"contents": contents}

    def native(self, entries: Sequence[Entry]) -> list[Any]:
        """The bodies, one for each entry."""
        return [deepcopy(entry.body) for entry in entries]

    def cut(self, entries: Sequence[Entry], at: int) -> int:
        return at


def camel(name: str) -> str:
    """The wire's name of a field: `mime_type` is `mimeType`; a name that is one already stays."""
    head, *rest = name.split("_")
    return head + "".join(word[:1].upper() + word[1:] for word in rest)


# --- what is stored -------------------------------------------------------------------------------------------------


def _wire(value: Any) -> Any:
    """A message as it travels: names in camelCase, nothing that is null, bytes in base64."""
    if isinstance(value, Mapping):
        named = {camel(key) if isinstance(key, str) else key: inner for key, inner in value.items()}
        told = {key: inner for key, inner in named.items() if inner is not None}
        return {key: _wire(inner) if key in _MESSAGES else to_json(inner) for key, inner in told.items()}
    if isinstance(value, list | tuple):
        return [_wire(inner) for inner in value]
    dump = None if isinstance(value, type) else getattr(value, "model_dump_json", None)
    return to_json(value) if dump is None else json.loads(dump(by_alias=True, exclude_none=True, warnings=False))


def _is_answer(message: Any) -> bool:
    if isinstance(message, Mapping):
        return any(camel(name) in message or name in message for name in _ANSWER)
    return hasattr(message, "candidates")


def _answered(chunks: Sequence[Any], entry_id: str) -> Part:
    """One entry of a whole answer. Parts are never merged: a signature belongs to its own part."""
    for index, chunk in enumerate(chunks):
        if not _is_answer(chunk):
            raise InvalidMessage(f"message[{index}]", type(chunk).__name__, "is no chunk of a stream; append it alone")
    told = [_told(chunk) for chunk in chunks]
    candidates = [each for chunk in told for each in chunk.get("candidates", ()) if not each.get("index")]
    parts = [part for each in candidates for part in each.get("content", {}).get("parts", ())]
    meta = {
        "model": _last(told, "modelVersion"),
        "stop": _last(candidates, "finishReason"),
        "usage": _last(told, "usageMetadata"),
        "native_id": _last(told, "responseId"),
    }
    if not any(map(_says_something, parts)):
        blocked = _last([chunk.get("promptFeedback", {}) for chunk in told], "blockReason")
        raise EmptyReply(blocked or meta["stop"] or "")
    return _spoken("model", parts, entry_id, {name: value for name, value in meta.items() if value is not None})


def _told(chunk: Any) -> JsonObject:
    given = chunk if isinstance(chunk, Mapping) else {name: getattr(chunk, name, None) for name in _ANSWER}
    told: JsonObject = _wire({name: value for name, value in given.items() if camel(name) in map(camel, _ANSWER)})
    return told


def _last(told: Iterable[JsonObject], name: str) -> Any:
    values = [each[name] for each in told if each.get(name) is not None]
    return values[-1] if values else None


def _content(message: Any, entry_id: str) -> Part:
    body = _wire(message)
    if not isinstance(body, dict):
        raise InvalidMessage("message", type(message).__name__, "is no Content; for text use user() or system()")
    role = body.get("role", "user")
    if not isinstance(role, str) or role not in _KINDS:
        raise InvalidMessage("message.role", ascii(role)[:80], f"must be one of {', '.join(_KINDS)}")
    if role == "system" and body.get("content"):
        return Part("system", body)
    parts = body.get("parts")
    if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
        raise InvalidMessage("message.parts", type(parts).__name__, "must be a list of parts")
    if role == "model" and not any(map(_says_something, parts)):
        raise EmptyReply("")
    return _spoken(role, parts, entry_id)


def _spoken(role: str, parts: list[Any], entry_id: str = "", meta: JsonObject | None = None) -> Part:
    if not any(map(_says_something, parts)):
        raise InvalidMessage("message.parts", f"{len(parts)} parts", "say nothing, and Gemini takes no empty content")
    if any(call.get("partialArgs") or call.get("willContinue") for call in _inner(parts, "functionCall")):
        raise InvalidMessage("message.parts", "a function call in pieces", "switch streamFunctionCallArguments off")
    answers = role == "user" and _inner(parts, "functionResponse")
    lossy = {"lossy": True} if {} in parts else {}
    body = {"role": role, "parts": _identified(parts, entry_id)}
    return Part("tool" if answers else _KINDS[role], body, {**(meta or {}), **lossy})


def _parts(content: Any) -> list[Any]:
    if isinstance(content, list | tuple):
        return [_part(each) for each in content]
    one = _part(content)
    return one["parts"] if isinstance(one.get("parts"), list) else [one]


def _part(content: Any) -> JsonObject:
    if isinstance(content, str):
        return {"text": content}
    if hasattr(content, "uri") and hasattr(content, "mime_type"):
        return {"fileData": _wire({"file_uri": content.uri, "mime_type": content.mime_type})}
    part = _wire(content)
    if not isinstance(part, dict):
        raise InvalidMessage("part", type(content).__name__, "must be text, a part or an uploaded file")
    return part


def _identified(parts: list[Any], entry_id: str) -> list[Any]:
    """Parts whose function calls all have an id, made from the entry's where the model gave none."""
    return [_with_id(part, entry_id, index) for index, part in enumerate(parts)]


def _with_id(part: Any, entry_id: str, index: int) -> Any:
    made = made_call_id(entry_id, index)
    without = [call for call in _inner([part], "functionCall") if not call.get("id")]
    return {**part, "functionCall": {**without[0], "id": made}} if without else part


def _result_parts(content: Any) -> list[JsonObject]:
    """The parts that a tool gave, with media or a response among them; nothing where its result is other JSON."""
    given = content if isinstance(content, list | tuple) else [content] if hasattr(content, "inline_data") else []
    if not all(isinstance(each, Mapping) or hasattr(each, "inline_data") for each in given):
        return []
    parts: list[JsonObject] = [_wire(each) for each in given]
    known = all(len(part.keys() & _RESULT_PARTS) == 1 for part in parts)
    responses = len(_inner(parts, "functionResponse"))
    return parts if known and (responses == 1 or (responses == 0 and _media(parts))) else []


def _media(parts: list[JsonObject]) -> list[JsonObject]:
    return [part for part in parts if _inner([part], "inlineData") or _inner([part], "fileData")]


def _response(value: Any, *, error: bool) -> JsonObject:
    if error:
        return value if isinstance(value, dict) and "error" in value else {"error": value}
    return value if isinstance(value, dict) else {"result": value}


# --- what is read and sent ------------------------------------------------------------------------------------------


def _stored_parts(entry: Entry) -> list[JsonObject]:
    parts = entry.body.get("parts") if isinstance(entry.body, dict) else None
    return [part for part in parts if isinstance(part, dict)] if isinstance(parts, list) else []


def _inner(parts: Iterable[JsonObject], name: str) -> list[JsonObject]:
    return [part[name] for part in parts if isinstance(part.get(name), dict)]


def _answered_call(response: JsonObject) -> str:
    """The id of the call, or `name:<tool>`; empty if the response tells neither."""
    if response.get("id"):
        return str(response["id"])
    return f"name:{response['name']}" if response.get("name") else ""


def _text(parts: Iterable[JsonObject]) -> str:
    return "".join(part["text"] for part in parts if isinstance(part.get("text"), str))


def _says_something(part: JsonObject) -> bool:
    return any(value != "" for name, value in part.items() if name != "thought")


def _contents(entries: Sequence[Entry]) -> list[Any]:
    contents: list[Any] = []
    for entry in entries:
        parts = [part for part in _identified(_stored_parts(entry), entry.id) if _says_something(part)]
        role = "model" if entry.kind == "assistant" else "user"
        if entry.kind == "system" or not parts:
            continue
        if contents and contents[-1]["role"] == role:
            contents[-1]["parts"] += deepcopy(parts)
        else:
            contents.append({"role": role, "parts": deepcopy(parts)})
    return contents


def _paired(contents: list[Any]) -> list[Any]:
    """The same contents, each response with the id of its call: calls always have one, if only one made here."""
    waiting: list[JsonObject] = []
    for content in contents:
        if content["role"] == "model":
            waiting += _inner(content["parts"], "functionCall")
        responses = _inner(content["parts"], "functionResponse")
        for response in sorted(responses, key=lambda response: not response.get("id")):  # the others share what is left
            key = "id" if response.get("id") else "name"
            call = next((call for call in waiting if call.get(key) == response.get(key)), None)
            if call is not None:
                waiting.remove(call)
                response["id"] = call["id"]
    return contents


def _system_instruction(entries: Sequence[Entry]) -> JsonObject:
    prompts = [entry.body for entry in entries if entry.kind == "system" and isinstance(entry.body, dict)]
    if not prompts:
        return {}
    content = prompts[-1].get("parts") or prompts[-1].get("content")
    return {"system_instruction": {"parts": _parts(content)}} if content else {}


def _declared(tools: Sequence[ToolDefinition]) -> JsonObject:
    functions = [
        {"name": tool.name, "description": tool.description, "parameters_json_schema": deepcopy(tool.schema)}
        for tool in tools
    ]
    return {"tools": [{"function_declarations": functions}]} if functions else {}


def _config(own: JsonObject, given: Any) -> JsonObject:
    more = _set_fields(given)
    taken = [name for name in more if camel(name) in ("systemInstruction", "tools")]
    if taken:
        raise ValueError(
            f"config carries {' and '.join(taken)}: the system prompt is the thread's, functions go into tools=, "
            "and tools that Gemini runs itself into the config of the request that this returns"
        )
    return more if "cachedContent" in map(camel, more) else {**own, **more}


def _set_fields(config: Any) -> JsonObject:
    fields = config or {}
    if not isinstance(fields, Mapping):
        fields = {name: getattr(config, name) for name in config.model_fields_set}
    return {name: value for name, value in fields.items() if value is not None}


def _usage(counted: JsonObject) -> Usage:
    thoughts = counted.get("thoughtsTokenCount") or 0
    return Usage(
        input=(counted.get("promptTokenCount") or 0) + (counted.get("toolUsePromptTokenCount") or 0),
        output=(counted.get("candidatesTokenCount") or 0) + thoughts,
        cache_read=counted.get("cachedContentTokenCount") or 0,
        reasoning=thoughts,
        requests=1,
    )
