"""What a run refuses, before it has written anything where that can be known."""

import asyncio
import threading

import pytest

from tests.conformance.scripted import Scripted, call, claude, says, user, wants
from threadkeep import AsyncThreadkeep
from threadkeep.errors import (
    FormatMismatch,
    InvalidAnswer,
    InvalidMessage,
    MessageConflict,
    RunGoingOn,
    SessionClosed,
    SystemPromptMissing,
)
from threadkeep.session import Hooks


@pytest.fixture
def session(keep):
    with keep.new() as session:
        yield session


def test_nothing_else_writes_while_a_run_is_going_on(session):
    refused = []

    def busy() -> str:
        """Tries what must not be done here."""
        writes = [
            lambda: session.append(user("no")),
            lambda: session.user("no"),
            lambda: session.system("no"),
            lambda: session.tool("c", "no"),
            lambda: session.truncate("no"),
            session.replace,
            session.pop,
            lambda: session.run(Scripted(), run_id="other"),
        ]
        for write in writes:
            with pytest.raises(RunGoingOn, match="nothing was written"):
                write()
            refused.append(write)
        assert len(session.messages) == 2
        session.post("yes")
        return "tried"

    result = session.run(Scripted(wants(call("c", "busy")), says("done")), input="go", tools=[busy])
    assert (result.reason, len(refused)) == ("completed", 8)
    assert [message["content"] for message in session.messages if message["role"] == "user"] == ["go", "yes"]
    session.user("afterwards")


def test_two_runs_at_once_on_one_async_session_are_refused(settings):
    async def go():
        async with AsyncThreadkeep(settings) as keep, keep.new() as session:
            going_on, go_on = asyncio.Event(), asyncio.Event()

            async def slow(_):
                going_on.set()
                await go_on.wait()
                return says("first")

            first = asyncio.create_task(session.run(slow, input="go"))
            await going_on.wait()
            with pytest.raises(RunGoingOn):
                await session.run(slow, input="no")
            go_on.set()
            return (await first).text, await session.messages

    assert asyncio.run(go()) == ("first", [user("go"), says("first")])


def test_a_session_may_run_again_after_a_run_that_failed(session):
    with pytest.raises(ZeroDivisionError):
        session.run(Scripted(ZeroDivisionError()), input="go")
    assert session.run(Scripted(says("done"))).text == "done"


def test_a_post_from_another_thread_is_taken_in(session):
    def slow(request):
        if len(request["messages"]) == 1:
            poster = threading.Thread(target=session.post, args=("more",))
            poster.start()
            poster.join()
            return wants(call("c", "nothing"))
        return says(f"{len(request['messages'])} messages")

    assert session.run(slow, input="go", tools=[len_of]).text == "4 messages"


def len_of(text: str) -> int:
    """Count."""
    return len(text)


def test_a_closed_session_says_that_it_is_closed(keep):
    with keep.new() as session:
        pass
    for use in (lambda: session.user("late"), lambda: session.messages, lambda: session.run(Scripted())):
        with pytest.raises(SessionClosed, match="nothing was read or written"):
            use()


def test_a_run_has_one_input(session):
    session.run(Scripted(says("done")), input="Paris", run_id="job")
    assert session.run(Scripted(), input="Paris", run_id="job").text == "done"
    with pytest.raises(MessageConflict, match="h-job"):
        session.run(Scripted(), input="London", run_id="job")


@pytest.mark.parametrize("answer", [None, "hello", [], {"content": "no role"}, user("not mine")])
def test_what_is_no_models_answer_is_refused(session, answer):
    with pytest.raises(InvalidAnswer, match="It was not stored"):
        session.run(lambda request: answer, input="go")
    assert session.messages == [user("go")]


def test_calls_in_another_providers_form_are_refused_at_once(session):
    openai = {"id": "c", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    with pytest.raises(InvalidAnswer, match="codec 'plain'"):
        session.run(lambda request: wants(openai), input="go", tools=[len_of])


@pytest.mark.parametrize(
    ("asked", "error"),
    [
        ({"max_turns": "3"}, InvalidMessage),
        ({"max_turns": -1}, InvalidMessage),
        ({"max_turns": True}, InvalidMessage),
        ({"run_id": 7}, InvalidMessage),
        ({"run_id": ""}, InvalidMessage),
        ({"run_id": "x" * 401}, InvalidMessage),
        ({"options": {"cach": 1}}, TypeError),
        ({"tools": [object()]}, TypeError),
        ({"hooks": Hooks}, TypeError),
        ({"hooks": [Hooks()]}, TypeError),
        ({"hooks": object()}, TypeError),
        ({"hooks": type("Typo", (Hooks,), {"on_session_strat": print})()}, TypeError),
    ],
)
def test_what_no_run_can_have_is_refused_before_anything_is_written(session, asked, error):
    with pytest.raises(error):
        session.run(Scripted(), input="go", **asked)
    assert session.messages == []
    assert session.run(Scripted(says("done")), input="go").reason == "completed"


# --- forks ----------------------------------------------------------------------------------------------------------


class Gives(Hooks):
    def __init__(self, **values):
        self.values = values

    def on_fork_prepare(self, entries):
        return self.values.get("prepare", entries)

    def on_fork_transform(self, entry, index, entries):
        return self.values["transform"](entry) if "transform" in self.values else entry


@pytest.mark.parametrize(
    ("hooks", "says_what"),
    [
        (Gives(prepare=None), "on_fork_prepare: NoneType"),
        (Gives(prepare=["text"]), "on_fork_prepare, entry 0: str"),
        (Gives(transform=lambda entry: None), "on_fork_transform, entry 0: NoneType"),
    ],
)
def test_a_hook_that_gives_no_entries_is_named(keep, session, hooks, says_what):
    session.user("hi")
    with pytest.raises(InvalidMessage, match=says_what):
        keep.fork(session.id, hooks=hooks)


def test_a_fork_to_another_codec_wants_new_bodies(keep, worker):
    from dataclasses import replace

    worker()
    with keep.new(codec="openai-chat") as session:
        session.append(user("hi"), {"role": "assistant", "content": "yes"}, {"role": "user", "content": "bye"})
    with pytest.raises(InvalidMessage, match="on_fork_transform must give each entry one message"):
        keep.fork(session.id, codec="anthropic")
    odd = Gives(transform=lambda entry: replace(entry, fmt="anthropic", body={"role": "tool", "content": "…"}))
    with pytest.raises(InvalidMessage, match="on_fork_transform must give each entry one message"):
        keep.fork(session.id, codec="anthropic", hooks=odd)
    moved = Gives(transform=lambda entry: replace(entry, fmt="anthropic"))
    with keep.fork(session.id, codec="anthropic", hooks=moved, system="Be brief.") as fork:
        fork.append(claude("And you?"))
        assert [message["role"] for message in fork.request()["messages"]] == ["user", "assistant", "user", "assistant"]
        assert fork.request()["system"][0]["text"] == "Be brief."
    with pytest.raises(SystemPromptMissing):
        keep.fork(session.id, system=" ")
    with pytest.raises(FormatMismatch):
        keep.open(fork.id, codec="plain")
