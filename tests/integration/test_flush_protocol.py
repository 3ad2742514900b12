"""The flush, the hydrate and the erase as workers run them, raced and broken on purpose; no queue in between."""

import dataclasses

import pytest

from tests.integration.protocol import Racing, messages_in, user
from threadkeep.errors import LeaseLost, StoreUnavailable
from threadkeep.model import ArchiveMeta, ThreadRef, fresh_mark
from threadkeep.storage.archive import read_frames
from threadkeep.storage.limits import ReadLimits
from threadkeep.storage.link import run_now as now
from threadkeep.tasks.erase import erase
from threadkeep.tasks.flush import flush
from threadkeep.tasks.hydrate import hydrate
from threadkeep.testing.wire import Answer, DropReply, FaultyProxy, Garble, Truncate


@pytest.fixture
def session(keep):
    with keep.new() as session:
        yield session


@pytest.fixture
def ref(session):
    return ThreadRef.of(session.id)


def archived(stores, ref):
    stored, body = stores.cold.get(ref)
    return [
        record for frame in read_frames(body, where=stored.key, limits=ReadLimits(10**9)) for record in frame.records
    ]


# --- an append, a lease, an expiry during a flush -----------------------------------------------------------------


@pytest.mark.parametrize("mode", ["checkpoint", "linger", "evict"])
@pytest.mark.parametrize("step", ["put", "settle"])
def test_an_append_that_lands_during_a_flush_survives_it(stores, session, ref, mode, step):
    """Between the read and the settle a session may append; that message stays hot and is flushed next."""
    session.append(user("before"))
    with Racing(stores, step, lambda: session.append(user("during"))):
        assert flush(stores, ref, mode).outcome == "archived"
    assert session.messages == [user("before"), user("during")]
    assert len(archived(stores, ref)) == 1
    assert messages_in(stores, ref) == session.messages
    session.close()
    assert flush(stores, ref, "evict").residence == "evicted"
    assert len(archived(stores, ref)) == 2


def test_a_lease_held_during_a_flush_keeps_the_thread_hot(stores, session, ref):
    session.append(user("1"))
    outcome = flush(stores, ref, "evict")
    assert (outcome.outcome, outcome.residence) == ("archived", "kept")
    session.append(user("2"))
    assert session.messages == [user("1"), user("2")]


def test_a_lease_taken_during_a_flush_keeps_the_thread_hot(stores, keep, session, ref):
    session.append(user("1"))
    session.close()
    late = []
    with Racing(stores, "settle", lambda: late.append(keep.open(ref.thread_id))):
        assert flush(stores, ref, "evict").residence == "kept"
    late[0].append(user("2"))
    assert messages_in(stores, ref) == [user("1"), user("2")]
    late[0].close()


def test_a_truncation_during_a_flush_is_not_undone(stores, session, ref):
    ids = session.append(user("1"), user("2"))
    with Racing(stores, "put", lambda: session.truncate(ids[1])):
        assert flush(stores, ref, "linger").outcome == "still_hot"
    session.append(user("2b"))
    session.close()
    assert flush(stores, ref, "evict").outcome == "archived"
    hydrate(stores, ref)
    assert messages_in(stores, ref) == [user("1"), user("2b")]


def test_a_lease_that_expired_is_taken_over_and_its_holder_fenced(keep, stores, session, ref):
    session.append(user("mine"))
    now(stores.hot.link.run("HSET", stores.hot.keys(ref).head, "lease_until", 1))
    with keep.open(ref.thread_id) as second:
        second.append(user("theirs"))
        with pytest.raises(LeaseLost):
            session.append(user("lost"))
        assert second.messages == [user("mine"), user("theirs")]


def test_a_session_outlives_the_eviction_of_its_expired_lease(stores, keep, session, ref, worker):
    worker()
    session.append(user("1"))
    now(stores.hot.link.run("HSET", stores.hot.keys(ref).head, "lease_until", 1))
    assert flush(stores, ref, "evict").residence == "evicted"
    session.append(user("2"))
    assert session.messages == [user("1"), user("2")]


# --- two workers ------------------------------------------------------------------------------------------------------


def test_an_old_flush_that_puts_after_a_new_one_gives_way(stores, session, ref):
    """The old flush read, then stalled; the new one put and settled; then the old one wakes."""
    session.append(user("old"))

    def newer():
        session.append(user("new"))
        assert flush(stores, ref, "linger").outcome == "archived"

    with Racing(stores, "put", newer):
        assert flush(stores, ref, "linger").outcome == "superseded"
    assert len(archived(stores, ref)) == 2
    assert messages_in(stores, ref) == [user("old"), user("new")]


