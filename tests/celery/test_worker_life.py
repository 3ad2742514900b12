"""Workers that are killed, stopped, cut off and poisoned: every thread still ends up archived, once and whole."""

import os
import signal

import pytest

from tests.celery.acts import archives, assert_whole, is_archived, leave_behind, sweep, tuned, user
from tests.celery.worker_log import delays, outcomes, received, results
from tests.waiting import until
from threadkeep.errors import StoreUnavailable
from threadkeep.model import ThreadRef
from threadkeep.storage.link import run_now as now
from threadkeep.tasks.conf import FLUSH, HYDRATE, MAINTENANCE
from threadkeep.tasks.inspect import queue_depths
from threadkeep.testing.wire import Answer, Delay


def test_a_worker_is_ready_and_answers(celery_setup):
    assert celery_setup.ready(ping=True, control=True, docker=True)
    worker = celery_setup.worker
    assert list(celery_setup.app.control.inspect([worker.hostname()]).ping()) == [worker.hostname()]
    assert worker.get_running_processes_info(["pid"], {"pid": worker.container.server.pid})


def test_a_thread_goes_cold_and_comes_back_through_the_setup(celery_setup, keep):
    thread = leave_behind(keep, "hello").id
    assert_whole(keep, thread, "hello")
    worker = celery_setup.worker
    until(lambda: "restored" in outcomes(worker.logs(), "hydrate_thread"))
    assert set(outcomes(worker.logs(), "flush_thread")) <= {"archived", "unchanged", "absent"}


def test_a_flush_whose_process_is_killed_is_run_again(keep, s3, start_worker, raw_bucket, settings):
    worker = start_worker()
    s3.inject(Delay(60), method="PUT")
    thread = leave_behind(keep, "kept").id
    until(lambda: s3.count("PUT"))
    for child in worker.children():
        os.kill(child, signal.SIGKILL)
    until(lambda: is_archived(keep, thread))
    assert len(received(worker.logs(), "flush_thread")) == 2
    assert_whole(keep, thread, "kept")
    assert len(archives(raw_bucket, settings)) == 1


def test_a_worker_killed_in_the_middle_of_a_flush_loses_and_doubles_nothing(
    keep, s3, start_worker, app, raw_bucket, settings
):
    worker = start_worker()
    s3.inject(Delay(60), method="PUT")
    thread = leave_behind(keep, "kept").id
    until(lambda: s3.count("PUT"))
    worker.kill()
    assert keep.read(thread).messages == [user("kept")]
    start_worker(name="successor")
    sweep(app)
    until(lambda: is_archived(keep, thread))
    assert_whole(keep, thread, "kept")
    assert len(archives(raw_bucket, settings)) == 1


@pytest.mark.parametrize("remapped", ["", "SIGQUIT"], ids=["warm", "soft"])
def test_a_worker_told_to_stop_ends_its_flush_first(remapped, keep, s3, start_worker, monkeypatch):
    """SIGTERM waits for what runs; remapped to SIGQUIT, as in containers, it gives it the soft shutdown's time."""
    if remapped:
        monkeypatch.setenv("REMAP_SIGTERM", remapped)
    worker = start_worker(app="tests.celery.hasty_app")
    s3.inject(Delay(2), method="PUT")
    thread = leave_behind(keep, "kept").id
    until(lambda: s3.count("PUT"))
    worker.kill("SIGTERM")
    until(lambda: worker.container.status == "exited")
    assert outcomes(worker.logs(), "flush_thread") == ["archived"]
    assert is_archived(keep, thread)


class TestWithABrokerOfItsOwn:
    @pytest.fixture
    def broker(self, own_broker):
        return own_broker

    @tuned(soft_time_limit=8, hard_time_limit=10, visibility_timeout=20)
    def test_a_worker_survives_a_restart_of_its_broker_and_so_do_queued_tasks(
        self, keep, s3, start_worker, app, celery_broker
    ):
        worker = start_worker()
        s3.inject(Delay(3), method="PUT")
        left = [leave_behind(keep, str(number)) for number in range(5)]
        assert all(session.flush_enqueued for session in left)
        until(lambda: s3.count("PUT"))
        celery_broker.kill("SIGTERM")
        until(lambda: celery_broker.container.status == "exited")
        late = leave_behind(keep, "5")
        assert not late.flush_enqueued
        celery_broker.restart()
        until(lambda: all(is_archived(keep, session.id) for session in left), seconds=90)
        sweep(app)
        until(lambda: is_archived(keep, late.id))
        assert worker.container.status == "running"
        for number, session in enumerate([*left, late]):
            assert_whole(keep, session.id, str(number))


