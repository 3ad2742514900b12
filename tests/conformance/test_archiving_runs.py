"""However a run ends, its thread is valid, saved and archived; and a run that is started again converges.

None of this is asked of a session by zeitlich's own tests.
"""

import asyncio
import logging
import os
import signal
import subprocess
import sys
from contextlib import contextmanager, suppress
from dataclasses import replace

import psutil
import pytest
from billiard.exceptions import SoftTimeLimitExceeded

from tests.conformance.face import AsyncFace, SyncFace
from tests.conformance.scripted import (
    INTERRUPTED,
    Listening,
    Scripted,
    archived,
    ask,
    call,
    claude,
    cool,
    error_result,
    hooks,
    interrupted,
    kinds,
    result,
    says,
    system,
    timeless,
    tool_result,
    user,
    uses,
    wants,
)
from tests.waiting import until
from threadkeep.errors import FlushTimeout, InvalidMessage
from threadkeep.local.ports import LOOPBACK, free_port
from threadkeep.session import Rewind, ToolResult, Usage
from threadkeep.strict_json import dump_json


def echo(text: str) -> str:
    """Says it again."""
    return f"Echo: {text}"


def asked_twice(*names):
    """An answer of Anthropic's that calls two tools."""
    return claude(uses("c1", names[0], text="one"), uses("c2", names[-1], text="two"))


def content(message):
    """The blocks of a message as they are stored."""
    return {key: value for key, value in message.items() if key in ("role", "content")}


def answers_to(*calls):
    """Messages of Anthropic's that say that calls were interrupted."""
    return [{"role": "user", "content": [interrupted(call_id)]} for call_id in calls]


@pytest.fixture
def away(face):
    """The same face where no broker answers."""
    return face.tuned(broker_url=f"redis://{LOOPBACK}:{free_port()}/1", broker_timeout=0.5)


@pytest.fixture
def narrow(face):
    """The same face where a state that is larger than 100 bytes cannot be saved."""
    return face.tuned(max_state_bytes=100)


@pytest.fixture
def sync_face(settings, worker):
    with SyncFace(settings) as face:
        yield face


@pytest.fixture
def async_face(settings, worker):
    with AsyncFace(settings) as face:
        yield face


# --- a step of leaving fails ------------------------------------------------------------------------------------------


def test_a_flush_that_cannot_be_queued_does_not_mask_the_runs_error(face, away, tiers):
    told = Listening(away, "on_session_end")
    error = ValueError("down")
    with pytest.raises(ValueError, match="down") as raised, away.new() as session:
        session.state["step"] = 1
        ask(away, session, Scripted(error), input="go", hooks=told)
    assert raised.value is error
    assert told.told("on_session_end")[0].flush_enqueued is False
    assert not session.flush_enqueued
    thread = archived(face, tiers, session.id)
    assert (thread.messages, thread.state) == ([user("go")], {"step": 1})


def test_a_flush_that_cannot_be_queued_does_not_fail_the_run(face, away, tiers):
    with away.new() as session:
        ended = ask(away, session, Scripted(says("done")), input="go", wait_flush=0.1)
    assert (ended.reason, ended.flush_enqueued, ended.archived) == ("completed", False, False)
    assert isinstance(ended.flush_error, FlushTimeout)
    assert archived(face, tiers, session.id).messages == [user("go"), says("done")]


def test_a_flush_that_takes_too_long_is_told_in_the_result(face):
    unserved = face.tuned(broker_prefix="nobody:")
    with unserved.new() as session:
        ended = ask(unserved, session, Scripted(says("done")), input="go", wait_flush=0.1)
        assert (ended.flush_enqueued, ended.archived) == (True, False)
        assert isinstance(ended.flush_error, FlushTimeout)
        assert session.messages == [user("go"), says("done")]


def test_a_result_says_that_the_archive_holds_the_run(face, tiers):
    told = Listening(face, "on_session_end")
    with face.new() as session:
        ended = ask(face, session, Scripted(says("done")), input="go", hooks=told, wait_flush=20)
        assert (ended.archived, ended.flush_error) == (True, None)
        assert tiers.archived(session.id).meta.count == 2
        assert told.told("on_session_end")[0].archived is True
        later = ask(face, session, Scripted(says("again")), input="and")
    assert (later.flush_enqueued, later.archived) == (True, False)


def test_a_save_that_fails_does_not_stop_the_flush(face, narrow, tiers):
    told = Listening(narrow, "on_session_end")

    def grow(request):
        session.state["plan"] = "x" * 200
        return says("done")

    with narrow.new() as session:
        with pytest.raises(InvalidMessage, match="state"):
            ask(narrow, session, Scripted(grow), input="go", hooks=told)
        assert until(lambda: tiers.archived(session.id)).meta.count == 2
        session.state.clear()
    assert told.told("on_session_end")[0].flush_enqueued
    assert archived(face, tiers, session.id).messages == [user("go"), says("done")]


