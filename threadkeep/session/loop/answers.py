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
    """An answer of a model, with calls that nobody answered.

    Attributes:
        entries: The answer's, where they stand one behind the other.
        calls: Its unanswered calls, each with its place among all of its calls.
        last: Whether nothing but tool results stands behind it.
    """

    entries: list[Entry]
    calls: list[tuple[int, ToolCall]]
    last: bool

    @property
    def message_id(self) -> str:
        return self.entries[0].id


@dataclass(frozen=True, slots=True)
class _Call:
    """A call: its id, the places of its message's first and last entry, and its place among the message's calls."""

    call_id: str
    name: str
    start: int
    end: int
    place: int


def open_answers(entries: Sequence[Entry], codec: Codec) -> list[OpenAnswer]:
    """The answers with unanswered calls, oldest first. An id that comes back in a later turn is another call."""
    open_calls, _ = _matched(entries, codec)
    found: list[OpenAnswer] = []
    for start, end in sorted({(call.start, call.end) for call in open_calls}):
        answer = list(entries[start : end + 1])
        calls = [call for entry in answer for call in codec.calls(entry)]
        places = sorted(call.place for call in open_calls if call.start == start)
        last = all(entry.kind == "tool" for entry in entries[end + 1 :])
        found.append(OpenAnswer(answer, [(place, calls[place]) for place in places], last))
    return found


def settled(entries: Sequence[Entry], codec: Codec) -> list[Entry]:
    """The same entries, each tool result behind the answer that called it, in call order.

    What arrives while tools run, as in an archive brought over, may stand between a call and its result; every provider
    refuses that. Answers that stand one behind the other count as one.
    """
    _, answered = _matched(entries, codec)
    behind: dict[int, list[tuple[int, int, int]]] = {}
    for at, call in answered.items():
        behind.setdefault(_block_end(entries, call.end), []).append((call.start, call.place, at))
    ordered: list[Entry] = []
    for at, entry in enumerate(entries):
        if at not in answered:
            ordered.append(entry)
        ordered += [entries[result] for _, _, result in sorted(behind.get(at, ()))]
    return ordered


def _matched(entries: Sequence[Entry], codec: Codec) -> tuple[list[_Call], dict[int, _Call]]:
    """The calls that nobody answered; and where results stand, each with the first call that it answers."""
    waiting: list[_Call] = []
    answered: dict[int, _Call] = {}
    for start, end in _messages(entries):
        made = 0
        for at in range(start, end + 1):
            if entries[at].kind == "assistant":
                calls = codec.calls(entries[at])
                waiting += [_Call(call.id, call.name, start, end, made + place) for place, call in enumerate(calls)]
                made += len(calls)
            for call_id in codec.answers(entries[at]):
                call = next((call for call in waiting if is_answered_by(call.call_id, call.name, call_id)), None)
                if call is not None:
                    waiting.remove(call)
                    if entries[at].kind != "assistant":  # what a provider ran stays where the provider put it
                        answered.setdefault(at, call)
    return waiting, answered


def is_answered_by(call_id: str, name: str, answered: str) -> bool:
    """Whether an answer to `answered` is one to this call; Gemini may name the tool alone, as `name:<tool>`."""
    return answered in (call_id, f"name:{name}")


def _messages(entries: Sequence[Entry]) -> list[tuple[int, int]]:
    """Where each message begins and ends; `X.1`, `X.2` and so on behind `X` are of the same message."""
    found: list[tuple[int, int]] = []
    for at, entry in enumerate(entries):
        if found and _is_part_of(entries[found[-1][0]].id, entry.id):
            found[-1] = (found[-1][0], at)
        else:
            found.append((at, at))
    return found


def _is_part_of(message_id: str, entry_id: str) -> bool:
    return entry_id.startswith(f"{message_id}.") and entry_id[len(message_id) + 1 :].isdigit()


def _block_end(entries: Sequence[Entry], at: int) -> int:
    while at + 1 < len(entries) and entries[at + 1].kind == "assistant":
        at += 1
    return at


def repairs_in(entries: Sequence[Entry]) -> list[Repair]:
    """Repairs that earlier sessions made by answering, oldest first."""
    found: list[Repair] = []
    for entry in entries:
        told: Any = entry.meta.get(REPAIR)
        if isinstance(told, dict):
            found.append(Repair(str(told["message"]), str(told["call"]), "answered", str(told["reason"])))
    return found
