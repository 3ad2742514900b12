"""What zeitlich asks of its tool router, asked of the one here, with an event loop and without.

Each test bears the title of the one that it answers to; docs/reference/conformance.md pairs them. A dagger marks a
result that differs on purpose. The router here gives back all results of an answer, for one append in call order; so
what zeitlich's tests ask of the append is asked of the outcomes.
"""

import asyncio
import functools
import json
import threading

import pytest
from billiard.exceptions import SoftTimeLimitExceeded
from pydantic import BaseModel

from tests.waiting import until
from threadkeep.session.codecs.base import ToolCall, Usage
from threadkeep.session.loop.calling import MAX_THREADS, AsyncCalling, SyncCalling
from threadkeep.session.loop.context import BatchFacts
from threadkeep.session.loop.hooks import Fallback, Hooks, ReplaceArgs, Skip, Suppress, ToolHooks
from threadkeep.session.loop.router import InvalidToolCall, Router
from threadkeep.session.loop.state import State
from threadkeep.session.loop.tools import Rewind, Tool, ToolResult
from threadkeep.storage.link import run_now

TEXT = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}
GENERIC = {"error": "The tool encountered an error. Please try again or use a different approach."}


class Rig:
    """A router over one way of calling; what it answers is there when `process` returns."""

    def __init__(self, face):
        self.face = face
        self.saved = 0

    async def save(self):
        self.saved += 1

    @property
    def facts(self):
        return BatchFacts("thread-1", "messages", "run-1", "a-1", State(), self.save)

    def process(self, tools, *calls, hooks=None, **options):
        return self.run(tools, hooks, lambda router: router.process(calls, facts=self.facts, **options))

    def by_name(self, tools, name, handler, *calls):
        return self.run(tools, None, lambda router: router.by_name(calls, name, handler, facts=self.facts))

    def run(self, tools, hooks, work):
        if self.face == "sync":
            return run_now(work(Router(tools, hooks, SyncCalling())))

        async def main():
            return await work(Router(tools, hooks, AsyncCalling()))

        return asyncio.run(main())

    def handler(self, function):
        """A handler or a hook as an app of this kind would write it."""
        if self.face == "sync":
            return function

        @functools.wraps(function)
        async def coroutine(*args, **kwargs):
            return function(*args, **kwargs)

        return coroutine


@pytest.fixture(params=["sync", "async"])
def rig(request):
    return Rig(request.param)


def router(*tools):
    return Router(tools, None, SyncCalling())


def call(name, call_id="c1", **args):
    return ToolCall(call_id, name, args)


def echo(text: str) -> str:
    """Says it again.

    Args:
        text: What to say.
    """
    return f"Echo: {text}"


def add(a: int, b: int) -> ToolResult:
    """Adds."""
    return ToolResult(str(a + b), data={"sum": a + b})


def boom() -> None:
    raise ValueError("boom")


def undo() -> Rewind:
    return Rewind()


def contents(batch):
    return [outcome.content for outcome in batch.outcomes]


# --- lib/tool-router/router.integration.test.ts ---------------------------------------------------------------------


def test_exposes_registered_tool_definitions():
    made = router(echo, add)
    assert made.has_tools
    assert made.has_tool("echo")
    assert not made.has_tool("nothing")
    assert made.names() == ["echo", "add"]


def test_returns_tool_definitions_without_handlers():
    [definition] = router(Tool("Echo", "Says it again", echo, TEXT, strict=True)).definitions()
    assert (definition.name, definition.description, definition.schema) == ("Echo", "Says it again", TEXT)
    assert definition.strict is True
    assert not hasattr(definition, "handler")


def test_parses_valid_tool_calls_with_argument_validation():
    parsed = router(echo).parse(call("echo", text="hi"))
    assert (parsed.call, parsed.tool.name, parsed.arguments.values) == (call("echo", text="hi"), "echo", {"text": "hi"})


def test_rejects_unknown_tool_names():
    with pytest.raises(InvalidToolCall, match="Tool nothing not found"):
        router(echo).parse(call("nothing"))


def test_rejects_invalid_arguments():
    with pytest.raises(InvalidToolCall, match=r"text: Input should be a valid string"):
        router(echo).parse(call("echo", text=5))
    with pytest.raises(InvalidToolCall, match=r"text: Field required"):
        router(echo).parse(call("echo"))


