"""What zeitlich asks of its cold store, its snapshots and its tiered manager, asked of ours; and what it does not ask.

Each test bears the title of the one that it answers to; docs/reference/conformance.md pairs them. A dagger marks a
result that differs on purpose.
"""

import gzip
import json
from contextlib import contextmanager

import pytest

from tests.integration.protocol import Racing
from tests.waiting import until
from threadkeep import ThreadNotFound, ThreadRef
from threadkeep.config import Settings
from threadkeep.errors import HydrateFailed, MessageConflict, StoreRefused, StoreUnavailable
from threadkeep.local.ports import free_port
from threadkeep.storage.cold_keys import ColdKeys
from threadkeep.storage.hot import HotTier
from threadkeep.storage.hot_flow import TierFlow
from threadkeep.storage.limits import ReadLimits
from threadkeep.storage.link import SyncLink
from threadkeep.storage.link import run_now as now
from threadkeep.storage.record_ids import ID_BYTES
from threadkeep.storage.snapshot_v1 import read_v1, write_v1
from threadkeep.tasks.flush import flush
from threadkeep.tasks.hydrate import hydrate, load
from threadkeep.tasks.stores import Stores

TASK = {
    "id": "t1",
    "subject": "do thing",
    "description": "do it",
    "activeForm": "doing",
    "status": "pending",
    "metadata": {},
    "blockedBy": [],
    "blocks": [],
}
STATE = {"counter": 7, "tasks": [["t1", TASK]]}
"""Also what `SLICE` is here, laid flat."""
SLICE = {"tasks": [["t1", TASK]], "custom": {"counter": 7}}


def user(text):
    return {"role": "user", "content": text}


def said(own, text):
    """An envelope of zeitlich's adapter for Anthropic."""
    return json.dumps({"id": own, "message": user(text)}, separators=(",", ":"))


def snapshot(*messages, state=None, ids=()):
    return {"v": 1, "messages": list(messages), "state": state, "dedupIds": list(ids)}


def exported(view):
    return json.loads(write_v1(view.entries, view.state, codec=view.codec, compress=False))


@pytest.fixture
def unreachable(settings):
    """A worker's stores whose bucket nobody can reach."""
    closed = f"http://127.0.0.1:{free_port()}"
    stores = Stores(settings.model_copy(update={"s3_endpoint": closed, "s3_attempts": 1}))
    yield stores
    stores.close()


@pytest.fixture
def without(valkey_server, settings):
    """Makes a worker's stores whose user of Redis may not use one command."""
    made = []

    @contextmanager
    def admin():
        import redis

        with redis.Redis.from_url(valkey_server.url(0)) as client:
            yield client

    def make(command):
        name = f"without-{command}"
        with admin() as client:
            client.execute_command("ACL", "SETUSER", name, "on", ">secret", "~*", "&*", "+@all", f"-{command}")
        url = valkey_server.url(0).replace("redis://", f"redis://{name}:secret@")
        made.append((name, Stores(settings.model_copy(update={"redis_url": url}))))
        return made[-1][1]

    yield make
    with admin() as client:
        for name, stores in made:
            stores.close()
            client.execute_command("ACL", "DELUSER", name)


def restore_with(restricted, stores, thread_id):
    """A restore, of which the last part is done with other rights than what came before."""
    ref = ThreadRef.of(thread_id)
    start = now(stores.flow.begin_hydrate(ref))
    return now(restricted.flow.restore(ref, start.ticket, load(stores, ref).copy))


@pytest.fixture
def cold(face, tiers, thread_id):
    """The id of a thread that is in the archive only."""
    with face.new(thread_id, state=STATE) as session:
        session.append(user("a"), user("b"), ids=["m1", "m2"])
    tiers.put_away(face, thread_id)
    return thread_id


# --- cold-store.test.ts -----------------------------------------------------------------------------------------------


def test_read_returns_null_when_no_object_exists_for_the_thread(face, stores, thread_id):
    """† Whoever reads a thread that is nowhere is told so."""
    assert stores.cold.get(ThreadRef.of(thread_id)) is None
    assert stores.cold.head(ThreadRef.of(thread_id)) is None
    with pytest.raises(ThreadNotFound):
        face.read(thread_id)


