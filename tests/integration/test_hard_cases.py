"""Schedules that are hard to get right: lost replies, lost memory, full memory, and sessions that are not alone."""

import asyncio
import gc
import threading

import pytest

from tests.integration.protocol import Racing, messages_in, user
from tests.waiting import until
from threadkeep import AsyncThreadkeep, Entry, ThreadBusy, Threadkeep, ThreadRef
from threadkeep.errors import (
    HotTierLost,
    HydrateFailed,
    InvalidMessage,
    LeaseLost,
    MessageConflict,
    StoreFull,
    StoreUnavailable,
    ThreadErased,
    ThreadNotFound,
)
from threadkeep.local.valkey import ValkeyServer
from threadkeep.model import ArchiveMeta, fresh_mark
from threadkeep.storage.link import run_now as now
from threadkeep.storage.ports import CatalogRow
from threadkeep.storage.tombstones import tombstone
from threadkeep.tasks.adoption import make_app
from threadkeep.tasks.describe import find
from threadkeep.tasks.enqueue import Enqueuer
from threadkeep.tasks.flush import flush
from threadkeep.tasks.hydrate import hydrate
from threadkeep.tasks.sweeper import sweep


@pytest.fixture
def session(keep):
    with keep.new() as session:
        yield session


@pytest.fixture
def ref(session):
    return ThreadRef.of(session.id)


@pytest.fixture
def swept(stores, settings):
    return lambda: sweep(stores, Enqueuer(make_app(settings, publisher=True)), force=True)


def end_lease(stores, ref):
    now(stores.hot.link.run("HSET", stores.hot.keys(ref).head, "lease_until", 1))


def lose_reply(monkeypatch, session, name):
    """The next call of a write is done, and its reply is lost."""
    hot, original = session._writer._hot, getattr(session._writer._hot, name)

    async def done_but_unheard(*args, **kwargs):
        monkeypatch.setattr(hot, name, original)
        await original(*args, **kwargs)
        raise StoreUnavailable("Redis", name, "the reply was lost")

    monkeypatch.setattr(hot, name, done_but_unheard)


def send_again(monkeypatch, session, meanwhile):
    """The next truncation is done, its reply is lost, `meanwhile` happens, and the link sends it again."""
    link, outcomes = session._writer._hot.link, []
    original = link.call

    async def done_twice(name, keys, args):
        reply = await original(name, keys, args)
        if name in ("truncate", "rewrite") and not outcomes:
            outcomes.append(meanwhile().outcome)
            reply = await original(name, keys, args)
        return reply

    monkeypatch.setattr(link, "call", done_twice)
    return outcomes


# --- sessions that are not alone ------------------------------------------------------------------------------------


def test_a_fenced_session_stays_fenced(stores, keep, session, ref, worker):
    worker()
    session.append(user("1"), user("2"), ids=["m1", "m2"])
    end_lease(stores, ref)
    with keep.open(ref.thread_id) as second:
        second.replace(user("other"), ids=["m2"])
    keep.flush(ref.thread_id, wait=20)
    until(lambda: now(stores.hot.look(ref)).head is None)
    for _ in range(2):
        with pytest.raises(LeaseLost):
            session.append(user("3"))
    with pytest.raises(LeaseLost):
        session.truncate("m2")
    with keep.open(ref.thread_id) as third:
        assert third.messages == [user("other")]


def test_ids_are_known_after_the_thread_left_redis_under_its_session(stores, session, ref, worker):
    worker()
    session.append(user("1"), user("2"), ids=["m1", "m2"])
    end_lease(stores, ref)
    assert flush(stores, ref, "evict").residence == "evicted"
    assert session.append(user("1"), id="m1") == ["m1"]
    with pytest.raises(MessageConflict):
        session.append(user("other"), id="m2")
    assert session.messages == [user("1"), user("2")]
    assert session.truncate("m2") == 1


