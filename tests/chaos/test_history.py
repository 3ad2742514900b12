"""The checker itself: it lets pass what may happen, and names what may not."""

from typing import Any

import pytest

from tests.chaos.history import histories
from tests.chaos.journal import Journal, Operation, read_journals
from tests.chaos.schedule import KINDS, schedule

CLOCK = 1_000_000
"""Microseconds: revisions here are the seconds of their operations."""


class Told:
    """Builds the journal of one thread, an operation a second."""

    def __init__(self, thread: str = "t") -> None:
        self.thread, self.operations = thread, list[Operation]()

    def append(self, *ids: str, base: int = 0, rev: int | None = None, count: int | None = None) -> "Told":
        return self._write("append", {"ids": list(ids)}, base, rev, {"count": count} if count is not None else {})

    def truncate(self, message_id: str, *, base: int = 0, rev: int | None = None) -> "Told":
        return self._write("truncate", {"id": message_id}, base, rev, {})

    def replace(self, *ids: str, base: int = 0, rev: int | None = None) -> "Told":
        return self._write("replace", {"ids": list(ids)}, base, rev, {})

    def save(self, state: int, *, base: int = 0, rev: int | None = None) -> "Told":
        return self._write("leave", {"state": state}, base, rev, {})

    def look(self, *ids: str, rev: int, state: int | None = None, damaged: tuple[str, ...] = ()) -> "Told":
        seen = {"rev": rev * CLOCK, "ids": list(ids), "damaged": list(damaged), "state": state}
        return self._add("read", {}, done=True, result=seen)

    def open(self, *, rev: int = 0, error: str | None = None, text: str = "") -> "Told":
        result: dict[str, Any] = {"rev": rev * CLOCK, "count": 0} if error is None else {"text": text}
        return self._add("open", {}, done=True, result=result, error=error)

    def fork(self, source: str, *, before: str | None = None, at: float, rev: int) -> "Told":
        operation = Operation(
            "app",
            0,
            "fork",
            self.thread,
            at,
            {"source": source, "before": before},
            at + 0.5,
            None,
            {"rev": rev * CLOCK},
        )
        self.operations.append(operation)
        return self

    def _write(self, do: str, intent: dict[str, Any], base: int, rev: int | None, more: dict[str, Any]) -> "Told":
        result = {} if rev is None else {"rev": rev * CLOCK, **more}
        return self._add(do, {**intent, "base": base * CLOCK}, done=rev is not None, result=result)

    def _add(
        self, do: str, intent: dict[str, Any], *, done: bool, result: dict[str, Any], error: str | None = None
    ) -> "Told":
        at = float(len(self.operations) + 1)
        answered = at + 0.5 if done else None
        self.operations.append(
            Operation("app", len(self.operations), do, self.thread, at, intent, answered, error, result)
        )
        return self

    @property
    def wrong(self) -> list[str]:
        return [violation.what for violation in histories(self.operations)[self.thread].violations]


def test_a_thread_that_holds_what_was_acknowledged_is_well():
    told = Told().append("a", "b", rev=1, count=2).append("c", base=1, rev=2, count=3).truncate("c", base=2, rev=3)
    assert told.save(7, base=3, rev=4).look("a", "b", rev=4, state=7).wrong == []


@pytest.mark.parametrize("seen", [("a", "b"), ("a",)], ids=["done", "not-done"])
def test_a_write_without_an_answer_may_be_there_or_not(seen):
    assert Told().append("a", rev=1).append("b", base=1).look(*seen, rev=3).wrong == []


def test_a_write_without_an_answer_is_all_there_or_not_at_all():
    assert "lost: ['c']" in Told().append("a", rev=1).append("b", "c", base=1).look("a", "b", rev=3).wrong[0]


def test_what_is_sent_again_under_its_id_stands_once():
    again = Told().append("a", rev=1).append("b", base=1).append("b", base=1, rev=3)
    assert again.look("a", "b", rev=3).wrong == []
    twice = Told().append("a", rev=1).append("b", base=1).append("b", base=1, rev=3).look("a", "b", "b", rev=3)
    assert "a message stands twice" in twice.wrong


