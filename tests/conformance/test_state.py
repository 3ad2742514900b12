"""A run's state behaves as zeitlich's state manager does; where it differs on purpose, the test says how."""

import pytest

from threadkeep.errors import InvalidMessage
from threadkeep.session.codecs.base import ToolDefinition, Usage
from threadkeep.session.loop.state import State, Status, Task

# --- lib/state/manager.integration.test.ts --------------------------------------------------------------------------


def test_a_new_state_runs_and_is_empty():
    state = State()
    assert (state.status, state.version, state.turns) == (Status.RUNNING, 0, 0)
    assert (state.system_prompt, state.tasks, state.tools, state.usage) == (None, {}, [], Usage())
    assert state.is_running
    assert not state.is_terminal


def test_each_status_is_set_whatever_was_before_and_raises_the_version():
    state = State()
    seen = []
    for turn in (state.wait, state.run, state.complete, state.run, state.fail, state.cancel):
        turn()
        seen.append((state.status, state.is_running, state.is_terminal, state.version))
    assert seen == [
        (Status.WAITING_FOR_INPUT, False, False, 1),
        (Status.RUNNING, True, False, 2),
        (Status.COMPLETED, False, True, 3),
        (Status.RUNNING, True, False, 4),
        (Status.FAILED, False, True, 5),
        (Status.CANCELLED, False, True, 6),
    ]


def test_turns_are_counted_without_raising_the_version():
    state = State()
    state.increment_turns()
    state.increment_turns()
    assert (state.turns, state.version) == (2, 0)


def test_a_key_that_is_set_can_be_read_and_raises_the_version():
    state = State()
    state["name"] = "Ada"
    assert (state["name"], state.version) == ("Ada", 1)
    state["name"] = "Grace"
    assert (state["name"], state.version) == ("Grace", 2)


def test_a_merge_sets_many_keys_and_raises_the_version_once():
    state = State({"a": 1, "b": 2})
    state.merge({"a": 10, "b": 20})
    assert (state, state.version) == ({"a": 10, "b": 20}, 1)


def test_a_merge_of_some_keys_leaves_the_others():
    state = State({"a": 1, "b": 2})
    state.merge({"a": 10})
    assert state == {"a": 10, "b": 2}


def test_a_system_prompt_can_be_set_and_read():
    state = State()
    state.system_prompt = "Be brief."
    assert (state.system_prompt, state.version) == ("Be brief.", 0)


def test_usage_adds_up():
    state = State()
    state.add_usage(Usage(input=100, output=50, cache_write=10, cache_read=20, reasoning=5))
    state.add_usage(Usage(input=200, output=100, cache_write=5, cache_read=10, reasoning=15))
    assert state.usage == Usage(input=300, output=150, cache_write=15, cache_read=30, reasoning=20)
    assert state.version == 0


def test_usage_that_is_not_told_counts_as_none():
    state = State()
    state.add_usage(Usage(input=7))
    state.add_usage(Usage())
    assert state.usage == Usage(input=7)


def test_tasks_are_set_read_and_deleted_each_raising_the_version():
    state = State()
    state.set_task(Task("t1", "Write"))
    assert (state.get_task("t1"), state.version) == (Task("t1", "Write"), 1)
    state.set_task(Task("t1", "Write", status="completed"))
    assert (state.get_task("t1").status, state.version) == ("completed", 2)
    assert state.delete_task("t1") is True
    assert (state.get_task("t1"), state.tasks, state.version) == (None, {}, 3)


def test_deleting_a_task_that_is_not_there_changes_nothing():
    state = State()
    assert state.delete_task("t1") is False
    assert state.version == 0


def test_tasks_keep_the_order_in_which_they_came():
    state = State()
    for task_id in ("c", "a", "b"):
        state.set_task(Task(task_id, f"task {task_id}"))
    state.set_task(Task("a", "again"))
    assert list(state.tasks) == ["c", "a", "b"]


def test_what_is_shown_of_a_run_includes_the_apps_own_keys():
    state = State({"note": {"n": 1}})
    state.increment_turns()
    shown = state.current()
    assert shown == {"status": "running", "version": 0, "turns": 1, "tools": [], "note": {"n": 1}}
    shown["note"]["n"] = 2
    assert state["note"] == {"n": 1}


