"""What zeitlich asks of a session and its loop, asked of a run over a real thread; most end in the archive.

Each test bears the title of the one that it answers to; docs/reference/conformance.md pairs them. A dagger marks a
result that differs on purpose.
"""

import pytest

from tests.conformance.scripted import (
    Listening,
    Scripted,
    archived,
    ask,
    call,
    claude,
    cool,
    hooks,
    kinds,
    result,
    says,
    system,
    user,
    uses,
    wants,
)
from tests.waiting import until
from threadkeep import ThreadNotFound
from threadkeep.errors import SystemPromptMissing
from threadkeep.session import Task, ToolResult, Usage
from threadkeep.storage.hot import HotTier


def echo(text: str) -> str:
    """Says it again."""
    return f"Echo: {text}"


def add(a: int, b: int) -> int:
    """Adds."""
    return a + b


@pytest.fixture
def saves(monkeypatch):
    """The fields of each save of a state or of labels that reaches Redis, without those that travel with messages."""
    seen, save = [], HotTier.save

    def counted(hot, ref, token, fields, **named):
        seen.append(fields)
        return save(hot, ref, token, fields, **named)

    monkeypatch.setattr(HotTier, "save", counted)
    return seen


# --- the loop ---------------------------------------------------------------------------------------------------------


def test_completes_immediately_when_run_agent_returns_no_tool_calls(face, tiers, thread_id):
    with face.new(thread_id, system="Be brief.") as session:
        ended = ask(face, session, Scripted(says("Hello!")), input="hi")
    assert (ended.reason, ended.status, ended.final, ended.text) == (
        "completed",
        "completed",
        says("Hello!"),
        "Hello!",
    )
    assert (ended.thread_id, ended.turns) == (thread_id, 1)
    assert archived(face, tiers, thread_id).messages == [system("Be brief."), user("hi"), says("Hello!")]


def test_executes_tool_calls_and_completes_on_next_turn(face, tiers):
    answer = wants(call("c1", "echo", text="hi"))
    model = Scripted(answer, says("done"))
    with face.new() as session:
        ended = ask(face, session, model, input="go", tools=[echo])
    assert (ended.reason, ended.final) == ("completed", says("done"))
    told = [user("go"), answer, result("c1", "echo", "Echo: hi")]
    assert model.requests[1]["messages"] == told
    assert archived(face, tiers, session.id).messages == [*told, says("done")]


def test_runs_multiple_turns_with_tool_calls_before_completing(face, tiers):
    answers = [wants(call(f"c{turn}", "echo", text=str(turn))) for turn in (1, 2, 3)]
    with face.new() as session:
        ended = ask(face, session, Scripted(*answers, says("done")), input="go", tools=[echo])
    assert (ended.reason, ended.turns) == ("completed", 4)
    assert kinds(archived(face, tiers, session.id)) == ["user", *["assistant", "tool"] * 3, "assistant"]


def test_stops_at_max_turns_and_returns_null_final_message(face, tiers):
    answers = [wants(call(f"c{turn}", "echo", text=str(turn))) for turn in (1, 2, 3)]
    with face.new() as session:
        ended = ask(face, session, Scripted(*answers), input="go", tools=[echo], max_turns=3)
    assert (ended.reason, ended.status, ended.turns) == ("max_turns", "running", 3)
    assert (ended.final, ended.text) == (None, "")
    assert kinds(archived(face, tiers, session.id))[-1] == "tool"


def test_calls_on_session_start_and_on_session_end_hooks(face):
    told = Listening(face, "on_session_start", "on_session_end", "on_session_exit")
    with face.new() as session:
        ended = ask(face, session, Scripted(says("done")), input="go", hooks=told, agent_name="clerk")
    (_, start), (_, end), (_, given) = told.heard
    assert told.names == ["on_session_start", "on_session_end", "on_session_exit"]
    assert (start.agent_name, start.thread_id) == ("clerk", session.id)
    assert (end.agent_name, end.thread_id, end.reason, end.turns) == ("clerk", session.id, "completed", 1)
    assert given is ended


def test_throws_when_system_prompt_is_missing(face):
    """† A thread needs no prompt, and has none then; a prompt that is None where one is meant is refused."""
    with face.new() as session:
        with pytest.raises(SystemPromptMissing):
            session.system(None)
        assert ask(face, session, Scripted(says("done"))).reason == "completed"
    assert face.read(session.id).messages == [says("done")]


def test_skips_system_prompt_when_append_system_prompt_is_false(face):
    with face.new() as session:
        ended = ask(face, session, Scripted(says("done")), input="go")
    assert ended.reason == "completed"
    assert kinds(face.read(session.id)) == ["user", "assistant"]