def test_processes_a_single_tool_call_and_gives_the_result(rig):
    """† The router gives results back; the run appends all of an answer at once."""
    batch = rig.process([echo], call("echo", text="hi"))
    [outcome] = batch.outcomes
    assert (outcome.call, outcome.content, outcome.data) == (call("echo", text="hi"), "Echo: hi", "Echo: hi")
    assert (outcome.error, outcome.skipped, outcome.invalid, batch.rewind) == (False, False, False, None)


def test_processes_multiple_tool_calls_in_parallel(rig):
    both = threading.Barrier(2, timeout=20)

    def meet() -> str:
        both.wait()
        return "met"

    assert contents(rig.process([meet], call("meet", "c1"), call("meet", "c2"))) == ["met", "met"]


def test_gives_parallel_results_in_original_call_order(rig):
    second_ended = threading.Event()

    def slow() -> str:
        assert second_ended.wait(20)
        return "slow"

    def quick() -> str:
        second_ended.set()
        return "quick"

    assert contents(rig.process([slow, quick], call("slow", "c1"), call("quick", "c2"))) == ["slow", "quick"]


def test_processes_multiple_tool_calls_sequentially(rig):
    log = []
    step = rig.handler(lambda text: log.extend([f"start {text}", f"end {text}"]))
    batch = rig.process([Tool("step", "", step, TEXT)], call("step", text="a"), call("step", text="b"), parallel=False)
    assert log == ["start a", "end a", "start b", "end b"]
    assert [outcome.call.args["text"] for outcome in batch.outcomes] == ["a", "b"]


def test_handles_unknown_tools_gracefully_during_processing(rig):
    """† Told in the words of an invalid call; zeitlich's router has other words for it than its session."""
    batch = rig.process([echo], call("nothing", "c1"), call("echo", "c2", text="hi"))
    unknown, known = batch.outcomes
    told = {"error": 'Invalid tool call for "nothing": Tool nothing not found'}
    assert (json.loads(unknown.content), unknown.data, unknown.error, unknown.invalid) == (told, told, True, True)
    assert known.content == "Echo: hi"


def test_passes_correct_context_to_handlers(rig):
    seen = []

    def look(ctx) -> str:
        seen.append((ctx.thread_id, ctx.call_id, ctx.tool_name, ctx.namespace, ctx.run_id))
        return "seen"

    rig.process([look], call("look", "c7"))
    assert seen == [("thread-1", "c7", "look", "messages", "run-1")]


def test_before_hook_can_skip_tool_execution(rig):
    """† A skipped call is among the results, marked, since each call needs an answer; and the reason names our hook."""
    ran = []

    class Guard:
        before_tool = staticmethod(rig.handler(lambda event: Skip()))
        after_tool = staticmethod(rig.handler(lambda event: ran.append("after")))

    batch = rig.process([Tool("touch", "", lambda: ran.append("handler"))], call("touch"), hooks=Guard())
    [outcome] = batch.outcomes
    assert json.loads(outcome.content) == {"skipped": True, "reason": "Skipped by before_tool hook"}
    assert (outcome.skipped, outcome.error, outcome.data, ran) == (True, False, None, [])
    assert Router.results_by_name(batch.outcomes, "touch") == []


def test_before_hook_can_modify_arguments(rig):
    class Louder:
        before_tool = staticmethod(rig.handler(lambda event: ReplaceArgs({"text": event.call.args["text"].upper()})))

    assert contents(rig.process([echo], call("echo", text="hi"), hooks=Louder())) == ["Echo: HI"]


def test_per_tool_before_hook_can_skip_execution(rig):
    """† The same."""

    class Guard:
        before = staticmethod(rig.handler(lambda event: Skip("not now")))

    batch = rig.process([Tool("echo", "", echo, hooks=Guard()), add], call("echo", text="x"), call("add", a=1, b=2))
    assert contents(batch) == ['{"skipped":true,"reason":"not now"}', "3"]


def test_after_hook_receives_result_and_timing_info(rig):
    events = []

    class Watch:
        after_tool = staticmethod(rig.handler(events.append))

    [outcome] = rig.process([echo], call("echo", text="hi"), hooks=Watch(), turn=3).outcomes
    [event] = events
    assert (event.call, event.outcome, event.thread_id, event.turn) == (call("echo", text="hi"), outcome, "thread-1", 3)
    assert event.seconds == outcome.seconds >= 0


