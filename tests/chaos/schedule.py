"""What goes wrong and when: all of it from a seed, so that a run can be repeated."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

WORKERS: Final = ("hydrate", "flush-a", "flush-b", "maintenance")
CELERY: Final = (*WORKERS, "beat")
APPS: Final = ("app-0", "app-1", "app-2")


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of fault.

    Attributes:
        group: What it strikes: `workers`, `apps`, `hot tier`, `broker`, `catalog` or `S3`.
        work: What it holds up: `append`, `archive`, `open cold`, `catalog`; empty where that follows from the target.
        targets: Which of them it may strike; none where there is only one.
        seconds: How long it lasts, or what was killed stays away, at least and at most; 0 for what is over at once.
    """

    group: str
    work: str
    targets: tuple[str, ...] = ()
    seconds: tuple[float, float] = (0.0, 0.0)


KINDS: Final = {
    "kill child": Kind("workers", "", WORKERS),
    "kill worker": Kind("workers", "", CELERY, (0.5, 2.0)),
    "restart worker": Kind("workers", "", CELERY),
    "stall worker": Kind("workers", "", CELERY, (10.0, 13.0)),
    "kill app": Kind("apps", "", APPS, (0.2, 1.0)),
    "stall app": Kind("apps", "", APPS, (6.0, 9.0)),
    "kill hot tier": Kind("hot tier", "append", seconds=(0.5, 2.5)),
    "drop hot tier links": Kind("hot tier", "append", seconds=(1.5, 3.0)),
    "kill broker": Kind("broker", "archive", seconds=(1.0, 4.0)),
    "drop broker links": Kind("broker", "archive", seconds=(1.0, 2.0)),
    "restart catalog": Kind("catalog", "catalog", seconds=(0.5, 2.0)),
    "stall catalog": Kind("catalog", "catalog", seconds=(3.0, 6.0)),
    "S3 slow down": Kind("S3", "archive", seconds=(3.0, 5.0)),
    "S3 errors": Kind("S3", "archive", seconds=(3.0, 5.0)),
    "S3 slow": Kind("S3", "archive", seconds=(4.0, 6.0)),
    "S3 torn bodies": Kind("S3", "open cold", seconds=(3.0, 5.0)),
    "S3 resets": Kind("S3", "open cold", seconds=(3.0, 5.0)),
    "S3 lost replies": Kind("S3", "archive", seconds=(3.0, 5.0)),
    "S3 late writes": Kind("S3", "archive", seconds=(3.0, 5.0)),
    "S3 outage": Kind("S3", "archive", seconds=(2.0, 4.0)),
}
WORK_OF: Final = {
    "hydrate": "open cold",
    "flush-a": "archive",
    "flush-b": "archive",
    "maintenance": "sweep",
    "beat": "sweep",
}

_FIRST: Final = 2.0
_LAST: Final = 4.0
"""Seconds without a fault at the beginning, and at the end."""
_APART: Final = (1.4, 3.2)


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong.

    Attributes:
        at: Seconds after the beginning.
        target: A worker or an app; empty where there is only one thing to strike.
        seconds: How long it lasts.
        choice: Between 0 and 1; chooses among children.
    """

    at: float
    kind: str
    target: str
    seconds: float
    choice: float

    @property
    def group(self) -> str:
        return KINDS[self.kind].group

    @property
    def work(self) -> str:
        """What cannot be done until it is over."""
        return KINDS[self.kind].work or WORK_OF.get(self.target, f"append of {self.target}")

    def __str__(self) -> str:
        lasting = f" for {self.seconds:.1f} s" if self.seconds else ""
        return f"{self.at:6.1f} s  {self.kind}{f' {self.target}' if self.target else ''}{lasting}"


def schedule(seed: int, seconds: float) -> list[Fault]:
    """The faults of a run of so many seconds. Every kind comes before any comes again."""
    rng = random.Random(seed)
    kinds, faults = _kinds(rng), list[Fault]()
    at = _FIRST
    while at < seconds - _LAST:
        name = next(kinds)
        kind = KINDS[name]
        target = rng.choice(kind.targets) if kind.targets else ""
        faults.append(Fault(round(at, 2), name, target, round(rng.uniform(*kind.seconds), 1), rng.random()))
        at += rng.uniform(*_APART)
    return faults


def _kinds(rng: random.Random) -> Iterator[str]:
    while True:
        yield from rng.sample(list(KINDS), len(KINDS))
