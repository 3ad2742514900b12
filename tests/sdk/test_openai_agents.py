"""OpenAI Agents on our session, over real servers: its runs see what they would see on a session of the SDK's own."""

import asyncio
import json
import os
import subprocess
import sys
import threading
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path

import pytest
from agents import Agent, RunConfig, Runner, SessionSettings, SQLiteSession, function_tool
from agents import Session as SessionProtocol
from agents.testing import ModelStep, ScriptedModel, assistant_message, function_call
from openai.types.responses import ResponseReasoningItem

from tests.waiting import until
from threadkeep import AsyncThreadkeep, Threadkeep
from threadkeep.errors import FormatMismatch, InvalidMessage

ROOT = Path(__file__).parents[2]
CODEC = "openai-responses"
QUIET = RunConfig(tracing_disabled=True)
THINKING = ResponseReasoningItem(id="rs_1", type="reasoning", summary=[], encrypted_content="gAAAAAB+/8=")


@function_tool
def weather(city: str) -> str:
    """Tell the weather."""
    return f"sunny in {city}"


def agent(*steps):
    model = ScriptedModel(steps)
    return Agent(name="helper", instructions="Be brief.", model=model, tools=[weather]), model


def two_turns():
    """A question that takes two calls of the tool, and one that takes none."""
    calls = [function_call("weather", {"city": city}, call_id=f"call_{city}") for city in ("Oslo", "Łódź")]
    return [
        [THINKING, *calls],
        [assistant_message("Sunny — 😀", item_id="__fake_id__")],
        [assistant_message("Welcome.", item_id="__fake_id__")],
    ]


def user(text):
    return {"role": "user", "content": text}


def call(call_id):
    return {"type": "function_call", "call_id": call_id, "name": "weather", "arguments": "{}"}


def output(call_id):
    return {"type": "function_call_output", "call_id": call_id, "output": "sunny"}


@asynccontextmanager
async def on_async_thread(settings):
    async with AsyncThreadkeep(settings) as keep, keep.new(codec=CODEC) as session:
        yield session.as_agents_session()


@asynccontextmanager
async def on_sync_thread(settings):
    with Threadkeep(settings) as keep, keep.new(codec=CODEC) as session:
        yield session.as_agents_session()


@pytest.fixture(params=[on_sync_thread, on_async_thread])
def on_thread(settings, request):
    """Runs a coroutine function on the session of a new thread, in a loop of its own."""

    async def whole(body):
        async with request.param(settings) as session:
            return await body(session)

    return lambda body: asyncio.run(whole(body))


# --- runs -----------------------------------------------------------------------------------------------------------


async def seen_undisturbed():
    """What the model is asked, and what is kept, on a session of the SDK's own in one process."""
    helper, model = agent(*two_turns(), [assistant_message("Bye.")])
    session = SQLiteSession("undisturbed")
    for text in ("How is it?", "Thanks.", "Bye."):
        await Runner.run(helper, text, session=session, run_config=QUIET)
    kept = await session.get_items()
    session.close()
    return [seen.input for seen in model.calls], kept


CONTINUE = """
import json, sys
from agents import Agent, RunConfig, Runner
from agents.testing import ScriptedModel, assistant_message
from threadkeep import Threadkeep

model = ScriptedModel([[assistant_message("Bye.")]])
with Threadkeep() as keep, keep.open(sys.argv[1]) as session:
    helper = Agent(name="helper", instructions="Be brief.", model=model)
    Runner.run_sync(helper, "Bye.", session=session.as_agents_session(), run_config=RunConfig(tracing_disabled=True))
print(json.dumps(model.last_call.input))
"""


