"""What zeitlich asks of a session at its edges, asked of a run over a real thread; most end in the archive.

Each test bears the title of the one that it answers to; docs/reference/conformance.md pairs them. A dagger marks a
result that differs on purpose.
"""

import pytest

from tests.conformance.scripted import (
    GENERIC,
    Listening,
    Scripted,
    archived,
    ask,
    call,
    claude,
    cool,
    error_result,
    hooks,
    kinds,
    result,
    says,
    system,
    user,
    uses,
    wants,
)
from threadkeep.errors import MessageNotFound, SystemPromptMissing
from threadkeep.session import Fallback, Rewind, Skip, Tool, ToolResult, Usage


def echo(text: str) -> str:
    """Says it again."""
    return f"Echo: {text}"


def boom() -> None:
    """Fails."""
    raise ValueError("boom")


def undo() -> Rewind:
    """Has the turn taken back."""
    return Rewind()


def assistant_ids(thread):
    return [entry.id for entry in thread.entries if entry.kind == "assistant"]


# --- how a run ends ---------------------------------------------------------------------------------------------------


def test_exits_with_waiting_for_input_when_a_tool_parks_the_session(face, tiers):
    def question(text: str) -> str:
        """Asks the user."""
        return "Question submitted"

    told = Listening(face, "on_session_end", "on_turn_complete")
    told.after_tool = face.adapted(lambda event: session.state.wait())
    model = Scripted(wants(call("c1", "question", text="Which?")))
    with face.new() as session:
        ended = ask(face, session, model, input="go", tools=[question], hooks=told)
        assert session.state.status == "waiting_for_input"
    assert (ended.reason, ended.status, ended.final) == ("waiting_for_input", "waiting_for_input", None)
    assert told.names == ["on_turn_complete", "on_session_end"]
    assert told.told("on_session_end")[0].reason == "waiting_for_input"
    cool(face, tiers, session.id)
    with face.open(session.id) as session:
        assert session.messages[-1] == result("c1", "question", "Question submitted")
        assert (session.state.status, session.state.turns) == ("running", 0)
        ended = ask(face, session, Scripted(says("That one.")), input="The left one.", tools=[question])
    assert (ended.reason, ended.turns) == ("completed", 1)
    assert archived(face, tiers, session.id).messages[-2:] == [user("The left one."), says("That one.")]


@pytest.mark.parametrize(("ending", "reason"), [("fail", "failed"), ("cancel", "cancelled"), ("complete", "completed")])
def test_a_tool_that_ends_the_run_ends_it_after_its_results(face, tiers, ending, reason):
    """In zeitlich a run that a tool failed or cancelled says that it completed."""

    def end(ctx) -> str:
        """Ends it."""
        getattr(ctx.state, ending)()
        return "ended"

    told = Listening(face, "on_session_end")
    with face.new() as session:
        ended = ask(face, session, Scripted(wants(call("c1", "end"))), tools=[end], hooks=told)
    assert (ended.reason, ended.status) == (reason, reason)
    assert told.told("on_session_end")[0].reason == reason
    assert archived(face, tiers, session.id).messages[-1] == result("c1", "end", "ended")


def test_stops_after_exactly_1_turn_when_max_turns_is_1(face):
    model = Scripted(wants(call("c1", "echo", text="hi")))
    with face.new() as session:
        ended = ask(face, session, model, input="go", tools=[echo], max_turns=1)
    assert (ended.reason, ended.final, ended.turns) == ("max_turns", None, 1)
    assert kinds(face.read(session.id)) == ["user", "assistant", "tool"]


def test_exits_with_max_turns_when_max_turns_is_0(face):
    with face.new() as session:
        ended = ask(face, session, Scripted(), input="go", tools=[echo], max_turns=0)
    assert (ended.reason, ended.final, ended.turns) == ("max_turns", None, 0)
    assert face.read(session.id).messages == [user("go")]


def test_on_session_end_receives_correct_turns_count(face):
    told = Listening(face, "on_session_end", "on_turn_complete")
    answers = [wants(call("c1", "echo", text="1")), wants(call("c2", "echo", text="2")), says("done")]
    with face.new() as session:
        ask(face, session, Scripted(*answers), tools=[echo], hooks=told)
    assert told.told("on_session_end")[0].turns == 3
    assert [(turn.turn, turn.tool_calls) for turn in told.told("on_turn_complete")] == [(1, 1), (2, 1), (3, 0)]