def test_a_save_that_fails_does_not_mask_the_runs_error(face, narrow, tiers):
    def grow(request):
        session.state["plan"] = "x" * 200
        raise ValueError("down")

    with pytest.raises(ValueError, match="down") as raised, narrow.new() as session:
        ask(narrow, session, grow, input="go")
    assert any("state" in note and "While the run was left" in note for note in raised.value.__notes__)
    assert session.flush_enqueued
    assert until(lambda: tiers.archived(session.id)).meta.count == 1
    assert archived(face, tiers, session.id).messages == [user("go")]


def test_a_state_that_cannot_be_saved_on_leaving_a_session_does_not_stop_its_flush(face, narrow, tiers):
    with pytest.raises(InvalidMessage, match="state"), narrow.new() as session:
        session.append(user("go"))
        session.state["plan"] = "x" * 200
    assert session.flush_enqueued
    assert until(lambda: tiers.archived(session.id)).meta.count == 1
    with face.open(session.id) as again:
        assert (again.messages, again.state) == ([user("go")], {})


# --- hooks fail -------------------------------------------------------------------------------------------------------


def fail(event):
    raise ValueError("the hook failed")


def test_a_hook_that_raises_at_the_end_fails_the_run_and_stops_nothing(face, tiers):
    with face.new() as session:
        with pytest.raises(ValueError, match="the hook failed"):
            ask(
                face,
                session,
                Scripted(says("done")),
                input="go",
                hooks=hooks(face, on_session_end=fail),
                wait_flush=20,
            )
        assert tiers.archived(session.id).meta.count == 2
    assert archived(face, tiers, session.id).messages == [user("go"), says("done")]


def test_a_hook_that_raises_at_the_end_does_not_mask_the_runs_error(face):
    with face.new() as session, pytest.raises(ZeroDivisionError, match="mine") as raised:
        ask(face, session, Scripted(ZeroDivisionError("mine")), hooks=hooks(face, on_session_end=fail))
    assert raised.value.__notes__ == ["While the run was left: the hook failed"]


def test_a_hook_that_raises_on_exit_fails_a_run_that_is_archived_by_then(face, tiers):
    with face.new() as session:
        with pytest.raises(ValueError, match="the hook failed"):
            ask(
                face,
                session,
                Scripted(says("done")),
                input="go",
                hooks=hooks(face, on_session_exit=fail),
                wait_flush=20,
            )
        assert tiers.archived(session.id).meta.count == 2


def test_a_hook_that_raises_at_the_start_leaves_the_input_and_is_followed_by_the_end(face, tiers):
    told = Listening(face, "on_session_end")
    told.on_session_start = face.adapted(fail)
    with face.new() as session, pytest.raises(ValueError, match="the hook failed"):
        ask(face, session, Scripted(), input="go", hooks=told)
    assert told.told("on_session_end")[0].reason == "failed"
    assert archived(face, tiers, session.id).messages == [user("go")]


@pytest.mark.parametrize("parallel", [True, False])
@pytest.mark.parametrize("name", ["before_tool", "after_tool"])
def test_a_hook_that_raises_in_the_middle_of_a_batch_leaves_a_valid_thread(face, tiers, name, parallel):
    def fail_at_the_second(event):
        if event.call.id == "c2":
            raise ValueError("the hook failed")

    asked = {"tools": [echo], "parallel": parallel, "hooks": hooks(face, **{name: fail_at_the_second})}
    with face.new(codec="anthropic") as session:
        with pytest.raises(ValueError, match="the hook failed"):
            ask(face, session, Scripted(asked_twice("echo")), input="go", **asked)
        assert [repair.call_id for repair in session.repairs] == ["c1", "c2"]
    thread = archived(face, tiers, session.id)
    assert thread.messages == [user("go"), content(asked_twice("echo")), *answers_to("c1", "c2")]
    assert [repair.call_id for repair in thread.repairs] == ["c1", "c2"]


@pytest.mark.parametrize("name", ["on_fork_prepare", "on_fork_transform"])
def test_a_fork_whose_hook_fails_leaves_no_target(face, tiers, thread_id, name):
    def broken(*args):
        raise ValueError("the hook failed")

    with face.new() as source:
        source.append(user("1"), says("one"))
    given = hooks(face, on_fork_prepare=broken) if name == "on_fork_prepare" else Listening(face)
    given.on_fork_transform = broken
    with pytest.raises(ValueError, match="the hook failed"):
        face.fork(source.id, id=thread_id, hooks=given)
    assert tiers.hot_keys(thread_id) == {}
    assert not face.exists(thread_id)
    with face.fork(source.id, id=thread_id) as fork:
        assert fork.messages == [user("1"), says("one")]


