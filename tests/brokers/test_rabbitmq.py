"""Threadkeep over RabbitMQ: quorum queues, delays kept by the broker, dead letters, restarts."""

import json
import logging
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.celery.worker_log import delays, outcomes
from tests.waiting import until
from threadkeep import Threadkeep
from threadkeep.errors import StoreUnavailable
from threadkeep.model import ThreadRef
from threadkeep.storage.link import run_now as now
from threadkeep.tasks.adoption import declare_dead_letters, make_app
from threadkeep.tasks.conf import DEAD, DELIVERIES, FLUSH, HYDRATE, MAINTENANCE, QUEUES
from threadkeep.tasks.inspect import queue_depths
from threadkeep.testing.wire import Answer, Delay

pytestmark = pytest.mark.brokers


def user(text):
    return {"role": "user", "content": text}


def tuned(**changes):
    return pytest.mark.parametrize("tuned", [changes], ids=["-".join(changes)])


def leave_behind(keep, text):
    with keep.new() as session:
        session.append(user(text))
    return session


def is_archived(keep, session):
    stat = keep.stat(session.id)
    return stat.tier == "cold" or stat.archived_rev == stat.rev


def test_a_thread_goes_cold_and_comes_back(keep, worker):
    worker()
    with keep.new("ticket-42", wait_flush=20) as session:
        session.append(user("hello"))
    assert session.flush_enqueued
    keep.flush("ticket-42", wait=20)
    with keep.open("ticket-42") as session:
        assert session.messages == [user("hello")]


def test_a_thousand_requests_at_once_queue_one_flush(keep, app):
    with keep.new() as session:
        session.append(user("one"))
        with ThreadPoolExecutor(50) as pool:
            assert all(pool.map(lambda _: keep.flush(session.id), range(1000)))
        assert queue_depths(app)[FLUSH] == 1


def test_queues_are_replicated_and_hand_on_what_cannot_be_done(rabbit, worker):
    worker()
    rows = json.loads(rabbit.control("list_queues", "--formatter=json", "name", "type", "arguments"))
    queues = {row["name"]: (row["type"], {name: value for name, _, value in row["arguments"]}) for row in rows}
    for name in QUEUES:
        kind, arguments = queues[name]
        assert kind == "quorum"
        assert (arguments["x-delivery-limit"], arguments["x-dead-letter-exchange"]) == (DELIVERIES, DEAD)
    assert queues[DEAD][0] == "quorum"


def test_what_is_delivered_too_often_becomes_a_dead_letter(app, keep):
    """Each delivery here ends as that of a killed worker does: its channel closes without an answer."""
    declare_dead_letters(app)
    leave_behind(keep, "fatal")
    with app.connection_for_read() as connection:
        for _ in range(1 + DELIVERIES):
            with connection.channel() as channel:
                until(lambda: channel.basic_get(FLUSH))
        until(lambda: queue_depths(app)[DEAD] == 1)
        letter = connection.default_channel.basic_get(DEAD)
    assert queue_depths(app)[FLUSH] == 0
    assert letter.headers["x-first-death-reason"] == "delivery_limit"
    assert letter.headers["task"] == "threadkeep.flush_thread"


def test_a_hydrate_that_nobody_waits_for_any_more_is_no_dead_letter(app, keep):
    declare_dead_letters(app)
    app.send_task("threadkeep.hydrate_thread", kwargs={"thread_id": "late"}, queue=HYDRATE, expires=1)
    app.send_task("threadkeep.no_such_task", queue=HYDRATE)
    with app.connection_for_read() as connection:
        refused = until(lambda: connection.default_channel.basic_get(HYDRATE))
        while refused.headers["task"] != "threadkeep.no_such_task":
            refused = until(lambda: connection.default_channel.basic_get(HYDRATE))
        connection.default_channel.basic_reject(refused.delivery_tag, requeue=False)
        letter = until(lambda: connection.default_channel.basic_get(DEAD))
        assert letter.headers["x-first-death-reason"] == "rejected"
        until(lambda: queue_depths(app)[HYDRATE] == 0)
        assert queue_depths(app)[DEAD] == 0


