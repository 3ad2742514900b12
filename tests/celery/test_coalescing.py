"""Any number of requests make one message, and any number of waiters share one restore."""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.celery.acts import tuned, user
from tests.celery.worker_log import outcomes, received, results
from tests.waiting import until
from threadkeep import AsyncThreadkeep, Threadkeep
from threadkeep.local.ports import free_port
from threadkeep.model import ThreadRef, fresh_mark
from threadkeep.storage.link import run_now as now
from threadkeep.tasks.conf import FLUSH, HYDRATE, MAINTENANCE
from threadkeep.tasks.inspect import queue_depths
from threadkeep.testing.wire import Delay


@pytest.fixture
def session(keep):
    """An open session with something to flush."""
    with keep.new() as session:
        session.append(user("one"))
        yield session


def cold(keep, text="cold"):
    """A thread that only the bucket holds."""
    with keep.new() as session:
        session.append(user(text))
    keep.flush(session.id, wait=30)
    until(lambda: not keep.stat(session.id).cached)
    return session.id


def test_a_thousand_requests_at_once_queue_one_flush(keep, session, app):
    with ThreadPoolExecutor(50) as pool:
        assert all(pool.map(lambda _: keep.flush(session.id), range(1000)))
    assert queue_depths(app)[FLUSH] == 1


def test_the_strongest_of_all_requests_is_done(keep, app, start_worker):
    with keep.new() as session:
        session.append(user("one"))
        session.checkpoint()
    keep.flush(session.id)
    assert queue_depths(app)[FLUSH] == 1
    worker = start_worker(FLUSH)
    until(lambda: outcomes(worker.logs(), "flush_thread") == ["archived"])
    assert results(worker.logs(), "flush_thread")[0]["residence"] == "evicted"


def test_a_request_after_a_flush_has_begun_queues_another(keep, session, stores, app):
    """What was written since may not be in the copy that the running flush reads."""
    keep.flush(session.id)
    now(stores.flow.begin_flush(ThreadRef.of(session.id, session.namespace), fresh_mark(), "linger"))
    session.append(user("two"))
    assert keep.flush(session.id)
    assert keep.flush(session.id)
    assert queue_depths(app)[FLUSH] == 2


@tuned(marker_seconds=1)
def test_a_request_whose_message_was_lost_is_made_again(keep, session, app):
    keep.flush(session.id)
    with app.connection_for_write() as connection:
        connection.default_channel.queue_purge(FLUSH)
    keep.flush(session.id)
    assert queue_depths(app)[FLUSH] == 0, "the first request counts until it goes stale"
    until(lambda: keep.flush(session.id) and queue_depths(app)[FLUSH])
    assert queue_depths(app)[FLUSH] == 1


def test_a_request_that_could_not_be_published_is_taken_back(keep, settings, stores, session, app, broker):
    broken = settings.model_copy(update={"broker_url": broker.url_at(free_port())})
    with Threadkeep(broken) as cut_off:
        assert not cut_off.flush(session.id)
        assert not cut_off.prefetch("cold")
    assert now(stores.hot.look(ThreadRef.of(session.id, session.namespace))).head.flush_at == 0
    assert keep.flush(session.id)
    assert keep.prefetch("cold")
    depths = queue_depths(app)
    assert (depths[FLUSH], depths[HYDRATE]) == (1, 1)


@tuned(ask_again=15)
def test_a_hundred_waiters_share_one_restore(keep, settings, start_worker, s3, app):
    preparing = start_worker(name="preparing")
    thread = cold(keep)
    preparing.kill("SIGTERM")
    until(lambda: preparing.container.status == "exited")
    gets = s3.count("GET")

    async def wait_for_it():
        async with AsyncThreadkeep(settings) as other:
            return await asyncio.gather(*(other.read(thread) for _ in range(50)))

    with ThreadPoolExecutor(51) as pool:
        reads = [pool.submit(keep.read, thread) for _ in range(50)]
        others = pool.submit(asyncio.run, wait_for_it())
        until(lambda: queue_depths(app)[HYDRATE])
        worker = start_worker(name="hydrating")
        views = [read.result(30) for read in reads] + others.result(30)
    assert len(views) == 100
    assert all(view.messages == [user("cold")] for view in views)
    until(lambda: outcomes(worker.logs(), "hydrate_thread"))
    assert outcomes(worker.logs(), "hydrate_thread") == ["restored"]
    assert len(received(worker.logs(), "hydrate_thread")) == 1
    assert s3.count("GET") - gets == 1


def test_a_backlog_of_flushes_delays_no_hydrate(keep, start_worker, s3, app):
    start_worker(HYDRATE, name="hydrate")
    flushing = start_worker(FLUSH, MAINTENANCE, name="flush")
    thread = cold(keep)
    s3.inject(Delay(0.2), method="PUT", times=1000)
    for number in range(500):
        with keep.new() as session:
            session.append(user(str(number)))
    started = time.monotonic()
    assert keep.read(thread).messages == [user("cold")]
    waited = time.monotonic() - started
    assert queue_depths(app)[FLUSH] > 300
    assert waited < 5
    flushing.kill()
