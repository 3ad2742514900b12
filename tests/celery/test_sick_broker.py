"""What a web app notices of a broker that is away, silent, locked or frozen: a warning, and a short wait."""

import logging
import os
import signal
import socket
import time

import pytest

from threadkeep import Threadkeep
from threadkeep.errors import BrokerUnavailable
from threadkeep.local.ports import LOOPBACK, free_port
from threadkeep.local.valkey import ValkeyServer
from threadkeep.model import ThreadRef
from threadkeep.storage.link import run_now as now

PATIENCE = 8.0
"""Seconds; twice and more what `broker_timeout` and the time to connect allow, since test machines are noisy."""


def user(text):
    return {"role": "user", "content": text}


@pytest.fixture
def silent_port():
    """Accepts connections, into the kernel's backlog, and never says a word."""
    with socket.socket() as silent:
        silent.bind((LOOPBACK, 0))
        silent.listen(64)
        yield silent.getsockname()[1]


@pytest.fixture(params=["refused", "half-open", "locked", "amqp-refused", "amqp-half-open"])
def sick_url(request, settings, silent_port):
    match request.param:
        case "refused":
            return f"redis://{LOOPBACK}:{free_port()}/1"
        case "half-open":
            return f"redis://{LOOPBACK}:{silent_port}/1"
        case "locked":
            return f"redis://:wrong@{settings.broker_url.rpartition('@')[2]}"
        case "amqp-refused":
            return f"amqp://guest:guest@{LOOPBACK}:{free_port()}//"
        case _:
            return f"amqp://guest:guest@{LOOPBACK}:{silent_port}//"


def test_a_sick_broker_costs_a_moment_and_nothing_else(settings, sick_url, stores, caplog):
    sick = settings.model_copy(update={"broker_url": sick_url})
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


class TestAFrozenBroker:
    """Its process is stopped, so connections that were made before stay open and nothing comes back."""

    @pytest.fixture
    def broker_server(self, tmp_path):
        with ValkeyServer(tmp_path / "broker") as server:
            yield server
            os.kill(server.pid, signal.SIGCONT)

    def test_costs_a_moment_and_nothing_else(self, keep, broker_server, stores, caplog):
        with keep.new() as session:
            session.append(user("well"))
        assert session.flush_enqueued
        os.kill(broker_server.pid, signal.SIGSTOP)
        for _ in range(2):
            with keep.new() as session:
                session.append(user("safe"))
                started = time.monotonic()
            assert time.monotonic() - started < PATIENCE
            assert_still_hot(keep, stores, session, caplog)
        os.kill(broker_server.pid, signal.SIGCONT)
        assert keep.flush(session.id)

    def test_an_idle_connection_that_broke_is_not_noticed(self, keep, broker_server):
        for _ in range(2):
            with keep.new() as session:
                session.append(user("well"))
            assert session.flush_enqueued
            broker_server.restart()


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