# --- the run is broken off --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["model", "tool", "one of two tools"])
def test_a_soft_time_limit_archives_and_repairs(face, tiers, where):
    limit = SoftTimeLimitExceeded("too long")
    told = Listening(face, "on_session_end", "after_tool", "on_tool_error")

    def late(text: str) -> str:
        """Takes too long."""
        session.state["step"] = 1
        raise limit

    script = {"model": [limit], "tool": [asked_twice("late")], "one of two tools": [asked_twice("echo", "late")]}
    with pytest.raises(SoftTimeLimitExceeded) as raised, face.new(codec="anthropic") as session:
        ask(face, session, Scripted(*script[where]), input="go", tools=[echo, late], hooks=told)
    assert raised.value is limit
    assert (session.state.status, told.told("on_session_end")[0].reason) == ("cancelled", "cancelled")
    assert told.told("on_tool_error") == []
    assert session.flush_enqueued
    thread = archived(face, tiers, session.id)
    mended = [] if where == "model" else ["c1", "c2"]
    assert thread.messages[:1] == [user("go")]
    assert thread.messages[2:] == answers_to(*mended)
    assert [repair.call_id for repair in thread.repairs] == mended
    assert thread.state == (None if where == "model" else {"step": 1})


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("where", ["model", "tool"])
def test_an_interrupt_archives_and_repairs(sync_face, tiers, stop, where):
    def late(text: str) -> str:
        """Is interrupted."""
        raise stop

    told = Listening(sync_face, "on_session_end")
    model = Scripted(asked_twice("late") if where == "tool" else stop())
    with pytest.raises(stop), sync_face.new(codec="anthropic") as session:
        ask(sync_face, session, model, input="go", tools=[late], hooks=told, parallel=False)
    assert told.told("on_session_end")[0].reason == "cancelled"
    thread = archived(sync_face, tiers, session.id)
    assert thread.messages[2:] == (answers_to("c1", "c2") if where == "tool" else [])


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("where", ["model", "tool"])
def test_a_cancelled_task_archives_and_repairs(async_face, tiers, where, times):
    there, leaving, go_on = asyncio.Event(), asyncio.Event(), asyncio.Event()
    sessions, reasons = [], []

    async def hang(text: str) -> str:
        """Never ends."""
        sessions[0].state["step"] = 1
        there.set()
        await asyncio.Event().wait()

    class Told:
        async def on_session_end(self, event):
            reasons.append((event.reason, event.flush_enqueued))
            leaving.set()
            await go_on.wait()

    async def model(request):
        return await hang("") if where == "model" else asked_twice("hang")

    async def work():
        async with async_face.keep.new(codec="anthropic") as session:
            sessions.append(session)
            await session.run(model, input="go", tools=[hang], hooks=Told())

    async def cancel():
        task = asyncio.create_task(work())
        await there.wait()
        task.cancel()
        await leaving.wait()
        if times == 2:
            task.cancel()
            await asyncio.sleep(0)
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task

    async_face.finished(cancel())
    (session,) = sessions
    assert reasons == [("cancelled", True)]
    assert session.flush_enqueued
    thread = archived(async_face, tiers, session.id)
    assert thread.state == {"step": 1}
    assert thread.messages[2:] == (answers_to("c1", "c2") if where == "tool" else [])


PROGRAM = """
import asyncio
import signal
import sys

from threadkeep import AsyncThreadkeep, Threadkeep

class SoftTimeLimitExceeded(Exception):
    pass

def stop(number, frame):
    raise SystemExit(3) if number == signal.SIGTERM else SoftTimeLimitExceeded

signal.signal(signal.SIGTERM, stop)
signal.signal(signal.SIGUSR1, stop)
signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever runs tests in the background has it ignored
signal.signal(signal.SIGHUP, signal.SIG_DFL)
kind, place = sys.argv[1:]

def gate():
    print("ready", flush=True)
    sys.stdin.readline()

class Told:
    def on_turn_complete(self, event):
        if place == "run":
            session.state["step"] = 1
            gate()

    def on_session_end(self, event):
        print("ended", event.reason, event.flush_enqueued, flush=True)

def model(request):
    return {"role": "assistant", "content": "done"}

def last():
    if place == "session":
        session.state["step"] = 1
        gate()

def plain():
    global session
    with Threadkeep() as keep, keep.new() as session:
        print(session.id, flush=True)
        session.run(model, input="go", hooks=Told())
        last()

async def main():
    global session
    async with AsyncThreadkeep() as keep, keep.new() as session:
        print(session.id, flush=True)
        await session.run(model, input="go", hooks=Told())
        last()

plain() if kind == "sync" else asyncio.run(main())
"""