def test_write_then_read_round_trips_a_snapshot(face, tiers, settings, cold):
    """† Frames of zstd instead of gzip, under another suffix, readable with zstdcat and jq."""
    key = f"{settings.s3_prefix}/messages/{cold}.ndjson.zst"
    stored = tiers.s3.head_object(Bucket=settings.s3_bucket, Key=key)
    assert stored["ContentType"] == "application/zstd"
    *records, seal = tiers.lines(cold)
    assert [(record["id"], record["body"]) for record in records] == [("m1", user("a")), ("m2", user("b"))]
    assert seal["$threadkeep"]["state"] == STATE
    view = face.read(cold)
    assert (view.messages, view.state) == ([user("a"), user("b")], STATE)


def test_supports_plain_json_when_gzip_is_disabled(face, tiers, thread_id):
    """† Plain snapshots are read, and exported; the archive itself is always compressed."""
    stored = snapshot(said("m1", "hi"), ids=["m1"])
    tiers.put_snapshot(thread_id, stored)
    assert exported(face.read(thread_id)) == stored


def test_uses_threads_as_the_default_prefix(face, tiers, cold):
    assert Settings.model_fields["s3_prefix"].default == "threads"
    keys = ColdKeys("threads")
    assert keys.thread(ThreadRef.of("abc")) == "threads/messages/abc.ndjson.zst"
    assert tiers.archived(cold).key == ColdKeys(face.settings.s3_prefix).thread(ThreadRef.of(cold))


def test_delete_removes_the_underlying_object(face, tiers, settings, cold):
    """† A small mark takes its place, so that a worker that comes late cannot bring the thread back."""
    tiers.put_snapshot(cold, snapshot(said("m1", "older")))
    face.delete(cold, wait=20)
    found = tiers.s3.list_objects_v2(Bucket=settings.s3_bucket, Prefix=f"{settings.s3_prefix}/messages/{cold}")
    assert [item["Key"].rpartition("/")[2] for item in found["Contents"]] == [f"{cold}.ndjson.zst"]
    (line,) = tiers.lines(cold)
    assert set(line) == {"$threadkeep_erased"}
    with pytest.raises(ThreadNotFound):
        face.read(cold)


def test_read_treats_404_errors_as_null(face, tiers, settings, cold):
    tiers.s3.delete_object(Bucket=settings.s3_bucket, Key=tiers.archived(cold).key)
    assert tiers.stores.cold.get(ThreadRef.of(cold)) is None
    with pytest.raises(ThreadNotFound):
        face.open(cold)


def test_read_rethrows_non_404_errors(face, tiers, settings, cold):
    wrong = settings.model_copy(update={"s3_secret_key": type(settings.s3_secret_key)("wrong")})
    refused = Stores(wrong)
    with pytest.raises(StoreRefused, match="SignatureDoesNotMatch"):
        refused.cold.get(ThreadRef.of(cold))
    refused.close()
    tiers.s3.put_object(Bucket=settings.s3_bucket, Key=tiers.archived(cold).key, Body=b"no thread")
    with pytest.raises(HydrateFailed, match="nothing was restored"):
        face.open(cold)


def test_falls_back_to_gunzip_when_the_object_is_gzip_encoded(face, tiers, thread_id):
    """Whatever its suffix says: content decides."""
    stored = snapshot(said("m1", "hi"), ids=["m1"])
    other = face.fresh_id()
    tiers.put_snapshot(thread_id, stored, suffix=".json.gz", pack=gzip.compress)
    tiers.put_snapshot(other, stored, suffix=".json", pack=gzip.compress)
    for each in (thread_id, other):
        assert exported(face.read(each)) == stored


def test_round_trips_a_large_payload(face, tiers, thread_id):
    messages = [user(f"{number:03d}" + "x" * 2048) for number in range(500)]
    with face.new(thread_id) as session:
        ids = session.append(*messages)
    tiers.put_away(face, thread_id)
    view = face.read(thread_id)
    assert view.messages == messages
    assert [entry.id for entry in view.entries] == ids


