"""Archives damaged on purpose: nothing damaged is read for sound, each damage has its name, others are untouched."""

import dataclasses
import os
import random

import pytest

from tests.integration.damage import LIMITS, Vandal, an_archive, content, flipped, frame_ends, make_thread, meta_of
from tests.integration.protocol import messages_in, user
from threadkeep import ThreadRef
from threadkeep.errors import ArchiveCorrupt, HydrateFailed
from threadkeep.model import ArchiveMeta
from threadkeep.storage import archive, seals
from threadkeep.storage.link import run_now as now
from threadkeep.storage.tombstones import tombstone
from threadkeep.tasks.describe import find
from threadkeep.tasks.erase import erase
from threadkeep.tasks.examine import examine, judge
from threadkeep.tasks.flush import flush
from threadkeep.tasks.hydrate import hydrate
from threadkeep.tasks.sweeper import sweep
from threadkeep.tasks.verify import verify, verify_these
from threadkeep.testing.wire import Answer, FaultyProxy

REF = ThreadRef.of("t")
TEXTS = ("one", "two", "three")
EXHAUSTIVE = bool(os.environ.get("PROVE"))


@pytest.fixture
def vandal(raw_bucket, settings):
    return Vandal(raw_bucket, settings.s3_bucket)


@pytest.fixture
def make_cold(keep, stores):
    return lambda mode="evict": make_thread(keep, stores, TEXTS, mode)


# --- in memory: every byte, every length ----------------------------------------------------------------------------


def test_no_damage_to_a_single_byte_is_read_as_something_else(record_property):
    stored, body = an_archive(REF)
    told = content(body)
    masks = [0xFF, *(1 << bit for bit in range(8))] if EXHAUSTIVE else [0xFF, 1, 64]
    tried, harmless = 0, 0
    for at in range(len(body)):
        for mask in masks:
            damaged = flipped(body, at, mask)
            verdict = judge(REF, stored, damaged, limits=LIMITS).verdict
            tried += 1
            if verdict == "sound":  # bits of a frame's header that only say how much memory to unpack it with
                harmless += 1
                assert content(damaged) == told, (at, mask)
            else:
                assert verdict == "corrupt", (at, mask)
    assert harmless <= tried / 100
    record_property(
        "proof", f"{tried:,} changes of one byte of {len(body)}: {tried - harmless:,} refused, {harmless} harmless"
    )


def test_no_cut_is_read_as_something_else(record_property):
    stored, body = an_archive(REF)
    verdicts = [judge(REF, stored, body[:length], limits=LIMITS).verdict for length in range(len(body))]
    assert verdicts == ["corrupt"] * len(body)
    doubled = [judge(REF, stored, body + body[at:], limits=LIMITS).verdict for at in range(len(body))]
    assert doubled == ["corrupt"] * len(body)
    record_property("proof", f"{len(body)} cuts and {len(body)} repeated ends of one archive: all refused")


def test_no_damage_to_a_tombstone_brings_a_thread_back(record_property):
    body = tombstone(REF, rev=100, request="r1")
    stored, _ = an_archive(REF)
    meta = ArchiveMeta(100, "r1", chain="", count=0, born=0, tombstone=True)
    stored = dataclasses.replace(stored, meta=meta)
    assert judge(REF, stored, body, limits=LIMITS).verdict == "tombstone"
    changes = [flipped(body, at, mask) for at in range(len(body)) for mask in (0xFF, 1, 16)]
    verdicts = [judge(REF, stored, each, limits=LIMITS).verdict for each in changes]
    assert set(verdicts) <= {"corrupt", "tombstone"}
    assert verdicts.count("tombstone") <= 1
    record_property("proof", f"{len(changes)} changes of a tombstone's bytes: never another verdict than corrupt")


# --- through S3 and a hydrate ---------------------------------------------------------------------------------------


def test_a_damaged_object_is_refused_and_named_wherever_it_is_hit(make_cold, stores, vandal, record_property):
    ref, neighbour = make_cold(), make_cold()
    stored, body = stores.cold.get(ref)
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    damages = [flipped(body, at) for at in dice.sample(range(len(body)), 8)]
    damages += [body[:length] for length in (0, 3, *dice.sample(range(len(body)), 4))]
    for damaged in damages:
        vandal.write(stored, damaged)
        assert hydrate(stores, ref).outcome == "corrupt"
        assert now(stores.hot.look(ref)).head is None
        found = examine(stores, ref, stores.catalog.get(ref))
        assert (found.verdict, found.sound) == ("corrupt", False)
        assert stores.cold.get(ref)[1] == damaged
    assert {event.kind for _, event in stores.catalog.events(ref)} >= {"corrupt"}
    assert hydrate(stores, neighbour).outcome == "restored"
    assert messages_in(stores, neighbour) == [user(text) for text in TEXTS]
    record_property("proof", f"{len(damages)} damaged objects in S3: no hydrate restored one")


