"""What concerns a Redis broker alone."""

import re
from typing import Final

import pytest
from kombu.transport.virtual import Channel
from kombu.utils.imports import symbol_by_name

from tests.celery.acts import leave_behind, tuned, user
from tests.celery.test_sick_broker import assert_still_hot
from tests.waiting import until
from threadkeep import Threadkeep
from threadkeep.tasks import enqueue
from threadkeep.tasks.conf import FLUSH
from threadkeep.tasks.inspect import queue_depths
from threadkeep.testing.wire import Delay

ONE_WRITE: Final = 16384
"""Bytes up to which a pool's process writes a message at once."""


def test_requests_are_published_through_the_users_app(settings, user_app, app):
    user_app.conf.broker_transport_options = {
        **user_app.conf.broker_transport_options,
        "global_keyprefix": f"{settings.broker_prefix}shop:",
    }
    with Threadkeep(settings, celery=user_app) as keep, keep.new() as session:
        session.append(user("hello"))
    assert session.flush_enqueued
    assert queue_depths(user_app)[FLUSH] == 1
    assert queue_depths(app)[FLUSH] == 0


class TestABrokerThatRestartsWhileAQueueIsDeclared:
    """Kombu declares it again over a new connection, and then publishes through the old one, which it has closed."""

    @pytest.fixture
    def broker(self, own_broker):
        return own_broker

    @pytest.fixture
    def restarted(self, broker, monkeypatch):
        """Kills the broker as the first queue is declared, and starts it once that has failed."""
        declare, giving_up, restarts = Channel.queue_declare, enqueue._giving_up, []

        def killed_before(*args, **kwargs):
            if not restarts:
                broker.server.kill()
            return declare(*args, **kwargs)

        def starting(producer, patience):
            give_up = giving_up(producer, patience)

            def started(error, interval):
                restarts.append(broker.server.start())
                give_up(error, interval)

            return started

        monkeypatch.setattr(Channel, "queue_declare", killed_before)
        monkeypatch.setattr(enqueue, "_giving_up", starting)
        return restarts

    def test_is_taken_for_one_that_is_away(self, keep, stores, restarted, caplog):
        with keep.new() as session:
            session.append(user("safe"))
        assert restarted
        assert_still_hot(keep, stores, session, caplog)
        assert keep.flush(session.id)


class TestABrokerThatIsGoneWhenARunIsToBeQueuedAgain:
    """A worker loses its place in what its child tells it, if that is long and the connection breaks meanwhile."""

    @pytest.fixture
    def broker(self, own_broker):
        return own_broker

    @tuned(s3_read_timeout=1, s3_attempts=1)
    def test_makes_the_run_tell_so_in_one_write(self, keep, s3, start_worker, broker):
        worker = start_worker()
        s3.inject(Delay(60), times=10)
        leave_behind(keep, "safe")
        until(lambda: s3.count("PUT"))
        broker.server.kill()
        told = until(lambda: re.search(r"reject requeue=False: (.*?)\n\[20", worker.logs(), re.DOTALL))[1]
        assert told.count("Traceback") == 1
        assert len(told) < ONE_WRITE / 2


class TestABrokerThatDoesNotHearThatARunEnded:
    """Celery logs that and goes on; kombu must not count the run among those that go on, too."""

    @pytest.fixture
    def broker(self, own_broker):
        return own_broker

    @pytest.mark.parametrize("end", ["acknowledge", "reject"])
    def test_does_not_keep_the_worker_from_taking_the_next(self, end, keep, app, broker, caplog):
        leave_behind(keep, "safe")
        app.loader.import_default_modules()
        made_by = symbol_by_name(app.tasks["threadkeep.flush_thread"].Request)
        with app.connection_for_read() as connection:
            channel = connection.channel()
            channel.basic_qos(0, 1, False)
            message = app.amqp.queues[FLUSH].bind(channel).get()
            assert not channel.qos.can_consume()
            tell = {"on_ack": message.ack_log_error, "on_reject": message.reject_log_error}
            request = made_by(message, app=app, connection_errors=connection.connection_errors, **tell)
            broker.server.kill()
            getattr(request, end)()
            assert "Couldn't" in caplog.text
            assert channel.qos.can_consume()