@contextmanager
def stalled(tiers):
    """Have Redis take no writes, for half a minute at most."""
    tiers.redis("CLIENT", "PAUSE", 30_000, "WRITE")
    try:
        yield
    finally:
        tiers.redis("CLIENT", "UNPAUSE")


def waits_for_redis(tiers, pid):
    """Whether a write of a process has come to Redis, and is held up there."""
    ports = {f":{each.laddr.port}" for each in psutil.Process(pid).net_connections() if each.laddr}
    clients = [dict(fact.split("=", 1) for fact in line.split()) for line in clients_of(tiers)]
    return any("b" in each["flags"] and f":{each['addr'].rpartition(':')[2]}" in ports for each in clients)


def saved_and_archived(tiers, thread_id):
    return tiers.archived(thread_id) and tiers.lines(thread_id)[-1]["$threadkeep"]["state"] == {"step": 1}


def clients_of(tiers):
    return tiers.redis("CLIENT", "LIST").decode().splitlines()


@pytest.mark.parametrize("place", ["run", "session"])
@pytest.mark.parametrize(
    "number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP], ids=lambda number: number.name
)
@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_signal_in_the_middle_of_leaving_waits_until_all_is_saved_and_queued(
    sync_face, tiers, settings, kind, number, place
):
    child = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, kind, place],
        env={**os.environ, **settings.to_environ()},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    thread_id = child.stdout.readline().strip()
    until(lambda: child.stdout.readline() == "ready\n")
    with stalled(tiers):
        child.stdin.write("\n")
        child.stdin.flush()
        until(lambda: waits_for_redis(tiers, child.pid))
        child.send_signal(number)
    said, complained = child.communicate(timeout=30)
    codes = {
        signal.SIGTERM: 3,
        signal.SIGUSR1: 1,
    }  # of what their handlers raise; the others end a process by themselves
    assert child.returncode == codes.get(number, -number), complained
    assert said == ("ended completed True\n" if place == "run" else "")
    until(lambda: saved_and_archived(tiers, thread_id), seconds=8)
    assert sync_face.read(thread_id).messages == [user("go"), says("done")]
    if place == "session":
        sync_face.open(thread_id).close()


# --- the run is started again -----------------------------------------------------------------------------------------


def note(text: str, ctx) -> ToolResult:
    """Notes something."""
    ctx.state[text] = True
    return ToolResult(f"noted {text}", usage=Usage(input=5, requests=1))


ANSWERS = [
    claude(uses("c1", "note", text="one"), uses("c2", "note", text="two"), used=(10, 1)),
    claude("Let me see.", uses("c3", "note", text="three"), used=(20, 2)),
    claude("done", used=(30, 3)),
]
STAGES = {  # entries that are stored, answers among them, what the state holds
    "nothing": (1, 0, []),
    "input": (2, 0, []),
    "answer": (3, 1, []),
    "results": (5, 1, ["one", "two"]),
    "second answer": (6, 2, ["one", "two"]),
    "second results": (7, 2, ["one", "two", "three"]),
    "last answer": (8, 3, ["one", "two", "three"]),
}


def outcome(ended):
    """A run's result, without what differs between two threads and two flushes."""
    return replace(ended, thread_id="", flush_enqueued=False)


@pytest.mark.parametrize("stage", STAGES)
def test_a_redelivered_run_converges(face, tiers, stage):
    """What is stored when a process dies is always a beginning of what an undisturbed run stores."""
    stored, asked, noted = STAGES[stage]
    undisturbed = Scripted(*ANSWERS)
    given = {"input": "go", "tools": [note], "run_id": "r"}
    with face.new(codec="anthropic", system="Be brief.") as session:
        whole = ask(face, session, undisturbed, **given)
        ids = [entry.id for entry in session.entries]
    assert ids[1:] == ["h-r", "a-r-1", "t-r-1-0", "t-r-1-1", "a-r-2", "t-r-2-0", "a-r-3"]
    with face.fork(session.id, before=[*ids, None][stored]) as broken:
        broken.state = dict.fromkeys(noted, True)
    cool(face, tiers, broken.id)
    again = Scripted(*ANSWERS[asked:])
    with face.open(broken.id) as session_again:
        ended = ask(face, session_again, again, **given)
    assert again.requests == undisturbed.requests[asked:]
    assert outcome(ended) == outcome(whole)
    thread = archived(face, tiers, broken.id)
    assert timeless(thread) == timeless(face.read(session.id))
    assert thread.state == {"one": True, "two": True, "three": True}
    assert thread.repairs == []


