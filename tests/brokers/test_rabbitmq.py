"""What is RabbitMQ's own: quorum queues, delays kept by the broker, dead letters."""

import json
import time

import pytest

from tests.celery.acts import is_archived, leave_behind, tuned, user
from tests.celery.worker_log import delays
from tests.waiting import until
from threadkeep.errors import StoreUnavailable
from threadkeep.tasks.adoption import declare_dead_letters, make_app
from threadkeep.tasks.conf import DEAD, FLUSH, HYDRATE, QUEUES, REDELIVERIES
from threadkeep.tasks.inspect import queue_depths
from threadkeep.testing.wire import Answer

pytestmark = pytest.mark.brokers


def test_queues_are_replicated_and_hand_on_what_cannot_be_done(rabbit, start_worker):
    start_worker()
    rows = json.loads(rabbit.control("list_queues", "--formatter=json", "name", "type", "arguments"))
    queues = {row["name"]: (row["type"], {name: value for name, _, value in row["arguments"]}) for row in rows}
    for name in QUEUES:
        kind, arguments = queues[name]
        assert kind == "quorum"
        assert (arguments["x-delivery-limit"], arguments["x-dead-letter-exchange"]) == (REDELIVERIES, DEAD)
    assert queues[DEAD][0] == "quorum"


def test_what_is_delivered_too_often_becomes_a_dead_letter(app, keep):
    """Each delivery here ends as that of a killed worker does: its channel closes without an answer."""
    declare_dead_letters(app)
    leave_behind(keep, "fatal")
    with app.connection_for_read() as connection:
        for _ in range(1 + REDELIVERIES):
            with connection.channel() as channel:
                until(lambda: channel.basic_get(FLUSH))
        until(lambda: queue_depths(app)[DEAD] == 1)
        letter = connection.default_channel.basic_get(DEAD)
    assert queue_depths(app)[FLUSH] == 0
    assert letter.headers["x-first-death-reason"] == "delivery_limit"
    assert letter.headers["task"] == "threadkeep.flush_thread"


def test_so_does_what_was_delayed_before(app, keep, start_worker):
    """As a retry is: the delay is the first of its deaths, an expiry."""
    start_worker(FLUSH).kill()  # it has declared the queue, and where a delay leads
    app.send_task("threadkeep.flush_thread", kwargs={"thread_id": "fatal"}, queue=FLUSH, countdown=1)
    with app.connection_for_read() as connection:
        for _ in range(1 + REDELIVERIES):
            with connection.channel() as channel:
                until(lambda: channel.basic_get(FLUSH))
        letter = until(lambda: connection.default_channel.basic_get(DEAD))
    assert letter.headers["x-first-death-reason"] == "expired"
    assert letter.headers["x-death"][0]["reason"] == "delivery_limit"


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
def test_a_retry_waits_in_the_broker(keep, start_worker, s3):
    worker = start_worker()
    s3.inject(Answer(503, "ServiceUnavailable"), times=2)
    session = leave_behind(keep, "later")
    until(lambda: is_archived(keep, session.id))
    assert delays(worker.logs(), "flush_thread")[0] == 1, "RabbitMQ delays by whole seconds"
    assert "direct exchange" not in worker.logs()


def test_a_task_with_a_long_delay_blocks_no_other(keep, start_worker):
    """The copies of an erased thread are purged a minute later; a worker of one process erases others meanwhile."""
    start_worker()
    started = time.monotonic()
    for name in ("a", "b", "c"):
        with keep.new(name, wait_flush=20) as session:
            session.append(user(name))
        keep.delete(name, wait=20)
    assert time.monotonic() - started < 50


def test_a_refusal_to_count_queues_names_no_password(settings, broker):
    locked = make_app(settings.model_copy(update={"broker_url": broker.locked_url}))
    with pytest.raises(StoreUnavailable, match="the broker") as refusal:
        queue_depths(locked)
    assert "wrong" not in str(refusal.value)