def test_passes_metadata_to_session_hooks(face):
    told = Listening(face, "on_session_start", "on_session_end")
    metadata = {"tenant": "acme", "nested": {"n": 1}}
    with face.new() as session:
        ask(face, session, Scripted(says("done")), hooks=told, metadata=metadata)
    assert [event.metadata for _, event in told.heard] == [metadata, metadata]


def test_completes_immediately_when_no_tools_are_registered_even_if_raw_tool_calls_are_returned(face, tiers):
    """† The call is answered too, with an error: no provider takes a thread in which it is open."""
    answer = wants(call("c1", "echo", text="hi"))
    with face.new() as session:
        ended = ask(face, session, Scripted(answer), input="go")
    assert (ended.reason, ended.turns, ended.final) == ("completed", 1, answer)
    refused = error_result("c1", "echo", {"error": "no tools are available"})
    assert archived(face, tiers, session.id).messages == [user("go"), answer, refused]


# --- calls that cannot be run, or fail --------------------------------------------------------------------------------


def test_continues_looping_when_all_tool_calls_in_a_turn_are_invalid(face, tiers):
    answer = wants(call("c1", "nothing"), call("c2", "echo", wrong=1))
    with face.new() as session:
        ended = ask(face, session, Scripted(answer, says("done")), input="go", tools=[echo])
    first, second = archived(face, tiers, session.id).messages[2:4]
    assert (ended.reason, ended.turns) == ("completed", 2)
    assert [each["tool_call_id"] for each in (first, second)] == ["c1", "c2"]
    assert all("Invalid tool call" in each["content"] and each["is_error"] for each in (first, second))


def test_handles_tool_call_with_missing_id_gracefully(face, tiers):
    """† An id is made, the same however often the answer is read; it is never empty."""
    answer = wants({"name": "echo", "args": {"text": "hi"}}, {"id": "", "name": "echo", "args": {"text": "ho"}})
    with face.new() as session:
        ended = ask(face, session, Scripted(answer, says("done")), tools=[echo], run_id="r")
    assert ended.reason == "completed"
    results = archived(face, tiers, session.id).messages[1:3]
    assert results == [
        result("a-r-1-call-0", "echo", "Echo: hi"),
        result("a-r-1-call-1", "echo", "Echo: ho"),
    ]


def test_session_continues_when_tool_handler_throws_and_failure_hook_recovers(face, tiers):
    errors = []

    def recover(event):
        errors.append(event.error)
        return Fallback("use the old value")

    with face.new() as session:
        model = Scripted(wants(call("c1", "boom")), says("done"))
        ended = ask(face, session, model, tools=[boom], hooks=hooks(face, on_tool_error=recover))
    assert ended.reason == "completed"
    assert [str(error) for error in errors] == ["boom"]
    assert archived(face, tiers, session.id).messages[1] == result("c1", "boom", "use the old value")


def test_session_completes_when_tool_handler_throws_with_no_failure_hook(face, tiers):
    with face.new() as session:
        ended = ask(face, session, Scripted(wants(call("c1", "boom")), says("done")), tools=[boom])
    assert ended.reason == "completed"
    assert archived(face, tiers, session.id).messages[1] == error_result("c1", "boom", GENERIC)


def test_processes_valid_tool_calls_even_when_some_are_unknown_in_same_turn(face, tiers):
    answer = wants(call("c1", "echo", text="hi"), call("c2", "nothing"))
    with face.new() as session:
        ended = ask(face, session, Scripted(answer, says("done")), tools=[echo])
    known, unknown = archived(face, tiers, session.id).messages[1:3]
    assert ended.reason == "completed"
    assert known == result("c1", "echo", "Echo: hi")
    assert unknown["content"] == '{"error":"Invalid tool call for \\"nothing\\": Tool nothing not found"}'


def test_processes_tools_sequentially_when_process_tools_in_parallel_is_false(face):
    seen = []

    def slow(name: str) -> str:
        """Takes its time."""
        seen.append(f"start {name}")
        face.read(session.id)
        seen.append(f"end {name}")
        return name

    with face.new() as session:
        answer = wants(call("c1", "slow", name="a"), call("c2", "slow", name="b"))
        ask(face, session, Scripted(answer, says("done")), tools=[slow], parallel=False)
    assert seen == ["start a", "end a", "start b", "end b"]


