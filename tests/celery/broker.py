"""A broker under test: what the suite does to it, and what it promises where brokers differ."""

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass

from threadkeep.config import Settings
from threadkeep.local.process import ServerProcess


@dataclass(frozen=True, slots=True)
class Broker:
    """One server, and what may be expected of its kind.

    Attributes:
        server: Its process, which leads a group of its own.
        url: Its address.
        locked_url: Its address with a wrong password.
        url_at: The address of a broker of this kind that listens at a port.
        kept: A delay in seconds, as this kind keeps it.
        comes_again: Within how many seconds another worker gets what a killed one had not acknowledged.
    """

    server: ServerProcess
    url: str
    locked_url: str
    url_at: Callable[[int], str]
    kept: Callable[[float], float]
    comes_again: Callable[[Settings], float]

    def freeze(self) -> None:
        """Stop its processes: connections stay open, and nothing comes back."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on; does nothing unless it is frozen."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        if self.server.pid is not None:
            os.killpg(self.server.pid, number)
