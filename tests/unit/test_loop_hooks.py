"""Hooks are found on any object, several objects act as one, and a tool's result is always JSON."""

import asyncio
import datetime as dt
import inspect
import threading
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
from anthropic.types import TextBlock
from pydantic import BaseModel

from threadkeep.errors import InvalidMessage
from threadkeep.session.codecs.base import ToolCall
from threadkeep.session.loop.hooks import Fallback, Hooks, ReplaceArgs, Skip, ToolFinished, ToolHooks, compose, hook
from threadkeep.session.loop.outcome import Outcome, as_json, invalid, told

NAMES = [name for name, _ in inspect.getmembers(Hooks, inspect.isfunction)]
OWN_NAMES = ["after", "before", "on_error"]


def test_the_bases_have_each_hook_there_is():
    assert NAMES == [
        "after_message",
        "after_tool",
        "before_message",
        "before_tool",
        "on_fork_prepare",
        "on_fork_transform",
        "on_prepare",
        "on_prepared",
        "on_session_end",
        "on_session_exit",
        "on_session_start",
        "on_tool_error",
        "on_turn_complete",
    ]
    assert [name for name, _ in inspect.getmembers(ToolHooks, inspect.isfunction)] == OWN_NAMES


@pytest.mark.parametrize("nothing", [None, Hooks(), ToolHooks(), SimpleNamespace(), compose(), compose(None, Hooks())])
@pytest.mark.parametrize("name", [*NAMES, *OWN_NAMES])
def test_a_hook_that_is_not_there_is_none(nothing, name):
    assert hook(nothing, name) is None


def test_a_hook_is_found_on_any_object():
    class Mine(Hooks):
        def before_tool(self, event):
            return Skip()

    class Loose:
        async def before_tool(self, event):
            return Skip("loosely")

    assert hook(Mine(), "before_tool")(None) == Skip()
    assert hook(Mine(), "after_tool") is None
    assert asyncio.run(hook(Loose(), "before_tool")(None)) == Skip("loosely")
    assert hook(SimpleNamespace(before=len), "before") is len
    assert hook(SimpleNamespace(before_tool="text"), "before_tool") is None


def test_what_the_bases_return_changes_nothing():
    base, entries = Hooks(), ["one", "two"]
    assert base.on_prepare("one", 0, entries) == base.on_prepared("one", 0, entries) == "one"
    assert base.on_fork_transform("one", 0, entries) == "one"
    assert base.on_fork_prepare(entries) == entries
    assert base.before_tool(None) is base.on_tool_error(None) is ToolHooks().before(None) is None


# --- several as one -------------------------------------------------------------------------------------------------


class Noting:
    """Hooks that note their name and decide what they were told to."""

    def __init__(self, log, name, verdict=None):
        self.log, self.name, self.verdict = log, name, verdict

    def before_tool(self, event):
        self.log.append((self.name, event))
        return self.verdict


class NotingLater(Noting):
    async def before_tool(self, event):
        await asyncio.sleep(0)
        return super().before_tool(event)


def called(function, *args):
    """What a hook gives, with a loop only if it asks for one."""
    given = function(*args)
    return asyncio.run(waited(given)) if inspect.isawaitable(given) else given


async def waited(given):
    return await given


@pytest.mark.parametrize("kinds", [(Noting,) * 3, (NotingLater,) * 3, (Noting, NotingLater, Noting)])
def test_each_is_called_in_order_and_the_last_that_decides_counts(kinds):
    log = []
    verdicts = (Skip("a"), ReplaceArgs({}), None)
    composed = compose(*[kind(log, name, verdict) for kind, name, verdict in zip(kinds, "abc", verdicts, strict=True)])
    assert called(hook(composed, "before_tool"), "event") == ReplaceArgs({})
    assert log == [("a", "event"), ("b", "event"), ("c", "event")]


def test_plain_hooks_need_no_loop():
    composed = compose(Noting([], "a"), None, Noting([], "b", Skip()))
    assert hook(composed, "before_tool")("event") == Skip()


