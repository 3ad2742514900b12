"""One server as a child process: start, wait until it answers, stop, restart."""

import logging
import os
import signal
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

from threadkeep.local.errors import ServerFailed
from threadkeep.local.guard import guard

log = logging.getLogger(__name__)

_POLL = 0.03
_SHOWN_LINES = 15


class ServerProcess(ABC):
    """A child process in a session of its own, with a log file; subclasses say what to run and when it is ready.

    Only a process that this object started is ever signalled. If we die without `stop`, `guard` stops it.

    Args:
        name: What messages, the log file and the stack's table call it.
        data_dir: Its own folder; made if absent, kept by `stop`.
        start_timeout: Seconds until it must answer.
        stop_timeout: Seconds to end by itself before SIGKILL.
    """

    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM

    def __init__(self, name: str, data_dir: Path, *, start_timeout: float = 60.0, stop_timeout: float = 15.0) -> None:
        self.name = name
        self.data_dir = data_dir.absolute()
        self.log_path = self.data_dir / f"{name}.log"
        self._start_timeout, self._stop_timeout = start_timeout, stop_timeout
        self._log_start = 0
        self._process: subprocess.Popen[bytes] | None = None

    # --- what a subclass says ---

    @abstractmethod
    def command(self) -> Sequence[str | Path]:
        """The program and its arguments; never a secret among them, since anyone may list processes."""

    @abstractmethod
    def is_ready(self) -> bool:
        """Whether it answers; called until it does."""

    @property
    def shown_url(self) -> str:
        """Where to reach it, without secrets; empty if it listens nowhere."""
        return ""

    def prepare(self) -> None:  # noqa: B027  # a hook
        """Called before each start; may be repeated."""

    def complete(self) -> None:  # noqa: B027  # a hook
        """Called after each start, once it is ready; may be repeated."""

    def clean_up(self) -> None:  # noqa: B027  # a hook
        """Called after each end; removes what the server leaves outside of `data_dir`. May be repeated."""

    def environment(self) -> Mapping[str, str]:
        """The child's whole environment. The default lets nothing of the user's through."""
        return {"PATH": os.defpath, "HOME": str(self.data_dir), "LC_ALL": "C", "TZ": "UTC"}

    def working_dir(self) -> Path:
        """Where the child runs."""
        return self.data_dir

    def account(self) -> tuple[int, int] | None:
        """The uid and gid to run as; None for our own."""
        return None

    # --- what callers do ---

    @property
    def running(self) -> bool:
        """Whether the process is there."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int | None:
        """Its process id, which is also that of its group; None while it is not running."""
        return self._process.pid if self._process is not None and self.running else None

    def start(self) -> Self:
        """Start and wait until it answers; does nothing if it is running.

        Raises:
            ServerFailed: it ended, or did not answer in time; it has been stopped, and its log is quoted.
        """
        if self.running:
            return self
        self.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.prepare()
        self._spawn()
        try:
            self._wait_until_ready()
            self.complete()
        except BaseException:
            self.kill()
            raise
        return self

    def stop(self) -> None:
        """End it politely, then by force; does nothing if it is not running."""
        self._end(self.stop_signal)

    def kill(self) -> None:
        """End it and its group with SIGKILL, as a crash would."""
        self._end(signal.SIGKILL)

    def restart(self) -> Self:
        """Stop and start, on the same ports and data."""
        self.stop()
        return self.start()

    def failure(self, reason: str) -> ServerFailed:
        """An error that quotes the end of the log."""
        return ServerFailed(self.name, reason, str(self.log_path), "\n".join(self.log().splitlines()[-_SHOWN_LINES:]))

    def log(self) -> str:
        """What it wrote since its last start."""
        if not self.log_path.exists():
            return ""
        with self.log_path.open("rb") as file:
            file.seek(self._log_start)
            return file.read().decode(errors="replace")

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # --- how ---

    def _spawn(self) -> None:
        uid, gid = self.account() or (None, None)
        self.log_path.touch(mode=0o600)
        with self.log_path.open("ab") as output:
            self._log_start = output.tell()
            self._process = subprocess.Popen(
                [str(part) for part in self.command()],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self.working_dir(),
                env=dict(self.environment()),
                user=uid,
                group=gid,
                extra_groups=None if gid is None else [],
                start_new_session=True,
            )
        guard.watch(self._process.pid, self.stop_signal)

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + self._start_timeout
        while not self.is_ready():
            if not self.running:
                raise self.failure("ended while starting")
            if time.monotonic() > deadline:
                raise self.failure(f"did not answer within {self._start_timeout:g} s")
            time.sleep(_POLL)
        if not self.running:  # something else answers at its address
            raise self.failure("ended while starting")

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(number)
            try:
                process.wait(self._stop_timeout)
            except subprocess.TimeoutExpired:
                log.warning("a server did not end in time and is killed", extra={"server": self.name})
                process.kill()
        _kill_group(process.pid)
        process.wait()
        guard.forget(process.pid)
        self.clean_up()


def python_environment() -> dict[str, str]:
    """Our own environment, for children that are Python processes and need our paths.

    Without what would configure us, or override Celery's and Flower's settings behind our back.
    """
    foreign = ("THREADKEEP_", "CELERY_", "FLOWER_")
    return {name: value for name, value in os.environ.items() if not name.startswith(foreign)}


def _kill_group(leader: int) -> None:
    try:
        os.killpg(leader, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):  # macOS says the latter of a group of zombies
        return
