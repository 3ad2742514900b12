"""Which contents a thread may have after what its apps were told, and whether what was seen is among them. Pure.

Writes are ordered by the revisions that acknowledged them. One without an answer is placed behind the revision that its
session stood at: there it may have happened or not, and both are followed up until a look tells which.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Final

from tests.chaos.journal import Operation

WRITES: Final = frozenset({"append", "truncate", "replace", "checkpoint", "leave"})
LOOKS: Final = frozenset({"look", "read"})
FRESH: Final = frozenset({"open", "read", "stat"})
"""What asks for a thread's revision anew; a session otherwise tells the one that it knows."""
NEVER: Final = frozenset({"ArchiveCorrupt", "FormatMismatch", "HotTierLost", "MessageConflict", "ThreadErased"})
"""Errors for which the apps gave no reason."""
LOSS: Final = ("lost its memory", "nothing was restored", "was set aside")
"""What a failed hydrate may not say."""

_SLACK: Final = 200_000
"""Microseconds by which the clocks of Redis and of the apps may be read differently."""


@dataclass(frozen=True, slots=True)
class Content:
    """A thread as a whole: the ids of its messages, and the number in its state."""

    ids: tuple[str, ...] = ()
    state: int | None = None

    def after(self, operation: Operation) -> "Content":
        """What a write makes of it."""
        intent = operation.intent
        match operation.do:
            case "append":
                return replace(self, ids=(*self.ids, *(new for new in intent["ids"] if new not in self.ids)))
            case "truncate":
                return self.before(intent["id"])
            case "replace":
                return replace(self, ids=tuple(intent["ids"]))
            case "checkpoint" | "leave" if intent["state"] is not None:
                return replace(self, state=intent["state"])
        return self

    def before(self, message_id: str) -> "Content":
        """What stands before a message; all of it if there is no such message."""
        return replace(self, ids=self.ids[: self.ids.index(message_id)]) if message_id in self.ids else self

    def shows(self, operation: Operation) -> bool:
        """Whether this is what was seen."""
        seen = operation.result
        return list(self.ids) == seen["ids"] and ("state" not in seen or self.state == seen["state"])


@dataclass(frozen=True, slots=True)
class Violation:
    """A promise that was broken, with the thread's journal up to there."""

    thread: str
    what: str
    at: float
    journal: tuple[Operation, ...] = ()


@dataclass(slots=True)
class History:
    """A thread's possible contents over its revisions.

    Attributes:
        moments: For each step the revision from which on these contents were possible.
    """

    thread: str
    possible: set[Content]
    moments: list[tuple[int, frozenset[Content]]] = field(default_factory=list)
    violations: list[Violation] = field(default_factory=list)
    acknowledged: set[str] = field(default_factory=set)

    def during(self, first: float, last: float) -> set[Content]:
        """What it may have been at some moment between two times."""
        start, end = first * 1e6 - _SLACK, last * 1e6 + _SLACK
        found: set[Content] = set()
        for at, (rev, contents) in enumerate(self.moments):
            until = self.moments[at + 1][0] if at + 1 < len(self.moments) else end
            if rev <= end and until >= start:
                found |= contents
        return found


def histories(operations: Iterable[Operation]) -> dict[str, History]:
    """The history of each thread that was ever there, forks after their sources."""
    threads: dict[str, list[Operation]] = {}
    for operation in operations:
        threads.setdefault(operation.thread, []).append(operation)
    found: dict[str, History] = {}
    for thread in sorted(threads, key=lambda thread: threads[thread][0].at):
        found[thread] = _followed(thread, threads[thread], found)
    return found


def _followed(thread: str, operations: list[Operation], known: dict[str, History]) -> History:
    history = History(thread, {Content()})
    history.violations += _complaints(thread, operations)
    history.violations += _backwards(thread, operations)
    fork = next((operation for operation in operations if operation.do == "fork" and not operation.refused), None)
    if fork is not None:
        history.possible = _copies(fork, known)
    history.moments.append((0, frozenset(history.possible)))
    for rev, operation in _in_order(operations):
        _step(history, rev, operation, operations)
    return history


def _in_order(operations: list[Operation]) -> list[tuple[int, Operation]]:
    placed = [(key, operation) for operation in operations if (key := _place(operation)) is not None]
    return [(key[0], operation) for key, operation in sorted(placed, key=lambda item: item[0])]


def _place(operation: Operation) -> tuple[int, int, float] | None:
    """Revision, then: writes that made it, looks at it, writes without an answer that came after it."""
    if operation.do in WRITES and not operation.refused:
        if operation.acknowledged:
            return operation.result["rev"], 0, operation.at
        return operation.intent["base"], 2, operation.at
    if operation.do in LOOKS and operation.acknowledged:
        return operation.result["rev"], 1, operation.at
    return None


