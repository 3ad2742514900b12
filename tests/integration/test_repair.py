"""Damaged archives brought back from Redis, from earlier versions, from each other's place; or left as they are."""

import dataclasses
import os
import re
from concurrent.futures import ThreadPoolExecutor
from itertools import product

import pytest

from tests.integration.damage import Vandal, flipped, frame_ends, make_thread, meta_of
from tests.integration.moments import Moment
from tests.integration.protocol import messages_in, user
from threadkeep.model import fresh_mark
from threadkeep.storage.link import run_now as now
from threadkeep.tasks.erase import erase
from threadkeep.tasks.examine import examine
from threadkeep.tasks.flush import flush
from threadkeep.tasks.hydrate import hydrate
from threadkeep.tasks.repair import repair
from threadkeep.tasks.verify import verify, verify_these
from threadkeep.testing.buckets import Bucket
from threadkeep.testing.faults import DEATHS, ProcessDied, Work, tracing
from threadkeep.testing.wire import FaultyProxy, Garble

TEXTS = ("one", "two", "three")
EXHAUSTIVE = bool(os.environ.get("PROVE"))
WRITES = re.compile("distrust|settle|PutObject|CopyObject|COMMIT|commit", re.IGNORECASE)
"""Steps that change something; the others are stopped at only where all is to be proved."""
WHOLE = [user(text) for text in TEXTS]


@pytest.fixture(scope="module")
def versioned_bucket(seaweed_server):
    access = {"access_key": seaweed_server.access_key, "secret_key": seaweed_server.secret_key}
    made = Bucket.create(f"repair-{fresh_mark()}", endpoint=seaweed_server.endpoint, **access, versioned=True)
    yield made
    made.client.close()


def over(*layouts):
    """Runs a test over these kinds of buckets."""
    return pytest.mark.parametrize("layout", layouts, indirect=True)


everywhere = over("plain", "versioned", "revisions")


@pytest.fixture
def layout(request):
    """A plain bucket, a versioned one, or the layout without conditional writes."""
    return getattr(request, "param", "plain")


@pytest.fixture
def settings(settings, layout, request):
    match layout:
        case "versioned":
            bucket = request.getfixturevalue("versioned_bucket")
            return settings.model_copy(update={"s3_bucket": bucket.name})
        case "revisions":
            return settings.model_copy(update={"conditional_writes": "off"})
    return settings


@pytest.fixture
def vandal(versioned_bucket, settings):
    return Vandal(versioned_bucket.client, settings.s3_bucket)


@pytest.fixture
def make(keep, stores):
    return lambda mode="evict", texts=TEXTS: make_thread(keep, stores, texts, mode)


@pytest.fixture
def mend(stores):
    """Repairs one thread: the verdict before and after, and what was done."""

    def run(ref):
        seen = []
        verify_these(stores, [ref], mend=True, report=seen.append)
        return seen[0].found, seen[0].now, seen[0].repaired

    return run


