"""A run: start everything, let things go wrong, heal, wait until all is at rest, and judge."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.chaos.faults import Striker, Struck
from tests.chaos.fleet import Fleet, running_fleet
from tests.chaos.history import Violation
from tests.chaos.journal import Operation, read_journals
from tests.chaos.measures import TaskLog, read_logs
from tests.chaos.schedule import Fault, schedule
from tests.chaos.supervisor import Supervisor
from tests.chaos.verdict import Verdict, judge, settle
from tests.chaos.watch import CatalogWatch, RevisionWatch
from threadkeep.tasks.stores import Stores

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Chaos:
    """All that is known of a run. Times are Unix seconds, durations seconds.

    Attributes:
        start: When the first fault could have come.
        end: When the last fault was over and the apps were told to stop.
        heads: How often the revision of an object was looked at, past the wire.
        catalog: See `CatalogWatch.told`.
        wire: Requests to S3 that each kind of fault has hit.
        started_again: How often a process ended by itself.
    """

    seed: int
    seconds: float
    start: float
    end: float
    settled: float
    struck: list[Struck]
    operations: list[Operation]
    tasks: TaskLog
    heads: int
    catalog: list[tuple[float, float]]
    wire: dict[str, int]
    started_again: dict[str, int]
    verdict: Verdict

    @property
    def violations(self) -> list[Violation]:
        return self.verdict.violations


def run(seed: int, seconds: float, out: Path, say: Say) -> Chaos:
    """Run for so many seconds; the same seed makes the same schedule.

    Args:
        seed: Of the schedule.
        seconds: Of faults; starting, settling and judging come on top.
        out: For journals and logs.
        say: Hears what happens, a line at a time.
    """
    faults = schedule(seed, seconds)
    with running_fleet(out, seed) as fleet:
        with RevisionWatch(fleet.calm_settings) as revisions, CatalogWatch(_database(fleet)) as catalog:
            start = time.time()
            with Supervisor(fleet) as supervisor:
                struck = _storm(fleet, faults, start, seconds, say)
            end = time.time()
            say(f"{seconds:6.1f} s  the apps are told to stop, and nothing goes wrong any more")
            fleet.heal()
            fleet.stop_apps()
            stores = Stores(fleet.calm_settings)
            settled, restless = settle(fleet, stores)
            say(f"{time.time() - start:6.1f} s  at rest; every thread is looked at")
            verdict = judge(fleet, stores)
            stores.close()
        verdict.violations.extend([*restless, *revisions.violations, *supervisor.violations, *_undone(struck)])
        return Chaos(
            seed,
            seconds,
            start,
            end,
            settled,
            struck,
            [operation for operation in read_journals(fleet.journals) if operation.process != "checker"],
            read_logs(fleet.logs),
            revisions.heads,
            catalog.told,
            dict(fleet.wire.injected),
            dict(supervisor.started_again),
            verdict,
        )


def _storm(fleet: Fleet, faults: list[Fault], start: float, seconds: float, say: Say) -> list[Struck]:
    striker = Striker(fleet)
    for fault in faults:
        time.sleep(max(0.0, start + fault.at - time.time()))
        say(str(fault))
        striker.strike(fault)
    time.sleep(max(0.0, start + seconds - time.time()))
    striker.wait()
    return striker.struck


def _undone(struck: list[Struck]) -> list[Violation]:
    """A fault that could not be done makes the run say less than it seems to."""
    return [
        Violation("", f"{each.fault.kind} could not be done: {each.failed}", each.began)
        for each in struck
        if each.failed
    ]


def _database(fleet: Fleet) -> Callable[[], str]:
    return lambda: fleet.postgres.url().replace("+psycopg", "")
