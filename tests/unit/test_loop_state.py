"""The state of a thread is a dict that checks what it is given, and stores its tasks beside."""

import copy
import pickle
import threading

import pytest

from threadkeep.errors import InvalidMessage
from threadkeep.session.codecs.base import Usage
from threadkeep.session.loop.state import RESERVED, State, Task


def pair(task_id, **parts):
    return [task_id, {"id": task_id, "subject": f"do {task_id}", **parts}]


def test_it_looks_and_compares_like_a_dict():
    state = State({"b": 1, "a": [2]})
    assert state == {"b": 1, "a": [2]}
    assert state == State({"a": [2], "b": 1})
    assert state != {"b": 1}
    assert repr(state) == "{'b': 1, 'a': [2]}"
    assert list(state) == ["b", "a"]
    assert (state.get("c"), state.pop("b"), "b" in state, len(state)) == (None, 1, False, 1)


def test_each_change_raises_the_version_once_and_no_change_leaves_it():
    state = State({"a": 1})
    changes = [
        lambda: state.update({"b": 2}, c=3),
        lambda: state.__delitem__("a"),
        lambda: state.pop("b"),
        lambda: state.setdefault("d", []),
        lambda: state.merge({}),
        state.clear,
        lambda: state.become({"z": 1}),
    ]
    for number, change in enumerate(changes, start=1):
        change()
        assert state.version == number
    state.setdefault("z", 2)
    state.pop("nothing", None)
    with pytest.raises(KeyError):
        del state["nothing"]
    assert (state, state.version) == ({"z": 1}, len(changes))


def test_the_or_operators_check_as_well_and_keep_the_tasks():
    state = State({"a": 1, "tasks": [pair("t")]})
    merged = state | {"b": 2}
    assert (merged, list(merged.tasks), state) == ({"a": 1, "b": 2}, ["t"], {"a": 1})
    turned = {"a": 0, "c": 3} | state
    assert (turned, list(turned.tasks)) == ({"a": 1, "c": 3}, ["t"])
    state |= {"b": 2}
    assert (state, state.version, list(state.tasks)) == ({"a": 1, "b": 2}, 1, ["t"])
    with pytest.raises(InvalidMessage, match="turns"):
        state |= {"turns": 2}


@pytest.mark.parametrize("key", sorted(RESERVED))
@pytest.mark.parametrize("way", ["set", "update", "setdefault", "or", "become"])
def test_a_reserved_key_is_refused_however_it_comes(key, way):
    state = State({"a": 1})
    ways = {
        "set": lambda: state.__setitem__(key, 1),
        "update": lambda: state.update({"a": 2, key: 1}),
        "setdefault": lambda: state.setdefault(key, 1),
        "or": lambda: state | {key: 1},
        "become": lambda: state.become({"a": 2, key: 1}),
    }
    with pytest.raises(InvalidMessage, match=f"state: '{key}': is a reserved key"):
        ways[way]()
    assert (state, state.version) == ({"a": 1}, 0)


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ({"deep": [1, {2, 3}]}, r"state\.a\.deep\[1\]: set"),
        (float("nan"), r"state\.a: nan"),
        ({1: 2}, r"state\.a: key 1"),
        (object(), r"state\.a: object"),
    ],
)
def test_a_value_that_is_no_json_is_refused_and_its_place_named(value, told):
    state = State()
    with pytest.raises(InvalidMessage, match=told):
        state["a"] = value
    with pytest.raises(InvalidMessage, match=told):
        state.merge({"b": 1, "a": value})
    assert (state, state.version) == ({}, 0)


def test_a_key_that_is_no_string_is_refused():
    with pytest.raises(InvalidMessage, match="key 1"):
        State()[1] = 2


def test_what_was_stored_under_a_reserved_key_is_left_as_it_is():
    stored = {"status": "open", "tools": ["hammer"], "mine": 1}
    state = State(stored)
    state["mine"] = 2
    assert state.to_json() == {"status": "open", "tools": ["hammer"], "mine": 2}
    assert state.status == "running"


@pytest.mark.parametrize(
    "own",
    [
        ["buy milk"],
        "none",
        {"t": {"id": "t", "subject": "x"}},
        [["t", {"id": "t", "subject": "x", "colour": "red"}]],
        [["t", {"id": "other", "subject": "x"}]],
        [["t", {"id": "t", "subject": "x", "status": "asleep"}]],
        [["t", {"id": "t", "subject": "x", "blocks": "t2"}]],
        [[["t"], {"id": "t", "subject": "x"}]],
        [["t", {"subject": "x"}]],
    ],
)
def test_what_was_stored_as_tasks_and_is_none_is_kept_until_it_is_replaced(own):
    state = State({"tasks": own})
    assert (state.tasks, state.to_json()) == ({}, {"tasks": own})
    with pytest.raises(InvalidMessage, match=r"delete state\['tasks'\] first"):
        state.set_task(Task("t", "x"))
    assert state.to_json() == {"tasks": own}
    state.merge({"tasks": {"t": Task("t", "x")}})
    assert "tasks" not in state
    assert state.to_json() == {"tasks": [["t", Task("t", "x").to_json()]]}


