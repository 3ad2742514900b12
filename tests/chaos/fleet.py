"""Everything that a deployment has, as real processes on this machine, with one wire to S3 that can be disturbed."""

import os
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import psutil

from tests.chaos.app import READY
from tests.chaos.schedule import APPS, CELERY
from tests.chaos.wire import Weathered
from threadkeep.config import Settings
from threadkeep.local.guard import guard
from threadkeep.local.postgres import PostgresServer
from threadkeep.local.process import ServerProcess, python_environment
from threadkeep.local.seaweed import SeaweedServer
from threadkeep.local.valkey import ValkeyServer
from threadkeep.local.workers import CeleryBeat, CeleryWorker
from threadkeep.tasks.conf import FLUSH, HYDRATE, MAINTENANCE

ROOT: Final = Path(__file__).parents[2]
BUCKET: Final = "threadkeep-chaos"
PREFIX: Final = "chaos"
THREADS: Final = 60
LANES: Final = {"app-0": 4, "app-1": 4, "app-2": 6}
ASYNC_APPS: Final = frozenset({"app-2"})
EVICTING_APPS: Final = frozenset({"app-1"})
"""Apps whose sessions leave nothing in Redis; those of the others let threads linger."""

HURRIED: Final[dict[str, Any]] = {
    "redis_timeout": 3,
    "redis_connect_timeout": 1,
    "broker_timeout": 1.5,
    "s3_connect_timeout": 1,
    "s3_read_timeout": 2,
    "s3_attempts": 2,
    "database_timeout": 2,
    "lease_seconds": 5,
    "hydrate_wait": 15,
    "ask_again": 2,
    "linger_seconds": 3,
    "soft_time_limit": 6,
    "hard_time_limit": 9,
    "visibility_timeout": 20,
    "retry_backoff": 0.3,
    "retry_backoff_max": 3,
    "marker_seconds": 4,
    "sweep_every": 2,
    "checkpoint_after": 4,
}
"""Limits that come up within a run: leases that end, tasks that are delivered again, copies that fade."""


class App(ServerProcess):
    """One app; each start is another life, with a journal of its own."""

    def __init__(self, name: str, settings: Settings, *, journals: Path, logs: Path) -> None:
        super().__init__(name, logs, stop_timeout=30)
        self._settings, self._journals, self.lives = settings, journals, 0

    def prepare(self) -> None:
        self.lives += 1

    def command(self) -> Sequence[str | Path]:
        life = f"{self.name}.{self.lives}"
        face = "async" if self.name in ASYNC_APPS else "sync"
        journal = self._journals / f"{life}.jsonl"
        return [sys.executable, "-m", "tests.chaos.app", life, face, str(LANES[self.name]), str(THREADS), journal]

    def environment(self) -> Mapping[str, str]:
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        return {**python_environment(), "PYTHONPATH": path, **self._settings.to_environ()}

    def working_dir(self) -> Path:
        return ROOT

    def is_ready(self) -> bool:
        return READY in self.log()


