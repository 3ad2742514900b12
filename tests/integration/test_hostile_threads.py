"""Hostile bytes in the bucket or in Redis harm their own thread alone: it is refused by name, and all others go on."""

import gzip
import json

import pytest

from tests.fuzz.framing import framed
from tests.integration.protocol import messages_in, user
from tests.unit.test_bombs import gzipped, zeros
from tests.unit.test_hostile_archives import HOSTILE_RECORDS, HOSTILE_SEALS, sealed
from threadkeep.errors import ArchiveCorrupt, HydrateFailed, InvalidMessage, ThreadkeepError
from threadkeep.model import ArchiveMeta, Entry, ThreadRef
from threadkeep.storage.cold import S3ColdStore
from threadkeep.storage.link import run_now as now
from threadkeep.tasks.erase import erase
from threadkeep.tasks.flush import flush
from threadkeep.tasks.hydrate import hydrate
from threadkeep.tasks.sweeper import sweep

REF = ThreadRef.of("t")
META = ArchiveMeta(rev=7, attempt="0a", chain="", count=1, born=3)


class NoQueue:
    """Takes what a sweep queues, and does nothing with it."""

    def __getattr__(self, name):
        return lambda *args, **kwargs: False


@pytest.fixture
def other(keep, stores):
    """A thread that is hot, and has nothing to do with any of this."""
    with keep.new() as session:
        session.append(user("mine"))
        yield session
        assert session.messages == [user("mine")]
        session.append(user("goes on"))


@pytest.fixture
def put(stores, raw_bucket):
    """Puts bytes where the archive of a thread lies."""

    def put(body, ref=REF, **headers):
        key = f"{stores.settings.s3_prefix}/{ref.member}.ndjson.zst"
        raw_bucket.put_object(Bucket=stores.settings.s3_bucket, Key=key, Body=body, Metadata=headers)

    return put


HOSTILE = {
    **{f"a record: {name}": lambda name=name: framed([HOSTILE_RECORDS[name]]) for name in HOSTILE_RECORDS},
    **{f"a seal: {name}": lambda name=name: sealed(HOSTILE_SEALS[name]) for name in HOSTILE_SEALS},
    "a bomb": lambda: zeros(32_768),
    "no archive": lambda: b"<html>",
    "nothing": lambda: b"",
    "another thread's": lambda: framed([], id="other"),
}


def test_a_hostile_archive_is_refused_whoever_waits_is_told_and_others_go_on(stores, keep, put, other, record_property):
    left_to_readers = 0
    for name, make in HOSTILE.items():
        put(make())
        asked = now(stores.hot.ask(REF, keep=5))
        outcome = hydrate(stores, REF).outcome
        if name.startswith("a record") and outcome == "restored":  # it begins as a record does
            with pytest.raises(ArchiveCorrupt, match="a record is malformed"):
                list(keep.read("t").messages)
            now(stores.hot.link.run("DEL", *stores.hot.keys(REF).all[:4]))
            left_to_readers += 1
            continue
        assert outcome == "corrupt", name
        seen = now(stores.hot.look(REF))
        assert (seen.head, seen.ticket, seen.verdict) == (None, asked.ticket, "failed"), name
        assert "t.ndjson.zst" in seen.reason, name
        assert len(seen.reason) < 500, name
    told = f"{len(HOSTILE) - left_to_readers} hostile archives refused by a hydrate, and whoever waited was told"
    record_property("proof", f"{told}; {left_to_readers} by whoever reads them")


def test_a_session_that_waits_for_a_hostile_archive_is_told(settings, keep, put, worker, other):
    worker()
    put(sealed(HOSTILE_SEALS["rev null"]))
    with pytest.raises(HydrateFailed, match="a seal is malformed"):
        keep.open("t")
    with pytest.raises(HydrateFailed, match="a seal is malformed"):
        keep.read("t")


def test_metadata_beyond_all_clocks_neither_stop_the_sweep_nor_reach_redis(stores, keep, put):
    """An object that says it is from a far future would otherwise be adopted, and with it its revision."""
    refs = {}
    for value in ("9" * 16, str(2**52), "-1", "1e9", "nan"):
        with keep.new() as session:
            session.append(user(value))
        ref = refs[value] = ThreadRef.of(session.id)
        put(framed([]), ref, **{**META.to_headers(), "threadkeep-rev": value})
        now(stores.flow.owe(ref))
    assert sweep(stores, NoQueue(), force=True).hot == len(refs)
    for value, ref in refs.items():
        assert flush(stores, ref, "linger").outcome == "archived"
        assert 0 < now(stores.hot.look(ref)).head.rev < 2**52
        assert messages_in(stores, ref) == [user(value)]
        assert len(stores.cold.conflicts(ref)) == 1