# --- snapshot.test.ts: encodeSnapshot ---------------------------------------------------------------------------------


def test_returns_null_when_the_thread_has_not_been_initialized(face, stores, tiers, thread_id):
    assert flush(stores, ThreadRef.of(thread_id), "evict").outcome == "absent"
    assert face.flush(thread_id) is False
    assert tiers.archived(thread_id) is None


def test_captures_messages_state_and_ids(face, tiers, cold):
    *records, seal = tiers.lines(cold)
    assert [record["body"] for record in records] == [user("a"), user("b")]
    assert [record["id"] for record in records] == ["m1", "m2"]
    assert seal["$threadkeep"]["state"] == STATE
    assert seal["$threadkeep"]["count"] == 2


def test_returns_an_empty_dedup_ids_list_when_id_of_is_omitted(face, tiers, thread_id):
    """† No message is without an id here: one that has none is given one, and an export keeps quiet about it."""
    stored = snapshot('{"text":"1"}', '{"text":"1"}', ids=[])
    tiers.put_snapshot(thread_id, stored)
    view = face.read(thread_id)
    assert len({entry.id for entry in view.entries}) == 2
    assert exported(view) == stored


# --- snapshot.test.ts: applySnapshot ----------------------------------------------------------------------------------


def test_restores_messages_state_and_ids_into_redis(face, tiers, thread_id):
    tiers.put_snapshot(thread_id, snapshot(said("m1", "hello"), said("m2", "world"), state=SLICE, ids=["m1", "m2"]))
    with face.open(thread_id) as session:
        assert (session.codec, session.messages) == ("anthropic", [user("hello"), user("world")])
        session.append(user("hello"), id="m1")
        assert session.count == 2
        with pytest.raises(MessageConflict):
            session.append(user("something else"), id="m2")
    assert face.read(thread_id).state == STATE


def test_is_idempotent_when_the_thread_is_already_hot(face, stores, tiers, thread_id):
    with face.new(thread_id) as session:
        session.append(user("existing"))
        tiers.put_snapshot(thread_id, snapshot(said("m1", "from the snapshot"), ids=["m1"]))
        assert hydrate(stores, ThreadRef.of(thread_id)).outcome == "present"
        assert session.messages == [user("existing")]
    assert face.read(thread_id).messages == [user("existing")]


def test_handles_an_empty_snapshot(face, tiers, thread_id):
    tiers.put_snapshot(thread_id, snapshot())
    with face.open(thread_id) as session:
        assert session.messages == []
        assert set(tiers.hot_keys(thread_id)) == {"head", "base"}
    assert face.read(thread_id).state is None


def test_throws_and_writes_nothing_when_the_residue_cleanup_fails(face, stores, tiers, without, cold):
    with pytest.raises(StoreRefused):
        restore_with(without("unlink"), stores, cold)
    assert tiers.hot_keys(cold) == {}
    assert face.read(cold).messages == [user("a"), user("b")]


def test_clears_residue_when_a_write_fails_partway(face, stores, tiers, without, cold):
    """† Residue is not cleared but never taken for a thread: it expires, and the next restore replaces it."""
    with pytest.raises(StoreRefused):
        restore_with(without("hset"), stores, cold)
    left = tiers.hot_keys(cold)
    assert "head" not in left
    assert all(expiry > 0 for expiry in left.values())
    with face.open(cold) as session:
        assert session.messages == [user("a"), user("b")]
        assert session.append(user("a"), id="m1") == ["m1"]
        assert session.count == 2


def test_throws_and_leaves_the_head_unset_when_a_command_fails(face, stores, tiers, without, cold):
    with pytest.raises(StoreRefused):
        restore_with(without("rpush"), stores, cold)
    assert tiers.hot_keys(cold) == {}
    with face.open(cold) as session:
        assert session.messages == [user("a"), user("b")]