@tuned(poison_after=2)
def test_a_thread_that_kills_its_workers_is_set_aside_and_others_go_on(keep, start_worker, stores, app):
    worker = start_worker(app="tests.celery.poison_app")
    poison = ThreadRef.of("poison", "messages")
    leave_behind(keep, "deadly", "poison")
    healthy = leave_behind(keep, "healthy").id
    until(lambda: is_archived(keep, healthy))
    until(lambda: "set_aside" in outcomes(worker.logs(), "flush_thread"), seconds=60)
    assert ("flush", poison, 2) in now(_all(stores.flow.unfinished()))
    sweep(app)
    until(lambda: any(counts.get("set_aside") for counts in results(worker.logs(), "sweep")))
    assert queue_depths(app)[FLUSH] == 0, "a sweep asks no more for what was set aside"
    late = leave_behind(keep, "late").id
    until(lambda: is_archived(keep, late))
    assert keep.read("poison").messages == [user("deadly")]


def test_hopeless_arguments_fail_at_once(app, start_worker):
    worker = start_worker()
    for kwargs in ({"thread_id": "a\nb"}, {"thread_id": "t", "namespace": "a\nb"}, {"thread_id": 7}, {"nonsense": 1}):
        app.send_task("threadkeep.flush_thread", kwargs=kwargs, queue=FLUSH)
        app.send_task("threadkeep.hydrate_thread", kwargs=kwargs, queue=HYDRATE)
    app.send_task("threadkeep.sweep", queue=MAINTENANCE)
    until(lambda: results(worker.logs(), "sweep") and worker.logs().count(" raised ") >= 8)
    log = worker.logs()
    assert log.count(" raised ") == 8
    assert not delays(log, "flush_thread")
    assert not delays(log, "hydrate_thread")


@tuned(s3_attempts=1, retry_backoff=0.4, retry_backoff_max=1.6, max_retries=4)
def test_a_store_that_is_away_is_tried_again_ever_later_and_then_no_more(keep, s3, start_worker, broker):
    worker = start_worker()
    s3.inject(Answer(503, "ServiceUnavailable"), times=10_000)
    thread = leave_behind(keep, "safe").id
    until(lambda: "raised" in worker.logs())
    waited = delays(worker.logs(), "flush_thread")
    assert len(waited) == 4
    for seconds, ceiling in zip(waited, [0.4, 0.8, 1.6, 1.6], strict=True):
        assert broker.kept(ceiling / 2) <= seconds <= broker.kept(ceiling)
    assert StoreUnavailable.__name__ in worker.logs()
    assert keep.read(thread).messages == [user("safe")]


@tuned(soft_time_limit=2, hard_time_limit=4, visibility_timeout=10)
def test_a_flush_that_hangs_is_told_to_stop_and_its_thread_stays_safe(keep, s3, start_worker):
    worker = start_worker()
    s3.inject(Delay(60), times=20)
    thread = leave_behind(keep, "safe").id
    until(lambda: "raised unexpected: SoftTimeLimitExceeded" in worker.logs())
    assert "Soft time limit (2.0s) exceeded for threadkeep.flush_thread" in worker.logs()
    assert keep.read(thread).messages == [user("safe")]


@tuned(soft_time_limit=2, hard_time_limit=3, visibility_timeout=10)
def test_a_flush_that_does_not_stop_is_ended_once_and_not_for_ever(keep, start_worker, app):
    worker = start_worker(app="tests.celery.poison_app")
    leave_behind(keep, "safe", "stuck")
    until(lambda: "Hard time limit (3.0s) exceeded for threadkeep.flush_thread" in worker.logs())
    healthy = leave_behind(keep, "healthy").id
    until(lambda: is_archived(keep, healthy))
    assert len(received(worker.logs(), "flush_thread")) == 2
    assert queue_depths(app)[FLUSH] == 0
    assert keep.read("stuck").messages == [user("safe")]


async def _all(items):
    return [item async for item in items]