@tuned(s3_attempts=1, retry_backoff=0.4)
def test_a_retry_waits_in_the_broker(keep, worker, s3):
    process = worker()
    s3.inject(Answer(503, "ServiceUnavailable"), times=2)
    session = leave_behind(keep, "later")
    until(lambda: is_archived(keep, session))
    assert delays(process.log(), "flush_thread")[0] == 1, "RabbitMQ delays by whole seconds"
    assert "direct exchange" not in process.log()


def test_a_task_with_a_long_delay_blocks_no_other(keep, worker):
    """The copies of an erased thread are purged a minute later; a worker of one process erases others meanwhile."""
    worker()
    started = time.monotonic()
    for name in ("a", "b", "c"):
        with keep.new(name, wait_flush=20) as session:
            session.append(user(name))
        keep.delete(name, wait=20)
    assert time.monotonic() - started < 50


@tuned(poison_after=1)
def test_a_thread_that_kills_its_workers_is_set_aside(keep, worker, app, pytestconfig, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(pytestconfig.rootpath), prepend=":")
    process = worker(app="tests.celery.poison_app")
    with keep.new("poison") as session:
        session.append(user("deadly"))
    until(lambda: outcomes(process.log(), "flush_thread") == ["set_aside"])
    until(lambda: queue_depths(app)[FLUSH] == 0)
    assert queue_depths(app)[DEAD] == 0
    assert keep.read("poison").messages == [user("deadly")]


def test_a_session_left_while_the_broker_is_down_is_archived_by_the_sweep(rabbit, keep, stores, worker, app, caplog):
    rabbit.stop()
    started = time.monotonic()
    session = leave_behind(keep, "safe")
    assert time.monotonic() - started < 8
    assert_still_hot(keep, stores, session, caplog)
    rabbit.start()
    worker()
    app.send_task("threadkeep.sweep", kwargs={"force": True}, queue=MAINTENANCE)
    until(lambda: is_archived(keep, session))


def test_a_frozen_broker_costs_a_moment_and_nothing_else(rabbit, keep, stores, caplog):
    assert leave_behind(keep, "well").flush_enqueued
    os.killpg(rabbit.pid, signal.SIGSTOP)
    try:
        for _ in range(2):
            started = time.monotonic()
            session = leave_behind(keep, "safe")
            assert time.monotonic() - started < 8
            assert_still_hot(keep, stores, session, caplog)
    finally:
        os.killpg(rabbit.pid, signal.SIGCONT)
    assert keep.flush(session.id)


def test_a_wrong_password_is_a_warning(settings, stores, caplog):
    locked = settings.model_copy(update={"broker_url": settings.broker_url.replace("guest:guest", "guest:secret")})
    with Threadkeep(locked) as keep:
        session = leave_behind(keep, "safe")
        assert_still_hot(keep, stores, session, caplog)
    with pytest.raises(StoreUnavailable, match="the broker") as refusal:
        queue_depths(make_app(locked))
    assert "secret" not in caplog.text + str(refusal.value)


def test_a_worker_survives_a_restart_of_its_broker_and_no_task_is_lost(rabbit, keep, worker, s3):
    process = worker()
    s3.inject(Delay(4), method="PUT")
    sessions = [leave_behind(keep, str(number)) for number in range(20)]
    assert all(session.flush_enqueued for session in sessions)
    until(lambda: s3.count("PUT"))
    rabbit.restart()
    until(lambda: all(is_archived(keep, session) for session in sessions), seconds=60)
    assert process.running
    keep.flush(sessions[0].id, wait=20)
    assert keep.read(sessions[0].id).messages == [user("0")]


def assert_still_hot(keep, stores, session, caplog):
    assert session.flush_enqueued is False
    warning = caplog.records[-1]
    assert warning.levelno == logging.WARNING
    assert "the broker did not take threadkeep.flush_thread" in warning.getMessage()
    assert keep.read(session.id).messages == [user("safe")]
    head = now(stores.hot.look(ThreadRef.of(session.id, session.namespace))).head
    assert head.dirty
    assert head.flush_at == 0