def test_a_wait_returns_when_the_version_has_risen():
    state = State()
    assert not state.should_return_from_wait(0)
    state["a"] = 1
    assert state.should_return_from_wait(0)
    assert not state.should_return_from_wait(1)


@pytest.mark.parametrize("end", [State.complete, State.fail, State.cancel])
def test_a_wait_returns_at_once_when_the_run_has_ended(end):
    state = State()
    end(state)
    assert state.should_return_from_wait(1000)


def test_a_state_begins_with_the_tasks_it_was_stored_with():
    stored = {"tasks": [["t1", {"id": "t1", "subject": "Write", "blockedBy": ["t0"]}]], "note": 1}
    state = State(stored)
    assert state.tasks == {"t1": Task("t1", "Write", blocked_by=["t0"])}
    assert (state, state.version) == ({"note": 1}, 0)


def test_tools_are_kept_as_a_model_is_told_of_them():
    state = State()
    schema = {"type": "object", "properties": {"text": {"type": "string"}}}
    state.set_tools([ToolDefinition("Echo", "Says it again", schema)])
    assert state.tools == [ToolDefinition("Echo", "Says it again", schema)]
    assert state.current()["tools"] == [
        {"name": "Echo", "description": "Says it again", "schema": schema, "strict": None}
    ]
    assert state.version == 0


def test_the_version_can_be_raised_alone():
    state = State({"a": 1})
    state.increment_version()
    assert (state.version, state.status, state) == (1, Status.RUNNING, {"a": 1})


def test_turns_are_there_beside_the_usage():
    state = State()
    state.increment_turns()
    state.add_usage(Usage(input=1, requests=1))
    assert (state.turns, state.usage) == (1, Usage(input=1, requests=1))


def test_a_slice_has_tasks_and_own_keys_and_nothing_of_the_run():
    state = State({"note": "x"})
    state.set_task(Task("t1", "Write"))
    state.increment_turns()
    state.system_prompt = "Be brief."
    state.set_tools([ToolDefinition("Echo", "", {})])
    assert state.slice() == {"tasks": [["t1", Task("t1", "Write").to_json()]], "custom": {"note": "x"}}
    assert state.to_json() == {"note": "x", "tasks": [["t1", Task("t1", "Write").to_json()]]}


@pytest.mark.parametrize("key", ["fileTree", "virtualFsCtx", "inlineFiles", "status", "cachedReadTokens"])
def test_a_reserved_key_is_refused_when_it_is_merged(key):
    """Zeitlich takes it and leaves it out of what it stores."""
    state = State({"note": "x"})
    with pytest.raises(InvalidMessage, match=key):
        state.merge({"note": "y", key: "z"})
    assert (state, state.version) == ({"note": "x"}, 0)


def test_a_merge_with_tasks_replaces_all_tasks_and_raises_the_version_once():
    state = State()
    state.set_task(Task("old", "Old"))
    state.merge({"tasks": {"new": Task("new", "New")}, "note": 1})
    assert (state.tasks, state["note"], state.version) == ({"new": Task("new", "New")}, 1, 2)


def test_a_slice_makes_the_same_state_again():
    state = State()
    state.merge({"note": "x", "nested": {"list": [1, 2, {"three": None}]}})
    state.set_task(Task("t1", "Write", "At length", "Writing", "in_progress", {"by": "me"}, ["t0"], ["t2"]))
    state.set_task(Task("t2", "Read", blocked_by=["t1"]))
    taken = state.slice()
    again = State()
    again.merge({"tasks": taken["tasks"], **taken["custom"]})
    assert again.slice() == taken
    assert (again, again.tasks, list(again.tasks)) == (state, state.tasks, ["t1", "t2"])


# --- lib/types.test.ts ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [Status.COMPLETED, Status.FAILED, Status.CANCELLED])
def test_a_status_that_ends_a_run_is_terminal(status):
    assert status.is_terminal


@pytest.mark.parametrize("status", [Status.RUNNING, Status.WAITING_FOR_INPUT])
def test_a_status_that_a_run_goes_on_from_is_not_terminal(status):
    assert not status.is_terminal


def test_an_unknown_status_is_refused():
    """In zeitlich a status is any string, and an unknown one is not terminal."""
    with pytest.raises(ValueError, match="napping"):
        Status("napping")
