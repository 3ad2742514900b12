"""What a run did, second by second, and how soon after each fault the work that it held up was done again."""

import ast
import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from tests.chaos.faults import Struck
from tests.chaos.journal import Operation

_LINE: Final = re.compile(r"^\[(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}): ")
_ENDED: Final = re.compile(r"Task threadkeep\.(\w+)\[[^\]]+\] succeeded in ([\d.e-]+)s: (\{.*\})")
_RECEIVED: Final = re.compile(r"Task threadkeep\.\w+\[([^\]]+)\] received")
_RETRIED: Final = re.compile(r"Task threadkeep\.\w+\[[^\]]+\] retry: Retry in")
_PERCENTILES: Final = (50, 90, 99)


@dataclass(frozen=True, slots=True)
class Done:
    """A piece of work that succeeded. Unix seconds."""

    work: str
    began: float
    ended: float


@dataclass(slots=True)
class TaskLog:
    """What the workers' logs tell.

    Attributes:
        outcomes: How often each task ended in each way, as `flush_thread archived`.
        retries: Runs that were put off because a store did not answer.
        redelivered: Messages that were received again, retries apart.
        limits: Time limits that were exceeded.
        broken: Errors that ended a worker's main process.
    """

    done: list[Done] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)
    retries: int = 0
    redelivered: int = 0
    limits: int = 0
    broken: int = 0


def read_logs(folder: Path) -> TaskLog:
    """All workers' logs, over all their lives."""
    told, received = TaskLog(), Counter[str]()
    for path in sorted(folder.glob("worker-*.log")):
        for line in path.read_text(errors="replace").splitlines():
            _read_line(line, told, received)
    again = sum(count - 1 for count in received.values())
    told.redelivered = max(0, again - told.retries)
    return told


def _read_line(line: str, told: TaskLog, received: Counter[str]) -> None:
    if match := _RECEIVED.search(line):
        received[match[1]] += 1
    elif _RETRIED.search(line):
        told.retries += 1
    elif "time limit" in line and "exceeded" in line:
        told.limits += 1
    elif "Unrecoverable error" in line:
        told.broken += 1
    elif (match := _ENDED.search(line)) and (stamp := _LINE.match(line)):
        result, ended = ast.literal_eval(match[3]), _seconds(stamp[1])
        outcome = result.get("outcome", "skipped" if result.get("skipped") else "done")
        told.outcomes[f"{match[1]} {outcome}"] += 1
        if work := {"flush_thread archived": "archive", "sweep done": "sweep"}.get(f"{match[1]} {outcome}"):
            told.done.append(Done(work, ended - float(match[2]), ended))


def _seconds(stamp: str) -> float:
    return datetime.strptime(stamp, "%Y-%m-%d %H:%M:%S,%f").astimezone().timestamp()


def work_done(operations: Iterable[Operation], tasks: TaskLog, catalog: Iterable[tuple[float, float]]) -> list[Done]:
    """All work that a fault may hold up, each piece under its kind."""
    found = list(tasks.done)
    for operation in operations:
        if not operation.acknowledged or operation.done is None:
            continue
        if operation.do == "append":
            app = operation.process.partition(".")[0]
            found += [Done(work, operation.at, operation.done) for work in ("append", f"append of {app}")]
        if operation.do == "open":
            found.append(Done("open", operation.at, operation.done))
            if operation.intent.get("cold"):
                found.append(Done("open cold", operation.at, operation.done))
    newest = 0.0
    for looked, told in catalog:
        if told > newest:
            newest = told
            found.append(Done("catalog", told, looked))
    return found


def recoveries(struck: Iterable[Struck], done: list[Done]) -> list[float | None]:
    """For each fault the seconds from its beginning to the first success of what it held up; None if none came.

    Only work that was begun after the fault counts: what was all but done is no sign of recovery.
    """
    by_work: dict[str, list[Done]] = {}
    for each in sorted(done, key=lambda each: each.began):
        by_work.setdefault(each.work, []).append(each)
    return [_recovery(one, by_work.get(one.fault.work, [])) for one in struck]


def _recovery(struck: Struck, done: list[Done]) -> float | None:
    after = done[bisect_left(done, struck.began, key=lambda each: each.began) :]
    return round(min(each.ended for each in after) - struck.began, 3) if after else None


def per_second(done: Iterable[Done], work: str, start: float, seconds: int) -> list[int]:
    """How many pieces of this work ended in each second."""
    counts = Counter(int(each.ended - start) for each in done if each.work == work and each.ended >= start)
    return [counts[second] for second in range(seconds)]


def percentiles(values: Iterable[float]) -> dict[str, float]:
    """p50, p90, p99 and the largest, in the unit of the values; empty where there are none."""
    ordered = sorted(values)
    if not ordered:
        return {}
    found = {f"p{share}": round(ordered[round((len(ordered) - 1) * share / 100)], 3) for share in _PERCENTILES}
    return {**found, "max": round(ordered[-1], 3)}


def counted(operations: Iterable[Operation]) -> dict[str, dict[str, int]]:
    """Operations by kind: how many were acknowledged, and how many ended in which error or without any answer."""
    kinds: dict[str, Counter[str]] = {}
    for operation in operations:
        outcome = "acknowledged" if operation.acknowledged else operation.error or "no answer"
        kinds.setdefault(operation.do, Counter())[outcome] += 1
    return {do: dict(outcomes.most_common()) for do, outcomes in sorted(kinds.items())}


def latencies(operations: Iterable[Operation]) -> dict[str, dict[str, float]]:
    """Seconds of opening a thread that was cold, and one that was in Redis."""
    opened = [op for op in operations if op.do == "open" and op.acknowledged and op.done is not None]
    spans: dict[str, list[Any]] = {"open cold": [], "open cached or hot": []}
    for operation in opened:
        cold = operation.intent.get("cold")
        if cold is not None:
            spans["open cold" if cold else "open cached or hot"].append((operation.done or 0) - operation.at)
    return {name: percentiles(values) for name, values in spans.items()}