class Fleet:
    """The servers, the workers and the apps.

    Args:
        folder: For the servers' data.
        out: For logs and journals.
        seed: Of the disturbances on the wire.

    Attributes:
        workers: Those of Celery, and its beat.
        locks: One for each worker and app; held by whoever stops and starts it.
    """

    def __init__(self, folder: Path, out: Path, seed: int) -> None:
        self.logs, self.journals = out / "logs", out / "journals"
        # Replies wait for the disk: with `everysec` they do not while a sync is going on, and a kill then loses some.
        self.hot = ValkeyServer(folder / "hot", extra=["appendfsync always"])
        self.broker = ValkeyServer(folder / "broker")
        self.postgres = PostgresServer(folder / "postgres", durable=False)
        self.seaweed = SeaweedServer(folder / "seaweed", buckets=[BUCKET])
        self.workers: dict[str, ServerProcess] = {}
        self.apps: dict[str, App] = {}
        self.locks = {name: threading.Lock() for name in (*CELERY, *APPS)}
        self._seed = seed

    def start(self) -> None:
        """Start all of it; the apps begin to write."""
        at_once([self.hot.start, self.broker.start, self.postgres.start, self.seaweed.start])
        self.wire = Weathered(self.seaweed.endpoint, self._seed)
        self.wire.__enter__()
        self._migrate()
        self.workers = {name: self._worker(name, *queues) for name, queues in _QUEUES.items()}
        self.workers["beat"] = CeleryBeat(self.settings, data_dir=self.logs)
        self.apps = {name: self._app(name) for name in APPS}
        at_once([process.start for process in self.workers.values()])
        at_once([app.start for app in self.apps.values()])

    def stop_apps(self) -> None:
        """Let the users finish what they began."""
        at_once([app.stop for app in self.apps.values()])

    def heal(self) -> None:
        """Nothing is disturbed any more, and everything runs that should."""
        self.wire.clear()
        at_once([server.start for server in self._servers])
        at_once([process.start for process in self.workers.values()])

    def stop(self) -> None:
        """Stop all of it, those that use others first."""
        for group in (self.apps.values(), self.workers.values(), self._servers):
            at_once([process.stop for process in group])
        self.wire.__exit__(None, None, None)
        self.postgres.remove()

    @property
    def settings(self) -> Settings:
        """What the workers get: S3 lies behind the wire."""
        return self._settings(self.wire.endpoint)

    @property
    def calm_settings(self) -> Settings:
        """For whoever looks on: straight to S3."""
        return self._settings(self.seaweed.endpoint)

    def _settings(self, endpoint: str, **changes: Any) -> Settings:
        values: dict[str, Any] = {
            "redis_url": self.hot.url(0),
            "key_prefix": PREFIX,
            "broker_url": self.broker.url(0),
            "s3_bucket": BUCKET,
            "s3_endpoint": endpoint,
            "s3_region": "us-east-1",
            "s3_access_key": self.seaweed.access_key,
            "s3_secret_key": self.seaweed.secret_key,
            "s3_addressing": "path",
            "database_url": self.postgres.url(),
        }
        return Settings.load(**{**values, **HURRIED, **changes})

    def _worker(self, name: str, queue: str, concurrency: int) -> CeleryWorker:
        return CeleryWorker(self.settings, queues=[queue], name=name, concurrency=concurrency, data_dir=self.logs)

    def _app(self, name: str) -> App:
        leaving = "evict" if name in EVICTING_APPS else "linger"
        settings = self._settings(self.wire.endpoint, exit_flush=leaving)
        return App(name, settings, journals=self.journals, logs=self.logs)

    def _migrate(self) -> None:
        from threadkeep.storage.migrations import upgrade

        upgrade(self.settings)

    @property
    def _servers(self) -> list[ServerProcess]:
        return [self.hot, self.broker, self.postgres, self.seaweed]


_QUEUES: Final = {
    "hydrate": (HYDRATE, 1),
    "flush-a": (FLUSH, 2),
    "flush-b": (FLUSH, 1),
    "maintenance": (MAINTENANCE, 1),
}


@contextmanager
def running_fleet(out: Path, seed: int) -> Iterator[Fleet]:
    """A fleet that runs, its data in a folder that goes with it; logs and journals stay in `out`."""
    folder = Path(tempfile.mkdtemp(prefix="threadkeep-chaos-"))
    guard.remove_later(folder)
    folder.chmod(0o711)  # as root, the user that PostgreSQL runs as must be able to pass through
    fleet = Fleet(folder, _emptied(out), seed)
    try:
        fleet.start()
        yield fleet
    finally:
        fleet.stop()
        shutil.rmtree(folder, ignore_errors=True)
        guard.keep(folder)


def _emptied(out: Path) -> Path:
    for name in ("logs", "journals"):
        shutil.rmtree(out / name, ignore_errors=True)
        (out / name).mkdir(parents=True)
    return out


def at_once(calls: Iterable[Callable[[], object]]) -> None:
    """Call them all, each in a thread of its own; wait for all, and raise the first error."""
    waiting = list(calls)
    with ThreadPoolExecutor(max(len(waiting), 1)) as pool:
        for call in [pool.submit(call) for call in waiting]:
            call.result()


def tree(pid: int) -> list[psutil.Process]:
    """A process and all that it started."""
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


def signalled(processes: Iterable[psutil.Process], number: signal.Signals) -> None:
    """Signal what is still there of these."""
    for process in processes:
        try:
            process.send_signal(number)
        except psutil.NoSuchProcess:
            continue
