"""Redis's clock steps back, or a worker wakes late: what was asked for is erased, and what came afterwards is not."""

import os
from itertools import count

import pytest

from tests.integration.erasing import INNOCENT, SECRET, Case, Interrupted
from threadkeep.errors import ThreadErased
from threadkeep.model import ArchiveMeta, fresh_mark
from threadkeep.session.threads import Identity
from threadkeep.storage.link import run_now as now
from threadkeep.storage.tombstones import tombstone
from threadkeep.tasks.erase import erase
from threadkeep.tasks.loading import load

PROVE = os.environ.get("PROVE") == "1"
AHEAD = 10**12
each_layout = pytest.mark.parametrize("layout", ["on", "off"])


def run(case, *command):
    return now(case.stores.hot.link.run(*command))


def born_ahead(case):
    """Cold, and made when the clock was eleven days ahead of what it is now."""
    with case.begun() as session:
        session.append({"text": SECRET, "role": "user"})
        head = case.stores.hot.keys(case.ref).head
        ahead = now(case.stores.hot.clock(case.ref)) + AHEAD
        run(case, "HSET", head, "born", ahead, "rev", ahead + 5)
    case.evict()


def lose_mark(case):
    """As a Redis that lost its memory: nothing tells of the thread any more."""
    keys = case.stores.hot.keys(case.ref)
    run(case, "DEL", *keys.all[:5], keys.all[6])
    run(case, "ZREM", keys.all[5], case.ref.member)


def wake_late(case):
    """Another worker completes the erasure meanwhile, and the thread is begun anew, archived, and in conflict."""
    case.again()
    case.create()
    case.evict()
    there = case.stores.cold.head(case.ref)
    case.stores.cold.put_aside(case.ref, INNOCENT.encode(), meta=there.meta)


def begin_anew_unmarked(case):
    lose_mark(case)
    case.overwrite()
    case.evict()
    lose_mark(case)  # nor is a cached copy left, which alone would have the message end at once
    assert now(case.stores.flow.erase_mark(case.ref, case.request, case.upto)).status == "marked"


# --- what was there goes ----------------------------------------------------------------------------------------------


@each_layout
def test_what_was_born_ahead_of_the_clock_is_erased_all_the_same(case_of, layout):
    case = case_of(conditional_writes=layout)
    born_ahead(case)
    known = case.stores.catalog.get(case.ref).stat
    case.erase()
    assert case.upto < known.born
    assert case.receipt.outcome == "erased"
    assert case.receipt.rev > known.rev
    case.settle()
    assert (case.left(), case.messages()) == ([], None)
    assert case.stores.catalog.get(case.ref).erased_at is not None


def test_a_row_of_the_catalog_that_is_ahead_of_the_clock_is_stripped_though_nothing_else_is_left(case_of):
    """Never archived, and lost with Redis's memory: the catalog alone knows its labels."""
    case = case_of()
    with case.begun():
        ahead = now(case.stores.hot.clock(case.ref)) + AHEAD
        run(case, "HSET", case.stores.hot.keys(case.ref).head, "born", ahead, "rev", ahead)
        case.sweep()
    run(case, "DEL", *case.stores.hot.keys(case.ref).all[:4])
    assert case.stores.catalog.get(case.ref).stat.labels == {"about": SECRET}
    case.erase()
    assert case.left() == []
    assert case.stores.catalog.get(case.ref).erased_at is not None


def test_without_its_mark_a_request_spares_what_was_born_after_it(case_of):
    """Redis lost it: something may have been created since the request, and its birth is all there is to go by."""
    case = case_of()
    born_ahead(case)
    mark = now(case.stores.hot.mark_erasing(case.ref, fresh_mark()))
    lose_mark(case)
    assert erase(case.stores, case.ref, mark.request, mark.upto).outcome == "spared"
    assert case.messages() == [SECRET]
    assert erase(case.stores, case.ref, mark.request, mark.upto).outcome == "spared"


def test_a_task_without_a_request_of_its_own_makes_one(case_of):
    case = case_of()
    born_ahead(case)
    assert erase(case.stores, case.ref, "the-message", 0).outcome == "erased"
    assert erase(case.stores, case.ref, "the-message", 0).outcome == "erased"
    assert (case.left(), case.messages()) == ([], None)


# --- what comes afterwards stays --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "layout"),
    [("create", "on"), ("create", "off"), ("overwrite", "on"), ("bring_in", "on"), ("fork_to_it", "on")],
)
def test_a_successor_is_born_after_the_erasure_though_the_clock_stepped_back(case_of, how, layout):
    case = case_of(conditional_writes=layout)
    born_ahead(case)
    case.erase()
    buried = case.receipt.rev
    assert buried > now(case.stores.hot.clock(case.ref))
    with case.waiting():
        getattr(case, how)()
    head = now(case.stores.hot.look(case.ref)).head
    assert head.rev >= head.born > buried
    case.evict()
    assert case.stores.cold.head(case.ref).meta.born == head.born
    row = case.stores.catalog.get(case.ref)
    assert (row.erased_at, row.stat.tier, row.stat.born) == (None, "cold", head.born)
    case.again()
    assert erase(case.stores, case.ref, fresh_mark(), buried).outcome == "spared"
    case.sweep()
    assert (case.messages(), case.left()) == ([INNOCENT], [])