def test_accumulates_token_usage_across_turns(face):
    model = Scripted(
        claude(uses("c1", "echo", text="hi"), used=(100, 50)),
        claude("done", used=(200, 80)),
    )
    told = Listening(face, "on_turn_complete", "on_session_end")
    with face.new(codec="anthropic") as session:
        ended = ask(face, session, model, input="go", tools=[echo], hooks=told)
    assert ended.usage == Usage(input=300, output=130, requests=2)
    assert ended.turns == 2
    assert [turn.usage.input for turn in told.told("on_turn_complete")] == [100, 200]
    assert told.told("on_session_end")[0].usage == ended.usage


def test_appends_error_for_invalid_tool_call_args_and_continues(face, tiers):
    answer = wants(call("bad", "add", a="no number", b=1), call("good", "add", a=1, b=2))
    with face.new() as session:
        ended = ask(face, session, Scripted(answer, says("done")), input="go", tools=[add])
    bad, good = archived(face, tiers, session.id).messages[2:4]
    assert ended.reason == "completed"
    assert good == result("good", "add", 3)
    assert (bad["tool_call_id"], bad["is_error"]) == ("bad", True)
    assert bad["content"].startswith('{"error":"Invalid tool call for \\"add\\": a: ')


def test_fires_global_tool_hooks_during_session_tool_processing(face):
    told = Listening(face, "before_tool", "after_tool")
    with face.new() as session:
        ask(
            face,
            session,
            Scripted(wants(call("c1", "echo", text="hi")), says("done")),
            tools=[echo],
            hooks=told,
        )
    assert [(name, event.call.name) for name, event in told.heard] == [("before_tool", "echo"), ("after_tool", "echo")]
    assert told.told("after_tool")[0].data == "Echo: hi"


def test_generates_a_thread_id_when_none_is_provided(face):
    with face.new() as session:
        ended = ask(face, session, Scripted(says("done")))
    assert ended.thread_id == session.id
    assert len(session.id) == 22


def test_handles_multiple_tool_calls_in_a_single_turn(face, tiers):
    answer = wants(call("c1", "echo", text="one"), call("c2", "add", a=1, b=2))
    with face.new() as session:
        ask(face, session, Scripted(answer, says("done")), tools=[echo, add])
    results = archived(face, tiers, session.id).messages[1:3]
    assert results == [result("c1", "echo", "Echo: one"), result("c2", "add", 3)]


def test_supports_async_build_context_message(face):
    async def context():
        return "looked up"

    with face.new() as session:
        ask(face, session, Scripted(says("done")), input=context)
        ask(face, session, Scripted(says("done")), input=face.adapted(lambda: "computed"))
    assert face.read(session.id).messages == [user("looked up"), says("done"), user("computed"), says("done")]


def test_accumulates_usage_from_tool_call_results(face):
    """† What a tool reports is added to the run's; in zeitlich it gets lost on the way."""

    def search(text: str) -> ToolResult:
        return ToolResult("found", usage=Usage(input=30, output=10, requests=1))

    model = Scripted(claude(uses("c1", "search", text="x"), used=(100, 50)), claude("done", used=(80, 40)))
    with face.new(codec="anthropic") as session:
        ended = ask(face, session, model, input="go", tools=[search])
    assert ended.usage == Usage(input=210, output=100, requests=3)


# --- errors -----------------------------------------------------------------------------------------------------------


def test_propagates_run_agent_errors_and_calls_on_session_end_with_failed_reason(face, tiers):
    told = Listening(face, "on_session_start", "on_session_end", "on_session_exit", "on_turn_complete")
    error = ValueError("the provider is down")
    with face.new() as session:
        with pytest.raises(ValueError, match="the provider is down") as raised:
            ask(face, session, Scripted(error), input="go", hooks=told)
        assert session.state.status == "failed"
    assert raised.value is error
    assert told.names == ["on_session_start", "on_session_end"]
    assert told.told("on_session_end")[0].reason == "failed"
    assert archived(face, tiers, session.id).messages == [user("go")]


def test_flush_thread_runs_even_when_the_session_fails(face, tiers):
    told = Listening(face, "on_session_end")
    with pytest.raises(ValueError, match="down"), face.new() as session:
        ask(face, session, Scripted(ValueError("down")), input="go", hooks=told)
    (end,) = told.told("on_session_end")
    assert (end.reason, end.flush_enqueued) == ("failed", True)
    assert session.flush_enqueued
    assert until(lambda: tiers.archived(session.id)).meta.count == 1


# --- the state --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("parallel", [True, False])
def test_memoizes_persist_thread_state_across_parallel_tool_calls_in_one_turn(face, saves, parallel):
    """† One save in all: what has not changed since is not written again, neither with the results nor on leaving."""
    seen = []

    def save(ctx) -> str:
        """Saves."""
        face.finished(ctx.save())
        seen.append(face.read(ctx.thread_id).state)
        return "saved"

    with face.new() as session:
        session.state["note"] = "kept"
        answer = wants(*[call(f"c{n}", "save") for n in range(3)])
        ask(face, session, Scripted(answer, says("done")), tools=[save], parallel=parallel)
    assert seen == [{"note": "kept"}] * 3
    assert len(saves) == 1