def test_an_overwrite_that_races_a_flush_starts_anew_all_the_same(keep, stores, worker, settings):
    worker()
    with keep.new("t", state={"old": True}) as first:
        first.append(user("old"))
    ref = ThreadRef.of("t")
    with Threadkeep(settings) as racing:
        hot, rewrite = racing._threads.hot, racing._threads.hot.rewrite

        async def late(*args, **kwargs):
            hot.rewrite = rewrite
            flush(stores, ref, "checkpoint")
            return await rewrite(*args, **kwargs)

        hot.rewrite = late
        with racing.new("t", overwrite=True) as second:
            assert (second.messages, second.state, second.count) == ([], {}, 0)
            second.append(user("new"))
    keep.flush("t", wait=20)
    assert keep.read("t").messages == [user("new")]


def test_a_session_dropped_without_leaving_lets_its_lease_go(settings):
    with Threadkeep(settings.model_copy(update={"lease_seconds": 1.0})) as keep:
        session = keep.new()
        thread_id = session.id
        del session
        gc.collect()
        with keep.open(thread_id, wait=20) as second:
            assert second.messages == []


def test_an_interrupted_opening_gives_its_lease_back(settings, keep):
    with keep.new() as first:
        first.append(user("1"))

    async def interrupted():
        async with AsyncThreadkeep(settings) as akeep:
            hot, acquire = akeep._threads.hot, akeep._threads.hot.acquire

            async def slow_to_answer(*args):
                await acquire(*args)
                await asyncio.Event().wait()

            hot.acquire = slow_to_answer
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.5):
                    await akeep.open(first.id)

    asyncio.run(interrupted())
    with keep.open(first.id) as second:
        assert second.messages == [user("1")]


def test_more_waiters_than_connections(settings, stores, keep, worker):
    """Each listens on a connection of its own; those for commands are shared."""
    few = settings.model_copy(update={"redis_max_connections": 4})
    with keep.new() as session:
        session.append(user("1"))
    flush(stores, ThreadRef.of(session.id), "evict")

    async def read_all():
        async with AsyncThreadkeep(few) as akeep:
            return await asyncio.gather(*[akeep.read(session.id) for _ in range(120)])

    waiting = []
    reader = threading.Thread(target=lambda: waiting.extend(asyncio.run(read_all())))
    reader.start()
    worker()
    reader.join(60)
    assert [view.messages for view in waiting] == [[user("1")]] * 120


# --- lost replies ---------------------------------------------------------------------------------------------------


def test_an_append_whose_reply_was_lost_may_be_repeated(session, monkeypatch):
    session.append(user("0"), id="m0")
    assert session.messages == [user("0")]
    lose_reply(monkeypatch, session, "append")
    with pytest.raises(StoreUnavailable):
        session.append(user("1"), id="m1")
    assert session.append(user("2"), id="m2") == ["m2"]
    assert session.append(user("1"), id="m1") == ["m1"]
    assert session.append(user("2"), id="m2") == ["m2"]
    assert session.messages == [user("0"), user("1"), user("2")]
    assert session.truncate("m2") == 1
    assert session.messages == [user("0"), user("1")]


@pytest.mark.parametrize("write", ["truncate", "rewrite", "save"])
def test_any_write_whose_reply_was_lost_leaves_the_session_right(stores, session, ref, monkeypatch, write):
    session.append(user("0"), user("1"), ids=["m0", "m1"])
    lose_reply(monkeypatch, session, write)
    with pytest.raises(StoreUnavailable):
        match write:
            case "truncate":
                session.truncate("m1")
            case "rewrite":
                session.replace(user("0"), ids=["m0"])
            case "save":
                session.label(a="b")
    session.append(user("2"), id="m2")
    assert session.messages == messages_in(stores, ref)
    assert session.count == len(session.messages)


@pytest.mark.parametrize("archived", [False, True], ids=["in-the-log", "in-the-base"])
def test_a_truncation_that_is_sent_again_after_a_flush_tells_its_own_success(
    stores, session, ref, monkeypatch, archived
):
    """The link repeats a command whose reply was lost; a flush in between has given the thread another gen."""
    session.append(user("0"), user("1"), user("2"), ids=["m0", "m1", "m2"])
    if archived:
        flush(stores, ref, "checkpoint")
    meanwhile = send_again(monkeypatch, session, lambda: flush(stores, ref, "checkpoint"))
    assert session.truncate("m1") == 2
    assert meanwhile == ["archived"]
    assert (session.count, session.messages) == (1, [user("0")])
    assert session.append(user("1"), id="m1") == ["m1"]


