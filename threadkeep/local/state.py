"""What a running stack leaves on disk for other processes: `state.json` in its data directory, and a lock."""

import fcntl
import json
import os
import signal
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from threadkeep.local.errors import DataDirInUse
from threadkeep.local.guard import end_processes, started_at

_OWNER_SECONDS = 90.0
"""Seconds that a stack may take to stop itself: workers first finish their tasks."""


@dataclass(frozen=True, slots=True)
class Service:
    """One process of a stack.

    Attributes:
        name: What the stack's table calls it.
        url: Where to reach it, without secrets; empty if it listens nowhere.
        pid: Its process id, and that of its group.
        start: `started_at(pid)`, which tells it from a later process of that pid.
        stop_signal: The signal that ends it politely.
    """

    name: str
    url: str
    pid: int
    start: str | None
    stop_signal: int


@dataclass(frozen=True, slots=True)
class StackState:
    """A stack as its `state.json` tells it.

    Attributes:
        pid: The process that runs the stack.
        start: `started_at(pid)`.
        services: Its processes.
        environ: The `THREADKEEP_*` variables that reach it; holds secrets.
    """

    pid: int
    start: str | None
    services: tuple[Service, ...]
    environ: dict[str, str]

    @property
    def running(self) -> bool:
        """Whether the process that runs the stack is there."""
        return self.start is not None and started_at(self.pid) == self.start


def read_state(data_dir: Path) -> StackState | None:
    """The stack of that data directory, running or killed; None if it was stopped, or never started."""
    try:
        told = json.loads((data_dir / "state.json").read_text())
    except FileNotFoundError:
        return None
    return StackState(**{**told, "services": tuple(Service(**item) for item in told["services"])})


def write_state(data_dir: Path, state: StackState) -> None:
    """Replace `state.json`; only its owner may read it."""
    fresh = data_dir / "state.json.new"
    fresh.unlink(missing_ok=True)
    fresh.touch(mode=0o600)
    fresh.write_text(json.dumps(asdict(state), indent=2))
    fresh.replace(data_dir / "state.json")


def stop_detached(data_dir: Path) -> bool:
    """Stop the stack of that data directory, whoever started it, and wait until it is gone.

    Returns:
        Whether there was anything to stop.
    """
    state = read_state(data_dir)
    if state is None:
        return False
    if state.running:
        os.kill(state.pid, signal.SIGTERM)
        deadline = time.monotonic() + _OWNER_SECONDS
        while state.running and time.monotonic() < deadline:
            time.sleep(0.1)
    end_leftovers(data_dir)
    return True


def end_leftovers(data_dir: Path) -> None:
    """End what a killed stack may have left running there, and forget it."""
    state = read_state(data_dir)
    if state is not None:
        end_processes((service.pid, service.start, service.stop_signal) for service in state.services)
    (data_dir / "state.json").unlink(missing_ok=True)


class DataDirLock:
    """At most one stack a data directory; the system lets go of the lock when the process ends, however it ends."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._descriptor: int | None = None

    @property
    def held(self) -> bool:
        """Whether it is ours."""
        return self._descriptor is not None

    def acquire(self) -> None:
        """Take the lock.

        Raises:
            DataDirInUse: another stack has it.
        """
        descriptor = os.open(self._data_dir / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise DataDirInUse(self._data_dir) from None
        self._descriptor = descriptor

    def release(self) -> None:
        """Let go; does nothing if it is not held."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
