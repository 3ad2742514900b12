"""The suite of this folder over a Redis broker."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.celery.broker import Broker
from tests.celery.fixtures import *  # noqa: F403  # all of them fixtures
from threadkeep.config import Settings
from threadkeep.local.ports import LOOPBACK
from threadkeep.local.valkey import ValkeyServer


def redis_broker(server: ValkeyServer) -> Broker:
    return Broker(
        server=server,
        url=server.url(1),
        locked_url=f"redis://:wrong@{LOOPBACK}:{server.port}/1",
        url_at=lambda port: f"redis://{LOOPBACK}:{port}/1",
        kept=float,
        comes_again=_after_the_visibility_timeout,
    )


def _after_the_visibility_timeout(settings: Settings) -> float:
    return settings.visibility_timeout + 30


@pytest.fixture
def broker(valkey_server: ValkeyServer) -> Broker:
    """That of all tests, unless a test stops it."""
    return redis_broker(valkey_server)


@pytest.fixture
def own_broker(tmp_path: Path) -> Iterator[Broker]:
    """One that a test may stop and freeze: the hot tier's server is another."""
    with ValkeyServer(tmp_path / "broker") as server:
        broker = redis_broker(server)
        yield broker
        broker.thaw()
