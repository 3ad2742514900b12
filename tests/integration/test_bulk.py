"""Many threads in one task: each ends as it would alone, and none stands in another's way."""

from contextlib import suppress
from urllib.parse import urlsplit

import pytest

from tests.integration.command import run_command
from tests.integration.protocol import Racing, messages_in, user
from tests.waiting import until
from threadkeep.errors import StoreUnavailable
from threadkeep.model import ThreadRef
from threadkeep.storage.hot_keys import tries_key
from threadkeep.storage.link import run_now as now
from threadkeep.tasks import bulk
from threadkeep.tasks.adoption import make_app
from threadkeep.tasks.bulk import flush_many, hydrate_many
from threadkeep.tasks.conf import FLUSH
from threadkeep.tasks.enqueue import Enqueuer
from threadkeep.tasks.flush import flush
from threadkeep.tasks.hydrate import hydrate
from threadkeep.tasks.stores import head_row
from threadkeep.tasks.sweeper import sweep
from threadkeep.testing.faults import Work, tracing


@pytest.fixture
def left(keep, settings):
    """Makes threads that their sessions left, and whose messages were lost."""
    app = make_app(settings, publisher=True)

    def make(*sizes):
        refs = []
        for number, size in enumerate(sizes):
            with keep.new() as session:
                session.append(user(f"{number} " + "x" * size), user("second"))
            refs.append(ThreadRef.of(session.id))
        for ref in refs:
            now(keep._threads.hot.link.run("HDEL", keep._threads.hot.keys(ref).head, "flush_token", "flush_at"))
        with app.connection_for_write() as connection:
            connection.default_channel.queue_purge(FLUSH)
        return refs

    return make


def runs_begun(stores, refs):
    prefix = stores.settings.key_prefix
    return sum(now(stores.hot.link.run("HLEN", tries_key(prefix, shard))) for shard in {ref.shard for ref in refs})


def owed(stores):
    async def collect():
        return [ref async for ref in stores.flow.owed()]

    return now(collect())


def test_each_is_archived_and_told_of_and_comes_back(stores, left):
    refs = left(*[100] * 60, 400_000)
    before = {ref: messages_in(stores, ref) for ref in refs}
    result = flush_many(stores, [*refs, refs[0]], "evict", run="task-1")
    assert result.to_result() == {"archived": 61}
    assert all(now(stores.hot.look(ref)).head is None for ref in refs)
    rows = stores.catalog.get_many(refs)
    assert {(row.stat.tier, row.stat.count) for row in rows.values()} == {("cold", 2)}
    assert len(rows) == 61
    assert owed(stores) == []
    assert runs_begun(stores, refs) == 0
    assert hydrate_many(stores, refs, run="task-2").to_result() == {"restored": 61}
    assert {ref: messages_in(stores, ref) for ref in refs} == before
    assert hydrate_many(stores, refs).to_result() == {"present": 61}
    assert owed(stores) == []
    assert runs_begun(stores, refs) == 0


def test_small_ones_take_one_step_of_each_kind_together(stores, left):
    refs = left(*[100] * 20)
    with tracing(), Work() as work:
        flush_many(stores, refs, "linger")
    others = [step.name for step in work.steps if step.kind != "s3"]
    assert others == ["begin_flush …", "settle …", "INSERT INTO threads", "COMMIT", "paid …"]
    assert len(work.steps) == len(others) + len(refs)


def test_what_is_unusual_ends_as_it_would_alone(stores, keep, left):
    clean, gone, leased, raced, plain = left(*[10] * 5)
    flush(stores, clean, "linger")
    flush(stores, gone, "evict")
    with keep.open(leased.thread_id) as session:
        with Racing(stores, "settle_many", lambda: _append(keep, raced)):
            result = flush_many(stores, [clean, gone, leased, raced, plain], "evict", run="task-1")
        assert result.to_result() == {"unchanged": 1, "absent": 1, "archived": 3}
        session.append(user("still mine"))
    assert [message["content"] for message in messages_in(stores, raced)][1:] == ["second", "meanwhile"]
    assert now(stores.hot.look(plain)).head is None
    assert runs_begun(stores, [clean, gone, leased, raced, plain]) == 0


def _append(keep, ref):
    with keep.open(ref.thread_id) as session:
        session.append(user("meanwhile"))


def test_one_that_is_damaged_stops_no_other(stores, left):
    refs = left(*[10] * 5)
    now(stores.hot.link.run("HSET", stores.hot.keys(refs[2]).head, "rev", "private"))
    result = flush_many(stores, refs, "evict", run="task-1")
    assert result.outcomes == {"archived": 4}
    ((ref, error),) = result.failed
    assert ref == refs[2]
    assert "private" not in str(error)
    now(stores.hot.link.run("DEL", *stores.hot.keys(refs[2]).all[:4]))