def test_per_tool_after_hook_fires_after_execution(rig):
    seen = []

    class Watch:
        after = staticmethod(rig.handler(lambda event: seen.append((event.data, event.call.args, event.turn))))

    rig.process([Tool("add", "", add, hooks=Watch())], call("add", a=1, b=2), turn=2)
    assert seen == [({"sum": 3}, {"a": 1, "b": 2}, 2)]


def test_global_failure_hook_can_recover_with_fallback_content(rig):
    class Recover:
        on_tool_error = staticmethod(rig.handler(lambda event: Fallback({"answer": f"instead of {event.error}"})))

    [outcome] = rig.process([boom], call("boom"), hooks=Recover()).outcomes
    assert (outcome.content, outcome.error) == ({"answer": "instead of boom"}, False)
    assert outcome.data == {"error": "ValueError: boom", "recovered": True}


def test_per_tool_failure_hook_can_suppress_errors(rig):
    class Quiet:
        on_error = staticmethod(rig.handler(lambda event: Suppress()))

    [outcome] = rig.process([Tool("boom", "", boom, hooks=Quiet())], call("boom")).outcomes
    assert (outcome.data, outcome.error) == ({"error": "ValueError: boom", "suppressed": True}, True)


def test_suppresses_error_when_handler_fails_and_no_hook_recovers(rig):
    [outcome] = rig.process([boom], call("boom")).outcomes
    assert json.loads(outcome.content) == GENERIC
    assert (outcome.data, outcome.error) == ({"error": "ValueError: boom", "suppressed": True}, True)


def test_excludes_disabled_tools_from_definitions_and_parsing(rig):
    tools = [Tool("echo", "", echo, enabled=False), Tool("add", "", add, enabled=lambda: True)]
    made = router(*tools)
    assert ([tool.name for tool in made.definitions()], made.names()) == (["add"], ["add"])
    assert not made.has_tool("echo")
    with pytest.raises(InvalidToolCall, match="Tool echo not found"):
        made.parse(call("echo", text="x"))
    assert rig.process(tools, call("echo", text="x")).outcomes[0].invalid


def test_registers_plugins_alongside_tools(rig):
    """What zeitlich calls a plugin."""

    class Plugin:
        def as_tool(self):
            return Tool("plugged", "", lambda: "in")

    assert contents(rig.process([echo, Plugin()], call("plugged"))) == ["in"]


def test_by_name_filters_and_processes_matching_calls(rig):
    hooks_called = []

    class Watch:
        before = after = staticmethod(hooks_called.append)

    def custom(text: str, ctx) -> str:
        return f"{ctx.call_id} says {text}"

    batch = rig.by_name(
        [Tool("echo", "", echo, hooks=Watch())],
        "echo",
        rig.handler(custom),
        call("add", "c1", a=1, b=2),
        call("echo", "c2", text="x"),
        call("echo", "c3", text="y"),
    )
    assert [(each.call.id, each.content) for each in batch.outcomes] == [("c2", "c2 says x"), ("c3", "c3 says y")]
    assert hooks_called == []


def test_utility_methods_work_correctly(rig):
    calls = [call("echo", "c1", text="x"), call("add", "c2", a=1, b=2), call("echo", "c3", text="y")]
    outcomes = rig.process([echo, add], *calls).outcomes
    assert Router.filter_by_name(calls, "echo") == [calls[0], calls[2]]
    assert Router.filter_by_name(outcomes, "add") == [outcomes[1]]
    assert Router.has_call(calls, "add")
    assert not Router.has_call(calls, "nothing")
    assert Router.results_by_name(outcomes, "echo") == ["Echo: x", "Echo: y"]
    assert Router.results_by_name(outcomes, "add") == [{"sum": 3}]


def noting() -> ToolResult:
    return ToolResult("noted", metadata={"cost": 5})


def test_handler_metadata_flows_to_the_outcome(rig):
    assert rig.process([noting], call("noting")).outcomes[0].metadata == {"cost": 5}


def test_handler_metadata_flows_to_per_tool_after_hook(rig):
    seen = []

    class Watch:
        after = staticmethod(rig.handler(lambda event: seen.append(event.metadata)))

    rig.process([Tool("noting", "", noting, hooks=Watch())], call("noting"))
    assert seen == [{"cost": 5}]


