"""The receipt of an erasure tells the whole, however often it was interrupted; and what came late goes too."""

import os
from dataclasses import replace
from types import SimpleNamespace

import pytest

from tests.integration.erasing import INNOCENT, SECRET, Case
from tests.waiting import until
from threadkeep.config import Settings
from threadkeep.model import ArchiveMeta, ThreadRef, fresh_mark
from threadkeep.storage.catalog import PostgresCatalog
from threadkeep.storage.link import run_now as now
from threadkeep.tasks.erase import erase, find_receipt, look_again
from threadkeep.tasks.flush import flush
from threadkeep.tasks.receipt import FromBucket, FromRedis, Receipt
from threadkeep.tasks.sweeper import sweep
from threadkeep.testing.faults import DEATHS, ProcessDied, Work

PROVE = os.environ.get("PROVE") == "1"


def events(case):
    return [event for _, event in case.stores.catalog.events(case.ref) if event.kind == "erased"]


def away(case, monkeypatch):
    """A PostgreSQL that does not answer."""
    settings = Settings.load(**{**dict(case.stores.settings), "database_url": "postgresql://nobody@127.0.0.1:1/none"})
    monkeypatch.setattr(case.stores, "catalog", PostgresCatalog(settings))


def due_graves(case):
    async def collected():
        return [grave async for grave in case.stores.flow.graves(now_ms(case) + 10**9)]

    return now(collected())


def now_ms(case):
    return now(case.stores.hot.clock(case.ref)) // 1000


# --- the receipt ------------------------------------------------------------------------------------------------------


def test_a_receipt_names_every_store_and_what_was_removed_there(case_of):
    case = case_of()
    case.with_copies()
    case.hydrate()
    head = now(case.stores.hot.look(case.ref)).head
    with case.waiting():
        case.fork()
    flush(case.stores, ThreadRef.of(case.child), "evict")
    case.erase()
    stone = case.stores.cold.head(case.ref)
    assert case.receipt == Receipt(
        "erased",
        case.request,
        stone.meta.rev,
        FromRedis(thread=True, rev=head.rev, messages=3),
        FromBucket(object=True, versions=3, v1=1, conflicts=2, tombstone=stone.key),
        catalog=True,
        forks=[case.child],
    )
    assert case.left() == []
    assert [Receipt.from_facts(event.facts) for event in events(case)] == [case.receipt]


def test_the_receipt_of_an_erasure_of_nothing_says_that_nothing_was_there(case_of):
    case = case_of()
    case.erase()
    key = case.stores.cold.head(case.ref).key
    assert case.receipt == Receipt(
        "erased", case.request, case.receipt.rev, FromRedis(), FromBucket(tombstone=key), catalog=True
    )


def test_an_erasure_killed_at_any_step_tells_as_much_as_one_that_was_not(case_of, record_property):
    """Its worker dies before a step is sent, or when it is done and its reply is lost; the message comes again."""

    def killed(stop_at, moment):
        case = case_of()
        case.with_copies()
        mark = now(case.keep._threads.begin_erase(case.ref))
        case.request, case.upto = mark.request, mark.upto
        with Work(stop_at=stop_at, moment=moment) as work:
            try:
                case.again()
            except ProcessDied:
                assert work.dead
        if work.dead:
            case.again()
        case.again()
        assert case.left() == []
        assert len(events(case)) == 1, f"{moment} {work.steps[-1]}"
        stone = case.stores.cold.head(case.ref)
        assert case.receipt.s3.tombstone == stone.key
        return replace(case.receipt, request="", rev=0, s3=replace(case.receipt.s3, tombstone="")), len(work.steps)

    undisturbed, steps = killed(None, "before")
    assert undisturbed.s3 == FromBucket(object=True, versions=3, v1=1, conflicts=2)
    places = range(1, steps + 1) if PROVE else (5, 13, 19, 30)
    for stop_at in places:
        for moment in DEATHS:
            assert killed(stop_at, moment)[0] == undisturbed, f"killed {moment} step {stop_at}"
    record_property("proof", f"{2 * len(places)} kills of an erasure, of {steps} steps each, all with one receipt")


def test_numbers_add_up_where_something_came_between_two_tries(case_of):
    case = case_of()
    case.with_copies()
    mark = now(case.keep._threads.begin_erase(case.ref))
    case.request, case.upto = mark.request, mark.upto
    original = case.stores.catalog.forks_of
    case.stores.catalog.forks_of = lambda ref: (_ for _ in ()).throw(SystemExit)
    with pytest.raises(SystemExit):
        case.again()
    case.stores.catalog.forks_of = original
    case.stores.cold.put_aside(case.ref, SECRET.encode(), meta=ArchiveMeta(9, fresh_mark(), "", 1, 5))
    case.again()
    assert case.receipt.s3.conflicts == 3
    assert case.left() == []


def test_a_receipt_is_found_in_the_catalog_once_redis_has_forgotten_it(case_of):
    case = case_of()
    case.cold()
    case.erase()
    key = case.stores.hot.keys(case.ref).erased(case.request)
    assert 29 * 86_400_000 < now(case.stores.hot.link.run("PTTL", key)) <= 30 * 86_400_000
    now(case.stores.hot.link.run("DEL", key))
    assert find_receipt(case.stores, case.ref, case.request) == case.receipt
    assert find_receipt(case.stores, case.ref, "another") is None