def _step(history: History, rev: int, operation: Operation, journal: list[Operation]) -> None:
    if operation.do in LOOKS:
        _look(history, operation, journal)
    elif operation.acknowledged:
        _write(history, operation, journal)
    else:
        history.possible |= {content.after(operation) for content in history.possible}
    history.moments.append((rev, frozenset(history.possible)))


def _write(history: History, operation: Operation, journal: list[Operation]) -> None:
    history.acknowledged.update(operation.intent.get("ids", ()))
    after = {content.after(operation) for content in history.possible}
    count = operation.result.get("count")
    fitting = {content for content in after if count is None or len(content.ids) == count}
    if not fitting:
        counts = sorted({len(content.ids) for content in after})
        what = f"a write was acknowledged with {count} messages in the thread, where {counts} are possible"
        history.violations.append(_violation(history.thread, what, operation, journal))
    history.possible = fitting or after


def _look(history: History, operation: Operation, journal: list[Operation]) -> None:
    seen = operation.result
    if len(set(seen["ids"])) != len(seen["ids"]):
        history.violations.append(_violation(history.thread, "a message stands twice", operation, journal))
    if seen["damaged"]:
        what = f"messages are not what was sent: {seen['damaged']}"
        history.violations.append(_violation(history.thread, what, operation, journal))
    fitting = {content for content in history.possible if content.shows(operation)}
    if not fitting:
        what = _difference(history.possible, operation)
        history.violations.append(_violation(history.thread, what, operation, journal))
        fitting = {Content(tuple(seen["ids"]), seen.get("state"))}
    history.possible = fitting


def _difference(possible: set[Content], operation: Operation) -> str:
    seen = operation.result["ids"]
    if not possible:
        return f"a fork holds {seen}, which its source never was"
    nearest = min(possible, key=lambda content: (len(set(content.ids) ^ set(seen)), -len(content.ids), content.ids))
    lost = [message_id for message_id in nearest.ids if message_id not in seen]
    extra = [message_id for message_id in seen if message_id not in nearest.ids]
    if lost or extra:
        return f"messages lost: {lost}; messages that should not be there: {extra}"
    if list(nearest.ids) != seen:
        return f"messages in another order: {seen} instead of {list(nearest.ids)}"
    return f"the state is {operation.result.get('state')} instead of {sorted(str(each.state) for each in possible)}"


def _copies(fork: Operation, known: dict[str, History]) -> set[Content]:
    """What a fork may begin as: its source at some moment while it was made."""
    last = fork.done if fork.acknowledged and fork.done is not None else fork.at + 60
    source = known[fork.intent["source"]].during(fork.at, last)
    before = fork.intent["before"]
    if before is None:
        return source
    return {content.before(before) for content in source if before in content.ids}


def _complaints(thread: str, operations: list[Operation]) -> Iterator[Violation]:
    """Errors that nothing can excuse, and threads that were there and are said not to be."""
    there_since = math.inf
    for operation in operations:
        told = str(operation.result.get("text", ""))
        if "unexpected" in operation.result:
            yield _violation(thread, f"an error of no kind of ours: {operation.result['unexpected']}", operation, [])
        elif operation.error in NEVER or (operation.error == "HydrateFailed" and any(each in told for each in LOSS)):
            yield _violation(thread, f"{operation.error}: {told}", operation, operations)
        elif operation.error == "ThreadNotFound" and operation.do in ("open", "read") and operation.at > there_since:
            yield _violation(thread, "it was there, and was said not to exist", operation, operations)
        if operation.do in ("open", "fork") and operation.acknowledged and operation.done is not None:
            there_since = min(there_since, operation.done)


def _backwards(thread: str, operations: list[Operation]) -> Iterator[Violation]:
    """What begins after a revision was seen may not see an older one."""
    told = sorted(
        (operation for operation in operations if operation.acknowledged and "rev" in operation.result),
        key=lambda operation: operation.done or 0.0,
    )
    seen, highest = 0, 0
    for operation in sorted(told, key=lambda operation: operation.at):
        while seen < len(told) and (told[seen].done or 0.0) <= operation.at:
            highest = max(highest, told[seen].result["rev"])
            seen += 1
        if operation.do in FRESH and operation.result["rev"] < highest:
            what = f"revision {operation.result['rev']} was shown after {highest}"
            yield _violation(thread, what, operation, operations)


def _violation(thread: str, what: str, operation: Operation, journal: Iterable[Operation]) -> Violation:
    before = [each for each in journal if each.at <= operation.at]
    return Violation(thread, what, operation.at, (*before[-40:],))


def sent(operations: Iterable[Operation]) -> dict[str, Any]:
    """Numbers of a run: messages that were acknowledged, and those whose outcome the app never heard."""
    ids: set[str] = set()
    unknown: set[str] = set()
    for operation in operations:
        if operation.do in ("append", "replace") and not operation.refused:
            (ids if operation.acknowledged else unknown).update(operation.intent["ids"])
    return {"acknowledged": len(ids), "unknown": len(unknown - ids)}
