"""What zeitlich asks of a subagent's thread, asked of `Subagent`, which runs in a real thread of its own.

Each test is named for what zeitlich's asks; docs/reference/conformance.md pairs them. A dagger marks a result that
differs on purpose.
"""

import re

import pytest

from tests.conformance.scripted import (
    GENERIC,
    INTERRUPTED,
    Scripted,
    archived,
    ask,
    call,
    claude,
    cool,
    error_result,
    says,
    system,
    user,
    uses,
    wants,
)
from threadkeep.errors import InvalidMessage
from threadkeep.session import Subagent, Usage

TOLD = re.compile(r"(?s)(.*)\n\n\[helper thread_id: (\w+)\]")


def helper(face, model, **given):
    """A subagent whose model is as this face's app would write it."""
    return Subagent("helper", "Helps.", face.keep, face.adapted(model), **given)


def asks(call_id="c1", **args):
    return wants(call(call_id, "helper", **{"prompt": "do it", **args}))


def told(thread):
    """The text of the last result of a subagent, and the id of the thread that it names."""
    last = next(message for message in reversed(thread.messages) if message["role"] == "tool")
    return TOLD.fullmatch(last["content"]).groups()


# --- where a subagent's thread comes from -----------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["fork", "continue"])
def test_the_thread_id_is_appended_to_the_answer_when_the_thread_can_be_named(face, tiers, mode):
    """Other answers than text become JSON before it is."""
    agent = helper(face, Scripted(says("found")), thread=mode, answer=lambda ended: {"said": ended.text})
    with face.new() as session:
        ask(face, session, Scripted(asks(), says("done")), input="go", tools=[agent])
    said, child = told(archived(face, tiers, session.id))
    assert said == '{"said":"found"}'
    assert archived(face, tiers, child).messages == [user("do it"), says("found")]


def test_fork_is_passed_when_a_thread_id_is_given(face, tiers):
    with face.new(system="You help.") as earlier:
        earlier.append(user("before"), says("earlier"))
    cool(face, tiers, earlier.id)
    agent = helper(face, Scripted(says("found")), thread="fork")
    with face.new() as session:
        ask(face, session, Scripted(asks(thread_id=earlier.id), says("done")), tools=[agent])
    said, child = told(face.read(session.id))
    before = [system("You help."), user("before"), says("earlier")]
    assert said == "found"
    assert child != earlier.id
    assert archived(face, tiers, child).messages == [*before, user("do it"), says("found")]
    assert face.read(earlier.id).messages == before


def test_continue_is_passed_when_a_thread_id_is_given(face, tiers):
    with face.new() as earlier:
        earlier.append(user("before"), says("earlier"))
    cool(face, tiers, earlier.id)
    agent = helper(face, Scripted(says("found")), thread="continue")
    with face.new() as session:
        ask(face, session, Scripted(asks(thread_id=earlier.id), says("done")), tools=[agent])
    assert told(face.read(session.id)) == ("found", earlier.id)
    said = [user("before"), says("earlier"), user("do it"), says("found")]
    assert archived(face, tiers, earlier.id).messages == said


def test_nothing_is_passed_where_each_call_gets_a_new_thread(face, tiers):
    """Not even a thread id that the model names all the same."""
    child, threads = Scripted(says("one"), says("two")), []
    with face.new() as session:
        session.append(user("secret of the parent"))
        agent = helper(
            face, child, system="You help.", answer=lambda ended: threads.append(ended.thread_id) or ended.text
        )
        ask(face, session, Scripted(asks(), asks("c2", thread_id=session.id), says("done")), tools=[agent])
    assert child.requests == [{"messages": [system("You help."), user("do it")]}] * 2
    assert [message["content"] for message in face.read(session.id).messages[2:5:2]] == ["one", "two"]
    assert len({session.id, *threads}) == 3
    assert archived(face, tiers, threads[1]).messages == [system("You help."), user("do it"), says("two")]


def test_from_parent_fork_uses_the_parents_thread_without_the_open_answer(face, tiers):
    child = Scripted(says("found"))
    answer = asks()
    with face.new(system="Be brief.") as session:
        agent = helper(face, child, thread="fork", source="parent")
        ask(face, session, Scripted(answer, says("done")), input="go", tools=[agent])
    said, forked = told(face.read(session.id))
    assert child.requests == [{"messages": [system("Be brief."), user("go"), user("do it")]}]
    thread = archived(face, tiers, forked)
    assert thread.messages == [system("Be brief."), user("go"), user("do it"), says(said)]
    assert thread.repairs == []
    assert face.read(session.id).messages[2] == answer