def test_an_old_flush_that_settles_after_a_new_one_changes_nothing(stores, session, ref):
    """The old flush put, then stalled; the new one overwrote and settled; then the old one wakes."""
    session.append(user("old"))

    def newer():
        session.append(user("new"))
        assert flush(stores, ref, "linger").outcome == "archived"

    with Racing(stores, "settle", newer):
        assert flush(stores, ref, "linger").outcome == "still_hot"
    assert len(archived(stores, ref)) == 2
    assert messages_in(stores, ref) == [user("old"), user("new")]
    session.close()
    flush(stores, ref, "evict")
    hydrate(stores, ref)
    assert messages_in(stores, ref) == [user("old"), user("new")]


def test_two_flushes_of_the_same_revision_agree(stores, session, ref):
    session.append(user("1"))
    with Racing(stores, "put", lambda: flush(stores, ref, "linger")):
        assert flush(stores, ref, "linger").outcome in ("superseded", "still_hot", "archived")
    assert len(archived(stores, ref)) == 1
    session.close()
    flush(stores, ref, "evict")
    hydrate(stores, ref)
    assert messages_in(stores, ref) == [user("1")]


def test_a_stale_hydrate_restores_nothing_over_a_newer_thread(stores, keep, session, ref):
    session.append(user("1"))
    session.close()
    flush(stores, ref, "evict")

    def goes_on():
        assert hydrate(stores, ref).outcome == "restored"
        with keep.open(ref.thread_id) as second:
            second.append(user("2"))
        flush(stores, ref, "evict")

    with Racing(stores, "restore", goes_on):
        assert hydrate(stores, ref).outcome == "restored"
    assert messages_in(stores, ref) == [user("1"), user("2")]


def test_many_hydrates_restore_one_copy(stores, session, ref):
    session.append(*[user(str(n)) for n in range(50)])
    session.close()
    flush(stores, ref, "evict")
    with Racing(stores, "restore", lambda: hydrate(stores, ref)):
        assert hydrate(stores, ref).outcome == "present"
    assert messages_in(stores, ref) == [user(str(n)) for n in range(50)]


# --- conflicts --------------------------------------------------------------------------------------------------------


def test_a_foreign_object_is_kept_aside_and_stepped_over(stores, session, ref):
    session.append(user("1"))
    flush(stores, ref, "linger")
    there = stores.cold.head(ref)
    foreign = dataclasses.replace(there.meta, attempt="feed", rev=there.meta.rev + 5)
    stores.cold.put(ref, b"somebody else's bytes", meta=foreign, based_on=there.etag)
    session.append(user("2"))
    assert flush(stores, ref, "linger").outcome == "archived"
    aside = stores.cold.conflicts(ref)
    assert [item.meta.attempt for item in aside] == ["feed"]
    assert stores.cold.head(ref).meta.rev > foreign.rev
    assert messages_in(stores, ref) == [user("1"), user("2")]
    kinds = [event.kind for _, event in stores.catalog.events(ref)]
    assert "conflict" in kinds


def test_an_object_that_was_deleted_behind_our_back_is_put_again(stores, raw_bucket, session, ref):
    session.append(user("1"))
    flush(stores, ref, "linger")
    raw_bucket.delete_object(Bucket=stores.settings.s3_bucket, Key=stores.cold.head(ref).key)
    session.append(user("2"))
    assert flush(stores, ref, "linger").outcome == "archived"
    assert len(archived(stores, ref)) == 2


def test_a_flush_of_another_timeline_keeps_its_bytes_aside_and_stops(stores, keep, session, ref):
    """Redis forgot everything in mid-flush, and the thread was made anew: its bytes are not mixed with the old ones."""
    session.append(user("1"))

    def forget_and_start_over():
        keys = stores.hot.keys(ref)
        now(stores.hot.link.run("DEL", keys.head, keys.log, keys.ids))
        meta = ArchiveMeta(rev=5, attempt="beef", chain="", count=0, born=5)
        stores.cold.put(ref, b"another timeline", meta=meta, based_on=None)

    with Racing(stores, "put", forget_and_start_over):
        assert flush(stores, ref, "linger").outcome == "superseded"
    assert stores.cold.head(ref).meta.attempt == "beef"
    assert len(stores.cold.conflicts(ref)) == 1


# --- erase ------------------------------------------------------------------------------------------------------------


def upto(stores):
    return now(stores.flow.clock())


