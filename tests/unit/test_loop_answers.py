"""Which calls are open, where results belong, and what a run left behind: all read from entries alone."""

import pytest

from threadkeep.model import Entry
from threadkeep.session.codecs.base import Usage
from threadkeep.session.codecs.plain import PlainCodec
from threadkeep.session.loop.answers import Repair, open_answers, repairs_in, settled
from threadkeep.session.loop.progress import ENDS, TOOL_USAGE, progress_of
from threadkeep.session.loop.state import Status

CODEC = PlainCodec()


def said(message_id, text="…", **meta):
    return Entry(message_id, "user", {"role": "user", "content": text}, meta=meta)


def answer(message_id, *calls, **meta):
    body = {
        "role": "assistant",
        "content": "…",
        "tool_calls": [{"id": call, "name": "f", "args": {}} for call in calls],
    }
    return Entry(message_id, "assistant", body, meta=meta)


def result(message_id, call, **meta):
    return Entry(message_id, "tool", {"role": "tool", "tool_call_id": call, "content": "…"}, meta=meta)


def ids(entries):
    return [entry.id for entry in entries]


def test_a_thread_without_calls_has_no_open_answer():
    assert open_answers([], CODEC) == []
    assert open_answers([said("1"), answer("2")], CODEC) == []


def test_an_answered_call_is_not_open_whatever_stands_between():
    assert open_answers([answer("1", "a", "b"), said("2"), result("3", "b"), result("4", "a")], CODEC) == []


def test_the_calls_that_nobody_answered_are_open_with_their_places():
    (found,) = open_answers([said("0"), answer("1", "a", "b", "c"), result("2", "b")], CODEC)
    assert found.message_id == "1"
    assert [(place, call.id) for place, call in found.calls] == [(0, "a"), (2, "c")]
    assert found.last


def test_an_open_answer_that_a_user_followed_is_not_the_last():
    assert not open_answers([answer("1", "a"), said("2")], CODEC)[0].last


def test_an_answer_of_several_entries_is_one():
    entries = [said("0"), answer("1"), answer("1.1", "a"), answer("1.2", "b"), result("2", "a")]
    (found,) = open_answers(entries, CODEC)
    assert (found.message_id, ids(found.entries)) == ("1", ["1", "1.1", "1.2"])
    assert [(place, call.id) for place, call in found.calls] == [(1, "b")]


def test_answers_that_stand_side_by_side_are_two():
    (found,) = open_answers([answer("one"), answer("two", "a")], CODEC)
    assert (found.message_id, ids(found.entries)) == ("two", ["two"])


def test_an_older_open_call_is_found_behind_later_answers_too():
    older, newer = open_answers([answer("1", "a"), said("2"), answer("3"), said("4"), answer("5", "b")], CODEC)
    assert (older.message_id, older.last, newer.message_id, newer.last) == ("1", False, "5", True)


def test_an_id_that_comes_back_in_a_later_turn_is_another_call():
    (found,) = open_answers([answer("1", "a"), result("2", "a"), answer("3", "a")], CODEC)
    assert found.message_id == "3"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([answer("1", "a", "b"), result("2", "b"), result("3", "a")], ["1", "3", "2"]),
        ([answer("1", "a"), said("2"), result("3", "a"), said("4")], ["1", "3", "2", "4"]),
        ([answer("1"), answer("1.1", "a"), said("2"), result("3", "a")], ["1", "1.1", "3", "2"]),
        ([answer("1", "a"), result("2", "a"), answer("3", "a"), result("4", "a")], ["1", "2", "3", "4"]),
        ([result("1", "a"), answer("2", "a"), result("3", "a")], ["1", "2", "3"]),
        ([answer("1", "a"), answer("2", "b"), result("3", "b"), result("4", "a")], ["1", "2", "4", "3"]),
        ([answer("1", "a"), said("2"), answer("3", "a"), result("4", "a"), result("5", "a")], list("14235")),
        ([said("1"), answer("2")], ["1", "2"]),
    ],
)
def test_results_stand_behind_their_answer_in_call_order(before, after):
    assert ids(settled(before, CODEC)) == after


def test_repairs_are_read_from_the_results_that_they_left():
    repair = Repair("1", "a", "answered", "the app failed")
    assert repairs_in([answer("1", "a"), result("2", "a", **repair.to_meta()), result("3", "b")]) == [repair]


# --- how far a run came ---------------------------------------------------------------------------------------------


def run(turn):
    return {"run": "r", "turn": turn}


def test_a_run_that_left_nothing_has_no_progress():
    assert progress_of([said("1"), answer("2", run="other", turn=1)], "r", CODEC) is None


def test_a_run_with_only_its_input_is_between_turns():
    progress = progress_of([said("h", **run(0))], "r", CODEC)
    assert (progress.at, progress.turns, progress.answer) == ("between", 0, [])


def test_an_answer_without_results_is_calling():
    progress = progress_of([said("h", **run(0)), answer("a1", "x", **run(1))], "r", CODEC)
    assert (progress.at, progress.turns, ids(progress.answer)) == ("calling", 1, ["a1"])


def test_a_call_that_another_session_answered_is_not_called_again():
    entries = [said("h", **run(0)), answer("a1", "x", **run(1)), result("fixed", "x")]
    assert progress_of(entries, "r", CODEC).at == "between"


def test_results_lead_to_the_next_turn():
    entries = [said("h", **run(0)), answer("a1", "x", **run(1)), result("t", "x", **run(1))]
    progress = progress_of(entries, "r", CODEC)
    assert (progress.at, progress.turns) == ("between", 1)


def test_an_answer_without_calls_is_the_end():
    progress = progress_of([said("h", **run(0)), answer("a1", **run(1)), said("later")], "r", CODEC)
    assert (progress.at, progress.status, ids(progress.answer)) == ("ended", Status.COMPLETED, ["a1"])


def test_results_say_that_the_run_waits_for_input():
    waits = {**run(1), ENDS: "waiting_for_input"}
    progress = progress_of([answer("a1", "x", **run(1)), result("t", "x", **waits)], "r", CODEC)
    assert (progress.at, progress.status) == ("ended", Status.WAITING_FOR_INPUT)


def test_a_message_that_was_posted_asks_for_another_turn():
    entries = [answer("a1", **run(1)), said("posted", **run(1))]
    assert progress_of(entries, "r", CODEC).at == "between"


def test_an_unfinished_run_is_overtaken_by_answers_of_others():
    entries = [said("h", **run(0)), said("more"), answer("b1", run="other", turn=1)]
    assert progress_of(entries, "r", CODEC).at == "overtaken"


def test_a_run_that_ended_stays_ended_though_a_repair_came_after():
    repaired = result("fixed", "x", **run(1), repair={"message": "a1", "call": "x", "reason": "…"})
    entries = [said("h", **run(0)), answer("a1", **run(1)), repaired]
    assert progress_of(entries, "r", CODEC).at == "ended"


def test_tokens_of_answers_and_tools_are_counted_again():
    used = {TOOL_USAGE: {"input": 5, "output": 1, "requests": 2}}
    entries = [answer("a1", "x", **run(1)), result("t", "x", **run(1), **used), answer("a2", **run(2))]
    assert progress_of(entries, "r", CODEC).usage == Usage(input=5, output=1, requests=4)