def test_once_it_was_seen_a_write_without_an_answer_must_stay():
    told = Told().append("a", rev=1).append("b", base=1).look("a", "b", rev=2).look("a", rev=3)
    assert told.wrong == ["messages lost: ['b']; messages that should not be there: []"]


@pytest.mark.parametrize(
    ("told", "what"),
    [
        (Told().append("a", "b", rev=1).look("a", rev=1), "lost: ['b']"),
        (Told().append("a", rev=1).look("a", "x", rev=1), "should not be there: ['x']"),
        (Told().append("a", "b", rev=1).look("b", "a", rev=1), "another order"),
        (
            Told().append("a", "b", rev=1).truncate("b", base=1, rev=2).look("a", "b", rev=2),
            "should not be there: ['b']",
        ),
        (Told().append("a", rev=1).replace("b", base=1, rev=2).look("a", rev=2), "lost: ['b']"),
        (Told().save(1, rev=1).save(2, base=1, rev=2).look(rev=2, state=1), "the state is 1"),
        (Told().append("a", rev=1).look("a", rev=1, damaged=("a",)), "not what was sent"),
        (Told().append("a", rev=1, count=2), "acknowledged with 2 messages"),
        (Told().append("a", rev=5).look("a", rev=4), "revision 4000000 was shown after 5000000"),
        (Told().open(rev=1).open(error="ThreadNotFound"), "said not to exist"),
        (Told().open(error="HotTierLost", text="lost"), "HotTierLost"),
        (Told().open(error="HydrateFailed", text="Redis lost its memory"), "lost its memory"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_may_not_happen_is_named(told, what):
    assert [each for each in told.wrong if what in each], told.wrong


def test_errors_that_faults_explain_are_no_complaint():
    told = Told().open(error="ThreadNotFound").open(rev=1).open(error="ThreadBusy")
    assert told.open(error="HydrateFailed", text="S3 did not complete GetObject").wrong == []


SOURCE = Told("source").append("a", "b", rev=1).append("c", base=1, rev=10).truncate("b", base=10, rev=20)


@pytest.mark.parametrize(
    ("before", "at", "seen", "well"),
    [
        (None, 12.0, ("a", "b", "c"), True),
        ("c", 12.0, ("a", "b"), True),
        (None, 9.8, ("a", "b"), True),
        (None, 9.8, ("a", "b", "c"), True),
        (None, 25.0, ("a",), True),
        (None, 25.0, ("a", "b", "c"), False),
        (None, 5.0, ("a",), False),
        ("c", 25.0, ("a", "b"), False),
    ],
)
def test_a_fork_is_what_its_source_was_while_it_was_made(before, at, seen, well):
    fork = Told("fork").fork("source", before=before, at=at, rev=30).look(*seen, rev=30)
    wrong = histories([*SOURCE.operations, *fork.operations])["fork"].violations
    assert (wrong == []) == well


def test_a_journal_that_was_cut_by_a_kill_still_testifies(tmp_path):
    path = tmp_path / "app-0.1.jsonl"
    journal = Journal(path)
    first = journal.begin("append", "t", ids=["a"], base=0)
    journal.end(first, rev=1, count=1)
    journal.begin("append", "t", ids=["b"], base=1)
    journal.close()
    with path.open("ab") as file:
        file.write(b'{"op":2,"done":17')
    known, unknown = read_journals(tmp_path)
    assert (known.acknowledged, known.result["rev"]) == (True, 1)
    assert (unknown.process, unknown.acknowledged, unknown.done) == ("app-0.1", False, None)


def test_a_seed_makes_its_schedule_again_and_every_kind_has_its_turn():
    assert schedule(7, 180) == schedule(7, 180)
    assert schedule(7, 180) != schedule(8, 180)
    first = [fault.kind for fault in schedule(7, 180)][: len(KINDS)]
    assert sorted(first) == sorted(KINDS)