def test_where_s3_is_away_all_stay_as_they_were(stores, stores_for_test, settings, left):
    refs = left(*[10] * 5)
    away = stores_for_test(settings.model_copy(update={"s3_endpoint": "http://127.0.0.1:1", "s3_attempts": 1}))
    result = flush_many(away, refs, "evict", run="task-1")
    assert {ref for ref, error in result.failed if error.retryable} == set(refs)
    assert runs_begun(stores, refs) == 0  # none has taken its worker with it
    assert all(now(stores.hot.look(ref)).head.dirty for ref in refs)
    assert flush_many(stores, refs, "evict").to_result() == {"archived": 5}


def test_a_task_that_is_told_to_stop_leaves_no_run_behind(stores, left, monkeypatch):
    refs = left(*[10] * 5)

    class Told(Exception):
        pass

    def told_to_stop(*_, **__):
        raise Told

    with monkeypatch.context() as patch, suppress(Told):
        patch.setattr(bulk, "put_archive", told_to_stop)
        flush_many(stores, refs, "evict", run="task-1")
        raise AssertionError("it went on")
    assert runs_begun(stores, refs) == 0
    assert flush_many(stores, refs, "evict").to_result() == {"archived": 5}


def test_a_catalog_that_is_away_is_told_later(stores, left, monkeypatch):
    refs = left(*[10] * 5)

    def away(*_, **__):
        raise StoreUnavailable("Postgres", "a test", "away")

    with monkeypatch.context() as patch:
        patch.setattr(stores.catalog, "record", away)
        assert flush_many(stores, refs, "evict").to_result() == {"archived": 5}
    assert set(owed(stores)) == set(refs)


# --- as tasks ---------------------------------------------------------------------------------------------------------


def test_a_sweep_has_what_was_left_flushed_together(stores, settings, left, worker):
    refs = left(*[10] * 30)
    counts = sweep(stores, Enqueuer(make_app(settings, publisher=True)), force=True)
    assert counts.flushes == 30
    started = worker()
    until(lambda: all(not now(stores.hot.look(ref)).head.dirty for ref in refs if now(stores.hot.look(ref)).head))
    until(lambda: "flush of many ended" in started.log())
    assert "threadkeep.flush_thread[" not in started.log()
    assert {row.stat.archived_rev > 0 for row in stores.catalog.get_many(refs).values()} == {True}


def test_a_message_that_is_delivered_again_is_taken_apart(stores, settings, left):
    refs = left(*[10] * 3)
    task = make_app(settings).tasks["threadkeep.flush_threads"]
    task.push_request(id="one", retries=0, called_directly=True, delivery_info={"redelivered": True})
    try:
        assert task.run([ref.thread_id for ref in refs]) == {"handed_on": 3}
    finally:
        task.pop_request()
    assert [now(stores.hot.request_flush(ref, "linger", "x")) for ref in refs] == ["coalesced"] * 3


def test_idle_threads_are_flushed_from_the_command_line(settings, stores, keep, left, worker):
    refs = left(*[10] * 7)
    with keep.open(refs[0].thread_id) as session:
        session.append(user("in use"))
        until(lambda: run_command(settings, "flush", "--idle", "0s").out.startswith("Queued flushes of 6 "))
        assert "No thread is idle" in run_command(settings, "flush", "--idle", "1h").out
        worker()
        told = run_command(settings, "flush", "--idle", "0s", "--wait", "30")
        assert told.code == 0
        until(lambda: all(now(stores.hot.look(ref)).head is None for ref in refs[1:]))
    assert run_command(settings, "flush").code == run_command(settings, "flush", "x", "--idle", "1h").code == 2


def test_waiting_for_idle_threads_without_workers_says_how_many_are_left(settings, left):
    left(*[10] * 3)
    told = run_command(settings, "flush", "--idle", "0s", "--wait", "1")
    assert told.code == 1
    assert "3 of 3 threads are not archived yet; they are safe in Redis" in told.err


# --- what dies and what is owed ---------------------------------------------------------------------------------------


def died(stores, ref, kind, run, times):
    now(stores.hot.link.run("HSET", stores.hot.keys(ref).tries, f"{kind}|{ref.member}", f"{times} {run} 0"))


def as_task(settings, name, refs, *, redelivered):
    task = make_app(settings).tasks[name]
    task.push_request(id="one", retries=0, called_directly=True, delivery_info={"redelivered": redelivered})
    try:
        return task.run([ref.thread_id for ref in refs])
    finally:
        task.pop_request()


def test_one_that_was_set_aside_is_left_alone(stores, left):
    poison, plain = left(10, 10)
    died(stores, poison, "flush", "earlier", stores.settings.poison_after)
    assert flush_many(stores, [poison, plain], "evict", run="task-1").to_result() == {"archived": 1, "set_aside": 1}
    assert now(stores.hot.look(poison)).head.dirty
    assert now(stores.flow.deaths(poison, "flush")) > stores.settings.poison_after


