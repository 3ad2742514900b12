"""pytest-celery's nodes, backed by processes of this machine instead of containers.

Override the plugin's fixtures with these, and its clusters and setup work without Docker:

    @pytest.fixture
    def celery_broker(valkey):
        return ProcessBroker(ProcessContainer(valkey, url=valkey.url(1)))
"""

import os
import signal as signals
import socket
from typing import Any

import celery
import psutil
from pytest_celery import CeleryTestBackend, CeleryTestBroker, CeleryTestWorker

from threadkeep.local.process import ServerProcess
from threadkeep.local.workers import CeleryWorker


class ProcessContainer:
    """What pytest-celery asks of a container, asked of a server.

    Args:
        server: Started and stopped by whoever made it, unless a test does so through the node.
        url: Where Celery reaches it, for a broker or a backend.
    """

    def __init__(self, server: ServerProcess, *, url: str = "") -> None:
        self.server = server
        self._url = url

    @property
    def id(self) -> str:
        return self.server.name

    @property
    def name(self) -> str:
        return self.server.name

    @property
    def status(self) -> str:
        return "running" if self.server.running else "exited"

    @property
    def celeryconfig(self) -> dict[str, Any]:
        return {"url": self._url, "host_url": self._url}

    def ready(self) -> bool:
        return self.server.running and self.server.is_ready()

    def logs(self) -> str:
        """What it wrote since its last start."""
        return self.server.log()

    def kill(self, signal: str | int = "SIGKILL") -> None:
        """Send a signal, as `docker kill` does; SIGKILL also ends its children, as the end of a container would."""
        number = signals.Signals[signal] if isinstance(signal, str) else signals.Signals(signal)
        if number == signals.SIGKILL:
            self.server.kill()
        elif self.server.pid is not None:
            os.kill(self.server.pid, number)

    def restart(self, timeout: float = 0) -> None:
        """Stop and start; the server has a time-out of its own."""
        self.server.restart()

    def reload(self) -> None:
        """Nothing is cached."""

    def teardown(self) -> None:
        """Whoever made the server stops it."""


class WorkerContainer(ProcessContainer):
    """What it asks of a worker's container besides."""

    server: CeleryWorker

    def version(self) -> str:
        return str(celery.__version__)

    def log_level(self) -> str:
        return "INFO"

    def worker_name(self) -> str:
        return self.server.name.removeprefix("worker-")

    def worker_queue(self) -> str:
        return self.server.queues[0]


class ProcessBroker(CeleryTestBroker):  # type: ignore[misc]  # pytest-celery has no types
    """A broker that is a process."""


class ProcessBackend(CeleryTestBackend):  # type: ignore[misc]  # pytest-celery has no types
    """A result backend that is a process."""


class ProcessWorker(CeleryTestWorker):  # type: ignore[misc]  # pytest-celery has no types
    """A worker that is a process; its pool's children can be told apart, to kill one of them."""

    def hostname(self) -> str:
        return f"{self.worker_name}@{socket.gethostname()}"

    def children(self) -> list[int]:
        """Process ids of the pool."""
        pid = self.container.server.pid
        return [] if pid is None else [child.pid for child in psutil.Process(pid).children()]

    def get_running_processes_info(
        self, columns: list[str] | None = None, filters: dict[str, str] | None = None
    ) -> list[dict[str, Any]]:
        """The worker and its pool, as psutil's `as_dict` tells."""
        pid = self.container.server.pid
        if pid is None:
            return []
        main = psutil.Process(pid)
        rows = [process.as_dict(columns) for process in (main, *main.children(recursive=True))]
        return [row for row in rows if all(row.get(name) == value for name, value in (filters or {}).items())]
