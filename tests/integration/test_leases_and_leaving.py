"""Leases live as long as their sessions, and leaving saves, releases and queues the flush on every path."""

import asyncio
import multiprocessing
import threading

import pytest

from tests.integration.protocol import user
from tests.waiting import until
from threadkeep import AsyncThreadkeep, ThreadBusy, Threadkeep, ThreadRef
from threadkeep.errors import FlushTimeout, HotTierLost
from threadkeep.storage.link import run_now as now
from threadkeep.tasks.flush import flush
from threadkeep.tasks.hydrate import hydrate


def head(stores, session):
    return now(stores.hot.look(ThreadRef.of(session.id))).head


@pytest.fixture
def brief(settings):
    return settings.model_copy(update={"lease_seconds": 1.0})


def test_a_heartbeat_keeps_the_lease_of_a_session_that_thinks(brief, stores):
    with Threadkeep(brief) as keep, keep.new() as session:
        first = head(stores, session).lease_until
        until(lambda: head(stores, session).lease_until > first + 1500)
        with pytest.raises(ThreadBusy):
            keep.open(session.id)
        session.append(user("still mine"))
    assert head(stores, session).lease == ""


def test_a_heartbeat_works_under_asyncio(brief, stores):
    async def think():
        async with AsyncThreadkeep(brief) as keep, keep.new() as session:
            first = head(stores, session).lease_until
            while head(stores, session).lease_until <= first + 1500:
                await asyncio.sleep(0.05)
            await session.append(user("still mine"))

    asyncio.run(asyncio.wait_for(think(), 20))


def test_who_waits_for_a_lease_gets_it_when_it_is_given_back(keep):
    order = []
    with keep.new() as session:
        session.append(user("1"))
        waiter = threading.Thread(target=lambda: order.append(keep.open(session.id, wait=20)))
        waiter.start()
        session.append(user("2"))
    waiter.join(20)
    (second,) = order
    assert second.messages == [user("1"), user("2")]
    second.close()


def test_a_lease_that_ran_out_goes_to_the_next(brief, stores):
    with Threadkeep(brief) as keep:
        first = keep.new()
        keep._heartbeat.remove(first._writer)
        with keep.open(first.id, wait=20) as second:
            assert second.messages == []


def test_leaving_through_an_exception_saves_and_queues_all_the_same(keep, stores):
    with pytest.raises(RuntimeError, match="mine"), keep.new() as session:
        session.append(user("1"))
        session.state["step"] = 3
        raise RuntimeError("mine")
    assert session.flush_enqueued
    left = head(stores, session)
    assert (left.state, left.lease, left.flush_mode) == ({"step": 3}, "", "linger")


def test_a_cancelled_task_still_saves_and_queues(settings, stores):
    async def cancelled():
        inside = asyncio.Event()

        async def chat(keep):
            async with keep.new() as session:
                sessions.append(session)
                await session.append(user("1"))
                session.state["step"] = 3
                inside.set()
                await asyncio.Event().wait()

        sessions = []
        async with AsyncThreadkeep(settings) as keep:
            task = asyncio.create_task(chat(keep))
            await inside.wait()
            task.cancel()
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        return sessions[0]

    session = asyncio.run(cancelled())
    assert session.flush_enqueued
    left = head(stores, session)
    assert (left.state, left.lease) == ({"step": 3}, "")


def test_exit_evicts_at_once_where_that_is_set(settings, stores, worker):
    worker()
    with Threadkeep(settings.model_copy(update={"exit_flush": "evict"})) as keep:
        with keep.new(wait_flush=20) as session:
            session.append(user("1"))
        until(lambda: head(stores, session) is None)
        assert keep.read(session.id).messages == [user("1")]


def test_exit_lingers_by_default_and_only_for_a_while(keep, stores, worker):
    worker()
    with keep.new(wait_flush=20) as session:
        session.append(user("1"))
    assert not head(stores, session).dirty
    assert 0 < now(stores.hot.link.run("PTTL", stores.hot.keys(ThreadRef.of(session.id)).head)) <= 60_000


def test_a_checkpoint_archives_while_the_session_goes_on(keep, stores, worker):
    worker()
    with keep.new() as session:
        session.append(user("1"))
        session.state["step"] = 1
        session.checkpoint(wait=20)
        assert stores.cold.head(ThreadRef.of(session.id)).meta.count == 1
        session.append(user("2"))
        assert session.messages == [user("1"), user("2")]


def test_waiting_for_a_flush_without_workers_ends_in_time_and_says_what_is_safe(keep):
    with pytest.raises(FlushTimeout, match="safe in Redis"), keep.new(wait_flush=0.2) as session:
        session.append(user("1"))
    assert keep.read(session.id).messages == [user("1")]


def test_a_prefetched_thread_is_there_when_it_is_opened(keep, stores, worker):
    with keep.new() as session:
        session.append(user("1"))
    flush(stores, ThreadRef.of(session.id), "evict")
    assert keep.prefetch(session.id)
    worker()
    until(lambda: head(stores, session) is not None)
    with keep.open(session.id) as again:
        assert again.messages == [user("1")]


def test_a_session_notices_that_redis_lost_its_memory(keep, stores, worker):
    worker()
    with keep.new() as session:
        ref = ThreadRef.of(session.id)
        session.append(user("archived"))
        flush(stores, ref, "checkpoint")
        session.append(user("acknowledged, and only in Redis"))
        keys = stores.hot.keys(ref)
        now(stores.hot.link.run("DEL", *keys.all))
        with pytest.raises(HotTierLost, match="append the rest again"):
            session.append(user("next"))
        assert session.messages == [user("archived")]
        session.append(user("next"))
    assert keep.read(ref.thread_id).messages == [user("archived"), user("next")]


def test_a_lost_memory_is_noted_for_the_operator(keep, stores):
    with keep.new() as session:
        ref = ThreadRef.of(session.id)
        session.append(user("archived"))
        flush(stores, ref, "checkpoint")
        session.append(user("lost"))
        from threadkeep.tasks.adoption import make_app
        from threadkeep.tasks.enqueue import Enqueuer
        from threadkeep.tasks.sweeper import sweep

        sweep(stores, Enqueuer(make_app(stores.settings, publisher=True)), force=True)
        now(stores.hot.link.run("DEL", *stores.hot.keys(ref).all))
    for _ in range(2):
        assert hydrate(stores, ref).outcome in ("restored", "present")
    kinds = [event.kind for _, event in stores.catalog.events(ref)]
    assert kinds.count("hot_loss") == 1


def _child(keep, thread_id, told):
    with keep.open(thread_id, wait=20) as session:
        session.append(user("child"))
    told.put("done")


def test_a_keep_made_before_a_fork_works_on_both_sides(keep):
    with keep.new() as session:
        session.append(user("parent"))
    context = multiprocessing.get_context("fork")
    told = context.Queue()
    child = context.Process(target=_child, args=(keep, session.id, told))
    child.start()
    assert told.get(timeout=30) == "done"
    child.join()
    assert keep.read(session.id).messages == [user("parent"), user("child")]


def test_one_async_keep_serves_one_loop_after_another(settings):
    keep = AsyncThreadkeep(settings)

    async def say(text, thread_id):
        async with keep.open(thread_id) if thread_id else keep.new() as session:
            await session.append(user(text))
        await keep._link.close()
        return session.id

    thread_id = asyncio.run(say("1", None))
    asyncio.run(say("2", thread_id))
    with Threadkeep(settings) as other:
        assert other.read(thread_id).messages == [user("1"), user("2")]
