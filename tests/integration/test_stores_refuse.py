"""Wrong credentials, no bucket, no tables, no Redis: what is safe is said, and what was left is archived later."""

import threading

import pytest

from tests.integration.protocol import messages_in, user
from threadkeep import Threadkeep, ThreadRef
from threadkeep.errors import HydrateFailed, StoreRefused, StoreUnavailable
from threadkeep.local.ports import free_port
from threadkeep.storage.link import run_now as now
from threadkeep.tasks.adoption import make_app
from threadkeep.tasks.enqueue import Enqueuer
from threadkeep.tasks.flush import flush
from threadkeep.tasks.hydrate import hydrate
from threadkeep.tasks.sweeper import sweep

BROKEN = [
    ({"s3_secret_key": "wrong"}, "THREADKEEP_S3_"),
    ({"s3_bucket": "no-such-bucket"}, "THREADKEEP_S3_BUCKET"),
]


def broken(settings, change):
    return type(settings).load(**{**settings.model_dump(), **change})


def left_hot(keep):
    """A thread with one message that a session has left, and that no worker has flushed."""
    with keep.new() as session:
        session.append(user("1"))
    return ThreadRef.of(session.id)


def enqueuer(settings):
    return Enqueuer(make_app(settings, publisher=True))


@pytest.mark.parametrize(("change", "remedy"), BROKEN)
def test_a_flush_that_s3_refuses_leaves_the_thread_hot(keep, stores, stores_for_test, settings, change, remedy):
    ref = left_hot(keep)
    with pytest.raises(StoreRefused, match=remedy):
        flush(stores_for_test(broken(settings, change)), ref, "evict")
    assert messages_in(stores, ref) == [user("1")]
    assert flush(stores, ref, "evict").outcome == "archived"


@pytest.mark.parametrize(("change", "remedy"), BROKEN)
def test_who_opens_a_cold_thread_is_told_what_is_wrong(keep, stores, stores_for_test, settings, change, remedy):
    ref = left_hot(keep)
    flush(stores, ref, "evict")
    told = []

    def open_it():
        with pytest.raises(HydrateFailed, match=remedy) as caught:
            keep.open(ref.thread_id)
        told.append(str(caught.value))

    waiter = threading.Thread(target=open_it)
    waiter.start()
    wrong = stores_for_test(broken(settings, change))
    while waiter.is_alive():
        if now(stores.hot.look(ref)).ticket:
            with pytest.raises(StoreRefused):
                hydrate(wrong, ref)
        waiter.join(0.05)
    assert told
    assert "left as it is" in told[0]
    assert hydrate(stores, ref).outcome == "restored"


@pytest.mark.parametrize("url", ["postgresql://nobody:x@127.0.0.1:{port}/none", "{url}_absent"])
def test_without_the_catalog_threads_still_move_and_it_catches_up(keep, stores, stores_for_test, settings, url):
    dead = url.format(port=free_port(), url=settings.database_url.get_secret_value())
    without = stores_for_test(broken(settings, {"database_url": dead, "database_timeout": 1.0}))
    ref = left_hot(keep)
    rev = now(stores.hot.look(ref)).head.rev
    assert flush(without, ref, "evict").outcome == "archived"
    assert hydrate(without, ref).outcome == "restored"
    assert flush(without, ref, "evict").outcome == "unchanged"
    assert stores.catalog.get(ref) is None
    counts = sweep(without, enqueuer(settings), force=True)
    assert counts.catalog_rows == 0
    counts = sweep(stores, enqueuer(settings), force=True)
    assert counts.catalog_rows == 1
    entry = stores.catalog.get(ref)
    assert (entry.stat.tier, entry.stat.count, entry.stat.archived_rev) == ("cold", 1, rev)
    assert sweep(stores, enqueuer(settings), force=True).catalog_rows == 0


def test_without_its_tables_the_catalog_says_what_to_run(keep, stores_for_test, settings, postgres_server):
    postgres_server.create_database("empty")
    bare = stores_for_test(broken(settings, {"database_url": postgres_server.url("empty")}))
    ref = left_hot(keep)
    assert flush(bare, ref, "linger").outcome == "archived"
    with pytest.raises(StoreRefused, match="threadkeep db upgrade"):
        bare.catalog.get(ref)


def test_a_redis_that_is_down_is_said_to_be(settings):
    with Threadkeep(broken(settings, {"redis_url": f"redis://127.0.0.1:{free_port()}/0"})) as keep:
        for door in (keep.open, keep.read, keep.stat, keep.prefetch):
            with pytest.raises(StoreUnavailable, match="Redis did not complete"):
                door("t")
        with pytest.raises(StoreUnavailable):
            keep.new()


def test_a_wrong_redis_password_is_told_as_such(settings):
    wrong = settings.redis_url.replace("redis://:", "redis://:wrong")
    with Threadkeep(broken(settings, {"redis_url": wrong})) as keep:
        with pytest.raises(StoreRefused, match="THREADKEEP_REDIS_URL") as caught:
            keep.open("t")
        assert wrong.split("@", 1)[0].removeprefix("redis://:") not in str(caught.value)


def test_the_sweep_archives_what_a_lost_message_left(keep, stores, settings, worker):
    ref = left_hot(keep)
    now(stores.hot.link.run("HDEL", stores.hot.keys(ref).head, "flush_token", "flush_mode", "flush_at"))
    counts = sweep(stores, enqueuer(settings), force=True)
    assert (counts.hot, counts.flushes) == (1, 1)
    assert sweep(stores, enqueuer(settings), force=True).flushes == 0
    worker()
    keep.flush(ref.thread_id, wait=20)
    assert stores.cold.head(ref).meta.count == 1


def test_the_sweep_checkpoints_what_is_dirty_for_long_and_ends_leases_that_lapsed(
    keep, stores, settings, stores_for_test
):
    quick = stores_for_test(broken(settings, {"checkpoint_after": 0.001}))
    with keep.new() as session:
        ref = ThreadRef.of(session.id)
        session.append(user("1"))
        assert sweep(stores, enqueuer(settings), force=True).checkpoints == 0
        assert sweep(quick, enqueuer(settings), force=True).checkpoints == 1
        assert flush(stores, ref, "checkpoint").residence == "kept"
    with keep.open(ref.thread_id):
        now(stores.hot.link.run("HSET", stores.hot.keys(ref).head, "lease_until", 1))
        assert sweep(stores, enqueuer(settings), force=True).lapsed == 1
        assert now(stores.hot.look(ref)).head.lease == ""
    assert now(stores.hot.link.run("PTTL", stores.hot.keys(ref).head)) > 0


def test_the_sweep_drops_a_cached_copy_that_is_older_than_the_archive(keep, stores, settings):
    """As a failover to a replica that lagged behind would bring back."""
    ref = left_hot(keep)
    flush(stores, ref, "linger")
    assert sweep(stores, enqueuer(settings), force=True).outdated == 0
    key = stores.hot.keys(ref).head
    older = now(stores.hot.look(ref)).head.rev - 5
    now(stores.hot.link.run("HSET", key, "rev", older, "archived", older))
    assert sweep(stores, enqueuer(settings), force=True).outdated == 1
    assert now(stores.hot.look(ref)).head is None


def test_one_sweep_of_many_runs_in_a_time_slot(stores, settings):
    skipped = [sweep(stores, enqueuer(settings)).skipped for _ in range(5)]
    assert skipped.count(False) == 1
