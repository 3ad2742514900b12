"""What a web app notices of a broker that is away, silent, locked or frozen: a warning, and a short wait."""

import logging
import time

import pytest

from tests.celery.acts import leave_behind, user
from threadkeep import Threadkeep
from threadkeep.errors import BrokerUnavailable
from threadkeep.local.ports import free_port
from threadkeep.model import ThreadRef
from threadkeep.storage.link import run_now as now

PATIENCE = 8.0
"""Seconds; twice and more what `broker_timeout` and the time to connect allow, since test machines are noisy."""


@pytest.fixture(params=["refused", "half-open", "locked"])
def sick_url(request, broker, silent_port):
    match request.param:
        case "refused":
            return broker.url_at(free_port())
        case "half-open":
            return broker.url_at(silent_port)
        case _:
            return broker.locked_url


def test_a_sick_broker_costs_a_moment_and_nothing_else(settings, sick_url, stores, caplog):
    assert_costs_a_moment(settings, sick_url, stores, caplog)


class TestAFrozenBroker:
    """Its process is stopped, so connections that were made before stay open and nothing comes back."""

    @pytest.fixture
    def broker(self, own_broker):
        return own_broker

    def test_costs_a_moment_and_nothing_else(self, keep, broker, stores, caplog):
        with keep.new() as session:
            session.append(user("well"))
        assert session.flush_enqueued
        broker.freeze()
        for _ in range(2):
            with keep.new() as session:
                session.append(user("safe"))
                started = time.monotonic()
            assert time.monotonic() - started < PATIENCE
            assert_still_hot(keep, stores, session, caplog)
        broker.thaw()
        assert keep.flush(session.id)

    def test_an_idle_connection_that_broke_is_not_noticed(self, keep, broker):
        assert leave_behind(keep, "well").flush_enqueued
        broker.server.restart()
        assert leave_behind(keep, "well").flush_enqueued


def assert_costs_a_moment(settings, url, stores, caplog):
    sick = settings.model_copy(update={"broker_url": url})
    with Threadkeep(sick) as keep:
        with keep.new() as session:
            session.append(user("safe"))
            started = time.monotonic()
        assert time.monotonic() - started < PATIENCE
        assert_still_hot(keep, stores, session, caplog)

        started = time.monotonic()
        assert keep.prefetch("cold") is False
        assert time.monotonic() - started < PATIENCE

        started = time.monotonic()
        with pytest.raises(BrokerUnavailable, match="hydrate_thread"):
            keep.open("cold as well")
        assert time.monotonic() - started < PATIENCE
        assert "wrong" not in caplog.text, "no password may be logged"


def assert_still_hot(keep, stores, session, caplog):
    assert session.flush_enqueued is False
    warning = caplog.records[-1]
    assert warning.levelno == logging.WARNING
    assert "the broker did not take threadkeep.flush_thread" in warning.getMessage()
    assert "safe in Redis" in warning.getMessage()
    assert keep.read(session.id).messages == [user("safe")]
    head = now(stores.hot.look(ThreadRef.of(session.id, session.namespace))).head
    assert head.dirty
    assert head.flush_at == 0
