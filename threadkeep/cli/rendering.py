"""What a message says, whichever provider's JSON it is: text as it is, calls and results of tools in brief. Pure."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal

RESULT_LINES: Final = 3
LINE_WIDTH: Final = 160


@dataclass(frozen=True, slots=True)
class Part:
    """One thing that a message says; a call's text is `name(arguments)`, a result's is its output."""

    what: Literal["text", "thinking", "call", "result", "other"]
    text: str


def parts_of(body: Any) -> list[Part]:
    """The parts of a body as Anthropic, OpenAI, Gemini or nobody in particular writes it, in order."""
    if isinstance(body, str):
        return _of_string(body)
    if not isinstance(body, dict):
        return [Part("other", _json(body))]
    inner = body.get("message")
    if isinstance(inner, dict) and ("content" in inner or "parts" in inner):
        return parts_of(inner)
    if body.get("role") == "tool":
        return [Part("result", _plain(body.get("content")))]
    found = list(_of_content(body.get("content", body.get("parts"))))
    found += [Part("call", _call(_function_of(call))) for call in _dicts(body.get("tool_calls"))]
    return found or [_of_block(body)]


def brief(part: Part) -> str:
    """A part in a few lines: calls and results of tools are cut, with a note of what was left out."""
    if part.what in ("text", "thinking"):
        return part.text
    lines = part.text.splitlines()
    shown = [_cut(line) for line in lines[:RESULT_LINES]]
    if len(lines) > RESULT_LINES:
        shown.append(f"… {len(lines) - RESULT_LINES:,} more lines, {len(part.text):,} characters in all")
    return "\n".join(shown)


def _of_string(body: str) -> list[Part]:
    """A string that holds a message as JSON, as zeitlich's do, is shown as that message."""
    try:
        value = json.loads(body)
        return parts_of(value) if isinstance(value, dict) else [Part("text", body)]
    except (ValueError, RecursionError):
        return [Part("text", body)]


def _of_content(content: Any) -> Iterator[Part]:
    if isinstance(content, dict):
        yield from parts_of(content)
    elif isinstance(content, str):
        if content:
            yield Part("text", content)
    elif isinstance(content, list):
        for block in content:
            yield _of_block(block) if isinstance(block, dict) else Part("text", _plain(block))


def _of_block(block: dict[str, Any]) -> Part:
    match block:
        case {"type": "tool_use" | "function_call" | "server_tool_use"}:
            return Part("call", _call(block))
        case {"functionCall": dict(call)} | {"function_call": dict(call)}:
            return Part("call", _call(call))
        case {"type": "tool_result", **rest}:
            return Part("result", _plain(rest.get("content")))
        case {"type": "function_call_output", "output": output}:
            return Part("result", _plain(output))
        case {"functionResponse": dict(answer)} | {"function_response": dict(answer)}:
            return Part("result", _plain(answer.get("response", answer)))
        case {"type": "thinking", "thinking": str(text)}:
            return Part("thinking", text)
        case {"text": str(text)}:
            return Part("text", text)
        case {"type": str(kind)}:
            return Part("other", f"[{kind}] {_json(block)}")
        case _:
            return Part("other", _json(block))


def _function_of(call: dict[str, Any]) -> dict[str, Any]:
    function = call.get("function")
    return function if isinstance(function, dict) else call


def _call(call: dict[str, Any]) -> str:
    given = call.get("input", call.get("arguments", call.get("args", {})))
    if isinstance(given, str):
        try:
            given = json.loads(given)
        except (ValueError, RecursionError):
            return f"{call.get('name', '?')}({given})"
    if isinstance(given, dict):
        return f"{call.get('name', '?')}({', '.join(f'{name}={_json(value)}' for name, value in given.items())})"
    return f"{call.get('name', '?')}({_json(given)})"


def _plain(content: Any) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "\n".join(
            block["text"] if isinstance(block, dict) and isinstance(block.get("text"), str) else _plain(block)
            for block in content
        )
    return "" if content is None else _json(content)


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _cut(line: str) -> str:
    return line if len(line) <= LINE_WIDTH else f"{line[: LINE_WIDTH - 1]}…"