def test_from_parent_continue_is_refused(face):
    """† The parent is writing its own thread meanwhile; in zeitlich the child's end takes it out of Redis."""
    with pytest.raises(InvalidMessage, match='works with thread="fork" only'):
        helper(face, Scripted(), thread="continue", source="parent")


def test_from_parent_fork_in_a_second_turn_knows_the_first(face):
    """† A call always has its answer's id, so the open answer is always left out; there is no case without."""
    child = Scripted(says("one"), says("two"))
    agent = helper(face, child, thread="fork", source="parent")
    with face.new() as session:
        ask(face, session, Scripted(asks("c1"), asks("c2"), says("done")), input="go", tools=[agent])
    heard = [message["role"] for message in child.requests[1]["messages"]]
    assert heard == ["user", "assistant", "tool", "user"]


def test_an_explicit_thread_id_wins_over_the_parents_and_nothing_is_cut(face):
    with face.new() as earlier:
        earlier.append(user("before"), says("earlier"))
    child = Scripted(says("found"))
    agent = helper(face, child, thread="fork", source="parent")
    with face.new() as session:
        ask(face, session, Scripted(asks(thread_id=earlier.id), says("done")), input="go", tools=[agent])
    assert child.requests == [{"messages": [user("before"), says("earlier"), user("do it")]}]


@pytest.mark.parametrize("mode", ["fork", "continue"])
def test_a_null_thread_id_starts_a_new_thread_by_default(face, mode):
    child = Scripted(says("found"))
    with face.new() as session:
        session.append(user("secret of the parent"))
        ask(face, session, Scripted(asks(thread_id=None), says("done")), tools=[helper(face, child, thread=mode)])
    assert child.requests == [{"messages": [user("do it")]}]


def test_from_parent_is_refused_for_new_threads(face):
    """† Refused instead of ignored: who says so means something else."""
    with pytest.raises(InvalidMessage, match='works with thread="fork" only'):
        helper(face, Scripted(), source="parent")


# --- the parent's state -----------------------------------------------------------------------------------------------


def run_and_look(face, asked, **given):
    """What Redis holds of the parent's state while its subagent thinks; the parent set it since its last save."""
    seen = []

    def think(request):
        seen.append(face.read(session.id).state)
        return says("found")

    def wish(request):
        session.state["plan"] = "fresh"
        return asks(**asked(session.id))

    with face.new() as session:
        ask(face, session, Scripted(wish, says("done")), input="go", tools=[helper(face, think, **given)])
    assert face.read(session.id).state == {"plan": "fresh"}
    return seen


def test_the_parents_state_is_saved_before_a_fork_of_it_starts(face):
    assert run_and_look(face, lambda _: {}, thread="fork", source="parent") == [{"plan": "fresh"}]


def test_the_parents_state_is_saved_before_a_fork_of_it_by_its_id(face):
    assert run_and_look(face, lambda parent: {"thread_id": parent}, thread="fork") == [{"plan": "fresh"}]


@pytest.mark.parametrize("mode", ["new", "fork", "continue"])
def test_the_parents_state_is_not_saved_before_a_new_thread_starts(face, mode):
    assert run_and_look(face, lambda _: {}, thread=mode) == [None]


@pytest.mark.parametrize("mode", ["fork", "continue"])
def test_the_parents_state_is_not_saved_before_another_thread_goes_on(face, mode):
    with face.new() as earlier:
        earlier.append(user("before"))
    assert run_and_look(face, lambda _: {"thread_id": earlier.id}, thread=mode) == [None]


def test_a_subagent_starts_even_if_the_parents_state_cannot_be_saved(face):
    narrow = face.tuned(max_state_bytes=100)
    seen = []

    def think(request):
        seen.append(narrow.read(session.id).state)
        session.state.clear()
        return says("found")

    def wish(request):
        session.state["plan"] = "x" * 200
        return asks()

    with narrow.new() as session:
        agent = helper(narrow, think, thread="fork", source="parent")
        ended = ask(narrow, session, Scripted(wish, says("done")), input="go", tools=[agent])
    assert (ended.reason, seen) == ("completed", [None])
    assert told(face.read(session.id))[0] == "found"


