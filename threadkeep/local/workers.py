"""Celery's processes on one machine: workers, beat and Flower."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from threadkeep.config import Settings
from threadkeep.local.errors import LocalExtraMissing
from threadkeep.local.ports import LOOPBACK, free_port, http_status
from threadkeep.local.process import ServerProcess, python_environment
from threadkeep.local.wheels import is_installed

DEFAULT_APP = "threadkeep.tasks.app"


class _CeleryProcess(ServerProcess):
    """`celery -A app …` with the settings in its environment, run where we run, to import what we can."""

    def __init__(self, name: str, settings: Settings, *, data_dir: Path, app: str) -> None:
        super().__init__(name, data_dir)
        self._settings, self._app = settings, app

    def celery(self, subcommand: str, *arguments: str) -> Sequence[str]:
        return [sys.executable, "-m", "celery", "-A", self._app, subcommand, *arguments]

    def environment(self) -> Mapping[str, str]:
        return {**python_environment(), **self._settings.to_environ()}

    def working_dir(self) -> Path:
        return Path.cwd()


class CeleryWorker(_CeleryProcess):
    """One worker; `stop` lets running tasks end first, `kill` takes it and its pool at once.

    Args:
        settings: What it gets as `THREADKEEP_*`.
        queues: Queues to read.
        name: First half of its node name, which is the same after each restart.
        concurrency: Processes, or threads, of its pool.
        pool: Celery's name of the pool.
        data_dir: Where its log goes.
        app: Module of the Celery app, importable from here.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        queues: Sequence[str],
        name: str,
        concurrency: int,
        data_dir: Path,
        pool: str = "prefork",
        app: str = DEFAULT_APP,
    ) -> None:
        super().__init__(f"worker-{name}", settings, data_dir=data_dir, app=app)
        self.queues, self.concurrency = list(queues), concurrency
        self._node, self._pool = f"{name}@%h", pool

    def command(self) -> Sequence[str | Path]:
        flags = [f"--hostname={self._node}", f"--queues={','.join(self.queues)}", f"--pool={self._pool}"]
        size = f"--concurrency={self.concurrency}"
        # Without neighbours to talk to, mingle and gossip only make the start a second slower.
        return self.celery("worker", *flags, size, "-E", "--loglevel=INFO", "--without-mingle", "--without-gossip")

    def is_ready(self) -> bool:
        return " ready." in self.log()


class CeleryBeat(_CeleryProcess):
    """The clock of periodic tasks; its schedule file lies in `data_dir`."""

    def __init__(self, settings: Settings, *, data_dir: Path, app: str = DEFAULT_APP) -> None:
        super().__init__("beat", settings, data_dir=data_dir, app=app)

    def command(self) -> Sequence[str | Path]:
        return self.celery("beat", f"--schedule={self.data_dir / 'beat-schedule'}", "--pidfile=", "--loglevel=INFO")

    def is_ready(self) -> bool:
        return "beat: Starting..." in self.log()


class FlowerServer(_CeleryProcess):
    """Flower on the loopback interface, behind a password.

    Args:
        settings: What it gets as `THREADKEEP_*`.
        basic_auth: `user:password` that its pages ask for.
        port: Its port; a free one if None.
        data_dir: Where its log goes.
        app: Module of the Celery app, importable from here.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        basic_auth: str,
        data_dir: Path,
        port: int | None = None,
        app: str = DEFAULT_APP,
    ) -> None:
        if not is_installed("flower"):
            raise LocalExtraMissing("flower")
        super().__init__("flower", settings, data_dir=data_dir, app=app)
        self.port = port or free_port()
        self._basic_auth = basic_auth

    @property
    def shown_url(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    def command(self) -> Sequence[str | Path]:
        columns = "--tasks_columns=name,kwargs,result,state,runtime,worker,received"
        return self.celery("flower", f"--address={LOOPBACK}", f"--port={self.port}", columns)

    def environment(self) -> Mapping[str, str]:
        return {**super().environment(), "FLOWER_BASIC_AUTH": self._basic_auth}

    def is_ready(self) -> bool:
        return http_status(self.port, "/healthcheck") == 200
