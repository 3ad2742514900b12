"""How each kind of fault is done to a running fleet."""

import random
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, Final

import psutil
import redis

from tests.chaos.fleet import Fleet, signalled, tree
from tests.chaos.schedule import KINDS, Fault
from tests.chaos.wire import Late, Silence, Weather
from threadkeep.local.process import ServerProcess
from threadkeep.local.valkey import ValkeyServer
from threadkeep.testing.wire import Answer, Delay, DropReply, Reset, Truncate

STALLING: Final = 0.8
"""Seconds by which answers come late while a worker is stopped."""


@dataclass(slots=True)
class Struck:
    """A fault as it happened; Unix seconds. `ended` is None while it lasts, `failed` says why it could not be done."""

    fault: Fault
    began: float = 0.0
    ended: float | None = None
    failed: str = ""

    def to_json(self, start: float) -> dict[str, Any]:
        """Planned and real times, in seconds after the start."""
        ended = None if self.ended is None else round(self.ended - start, 2)
        return {**asdict(self.fault), "began": round(self.began - start, 2), "ended": ended, "failed": self.failed}


class Striker:
    """Does what the schedule says; faults of one target follow each other, all others may overlap."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._locks = {**{name: threading.Lock() for name in (*KINDS, "hot", "broker", "pg")}, **fleet.locks}
        self._threads: list[threading.Thread] = []
        self.struck: list[Struck] = []

    def strike(self, fault: Fault) -> None:
        """Begin a fault; it goes on by itself."""
        happening = Struck(fault, began=time.time())
        self.struck.append(happening)
        thread = threading.Thread(target=self._do, args=(happening,), name=str(fault))
        self._threads.append(thread)
        thread.start()

    def wait(self) -> None:
        """Until all faults are over."""
        for thread in self._threads:
            thread.join()

    def _do(self, happening: Struck) -> None:
        fault = happening.fault
        with self._locks[_struck_by(fault)]:
            happening.began = time.time()
            try:
                _DO[fault.kind](self._fleet, fault)
            except Exception as error:  # noqa: BLE001  the report says so, and the run fails
                happening.failed = f"{type(error).__name__}: {error}"
            happening.ended = time.time()


def _struck_by(fault: Fault) -> str:
    one = {"hot tier": "hot", "broker": "broker", "catalog": "pg"}
    return fault.target or one.get(fault.group, fault.kind)


# --- processes ------------------------------------------------------------------------------------------------------


def _kill_child(fleet: Fleet, fault: Fault) -> None:
    """The pool starts another one in its place."""
    parent = fleet.workers[fault.target].pid
    children = psutil.Process(parent).children() if parent else []
    if children:
        signalled([children[int(fault.choice * len(children))]], signal.SIGKILL)


def _kill_worker(fleet: Fleet, fault: Fault) -> None:
    _killed(fleet.workers[fault.target], fault.seconds)


def _restart_worker(fleet: Fleet, fault: Fault) -> None:
    """SIGTERM: what runs is ended first."""
    fleet.workers[fault.target].restart()


def _stall_worker(fleet: Fleet, fault: Fault) -> None:
    """Stop it in the middle of its work, which a moment of slow answers makes likely."""
    held = Late(STALLING) if fault.choice < 0.4 else Delay(STALLING)
    fleet.wire.begin("S3 slow", lambda _: held, methods=("GET", "PUT"), share=0.8, seconds=STALLING)
    time.sleep(STALLING / 2)
    _stalled(fleet.workers[fault.target], fault.seconds)


def _kill_app(fleet: Fleet, fault: Fault) -> None:
    _killed(fleet.apps[fault.target], fault.seconds)


def _stall_app(fleet: Fleet, fault: Fault) -> None:
    _stalled(fleet.apps[fault.target], fault.seconds)


def _kill_hot_tier(fleet: Fleet, fault: Fault) -> None:
    _killed(fleet.hot, fault.seconds)


def _drop_hot_tier_links(fleet: Fleet, fault: Fault) -> None:
    _cut_off(fleet.hot, fault.seconds)


def _kill_broker(fleet: Fleet, fault: Fault) -> None:
    _killed(fleet.broker, fault.seconds)


def _drop_broker_links(fleet: Fleet, fault: Fault) -> None:
    _cut_off(fleet.broker, fault.seconds)


def _restart_catalog(fleet: Fleet, fault: Fault) -> None:
    fleet.postgres.stop()
    time.sleep(fault.seconds)
    fleet.postgres.start()


def _stall_catalog(fleet: Fleet, fault: Fault) -> None:
    _stalled(fleet.postgres, fault.seconds)


def _killed(server: ServerProcess, away: float) -> None:
    server.kill()
    time.sleep(away)
    server.start()


def _cut_off(server: ValkeyServer, seconds: float) -> None:
    """Close all connections, again and again: commands are done and their replies get lost."""
    until = time.monotonic() + seconds
    with redis.Redis.from_url(server.url(0)) as client:
        while time.monotonic() < until:
            with suppress(redis.ConnectionError):  # killed meanwhile
                client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            time.sleep(0.05)


def _stalled(server: ServerProcess, seconds: float) -> None:
    """Stop it and all its children, and let them go on long after others have taken over."""
    if server.pid is None:
        return
    stopped = tree(server.pid)
    try:
        signalled(stopped, signal.SIGSTOP)
        time.sleep(seconds)
    finally:
        signalled(reversed(stopped), signal.SIGCONT)


# --- the wire to S3 -------------------------------------------------------------------------------------------------

ALL: Final = ("GET", "PUT", "HEAD", "POST", "DELETE")
_Make = Callable[[random.Random], Weather]


def _weather(methods: tuple[str, ...], share: float, make: _Make) -> Callable[[Fleet, Fault], None]:
    def do(fleet: Fleet, fault: Fault) -> None:
        fleet.wire.begin(fault.kind, make, methods=methods, share=share, seconds=fault.seconds)
        time.sleep(fault.seconds)

    return do


_DO: Final[dict[str, Callable[[Fleet, Fault], None]]] = {
    "kill child": _kill_child,
    "kill worker": _kill_worker,
    "restart worker": _restart_worker,
    "stall worker": _stall_worker,
    "kill app": _kill_app,
    "stall app": _stall_app,
    "kill hot tier": _kill_hot_tier,
    "drop hot tier links": _drop_hot_tier_links,
    "kill broker": _kill_broker,
    "drop broker links": _drop_broker_links,
    "restart catalog": _restart_catalog,
    "stall catalog": _stall_catalog,
    "S3 slow down": _weather(ALL, 0.6, lambda _: Answer(503, "SlowDown")),
    "S3 errors": _weather(ALL, 0.6, lambda _: Answer(500, "InternalError")),
    "S3 slow": _weather(ALL, 0.5, lambda rng: Delay(rng.uniform(0.5, 3.0))),
    "S3 torn bodies": _weather(("GET",), 0.6, lambda rng: Truncate(rng.randint(0, 600))),
    "S3 resets": _weather(("GET", "PUT"), 0.6, lambda rng: Reset(rng.randint(0, 600))),
    "S3 lost replies": _weather(("PUT",), 0.7, lambda _: DropReply()),
    "S3 late writes": _weather(("PUT",), 0.4, lambda rng: Late(rng.uniform(2.5, 6.0))),
    "S3 outage": _weather(ALL, 1.0, lambda _: Silence()),
}
