"""`threadkeep erase` as its user meets it."""

import pytest

from tests.integration.command import SECRET, run_command
from threadkeep.model import ThreadRef
from threadkeep.storage.link import run_now as now
from threadkeep.tasks.adoption import make_app
from threadkeep.tasks.enqueue import Enqueuer
from threadkeep.tasks.erase import erase
from threadkeep.tasks.flush import flush
from threadkeep.tasks.sweeper import sweep


@pytest.fixture
def cli(settings):
    return lambda *arguments: run_command(settings, "erase", *arguments)


@pytest.fixture
def thread_id(keep, stores):
    """A cold thread with a fork of which the catalog has not heard."""
    with keep.new(labels={"tenant": "acme"}) as session:
        session.append({"role": "user", "content": SECRET})
    with keep.fork(session.id, id=None):
        flush(stores, ThreadRef.of(session.id), "evict")
    return session.id


def swept(stores, settings):
    return sweep(stores, Enqueuer(make_app(settings, publisher=True)), force=True)


def work_off(stores, thread_id, request):
    """What a worker does with the message."""
    ref = ThreadRef.of(thread_id)
    marked = now(stores.hot.mark_erasing(ref, "somebody-else"))
    assert (marked.status, marked.request) == ("under_way", request)
    return erase(stores, ref, request, marked.upto)


def test_an_erasure_is_queued_joined_and_its_receipt_shown_later(cli, stores, thread_id):
    queued = cli(thread_id, "--yes", "--json")
    assert (queued.code, queued.json["outcome"], queued.json["address"]) == (0, "queued", f"messages/{thread_id}")
    request = queued.json["request"]
    late = cli(thread_id, "--wait", 0)
    assert (late.code, f"erasure {request}: not complete within 0 s" in late.err) == (4, True)
    joined = cli(thread_id)
    assert (joined.code, joined.out) == (0, f"{thread_id} is being erased already: request {request}.\n")
    early = cli(thread_id, "--receipt", request)
    assert (early.code, "is being erased; there is no receipt" in early.err) == (1, True)
    receipt = work_off(stores, thread_id, request)
    later = cli(thread_id, "--receipt", request, "--json")
    assert (later.code, later.json) == (0, {"address": f"messages/{thread_id}", **receipt.facts()})
    gone = cli(thread_id, "--yes")
    assert (gone.code, gone.err) == (3, f"threadkeep: thread {thread_id} is neither in Redis nor in the archive\n")


def test_a_receipt_is_a_table_and_names_forks_that_the_catalog_heard_of_since(cli, keep, stores, settings, thread_id):
    request = keep.delete(thread_id)
    assert work_off(stores, thread_id, request).forks == []
    swept(stores, settings)
    shown = cli(thread_id, "--receipt", request)
    assert shown.code == 0
    cells = [line.split() for line in shown.out.splitlines()]
    assert ["S3", "the", "archive", "yes"] in cells
    assert ["objects", "of", "version", "1", "0"] in cells
    assert "Forked from it, and kept: " in shown.out
    assert SECRET not in shown.out
    unknown = cli(thread_id, "--receipt", "nonsense")
    assert (unknown.code, "no receipt of request nonsense" in unknown.err) == (1, True)


def test_a_thread_in_use_is_erased_and_whoever_waits_is_told(cli, keep, worker, stores):
    with keep.new() as session:
        session.append({"role": "user", "content": SECRET})
        refused = cli(session.id, "--wait", 0)
        assert (refused.code, "add --yes" in refused.err) == (2, True)
        worker()
        done = cli(session.id, "--yes", "--wait", 20, "--json")
        assert (done.code, done.json["outcome"], done.json["redis"]["messages"]) == (0, "erased", 1)
        assert stores.catalog.get(ThreadRef.of(session.id)).erased_at is not None


def test_a_thread_that_is_left_in_the_catalog_alone_can_be_erased(cli, keep, settings, stores):
    with keep.new(labels={"tenant": "acme"}) as session:
        swept(stores, settings)
    ref = ThreadRef.of(session.id)
    now(stores.hot.link.run("DEL", *stores.hot.keys(ref).all[:4]))
    assert stores.catalog.get(ref).stat.labels == {"tenant": "acme"}
    queued = cli(session.id, "--yes", "--json")
    assert queued.code == 0
    work_off(stores, session.id, queued.json["request"])
    assert stores.catalog.get(ref).erased_at is not None