def test_an_erase_during_a_flush_is_not_undone_by_it(stores, session, ref):
    session.append(user("secret"))
    with Racing(stores, "put", lambda: erase(stores, ref, fresh_mark(), upto(stores))):
        assert flush(stores, ref, "linger").outcome in ("erasing", "superseded")
    assert stores.cold.head(ref).meta.tombstone
    assert stores.cold.conflicts(ref) == []
    assert hydrate(stores, ref).outcome == "absent"


def test_an_erase_during_a_hydrate_is_not_undone_by_it(stores, session, ref):
    session.append(user("secret"))
    session.close()
    flush(stores, ref, "evict")
    with Racing(stores, "restore", lambda: erase(stores, ref, fresh_mark(), upto(stores))):
        assert hydrate(stores, ref).outcome == "absent"
    assert now(stores.hot.look(ref)).head is None


def test_a_repeated_erase_spares_a_successor(stores, keep, session, ref, worker):
    worker()
    session.append(user("secret"))
    request, until = fresh_mark(), upto(stores)
    assert erase(stores, ref, request, until).outcome == "erased"
    with keep.new(ref.thread_id, wait_flush=20) as successor:
        successor.append(user("innocent"))
        assert erase(stores, ref, request, until).outcome == "erased"
        assert erase(stores, ref, fresh_mark(), until).outcome == "spared"
    keep.flush(ref.thread_id, wait=20)
    assert erase(stores, ref, fresh_mark(), until).outcome == "spared"
    hydrate(stores, ref)
    assert messages_in(stores, ref) == [user("innocent")]


def test_an_erase_names_the_forks_that_live_on(stores, keep, session, ref):
    session.append(user("shared"))
    with keep.fork(ref.thread_id) as fork:
        child = fork.id
    flush(stores, ThreadRef.of(child), "evict")
    receipt = erase(stores, ref, fresh_mark(), upto(stores))
    assert receipt.forks == [child]


# --- the wire ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def proxy(stores, settings):
    with FaultyProxy(settings.s3_endpoint) as proxy:
        yield proxy


@pytest.fixture
def through(stores_for_test, settings, proxy):
    return stores_for_test(settings.model_copy(update={"s3_endpoint": proxy.endpoint, "s3_read_timeout": 3.0}))


def test_a_put_whose_reply_was_lost_counts_as_done(through, proxy, session, ref):
    session.append(user("1"))
    proxy.inject(DropReply(), method="PUT", times=1)
    assert flush(through, ref, "linger").outcome == "archived"
    session.append(user("2"))
    assert flush(through, ref, "linger").outcome == "archived"
    assert through.cold.conflicts(ref) == []


def test_a_store_that_is_down_leaves_the_thread_hot(through, proxy, session, ref):
    session.append(user("1"))
    proxy.inject(Answer(503, "SlowDown"), times=100)
    with pytest.raises(StoreUnavailable):
        flush(through, ref, "evict")
    assert messages_in(through, ref) == [user("1")]


@pytest.mark.parametrize("fault", [Truncate(100), Garble(60)])
def test_a_body_that_arrives_damaged_is_never_restored(through, proxy, session, ref, fault):
    session.append(*[user(str(n)) for n in range(200)])
    session.close()
    flush(through, ref, "evict")
    proxy.inject(fault, method="GET", times=50)
    with pytest.raises(StoreUnavailable):
        hydrate(through, ref)
    assert now(through.hot.look(ref)).head is None


# --- corruption -------------------------------------------------------------------------------------------------------


def test_a_damaged_object_is_named_and_left_alone(stores, raw_bucket, session, ref):
    session.append(*[user(str(n)) for n in range(20)])
    session.close()
    flush(stores, ref, "evict")
    stored, body = stores.cold.get(ref)
    damaged = bytearray(body)
    damaged[len(body) // 2] ^= 0x10
    bucket = stores.settings.s3_bucket
    raw_bucket.put_object(Bucket=bucket, Key=stored.key, Body=bytes(damaged), Metadata=stored.meta.to_headers())
    assert hydrate(stores, ref).outcome == "corrupt"
    seen = now(stores.hot.look(ref))
    assert (seen.head, seen.verdict) == (None, "failed")
    assert stored.key in seen.reason


def test_an_object_of_another_thread_is_refused(stores, raw_bucket, keep, session, ref):
    session.append(user("mine"))
    session.close()
    flush(stores, ref, "evict")
    stored, body = stores.cold.get(ref)
    key = stored.key.replace(ref.thread_id, "impostor")
    raw_bucket.put_object(Bucket=stores.settings.s3_bucket, Key=key, Body=body, Metadata=stored.meta.to_headers())
    assert hydrate(stores, ThreadRef.of("impostor")).outcome == "corrupt"