def repeated(face, tiers, session, **asked):
    """The result of a run that is started again from the archive, which must neither ask nor store anything."""
    before = archived(face, tiers, session.id)
    with face.open(session.id) as again:
        ended = ask(face, again, Scripted(), **asked)
    assert face.read(session.id).entries == before.entries
    return ended


def test_a_run_that_was_parked_stays_parked_when_it_is_started_again(face, tiers):
    def park(ctx) -> str:
        """Waits for the user."""
        ctx.state.wait()
        return "parked"

    asked = {"input": "go", "tools": [park], "run_id": "r"}
    with face.new() as session:
        ended = ask(face, session, Scripted(wants(call("c1", "park"))), **asked)
    assert ended.reason == "waiting_for_input"
    assert outcome(repeated(face, tiers, session, **asked)) == outcome(ended)


@pytest.mark.parametrize(("ending", "reason"), [("fail", "failed"), ("cancel", "cancelled"), ("complete", "completed")])
def test_a_run_that_a_tool_ended_stays_ended_when_it_is_started_again(face, tiers, ending, reason):
    def end(ctx) -> str:
        """Ends it."""
        getattr(ctx.state, ending)()
        return "ended"

    asked = {"input": "go", "tools": [end], "run_id": "r"}
    with face.new() as session:
        ended = ask(face, session, Scripted(wants(call("c1", "end"))), **asked)
    assert ended.reason == reason
    assert outcome(repeated(face, tiers, session, **asked)) == outcome(ended)


def test_a_run_that_spent_its_turns_does_not_get_more_when_it_is_started_again(face, tiers):
    asked = {"input": "go", "tools": [echo], "run_id": "r", "max_turns": 1}
    with face.new() as session:
        ended = ask(face, session, Scripted(wants(call("c1", "echo", text="hi"))), **asked)
    assert ended.reason == "max_turns"
    assert outcome(repeated(face, tiers, session, **asked)) == outcome(ended)


def test_a_run_that_ended_without_tools_stays_ended_when_it_is_started_again(face, tiers):
    with face.new() as session:
        ended = ask(face, session, Scripted(wants(call("c1", "echo", text="hi"))), input="go", run_id="r")
    assert ended.reason == "completed"
    assert outcome(repeated(face, tiers, session, input="go", run_id="r")) == outcome(ended)


def test_a_run_that_ended_keeps_its_result_whatever_came_after(face, tiers):
    with face.new() as session:
        ended = ask(face, session, Scripted(says("one")), input="1", run_id="r1")
        ask(face, session, Scripted(says("two")), input="2", run_id="r2")
    assert outcome(repeated(face, tiers, session, input="1", run_id="r1")) == outcome(ended)
    assert ended.final == says("one")


def test_a_run_that_left_nothing_to_archive_does_not_say_that_the_broker_was_away(face, tiers):
    with face.new() as session:
        ask(face, session, Scripted(says("done")), input="go", run_id="r", wait_flush=20)
    assert repeated(face, tiers, session, input="go", run_id="r").flush_enqueued


def test_a_run_that_was_overtaken_does_nothing(face, tiers):
    answer = wants(call("c1", "echo", text="hi"))
    with face.new() as whole:
        ask(face, whole, Scripted(answer, says("done")), input="1", tools=[echo], run_id="late")
    with face.fork(whole.id, before="t-late-1-0") as session:
        ask(face, session, Scripted(says("two")), input="2", run_id="next")
    told = Listening(face, "on_session_end")
    ended = repeated(face, tiers, session, input="1", tools=[echo], run_id="late", hooks=told)
    assert (ended.reason, ended.status, ended.final) == ("overtaken", "cancelled", None)
    assert told.told("on_session_end")[0].reason == "overtaken"
    mended = error_result("c1", "echo", INTERRUPTED)
    assert face.read(session.id).messages == [user("1"), answer, mended, user("2"), says("two")]


def test_a_run_that_was_broken_off_in_a_tool_goes_on_when_it_is_started_again(face, tiers):
    """The repair stands where the result would have: the model is told, and asked for its next turn."""

    def late(text: str) -> str:
        """Takes too long."""
        raise SoftTimeLimitExceeded

    asked = {"input": "go", "run_id": "r"}
    with pytest.raises(SoftTimeLimitExceeded), face.new() as session:
        ask(face, session, Scripted(wants(call("c1", "late", text="x"))), tools=[late], **asked)
    cool(face, tiers, session.id)
    model = Scripted(says("sorry"))
    with face.open(session.id) as session:
        ended = ask(face, session, model, tools=[late], **asked)
    assert (ended.reason, ended.turns) == ("completed", 2)
    assert model.requests[0]["messages"][-1] == error_result("c1", "late", INTERRUPTED)
    assert [entry.id for entry in archived(face, tiers, session.id).entries] == ["h-r", "a-r-1", "t-r-1-0", "a-r-2"]


