"""pytest-celery's setup over local processes, with a wire to S3 that can be slowed down."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import celery._state
import pytest
from celery import Celery

from threadkeep.config import Settings
from threadkeep.local.seaweed import SeaweedServer
from threadkeep.local.valkey import ValkeyServer
from threadkeep.local.workers import DEFAULT_APP, CeleryWorker
from threadkeep.tasks.adoption import make_app
from threadkeep.tasks.conf import FLUSH, HYDRATE, MAINTENANCE
from threadkeep.testing.celery_nodes import (
    ProcessBackend,
    ProcessBroker,
    ProcessContainer,
    ProcessWorker,
    WorkerContainer,
)
from threadkeep.testing.wire import FaultyProxy

StartWorker = Callable[..., ProcessWorker]


@pytest.fixture
def tuned() -> dict[str, Any]:
    """Settings that a test changes; overridden by `@tuned(...)`."""
    return {}


@pytest.fixture
def broker_server(valkey_server: ValkeyServer) -> ValkeyServer:
    """The broker's Valkey: that of all tests, unless a test stops it."""
    return valkey_server


@pytest.fixture
def s3(seaweed_server: SeaweedServer) -> Iterator[FaultyProxy]:
    """The wire to S3 of all workers in this test."""
    with FaultyProxy(seaweed_server.endpoint) as proxy:
        yield proxy


@pytest.fixture
def settings(settings: Settings, broker_server: ValkeyServer, s3: FaultyProxy, tuned: dict[str, Any]) -> Settings:
    through = {"broker_url": broker_server.url(1), "s3_endpoint": s3.endpoint}
    return Settings.load(**{**dict(settings), **through, **tuned})


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
    started: list[CeleryWorker] = []

    def start(*queues: str, name: str = "all", concurrency: int = 1, app: str = DEFAULT_APP) -> ProcessWorker:
        worker = CeleryWorker(
            settings,
            queues=queues or (HYDRATE, FLUSH, MAINTENANCE),
            name=name,
            concurrency=concurrency,
            data_dir=tmp_path / name,
            app=app,
        )
        started.append(worker)
        return ProcessWorker(WorkerContainer(worker.start()), app=None)

    yield start
    for worker in started:
        worker.stop()


@pytest.fixture
def celery_broker(settings: Settings, broker_server: ValkeyServer) -> ProcessBroker:
    return ProcessBroker(ProcessContainer(broker_server, url=settings.broker_url))


@pytest.fixture
def celery_backend(settings: Settings, broker_server: ValkeyServer) -> ProcessBackend:
    return ProcessBackend(ProcessContainer(broker_server, url=settings.broker_url))


@pytest.fixture
def celery_worker(start_worker: StartWorker) -> ProcessWorker:
    return start_worker(app="tests.celery.setup_app")


@pytest.fixture
def celery_setup_app(settings: Settings) -> Iterator[Celery]:
    """The worker's app in this process, and its current one, which pytest-celery's own tasks use."""
    from tests.celery.setup_app import with_results

    before, app = celery._state.get_current_app(), with_results(make_app(settings))
    app.set_current()
    yield app
    celery._state._set_current_app(before)
    app.close()