def test_whoever_opens_a_damaged_thread_is_told_what_to_do(make_cold, stores, vandal, keep, worker):
    ref = make_cold()
    stored, body = stores.cold.get(ref)
    vandal.write(stored, flipped(body, len(body) // 2))
    worker()
    with pytest.raises(HydrateFailed, match=r"threadkeep verify --repair") as told:
        keep.open(ref.thread_id)
    assert "one" not in str(told.value)


# --- every kind of damage has a name --------------------------------------------------------------------------------


def test_a_scrub_tells_every_kind_of_damage_apart(make_cold, keep, stores, vandal, monkeypatch, record_property):
    names = (
        "sound flipped cut_at_a_frame foreign foreign_over_ours swap_a swap_b future unlabelled mislabelled "
        "rolled_back tombstone tombstone_unlabelled tombstone_damaged back_from_the_grave missing"
    )
    refs = {name: make_cold() for name in names.split()}
    by_id = {ref: name for name, ref in refs.items()}
    objects = {name: stores.cold.get(ref) for name, ref in refs.items()}
    with keep.new() as session:
        session.append(user("hot"))
    refs["unarchived"] = ThreadRef.of(session.id)
    damage_all(refs, objects, stores, vandal, monkeypatch)
    seen = {}
    scrub = verify(stores, report=lambda one: seen.update({by_id[one.ref]: one.now}))
    seen |= {name: verify_these(stores, [refs[name]]).to_result() for name in ("missing", "unarchived")}
    assert seen == {
        "sound": "sound",
        "flipped": "corrupt",
        "cut_at_a_frame": "corrupt",
        "foreign": "foreign",
        "foreign_over_ours": "corrupt",
        "swap_a": "swapped",
        "swap_b": "swapped",
        "future": "future",
        "unlabelled": "mislabelled",
        "mislabelled": "mislabelled",
        "rolled_back": "outdated",
        "tombstone": "tombstone",
        "tombstone_unlabelled": "mislabelled",
        "tombstone_damaged": "corrupt",
        "back_from_the_grave": "outdated",
        "missing": {"missing": 1},
        "unarchived": {"unarchived": 1},
    }
    assert scrub.to_result() == {
        "sound": 1,
        "tombstone": 1,
        "corrupt": 4,
        "foreign": 1,
        "swapped": 2,
        "future": 1,
        "mislabelled": 3,
        "outdated": 2,
    }
    assert scrub.unsound == 13
    for name, verdict in seen.items():
        events = [event.kind for _, event in stores.catalog.events(refs[name])]
        assert isinstance(verdict, dict) or verdict in ("sound", "tombstone") or events[0] == verdict, name
    outcomes = {name: hydrate(stores, refs[name]).outcome for name in refs}
    readable = {"sound", "unlabelled", "rolled_back", "back_from_the_grave"}
    assert {name for name, outcome in outcomes.items() if outcome == "restored"} == readable
    assert messages_in(stores, refs["sound"]) == [user(text) for text in TEXTS]
    record_property("proof", f"{len(seen)} objects, each damaged in another way: each named, {len(readable)} readable")


def damage_all(refs, objects, stores, vandal, monkeypatch):
    stored, body = objects["flipped"]
    vandal.write(stored, flipped(body, 40))
    stored, body = objects["cut_at_a_frame"]
    vandal.write(stored, body[: frame_ends(body)[1]])
    vandal.strip(objects["foreign"][0], b"PK\x03\x04 somebody's archive")
    vandal.write(objects["foreign_over_ours"][0], b"PK\x03\x04 somebody's archive")
    (one, its), (other, others) = objects["swap_a"], objects["swap_b"]
    vandal.write(one, others, meta=other.meta)
    vandal.write(other, its, meta=one.meta)
    with monkeypatch.context() as patched:
        patched.setattr(seals, "SEAL_VERSION", 4)
        stored, body = an_archive(refs["future"])
    vandal.write(objects["future"][0], body, meta=stored.meta)
    vandal.strip(*objects["unlabelled"])
    stored, body = objects["mislabelled"]
    vandal.write(stored, body, meta=dataclasses.replace(stored.meta, chain="c" * 64))
    stored, body = objects["rolled_back"]
    first = body[: frame_ends(body)[0]]
    vandal.write(stored, first, meta=meta_of(first))
    for name in ("tombstone", "tombstone_unlabelled", "tombstone_damaged", "back_from_the_grave"):
        erase(stores, refs[name], f"request-{name}", 0)
    vandal.strip(*stores.cold.get(refs["tombstone_unlabelled"]))
    stored, body = stores.cold.get(refs["tombstone_damaged"])
    vandal.write(stored, flipped(body, 30))
    vandal.write(*objects["back_from_the_grave"])
    vandal.remove(objects["missing"][0])


def test_an_object_from_the_future_is_left_to_a_newer_version(make_cold, stores, vandal, monkeypatch):
    ref = make_cold()
    stored, _ = stores.cold.get(ref)
    with monkeypatch.context() as patched:
        patched.setattr(seals, "SEAL_VERSION", 4)
        told, body = an_archive(ref)
    vandal.write(stored, body, meta=told.meta)
    scrub = verify_these(stores, [ref], mend=True)
    assert scrub.to_result() == {"future": 1}
    assert stores.cold.get(ref)[1] == body
    with pytest.raises(ArchiveCorrupt, match="Update this installation"):
        list(archive.read_frames(body, where="key", thread="t", limits=LIMITS))


def test_what_every_kind_of_flush_leaves_is_sound(keep, stores):
    """Forks, truncations, rewrites, states without messages, and many frames made one."""
    with keep.new(state={"step": 0}, labels={"a": "b"}) as session:
        ref, ids = ThreadRef.of(session.id), []
        for number in range(20):
            ids += session.append(user(str(number)))
            flush(stores, ref, "checkpoint")
        session.truncate(ids[15])
        flush(stores, ref, "checkpoint")
        session.replace(user("other"), user("messages"))
        flush(stores, ref, "checkpoint")
        session.append(user("more"))
        flush(stores, ref, "checkpoint")
    with keep.fork(session.id) as fork:
        fork.append(user("its own"))
    with keep.new(state={}) as empty:
        pass
    for one in (session, fork, empty):
        flush(stores, ThreadRef.of(one.id), "evict")
    assert verify(stores).to_result() == {"sound": 3}


# --- what is no damage ----------------------------------------------------------------------------------------------


def test_an_object_that_changes_while_it_is_read_is_no_damage(make_cold, keep, stores, monkeypatch):
    ref = make_cold(mode="linger")
    original, reads = stores.cold.get, []

    def torn(asked):
        stored, body = original(asked)
        reads.append(body)
        if len(reads) == 1:
            with keep.open(ref.thread_id) as session:
                session.append(user("t: four"))
            flush(stores, ref, "linger")
        return stored, (body[:-1] if len(reads) == 1 else body)

    monkeypatch.setattr(stores.cold, "get", torn)
    assert verify_these(stores, [ref]).to_result() == {"sound": 1}
    assert len(reads) == 2


def test_an_object_that_changes_at_every_look_is_called_moved(make_cold, keep, stores, monkeypatch):
    ref = make_cold(mode="linger")
    original = stores.cold.get

    def always_torn(asked):
        stored, body = original(asked)
        with keep.open(ref.thread_id) as session:
            session.append(user("more"))
        flush(stores, ref, "linger")
        return stored, body[:-1]

    monkeypatch.setattr(stores.cold, "get", always_torn)
    scrub = verify_these(stores, [ref], mend=True)
    assert (scrub.to_result(), scrub.unsound) == ({"moved": 1}, 0)
    assert stores.catalog.events(ref) == []


def test_an_object_that_the_store_does_not_give_is_unread_not_corrupt(make_cold, settings, stores_for_test):
    ref = make_cold()
    with FaultyProxy(settings.s3_endpoint) as proxy:
        behind = stores_for_test(settings.model_copy(update={"s3_endpoint": proxy.endpoint, "s3_attempts": 1}))
        proxy.inject(Answer(500), method="GET", containing=f"{ref.thread_id}.ndjson")
        scrub = verify_these(behind, [ref], mend=True)
    assert (scrub.to_result(), scrub.unsound) == ({"unread": 1}, 1)
    assert list(stores_for_test(settings).cold.threads_aside()) == []


def test_a_scrub_goes_on_without_the_catalog(make_cold, settings, stores_for_test):
    make_cold()
    alone = stores_for_test(
        settings.model_copy(update={"database_url": type(settings.database_url)("postgresql://127.0.0.1:1/x")})
    )
    assert verify(alone).to_result() == {"sound": 1}


def test_a_hot_thread_is_not_called_outdated(make_cold, keep, stores, settings):
    """The catalog knows that Redis is ahead of the archive: that is what hot means."""
    from threadkeep.tasks.adoption import make_app
    from threadkeep.tasks.enqueue import Enqueuer

    ref = make_cold(mode="linger")
    with keep.open(ref.thread_id) as session:
        session.append(user("newer"))
        sweep(stores, Enqueuer(make_app(settings, publisher=True)), force=True)
        assert find(stores, ref).dirty
        assert verify(stores).to_result() == {"sound": 1}