def test_a_run_whose_model_failed_goes_on_when_it_is_started_again(face, tiers):
    asked = {"input": "go", "tools": [echo], "run_id": "r"}
    first = wants(call("c1", "echo", text="hi"))
    with pytest.raises(ValueError, match="down"), face.new() as session:
        ask(face, session, Scripted(first, ValueError("down")), **asked)
    cool(face, tiers, session.id)
    with face.open(session.id) as session:
        ended = ask(face, session, Scripted(says("done")), **asked)
    assert (ended.reason, ended.turns) == ("completed", 2)
    told = [user("go"), first, result("c1", "echo", "Echo: hi"), says("done")]
    assert archived(face, tiers, session.id).messages == told


def test_a_prompt_that_is_asked_for_again_is_kept_once(face, tiers, thread_id):
    """In zeitlich a retried append of the prompt empties the thread."""
    for _ in range(3):
        with face.open(thread_id, create=True, system="Be brief.") as session:
            session.system("Be brief.", id="prompt")
            ask(face, session, Scripted(says("done")), input="go", run_id="r") if session.count == 1 else None
    said = [system("Be brief."), user("go"), says("done")]
    assert archived(face, tiers, thread_id).messages == said


# --- what is stored with what -----------------------------------------------------------------------------------------


def test_the_state_is_saved_with_each_batch_of_results(face):
    seen = []

    def look(request):
        thread = face.read(session.id)
        seen.append((kinds(thread), thread.state))
        return says("done")

    def count(text: str, ctx) -> str:
        """Counts."""
        ctx.state["count"] = len(text)
        return text

    with face.new() as session:
        ask(face, session, Scripted(wants(call("c1", "count", text="four")), look), input="go", tools=[count])
    assert seen == [(["user", "assistant", "tool"], {"count": 4})]


def test_valid_and_invalid_calls_keep_their_order(face, tiers):
    answer = claude(
        uses("c1", "echo", text="one"),
        uses("c2", "nothing"),
        uses("c3", "echo", text="three"),
        uses("c4", "echo", wrong=4),
    )
    with face.new(codec="anthropic") as session:
        ask(face, session, Scripted(answer, claude("done")), input="go", tools=[echo])
    results = [message["content"][0] for message in archived(face, tiers, session.id).messages[2:-1]]
    assert [(each["tool_use_id"], each.get("is_error", False)) for each in results] == [
        ("c1", False),
        ("c2", True),
        ("c3", False),
        ("c4", True),
    ]


def test_a_rewind_in_the_last_turn_leaves_no_open_call(face, tiers):
    def undo(text: str) -> Rewind:
        """Has the turn taken back."""
        return Rewind()

    with face.new(codec="anthropic") as session:
        ended = ask(face, session, Scripted(asked_twice("undo", "echo")), input="go", tools=[undo, echo], max_turns=1)
    assert (ended.reason, ended.turns) == ("max_turns", 1)
    thread = archived(face, tiers, session.id)
    assert (thread.messages, thread.repairs) == ([user("go")], [])


def test_a_result_says_nothing_of_what_was_said(face):
    secret = "s3cret"

    def look(text: str) -> ToolResult:
        """Looks."""
        return ToolResult(secret, data=secret, metadata={secret: secret})

    model = Scripted(wants(call("c1", "look", text=secret)), says(secret))
    with face.new() as session:
        ended = ask(face, session, model, input=secret, tools=[look], wait_flush=20, metadata={"note": secret})
    assert (ended.text, ended.final) == (secret, says(secret))
    assert secret.encode() not in dump_json(ended.to_dict())
    assert ended.to_dict().keys() == {
        "thread_id",
        "run_id",
        "reason",
        "status",
        "stop",
        "turns",
        "usage",
        "flush_enqueued",
        "archived",
    }


# --- messages from outside --------------------------------------------------------------------------------------------


def test_a_message_posted_while_tools_run_still_makes_a_valid_turn(face, tiers):
    def slow(text: str) -> str:
        """Takes its time."""
        session.post(f"meanwhile {text}", id=f"p-{text}")
        return text

    told = Listening(face, "before_message", "after_message")
    model = Scripted(asked_twice("slow"), claude("done"))
    given = {"input": "go", "tools": [slow], "hooks": told, "options": {"cache": False}, "parallel": False}
    with face.new(codec="anthropic") as session:
        ask(face, session, model, **given)
    results = [tool_result("c1", "one"), tool_result("c2", "two")]
    posts = [{"type": "text", "text": "meanwhile one"}, {"type": "text", "text": "meanwhile two"}]
    assert model.requests[1]["messages"][-1] == {"role": "user", "content": [*results, *posts]}
    assert told.names == ["before_message", "after_message"] * 2
    assert [event.id for event in told.told("before_message")] == ["p-one", "p-two"]
    thread = archived(face, tiers, session.id)
    assert kinds(thread) == ["user", "assistant", "tool", "tool", "user", "user", "assistant"]