def test_handler_metadata_flows_to_global_after_hook_via_outcome(rig):
    seen = []

    class Watch:
        after_tool = staticmethod(rig.handler(lambda event: seen.append(event.outcome.metadata)))

    rig.process([noting], call("noting"), hooks=Watch())
    assert seen == [{"cost": 5}]


def test_metadata_is_none_when_handler_does_not_set_it(rig):
    assert rig.process([echo], call("echo", text="x")).outcomes[0].metadata is None


def test_by_name_passes_metadata_through(rig):
    batch = rig.by_name([echo], "echo", lambda text: ToolResult(text, metadata={"n": 1}), call("echo", text="x"))
    assert [outcome.metadata for outcome in batch.outcomes] == [{"n": 1}]


def test_a_handlers_usage_reaches_the_outcome(rig):
    """Zeitlich drops it."""
    batch = rig.process([Tool("ask", "", lambda: ToolResult("ok", usage=Usage(input=3)))], call("ask"))
    assert batch.outcomes[0].usage == Usage(input=3)


# --- lib/tool-router/router-edge-cases.integration.test.ts ----------------------------------------------------------


def test_has_tools_is_false_when_no_tools_are_registered():
    assert not router().has_tools
    assert router().definitions() == []


def test_has_tools_is_false_when_all_tools_are_disabled():
    assert not router(Tool("echo", "", echo, enabled=False), Tool("add", "", add, enabled=lambda: False)).has_tools


def test_returns_empty_results_for_no_tool_calls(rig):
    batch = rig.process([echo])
    assert (batch.outcomes, batch.rewind) == ([], None)


def test_assistant_id_reaches_the_handler(rig):
    seen = []
    rig.process([Tool("look", "", lambda ctx: seen.append(ctx.assistant_id))], call("look"))
    assert seen == ["a-1"]


def ordered(rig, log, **verdicts):
    """Hooks of a run and of a tool that note when they are called."""

    def noted(name):
        return staticmethod(rig.handler(lambda event: (log.append(name), verdicts.get(name))[1]))

    class Run:
        before_tool, after_tool, on_tool_error = noted("before_tool"), noted("after_tool"), noted("on_tool_error")

    class Own:
        before, after, on_error = noted("before"), noted("after"), noted("on_error")

    return Run(), Own()


def test_global_before_hook_runs_before_per_tool_before_hook(rig):
    log = []
    run, own = ordered(rig, log)
    rig.process([Tool("work", "", rig.handler(lambda: log.append("handler")), hooks=own)], call("work"), hooks=run)
    assert log[:3] == ["before_tool", "before", "handler"]


def test_global_before_hook_skip_prevents_per_tool_before_hook_and_handler(rig):
    log = []
    run, own = ordered(rig, log, before_tool=Skip())
    rig.process([Tool("work", "", lambda: log.append("handler"), hooks=own)], call("work"), hooks=run)
    assert log == ["before_tool"]


def test_per_tool_after_hook_runs_before_global_after_hook(rig):
    log = []
    run, own = ordered(rig, log)
    rig.process([Tool("work", "", lambda: None, hooks=own)], call("work"), hooks=run)
    assert log[-2:] == ["after", "after_tool"]


def test_per_tool_failure_hook_takes_precedence_over_global_failure_hook(rig):
    log = []
    run, own = ordered(rig, log, on_error=Fallback("own"), on_tool_error=Fallback("run"))
    batch = rig.process([Tool("boom", "", boom, hooks=own)], call("boom"), hooks=run)
    assert contents(batch) == ["own"]
    assert log == ["before_tool", "before", "on_error", "after", "after_tool"]


def test_per_tool_replaced_args_override_global_replaced_args(rig):
    seen = []

    class Run:
        before_tool = staticmethod(rig.handler(lambda event: ReplaceArgs({"text": event.call.args["text"] + " run"})))
        after_tool = staticmethod(rig.handler(lambda event: seen.append(event.call.args)))

    class Own:
        before = staticmethod(rig.handler(lambda event: ReplaceArgs({"text": event.call.args["text"] + " own"})))
        after = staticmethod(rig.handler(lambda event: seen.append(event.call.args)))

    batch = rig.process([Tool("echo", "", echo, hooks=Own())], call("echo", text="hi"), hooks=Run())
    assert contents(batch) == ["Echo: hi run own"]
    assert seen == [{"text": "hi run own"}, {"text": "hi"}]


