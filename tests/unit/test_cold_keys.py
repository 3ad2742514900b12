"""What the objects of the archive are called."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from threadkeep.errors import InvalidThreadId
from threadkeep.model import StoredObject, ThreadRef
from threadkeep.storage.cold_keys import ColdKeys, unkeepable, v1_keys
from threadkeep.storage.cold_revisions import stale

KEYS = ColdKeys("threads")
REF = ThreadRef("tenant/a", "b c")


def test_each_kind_of_object_has_its_place():
    assert KEYS.thread(REF) == "threads/tenant%2Fa/b%20c.ndjson.zst"
    assert KEYS.revision(REF, 17, "ab") == "threads/tenant%2Fa/b%20c/00000000000000000017-ab.ndjson.zst"
    assert KEYS.conflict(REF, 17, "ab") == "threads/conflicts/tenant%2Fa/b%20c/00000000000000000017-ab.ndjson.zst"
    assert (
        KEYS.foreign_conflict(REF, 1_795_000_000.25, "d41d-2")
        == "threads/conflicts/tenant%2Fa/b%20c/00001795000000250000-d41d-2.ndjson.zst"
    )
    assert KEYS.listing(None) == "threads/"
    assert KEYS.listing("tenant/a") == "threads/tenant%2Fa/"


def test_two_probes_never_share_a_key():
    assert KEYS.probe() != KEYS.probe()


def refs():
    def made(halves):
        try:
            return ThreadRef(*halves)
        except InvalidThreadId:
            return None

    short = st.text(min_size=1, max_size=18)
    return st.tuples(short, short).map(made).filter(bool)


@given(refs(), st.integers(0, 10**20 - 1), st.text(st.characters(codec="utf-8"), min_size=1, max_size=20))
def test_a_key_leads_back_to_its_thread_and_to_no_other_kind(ref, rev, attempt):
    thread, revision, conflict = (
        KEYS.thread(ref),
        KEYS.revision(ref, rev, attempt),
        KEYS.conflict(ref, rev, attempt),
    )
    assert KEYS.thread_of(thread) == ref
    assert KEYS.revision_of(revision) == (ref, rev, attempt)
    for key in (revision, conflict, KEYS.probe(), *v1_keys("threads", ref)):
        assert KEYS.thread_of(key) is None
    for key in (thread, conflict, KEYS.probe()):
        assert KEYS.revision_of(key) is None
    assert not unkeepable(thread)


@given(refs(), refs())
def test_no_two_threads_share_a_key(one, other):
    assert (KEYS.thread(one) == KEYS.thread(other)) == (one == other)
    assert KEYS.conflict(other, 1, "a").startswith(KEYS.conflicts(one)) == (one == other)


@pytest.mark.parametrize(
    "key",
    [
        "threads/a.ndjson.zst",
        "threads/a/b.ndjson",
        "other/a/b.ndjson.zst",
        "threadsa/b.ndjson.zst",
        "threads/a/%2f.ndjson.zst",
        "threads/a/%FF.ndjson.zst",
        "threads/a/%zz.ndjson.zst",
        "threads/a/b c.ndjson.zst",
        "threads/a/.ndjson.zst",
        "threads/a/%00.ndjson.zst",
        "threads//b.ndjson.zst",
    ],
)
def test_a_name_that_nobody_could_have_given_is_no_thread(key):
    assert KEYS.thread_of(key) is None


def test_the_order_of_keys_is_the_order_of_revisions():
    revs = [0, 9, 10, 999, 1_795_000_000_000_000, 2**63]
    assert sorted(KEYS.revision(REF, rev, "a") for rev in reversed(revs)) == [
        KEYS.revision(REF, rev, "a") for rev in revs
    ]


@pytest.mark.parametrize(
    ("prefix", "namespace", "thread_id", "key"),
    [
        ("threads", "messages", "basic", "threads/messages/basic"),
        ("threads", "messages", "team/a/thread 1", "threads/messages/team/a/thread 1"),
        ("threads", "messages", "/lead/trail/", "threads/messages/lead/trail/"),
        ("//prod//threads//", "sub/agent:notes", "t1", "prod//threads/sub/agent:notes/t1"),
        ("threads", "/", "t1", "threads/t1"),
        ("", "messages", "t1", "messages/t1"),
    ],
)
def test_zeitlich_keys_are_raw_text(prefix, namespace, thread_id, key):
    assert v1_keys(prefix, ThreadRef(namespace, thread_id)) == [f"{key}.json.gz", f"{key}.json"]


@pytest.mark.parametrize(
    ("key", "refused"),
    [
        ("a/b", False),
        ("a/../b", True),
        ("a/./b", True),
        ("a/..b", False),
        ("a/" + "x" * 256, True),
        ("x/" * 600, True),
    ],
)
def test_some_keys_cannot_be_kept_by_every_store(key, refused):
    assert unkeepable(key) is refused


def test_a_revision_is_stale_when_two_newer_are_there_and_its_grace_is_over():
    revisions = [StoredObject(str(at), "", 0, None, float(at)) for at in (0, 1_000, 5_000, 9_000)]
    assert [item.key for item in stale(revisions, now=10_000)] == ["0", "1000"]
    assert [item.key for item in stale(revisions, now=4_000)] == ["0"]
    assert stale(revisions[:2], now=10_000) == []


@pytest.mark.parametrize("thread_id", ["../up", "a/../b", "./a"])
def test_a_zeitlich_key_that_may_be_resolved_to_another_place_is_none(thread_id):
    assert v1_keys("threads", ThreadRef("messages", thread_id)) == []