def test_a_message_posted_while_the_model_answers_asks_for_another_turn(face, tiers):
    def answer(request):
        session.post("one more thing")
        return says("done?")

    model = Scripted(answer, says("done"))
    with face.new() as session:
        ended = ask(face, session, model, input="go")
    assert (ended.reason, ended.turns, ended.final) == ("completed", 2, says("done"))
    said = [user("go"), says("done?"), user("one more thing"), says("done")]
    assert archived(face, tiers, session.id).messages == said


def test_a_message_posted_to_a_run_that_parks_wakes_it(face):
    def park(ctx) -> str:
        """Waits for the user."""
        ctx.state.wait()
        session.post("here I am")
        return "parked"

    with face.new() as session:
        ended = ask(face, session, Scripted(wants(call("c1", "park")), says("done")), input="go", tools=[park])
    assert (ended.reason, ended.turns) == ("completed", 2)
    assert face.read(session.id).messages[-2:] == [user("here I am"), says("done")]


def test_a_message_posted_when_the_turns_are_spent_is_kept(face, tiers):
    def answer(request):
        session.post("one more thing")
        return says("done?")

    with face.new() as session:
        ended = ask(face, session, Scripted(answer), input="go", max_turns=1)
    assert ended.turns == 1
    assert archived(face, tiers, session.id).messages == [user("go"), says("done?"), user("one more thing")]


def test_a_message_posted_to_a_run_that_fails_is_kept(face, tiers):
    def answer(request):
        session.post("one more thing")
        raise ValueError("down")

    with pytest.raises(ValueError, match="down"), face.new() as session:
        ask(face, session, answer, input="go")
    assert archived(face, tiers, session.id).messages == [user("go"), user("one more thing")]


def test_a_message_posted_after_a_run_is_there_at_once(face):
    def late(event):
        session.post("from the hook")

    with face.new() as session:
        ask(face, session, Scripted(says("done")), input="go", hooks=hooks(face, on_session_end=late))
        assert session.messages[-1] == user("from the hook")
        session.post("after it", id="p2")
        assert face.read(session.id).messages[-1] == user("after it")
        assert session.entries[-1].id == "p2"


# --- calls that nobody answered ---------------------------------------------------------------------------------------

OPEN = asked_twice("look")
GO = {"role": "user", "content": "go"}


def left_open(face):
    """The id of a thread whose last answer calls two tools, of which one was answered."""
    with face.new(codec="anthropic") as session:
        session.user("go")
        session.append(OPEN, id="a1")
        session.tool("c1", "found")
    return session.id


FOUND = {"role": "user", "content": [tool_result("c1", "found")]}
NEXT = {"role": "user", "content": "next"}
MENDED = {
    "answer": [GO, content(OPEN), FOUND, *answers_to("c2"), NEXT],
    "drop": [GO, NEXT],
    "keep": [GO, content(OPEN), FOUND, NEXT],
}


@pytest.mark.parametrize("on_dangling", ["answer", "drop", "keep"])
def test_an_open_call_is_repaired_before_the_first_append(face, tiers, on_dangling):
    thread_id = left_open(face)
    cool(face, tiers, thread_id)
    with face.open(thread_id, on_dangling=on_dangling) as session:
        assert session.repairs == []
        session.user("next")
        repairs = session.repairs
    how = {"answer": [("a1", "c2", "answered")], "drop": [("a1", "c2", "dropped")], "keep": []}[on_dangling]
    assert [(repair.message_id, repair.call_id, repair.how) for repair in repairs] == how
    thread = archived(face, tiers, thread_id)
    assert thread.messages == MENDED[on_dangling]
    assert thread.repairs == (repairs if on_dangling == "answer" else [])


def test_an_open_call_is_repaired_before_a_run(face, tiers):
    thread_id = left_open(face)
    model = Scripted(claude("done"))
    with face.open(thread_id) as session:
        ask(face, session, model, input="next", options={"cache": False})
    blocks = [tool_result("c1", "found"), interrupted("c2"), {"type": "text", "text": "next"}]
    assert model.requests[0]["messages"][-1] == {"role": "user", "content": blocks}
    assert [repair.reason for repair in archived(face, tiers, thread_id).repairs] == ["an earlier run was broken off"]


