"""What zeitlich asks of its state manager, asked of a thread's state.

Each test bears the title of the one that it answers to; docs/reference/conformance.md pairs them. A dagger marks a
result that differs on purpose.
"""

import pytest

from threadkeep.errors import InvalidMessage
from threadkeep.session.codecs.base import ToolDefinition, Usage
from threadkeep.session.loop.state import State, Status, Task

# --- lib/state/manager.integration.test.ts --------------------------------------------------------------------------


def test_initializes_with_default_values_when_nothing_is_given():
    state = State()
    assert (state.status, state.version, state.turns) == (Status.RUNNING, 0, 0)
    assert (state.system_prompt, state.tasks, state.tools, state.usage) == (None, {}, [], Usage())
    assert state.is_running
    assert not state.is_terminal


def test_transitions_through_all_status_states_and_increments_version():
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


def test_increments_turns_independently_of_version():
    state = State()
    state.increment_turns()
    state.increment_turns()
    assert (state.turns, state.version) == (2, 0)


def test_manages_custom_state_via_get_and_set_with_version_increments():
    state = State()
    state["name"] = "Ada"
    assert (state["name"], state.version) == ("Ada", 1)
    state["name"] = "Grace"
    assert (state["name"], state.version) == ("Grace", 2)


def test_merge_bulk_updates_custom_state():
    state = State({"a": 1, "b": 2})
    state.merge({"a": 10, "b": 20})
    assert (state, state.version) == ({"a": 10, "b": 20}, 1)


def test_merge_with_partial_fields_only_updates_provided_keys():
    state = State({"a": 1, "b": 2})
    state.merge({"a": 10})
    assert state == {"a": 10, "b": 2}


def test_manages_system_prompt_lifecycle():
    state = State()
    state.system_prompt = "Be brief."
    assert (state.system_prompt, state.version) == ("Be brief.", 0)


def test_accumulates_token_usage_across_multiple_updates():
    state = State()
    state.add_usage(Usage(input=100, output=50, cache_write=10, cache_read=20, reasoning=5))
    state.add_usage(Usage(input=200, output=100, cache_write=5, cache_read=10, reasoning=15))
    assert state.usage == Usage(input=300, output=150, cache_write=15, cache_read=30, reasoning=20)
    assert state.version == 0


def test_handles_usage_with_missing_fields_gracefully():
    state = State()
    state.add_usage(Usage(input=7))
    state.add_usage(Usage())
    assert state.usage == Usage(input=7)


def test_crud_operations_on_tasks():
    state = State()
    state.set_task(Task("t1", "Write"))
    assert (state.get_task("t1"), state.version) == (Task("t1", "Write"), 1)
    state.set_task(Task("t1", "Write", status="completed"))
    assert (state.get_task("t1").status, state.version) == ("completed", 2)
    assert state.delete_task("t1") is True
    assert (state.get_task("t1"), state.tasks, state.version) == (None, {}, 3)


def test_delete_task_returns_false_for_nonexistent_task_and_does_not_increment_version():
    state = State()
    assert state.delete_task("t1") is False
    assert state.version == 0


def test_manages_multiple_tasks_simultaneously():
    state = State()
    for task_id in ("c", "a", "b"):
        state.set_task(Task(task_id, f"task {task_id}"))
    state.set_task(Task("a", "again"))
    assert list(state.tasks) == ["c", "a", "b"]


def test_current_returns_a_snapshot_including_custom_state():
    state = State({"note": {"n": 1}})
    state.increment_turns()
    shown = state.current()
    assert shown == {"status": "running", "version": 0, "turns": 1, "tools": [], "note": {"n": 1}}
    shown["note"]["n"] = 2
    assert state["note"] == {"n": 1}


def test_should_return_from_wait_returns_true_when_version_advanced():
    state = State()
    assert not state.should_return_from_wait(0)
    state["a"] = 1
    assert state.should_return_from_wait(0)
    assert not state.should_return_from_wait(1)


@pytest.mark.parametrize("end", [State.complete, State.fail, State.cancel])
def test_should_return_from_wait_returns_true_in_terminal_state_regardless_of_version(end):
    state = State()
    end(state)
    assert state.should_return_from_wait(1000)


def test_initializes_with_provided_tasks():
    stored = {"tasks": [["t1", {"id": "t1", "subject": "Write", "blockedBy": ["t0"]}]], "note": 1}
    state = State(stored)
    assert state.tasks == {"t1": Task("t1", "Write", blocked_by=["t0"])}
    assert (state, state.version) == ({"note": 1}, 0)


def test_set_tools_stores_serializable_tool_definitions_in_state():
    state = State()
    schema = {"type": "object", "properties": {"text": {"type": "string"}}}
    state.set_tools([ToolDefinition("Echo", "Says it again", schema)])
    assert state.tools == [ToolDefinition("Echo", "Says it again", schema)]
    assert state.current()["tools"] == [
        {"name": "Echo", "description": "Says it again", "schema": schema, "strict": None}
    ]
    assert state.version == 0


def test_increment_version_works_independently():
    state = State({"a": 1})
    state.increment_version()
    assert (state.version, state.status, state) == (1, Status.RUNNING, {"a": 1})


def test_turns_beside_the_usage_reflect_increment_turns_count():
    state = State()
    state.increment_turns()
    state.add_usage(Usage(input=1, requests=1))
    assert (state.turns, state.usage) == (1, Usage(input=1, requests=1))


def test_slice_has_tasks_and_custom_state_and_nothing_of_the_run():
    state = State({"note": "x"})
    state.set_task(Task("t1", "Write"))
    state.increment_turns()
    state.system_prompt = "Be brief."
    state.set_tools([ToolDefinition("Echo", "", {})])
    assert state.slice() == {"tasks": [["t1", Task("t1", "Write").to_json()]], "custom": {"note": "x"}}
    assert state.to_json() == {"note": "x", "tasks": [["t1", Task("t1", "Write").to_json()]]}


@pytest.mark.parametrize("key", ["fileTree", "virtualFsCtx", "inlineFiles", "status", "cachedReadTokens"])
def test_reserved_keys_do_not_get_into_the_slice_by_a_merge(key):
    """† Refused when it is set; zeitlich takes it and leaves it out of what it stores."""
    state = State({"note": "x"})
    with pytest.raises(InvalidMessage, match=key):
        state.merge({"note": "y", key: "z"})
    assert (state, state.version) == ({"note": "x"}, 0)


def test_merge_with_tasks_replaces_the_tasks_and_increments_version_once():
    state = State()
    state.set_task(Task("old", "Old"))
    state.merge({"tasks": {"new": Task("new", "New")}, "note": 1})
    assert (state.tasks, state["note"], state.version) == ({"new": Task("new", "New")}, 1, 2)


def test_slice_round_trips_through_merge():
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
def test_is_terminal_is_true_for_a_status_that_ends_a_run(status):
    assert status.is_terminal


@pytest.mark.parametrize("status", [Status.RUNNING, Status.WAITING_FOR_INPUT])
def test_is_terminal_is_false_for_a_status_that_a_run_goes_on_from(status):
    assert not status.is_terminal


def test_an_unknown_status_is_refused():
    """† In zeitlich a status is any string, and an unknown one is not terminal."""
    with pytest.raises(ValueError, match="napping"):
        Status("napping")