def continued_elsewhere(settings, thread_id):
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-c", CONTINUE, thread_id],
        env={**os.environ, **settings.to_environ(), "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


async def two_turns_async(settings):
    helper, model = agent(*two_turns())
    async with AsyncThreadkeep(settings) as keep, keep.new(codec=CODEC) as session:
        for text in ("How is it?", "Thanks."):
            await Runner.run(helper, text, session=session.as_agents_session(), run_config=QUIET)
    return model, session.id


def run_async(settings):
    return asyncio.run(two_turns_async(settings))


@contextmanager
def loop_of_run_sync():
    """`Runner.run_sync` leaves the loop that it runs in open, for the next call."""
    with closing(asyncio.new_event_loop()) as loop:
        asyncio.set_event_loop(loop)
        yield
        asyncio.set_event_loop(None)


def run_sync(settings):
    helper, model = agent(*two_turns())
    with loop_of_run_sync(), Threadkeep(settings) as keep, keep.new(codec=CODEC) as session:
        for text in ("How is it?", "Thanks."):
            Runner.run_sync(helper, text, session=session.as_agents_session(), run_config=QUIET)
    return model, session.id


@pytest.mark.filterwarnings("ignore:.*get_event_loop_policy:DeprecationWarning")  # the SDK's own, on Python 3.14
@pytest.mark.parametrize("run", [run_sync, run_async])
def test_a_run_goes_on_in_another_process_as_if_nothing_had_happened(settings, keep, worker, run):
    worker()
    seen, kept = asyncio.run(seen_undisturbed())
    model, thread_id = run(settings)
    model.assert_complete()
    assert [told.input for told in model.calls] == seen[:3]
    keep.flush(thread_id, wait=20)
    until(lambda: not keep.stat(thread_id).cached)
    assert keep.stat(thread_id).tier == "cold"
    assert continued_elsewhere(settings, thread_id) == seen[3]
    assert keep.read(thread_id).messages == kept
    assert [entry.kind for entry in keep.read(thread_id).entries] == [
        "user",
        *["assistant"] * 3,
        *["tool"] * 2,
        "assistant",
        *["user", "assistant"] * 2,
    ]


def test_one_session_serves_one_loop_after_another(settings):
    """As `Runner.run_sync` in a worker process: each run may bring its own loop."""
    helper, model = agent(*two_turns())
    with Threadkeep(settings) as keep, keep.new(codec=CODEC) as thread:
        session = thread.as_agents_session()
        for text in ("How is it?", "Thanks."):
            asyncio.run(Runner.run(helper, text, session=session, run_config=QUIET))
        assert len(model.last_call.input) == 8
        assert thread.count == 9


def test_a_streamed_run_is_kept_too(on_thread):
    async def body(session):
        helper, model = agent(*two_turns())
        for text in ("How is it?", "Thanks."):
            streamed = Runner.run_streamed(helper, text, session=session, run_config=QUIET)
            async for _ in streamed.stream_events():
                pass
        return [told.input for told in model.calls], await session.get_items()

    seen, kept = asyncio.run(seen_undisturbed())
    assert on_thread(body) == (seen[:3], kept[:9])


def test_a_failing_model_leaves_what_was_saved(on_thread):
    async def body(session):
        helper, _ = agent(two_turns()[0], ModelStep.raise_error(RuntimeError("boom")))
        with pytest.raises(RuntimeError, match="boom"):
            await Runner.run(helper, "How is it?", session=session, run_config=QUIET)
        return await session.get_items()

    _, kept = asyncio.run(seen_undisturbed())
    assert on_thread(body) == kept[:6]


def test_a_run_may_see_only_the_latest_items(on_thread):
    async def body(session):
        await session.add_items([user("1"), user("2"), user("3")])
        helper, model = agent([assistant_message("hi")])
        latest = RunConfig(tracing_disabled=True, session_settings=SessionSettings(limit=2))
        await Runner.run(helper, "4", session=session, run_config=latest)
        return model.last_call.input

    assert on_thread(body) == [user("2"), user("3"), user("4")]


# --- the protocol ---------------------------------------------------------------------------------------------------


def test_it_is_a_session_of_the_sdks(on_thread):
    async def body(session):
        assert isinstance(session, SessionProtocol)
        assert session.session_settings is None

    on_thread(body)


def test_it_bears_the_threads_id(keep):
    with keep.new(codec=CODEC) as thread:
        assert thread.as_agents_session().session_id == thread.id


def test_a_thread_of_another_codec_is_refused(keep):
    with keep.new(namespace="acme") as thread, pytest.raises(FormatMismatch) as refused:
        thread.as_agents_session()
    assert refused.value.args == (f"acme/{thread.id}", "plain", CODEC)


def test_items_come_back_as_they_were_added_and_as_copies(on_thread):
    items = [
        user("é 😀"),
        {"id": "__fake_id__", "type": "message", "role": "assistant", "content": [], "parsed": None},
        {"id": "__fake_id__", "type": "message", "role": "assistant", "content": []},
        {"type": "hologram", "beam": {"n": None, "x": 1.0, "big": 10**22 + 1}},
        {**call("c1"), "arguments": '{ "a" :1}', "parsed_arguments": {"a": 1}},
        output("c1"),
    ]

    async def body(session):
        await session.add_items(items[:1])
        await session.add_items(items[1:])
        first = await session.get_items()
        first[3]["beam"]["n"] = "changed"
        return await session.get_items()

    assert on_thread(body) == items


def test_adding_nothing_changes_nothing(on_thread):
    async def body(session):
        await session.add_items([])
        return await session.get_items()

    assert on_thread(body) == []


@pytest.mark.parametrize(
    ("limit", "told"), [(None, "abc"), (0, ""), (-1, ""), (1, "c"), (2, "bc"), (3, "abc"), (9, "abc")]
)
def test_a_limit_gives_the_latest_in_order(on_thread, limit, told):
    async def body(session):
        await session.add_items([user(text) for text in "abc"])
        explicit = await session.get_items(limit)
        session.session_settings = SessionSettings(limit=limit)
        by_settings = await session.get_items()
        session.session_settings = {"limit": limit}
        assert explicit == by_settings == await session.get_items()
        assert await session.get_items(2) == [user("b"), user("c")]
        return explicit

    assert on_thread(body) == [user(text) for text in told]


def test_pop_takes_the_last_item_alone(on_thread):
    thinking = THINKING.model_dump(exclude_unset=True)
    items = [user("a"), thinking, call("c1"), output("c1"), thinking, {"role": "assistant", "content": "b"}]

    async def body(session):
        await session.add_items(items)
        for end in range(len(items) - 1, -1, -1):
            assert await session.pop_item() == items[end]
            assert await session.get_items() == items[:end]
        assert await session.pop_item() is None
        await session.add_items([user("again")])
        return await session.get_items()

    assert on_thread(body) == [user("again")]


def test_a_cleared_session_is_empty_and_goes_on(on_thread):
    async def body(session):
        await session.clear_session()
        await session.add_items([user("a"), user("b")])
        await session.clear_session()
        assert await session.get_items() == []
        await session.clear_session()
        await session.add_items([user("c")])
        return await session.get_items()

    assert on_thread(body) == [user("c")]


# --- what is durable, and when --------------------------------------------------------------------------------------


def test_items_are_durable_when_added(keep):
    with keep.new(codec=CODEC) as thread:
        asyncio.run(thread.as_agents_session().add_items([user("a"), user("b")]))
        assert keep.read(thread.id).messages == [user("a"), user("b")]


def test_a_bad_item_keeps_all_of_its_batch_out(on_thread):
    async def body(session):
        with pytest.raises(InvalidMessage, match="role"):
            await session.add_items([user("a"), {"content": "nobody says this"}])
        with pytest.raises(InvalidMessage, match="nan"):
            await session.add_items([user("a"), {"role": "user", "content": [float("nan")]}])
        return await session.get_items()

    assert on_thread(body) == []


@pytest.mark.parametrize("limit", [{"max_append_messages": 4}, {"max_append_bytes": 1100}])
def test_more_than_one_append_may_hold_is_added_in_parts(settings, limit):
    items = [user("a"), call("c1"), call("c2"), output("c2"), output("c1"), user("b"), call("c3"), output("c3")]
    with Threadkeep(settings.model_copy(update=limit)) as keep, keep.new(codec=CODEC) as thread:
        asyncio.run(thread.as_agents_session().add_items(items * 3))
        assert thread.messages == items * 3


def test_an_item_that_is_too_large_alone_is_refused(settings):
    small = settings.model_copy(update={"max_append_bytes": 1000})
    with Threadkeep(small) as keep, keep.new(codec=CODEC) as thread:
        with pytest.raises(InvalidMessage, match="MAX_APPEND_BYTES"):
            asyncio.run(thread.as_agents_session().add_items([user("x" * 1000)]))
        assert thread.messages == []


def test_what_was_begun_is_finished_before_a_cancellation_goes_on(on_thread):
    async def body(session):
        adding = asyncio.create_task(session.add_items([user("a")]))
        await asyncio.sleep(0)
        adding.cancel()
        with pytest.raises(asyncio.CancelledError):
            await adding
        return await session.get_items()

    assert on_thread(body) == [user("a")]


def test_calls_at_the_same_time_are_done_one_after_another(on_thread):
    async def body(session):
        await session.add_items([user(f"old {number}") for number in range(5)])
        pairs = [(session.add_items([user(f"new {number}")]), session.pop_item()) for number in range(5)]
        done = await asyncio.gather(*[step for pair in pairs for step in pair])
        return [item for item in done if item is not None], await session.get_items()

    popped, left = on_thread(body)
    texts = [item["content"] for item in [*popped, *left]]
    assert len(popped) == 5
    assert sorted(texts) == sorted(f"{age} {number}" for age in ("old", "new") for number in range(5))


def test_two_loops_at_the_same_time_share_a_session(settings):
    with Threadkeep(settings) as keep, keep.new(codec=CODEC) as thread:
        session = thread.as_agents_session()

        async def add(name):
            for number in range(10):
                await session.add_items([user(f"{name}{number}")])

        loops = [threading.Thread(target=lambda name=name: asyncio.run(add(name))) for name in "ab"]
        for loop in loops:
            loop.start()
        for loop in loops:
            loop.join()
        texts = [message["content"] for message in thread.messages]
    assert [text for text in texts if text[0] == "a"] == [f"a{number}" for number in range(10)]
    assert [text for text in texts if text[0] == "b"] == [f"b{number}" for number in range(10)]