def test_the_most_compressible_message_goes_out_and_comes_back(stores, keep):
    """With the default settings, eight mebibytes of one letter are no bomb."""
    limit = stores.settings.max_message_bytes
    with keep.new() as session:
        session.append({"role": "user", "content": "x" * (limit - 300)})
        with pytest.raises(InvalidMessage):
            session.append({"role": "user", "content": "x" * limit})
    ref = ThreadRef.of(session.id)
    assert flush(stores, ref, "evict").residence == "evicted"
    assert stores.cold.head(ref).size < 2_000
    assert hydrate(stores, ref).outcome == "restored"
    assert messages_in(stores, ref) == [{"role": "user", "content": "x" * (limit - 300)}]


def test_an_object_that_is_too_large_is_not_even_read(stores, put):
    cold = S3ColdStore.of(stores.settings)
    small = S3ColdStore(cold.bucket, cold.keys, most=1_000)
    put(bytes(1_001))
    with pytest.raises(ArchiveCorrupt, match="THREADKEEP_MAX_THREAD_BYTES"):
        small.get(REF)
    put(bytes(1_000))
    assert len(small.get(REF)[1]) == 1_000


def test_a_new_thread_of_more_than_can_ever_be_read_is_refused(settings, stores):
    first = [Entry(f"m{n}", "user", "x" * 900) for n in range(20)]
    from threadkeep.session.threads import new_parts

    with pytest.raises(InvalidMessage, match="THREADKEEP_MAX_THREAD_BYTES"):
        new_parts(first, "plain", [], settings.model_copy(update={"max_thread_bytes": 10_000}))


# --- snapshots of version 1 -------------------------------------------------------------------------------------------

SNAPSHOTS = {
    "a bomb": gzipped(300, b'{"v":1,"messages":["'),
    "NaN in the state": b'{"v":1,"messages":[],"state":{"a":NaN}}',
    "a state without a bottom": b'{"v":1,"messages":[],"state":%s1%s}' % (b'{"a":' * 500, b"}" * 500),
    "a message too large": json.dumps({"v": 1, "messages": ["x" * (9 << 20)]}).encode(),
    "open brackets": gzip.compress(b'{"v":1,"messages":' + b"[" * 1_000_000),
    "messages that are none": b'{"v":1,"messages":[{}]}',
    "version true": b'{"v":true,"messages":[]}',
}


def test_a_hostile_snapshot_is_refused_and_others_go_on(settings, stores_for_test, raw_bucket, other):
    stores = stores_for_test(settings.model_copy(update={"v1_fallback": True, "max_archive_ratio": 500}))
    key = f"{settings.s3_prefix}/messages/t.json.gz"
    for name, body in SNAPSHOTS.items():
        raw_bucket.put_object(Bucket=settings.s3_bucket, Key=key, Body=body)
        now(stores.hot.ask(REF, keep=5))
        assert hydrate(stores, REF).outcome == "corrupt", name
        assert now(stores.hot.look(REF)).verdict == "failed", name
    raw_bucket.put_object(Bucket=settings.s3_bucket, Key=key, Body=b'{"v":1,"messages":["sound"],"state":null}')
    assert hydrate(stores, REF).outcome == "restored"
    assert messages_in(stores, REF) == ["sound"]


@pytest.mark.parametrize("thread_id", ["../messages/secret", "../../x", "./secret", "a/../secret", ".."])
def test_a_snapshot_is_not_looked_for_where_a_path_leads_elsewhere(settings, stores_for_test, raw_bucket, thread_id):
    """A store or a proxy that resolves paths would give another tenant's thread, or another bucket's."""
    stores = stores_for_test(settings.model_copy(update={"v1_fallback": True}))
    body = b'{"v":1,"messages":["secret"],"state":null}'
    for key in ("messages/secret.json", "secret.json", "tenant/secret.json"):
        raw_bucket.put_object(Bucket=settings.s3_bucket, Key=f"{settings.s3_prefix}/{key}", Body=body)
    ref = ThreadRef("tenant", thread_id)
    assert stores.cold.get_v1(ref) is None
    assert stores.cold.get_v1(ThreadRef("tenant", "secret")) is not None


