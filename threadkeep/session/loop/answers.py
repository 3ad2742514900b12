"""Which calls of a thread were answered, which were not, and where the answers stand. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from threadkeep.model import Entry, JsonObject
from threadkeep.session.codecs.base import Codec, ToolCall

REPAIR: Final = "repair"
"""The key of an entry's meta that says: this answer was given by a repair."""


@dataclass(frozen=True, slots=True)
class Repair:
    """How a thread that a provider would have refused was made valid again.

    Attributes:
        message_id: The model's answer whose call nobody had answered.
        call_id: The call.
        how: `answered` with an error result, or `dropped` together with the model's answer.
        reason: Why it had stayed open, as far as is known.
    """

    message_id: str
    call_id: str
    how: Literal["answered", "dropped"]
    reason: str

    def to_meta(self) -> JsonObject:
        return {REPAIR: {"message": self.message_id, "call": self.call_id, "reason": self.reason}}


@dataclass(frozen=True, slots=True)
class OpenAnswer:
    """The last answer of a model, with calls that nobody answered.

    Attributes:
        entries: The answer's.
        calls: Its unanswered calls, each with its place among all of its calls.
        last: Whether nothing but tool results stands behind it.
    """

    entries: list[Entry]
    calls: list[tuple[int, ToolCall]]
    last: bool

    @property
    def message_id(self) -> str:
        return self.entries[0].id


def open_answer(entries: Sequence[Entry], codec: Codec) -> OpenAnswer | None:
    """The last answer, if some of its calls are unanswered."""
    end = len(entries)
    while end and entries[end - 1].kind != "assistant":
        end -= 1
    start = end
    while start and entries[start - 1].kind == "assistant":
        start -= 1
    answer = list(entries[start:end])
    answered = {call_id for entry in entries[start:] for call_id in codec.answers(entry)}
    calls = [call for entry in answer for call in codec.calls(entry)]
    unanswered = [(place, call) for place, call in enumerate(calls) if call.id not in answered]
    if not unanswered:
        return None
    return OpenAnswer(answer, unanswered, all(entry.kind == "tool" for entry in entries[end:]))


def settled(entries: Sequence[Entry], codec: Codec) -> list[Entry]:
    """The same entries, each tool result behind the answer that called it, in call order.

    What arrives while tools run, as a message of another session of an importer's, stands between a call and its
    result; every provider refuses that.
    """
    waiting: dict[str, list[int]] = {}
    for at, entry in enumerate(entries):
        for call_id in codec.answers(entry):
            waiting.setdefault(call_id, []).append(at)
    if not waiting:
        return list(entries)
    ordered: list[Entry] = []
    placed: set[int] = set()
    for at, entry in enumerate(entries):
        if at in placed:
            continue
        ordered.append(entry)
        placed.add(at)
        if entry.kind == "assistant" and not _goes_on(entries, at):
            for found in _results(entries, at, waiting, codec):
                if found not in placed:
                    placed.add(found)
                    ordered.append(entries[found])
    return ordered


def _goes_on(entries: Sequence[Entry], at: int) -> bool:
    return at + 1 < len(entries) and entries[at + 1].kind == "assistant"


def _results(entries: Sequence[Entry], at: int, waiting: dict[str, list[int]], codec: Codec) -> list[int]:
    """Where the results of the answer that ends at `at` stand; ids may come back later, so the first fits."""
    start = at
    while start and entries[start - 1].kind == "assistant":
        start -= 1
    calls = [call for entry in entries[start : at + 1] for call in codec.calls(entry)]
    found: list[int] = []
    for call in calls:
        behind = [place for place in waiting.get(call.id, []) if place > at and place not in found]
        found += behind[:1]
    return found


def repairs_in(entries: Sequence[Entry]) -> list[Repair]:
    """Repairs that earlier sessions made by answering, oldest first."""
    found: list[Repair] = []
    for entry in entries:
        told: Any = entry.meta.get(REPAIR)
        if isinstance(told, dict):
            found.append(Repair(str(told["message"]), str(told["call"]), "answered", str(told["reason"])))
    return found