def test_an_append_after_everything_was_cut_is_still_made_once(session):
    session.append(user("0"), user("1"), user("2"), ids=["m0", "m1", "m2"])
    assert session.truncate("m0") == 3
    assert session.count == 0
    session.append(user("n"), id="n")
    session.append(user("n"), id="n")
    assert session.messages == [user("n")]
    session.replace()
    assert (session.count, session.messages) == (0, [])


def test_what_a_session_hands_out_is_not_what_it_keeps(session):
    message = {"role": "user", "content": ["a"]}
    session.append(message, id="m")
    session.messages[0]["content"].append("b")
    message["content"].append("c")
    session.entries[0].body["content"] = "d"
    assert session.messages == [{"role": "user", "content": ["a"]}]
    assert session.append({"role": "user", "content": ["a"]}, id="m") == ["m"]


# --- the catalog is told --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["evict", "linger"])
def test_a_flush_killed_before_it_told_the_catalog_is_told_by_the_sweep(stores, keep, swept, monkeypatch, mode):
    with keep.new() as session:
        session.append(user("1"))
    ref = ThreadRef.of(session.id)
    monkeypatch.setattr(type(stores), "record_archived", lambda *_, **__: (_ for _ in ()).throw(SystemExit))
    with pytest.raises(SystemExit):
        flush(stores, ref, mode)
    monkeypatch.undo()
    assert stores.catalog.get(ref) is None
    assert swept().catalog_rows == 1
    assert stores.catalog.get(ref).stat.tier == "cold"
    assert swept().catalog_rows == 0


def test_the_catalog_hears_that_a_cached_copy_was_evicted(stores, keep, swept):
    with keep.new() as session:
        session.append(user("1"))
    ref = ThreadRef.of(session.id)
    flush(stores, ref, "linger")
    assert stores.catalog.get(ref).cached_until is not None
    keep.flush(session.id)
    assert now(stores.hot.look(ref)).head is None
    swept()
    assert stores.catalog.get(ref).cached_until is None


def test_one_copy_that_cannot_be_looked_at_keeps_no_other_from_being_compared(stores, keep, swept, caplog):
    """Of both the catalog knows something newer, as after a failover of Redis; the head of one is none."""
    refs = []
    for _ in range(2):
        with keep.new() as session:
            session.append(user("1"))
        refs.append(ThreadRef.of(session.id))
        flush(stores, refs[-1], "linger")
    stores.catalog.record(
        [CatalogRow(ref, "cold", stamp=2**51, rev=2**51, archived_rev=2**51, cached_until=4e9) for ref in refs]
    )
    now(stores.hot.link.run("SET", stores.hot.keys(refs[0]).head, "no hash", "EX", 600))
    assert swept().outdated == 1
    assert now(stores.hot.look(refs[1])).head is None
    told = [record.thread_id for record in caplog.records if "could not be compared" in record.message]
    assert told == [str(refs[0])]


def lose_ids(stores, ref):
    """All else is there, so whoever opens the thread has it mended: nothing is lost."""
    now(stores.hot.link.run("DEL", stores.hot.keys(ref).ids))


def test_what_will_be_mended_is_found_before_it_is(stores, session, ref):
    session.append(user("1"))
    lose_ids(stores, ref)
    stat = find(stores, ref)
    assert (stat.tier, stat.count, stat.rev > stat.archived_rev) == ("hot", 1, True)


def test_a_flush_that_finds_a_thread_not_whole_keeps_no_later_one_from_being_queued(stores, session, ref):
    session.append(user("1"))
    assert request_flush(stores, ref) == b"enqueue"
    lose_ids(stores, ref)
    assert flush(stores, ref, "linger").outcome == "absent"
    assert hydrate(stores, ref).outcome == "mended"
    assert request_flush(stores, ref) == b"enqueue"
    assert request_flush(stores, ref) == b"coalesced"


def request_flush(stores, ref):
    return now(stores.hot.call("request_flush", ref, ["linger", fresh_mark(), 60_000]))


# --- Redis loses its memory, or has none left -----------------------------------------------------------------------