# --- Redis ------------------------------------------------------------------------------------------------------------


def test_garbage_in_the_index_does_not_stop_the_sweep(stores, other, caplog):
    keys = stores.hot.keys(ThreadRef.of(other.id))
    garbage = [
        b"\xff\xfe",
        b"",
        b"/",
        b"no slash",
        b"a/b/c",
        b"messages/%ff",
        b"messages/..%2f",
        b"messages/" + b"x" * 999,
    ]
    for member in garbage:
        for key in (f"{keys.shard}index", f"{keys.shard}owed"):
            now(stores.hot.link.run("ZADD", key, 1, member))
        now(stores.hot.link.run("HSET", f"{keys.shard}tries", b"flush|" + member, "1 run 1"))
    assert sweep(stores, NoQueue(), force=True).hot == 1
    assert len([line for line in caplog.messages if "no thread's" in line]) >= len(garbage)
    for member in garbage:
        for key in (f"{keys.shard}index", f"{keys.shard}owed"):
            now(stores.hot.link.run("ZREM", key, member))


NUMBERS = ["rev", "archived", "count", "base_count", "pieces", "log_bytes", "lease_until", "keep_until", "born"]


def test_a_damaged_head_is_refused_and_others_go_on(stores, keep, other):
    sound = {}
    for field in [*NUMBERS, "state", "labels"]:
        with keep.new() as session:
            session.append(user(field))
        ref = ThreadRef.of(session.id)
        sound[ref] = field, now(stores.hot.link.run("HGET", stores.hot.keys(ref).head, field))
        now(stores.hot.link.run("HSET", stores.hot.keys(ref).head, field, "{garbage"))
        _refused_everywhere(stores, keep, ref)
    assert sweep(stores, NoQueue(), force=True).hot == 1
    for ref, (field, value) in sound.items():
        head = stores.hot.keys(ref).head
        now(
            stores.hot.link.run("HDEL", head, field)
            if value is None
            else stores.hot.link.run("HSET", head, field, value)
        )
        assert messages_in(stores, ref) == [user(field)]
        assert flush(stores, ref, "evict").outcome == "archived"


def _refused_everywhere(stores, keep, ref):
    for refused in (
        lambda: keep.open(ref.thread_id),
        lambda: keep.read(ref.thread_id),
        lambda: flush(stores, ref, "evict"),
        lambda: hydrate(stores, ref),
    ):
        with pytest.raises(ThreadkeepError):
            refused()


def test_a_head_that_does_not_describe_its_base_is_not_read_for_ever(stores, keep, other):
    """The lengths that scripts look at fit, so the thread is there; its base is not as long as its head says."""
    with keep.new() as session:
        session.append(user("mine"))
    ref = ThreadRef.of(session.id)
    head = stores.hot.keys(ref).head
    now(stores.hot.link.run("HSET", head, "base_bytes", 5))
    with pytest.raises(ArchiveCorrupt, match="not as long as its head says"):
        keep.read(ref.thread_id)
    now(stores.hot.link.run("HSET", head, "base_bytes", 0))
    assert messages_in(stores, ref) == [user("mine")]


def test_a_damaged_record_in_redis_is_named(stores, keep, other):
    with keep.new() as session:
        session.append(user("one"), user("two"))
    ref = ThreadRef.of(session.id)
    now(stores.hot.link.run("LSET", stores.hot.keys(ref).log, 1, b'{"v":1}'))
    with pytest.raises(ArchiveCorrupt, match="in Redis: a record is malformed"):
        keep.read(ref.thread_id)
    with keep.open(ref.thread_id) as session, pytest.raises(ArchiveCorrupt, match="a record is malformed"):
        _ = session.messages


def test_a_thread_is_erased_however_damaged_its_archive_is(stores, put):
    for body in (b"<html>", framed([HOSTILE_RECORDS["a million levels"]]), zeros(32_768)):
        put(body)
        upto = now(stores.hot.clock(REF))
        assert erase(stores, REF, f"request-{len(body)}", upto).outcome == "erased"
        assert hydrate(stores, REF).outcome == "absent"