def test_those_that_a_dead_worker_had_not_begun_are_queued_too(stores, settings, left):
    refs = left(*[10] * 3)
    now(stores.hot.request_flushes(refs, "evict", "token"))  # as of the message that is delivered again
    assert as_task(settings, "threadkeep.flush_threads", refs, redelivered=True) == {"handed_on": 3}
    app = make_app(settings, publisher=True)
    with app.connection_for_write() as connection:
        assert connection.default_channel.queue_purge(FLUSH) == 3


def test_a_hydrate_that_kills_its_workers_takes_no_other_with_it(stores, settings, left, monkeypatch):
    refs = left(*[10] * 6)
    flush_many(stores, refs, "evict")
    begun = []

    def bring(stores, ref, *, run):
        begun.append(ref)
        if ref == refs[3] and now(stores.flow.begin_hydrate(ref, run=run)).status == "go":
            raise Died
        return hydrate(stores, ref, run=run)

    with monkeypatch.context() as patch:
        patch.setattr(bulk, "hydrate", bring)
        for _ in range(stores.settings.poison_after):
            with suppress(Died):
                as_task(settings, "threadkeep.hydrate_threads", refs, redelivered=True)
        told = as_task(settings, "threadkeep.hydrate_threads", refs, redelivered=True)
    assert told == {"present": 3, "set_aside": 1, "restored": 2}
    assert [now(stores.flow.deaths(ref, "hydrate")) for ref in refs if ref != refs[3]] == [0] * 5
    assert begun.index(refs[3]) == 3  # one after the other


class Died(BaseException):
    pass


def test_one_that_takes_too_long_alone_is_the_only_one_that_counts_as_dead(stores, left, monkeypatch):
    refs = left(400_000, 10, 400_000)

    def takes_too_long(*_, **__):
        raise Died

    with monkeypatch.context() as patch, suppress(Died):
        patch.setattr(bulk, "flush", takes_too_long)
        flush_many(stores, refs, "linger", run="task-1")
    assert runs_begun(stores, refs) == 1
    again = stores.flow.begin_flush(refs[0], "a" * 32, "linger", run="task-1")
    assert now(again).status == "go"
    assert now(stores.flow.deaths(refs[0], "flush")) == 1


def test_a_hydrate_that_fails_has_not_died(stores, stores_for_test, settings, left):
    refs = left(*[10] * 3)
    flush_many(stores, refs, "evict")
    away = stores_for_test(settings.model_copy(update={"s3_endpoint": "http://127.0.0.1:1", "s3_attempts": 1}))
    assert hydrate_many(away, refs, run="task-1").to_result() == {"failed": 3}
    assert runs_begun(stores, refs) == 0


def test_a_loss_is_told_to_the_catalog_later_if_it_is_away(stores, left, monkeypatch):
    (ref,) = left(10)
    sweep_rows(stores, ref)
    now(stores.hot.link.run("DEL", *stores.hot.keys(ref).all[:4]))
    now(stores.hot.link.run("ZREM", stores.hot.keys(ref).all[5], ref.member))
    original = stores.catalog.record

    def away(rows, events=()):
        if rows:
            raise StoreUnavailable("Postgres", "a test", "away")
        original(rows, list(events))

    with monkeypatch.context() as patch:
        patch.setattr(stores.catalog, "record", away)
        assert hydrate_many(stores, [ref]).to_result() == {"absent": 1}
    assert owed(stores) == [ref]


def sweep_rows(stores, ref):
    head = now(stores.hot.look(ref)).head
    stores.catalog.record([head_row(ref, head, "hot", now(stores.hot.clock(ref)) // 1000, 0)])


def test_a_sweep_holds_only_so_many_states_at_a_time(stores, stores_for_test, settings, left, monkeypatch):
    refs = left(*[10] * 20)
    vast = stores_for_test(settings.model_copy(update={"max_state_bytes": 4 * 1024 * 1024}))
    lapse_many, sizes = vast.flow.lapse_many, []

    def noting(some):
        sizes.append(len(some))
        return lapse_many(some)

    monkeypatch.setattr(vast.flow, "lapse_many", noting)
    assert sweep(vast, Enqueuer(make_app(settings, publisher=True)), force=True).flushes == len(refs)
    assert sizes == [8, 8, 4]


def test_no_right_is_needed_but_that_to_run_scripts(stores, stores_for_test, settings, left):
    refs = left(*[10] * 3)
    run = stores.hot.link.run
    now(run("ACL", "SETUSER", "plain", "on", ">secret", "~*", "&*", "+@all", "-script"))
    now(run("SCRIPT", "FLUSH"))
    url = urlsplit(settings.redis_url)
    plain = url._replace(netloc=f"plain:secret@{url.hostname}:{url.port}").geturl()
    limited = stores_for_test(settings.model_copy(update={"redis_url": plain}))
    counts = sweep(limited, Enqueuer(make_app(settings, publisher=True)), force=True)
    assert (counts.hot, counts.flushes) == (3, 3)
    assert flush_many(limited, refs, "evict").to_result() == {"archived": 3}
    now(run("ACL", "DELUSER", "plain"))