def test_a_thread_lost_before_it_was_ever_archived_is_not_silently_begun_anew(keep, stores, swept, worker):
    with keep.new() as session:
        session.append(user("only in Redis"))
        swept()
        now(stores.hot.link.run("DEL", *stores.hot.keys(ThreadRef.of(session.id)).all))
    worker()
    with pytest.raises(HydrateFailed, match="never archived"):
        keep.open(session.id, create=True)
    assert "hot_loss" in [event.kind for _, event in stores.catalog.events(ThreadRef.of(session.id))]
    with keep.open(session.id, create=True) as anew:
        assert anew.messages == []


def test_waiting_for_the_archive_notices_that_the_thread_is_gone(keep, stores, worker):
    worker()
    with keep.new() as session:
        session.append(user("1"))
        now(stores.hot.link.run("DEL", *stores.hot.keys(ThreadRef.of(session.id)).all))
        with pytest.raises(HotTierLost):
            session.checkpoint(wait=20)


def test_a_full_redis_takes_nothing_more_and_lets_threads_go(settings, stores_for_test, tmp_path):
    with ValkeyServer(tmp_path / "small", maxmemory="4mb", policy="noeviction") as small:
        tight = settings.model_copy(update={"redis_url": small.url(0)})
        stores = stores_for_test(tight)
        with Threadkeep(tight) as keep:
            with keep.new() as session:
                session.append(user("kept"))
                with pytest.raises(StoreFull, match="Free memory") as full:
                    for number in range(1000):
                        session.append(user(f"content-{number}-" + "x" * 50_000))
                assert "content-" not in str(full.value) + str(full.value.__cause__)
                count = len(session.messages)
            ref = ThreadRef.of(session.id)
            assert flush(stores, ref, "linger").outcome == "archived"
            assert stores.cold.head(ref).meta.count >= count
            assert now(stores.hot.look(ref)).head is None
            with keep.new() as other:
                other.append(user("room again"))


# --- limits ---------------------------------------------------------------------------------------------------------


def test_a_thread_never_grows_beyond_what_can_be_read(settings):
    with Threadkeep(settings.model_copy(update={"max_thread_bytes": 3000})) as keep, keep.new() as session:
        session.append(user("x" * 1500))
        with pytest.raises(InvalidMessage, match="MAX_THREAD_BYTES"):
            session.append(user("x" * 1500))
        with pytest.raises(InvalidMessage, match="MAX_THREAD_BYTES"):
            session.replace(user("x" * 3000))
        assert session.count == 1


def test_an_append_holds_redis_up_only_so_long(session):
    with pytest.raises(InvalidMessage, match=r"1,001 messages: exceed THREADKEEP_MAX_APPEND_MESSAGES \(1,000\)"):
        session.append(*[user("x")] * 1001)
    with pytest.raises(InvalidMessage, match="an integer of"):
        session.append({"n": 10**5000})
    assert session.append(Entry("e", "user", 2**4095)) == ["e"]


# --- erasure --------------------------------------------------------------------------------------------------------


def test_a_delete_holds_though_its_message_is_lost(keep, stores, session, ref, swept, worker):
    session.append(user("secret"))
    flush(stores, ref, "checkpoint")
    broken = Threadkeep(stores.settings.model_copy(update={"broker_url": "redis://127.0.0.1:1/0"}))
    request = broken.delete(ref.thread_id)
    assert now(stores.hot.look(ref)).status == "erasing"
    with pytest.raises(ThreadErased):
        session.append(user("more"))
    with pytest.raises(ThreadErased):
        keep.new(ref.thread_id, overwrite=True)
    assert swept().erasing == 1
    worker()
    until(lambda: now(stores.hot.receipt(ref, request)))
    assert stores.cold.head(ref).meta.tombstone
    with pytest.raises(ThreadNotFound):
        keep.open(ref.thread_id)
    broken.close()


# --- stores without conditional writes ------------------------------------------------------------------------------


@pytest.fixture
def unconditional(settings, stores_for_test):
    return stores_for_test(settings.model_copy(update={"conditional_writes": "off"}))


