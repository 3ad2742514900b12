"""pytest-celery's setup over local processes, on whatever broker the fixture `broker` gives, with a wire to S3.

Whoever imports these into a conftest with a `broker` and an `own_broker` of another kind can collect the tests there
too: `tests/brokers` does so for RabbitMQ.
"""

import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import celery._state
import pytest
from celery import Celery

from tests.celery.broker import Broker
from tests.conftest import workers
from threadkeep.config import Settings
from threadkeep.local.ports import LOOPBACK
from threadkeep.local.seaweed import SeaweedServer
from threadkeep.local.valkey import ValkeyServer
from threadkeep.local.workers import CeleryWorker
from threadkeep.tasks.adoption import make_app
from threadkeep.testing.celery_nodes import (
    ProcessBackend,
    ProcessBroker,
    ProcessContainer,
    ProcessWorker,
    WorkerContainer,
)
from threadkeep.testing.wire import FaultyProxy

__all__ = [
    "app",
    "celery_backend",
    "celery_broker",
    "celery_setup_app",
    "celery_worker",
    "s3",
    "settings",
    "silent_port",
    "start_worker",
    "tuned",
    "user_app",
    "worker",
]

StartWorker = Callable[..., ProcessWorker]


@pytest.fixture
def tuned() -> dict[str, Any]:
    """Settings that a test changes; overridden by `@tuned(...)`."""
    return {}


@pytest.fixture
def s3(seaweed_server: SeaweedServer) -> Iterator[FaultyProxy]:
    """The wire to S3 of all workers in this test."""
    with FaultyProxy(seaweed_server.endpoint) as proxy:
        yield proxy


@pytest.fixture
def settings(settings: Settings, broker: Broker, s3: FaultyProxy, tuned: dict[str, Any]) -> Settings:
    """As elsewhere, over the broker under test."""
    return Settings.load(**{**dict(settings), "broker_url": broker.url, "s3_endpoint": s3.endpoint, **tuned})


@pytest.fixture
def app(settings: Settings) -> Iterator[Celery]:
    """Our own app in this process, to publish and to look at queues with."""
    app = make_app(settings)
    yield app
    app.close()


@pytest.fixture
def start_worker(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pytestconfig: pytest.Config
) -> Iterator[StartWorker]:
    """Starts workers: `start_worker()`, `start_worker(FLUSH, name="flush", app="tests.celery.poison_app")`."""
    monkeypatch.setenv("PYTHONPATH", str(pytestconfig.rootpath), prepend=":")
    with workers(settings, tmp_path, end=CeleryWorker.kill) as start:
        yield lambda *queues, **how: ProcessWorker(WorkerContainer(start(*queues, **how)), app=None)


@pytest.fixture
def worker(start_worker: StartWorker) -> Callable[..., CeleryWorker]:
    """As elsewhere: `worker()` starts one."""
    return lambda *queues, **how: start_worker(*queues, **how).container.server


@pytest.fixture
def celery_broker(settings: Settings, broker: Broker) -> ProcessBroker:
    return ProcessBroker(ProcessContainer(broker.server, url=settings.broker_url))


@pytest.fixture
def celery_backend(settings: Settings, valkey_server: ValkeyServer) -> ProcessBackend:
    return ProcessBackend(ProcessContainer(valkey_server, url=settings.redis_url))


@pytest.fixture
def celery_worker(start_worker: StartWorker) -> ProcessWorker:
    return start_worker(app="tests.celery.setup_app")


@pytest.fixture
def celery_setup_app(settings: Settings) -> Iterator[Celery]:
    """The worker's app in this process, and its current one, which pytest-celery's own tasks use."""
    from tests.celery.setup_app import with_results

    before, app = celery._state.get_current_app(), with_results(make_app(settings), settings)
    app.set_current()
    yield app
    celery._state._set_current_app(before)
    app.close()


@pytest.fixture
def user_app(settings: Settings) -> Iterator[Celery]:
    """A user's own app in this process, and its current one."""
    from tests.celery.user_app import make_user_app

    before, app = celery._state.get_current_app(), make_user_app(settings)
    yield app
    celery._state._set_current_app(before)
    app.close()


@pytest.fixture
def silent_port() -> Iterator[int]:
    """Accepts connections, into the kernel's backlog, and never says a word."""
    with socket.socket() as silent:
        silent.bind((LOOPBACK, 0))
        silent.listen(64)
        yield silent.getsockname()[1]