def test_re_persists_across_separate_turns(face, saves):
    """† Once a turn in which it changed, and not once more on leaving."""

    def save(ctx) -> str:
        """Saves."""
        face.finished(ctx.save())
        return "saved"

    def turn(number):
        def answer(request):
            session.state["turn"] = number
            return wants(call(f"a{number}", "save"), call(f"b{number}", "save"))

        return answer

    with face.new() as session:
        ask(face, session, Scripted(turn(1), turn(2), says("done")), tools=[save])
    assert len(saves) == 2
    assert face.read(session.id).state == {"turn": 2}


def test_saves_tasks_and_custom_state_to_the_thread_store_on_session_exit(face, tiers, saves):
    def plan(request):
        session.state["note"] = "remember"
        session.state.set_task(Task("t1", "look it up"))
        session.state.system_prompt = "Be brief."
        return says("done")

    with face.new() as session:
        ask(face, session, Scripted(plan))
        assert len(saves) == 1
    assert len(saves) == 1
    state = archived(face, tiers, session.id).state
    assert state.keys() == {"note", "tasks"}
    assert state["note"] == "remember"
    assert [(task_id, task["subject"]) for task_id, task in state["tasks"]] == [("t1", "look it up")]


def test_rehydrates_tasks_and_custom_state_on_continue_before_the_agent_loop_runs(face, tiers):
    seen = []

    def look(request):
        seen.append((dict(session.state), list(session.state.tasks)))
        return says("done")

    with face.new(state={"note": "first"}) as session:
        session.state["note"] = "stored"
        session.state.set_task(Task("t1", "look it up"))
    cool(face, tiers, session.id)
    with face.open(session.id) as session:
        ask(face, session, Scripted(look), input="go on")
    assert seen == [({"note": "stored"}, ["t1"])]


def test_fork_copies_the_source_threads_state_slice_into_the_new_thread(face, tiers):
    with face.new(state={"note": "source"}) as source:
        source.state.set_task(Task("t1", "look it up"))
        source.append(user("hi"))
    cool(face, tiers, source.id)
    seen = []

    def look(request):
        seen.append((dict(fork.state), list(fork.state.tasks)))
        fork.state["note"] = "fork"
        return says("done")

    with face.fork(source.id) as fork:
        ask(face, fork, Scripted(look))
    assert seen == [({"note": "source"}, ["t1"])]
    assert archived(face, tiers, fork.id).state["note"] == "fork"
    assert face.read(source.id).state["note"] == "source"


# --- tiers ------------------------------------------------------------------------------------------------------------


def test_forks_thread_when_thread_mode_is_fork(face, tiers):
    with face.new(system="Be brief.") as source:
        ask(face, source, Scripted(says("one")), input="1")
    with face.fork(source.id) as fork:
        model = Scripted(says("two"))
        ask(face, fork, model, input="2")
    before = [system("Be brief."), user("1"), says("one")]
    assert model.requests[0]["messages"] == [*before, user("2")]
    assert archived(face, tiers, fork.id).messages == [*before, user("2"), says("two")]
    assert archived(face, tiers, source.id).messages == before


def test_skips_hydrate_thread_for_new_threads_but_still_flushes_on_exit(face, tiers):
    nobody_hydrates = face.tuned(hydrate_wait=0.001)
    with nobody_hydrates.new(wait_flush=20) as session:
        ask(face, session, Scripted(says("done")), input="go")
    assert tiers.archived(session.id).meta.count == 2


def test_hydrates_the_target_thread_before_continuing_it(face, tiers):
    with face.new(state={"step": 1}) as session:
        ask(face, session, Scripted(says("one")), input="1")
    cool(face, tiers, session.id)
    with face.open(session.id) as session:
        assert session.state == {"step": 1}
        model = Scripted(says("two"))
        ask(face, session, model, input="2")
    assert model.requests[0]["messages"] == [user("1"), says("one"), user("2")]
    assert archived(face, tiers, session.id).messages == [user("1"), says("one"), user("2"), says("two")]
    with pytest.raises(ThreadNotFound):
        face.open(face.fresh_id())


def test_hydrates_the_source_thread_on_fork(face, tiers):
    with face.new() as source:
        ask(face, source, Scripted(says("one")), input="1")
    cool(face, tiers, source.id)
    stored = tiers.archived(source.id).etag
    with face.fork(source.id, wait_flush=20) as fork:
        ask(face, fork, Scripted(says("two")), input="2")
    assert tiers.archived(fork.id).meta.count == 4
    cool(face, tiers, source.id)
    assert tiers.archived(source.id).etag == stored


def test_flush_thread_runs_after_save_thread_state(face, tiers):
    """What is archived when the flush is through holds the state that leaving saved."""

    def note(event):
        session.state["note"] = "last words"

    with face.new(wait_flush=20) as session:
        ended = ask(face, session, Scripted(says("done")), hooks=hooks(face, on_turn_complete=note), wait_flush=20)
        assert ended.archived
        assert tiers.lines(session.id)[-1]["$threadkeep"]["state"] == {"note": "last words"}