def test_issues_a_fixed_number_of_round_trips_rather_than_per_key_writes(face, settings, stores, tiers, thread_id):
    """† One to begin, two to stage what lies in the archive, one to bring it in, however many messages there are."""
    needed = []
    for number, size in ((0, 10), (1, 500)):
        own = f"{thread_id}-{number}"
        with face.new(own) as session:
            session.append(*[user(str(message)) for message in range(size)])
        tiers.put_away(face, own)
        with CountedStores(settings) as counted:
            assert hydrate(counted, ThreadRef.of(own)).outcome == "restored"
            needed.append(counted.trips)
        assert len(face.read(own).messages) == size
    assert needed[0] == needed[1] <= 5


class CountedStores(Stores):
    """A worker's stores that count round trips to Redis."""

    def __init__(self, settings):
        super().__init__(settings)
        self.trips = 0
        self.hot = HotTier(self._counting(SyncLink(settings)), settings)
        self.flow = TierFlow(self.hot, settings)

    def _counting(self, link):
        for name in ("run", "batch", "call"):
            setattr(link, name, self._counted(getattr(link, name)))
        return link

    def _counted(self, original):
        async def counted(*args):
            self.trips += 1
            return await original(*args)

        return counted

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def test_clears_any_partial_residue_from_a_previous_failed_restore(face, tiers, cold):
    names = tiers.names(cold)
    for part in (names.base, names.log):
        tiers.redis("RPUSH", part, "stale")
    tiers.redis("SET", names.ids, "stale")
    with face.open(cold) as session:
        assert session.messages == [user("a"), user("b")]
    assert face.read(cold).state == STATE


# --- snapshot.test.ts: clearHotTier -----------------------------------------------------------------------------------


def test_removes_list_meta_state_and_ids(face, tiers, thread_id):
    with face.new(thread_id, state=STATE) as session:
        session.append(user("hello"), id="m1")
        assert set(tiers.hot_keys(thread_id)) == {"head", "log", "ids"}
    tiers.put_away(face, thread_id)
    assert tiers.all_keys(thread_id) == []


# --- tiered.test.ts: no cold store ------------------------------------------------------------------------------------


def test_hydrate_is_a_no_op_when_no_cold_store_is_there(face, tiers, unreachable, thread_id):
    """† There always is a cold store; where it does not answer, a hydrate fails and makes nothing."""
    with pytest.raises(StoreUnavailable):
        hydrate(unreachable, ThreadRef.of(thread_id))
    assert tiers.hot_keys(thread_id) == {}
    assert not face.exists(thread_id)


def test_flush_is_a_no_op_when_no_cold_store_is_there(face, tiers, unreachable, thread_id):
    """† Where the cold store does not answer, a flush fails and leaves the thread as it is."""
    with face.new(thread_id) as session:
        session.append(user("hello"), id="m1")
        with pytest.raises(StoreUnavailable):
            flush(unreachable, ThreadRef.of(thread_id), "evict")
        assert set(tiers.hot_keys(thread_id).values()) == {-1}
        assert session.messages == [user("hello")]


def test_delegates_all_base_thread_manager_ops_to_redis(face, tiers, thread_id):
    with face.new(thread_id) as session:
        session.append(user("a"), user("b"), ids=["m1", "m2"])
        session.state = STATE
        session.checkpoint()
        assert session.count == 2
        assert face.read(thread_id).state == STATE
        assert session.messages == [user("a"), user("b")]
        assert session.truncate("m2") == 1
        assert face.read(thread_id).messages == session.messages == [user("a")]


# --- tiered.test.ts: with cold store ----------------------------------------------------------------------------------


def test_flush_writes_messages_state_and_ids_to_the_cold_store(face, tiers, thread_id):
    with face.new(thread_id) as session:
        session.append(user("hello"), id="m1")
        session.append(user("world"), id="m2")
        session.state = STATE
        session.checkpoint(wait=20)
        *records, seal = tiers.lines(thread_id)
    assert [(record["id"], record["body"]) for record in records] == [("m1", user("hello")), ("m2", user("world"))]
    assert seal["$threadkeep"]["state"] == STATE


def test_flush_is_a_no_op_when_the_thread_is_cold(face, stores, tiers, cold):
    before = tiers.archived(cold)
    assert flush(stores, ThreadRef.of(cold), "evict").outcome == "absent"
    assert face.flush(cold, wait=20) is False
    assert tiers.archived(cold) == before