def test_a_task_that_is_none_is_refused_before_anything_changes():
    state = State({"tasks": [pair("t")]})
    for task in (
        Task("", "x"),
        Task("t", 5),
        Task("t", "x", status="asleep"),
        Task("t", "x", metadata=[]),
        Task("t", "x", metadata={"a": {1}}),
    ):
        with pytest.raises(InvalidMessage, match="task"):
            state.set_task(task)
    with pytest.raises(InvalidMessage, match="another id"):
        state.merge({"a": 1, "tasks": {"a": Task("b", "x")}})
    assert (state, list(state.tasks), state.version) == ({}, ["t"], 0)


def test_a_task_is_stored_in_zeitlichs_keys():
    task = Task("t", "Write", "At length", "Writing", "in_progress", {"by": "me"}, ["a"], ["b"])
    assert task.to_json() == {
        "id": "t",
        "subject": "Write",
        "description": "At length",
        "activeForm": "Writing",
        "status": "in_progress",
        "metadata": {"by": "me"},
        "blockedBy": ["a"],
        "blocks": ["b"],
    }
    assert Task.from_json(task.to_json()) == task


def test_what_is_stored_shares_nothing_with_the_state():
    stored = {"list": [1], "tasks": [pair("t", blocks=["u"])]}
    state = State(stored)
    state["list"].append(2)
    state.get_task("t").blocks.append("v")
    assert stored == {"list": [1], "tasks": [pair("t", blocks=["u"])]}
    taken = state.to_json()
    taken["list"].append(3)
    taken["tasks"][0][1]["blocks"].append("w")
    assert state.to_json()["list"] == [1, 2]
    assert state.get_task("t").blocks == ["u", "v"]


def test_what_is_changed_in_place_is_stored_without_raising_the_version():
    state = State({"list": []})
    state["list"].append({"n": 1})
    assert (state.to_json(), state.version) == ({"list": [{"n": 1}]}, 0)


def test_what_goes_round_in_a_circle_is_refused_when_it_is_stored():
    state = State({"list": []})
    state["list"].append(state["list"])
    with pytest.raises(InvalidMessage, match="nested too deep"):
        state.to_json()


@pytest.mark.parametrize(
    "copied", [State.copy, copy.copy, copy.deepcopy, lambda state: pickle.loads(pickle.dumps(state))]
)
def test_a_copy_has_all_that_is_kept_and_nothing_in_common(copied):
    state = State({"list": [1], "tasks": [pair("t")]})
    state.complete()
    other = copied(state)
    other["list"].append(2)
    other.delete_task("t")
    assert (state, list(state.tasks)) == ({"list": [1]}, ["t"])
    assert (type(other), other, other.status) == (State, {"list": [1, 2]}, "running")


def test_a_state_becomes_what_it_is_assigned():
    state = State({"a": 1, "tasks": [pair("t")]})
    state.become({"b": 2, "tasks": [pair("u")]})
    assert (state, list(state.tasks)) == ({"b": 2}, ["u"])
    state.become(State({"status": "from before", "tasks": [pair("v")]}))
    assert (state, list(state.tasks)) == ({"status": "from before"}, ["v"])
    version = state.version
    state.become(state)
    assert (list(state.tasks), state.version) == (["v"], version)
    state.become({})
    assert (state.to_json(), state.version) == ({}, version + 1)


def test_a_run_that_begins_forgets_the_one_before():
    state = State({"a": 1})
    state.complete()
    state.increment_turns()
    state.add_usage(Usage(input=1))
    state.begin_run()
    assert (state.status, state.turns, state.usage, state.version, state) == ("running", 0, Usage(), 1, {"a": 1})


def test_many_threads_lose_no_change():
    state, threads, rounds = State(), 4, 50

    def work(number):
        for place in range(rounds):
            state[f"{number}-{place}"] = place
            state.set_task(Task(f"{number}-{place}", "x"))
            state.increment_turns()
            state.add_usage(Usage(input=1))
            state.to_json()

    workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    total = threads * rounds
    assert (len(state), len(state.tasks), state.turns, state.usage.input) == (total, total, total, total)
    assert state.version == 2 * total
