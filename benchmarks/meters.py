"""What a process has used so far: wall clock, CPU, and its peak of memory."""

import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(slots=True)
class Spent:
    """Milliseconds."""

    wall: float = 0.0
    cpu: float = 0.0

    def to_json(self) -> dict[str, float]:
        return {"wall": self.wall, "cpu": self.cpu}


@contextmanager
def spending() -> Iterator[Spent]:
    """User and system time of all threads of this process, and the time that passed."""
    spent = Spent()
    wall, cpu = time.perf_counter(), time.process_time()
    try:
        yield spent
    finally:
        spent.wall = 1000 * (time.perf_counter() - wall)
        spent.cpu = 1000 * (time.process_time() - cpu)


def peak_bytes() -> int:
    """The largest resident set that this program has had.

    Not `ru_maxrss` where there is better: on Linux that survives exec, so a child begins with its parent's peak.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
