"""The wire to S3 with weather: for some seconds a share of the requests meets a fault, then it clears up."""

import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler

from threadkeep.testing.wire import Fault, FaultyProxy


@dataclass(frozen=True, slots=True)
class Silence:
    """Close the connection; the upstream never sees the request."""


@dataclass(frozen=True, slots=True)
class Late:
    """Hand the request on only after so many seconds, when its sender has long given up."""

    seconds: float


Weather = Fault | Silence | Late


@dataclass(frozen=True, slots=True)
class Spell:
    """A fault that lasts; `fault` makes one for each request that it hits.

    Attributes:
        methods: Requests that it may hit.
        share: Of those, how many it does hit.
        until: `time.monotonic()` at which it ends.
    """

    kind: str
    fault: Callable[[random.Random], Weather]
    methods: tuple[str, ...]
    share: float
    until: float


class Weathered(FaultyProxy):
    """A `FaultyProxy` for hours instead of single requests.

    Attributes:
        injected: How many requests each kind of fault has hit.
        held: Requests that are kept back now.
    """

    def __init__(self, upstream: str, seed: int) -> None:
        super().__init__(upstream)
        self._rng = random.Random(seed)
        self._spells: list[Spell] = []
        self._chosen = threading.local()
        self._weather_lock = threading.Lock()
        self.injected: Counter[str] = Counter()
        self.held = 0

    def begin(
        self,
        kind: str,
        fault: Callable[[random.Random], Weather],
        *,
        methods: tuple[str, ...],
        share: float,
        seconds: float,
    ) -> None:
        """Let a share of the requests meet a fault for some seconds from now."""
        with self._weather_lock:
            self._spells.append(Spell(kind, fault, methods, share, time.monotonic() + seconds))

    def clear(self) -> None:
        """End all of it."""
        with self._weather_lock:
            self._spells.clear()

    def serve(self, handler: BaseHTTPRequestHandler) -> None:
        fault = self._hit(handler.command)
        self._chosen.fault = fault if not isinstance(fault, Silence | Late) else None
        match fault:
            case Silence():
                handler.close_connection = True
            case Late(seconds):
                self._hold(seconds)
                super().serve(handler)
            case _:
                super().serve(handler)

    def _next_fault(self, handler: BaseHTTPRequestHandler) -> Fault | None:
        chosen: Fault | None = self._chosen.fault
        return chosen

    def _hit(self, method: str) -> Weather | None:
        with self._weather_lock:
            now = time.monotonic()
            for spell in self._spells:
                if now < spell.until and method in spell.methods and self._rng.random() < spell.share:
                    self.injected[spell.kind] += 1
                    return spell.fault(self._rng)
            return None

    def _hold(self, seconds: float) -> None:
        with self._weather_lock:
            self.held += 1
        try:
            self._closed.wait(seconds)
        finally:
            with self._weather_lock:
                self.held -= 1
