"""Plain messages: any JSON is kept as it is. No tools, and no provider to send anything to."""

from collections.abc import Sequence
from typing import Any, Final

from threadkeep.model import Entry, Kind
from threadkeep.session.codecs.base import Part, Prepared, Reply, ToolCall, ToolDefinition, applied, dump_text

KIND_OF_ROLE: Final[dict[str, Kind]] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "model": "assistant",
    "tool": "tool",
    "function": "tool",
}


class PlainCodec:
    """Any JSON value is kept as it is; the `role` of an object says who speaks.

    An answer, a dict whose role is `assistant`, may name tools to run as `"tool_calls": [{"id", "name", "args"}]`;
    results are kept as `{"role": "tool", "tool_call_id", "name", "content"}`.
    """

    def __init__(self, name: str = "plain") -> None:
        self.name = name

    def encode(self, message: Any, entry_id: str) -> list[Part]:
        role = message.get("role") if isinstance(message, dict) else None
        return [Part(KIND_OF_ROLE.get(role, "user") if isinstance(role, str) else "user", message)]

    def system(self, content: Any) -> Part:
        return Part("system", {"role": "system", "content": content})

    def user(self, content: Any) -> Part:
        return Part("user", {"role": "user", "content": content})

    def result(self, call: ToolCall, content: Any, *, error: bool = False) -> Part:
        body = {"role": "tool", "tool_call_id": call.id, "name": call.name, "content": content}
        return Part("tool", {**body, "is_error": True} if error else body)

    def reply(self, entries: Sequence[Entry]) -> Reply:
        calls = [call for entry in entries for call in self.calls(entry)]
        text = "".join(dump_text(entry.body.get("content")) for entry in entries if isinstance(entry.body, dict))
        return Reply(calls=calls, text=text)

    def calls(self, entry: Entry) -> list[ToolCall]:
        wanted = entry.body.get("tool_calls") if isinstance(entry.body, dict) and entry.kind == "assistant" else None
        if not isinstance(wanted, list):
            return []
        return [_call(entry, index, call) for index, call in enumerate(wanted) if isinstance(call, dict)]

    def answers(self, entry: Entry) -> list[str]:
        answered = entry.body.get("tool_call_id") if isinstance(entry.body, dict) and entry.kind == "tool" else None
        return [answered] if isinstance(answered, str) else []

    def request(
        self,
        entries: Sequence[Entry],
        *,
        tools: Sequence[ToolDefinition] = (),
        prepared: Prepared | None = None,
    ) -> dict[str, Any]:
        """`messages`, and `tools` as name, description and schema."""
        request: dict[str, Any] = {"messages": applied(prepared, self.native(entries))}
        if tools:
            request["tools"] = [
                {"name": tool.name, "description": tool.description, "schema": tool.schema} for tool in tools
            ]
        return request

    def native(self, entries: Sequence[Entry]) -> list[Any]:
        return [entry.body for entry in entries]

    def cut(self, entries: Sequence[Entry], at: int) -> int:
        return at


def _call(entry: Entry, index: int, call: dict[str, Any]) -> ToolCall:
    call_id, name = call.get("id"), call.get("name")
    made = f"{entry.id}-call-{index}"
    return ToolCall(
        call_id if isinstance(call_id, str) and call_id else made,
        name if isinstance(name, str) else "",
        call.get("args"),
    )