def test_handles_multiple_unknown_tools_in_parallel_mode(rig):
    """† The same."""
    batch = rig.process([echo], call("one", "c1"), call("two", "c2"))
    assert [outcome.data for outcome in batch.outcomes] == [
        {"error": 'Invalid tool call for "one": Tool one not found'},
        {"error": 'Invalid tool call for "two": Tool two not found'},
    ]


def test_a_later_tool_with_the_same_name_takes_precedence(rig):
    again = Tool("echo", "another", lambda text: f"other {text}", TEXT)
    assert contents(rig.process([echo, again], call("echo", text="x"))) == ["other x"]
    assert [tool.description for tool in router(echo, again).definitions()] == ["another"]


def test_by_name_returns_empty_when_no_calls_match(rig):
    assert rig.by_name([echo], "echo", echo, call("add", a=1, b=2)).outcomes == []


def test_handles_tool_response_as_a_list_of_parts(rig):
    parts = [{"type": "text", "text": "Part 1"}, {"type": "text", "text": "Part 2"}]
    assert contents(rig.process([Tool("give", "", lambda: parts)], call("give"))) == [parts]


def test_json_text_of_a_handler_is_left_as_it_is(rig):
    text = '{"a": [1,  2]}'
    assert contents(rig.process([Tool("give", "", lambda: text)], call("give"))) == [text]


def test_supports_synchronous_handler(rig):
    assert contents(rig.process([echo], call("echo", text="x"))) == ["Echo: x"]


def test_a_handler_may_be_a_coroutine_function(rig):
    async def later(text: str) -> str:
        await asyncio.sleep(0)
        return f"later {text}"

    assert contents(rig.process([later], call("later", "c1", text="x"), call("later", "c2", text="y"))) == [
        "later x",
        "later y",
    ]


def test_default_turn_is_0_when_it_is_omitted(rig):
    seen = []

    class Watch:
        before_tool = staticmethod(rig.handler(lambda event: seen.append(event.turn)))

    rig.process([echo], call("echo", text="x"), hooks=Watch())
    assert seen == [0]


def test_per_tool_failure_hook_suppress_gives_json_error_content(rig):
    class Quiet:
        on_tool_error = staticmethod(rig.handler(lambda event: Suppress()))

    [outcome] = rig.process([boom], call("boom"), hooks=Quiet()).outcomes
    assert json.loads(outcome.content) == {"error": "ValueError: boom", "suppressed": True}


def test_schema_coercion_is_applied_during_parse(rig):
    class Amount(BaseModel):
        n: int
        unit: str = "kg"

    seen = []
    rig.process([Tool("weigh", "", lambda n, unit: seen.append((n, unit)), Amount)], call("weigh", n="5"))
    assert seen == [(5, "kg")]


def test_names_uses_tool_name_property_not_the_key_it_is_kept_under(rig):
    tools = {"first": Tool("Second", "", lambda: "second")}
    assert contents(rig.process(tools.values(), call("Second"))) == ["second"]
    assert rig.process(tools.values(), call("first")).outcomes[0].invalid


def test_handles_an_error_without_a_message_raised_by_handler(rig):
    """† Zeitlich is thrown a bare string; Python raises errors only, and one without a message is told by its type."""

    def silent() -> None:
        raise KeyError

    class Recover:
        on_tool_error = staticmethod(rig.handler(lambda event: Fallback("instead")))

    [outcome] = rig.process([silent], call("silent"), hooks=Recover()).outcomes
    assert outcome.data == {"error": "KeyError", "recovered": True}


def test_a_rewind_gives_no_result_and_names_its_call(rig):
    after = []

    class Watch(Hooks):
        def after_tool(self, event):
            after.append(event)

    batch = rig.process([Tool("undo", "", rig.handler(undo))], call("undo", "c9"), hooks=Watch())
    assert (batch.outcomes, batch.rewind, after) == ([], call("undo", "c9"), [])


def test_a_sequential_rewind_stops_later_calls(rig):
    log = []
    tools = [
        Tool("first", "", rig.handler(lambda: log.append("first"))),
        Tool("undo", "", rig.handler(lambda: (log.append("undo"), Rewind())[1])),
        Tool("last", "", rig.handler(lambda: log.append("last"))),
    ]
    batch = rig.process(tools, call("first"), call("undo", "c2"), call("last"), parallel=False)
    assert (log, batch.outcomes, batch.rewind) == (["first", "undo"], [], call("undo", "c2"))