def break_it(stores, vandal, ref):
    """Invert a byte of a thread's archive; what was there, and what is there now."""
    stored, body = stores.cold.get(ref)
    damaged = flipped(body, len(body) // 2)
    vandal.write(stored, damaged)
    return body, damaged


def brought_back(stores, ref):
    """The messages of its archive."""
    flush(stores, ref, "evict")
    now(stores.hot.link.run("UNLINK", *stores.hot.keys(ref).all[:4]))
    assert hydrate(stores, ref).outcome == "restored"
    return messages_in(stores, ref)


def aside(stores, ref, key):
    """The bytes under `conflicts/`."""
    return stores.cold.bucket.get(key)[1]


# --- from Redis -----------------------------------------------------------------------------------------------------


@everywhere
def test_a_cached_copy_is_archived_anew_over_the_damage(make, stores, vandal, mend):
    ref, other = make("linger"), make()
    untouched = stores.cold.get(other)
    _, damaged = break_it(stores, vandal, ref)
    found, after, done = mend(ref)
    assert (found, after, done.how, done.lost_rev) == ("corrupt", "sound", "redis", 0)
    assert aside(stores, ref, done.aside) == damaged
    assert now(stores.hot.link.run("PTTL", stores.hot.keys(ref).head)) > 0
    head = now(stores.hot.look(ref)).head
    stored = stores.cold.head(ref)
    assert (head.dirty, head.etag, head.rev) == (False, stored.etag, stored.meta.rev)
    assert stores.catalog.get(ref).stat.archived_rev == stored.meta.rev
    assert brought_back(stores, ref) == WHOLE
    assert stores.cold.get(other) == untouched
    assert [event.kind for _, event in stores.catalog.events(ref)][:2] == ["repaired", "corrupt"]


def test_a_thread_in_use_is_archived_anew_and_stays_in_use(make, keep, stores, vandal, mend):
    ref = make("linger")
    with keep.open(ref.thread_id) as session:
        break_it(stores, vandal, ref)
        session.append(user("four"))
        assert mend(ref)[1:2] == ("sound",)
        session.append(user("five"))
        break_it(stores, vandal, ref)
        assert mend(ref)[1:2] == ("sound",)
        session.append(user("six"))
    flush(stores, ref, "evict")
    assert brought_back(stores, ref) == [*WHOLE, user("four"), user("five"), user("six")]


def test_a_leased_clean_copy_is_archived_anew_too(make, keep, stores, vandal, mend):
    ref = make("linger")
    with keep.open(ref.thread_id) as session:
        break_it(stores, vandal, ref)
        assert mend(ref)[1:2] == ("sound",)
        assert session.append(user("four"))
    flush(stores, ref, "evict")
    assert brought_back(stores, ref) == [*WHOLE, user("four")]


@everywhere
def test_an_older_copy_in_redis_is_not_taken_for_the_archive(make, keep, stores, vandal, mend, layout):
    ref = make("linger")
    before = Moment(stores, ref)
    with keep.open(ref.thread_id) as session:
        session.append(user("four"))
    flush(stores, ref, "evict")
    newest = stores.cold.head(ref).meta.rev
    before.come_back()
    body, damaged = break_it(stores, vandal, ref)
    found, after, done = mend(ref)
    now(stores.hot.link.run("UNLINK", *stores.hot.keys(ref).all[:4]))
    if layout == "plain":
        assert (found, after, done) == ("corrupt", "corrupt", None)
        assert stores.cold.get(ref)[1] == damaged
        assert list(stores.cold.threads_aside()) == []
    elif layout == "versioned":
        assert (after, done.how, done.lost_rev) == ("sound", "earlier", 0)
        assert stores.cold.get(ref)[1] == body
    else:
        assert (after, done.how, done.lost_rev) == ("sound", "earlier", newest)
        assert brought_back(stores, ref) == WHOLE


def test_a_damaged_copy_in_redis_is_not_archived(make, stores, vandal, mend):
    ref = make("linger")
    piece = now(stores.hot.link.run("LINDEX", stores.hot.keys(ref).base, 0))
    now(stores.hot.link.run("LSET", stores.hot.keys(ref).base, 0, flipped(piece, len(piece) // 2)))
    _, damaged = break_it(stores, vandal, ref)
    assert mend(ref) == ("corrupt", "corrupt", None)
    assert stores.cold.get(ref)[1] == damaged


def test_bytes_that_lack_the_stores_own_checksum_each_time_are_damaged_and_replaced(make, settings, stores_for_test):
    """Once is the network's fault; where it lasts, the bytes are damaged where they lie."""
    ref = make("linger")
    with FaultyProxy(settings.s3_endpoint) as proxy:
        behind = stores_for_test(settings.model_copy(update={"s3_endpoint": proxy.endpoint}))
        proxy.inject(Garble(60), method="GET", containing=ref.thread_id)
        assert verify_these(behind, [ref]).to_result() == {"sound": 1}
        proxy.inject(Garble(60), method="GET", containing=ref.thread_id, times=6)
        assert verify_these(behind, [ref], mend=True).to_result() == {"sound": 1, "repaired": 1}
        (key,) = [copy.key for copy in behind.cold.conflicts(ref)]
    assert f"/conflicts/messages/{ref.thread_id}/" in key


def test_a_missing_object_is_archived_anew_from_redis(make, stores, vandal, mend):
    ref = make("linger")
    for stored in [stores.cold.head(ref), *(old for old, _ in stores.cold.earlier(ref))]:
        vandal.remove(stored)
    found, after, done = mend(ref)
    assert (found, after, done.how) == ("missing", "sound", "redis")
    assert brought_back(stores, ref) == WHOLE


# --- from the bucket ------------------------------------------------------------------------------------------------


@everywhere
def test_the_newest_earlier_version_that_verifies_is_put_back(make, keep, stores, vandal, mend, layout):
    ref = make()
    newest = stores.cold.head(ref).meta
    body, damaged = break_it(stores, vandal, ref)
    found, after, done = mend(ref)
    if layout == "plain":
        assert (found, after, done) == ("corrupt", "corrupt", None)
        assert stores.cold.get(ref)[1] == damaged
        return
    assert (found, after, done.how, done.rev) == ("corrupt", "sound", "earlier", stores.cold.head(ref).meta.rev)
    assert aside(stores, ref, done.aside) == damaged
    assert stores.catalog.get(ref).stat.archived_rev == stores.catalog.get(ref).stat.rev == done.rev
    if layout == "versioned":  # the bucket remembers what the damage was done to
        assert (done.lost_rev, stores.cold.get(ref)[1]) == (0, body)
        assert brought_back(stores, ref) == WHOLE
    else:
        assert (done.lost_rev, done.rev < newest.rev) == (newest.rev, True)
        assert brought_back(stores, ref) == WHOLE[:2]
        assert "reverted" in [event.kind for _, event in stores.catalog.events(ref)]
    assert verify(stores).to_result() == {"sound": 1}
    known = messages_in(stores, ref)
    with keep.open(ref.thread_id) as session:
        session.append(user("after the repair"))
    assert flush(stores, ref, "evict").outcome == "archived"
    assert brought_back(stores, ref) == [*known, user("after the repair")]
    assert verify(stores).to_result() == {"sound": 1}
    assert stores.catalog.get(ref).stat.archived_rev == stores.cold.head(ref).meta.rev


@everywhere
def test_an_object_rolled_back_is_brought_forward_again(make, keep, stores, vandal, mend, layout):
    ref = make("linger")
    stored, body = stores.cold.get(ref)
    first = body[: frame_ends(body)[0]]
    vandal.write(stored, first, meta=meta_of(first))
    now(stores.hot.link.run("UNLINK", *stores.hot.keys(ref).all[:4]))
    found, after, done = mend(ref)
    assert found == "outdated"
    if layout == "plain":
        assert (after, done) == ("outdated", None)
        assert brought_back(stores, ref) == WHOLE[:1]
    else:
        assert (after, done.how) == ("sound", "earlier")
        assert brought_back(stores, ref) == (WHOLE if layout == "versioned" else WHOLE[:2])


@over("versioned")
def test_what_is_sound_is_not_replaced_by_something_older(make, stores, vandal, mend):
    ref = make()
    stored, body = stores.cold.get(ref)
    second = body[: frame_ends(body)[1]]
    vandal.write(stored, second, meta=meta_of(second))
    forget_versions(stores, vandal, ref, body)
    assert [len(frame_ends(old)) for _, old in stores.cold.earlier(ref)] == [2, 1]
    assert mend(ref) == ("outdated", "outdated", None)
    assert stores.cold.get(ref)[1] == second


@over("plain", "versioned")
def test_an_object_deleted_from_a_versioned_bucket_comes_back(make, stores, vandal, mend, layout):
    ref = make()
    stored, body = stores.cold.get(ref)
    vandal.remove(stored)
    found, after, done = mend(ref)
    if layout == "versioned":
        assert (found, after, done.how, done.lost_rev) == ("missing", "sound", "earlier", 0)
        assert stores.cold.get(ref)[1] == body
    else:
        assert (found, after, done) == ("missing", "missing", None)
        assert stores.cold.get(ref) is None


@over("plain", "revisions")
def test_objects_in_each_others_place_both_go_home(make, stores, vandal, mend):
    one, other = make(texts=("a", "b")), make(texts=("c", "d", "e"))
    (first, its), (second, others) = stores.cold.get(one), stores.cold.get(other)
    vandal.write(first, others, meta=second.meta)
    vandal.write(second, its, meta=first.meta)
    found, after, done = mend(one)
    assert (found, after, done.how, done.lost_rev) == ("swapped", "sound", "swapped", 0)
    assert aside(stores, other, done.aside) == others
    assert (stores.cold.get(one)[1], stores.cold.get(other)[1]) == (its, others)
    assert mend(other)[:2] == ("sound", "sound")
    assert brought_back(stores, one) == [user("a"), user("b")]
    assert brought_back(stores, other) == [user("c"), user("d"), user("e")]


@over("versioned")
def test_another_life_of_the_thread_is_not_brought_back(keep, stores, vandal, mend, make):
    ref = make("linger")
    with keep.new(ref.thread_id, overwrite=True) as session:
        session.append(user("anew"))
    flush(stores, ref, "evict")
    now(stores.hot.link.run("UNLINK", *stores.hot.keys(ref).all[:4]))
    body, damaged = break_it(stores, vandal, ref)
    forget_versions(stores, vandal, ref, body)
    assert mend(ref) == ("corrupt", "corrupt", None)
    assert stores.cold.get(ref)[1] == damaged


def forget_versions(stores, vandal, ref, body):
    """Of an object the versions with this content."""
    for stored, old in stores.cold.earlier(ref):
        if old == body:
            vandal.client.delete_object(Bucket=vandal.bucket, Key=stored.key, VersionId=stored.version_id)


# --- erasures -------------------------------------------------------------------------------------------------------


@everywhere
def test_no_repair_goes_back_behind_an_erasure(make, keep, stores, vandal, mend):
    ref = make("linger")
    old = stores.cold.get(ref)
    erase(stores, ref, "request-1", 0)
    stored, body = stores.cold.get(ref)
    vandal.write(stored, flipped(body, 20))
    found, after, done = mend(ref)
    assert (found, after, done.how, done.aside) == ("corrupt", "tombstone", "tombstone", "")
    assert stores.cold.get(ref)[1] == body
    assert hydrate(stores, ref).outcome == "absent"
    vandal.write(stores.cold.head(ref), old[1], meta=old[0].meta)
    assert mend(ref) == ("outdated", "outdated", None)
    assert list(stores.cold.threads_aside()) == []


def test_an_erased_thread_whose_tombstone_lost_its_metadata_is_labelled_again(make, stores, vandal, mend):
    ref = make()
    erase(stores, ref, "request-1", 0)
    stored, body = stores.cold.get(ref)
    vandal.strip(stored, body)
    assert mend(ref)[:2] == ("mislabelled", "tombstone")
    assert stores.cold.get(ref)[1] == body
    assert stores.cold.head(ref).meta == stored.meta


def test_a_thread_being_erased_is_left_alone(make, stores, vandal, mend):
    ref = make("linger")
    _, damaged = break_it(stores, vandal, ref)
    now(stores.hot.mark_erasing(ref, "request-1"))
    assert mend(ref)[2] is None
    assert stores.cold.get(ref)[1] == damaged
    assert list(stores.cold.threads_aside()) == []
    assert erase(stores, ref, "request-1", 0).outcome == "erased"


# --- metadata -------------------------------------------------------------------------------------------------------


@over("revisions")
def test_wrong_metadata_are_written_anew_from_the_last_seal(make, stores, vandal, mend):
    ref = make()
    stored, body = stores.cold.get(ref)
    lies = [{"count": 99}, {"chain": "c" * 64}, {"rev": 5}, {"born": 7}, {"raw_bytes": 1}, {"attempt": "f00d"}]
    for wrong in (None, *lies):
        if wrong is None:
            vandal.strip(stored, body)
        else:
            vandal.write(stored, body, meta=dataclasses.replace(stored.meta, **wrong))
        found, after, done = mend(ref)
        assert (found, after, done.how, done.rev) == ("mislabelled", "sound", "metadata", stored.meta.rev), wrong
        assert (stores.cold.head(ref).meta, stores.cold.get(ref)[1]) == (stored.meta, body)
    assert list(stores.cold.threads_aside()) == []
    assert brought_back(stores, ref) == WHOLE


def test_metadata_that_tell_of_an_erasure_are_not_rewritten(make, stores, vandal, mend):
    ref = make()
    stored, body = stores.cold.get(ref)
    vandal.write(stored, body, meta=dataclasses.replace(stored.meta, tombstone=True))
    assert mend(ref) == ("mislabelled", "mislabelled", None)


@over("plain", "versioned")
def test_a_cut_behind_a_frame_is_not_blessed_by_new_metadata(make, stores, vandal, mend, layout):
    ref = make()
    stored, body = stores.cold.get(ref)
    cut = body[: frame_ends(body)[0]]
    vandal.write(stored, cut)
    found, after, done = mend(ref)
    assert found == "corrupt"
    if layout == "plain":
        assert (after, done, stores.cold.get(ref)[1]) == ("corrupt", None, cut)
    else:
        assert (after, done.how) == ("sound", "earlier")
        assert brought_back(stores, ref) == WHOLE


# --- beside others, and killed --------------------------------------------------------------------------------------


@over("versioned")
def test_a_repair_gives_way_to_whoever_wrote_meanwhile(make, keep, stores, vandal):
    ref = make("linger")
    break_it(stores, vandal, ref)
    known = stores.catalog.get(ref)
    found = examine(stores, ref, known)
    with keep.open(ref.thread_id) as session:
        session.append(user("four"))
    flush(stores, ref, "evict")
    newer = stores.cold.get(ref)
    assert repair(stores, found, known) is None
    assert stores.cold.get(ref) == newer


@over("revisions")
def test_repairs_at_once_end_in_one_sound_object(make, stores, vandal):
    ref = make()
    break_it(stores, vandal, ref)
    with ThreadPoolExecutor(4) as pool:
        scrubs = list(pool.map(lambda _: verify_these(stores, [ref], mend=True), range(4)))
    assert any(scrub.repaired for scrub in scrubs)
    assert verify(stores).to_result() == {"sound": 1}
    assert len(brought_back(stores, ref)) >= 2


@everywhere
def test_a_repair_killed_at_any_step_is_finished_by_the_next_one(make, stores, vandal, layout, record_property):
    """Before a step and behind it; then a second repair, and the thread reads as it would have."""
    expected = WHOLE[:2] if layout == "revisions" else WHOLE

    def damaged():
        ref = make("linger" if layout == "plain" else "evict")
        break_it(stores, vandal, ref)
        known = stores.catalog.get(ref)
        return examine(stores, ref, known), known

    def finished(found):
        assert verify_these(stores, [found.ref], mend=True).unsound == 0
        assert brought_back(stores, found.ref) == expected

    with tracing():
        found, known = damaged()
        with Work() as whole:
            assert repair(stores, found, known) is not None
        finished(found)
        points = [step.number for step in whole.steps if EXHAUSTIVE or WRITES.search(str(step))]
        for at, moment in product(points, DEATHS):
            found, known = damaged()
            with Work(stop_at=at, moment=moment), pytest.raises(ProcessDied):
                repair(stores, found, known)
            finished(found)
    kills = 2 * len(points)
    record_property(
        "proof", f"a repair ({layout}, {len(whole.steps)} steps) killed {kills} times: the next finished it"
    )
