"""How far a run came before, read from the thread itself: a redelivered task goes on from there. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Final, Literal

from threadkeep.model import Entry
from threadkeep.session.codecs.base import Codec, ToolCall, Usage
from threadkeep.session.loop.answers import REPAIR, is_answered_by
from threadkeep.session.loop.state import Status

RUN: Final = "run"
"""The key of an entry's meta that names the run that made it."""
TURN: Final = "turn"
"""The turn that it belongs to; 0 for the run's input."""
ENDS: Final = "ends"
"""The status that the run ended with, on the tool results it ended with."""
TOOL_USAGE: Final = "tool_usage"
"""Tokens that a tool used by itself, as pairs of `Usage`."""


@dataclass(frozen=True, slots=True)
class Progress:
    """What a run left in its thread.

    Attributes:
        at: `between` turns (its input is there, or results to go on from), `calling` (its answer's tools have not been
            answered), `ended`, or `overtaken` (it has not ended, and answers that are not its own came after it).
        turns: Turns that were begun.
        answer: Entries of its last answer.
        usage: Tokens that it used.
        status: How it ended, where it has.
        answered: Places of the answer's calls that somebody has answered already.
    """

    at: Literal["between", "calling", "ended", "overtaken"]
    turns: int
    answer: list[Entry]
    usage: Usage
    status: Status = Status.RUNNING
    answered: set[int] = field(default_factory=set)


def progress_of(entries: Sequence[Entry], run_id: str, codec: Codec) -> Progress | None:
    """How far the run came; None if it left nothing."""
    own = [at for at, entry in enumerate(entries) if entry.meta.get(RUN) == run_id]
    if not own:
        return None
    made = [entries[at] for at in own]
    answers = _answers(made)
    answer = answers[-1] if answers else []
    turns = max(int(entry.meta.get(TURN, 0)) for entry in made)
    usage = sum((codec.reply(each).usage for each in answers), Usage()) + _used_by_tools(made)
    done = [at for at in own if REPAIR not in entries[at].meta] or own
    status = _ended(entries[done[-1]], answer, codec)
    if status is not None:
        return Progress("ended", turns, answer, usage, status)
    behind = entries[done[-1] + 1 :]
    if any(entry.kind == "assistant" for entry in behind):
        return Progress("overtaken", turns, answer, usage, Status.CANCELLED)
    calls = codec.reply(answer).calls if entries[done[-1]].kind == "assistant" else []
    answered = _answered(calls, behind, codec)
    at: Literal["calling", "between"] = "calling" if len(answered) < len(calls) else "between"
    return Progress(at, turns, answer, usage, answered=answered)


def _answers(made: Iterable[Entry]) -> list[list[Entry]]:
    """The run's answers, each with all of its entries."""
    said = (entry for entry in made if entry.kind == "assistant")
    return [list(group) for _, group in groupby(said, key=lambda entry: entry.meta.get(TURN))]


def _ended(last: Entry, answer: Sequence[Entry], codec: Codec) -> Status | None:
    if last.kind == "tool":
        told = last.meta.get(ENDS)
        return Status(told) if isinstance(told, str) else None
    if last.kind != "assistant":
        return None
    reply = codec.reply(answer)
    return None if reply.calls or reply.again else Status.COMPLETED


def _answered(calls: Sequence[ToolCall], behind: Sequence[Entry], codec: Codec) -> set[int]:
    """Places of the calls that entries behind them answer."""
    found: set[int] = set()
    for answered in (call_id for entry in behind for call_id in codec.answers(entry)):
        fits = (at for at, call in enumerate(calls) if is_answered_by(call.id, call.name, answered))
        found.update([at for at in fits if at not in found][:1])
    return found


def _used_by_tools(made: Iterable[Entry]) -> Usage:
    used = (entry.meta.get(TOOL_USAGE) for entry in made)
    return sum((Usage(**pairs) for pairs in used if isinstance(pairs, dict)), Usage())
