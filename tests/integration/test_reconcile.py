"""The catalog held against the bucket and Redis: what it lacks, what it lies about, and what it knows that is gone."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import psycopg
import pytest
from sqlalchemy import make_url

from tests.integration.damage import Vandal, frame_ends, make_thread, meta_of
from tests.integration.protocol import messages_in, user
from threadkeep import ThreadRef
from threadkeep.model import ArchiveMeta, fresh_mark
from threadkeep.storage.catalog_schema import threads
from threadkeep.storage.link import run_now as now
from threadkeep.storage.migrations import remake
from threadkeep.tasks.adoption import make_app
from threadkeep.tasks.enqueue import Enqueuer
from threadkeep.tasks.erase import erase
from threadkeep.tasks.flush import flush
from threadkeep.tasks.hydrate import hydrate
from threadkeep.tasks.rebuild import rebuild
from threadkeep.tasks.reconcile import reconcile
from threadkeep.tasks.sweeper import sweep
from threadkeep.tasks.verify import verify, verify_these

UNTRUE = {
    "tier": "'hot'",
    "cached_until": "now() + interval '1 hour'",
    "stamp": "9000000000000000",
    "rev": "rev + 1000000",
    "archived_rev": "archived_rev + 1000000",
    "object_rev": "object_rev + 1000000",
    "object_key": "'elsewhere'",
    "etag": "'another'",
    "version_id": "'v9'",
    "format": "'threadkeep-9'",
    "raw_bytes": "1",
    "stored_bytes": "1",
    "chain": "'beef'",
    "archived_at": "now() - interval '1 year'",
    "born": "born + 1000000000",
    "created_at": "now() - interval '1 year'",
    "codec": "'another'",
    "forked_from": "'messages/nowhere'",
    "labels": """'{"a": "lie"}'""",
    "labels_rev": "9000000000000000",
    "message_count": "999",
    "count_rev": "9000000000000000",
    "active_at": "now() + interval '1 year'",
    "erased_at": "now()",
    "erase_request": "'r9'",
}
"""A lie for each column but the address and `erased_rev`, which alone tells a resurrected thread from a living one."""


@pytest.fixture
def vandal(raw_bucket, settings):
    return Vandal(raw_bucket, settings.s3_bucket)


@pytest.fixture
def make(keep, stores):
    return lambda mode="evict", texts=("one", "two"): make_thread(keep, stores, texts, mode)


@pytest.fixture
def swept(stores, settings):
    return lambda: sweep(stores, Enqueuer(make_app(settings, publisher=True)), force=True)


@pytest.fixture
def sql(settings):
    url = make_url(settings.database_url.get_secret_value()).set(drivername="postgresql")
    with psycopg.connect(url.render_as_string(hide_password=False), autocommit=True) as connection:
        yield connection


@contextmanager
def counted(stores, monkeypatch):
    """How many HEADs are sent."""
    heads, original = [], stores.cold.bucket.head
    with monkeypatch.context() as patched:
        patched.setattr(stores.cold.bucket, "head", lambda key: heads.append(key) or original(key))
        yield heads


def row(sql, ref):
    """A row but for what nobody can know again: when it was looked at, and for how long a copy may stay."""
    query = sql.execute("SELECT to_jsonb(threads) FROM threads WHERE thread_id = %s", [ref.thread_id])
    found = query.fetchone()
    return found and {name: value for name, value in found[0].items() if name not in ("stamp", "archived_at")}


def lose(stores, ref):
    """Redis forgets the thread, its place in the index included."""
    head, base, log, ids, ticket, index, *_ = stores.hot.keys(ref).all
    now(stores.hot.link.run("UNLINK", head, base, log, ids, ticket))
    now(stores.hot.link.run("ZREM", index, ref.member))


# --- nothing to do --------------------------------------------------------------------------------------------------


def test_a_catalog_that_is_right_is_left_alone_and_costs_listings(make, keep, stores, sql, swept, monkeypatch):
    refs = [make(), make("linger"), make()]
    erase(stores, refs[2], "request-1", 0)
    with keep.open(refs[1].thread_id) as session:
        session.append(user("hot"))
        swept()
        before = [row(sql, ref) for ref in refs]
        with counted(stores, monkeypatch) as heads:
            done = reconcile(stores)
        assert len(heads) == 1  # the first of a page of rows, behind which the listing starts
        assert done.to_result() == {"objects": 3, "rows": 2}
        assert done.unsound == 0
        assert [row(sql, ref) for ref in refs] == before


def test_objects_and_rows_are_compared_in_slices_that_leave_nothing_out(make, stores, sql):
    refs = sorted(make() for _ in range(5))
    sql.execute("DELETE FROM threads")
    after, in_rows, runs, seen = None, False, 0, 0
    while True:
        done = reconcile(stores, after=after, in_rows=in_rows, deadline=0)
        runs, seen = runs + 1, seen + done.recorded
        if done.after is None:
            break
        after, in_rows = done.after, done.in_rows
    assert (runs, seen) == (11, 5)
    assert sorted(stores.catalog.get_many(refs)) == refs


# --- bucket to catalog ----------------------------------------------------------------------------------------------


def test_threads_that_the_catalog_does_not_know_are_recorded(make, keep, stores, sql):
    cold, cached, hot, erased = make(), make("linger"), make("linger"), make()
    erase(stores, erased, "request-1", 0)
    with keep.open(hot.thread_id) as session:
        session.append(user("newer"))
        sql.execute("DELETE FROM threads")
        assert reconcile(stores).to_result() == {"objects": 4, "rows": 3, "recorded": 3, "forgotten": 1}
        entries = stores.catalog.get_many([cold, cached, hot, erased])
        assert [entries[ref].stat.tier for ref in (cold, cached, hot, erased)] == ["cold", "cold", "hot", "absent"]
        assert [entries[ref].stat.cached for ref in (cold, cached)] == [False, True]
        assert entries[hot].stat.dirty
        assert reconcile(stores).to_result() == {"objects": 4, "rows": 3}


def test_a_row_that_lies_is_set_right_whatever_it_lies_about(make, keep, stores, sql, record_property):
    """By a reconcile where the lie shows beside a listing; else by a rebuild, which reads the objects."""
    with keep.new(labels={"a": "b"}, state={"step": 1}) as session:
        session.append(user("one"))
    ref = ThreadRef.of(session.id)
    flush(stores, ref, "evict")
    truth = row(sql, ref)
    assert set(UNTRUE) == {column.name for column in threads.c} - {"namespace", "thread_id", "erased_rev"}
    by_reconcile, by_rebuild = [], []
    for column, lie in UNTRUE.items():
        sql.execute(f"UPDATE threads SET {column} = {lie}")
        reconcile(stores)
        told = by_reconcile
        if row(sql, ref) != truth or column in ("stamp", "archived_at"):
            rebuild(stores)
            told = by_rebuild
        assert row(sql, ref) == truth, column
        told.append(column)
        sql.execute("SELECT 1")
    stamp, archived_at = sql.execute("SELECT stamp, extract(epoch FROM archived_at) FROM threads").fetchone()
    assert stamp < now(stores.flow.clock())
    assert abs(float(archived_at) - stores.cold.head(ref).modified) < 2
    assert verify(stores).to_result() == {"sound": 1}
    told = f"a lie in each of {len(UNTRUE)} columns: {len(by_reconcile)} set right by a reconcile, all by a rebuild"
    record_property("proof", told)
    assert {"tier", "rev", "archived_rev", "object_rev", "object_key", "etag", "stored_bytes", "born"} <= set(
        by_reconcile
    )


def test_an_archive_that_went_backwards_is_named_and_left_for_verify(make, stores, vandal, sql):
    ref = make()
    stored, body = stores.cold.get(ref)
    first = body[: frame_ends(body)[0]]
    vandal.write(stored, first, meta=meta_of(first))
    before = row(sql, ref)
    for _ in range(2):
        done = reconcile(stores)
        assert (done.to_result(), done.unsound) == ({"objects": 1, "rows": 1, "outdated": 1}, 1)
    assert row(sql, ref) == before
    kinds = [event.kind for _, event in stores.catalog.events(ref)]
    assert kinds == ["outdated"]
    assert verify_these(stores, [ref]).to_result() == {"outdated": 1}
    rebuild(stores)
    assert verify_these(stores, [ref]).to_result() == {"sound": 1}


def test_an_erased_thread_that_is_back_in_the_bucket_is_not_back_in_the_catalog(make, stores, vandal, sql):
    ref = make()
    old = stores.cold.get(ref)
    erase(stores, ref, "request-1", 0)
    vandal.write(stores.cold.head(ref), old[1], meta=old[0].meta)
    sql.execute("UPDATE threads SET erased_at = now() - interval '1 hour'")
    assert reconcile(stores).to_result() == {"objects": 1, "outdated": 1}
    assert rebuild(stores).kept == [ref]
    assert stores.catalog.get(ref).erased_at is not None


def test_a_successor_of_an_erased_thread_is_recorded(make, keep, stores, sql, worker):
    ref = make()
    erase(stores, ref, "request-1", 0)
    worker()
    with keep.new(ref.thread_id) as session:
        session.append(user("successor"))
    keep.flush(ref.thread_id, wait=20)
    sql.execute("UPDATE threads SET erased_at = now() - interval '1 hour', born = NULL, rev = 0, archived_rev = 0")
    assert reconcile(stores).corrected == 1
    entry = stores.catalog.get(ref)
    assert (entry.erased_at, entry.stat.archived_rev) == (None, stores.cold.head(ref).meta.rev)


# --- catalog to bucket and Redis ------------------------------------------------------------------------------------


def test_a_missing_object_is_named_and_archived_anew_where_redis_has_the_thread(
    make, keep, stores, vandal, record_property
):
    gone, cached, hot = make(), make("linger"), make("linger")
    others = [make() for _ in range(3)]
    with keep.open(hot.thread_id) as session:
        session.append(user("newer"))
        for ref in (gone, cached, hot):
            vandal.remove(stores.cold.head(ref))
        done = reconcile(stores)
        assert (done.missing, done.rearchived, done.unsound) == (3, 2, 1)
        assert reconcile(stores).missing == 1
        assert session.append(user("newest"))
    flush(stores, hot, "evict")
    assert verify(stores).to_result() == {"sound": 5}
    for ref, texts in ((cached, ["one", "two"]), (hot, ["one", "two", "newer", "newest"])):
        lose(stores, ref)
        assert hydrate(stores, ref).outcome == "restored"
        assert messages_in(stores, ref) == [user(text) for text in texts]
    assert {event.kind for _, event in stores.catalog.events(gone)} == {"archive_missing"}
    assert [stores.catalog.events(ref) for ref in others] == [[], [], []]


def test_rows_are_looked_for_by_listings_and_asked_for_one_by_one_only_where_they_miss(
    make, stores, vandal, monkeypatch
):
    refs = [make() for _ in range(12)]
    vandal.remove(stores.cold.head(refs[5]))
    with counted(stores, monkeypatch) as heads:
        assert reconcile(stores).missing == 1
    assert len(heads) <= 3


def test_a_row_that_says_hot_of_a_thread_that_is_not_is_set_right(make, keep, stores, swept, sql):
    ref = make("linger")
    with keep.open(ref.thread_id) as session:
        session.append(user("never archived"))
        swept()
        known = stores.catalog.get(ref).stat.rev
        lose(stores, ref)
    archived = stores.cold.head(ref).meta.rev
    done = reconcile(stores)
    assert (done.cooled, done.lost) == (1, 1)
    entry = stores.catalog.get(ref)
    assert (entry.stat.tier, entry.stat.rev, entry.stat.archived_rev) == ("cold", archived, archived)
    assert ("hot_loss", {"known_rev": known, "restored_rev": archived}) in [
        (event.kind, event.facts) for _, event in stores.catalog.events(ref)
    ]
    assert reconcile(stores).to_result() == {"objects": 1, "rows": 1}


def test_a_thread_lost_before_it_was_archived_stays_hot_in_the_catalog_so_that_somebody_is_told(keep, stores, swept):
    with keep.new() as session:
        session.append(user("only in Redis"))
        swept()
        ref = ThreadRef.of(session.id)
        lose(stores, ref)
    for _ in range(2):
        assert reconcile(stores).lost == 1
    assert stores.catalog.get(ref).stat.tier == "hot"
    assert [event.kind for _, event in stores.catalog.events(ref)] == ["hot_loss"]


def test_a_clean_copy_that_the_catalog_calls_hot_is_cold_and_cached(make, stores, sql):
    ref = make("linger")
    sql.execute("UPDATE threads SET tier = 'hot', cached_until = NULL")
    assert reconcile(stores).cooled == 1
    assert (stores.catalog.get(ref).stat.tier, stores.catalog.get(ref).stat.cached) == ("cold", True)


def test_what_lies_aside_of_an_erased_thread_goes_and_of_others_stays(make, stores):
    erased, living = make(), make()
    erase(stores, erased, "request-1", 0)
    old = ArchiveMeta(5, fresh_mark(), "", 1, 5)
    stores.cold.put_aside(erased, b"left by a worker that died", meta=old)
    stores.cold.put_aside(living, b"another timeline", meta=old)
    assert reconcile(stores).purged >= 1
    assert list(stores.cold.threads_aside()) == [living]


# --- at once, and beside others -------------------------------------------------------------------------------------


def test_reconciles_at_once_agree(make, stores, sql):
    refs = [make() for _ in range(6)]
    truth = [row(sql, ref) for ref in refs]
    sql.execute("UPDATE threads SET archived_rev = archived_rev + 1000000, rev = rev + 2000000, message_count = 9")
    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(lambda _: reconcile(stores), range(4)))
    assert {one.unsound for one in done} == {0}
    assert [row(sql, ref) for ref in refs] == truth


def test_a_flush_told_to_a_row_that_lies_is_not_lost_when_the_row_is_set_right(make, keep, stores, sql, monkeypatch):
    """It is merged into a row that claims to be newer, just before that row is replaced by what was seen before it."""
    ref = make("linger")
    claims = ("archived_rev", "rev", "stamp", "object_rev")
    sql.execute(f"UPDATE threads SET {', '.join(f'{name} = 4000000000000000' for name in claims)}")
    original = stores.catalog.replace

    def late(pairs):
        monkeypatch.setattr(stores.catalog, "replace", original)
        with keep.open(ref.thread_id) as session:
            session.append(user("three"))
        flush(stores, ref, "evict")
        return original(pairs)

    monkeypatch.setattr(stores.catalog, "replace", late)
    assert reconcile(stores).corrected == 1
    stored = stores.cold.head(ref)
    entry = stores.catalog.get(ref)
    assert (entry.stat.archived_rev, entry.stat.etag, entry.stat.count) == (stored.meta.rev, stored.etag, 3)


# --- the catalog is gone --------------------------------------------------------------------------------------------


@pytest.fixture
def tables(settings):
    """Whatever the test did to them, the tables are there again for the next one."""
    yield
    remake(settings)


@pytest.mark.parametrize("gone", ["DROP TABLE threads, thread_events, shard_epochs", "DROP TABLE threads"])
def test_without_its_tables_threads_move_as_ever_and_a_rebuild_brings_the_rows_back(
    make, keep, stores, sql, swept, tables, gone, record_property
):
    cold, hot, forked, erased = make(), make("linger"), make("linger"), make()
    erase(stores, erased, "request-1", 0)
    with keep.fork(forked.thread_id) as fork:
        fork.label(tenant="acme")
    flush(stores, ThreadRef.of(fork.id), "evict")
    refs = [cold, hot, forked, erased, ThreadRef.of(fork.id)]
    with keep.open(hot.thread_id) as session:
        session.append(user("hot"))
        swept()
        before = {ref: comparable(row(sql, ref)) for ref in refs}
        sql.execute(gone)
        assert hydrate(stores, cold).outcome == "restored"
        assert flush(stores, cold, "evict").residence in ("evicted", "lingers")
        assert swept().hot >= 1
        assert verify(stores).unsound == 0
        remake(stores.settings)
        remake(stores.settings)
        done = rebuild(stores)
        assert (done.objects, done.rows, done.tombstones, done.hot, done.problems) == (5, 4, 1, 1, [])
        after = {ref: comparable(row(sql, ref)) for ref in refs}
    assert after == before
    assert stores.catalog.forks_of(forked) == [ThreadRef.of(fork.id)]
    assert [ref for ref, _ in stores.cold.scan() if ref not in refs] == []
    columns = len(next(iter(before.values())))
    record_property("proof", f"{len(refs)} rows lost and rebuilt from the bucket: equal in {columns} columns each")


def comparable(found):
    """Without what only a look at Redis can tell, and when the erasure was recorded."""
    return {name: value for name, value in found.items() if name not in ("cached_until", "erased_at")} | {
        "erased": found["erased_at"] is not None
    }


def test_a_quick_rebuild_takes_the_metadatas_word_and_a_whole_one_adds_the_rest(keep, stores, sql, vandal, make):
    with keep.new(labels={"tenant": "acme"}) as session:
        session.append(user("one"))
    ref, damaged, unlabelled = ThreadRef.of(session.id), make(), make()
    flush(stores, ref, "evict")
    truth = row(sql, ref)
    stored, body = stores.cold.get(damaged)
    vandal.write(stored, body[:-3])
    vandal.strip(*stores.cold.get(unlabelled))
    sql.execute("TRUNCATE threads")
    quick = rebuild(stores, quick=True)
    assert [(one, verdict) for one, verdict, _ in quick.problems] == [(unlabelled, "mislabelled")]
    assert (quick.rows, row(sql, ref)["labels"], row(sql, ref)["chain"]) == (2, None, truth["chain"])
    whole = rebuild(stores)
    assert sorted((one, verdict) for one, verdict, _ in whole.problems) == sorted(
        [(damaged, "corrupt"), (unlabelled, "mislabelled")]
    )
    assert (whole.rows, row(sql, ref)) == (3, truth)
    assert stores.catalog.get(damaged).stat.archived_rev == stored.meta.rev


def test_a_rebuild_that_was_interrupted_is_repeated(make, stores, sql):
    refs = [make() for _ in range(4)]
    truth = [row(sql, ref) for ref in refs]
    sql.execute("TRUNCATE threads")

    def interrupt(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rebuild(stores, progress=interrupt)
    for _ in range(2):
        assert rebuild(stores).rows == 4
        assert [row(sql, ref) for ref in refs] == truth


def test_a_rebuild_beside_a_flush_does_not_take_the_newer_row_back(make, keep, stores, sql, monkeypatch):
    ref = make("linger")
    sql.execute("TRUNCATE threads")
    original = stores.catalog.record

    def late(*args):
        monkeypatch.setattr(stores.catalog, "record", original)
        with keep.open(ref.thread_id) as session:
            session.append(user("three"))
        flush(stores, ref, "evict")
        return original(*args)

    monkeypatch.setattr(stores.catalog, "record", late)
    rebuild(stores)
    stored = stores.cold.head(ref)
    assert stores.catalog.get(ref).stat.archived_rev == stored.meta.rev
    assert stores.catalog.get(ref).stat.etag == stored.etag