def test_a_catalog_that_is_away_is_told_later_and_the_receipt_completed(case_of, monkeypatch):
    case = case_of()
    case.hot()
    with case.waiting():
        case.fork()
    flush(case.stores, ThreadRef.of(case.child), "evict")
    case.evict()
    with monkeypatch.context() as without:
        away(case, without)
        case.erase()
    assert (case.receipt.catalog, case.receipt.forks) == (False, [])
    assert case.stores.catalog.get(case.ref).erased_at is None
    with case.waiting():
        case.create()
    case.sweep()
    told = find_receipt(case.stores, case.ref, case.request)
    assert told == replace(case.receipt, catalog=True, forks=[case.child])
    assert [Receipt.from_facts(event.facts) for event in events(case)] == [told]
    assert case.left() == []
    assert case.messages() == [INNOCENT]


def test_a_thread_that_was_hot_in_a_catalog_that_was_away_is_not_called_lost(case_of, monkeypatch):
    case = case_of()
    with case.begun():
        case.sweep()
    assert case.stores.catalog.get(case.ref).stat.tier == "hot"
    with monkeypatch.context() as without:
        away(case, without)
        case.erase()
    assert case.messages() is None
    assert "hot_loss" not in [event.kind for _, event in case.stores.catalog.events(case.ref)]


# --- the grave --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["on", "off"])
def test_what_a_killed_worker_left_goes_once_none_can_run_any_more_and_a_successors_stays(case_of, layout):
    case = case_of(conditional_writes=layout)
    case.cold()
    archived = case.stores.cold.head(case.ref).meta
    case.erase()
    case.stores.cold.put_aside(case.ref, SECRET.encode(), meta=archived)
    if layout == "off":
        late = case.stores.cold.keys.revision(case.ref, archived.rev, archived.attempt)
        case.bucket.put_object(Bucket=case.stores.settings.s3_bucket, Key=late, Body=SECRET.encode())
    with case.waiting():
        case.create()
    case.evict()
    case.stores.cold.put_aside(case.ref, INNOCENT.encode(), meta=case.stores.cold.head(case.ref).meta)
    assert len(case.left()) == 1 + (layout == "off")
    ((ref, rev),) = due_graves(case)
    assert (ref, rev) == (case.ref, case.receipt.rev)
    assert look_again(case.stores, ref, rev).outcome == "purged"
    assert case.left() == []
    assert [item.size for item in case.stores.cold.conflicts(case.ref)] == [len(INNOCENT)]
    assert case.messages() == [INNOCENT]
    assert due_graves(case) == []


def test_a_grave_is_due_when_no_worker_can_be_under_way_any_more(case_of):
    case = case_of()
    before = now_ms(case)
    case.erase()
    key = case.stores.hot.keys(case.ref).shard + "graves"
    _, due = now(case.stores.hot.link.run("ZRANGE", key, 0, -1, "WITHSCORES"))
    assert int(due) - before >= 2000 * case.stores.settings.hard_time_limit


def test_a_sweep_asks_for_a_look_at_a_grave_until_it_was_looked_at(case_of, settings, worker, versioned_bucket):
    case = case_of(marker_seconds=0.001)
    case.cold()
    case.erase()
    case.stores.cold.put_aside(case.ref, SECRET.encode(), meta=ArchiveMeta(9, fresh_mark(), "", 1, 5))
    case.sweep()
    assert case.left() != []
    now(case.stores.flow.postpone_grave(case.ref, case.receipt.rev, 1))
    lossy = SimpleNamespace(purge_conflicts=lambda ref, *, rev: None)
    assert sweep(case.stores, lossy, force=True).graves == 1
    assert len(due_graves(case)) == 1
    case.sweep()
    worker(settings=settings.model_copy(update={"s3_bucket": versioned_bucket.name}))
    until(lambda: due_graves(case) == [])
    assert case.left() == []


def test_a_look_without_a_revision_spares_what_lives(case_of):
    case = case_of()
    case.cold()
    case.stores.cold.put_aside(case.ref, SECRET.encode(), meta=ArchiveMeta(9, fresh_mark(), "", 1, 5))
    assert look_again(case.stores, case.ref, 0).outcome == "kept"
    assert len(case.stores.cold.conflicts(case.ref)) == 1


def test_a_mark_of_another_request_is_worked_off_first(case_of):
    """A message whose mark is gone finds somebody else's: both end, and nothing is left."""
    case = case_of()
    case.cold()
    early = now(case.stores.hot.clock(case.ref))
    mark = now(case.keep._threads.begin_erase(case.ref))
    assert erase(case.stores, case.ref, "an-old-message", early).outcome == "erased"
    assert now(case.stores.hot.look(case.ref)).status == "absent"
    receipt = find_receipt(case.stores, case.ref, mark.request)
    assert (receipt.s3.object, receipt.s3.versions) == (True, 3)
    assert case.left() == []


def test_a_request_joins_the_erasure_that_is_under_way(case_of, keep):
    case = case_of()
    case.cold()
    first = keep.delete(case.ref.thread_id)
    assert keep.delete(case.ref.thread_id) == first
    case.erase()
    assert case.request == first
    assert Case.messages(case) is None