@pytest.mark.parametrize("calls", [[call("ask"), call("ask")], []], ids=["all match", "none"])
def test_has_no_other_calls_is_true_when_all_calls_match_the_name_or_there_are_none(calls):
    assert Router.has_no_other_calls(calls, "ask")


def test_has_no_other_calls_is_false_when_other_calls_exist():
    assert not Router.has_no_other_calls([call("ask"), call("echo")], "ask")


# --- what zeitlich does not ask -------------------------------------------------------------------------------------


def test_outcomes_keep_call_order_with_invalid_skipped_and_failed_calls_between(rig):
    class Guard(Hooks):
        def before_tool(self, event):
            return Skip() if event.call.id == "c3" else None

    calls = [
        call("nothing", "c1"),
        call("echo", "c2", text="x"),
        call("echo", "c3", text="y"),
        call("boom", "c4"),
        ToolCall("c5", "echo", None, problem="the arguments are no JSON"),
    ]
    for parallel in (True, False):
        outcomes = rig.process([echo, boom], *calls, hooks=Guard(), parallel=parallel).outcomes
        assert [outcome.call for outcome in outcomes] == calls
        assert [(each.invalid, each.skipped, each.error) for each in outcomes] == [
            (True, False, True),
            (False, False, False),
            (False, True, False),
            (False, False, True),
            (True, False, True),
        ]
        assert "the arguments are no JSON" in outcomes[4].content


def test_of_several_hooks_that_raise_the_first_in_call_order_is_raised_when_all_have_ended(rig):
    second_raised = threading.Event()
    ended = []

    class Fragile(Hooks):
        def after_tool(self, event):
            if event.call.id == "c1":
                assert second_raised.wait(20)
                raise LookupError("first")
            if event.call.id == "c2":
                second_raised.set()
                raise LookupError("second")
            ended.append(event.call.id)

    calls = [call("echo", f"c{number}", text="x") for number in (1, 2, 3)]
    with pytest.raises(LookupError, match="first"):
        rig.process([echo], *calls, hooks=Fragile())
    assert ended == ["c3"]


def test_a_hook_that_raises_keeps_later_calls_from_starting_one_after_the_other(rig):
    started = []

    class Fragile(Hooks):
        def before_tool(self, event):
            started.append(event.call.id)
            raise LookupError("no")

    with pytest.raises(LookupError, match="no"):
        rig.process([echo], call("echo", "c1", text="x"), call("echo", "c2", text="y"), hooks=Fragile(), parallel=False)
    assert started == ["c1"]


@pytest.mark.parametrize("name", ["before_tool", "on_tool_error"])
def test_a_hook_that_decides_nothing_known_is_an_error(rig, name):
    class Odd:
        def __getattr__(self, asked):
            if asked == name:
                return lambda event: True
            raise AttributeError(asked)

    with pytest.raises(TypeError, match=f"{name} of tool 'boom' must return"):
        rig.process([boom], call("boom"), hooks=Odd())


def test_a_handler_is_told_when_a_sibling_has_the_answer_taken_back(rig):
    """Zeitlich's siblings are cancelled by its workflow engine; here they look at a flag, and are waited for."""
    patient_started = threading.Event()
    ended = []

    def taking_back() -> Rewind:
        assert patient_started.wait(20)
        return Rewind()

    def patient(ctx) -> str:
        patient_started.set()
        until_cancelled(ctx)
        ended.append(True)
        return "never stored"

    batch = rig.process([patient, taking_back], call("patient", "c1"), call("taking_back", "c2"))
    assert (batch.outcomes, batch.rewind, ended) == ([], call("taking_back", "c2"), [True])


def until_cancelled(ctx):
    until(lambda: ctx.cancelled, seconds=20)


def test_of_two_rewinds_the_first_counts(rig):
    undone = threading.Event()

    def late(ctx) -> Rewind:
        assert undone.wait(20)
        until_cancelled(ctx)
        return Rewind()

    def early() -> Rewind:
        undone.set()
        return Rewind()

    assert rig.process([late, early], call("late", "c1"), call("early", "c2")).rewind == call("early", "c2")


