"""Handlers learn what they serve, and save the state while they run; however many ask, one save is enough."""

import asyncio
import signal
import threading

import pytest

from tests.waiting import until
from threadkeep.session.codecs.base import ToolCall
from threadkeep.session.loop.calling import AsyncCalling, SyncCalling
from threadkeep.session.loop.context import AsyncToolContext, BatchFacts, ToolContext
from threadkeep.session.loop.router import Router
from threadkeep.session.loop.state import State
from threadkeep.session.loop.tools import Tool
from threadkeep.storage.link import run_now


class Rig:
    """A router, and a place to save to that never takes two saves at once."""

    def __init__(self, face):
        self.face = face
        self.state = State()
        self.saves = []
        self.during_save = lambda: None
        self.on_wait = lambda: None
        self.saving = 0

    async def save(self):
        self.saving += 1
        assert self.saving == 1, "two saves at once"
        try:
            version = self.state.version
            if self.face == "async":
                await asyncio.to_thread(self.during_save)
            else:
                self.during_save()
            self.saves.append(version)
        finally:
            self.saving -= 1

    def run(self, *handlers, parallel=True):
        """What became of one call of each handler."""
        calls = [ToolCall(f"c{place}", f"tool_{place}", {}) for place in range(len(handlers))]
        tools = [Tool(call.name, "", handler) for call, handler in zip(calls, handlers, strict=True)]
        facts = BatchFacts("thread-1", "acme", "run-1", "a-run-1-4", self.state, self.save)

        async def process(calling):
            return await Router(tools, None, calling).process(calls, facts=facts, turn=4, parallel=parallel)

        return run_now(process(self.calling())) if self.face == "sync" else asyncio.run(self.main(process))

    async def main(self, process):
        return await process(self.calling())

    def calling(self):
        """A way of calling that says when somebody waits for a save of somebody else's."""
        rig, kind = self, SyncCalling if self.face == "sync" else AsyncCalling

        class Watched(kind):
            async def settled(self, future):
                rig.on_wait()
                return await super().settled(future)

        return Watched()


@pytest.fixture(params=["sync", "async"])
def rig(request):
    return Rig(request.param)


def plain(work):
    """A handler that is a plain function; `work` gets its context and how to save."""

    def handler(ctx):
        return work(ctx, ctx.save)

    return handler


def coroutine(work):
    """A handler that is a coroutine function; `work` runs in a thread of its own and saves through the loop."""

    async def handler(ctx):
        loop = asyncio.get_running_loop()

        def save():
            asyncio.run_coroutine_threadsafe(ctx.save(), loop).result(20)

        return await asyncio.to_thread(work, ctx, save)

    return handler


@pytest.fixture(params=[plain, coroutine], ids=["function", "coroutine function"])
def kind(request):
    return request.param


def test_a_context_tells_what_the_call_serves(rig, kind):
    seen = []
    rig.run(kind(lambda ctx, save: seen.append(ctx)))
    [ctx] = seen
    assert (ctx.thread_id, ctx.namespace, ctx.run_id, ctx.call_id) == ("thread-1", "acme", "run-1", "c0")
    assert (ctx.tool_name, ctx.turn, ctx.assistant_id, ctx.cancelled) == ("tool_0", 4, "a-run-1-4", False)
    assert ctx.state is rig.state
    with pytest.raises(AttributeError):
        ctx.turn = 5


def test_a_context_goes_by_the_handler_whatever_the_session(rig):
    seen = []
    rig.run(plain(lambda ctx, save: seen.append(type(ctx))), coroutine(lambda ctx, save: seen.append(type(ctx))))
    assert sorted(seen, key=str) == [AsyncToolContext, ToolContext]


def test_the_state_is_not_shown_where_a_context_is_printed(rig, kind):
    rig.state["secret"] = "hunter2"
    [outcome] = rig.run(kind(lambda ctx, save: repr(ctx))).outcomes
    assert "run-1" in outcome.content
    assert "hunter2" not in outcome.content


def test_several_handlers_that_save_one_state_cause_one_save(rig, kind):
    everyone = threading.Barrier(3, timeout=20)

    def work(ctx, save):
        everyone.wait()
        save()

    batch = rig.run(*[kind(work) for _ in range(3)])
    assert [outcome.error for outcome in batch.outcomes] == [False] * 3
    assert rig.saves == [0]


def test_handlers_of_both_kinds_share_a_save(rig):
    everyone = threading.Barrier(2, timeout=20)

    def work(ctx, save):
        everyone.wait()
        save()

    rig.run(plain(work), coroutine(work))
    assert rig.saves == [0]


def test_a_state_that_changed_is_saved_again(rig, kind):
    def work(ctx, save):
        save()
        save()
        ctx.state["step"] = 1
        save()
        save()

    rig.run(kind(work))
    assert rig.saves == [0, 1]


def test_another_turn_saves_again(rig, kind):
    rig.run(kind(lambda ctx, save: save()))
    rig.run(kind(lambda ctx, save: save()))
    assert rig.saves == [0, 0]


def test_a_change_while_a_save_is_on_its_way_waits_for_it_and_is_saved_after(rig, kind):
    under_way, changed = threading.Event(), threading.Event()

    def during():
        if not under_way.is_set():
            under_way.set()
            assert changed.wait(20)

    rig.during_save = during

    def first(ctx, save):
        save()

    def second(ctx, save):
        assert under_way.wait(20)
        ctx.state["step"] = 1
        changed.set()
        save()

    batch = rig.run(kind(first), kind(second))
    assert [outcome.error for outcome in batch.outcomes] == [False, False]
    assert rig.saves == [0, 1]