def test_a_thread_on_which_a_late_tombstone_falls_is_found_again(case_of):
    """A worker that stalled before its write woke up after Redis had lost its mark, and the thread had been begun."""
    case = case_of()
    with case.waiting():
        case.create()
    rev = now(case.stores.hot.clock(case.ref)) + AHEAD
    grave = ArchiveMeta(rev, fresh_mark(), chain="", count=0, born=0, tombstone=True)
    case.stores.cold.put(case.ref, tombstone(case.ref, rev=rev, request=grave.attempt), meta=grave, based_on=None)
    case.stores.catalog.erase(case.ref, request_id=grave.attempt, rev=rev)
    case.evict()
    row = case.stores.catalog.get(case.ref)
    assert (row.erased_at, row.stat.born) == (None, rev + 1)
    assert case.messages() == [INNOCENT]


@each_layout
def test_a_worker_that_wakes_late_removes_nothing_of_a_successor(case_of, layout, record_property):
    """It stops before any of its steps, the last look at the old object included, and goes on long after."""
    places, met = count(1) if PROVE else (3, 5, 8, 14), 0
    for place in places:
        case = case_of(conditional_writes=layout)
        born_ahead(case)
        case.stores.cold.put_aside(case.ref, SECRET.encode(), meta=ArchiveMeta(7, fresh_mark(), "", 1, 5))
        mark = now(case.keep._threads.begin_erase(case.ref))
        case.request, case.upto = mark.request, mark.upto
        with Interrupted(place, lambda case=case: case.tried(wake_late)) as work:
            late = erase(case.stores, case.ref, case.request, case.upto)
        if work.at is None:
            break
        met += 1
        assert late == case.receipt, work.at
        assert [item.size for item in case.stores.cold.conflicts(case.ref)] == [len(INNOCENT)], work.at
        assert (case.messages(), case.left()) == ([INNOCENT], []), work.at
    record_property("proof", f"{met} places at which a worker slept through an erasure and a new life")


@each_layout
def test_a_mark_that_was_lost_and_set_again_does_not_stand(case_of, layout):
    """Redis loses the mark, the thread is begun anew, and the message comes again, while a first worker sleeps."""
    for place in count(2) if PROVE else (4, 5, 6):
        case = case_of(conditional_writes=layout)
        case.cold()
        mark = now(case.keep._threads.begin_erase(case.ref))
        case.request, case.upto = mark.request, mark.upto
        with Interrupted(place, lambda case=case: case.tried(begin_anew_unmarked)) as work:
            receipt = erase(case.stores, case.ref, case.request, case.upto)
        if work.at is None or work.at.name == "erase_unmark":
            break
        buried = any("PutObject" in step.name for step in work.steps[: work.at.number - 1])
        if not buried:
            assert receipt.outcome == "spared", work.at
        assert case.messages() == [INNOCENT], work.at


# --- old tickets and open sessions ------------------------------------------------------------------------------------


def test_a_ticket_from_before_an_erasure_restores_and_creates_nothing(case_of):
    case = case_of()
    case.cold()
    hot, flow = case.stores.hot, case.stores.flow
    start, loaded = now(flow.begin_hydrate(case.ref)), load(case.stores, case.ref)
    mark = now(case.keep._threads.begin_erase(case.ref))
    assert now(flow.restore(case.ref, start.ticket, loaded.copy)).status == "erasing"
    assert now(flow.begin_hydrate(case.ref)).status == "erasing"
    assert not now(flow.tell(case.ref, start.ticket, "absent"))
    erase(case.stores, case.ref, mark.request, mark.upto)
    assert now(flow.restore(case.ref, start.ticket, loaded.copy)).status == "refused"
    now(flow.begin_hydrate(case.ref))
    assert now(flow.restore(case.ref, start.ticket, loaded.copy)).status == "refused"
    assert now(hot.look(case.ref)).head is None


def test_an_absence_told_before_an_erasure_creates_nothing_after_it(case_of):
    """The floor under a new thread comes from a hydrate that has seen the tombstone."""
    case = case_of()
    hot, before = case.stores.hot, []
    with case.waiting():
        before.append(now(case.keep._threads.bring(case.ref, 5)).ticket)
    case.erase()
    parts = Identity().parts(case.stores.settings)
    made = now(hot.create(case.ref, "token", parts, ticket=before[0], gen=fresh_mark()))
    assert made.status == "stale"


def test_an_open_session_is_told_that_its_thread_was_erased(case_of):
    case = case_of()
    case.leased()
    mark = now(case.keep._threads.begin_erase(case.ref))
    with pytest.raises(ThreadErased):
        case.append()
    erase(case.stores, case.ref, mark.request, mark.upto)
    for act in (Case.append, Case.truncate):
        with case.waiting(), pytest.raises(ThreadErased):
            act(case)
    case.session.close()
    assert case.left() == []


def test_who_waits_for_the_archive_of_an_erased_thread_is_told_so(case_of, keep, worker, settings, versioned_bucket):
    worker(settings=settings.model_copy(update={"s3_bucket": versioned_bucket.name}))
    case = case_of()
    with case.begun() as session:
        session.append({"text": SECRET, "role": "user"})
        keep.delete(session.id, wait=20)
        with pytest.raises(ThreadErased):
            now(session._writer.wait_flushed(10))