def test_defaults_to_deleting_the_hot_tier_after_a_successful_flush(face, tiers, thread_id):
    """† `flush` does; leaving a session keeps a copy for a while, unless THREADKEEP_EXIT_FLUSH says otherwise."""
    with face.new(thread_id, state=STATE, wait_flush=20) as session:
        session.append(user("hello"), id="m1")
    assert set(tiers.hot_keys(thread_id)) == {"head", "base", "ids"}
    face.flush(thread_id, wait=20)
    until(lambda: tiers.all_keys(thread_id) == [])
    with face.tuned(exit_flush="evict").open(thread_id) as session:
        session.append(user("world"), id="m2")
    until(lambda: tiers.archived(thread_id).meta.count == 2)
    assert face.read(thread_id).messages == [user("hello"), user("world")]


def test_flush_without_delete_hot_leaves_the_hot_tier_intact(face, tiers, thread_id):
    with face.new(thread_id) as session:
        session.append(user("hello"), id="m1")
        session.checkpoint(wait=20)
        assert tiers.archived(thread_id).meta.count == 1
        assert set(tiers.hot_keys(thread_id).values()) == {-1}
        assert session.messages == [user("hello")]


def test_hydrate_restores_messages_state_and_ids_from_the_cold_store(face, tiers, cold):
    assert tiers.all_keys(cold) == []
    with face.open(cold) as session:
        assert session.messages == [user("a"), user("b")]
        assert session.append(user("a"), id="m1") == ["m1"]
        assert session.count == 2
    assert face.read(cold).state == STATE


def test_hydrate_is_idempotent_when_the_thread_is_already_hot(face, tiers, unreachable, thread_id):
    """The cold store is not even asked."""
    with face.new(thread_id) as session:
        session.append(user("in redis"), id="existing")
        tiers.put_snapshot(thread_id, snapshot(said("from-cold", "different"), state=SLICE, ids=["from-cold"]))
        assert hydrate(unreachable, ThreadRef.of(thread_id)).outcome == "present"
    assert face.read(thread_id).messages == [user("in redis")]


def test_hydrate_is_a_no_op_when_nothing_is_archived_in_the_cold_store(face, stores, tiers, thread_id):
    assert hydrate(stores, ThreadRef.of(thread_id)).outcome == "absent"
    assert tiers.hot_keys(thread_id) == {}
    with pytest.raises(ThreadNotFound):
        face.open(thread_id)


def test_flush_then_hydrate_is_a_full_round_trip_for_an_empty_thread(face, tiers, thread_id):
    with face.new(thread_id):
        pass
    tiers.put_away(face, thread_id)
    with face.open(thread_id) as session:
        assert (session.messages, session.count) == ([], 0)


def test_repeated_flushes_converge(face, stores, tiers, thread_id):
    """† The second one finds nothing new, and writes nothing."""
    with face.new(thread_id) as session:
        session.append(user("hello"), id="m1")
        assert flush(stores, ThreadRef.of(thread_id), "checkpoint").outcome == "archived"
        first = tiers.archived(thread_id)
        assert flush(stores, ThreadRef.of(thread_id), "checkpoint").outcome == "unchanged"
        assert tiers.archived(thread_id) == first
        assert first.meta.count == 1


def test_repeated_hydrates_converge(face, stores, tiers, thread_id):
    """Only the first one writes to Redis."""
    tiers.put_snapshot(thread_id, snapshot(said("m1", "hello"), ids=["m1"]))
    assert hydrate(stores, ThreadRef.of(thread_id)).outcome == "restored"
    gen = tiers.redis("HGET", tiers.names(thread_id).head, "gen")
    assert hydrate(stores, ThreadRef.of(thread_id)).outcome == "present"
    assert tiers.redis("HGET", tiers.names(thread_id).head, "gen") == gen
    assert face.read(thread_id).messages == [user("hello")]


def test_fork_from_a_hydrated_source_preserves_messages_in_the_new_thread(face, tiers, cold):
    with face.fork(cold) as fork:
        assert fork.messages == [user("a"), user("b")]
    tiers.put_away(face, fork.id)
    assert face.read(fork.id).messages == face.read(cold).messages == [user("a"), user("b")]