def test_a_repair_is_told_and_logged_without_content(face, tiers, caplog):
    secret = "s3cret"
    answer = claude(secret, uses("c1", "look", text=secret))
    caplog.set_level(logging.DEBUG, "threadkeep")
    with face.new(codec="anthropic") as session:
        session.user(secret)
        session.append(answer)
    with face.open(session.id) as again:
        again.user(secret)
        told = again.repairs
    assert [(repair.call_id, repair.how) for repair in told] == [("c1", "answered")]
    assert archived(face, tiers, session.id).repairs == told
    warned = [record for record in caplog.records if "repaired" in record.message]
    assert [(record.levelname, record.calls, record.how) for record in warned] == [("WARNING", 1, "answered")]
    assert [record for record in caplog.records if secret in str(vars(record))] == []


def test_nothing_that_was_said_is_logged_by_a_run_that_goes_wrong(face, caplog):
    secret = "s3cret"

    def look(text: str) -> str:
        """Looks."""
        raise ValueError(secret)

    caplog.set_level(logging.DEBUG, "threadkeep")
    calls = wants(call("c1", "look", text=secret), call("c2", "look", wrong=secret), call("c3", "nothing"))
    with pytest.raises(ValueError, match=secret), face.new() as session:
        ask(face, session, Scripted(calls, ValueError(secret)), input=secret, tools=[look])
    told = [record.message for record in caplog.records if record.name.startswith("threadkeep.session")]
    assert "a tool call was refused" in told
    assert any(message.startswith("tool 'look' failed in thread") for message in told)
    assert [record for record in caplog.records if secret in str(vars(record))] == []


def test_an_append_only_session_that_fails_between_answer_and_result_leaves_a_valid_thread(face, tiers):
    with pytest.raises(RuntimeError, match="mine"), face.new(codec="anthropic") as session:
        session.user("go")
        session.append(OPEN, id="a1")
        raise RuntimeError("mine")
    thread = archived(face, tiers, session.id)
    assert thread.messages == [GO, content(OPEN), *answers_to("c1", "c2")]
    assert [(repair.message_id, repair.call_id) for repair in thread.repairs] == [("a1", "c1"), ("a1", "c2")]


def test_an_app_that_answers_its_calls_is_not_repaired(face, tiers):
    with face.new(codec="anthropic") as session:
        session.user("go")
        session.append(OPEN)
        session.tool("c1", "found")
        session.tool("c2", "lost", error=True)
        session.user("next")
        assert session.repairs == []
    thread = archived(face, tiers, session.id)
    lost = {"role": "user", "content": [{**tool_result("c2", "lost"), "is_error": True}]}
    assert (thread.messages, thread.repairs) == ([GO, content(OPEN), FOUND, lost, NEXT], [])


@pytest.mark.parametrize("taken_away", ["truncate", "pop", "replace"])
def test_a_result_that_is_taken_away_leaves_its_call_to_be_repaired(face, tiers, taken_away):
    look = claude(uses("c1", "look", text="one"))
    with face.new(codec="anthropic") as session:
        session.user("go")
        session.append(look, id="a1")
        session.tool("c1", "found", id="r1")
        session.user("well?", id="u2")
        match taken_away:
            case "truncate":
                session.truncate("r1")
            case "pop":
                session.pop()
                session.pop()
            case "replace":
                session.replace(GO, look)
        session.user("next")
    assert archived(face, tiers, session.id).messages == [GO, content(look), *answers_to("c1"), NEXT]


def test_late_results_are_sent_behind_their_call(face, tiers):
    with face.new(codec="anthropic", on_dangling="keep") as session:
        session.user("go")
        session.append(OPEN)
        session.user("meanwhile")
        session.tool("c2", "second")
        session.tool("c1", "first")
        request = session.request(cache=False)
    blocks = [tool_result("c1", "first"), tool_result("c2", "second"), {"type": "text", "text": "meanwhile"}]
    assert request["messages"] == [GO, content(OPEN), {"role": "user", "content": blocks}]
    cool(face, tiers, session.id)
    with face.open(session.id) as again:
        assert again.request(cache=False) == request
        assert kinds(again) == ["user", "assistant", "user", "tool", "tool"]
        assert again.repairs == []


def test_a_result_that_comes_after_its_call_was_repaired_leaves_a_valid_request(face):
    """A call has one result: a provider refuses two."""
    with face.new(codec="anthropic") as session:
        session.user("go")
        session.append(claude(uses("c1", "look", text="one")))
        session.user("meanwhile")
        with suppress(InvalidMessage):
            session.tool("c1", "late")
        (last,) = session.request(cache=False)["messages"][2:]
    assert [block.get("tool_use_id") for block in last["content"]] == ["c1", None]