def test_a_call_that_waits_for_a_thread_when_the_answer_is_taken_back_never_starts():
    all_threads_taken, started = threading.Barrier(MAX_THREADS, timeout=20), []

    def taking_back() -> Rewind:
        all_threads_taken.wait()
        return Rewind()

    def patient(ctx) -> None:
        all_threads_taken.wait()
        until_cancelled(ctx)

    class Watch(Hooks):
        def before_tool(self, event):
            started.append(event.call.name)

    names = ["taking_back", *["patient"] * (MAX_THREADS - 1), "echo"]
    calls = [call(name, f"c{place}", **({"text": "x"} if name == "echo" else {})) for place, name in enumerate(names)]
    assert Rig("sync").process([taking_back, patient, echo], *calls, hooks=Watch()).rewind == calls[0]
    assert sorted(started) == sorted(names[:-1])


def test_a_call_whose_hook_is_still_asked_when_the_answer_is_taken_back_never_runs(rig):
    asked, undone, ran = threading.Event(), threading.Event(), []

    def taking_back() -> Rewind:
        assert asked.wait(20)
        return Rewind()

    class Slow(Hooks):
        def before_tool(self, event):
            if event.call.name == "late":
                asked.set()
                assert undone.wait(20)

    def watch(ctx) -> None:
        until_cancelled(ctx)
        undone.set()

    tools = [taking_back, watch, Tool("late", "", lambda: ran.append(True))]
    batch = rig.process(tools, call("taking_back", "c1"), call("watch", "c2"), call("late", "c3"), hooks=Slow())
    assert (batch.rewind.id, ran) == ("c1", [])


def test_a_handler_may_say_itself_that_it_failed(rig):
    asked = []

    class Ask(Hooks):
        def on_tool_error(self, event):
            asked.append(event)

    made = Tool("look", "", lambda: ToolResult({"why": "no such file"}, data=404, error=True))
    [outcome] = rig.process([made], call("look"), hooks=Ask()).outcomes
    assert (outcome.content, outcome.data, outcome.error, asked) == ({"why": "no such file"}, 404, True, [])


def test_a_handler_that_returns_what_is_no_json_has_failed(rig):
    asked = []

    class Ask(ToolHooks):
        def on_error(self, event):
            asked.append(str(event.error))

    [outcome] = rig.process([Tool("odd", "", lambda: {"it": object()}, hooks=Ask())], call("odd")).outcomes
    assert json.loads(outcome.content) == GENERIC
    assert "must return JSON" in asked[0]


def test_arguments_that_a_hook_replaced_are_not_checked_again_and_reach_a_model_whole(rig):
    class Amount(BaseModel):
        n: int
        unit: str = "kg"

    seen = []

    def weigh(amount: Amount) -> None:
        seen.append((type(amount), amount.n, amount.unit))

    class Odd(Hooks):
        def before_tool(self, event):
            return ReplaceArgs({"n": "many"}) if event.call.id == "c2" else None

    rig.process(
        [Tool("weigh", "", weigh, Amount)],
        call("weigh", "c1", n="5"),
        call("weigh", "c2", n=6),
        hooks=Odd(),
        parallel=False,
    )
    assert seen == [(Amount, 5, "kg"), (Amount, "many", "kg")]


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, asyncio.CancelledError])
def test_a_cancellation_is_never_taken_for_a_tools_failure(kind):
    rig = Rig("sync")

    def stop() -> None:
        raise kind

    asked = []

    class Recover(Hooks):
        def on_tool_error(self, event):
            asked.append(event)
            return Fallback("instead")

    for calls in ([call("stop")], [call("stop", "c1"), call("echo", "c2", text="x")]):
        with pytest.raises(kind):
            rig.process([stop, echo], *calls, hooks=Recover())
    assert asked == []


def test_handlers_are_told_when_a_sibling_is_asked_to_stop(rig):
    ended = []

    def stop() -> None:
        raise SoftTimeLimitExceeded

    def patient(ctx) -> None:
        until_cancelled(ctx)
        ended.append(True)

    with pytest.raises(SoftTimeLimitExceeded):
        rig.process([patient, stop], call("patient", "c1"), call("stop", "c2"))
    assert ended == [True]


def test_a_soft_time_limit_is_never_taken_for_a_tools_failure(rig):
    def stop() -> None:
        raise SoftTimeLimitExceeded

    for calls in ([call("stop")], [call("stop", "c1"), call("echo", "c2", text="x")]):
        with pytest.raises(SoftTimeLimitExceeded):
            rig.process([stop, echo], *calls)