def test_pre_hook_skip_works_within_full_session_flow(face, tiers):
    run = []

    def noted(text: str) -> str:
        """Notes that it ran."""
        run.append(text)
        return text

    told = Listening(face, "after_tool")
    told.before_tool = face.adapted(lambda event: Skip() if event.call.args["text"] == "no" else None)
    with face.new() as session:
        answer = wants(call("c1", "noted", text="no"), call("c2", "noted", text="yes"))
        ended = ask(face, session, Scripted(answer, says("done")), tools=[noted], hooks=told)
    skipped, stored = archived(face, tiers, session.id).messages[1:3]
    assert ended.reason == "completed"
    assert skipped == result("c1", "noted", '{"skipped":true,"reason":"Skipped by before_tool hook"}')
    assert stored == result("c2", "noted", "yes")
    assert run == ["yes"]
    assert [event.call.id for event in told.told("after_tool")] == ["c2"]


def test_accumulates_usage_from_both_run_agent_and_tool_handler_results(face):
    """† Both count; in zeitlich only the model's."""

    def paid() -> ToolResult:
        """Costs."""
        return ToolResult("done", usage=Usage(input=20, output=10, cache_read=5, requests=1))

    with face.new(codec="anthropic") as session:
        first = claude(uses("c1", "paid"), uses("c2", "paid"), used=(60, 30))
        ended = ask(face, session, Scripted(first, claude("done", used=(40, 20))), input="go", tools=[paid])
    assert ended.usage == Usage(input=140, output=70, cache_read=10, requests=4)


def test_skips_append_tool_result_when_handler_sets_result_appended(face, tiers):
    """† There is no such flag: no limit on sizes asks for it, and each call gets one result, from the run."""

    def quiet() -> None:
        """Returns nothing."""

    with face.new() as session:
        ask(face, session, Scripted(wants(call("c1", "quiet")), says("done")), tools=[quiet])
    assert archived(face, tiers, session.id).messages[1] == result("c1", "quiet", None)
    with pytest.raises(TypeError, match="result_appended"):
        ToolResult("stored elsewhere", result_appended=True)


# --- entry ------------------------------------------------------------------------------------------------------------


def test_throws_when_system_prompt_is_whitespace_only(face, thread_id):
    with pytest.raises(SystemPromptMissing):
        face.new(thread_id, system=" \n\t ")
    assert not face.exists(thread_id)


def test_fork_thread_mode_generates_new_thread_id_and_forks_when_source_is_provided(face, tiers):
    with face.new(system="Be brief.") as source:
        source.append(user("hi"), id="m1")
    with face.fork(source.id) as fork:
        ask(face, fork, Scripted(says("done")))
    assert fork.id != source.id
    assert archived(face, tiers, fork.id).messages == [system("Be brief."), user("hi"), says("done")]
    assert face.read(source.id).messages == [system("Be brief."), user("hi")]


def test_fork_thread_mode_truncates_the_forked_thread_at_from_message_id(face, tiers):
    """† The copy never holds what is cut; in zeitlich it does, until the next step."""
    with face.new() as source:
        source.append(user("1"), says("one"), user("2"), ids=["m1", "m2", "m3"])
    with face.fork(source.id, before="m2") as fork:
        assert fork.messages == [user("1")]
        ask(face, fork, Scripted(says("uno")))
    assert archived(face, tiers, fork.id).messages == [user("1"), says("uno")]
    assert face.read(source.id).messages == [user("1"), says("one"), user("2")]
    target = face.fresh_id()
    with pytest.raises(MessageNotFound):
        face.fork(source.id, id=target, before="m9")
    assert not face.exists(target)


def test_defaults_to_new_thread_without_fork_when_no_thread_field_is_provided(face, tiers):
    with face.new(system="Be brief.") as session:
        ask(face, session, Scripted(says("done")))
    thread = archived(face, tiers, session.id)
    assert thread.messages == [system("Be brief."), says("done")]
    assert tiers.lines(session.id)[-1]["$threadkeep"]["forked_from"] is None


def test_calls_thread_operations_in_correct_order_system_human_loop(face):
    seen = []

    def look(request):
        seen.append(kinds(face.read(session.id)))
        return says("done")

    told = hooks(face, on_session_start=lambda event: seen.append(kinds(face.read(session.id))))
    with face.new(system="Be brief.") as session:
        seen.append(kinds(face.read(session.id)))
        ask(face, session, look, input="go", hooks=told)
    assert seen == [["system"], ["system", "user"], ["system", "user"]]
    assert kinds(face.read(session.id)) == ["system", "user", "assistant"]