# --- what the model is told of it -------------------------------------------------------------------------------------


def definition(face, **given):
    return helper(face, Scripted(), **given).as_tool().definition()


def test_the_schema_has_no_thread_id_where_no_thread_can_be_named(face):
    assert definition(face).schema["properties"].keys() == {"prompt"}
    assert definition(face).description == "Helps."


@pytest.mark.parametrize("mode", ["fork", "continue"])
def test_the_schema_has_a_nullable_thread_id_where_one_can_be_named(face, mode):
    schema = definition(face, thread=mode).schema
    assert schema["properties"]["thread_id"]["type"] == ["string", "null"]
    assert schema["required"] == ["prompt"]


@pytest.mark.parametrize(("mode", "note"), [("fork", "work on a copy of"), ("continue", "go on with")])
def test_the_description_notes_that_a_conversation_can_go_on(face, mode, note):
    assert f"Give the thread_id of an earlier answer to {note} that conversation." in (
        definition(face, thread=mode).description
    )


# --- what zeitlich does not ask ---------------------------------------------------------------------------------------


def test_a_call_that_is_repeated_finds_its_subagents_thread_and_asks_nothing_again(face, tiers):
    """In zeitlich the workflow's history remembers; here the thread's id is made of the call's."""
    child = Scripted(says("found"))
    agent = helper(face, child, thread="fork", source="parent")
    with face.new() as session:
        ask(face, session, Scripted(asks(), says("done")), input="go", tools=[agent], run_id="r")
        whole = session.messages
        session.truncate("t-r-1-0")
    cool(face, tiers, session.id)
    with face.open(session.id) as session:
        model = Scripted(says("done"))
        ask(face, session, model, input="go", tools=[agent], run_id="r")
        assert session.messages == whole
    assert (len(child.requests), len(model.requests)) == (1, 1)


def test_a_subagents_tokens_count_as_the_callers(face):
    child = Scripted(claude("found", used=(30, 10)))
    model = Scripted(claude(uses("c1", "helper", prompt="do it"), used=(100, 50)), claude("done", used=(120, 20)))
    with face.new(codec="anthropic") as session:
        ended = ask(face, session, model, input="go", tools=[helper(face, child, codec="anthropic")])
    assert ended.usage == Usage(input=250, output=80, requests=3)


def test_a_fork_of_the_parent_by_its_id_is_mended_before_it_goes_on(face, tiers):
    """The call that is being worked on is open in the copy, and answered there; the parent's stays as it is."""
    child = Scripted(says("found"))
    with face.new() as session:
        model = Scripted(asks(thread_id=session.id), says("done"))
        ask(face, session, model, input="go", tools=[helper(face, child, thread="fork")])
    copied = child.requests[0]["messages"]
    assert copied[2:] == [error_result("c1", "helper", INTERRUPTED), user("do it")]
    assert [repair.call_id for repair in archived(face, tiers, told(face.read(session.id))[1]).repairs] == ["c1"]
    assert face.read(session.id).repairs == []


def test_a_subagent_that_would_go_on_in_its_parents_thread_is_told_that_it_failed(face, tiers):
    """In zeitlich it goes on, and takes the thread out of Redis under its parent when it ends."""
    child = Scripted()
    with face.new() as session:
        model = Scripted(asks(thread_id=session.id), says("done"))
        ended = ask(face, session, model, input="go", tools=[helper(face, child, thread="continue")])
    assert (ended.reason, child.requests) == ("completed", [])
    refused = archived(face, tiers, session.id).messages[2]
    assert refused == error_result("c1", "helper", refused["content"])
    assert "name another" in refused["content"]["error"]


def test_a_subagent_that_fails_leaves_its_own_thread_archived(face, tiers):
    with face.new() as earlier:
        earlier.append(user("before"))
    agent = helper(face, Scripted(ValueError("down")), thread="continue")
    with face.new() as session:
        ended = ask(face, session, Scripted(asks(thread_id=earlier.id), says("done")), tools=[agent])
    assert ended.reason == "completed"
    assert face.read(session.id).messages[1] == error_result("c1", "helper", GENERIC)
    assert archived(face, tiers, earlier.id).messages == [user("before"), user("do it")]