def test_without_conditional_writes_a_new_thread_outlives_an_erasure_ahead_of_the_clock(unconditional, keep):
    with keep.new() as session:
        session.append(user("new"))
    ref = ThreadRef.of(session.id)
    ahead = now(unconditional.hot.clock(ref)) + 10**12
    grave = ArchiveMeta(ahead, fresh_mark(), "", 0, 0, tombstone=True)
    unconditional.cold.put(ref, tombstone(ref, rev=ahead, request="r"), meta=grave, based_on=None)
    assert flush(unconditional, ref, "evict").outcome == "archived"
    assert hydrate(unconditional, ref).outcome == "restored"
    assert messages_in(unconditional, ref) == [user("new")]


def test_without_conditional_writes_an_older_timeline_keeps_both_sides(unconditional, keep):
    with keep.new() as session:
        session.append(user("mine"))
    ref = ThreadRef.of(session.id)
    ahead = now(unconditional.hot.clock(ref)) + 10**12
    theirs = ArchiveMeta(ahead, fresh_mark(), "", 1, 5)
    unconditional.cold.put(ref, b"theirs", meta=theirs, based_on=None)
    assert flush(unconditional, ref, "evict").outcome == "archived"
    assert [item.meta.rev for item in unconditional.cold.conflicts(ref)] == [ahead]
    assert hydrate(unconditional, ref).outcome == "restored"
    assert messages_in(unconditional, ref) == [user("mine")]


def test_without_conditional_writes_an_old_flush_gives_way_too(unconditional, session, ref):
    session.append(user("old"))

    def newer():
        session.append(user("new"))
        assert flush(unconditional, ref, "linger").outcome == "archived"

    with Racing(unconditional, "put", newer):
        assert flush(unconditional, ref, "linger").outcome == "superseded"
    session.close()
    flush(unconditional, ref, "evict")
    assert hydrate(unconditional, ref).outcome == "restored"
    assert messages_in(unconditional, ref) == [user("old"), user("new")]


def test_a_busy_thread_is_not_overwritten(keep, session, worker):
    worker()
    with pytest.raises(ThreadBusy):
        keep.new(session.id, overwrite=True)


def test_a_thread_that_was_flushed_while_it_was_open_is_cold_in_the_catalog_once_it_is_left(keep, stores, swept):
    """The flush finds it leased, and lists it as hot; leaving it clean queues no other flush, so the sweep says so."""
    with keep.new() as session:
        session.append(user("1"))
    ref = ThreadRef.of(session.id)
    with keep.open(session.id):
        assert flush(stores, ref, "linger").outcome == "archived"
        assert stores.catalog.get(ref).stat.tier == "hot"
    swept()
    assert stores.catalog.get(ref).stat.tier == "cold"


@pytest.fixture
def left_by_the_dead(stores, keep):
    """A thread that was flushed while it was open, whose app died then; its lease has ended."""
    session = keep.new()
    session.append(user("1"))
    ref = ThreadRef.of(session.id)
    assert flush(stores, ref, "linger").outcome == "archived"
    session._heartbeat.remove(session._writer)
    end_lease(stores, ref)
    assert stores.catalog.get(ref).stat.tier == "hot"
    return ref


@pytest.mark.parametrize("asked", ["by a worker", "by an app"])
def test_a_thread_whose_lease_ended_unnoticed_is_cold_in_the_catalog_though_somebody_came_before_the_sweep(
    keep, stores, swept, left_by_the_dead, asked
):
    """Whoever asks for it lets the clean copy fade, and so takes it from the index by which the sweep would find it."""
    if asked == "by an app":
        assert keep.prefetch(left_by_the_dead.thread_id)
    else:
        assert hydrate(stores, left_by_the_dead).outcome == "present"
    swept()
    stat = stores.catalog.get(left_by_the_dead).stat
    assert (stat.tier, stat.cached) == ("cold", True)


def test_a_sweep_that_dies_behind_an_ended_lease_leaves_word_for_the_next_one(stores, swept, left_by_the_dead):
    assert now(stores.flow.lapse_many([left_by_the_dead]))[0].status == "fading"
    swept()
    stat = stores.catalog.get(left_by_the_dead).stat
    assert (stat.tier, stat.cached) == ("cold", True)
