"""What the catalog is still to be told: a worker that is late pays its own debt, and nobody else's."""

from typing import Any

import pytest

from tests.integration.protocol import user
from threadkeep import Threadkeep, ThreadRef
from threadkeep.errors import StoreUnavailable
from threadkeep.storage.hot_keys import owed_key
from threadkeep.storage.link import run_now as now
from threadkeep.tasks.adoption import make_app
from threadkeep.tasks.enqueue import Enqueuer
from threadkeep.tasks.flush import flush
from threadkeep.tasks.hydrate import hydrate
from threadkeep.tasks.stores import Stores
from threadkeep.tasks.sweeper import SweepCounts, sweep


@pytest.fixture
def ref(keep: Threadkeep) -> ThreadRef:
    with keep.new() as session:
        session.append(user("1"))
    return ThreadRef.of(session.id)


def swept(stores: Stores) -> SweepCounts:
    return sweep(stores, Enqueuer(make_app(stores.settings, publisher=True)), force=True)


def owed(stores: Stores) -> list[ThreadRef]:
    async def collected() -> list[ThreadRef]:
        return [ref async for ref in stores.flow.owed()]

    return now(collected())


def appended(keep: Threadkeep, ref: ThreadRef, text: str) -> None:
    with keep.open(ref.thread_id) as session:
        session.append(user(text))


def record_nothing(*_: Any, **__: Any) -> None:
    raise StoreUnavailable("the catalog", "a write", "it is away")


def test_a_worker_that_tells_the_catalog_late_does_not_pay_for_a_newer_flush(keep, stores, ref, monkeypatch):
    """One worker has settled and stalls before it tells the catalog; another flushes anew and dies before it tells."""
    original = stores.catalog.record

    def late(rows: Any, events: Any = ()) -> None:
        monkeypatch.setattr(stores.catalog, "record", original)
        appended(keep, ref, "2")
        with monkeypatch.context() as dying:
            dying.setattr(type(stores), "record_archived", lambda *_, **__: None)
            assert flush(stores, ref, "linger").outcome == "archived"
        original(rows, events)

    monkeypatch.setattr(stores.catalog, "record", late)
    assert flush(stores, ref, "linger").outcome == "archived"
    newest = stores.cold.head(ref).meta.rev
    assert stores.catalog.get(ref).stat.archived_rev < newest
    assert owed(stores) == [ref]
    assert swept(stores).catalog_rows == 1
    assert stores.catalog.get(ref).stat.archived_rev == newest
    assert owed(stores) == []


def test_a_sweep_that_looked_before_a_flush_does_not_pay_for_it(keep, stores, ref, monkeypatch):
    with monkeypatch.context() as away:
        away.setattr(stores.catalog, "record", record_nothing)
        flush(stores, ref, "linger")
    original = stores.cold.head

    def meanwhile(about: ThreadRef) -> Any:
        found = original(about)
        monkeypatch.setattr(stores.cold, "head", original)
        appended(keep, ref, "2")
        with monkeypatch.context() as dying:
            dying.setattr(type(stores), "record_archived", lambda *_, **__: None)
            flush(stores, ref, "linger")
        return found

    monkeypatch.setattr(stores.cold, "head", meanwhile)
    swept(stores)
    assert owed(stores) == [ref]
    swept(stores)
    assert stores.catalog.get(ref).stat.archived_rev == stores.cold.head(ref).meta.rev
    assert owed(stores) == []


def test_every_worker_that_tells_the_catalog_at_once_leaves_no_debt(stores, ref):
    flush(stores, ref, "evict")
    assert owed(stores) == []
    hydrate(stores, ref)
    assert owed(stores) == []


def test_a_debt_is_paid_by_what_was_so_at_its_time_or_later(stores, ref):
    before = now(stores.hot.clock(ref))
    now(stores.flow.owe(ref))
    now(stores.flow.paid(ref, before))
    assert owed(stores) == [ref]
    now(stores.flow.paid(ref, now(stores.hot.clock(ref))))
    assert owed(stores) == []


@pytest.mark.parametrize("first", ["a flush", "a payment", "a sweep"])
def test_debts_of_an_earlier_version_are_taken_over(keep, stores, ref, first):
    """They lay in a plain set."""
    others = [ThreadRef.of(f"t{number}") for number in range(9000)]
    same_shard = [other for other in others if other.shard == ref.shard]
    assert same_shard
    key = owed_key(stores.settings.key_prefix, ref.shard)
    now(stores.hot.link.run("SADD", key, ref.member, *(other.member for other in same_shard)))
    stamp = now(stores.hot.clock(ref))
    match first:
        case "a flush":
            assert flush(stores, ref, "linger").outcome == "archived"
            assert sorted(owed(stores)) == sorted(same_shard)
        case "a payment":
            now(stores.flow.paid(ref, stamp))  # of before the debts were dated: they may be newer
            assert sorted(owed(stores)) == sorted([ref, *same_shard])
        case "a sweep":
            swept(stores)
            assert owed(stores) == []
