"""Nothing outlives us: a helper process that ends our servers when this process is gone, however it went.

Each server is started in a session of its own, so a Ctrl-C reaches only us and we stop them in order. If we are
killed instead, the pipe to the helper closes and it does that for us. (Linux's PR_SET_PDEATHSIG fires when the
*thread* that started a child ends, reaches no grandchildren, and macOS has none.) The helper is this very file run
as a script; it imports the standard library alone.
"""

import atexit
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from threading import Lock
from typing import Any

_GRACE = 8.0
"""Seconds between the polite signal and SIGKILL."""


def started_at(pid: int) -> str | None:
    """When the process started, in its system's own words; None if it is gone or a zombie.

    A pid together with this never names two processes.
    """
    if Path("/proc/self/stat").exists():
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return None
        return None if fields[0] in "ZX" else fields[19]
    shown = subprocess.run(
        ["/bin/ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True, check=False
    ).stdout.strip()
    return None if not shown or shown.startswith("Z") else shown.partition(" ")[2].strip()


def end_processes(started: Iterable[tuple[int, str | None, int]], *, grace: float = _GRACE) -> None:
    """End processes that lead a group of their own, the last first, since it may use those before it.

    Args:
        started: For each its pid, what `started_at` said of it, and the signal that ends it politely; in the order
            of their start. A later process of that pid is left alone.
        grace: Seconds that each is given before its group gets SIGKILL.
    """
    for pid, start, number in reversed(list(started)):
        if start is None or started_at(pid) != start:
            continue
        _signal(os.kill, pid, number)
        deadline = time.monotonic() + grace
        while started_at(pid) == start and time.monotonic() < deadline:
            time.sleep(0.03)
        _signal(os.killpg, pid, signal.SIGKILL)


class Guard:
    """Our end of the pipe to the helper process, which is started at the first use."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._helper: subprocess.Popen[str] | None = None

    def watch(self, pid: int, stop_signal: int) -> None:
        """Have the process, which must lead a group of its own, stopped when we are gone."""
        self._tell({"watch": pid, "start": started_at(pid), "signal": stop_signal})

    def forget(self, pid: int) -> None:
        """The process was stopped."""
        self._tell({"forget": pid})

    def remove_later(self, path: Path) -> None:
        """Have the file or folder removed when we are gone, after the processes."""
        self._tell({"remove": str(path)})

    def keep(self, path: Path) -> None:
        """Take `remove_later` back."""
        self._tell({"keep": str(path)})

    def close(self) -> None:
        """Have everything done that is still to do, and wait for it."""
        with self._lock:
            helper, self._helper = self._helper, None
        if helper is not None:
            helper.communicate()

    def abandon(self) -> None:
        """Let go of the pipe in a forked child, whose life says nothing about ours."""
        self._lock = Lock()
        helper, self._helper = self._helper, None
        if helper is not None and helper.stdin is not None:
            helper.stdin.close()
            helper.returncode = 0  # not the child's to wait for

    def _tell(self, order: dict[str, Any]) -> None:
        with self._lock:
            if self._helper is None:
                self._helper = _start_helper()
                atexit.register(self.close)
            assert self._helper.stdin is not None
            self._helper.stdin.write(json.dumps(order) + "\n")
            self._helper.stdin.flush()


guard = Guard()
os.register_at_fork(after_in_child=guard.abandon)


def _start_helper() -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-I", "-S", __file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        text=True,
        start_new_session=True,
    )


def _mind(orders: Iterable[str]) -> None:
    """Note orders until the pipe closes, then do what is left of them."""
    watched: dict[int, tuple[int, str | None, int]] = {}
    removed: set[str] = set()
    for line in orders:
        match json.loads(line):
            case {"watch": pid, "start": start, "signal": number}:
                watched[pid] = (pid, start, number)
            case {"forget": pid}:
                watched.pop(pid, None)
            case {"remove": path}:
                removed.add(path)
            case {"keep": path}:
                removed.discard(path)
    end_processes(watched.values())
    for path in map(Path, removed):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _signal(send: Any, pid: int, number: int) -> None:
    try:
        send(pid, number)
    except (ProcessLookupError, PermissionError):  # macOS says the latter of a group of zombies
        return


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _mind(sys.stdin)