def test_a_plain_hook_behind_a_coroutine_function_does_not_block_the_loop():
    loops_turn = threading.Event()

    class First:
        async def on_session_exit(self, result):
            asyncio.get_running_loop().call_soon(loops_turn.set)

    class Second:
        def on_session_exit(self, result):
            return Fallback(loops_turn.wait(20))

    assert called(hook(compose(First(), Second()), "on_session_exit"), None) == Fallback(True)


def test_a_composition_has_the_hooks_that_any_of_it_has():
    composed = compose(Noting([], "a"), SimpleNamespace(after=len), compose(SimpleNamespace(on_prepare=max)))
    assert [name for name in (*NAMES, *OWN_NAMES) if hook(composed, name)] == ["before_tool", "on_prepare", "after"]
    with pytest.raises(AttributeError):
        composed.anything_else  # noqa: B018


@pytest.mark.parametrize("name", ["on_prepare", "on_prepared", "on_fork_transform"])
def test_a_hook_that_changes_a_value_gets_what_the_one_before_made_of_it(name):
    plus = SimpleNamespace(**{name: lambda value, index, values: f"{value}+{index}"})
    nothing = SimpleNamespace(**{name: lambda value, index, values: None})
    minus = SimpleNamespace(**{name: lambda value, index, values: f"{value}-{len(values)}"})
    assert hook(compose(plus, nothing, minus), name)("a", 3, ["a", "b"]) == "a+3-2"


@pytest.mark.parametrize("later", [False, True])
def test_a_fork_is_prepared_by_each_in_turn(later):
    async def dropping_later(entries):
        return entries[1:]

    first = SimpleNamespace(on_fork_prepare=dropping_later if later else lambda entries: entries[1:])
    second = SimpleNamespace(on_fork_prepare=lambda entries: [*entries, "end"])
    assert called(hook(compose(first, second), "on_fork_prepare"), ["a", "b"]) == ["b", "end"]


# --- what became of a call ------------------------------------------------------------------------------------------


def test_a_finished_tools_data_and_metadata_are_at_hand():
    outcome = Outcome(ToolCall("c1", "add", {}), "3", data={"sum": 3}, metadata={"cost": 1})
    event = ToolFinished(outcome.call, outcome, "t", 1, 0.5)
    assert (event.data, event.metadata, outcome.name) == ({"sum": 3}, {"cost": 1}, "add")


def test_a_refusal_is_told_in_letters_not_in_escapes():
    outcome = invalid(ToolCall("c1", "zählen", {}), 'kein "n"')
    assert outcome.content == '{"error":"Invalid tool call for \\"zählen\\": kein \\"n\\""}'


@pytest.mark.parametrize(
    ("error", "text"), [(ValueError("no"), "ValueError: no"), (KeyError("k"), "KeyError: 'k'"), (OSError(), "OSError")]
)
def test_an_error_is_told_by_its_type_and_words(error, text):
    assert told(error) == text


class Reading(BaseModel):
    at: dt.date
    value: float | None = None


@dataclass
class Point:
    x: int
    seen: dt.date


@pytest.mark.parametrize(
    ("value", "content"),
    [
        (None, None),
        ("text", "text"),
        ({"a": [1, (2, 3)]}, {"a": [1, [2, 3]]}),
        (b"\xff\xfe", "//4="),
        (Reading(at=dt.date(2026, 1, 2)), {"at": "2026-01-02", "value": None}),
        ([{"a": Reading(at=dt.date(2026, 1, 2), value=1)}], [{"a": {"at": "2026-01-02", "value": 1.0}}]),
        (TextBlock(type="text", text="from an SDK"), {"type": "text", "text": "from an SDK"}),
        ([Point(1, dt.date(2026, 1, 2))], [{"x": 1, "seen": "2026-01-02"}]),
        ({1: {2}}, {"1": [2]}),
        (float("inf"), None),
    ],
)
def test_what_a_handler_returns_becomes_json(value, content):
    assert as_json(value) == content


@pytest.mark.parametrize("value", [object(), {"a": [print]}, 2**5000, {"\ud800": object()}])
def test_what_cannot_become_json_is_refused_and_its_type_named(value):
    with pytest.raises(InvalidMessage, match="result"):
        as_json(value)