def test_handles_build_context_message_returning_sdk_native_content_array(face, tiers):
    content = [
        {"type": "text", "text": "What is this?"},
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}},
        {"type": "kind_of_tomorrow", "value": None},
    ]
    model = Scripted(claude("A picture."))
    with face.new(codec="anthropic") as session:
        ask(face, session, model, input=face.adapted(lambda: content), options={"cache": False})
    assert model.requests == [{"messages": [{"role": "user", "content": content}]}]
    assert archived(face, tiers, session.id).messages[0] == {"role": "user", "content": content}


# --- rewinds ----------------------------------------------------------------------------------------------------------


def test_rewinds_the_turn_when_a_tool_handler_returns_rewind_true(face, tiers):
    """† The answer is taken back at once, not only when the model is asked again."""
    first, second = wants(call("c1", "undo")), wants(call("c2", "echo", text="hi"))
    model = Scripted(first, lambda request: (seen.append(face.read(session.id).messages), second)[1], says("done"))
    seen, told = [], Listening(face, "on_turn_complete")
    with face.new() as session:
        ended = ask(face, session, model, input="go", tools=[undo, echo], hooks=told, run_id="r")
    assert (ended.reason, ended.turns, len(model.requests)) == ("completed", 3, 3)
    assert seen == [[user("go")]]
    thread = archived(face, tiers, session.id)
    assert thread.messages == [user("go"), second, result("c2", "echo", "Echo: hi"), says("done")]
    assert assistant_ids(thread) == ["a-r-1", "a-r-3"]
    assert [turn.turn for turn in told.told("on_turn_complete")] == [2, 3]


@pytest.mark.parametrize("parallel", [True, False])
def test_reuses_the_assistant_message_id_on_rewind_even_with_sibling_tool_calls(face, tiers, parallel):
    first = wants(call("c1", "echo", text="one"), call("c2", "undo"), call("c3", "echo", text="two"))
    seen = []

    def noted(text: str, ctx) -> str:
        """Notes who asks."""
        seen.append(ctx.assistant_id)
        return text

    tools = [Tool("echo", "Says it again.", noted), undo]
    second = wants(call("c4", "echo", text="again"))
    with face.new() as session:
        ask(face, session, Scripted(first, second, says("done")), tools=tools, run_id="r", parallel=parallel)
    thread = archived(face, tiers, session.id)
    assert set(seen) == {"a-r-1"}
    assert assistant_ids(thread) == ["a-r-1", "a-r-3"]
    assert [message["tool_call_id"] for message in thread.messages if message["role"] == "tool"] == ["c4"]


def test_does_not_rewind_when_the_rewinding_tool_is_no_longer_present_after_retry(face):
    offered = [True]

    def once() -> Rewind:
        """Has the turn taken back, and is gone."""
        offered[0] = False
        return Rewind()

    tools = [Tool("once", "Once.", once, enabled=lambda: offered[0]), echo]
    model = Scripted(wants(call("c1", "once")), wants(call("c2", "once")), says("done"))
    with face.new() as session:
        ended = ask(face, session, model, tools=tools)
    assert (ended.reason, ended.turns) == ("completed", 3)
    assert [tool["name"] for tool in model.requests[0]["tools"]] == ["once", "echo"]
    assert [tool["name"] for tool in model.requests[1]["tools"]] == ["echo"]
    assert "Tool once not found" in face.read(session.id).messages[1]["content"]


def test_bails_out_with_max_turns_when_a_tool_keeps_requesting_rewind(face):
    seen = []

    def undo_always(ctx) -> Rewind:
        """Has each turn taken back."""
        seen.append(ctx.assistant_id)
        return Rewind()

    model = Scripted(*[wants(call(f"c{turn}", "undo_always")) for turn in range(3)])
    with face.new() as session:
        ended = ask(face, session, model, input="go", tools=[undo_always], max_turns=3, run_id="r")
    assert (ended.reason, ended.turns, len(model.requests)) == ("max_turns", 3, 3)
    assert seen == ["a-r-1"] * 3
    assert face.read(session.id).messages == [user("go")]
