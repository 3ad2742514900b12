"""The suite of `tests/celery`, and RabbitMQ's own, over a RabbitMQ node."""

from collections.abc import Iterator
from math import ceil
from pathlib import Path

import pytest

from tests.brokers.rabbit_server import RabbitServer
from tests.celery.broker import Broker
from tests.celery.fixtures import *  # noqa: F403  # all of them fixtures
from threadkeep.local.ports import LOOPBACK


@pytest.fixture(scope="session")
def rabbit(run_dir: Path) -> Iterator[RabbitServer]:
    with RabbitServer(run_dir / "rabbit") as server:
        yield server


@pytest.fixture
def broker(rabbit: RabbitServer) -> Broker:
    """The one node, running and with nothing in its queues."""
    rabbit.start()
    rabbit.empty()
    return Broker(
        server=rabbit,
        url=rabbit.url,
        locked_url=rabbit.url.replace("guest:guest", "guest:wrong"),
        url_at=lambda port: f"amqp://guest:guest@{LOOPBACK}:{port}//",
        kept=lambda seconds: float(ceil(seconds)),
        comes_again=lambda _settings: 15,
    )


@pytest.fixture
def own_broker(broker: Broker) -> Iterator[Broker]:
    """The same: the hot tier is elsewhere, so a test may stop and freeze it."""
    yield broker
    broker.thaw()