def test_honors_a_custom_ttl_when_restoring(face, settings, tiers, cold):
    patient = Stores(settings.model_copy(update={"linger_seconds": 30}))
    assert hydrate(patient, ThreadRef.of(cold)).outcome == "restored"
    patient.close()
    left = tiers.hot_keys(cold)
    assert set(left) == {"head", "base", "ids"}
    assert all(20_000 < expiry <= 30_000 for expiry in left.values())
    assert face.read(cold).messages == [user("a"), user("b")]


# --- what zeitlich does not ask ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", ["put", "settle"])
def test_an_append_between_a_flushs_read_and_its_delete_survives(face, stores, tiers, thread_id, step):
    """In zeitlich what lands there is deleted with the hot copy."""
    with face.new(thread_id) as session:
        session.append(user("1"))
        with Racing(stores, step, lambda: session.append(user("2"))):
            flush(stores, ThreadRef.of(thread_id), "evict")
        assert session.messages == [user("1"), user("2")]
    tiers.put_away(face, thread_id)
    assert face.read(thread_id).messages == [user("1"), user("2")]


def test_concurrent_hydrates_restore_one_copy(face, stores, tiers, cold):
    """In zeitlich two of them can interleave, and every message is there twice."""
    ref = ThreadRef.of(cold)
    readers = [lambda: face.read(cold).messages] * 4
    workers = [lambda: hydrate(stores, ref).outcome] * 4
    got = face.gather(*readers, *workers)
    assert got[:4] == [[user("a"), user("b")]] * 4
    assert set(got[4:]) <= {"restored", "present"}
    assert tiers.redis("STRLEN", tiers.names(cold).ids) == 2 * ID_BYTES


THREADS = {
    "anthropic": (
        ['{"id":"s","message":{"role":"user","content":"Be brief."},"isSystem":true}', said("m1", "hi")],
        ["s", "m1"],
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}],
        {"role": "assistant", "content": [{"type": "text", "text": "Hello."}]},
    ),
    "google-genai": (
        [
            '{"id":"s","content":{"role":"system","parts":[{"text":"Be brief."}]}}',
            '{"id":"m1","content":{"role":"user","parts":[{"text":"hi"}]}}',
        ],
        ["s", "m1"],
        [{"role": "system", "parts": [{"text": "Be brief."}]}, {"role": "user", "parts": [{"text": "hi"}]}],
        {"role": "model", "parts": [{"text": "Hello."}]},
    ),
    "langchain": (
        [
            '{"type":"system","data":{"content":"Be brief.","id":"s"}}',
            '{"type":"tool","data":{"content":"42","tool_call_id":"c1","id":"m1"}}',
        ],
        ["s", "c1"],
        [
            {"type": "system", "data": {"content": "Be brief.", "id": "s"}},
            {"type": "tool", "data": {"content": "42", "tool_call_id": "c1", "id": "m1"}},
        ],
        {"type": "ai", "data": {"content": "Hello.", "id": "lc_run--1"}},
    ),
}


@pytest.mark.parametrize("codec", THREADS)
def test_a_snapshot_of_zeitlichs_is_imported_continued_and_exported(face, tiers, thread_id, codec):
    messages, ids, bodies, answer = THREADS[codec]
    stored = snapshot(*messages, state=SLICE, ids=ids)
    tiers.put_snapshot(thread_id, stored, suffix=".json.gz", pack=gzip.compress)
    with face.open(thread_id) as session:
        assert session.codec == codec
        assert [entry.body for entry in session.entries] == bodies
    assert exported(face.read(thread_id)) == stored
    with face.open(thread_id, wait_flush=20) as session:
        session.append(answer, id="m8")
        session.user("And now?", id="m9")
    tiers.forget(thread_id)
    again = exported(face.read(thread_id))
    assert (again["messages"][:-2], again["state"]) == (messages, SLICE)
    back = read_v1(json.dumps(again).encode(), thread="t", where="k", limits=ReadLimits(1 << 20))
    assert back.codec == codec
    assert [entry.kind for entry in back.entries[-2:]] == ["assistant", "user"]
