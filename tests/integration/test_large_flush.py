"""The flush of a thread whose object is large: what is stored stays where it is, and only what is new travels."""

import random
from contextlib import suppress

import pytest

from tests.integration.protocol import Racing, messages_in, user
from threadkeep.errors import ArchiveFrozen, StoreRefused, StoreUnavailable
from threadkeep.model import ArchiveMeta, Entry, ThreadRef, fresh_mark
from threadkeep.storage import cold
from threadkeep.storage.archive import read_frames
from threadkeep.storage.cold import open_cold
from threadkeep.storage.limits import ReadLimits
from threadkeep.storage.link import run_now as now
from threadkeep.storage.s3_multipart import completes_atomically
from threadkeep.tasks.examine import examine
from threadkeep.tasks.flush import flush
from threadkeep.tasks.hydrate import hydrate
from threadkeep.tasks.repair import repair
from threadkeep.testing.faults import DEATHS, ERRORS, ProcessDied, Work, tracing

MIB = 1024 * 1024
TEXTS = [random.Random(number).randbytes(MIB // 2).hex() for number in range(12)]
"""Half of their bytes is noise: the object has some six MiB."""


@pytest.fixture(autouse=True)
def trusted(monkeypatch):
    """As if this store were one that completes uploads atomically; alone in it, nobody sees that it does not."""
    monkeypatch.setattr(cold, "completes_atomically", lambda _: True)


@pytest.fixture
def session(keep):
    with keep.new() as session:
        yield session


@pytest.fixture
def ref(session, stores):
    session.append(*map(user, TEXTS), ids=[f"m{number}" for number in range(12)])
    ref = ThreadRef.of(session.id)
    assert flush(stores, ref, "linger").bytes > 5 * MIB
    assert stores.cold.extends(5 * MIB)  # it has been tried out from here on
    return ref


@pytest.fixture(autouse=True)
def traced():
    with tracing():
        yield


def texts(stores, ref):
    stored, body = stores.cold.get(ref)
    frames = read_frames(body, where=stored.key, limits=ReadLimits(10**9))
    return [Entry.from_record(record).body["content"] for frame in frames for record in frame.records]


def steps(work, *kinds):
    return [step.name for step in work.steps if step.kind in kinds]


@pytest.mark.parametrize("mode", ["checkpoint", "linger"])
def test_only_what_is_new_travels(stores, session, ref, mode):
    session.append(user("new"))
    with Work() as work:
        outcome = flush(stores, ref, mode)
    assert outcome.outcome == "archived"
    assert steps(work, "s3") == ["CreateMultipartUpload", "UploadPartCopy", "UploadPart", "CompleteMultipartUpload"]
    assert steps(work, "redis")[:2] == ["begin_flush", "settle"]
    assert texts(stores, ref) == [*TEXTS, "new"]
    assert messages_in(stores, ref) == session.messages
    session.append(user("newer"))
    session.close()
    assert flush(stores, ref, "evict").residence == "evicted"
    assert hydrate(stores, ref).outcome == "restored"
    assert [message["content"] for message in messages_in(stores, ref)] == [*TEXTS, "new", "newer"]


def test_nothing_new_but_a_state_travels_alone(stores, session, ref):
    session.state["step"] = 2
    session.close()
    assert flush(stores, ref, "evict").outcome == "archived"
    hydrate(stores, ref)
    assert now(stores.hot.look(ref)).head.state == {"step": 2}
    assert texts(stores, ref) == TEXTS


def test_after_a_truncation_all_of_it_is_put(stores, session, ref):
    session.truncate("m11")
    session.append(user("instead"))
    with Work() as work:
        assert flush(stores, ref, "linger").outcome == "archived"
    assert steps(work, "s3") == ["PutObject"]
    assert texts(stores, ref) == [*TEXTS[:11], "instead"]


def test_another_flush_that_comes_first_is_gone_on_from(stores, session, ref):
    session.append(user("old"))

    def newer():
        session.append(user("new"))
        assert flush(stores, ref, "linger").outcome == "archived"

    with Racing(stores, "extend", newer):
        assert flush(stores, ref, "linger").outcome == "superseded"
    assert texts(stores, ref) == [*TEXTS, "old", "new"] == [m["content"] for m in messages_in(stores, ref)]


def test_a_flush_that_was_killed_before_it_settled_is_gone_on_from(stores, session, ref):
    session.append(user("old"))

    def killed():
        raise StoreUnavailable("Redis", "a test", "killed")

    with pytest.raises(StoreUnavailable), Racing(stores, "settle", killed):
        flush(stores, ref, "linger")
    session.append(user("new"))
    with Work() as work:
        assert flush(stores, ref, "linger").outcome == "archived"
    assert "PutObject" in steps(work, "s3")  # what is stored is not what the head knows
    assert texts(stores, ref) == [*TEXTS, "old", "new"]


def test_a_strangers_object_is_kept_aside_and_all_is_put(stores, session, ref):
    session.append(user("mine"))

    def stranger():
        there = stores.cold.head(ref)
        meta = ArchiveMeta(there.meta.rev - 1, fresh_mark(), "", 1, 1)
        stores.cold.put(ref, b"theirs", meta=meta, based_on=there.etag)

    with Racing(stores, "extend", stranger):
        assert flush(stores, ref, "linger").outcome == "archived"
    assert texts(stores, ref) == [*TEXTS, "mine"]
    assert [stored.size for stored in stores.cold.conflicts(ref)] == [len(b"theirs")]


@pytest.mark.parametrize("begins_so", [True, False], ids=["of_the_same_thread", "of_another"])
def test_what_belongs_to_another_timeline_is_kept_aside_with_what_it_stands_behind(stores, session, ref, begins_so):
    session.append(user("mine"))

    def another_timeline():
        stored, body = stores.cold.get(ref)
        meta = ArchiveMeta(stored.meta.rev, fresh_mark(), stored.meta.chain, stored.meta.count, stored.meta.born)
        stores.cold.put(ref, body + b"more" if begins_so else b"theirs", meta=meta, based_on=stored.etag)
        now(stores.hot.link.run("HSET", stores.hot.keys(ref).head, "attempts", ""))

    with Racing(stores, "extend", another_timeline):
        assert flush(stores, ref, "linger").outcome == "superseded"
    (kept,) = stores.cold.conflicts(ref)
    assert (kept.size > 5 * MIB) == begins_so
    (event,) = [event for _, event in stores.catalog.events(ref) if event.kind == "conflict"]
    assert ("behind" in event.facts) != begins_so


@pytest.mark.parametrize("moment", [*DEATHS, *ERRORS])
def test_stopped_at_any_of_its_steps_it_loses_and_doubles_nothing(stores, session, ref, moment):
    for number in range(1, 7):
        session.append(user(f"new {number}"))
        work = Work(stop_at=number, moment=moment)
        with work, suppress(StoreUnavailable, ProcessDied):
            flush(stores, ref, "linger")
        assert work.stopped
        flush(stores, ref, "linger")
        assert texts(stores, ref) == [*TEXTS, *[f"new {n}" for n in range(1, number + 1)]]
        assert messages_in(stores, ref) == session.messages


def test_a_fork_of_a_large_thread_has_an_object_of_its_own(stores, keep, session, ref):
    with keep.fork(ref.thread_id) as fork:
        fork.append(user("mine alone"))
        forked = ThreadRef.of(fork.id)
    with Work() as work:
        assert flush(stores, forked, "linger").outcome == "archived"
    assert "PutObject" in steps(work, "s3")
    assert texts(stores, forked) == [*TEXTS, "mine alone"]
    assert texts(stores, ref) == TEXTS


def test_a_damaged_object_is_not_what_a_repair_begins_with(stores, session, ref):
    stored, body = stores.cold.get(ref)
    damaged = body[:1000] + bytes([body[1000] ^ 1]) + body[1001:]
    now_there = stores.cold.put(ref, damaged, meta=stored.meta, based_on=stored.etag)
    keys = stores.hot.keys(ref)  # as if the bytes had rotten where they lie
    now(stores.hot.link.run("HSET", keys.head, "etag", now_there.etag, "base_etag", now_there.etag))
    session.append(user("new"))
    known = stores.catalog.get(ref)
    found = examine(stores, ref, known)
    assert found.verdict == "corrupt"
    assert repair(stores, found, known).how == "redis"
    assert texts(stores, ref) == [*TEXTS, "new"]


@pytest.mark.parametrize("level", [1, 19], ids=["larger", "smaller"])
def test_what_another_flush_put_of_the_same_revision_is_not_extended_as_ones_own(
    stores, stores_for_test, settings, session, ref, level
):
    session.append(user(" ".join(map(str, range(5000)))))

    def killed():
        raise StoreUnavailable("Redis", "a test", "killed")

    with pytest.raises(StoreUnavailable), Racing(stores, "settle", killed):
        flush(stores, ref, "linger")
    others = stores_for_test(settings.model_copy(update={"compression_level": level}))  # whose frames have other sizes
    assert flush(others, ref, "linger").outcome == "archived"
    session.append(user("new"))
    assert flush(others, ref, "linger").outcome == "archived"
    assert texts(stores, ref)[12:] == [" ".join(map(str, range(5000))), "new"]
    assert [message["content"] for message in messages_in(stores, ref)] == texts(stores, ref)


@pytest.mark.parametrize(
    "refusal", [ArchiveFrozen("its key", "GLACIER"), StoreRefused("S3", "UploadPartCopy", "NotImplemented", "")]
)
def test_what_cannot_be_copied_is_put_whole(stores, session, ref, refusal):
    session.append(user("new"))

    def refused():
        raise refusal

    with Racing(stores, "extend", refused), Work() as work:
        assert flush(stores, ref, "linger").outcome == "archived"
    assert steps(work, "s3") == ["PutObject"]
    assert texts(stores, ref) == [*TEXTS, "new"]


def test_no_flush_needs_the_right_to_list_versions(stores_for_test, settings, session, ref, monkeypatch):
    fresh = stores_for_test(settings)
    session.append(user("new"))

    def refused(*_, **__):
        raise StoreRefused("S3", "ListObjectVersions", "AccessDenied (HTTP 403)", "")

    monkeypatch.setattr(fresh.cold.bucket, "versions", refused)
    assert flush(fresh, ref, "linger").outcome == "archived"
    assert texts(fresh, ref) == [*TEXTS, "new"]
    assert [item.key for item in fresh.cold.bucket.listing(settings.s3_prefix) if ".probe" in item.key] == []


def test_a_store_that_is_not_known_to_complete_atomically_is_given_all_of_it(stores, session, ref, monkeypatch):
    monkeypatch.setattr(cold, "completes_atomically", completes_atomically)
    session.append(user("new"))
    with Work() as work:
        assert flush(stores, ref, "linger").outcome == "archived"
    assert steps(work, "s3") == ["PutObject"]
    assert texts(stores, ref) == [*TEXTS, "new"]


@pytest.mark.parametrize(
    ("endpoint", "chosen", "known"),
    [
        (None, "auto", True),
        ("https://s3.eu-central-1.amazonaws.com", "auto", True),
        ("https://s3.eu-central-1.amazonaws.com", "off", False),
        ("https://amazonaws.com.example.org", "auto", False),
        ("https://s3.example.org", "on", True),
    ],
)
def test_aws_is_known_by_its_name_and_others_by_their_setting(settings, endpoint, chosen, known):
    changes = {"s3_endpoint": endpoint, "s3_region": "eu-central-1", "s3_copied_parts": chosen}
    store = open_cold(settings.model_copy(update=changes))
    assert completes_atomically(store.bucket) == known
    store.close()