def test_a_save_that_fails_fails_for_each_that_shares_it_and_may_be_tried_again(rig, kind):
    tries, under_way, sharing = [], threading.Event(), threading.Event()
    rig.on_wait = sharing.set

    def during():
        tries.append(True)
        if len(tries) == 1:
            under_way.set()
            assert sharing.wait(20)
            raise LookupError("no store")

    rig.during_save = during
    errors = []

    def tried(save):
        try:
            save()
        except LookupError as error:
            errors.append(str(error))

    def second(ctx, save):
        assert under_way.wait(20)
        tried(save)
        tried(save)

    rig.run(kind(lambda ctx, save: tried(save)), kind(second))
    assert errors == ["no store", "no store"]
    assert (len(tries), rig.saves) == (2, [0])


def test_a_save_that_is_broken_off_is_done_again_by_who_waits_for_it():
    rig, under_way, sharing, released = Rig("async"), threading.Event(), threading.Event(), threading.Event()
    rig.on_wait = sharing.set

    def during():
        if not under_way.is_set():
            under_way.set()
            released.wait(20)

    rig.during_save = during

    async def first(ctx):
        saving = asyncio.create_task(ctx.save())
        assert await asyncio.to_thread(sharing.wait, 20)
        saving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await saving
        released.set()

    async def second(ctx):
        assert await asyncio.to_thread(under_way.wait, 20)
        await ctx.save()

    batch = rig.run(first, second)
    assert [outcome.error for outcome in batch.outcomes] == [False, False]
    assert rig.saves == [0]


def test_who_stops_waiting_for_a_shared_save_leaves_it_to_the_others():
    rig, under_way, sharing, released = Rig("async"), threading.Event(), threading.Event(), threading.Event()
    rig.on_wait = sharing.set

    def during():
        under_way.set()
        released.wait(20)

    rig.during_save = during

    async def first(ctx):
        await ctx.save()

    async def second(ctx):
        assert await asyncio.to_thread(under_way.wait, 20)
        saving = asyncio.create_task(ctx.save())
        assert await asyncio.to_thread(sharing.wait, 20)
        saving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await saving
        released.set()

    batch = rig.run(first, second)
    assert [outcome.error for outcome in batch.outcomes] == [False, False]
    assert rig.saves == [0]


def test_a_handler_that_saves_after_its_turn_is_refused(rig, kind):
    kept = []
    rig.run(kind(lambda ctx, save: kept.append(ctx)))
    [ctx] = kept
    with pytest.raises(RuntimeError, match="the turn that this tool was called in is over"):
        ctx.save() if isinstance(ctx, ToolContext) else asyncio.run(ctx.save())
    assert rig.saves == []


# --- broken off -----------------------------------------------------------------------------------------------------


class Abandoned:
    """A handler that a run stops waiting for: what it sees when it goes on."""

    def __init__(self):
        self.started, self.released, self.seen = threading.Event(), threading.Event(), []

    def handler(self, ctx):
        self.started.set()
        assert self.released.wait(20)
        try:
            ctx.save()
        except RuntimeError as error:
            self.seen.append((ctx.cancelled, str(error)))

    def goes_on(self):
        self.released.set()
        until(lambda: self.seen, seconds=20)
        [(cancelled, told)] = self.seen
        assert cancelled
        assert "is over" in told


def test_a_handler_left_behind_by_a_cancelled_run_is_told_and_saves_no_more():
    rig, abandoned = Rig("async"), Abandoned()

    async def main(process):
        running = asyncio.create_task(process(rig.calling()))
        assert await asyncio.to_thread(abandoned.started.wait, 20)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        await asyncio.to_thread(abandoned.goes_on)

    rig.main = main
    rig.run(abandoned.handler)
    assert rig.saves == []


def interrupting(event):
    """A signal that raises a `KeyboardInterrupt` in the main thread once something has happened."""

    def send():
        event.wait(20)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)

    def interrupt(number, frame):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGUSR1, interrupt)
    threading.Thread(target=send).start()
    return before


def test_a_handler_left_behind_by_an_interrupted_run_is_told_and_saves_no_more():
    rig, abandoned = Rig("sync"), Abandoned()
    before = interrupting(abandoned.started)
    try:
        with pytest.raises(KeyboardInterrupt):
            rig.run(abandoned.handler, lambda: "done")
    finally:
        signal.signal(signal.SIGUSR1, before)
    abandoned.goes_on()
    assert rig.saves == []


def test_an_interrupted_run_waits_for_the_save_that_is_on_its_way():
    rig, under_way, released = Rig("sync"), threading.Event(), threading.Event()

    def during():
        under_way.set()
        released.wait(20)

    rig.during_save, rig.on_wait = during, released.set
    before = interrupting(under_way)
    try:
        with pytest.raises(KeyboardInterrupt):
            rig.run(plain(lambda ctx, save: save()), plain(lambda ctx, save: None))
        assert rig.saves == [0]
    finally:
        signal.signal(signal.SIGUSR1, before)
        released.set()


def test_a_cancelled_run_waits_for_the_save_that_is_on_its_way():
    rig, under_way, released = Rig("async"), threading.Event(), threading.Event()

    def during():
        under_way.set()
        released.wait(20)

    rig.during_save, rig.on_wait = during, released.set

    async def main(process):
        running = asyncio.create_task(process(rig.calling()))
        assert await asyncio.to_thread(under_way.wait, 20)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        return list(rig.saves)

    rig.main = main
    assert rig.run(plain(lambda ctx, save: save())) == [0]
