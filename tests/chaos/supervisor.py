"""What systemd, Docker or Kubernetes does: a process that ended by itself is started again."""

import time
from collections import Counter
from contextlib import suppress

from tests.chaos.fleet import Fleet
from tests.chaos.history import Violation
from tests.chaos.watch import Watch
from threadkeep.local.errors import ServerFailed
from threadkeep.local.process import ServerProcess


class Supervisor(Watch):
    """Looks after workers and apps that no fault is being done to.

    Attributes:
        started_again: How often each had ended by itself.
        violations: Apps that did: a user of Threadkeep is never to be taken down.
    """

    def __init__(self, fleet: Fleet) -> None:
        super().__init__(0.3)
        self._fleet = fleet
        self.started_again: Counter[str] = Counter()
        self.violations: list[Violation] = []

    def look(self) -> None:
        for name, process in {**self._fleet.workers, **self._fleet.apps}.items():
            lock = self._fleet.locks[name]
            if lock.acquire(blocking=False):
                try:
                    self._tend(name, process)
                finally:
                    lock.release()

    def _tend(self, name: str, process: ServerProcess) -> None:
        if process.running:
            return
        self.started_again[name] += 1
        if name in self._fleet.apps:
            self.violations.append(Violation("", f"{name} ended by itself: {process.log()[-500:]}", time.time()))
        with suppress(ServerFailed):  # the broker is away; the next look tries again
            process.start()
