"""The report of a run: as JSON for programs, as a table for people, the verdict first."""

import json
from pathlib import Path
from typing import Any, Final

from tests.chaos.history import Violation, sent
from tests.chaos.measures import counted, latencies, per_second, percentiles, recoveries, work_done
from tests.chaos.run import Chaos
from threadkeep.cli.output import console, duration, table

SERIES: Final = {"append": "appends", "open": "opens", "archive": "archived flushes"}
SHOWN_LINES: Final = 6
"""Of a broken promise's journal; the report has more."""


def report_of(chaos: Chaos) -> dict[str, Any]:
    """Everything that was measured; times in seconds after the start."""
    done = work_done(chaos.operations, chaos.tasks, chaos.catalog)
    back = recoveries(chaos.struck, done)
    span = max(1, int(chaos.end + chaos.settled - chaos.start) + 1)
    faults = [
        {**struck.to_json(chaos.start), "group": struck.fault.group, "work": struck.fault.work, "recovered_in": seconds}
        for struck, seconds in zip(chaos.struck, back, strict=True)
    ]
    return {
        "verdict": "whole" if not chaos.violations else "broken",
        "violations": [_violation(each, chaos.start) for each in chaos.violations],
        "seed": chaos.seed,
        "seconds": chaos.seconds,
        "settled_in": round(chaos.settled, 2),
        "threads": chaos.verdict.threads,
        "messages_at_the_end": chaos.verdict.messages,
        "messages": sent(chaos.operations),
        "whole_threads_compared": chaos.verdict.looks,
        "revisions_looked_at": chaos.heads,
        "operations": counted(chaos.operations),
        "tasks": dict(chaos.tasks.outcomes.most_common()),
        "retries": chaos.tasks.retries,
        "redelivered": chaos.tasks.redelivered,
        "time_limits": chaos.tasks.limits,
        "workers_that_broke": chaos.tasks.broken,
        "started_again": chaos.started_again,
        "requests_to_s3_hit": chaos.wire,
        "latency": latencies(chaos.operations),
        "recovery": _recovery(faults),
        "schedule": faults,
        "per_second": {name: per_second(done, work, chaos.start, span) for work, name in SERIES.items()},
    }


def _recovery(faults: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    kinds: dict[str, list[float]] = {}
    for fault in faults:
        if fault["recovered_in"] is not None:
            what = f"{fault['kind']}: {fault['work'].partition(' of ')[0]}"
            kinds.setdefault(what, []).append(fault["recovered_in"])
    return {what: {"times": len(values), **percentiles(values)} for what, values in kinds.items()}


def _violation(violation: Violation, start: float) -> dict[str, Any]:
    return {
        "at": round(violation.at - start, 2),
        "thread": violation.thread,
        "what": violation.what,
        "journal": [str(operation) for operation in violation.journal],
    }


def write_json(report: dict[str, Any], path: Path) -> None:
    path.write_text(json.dumps(report, indent=1) + "\n")


def show(report: dict[str, Any]) -> None:
    """The verdict, what was done, and how soon things were well again."""
    out = console()
    out.print()
    out.print(_verdict(report))
    for violation in report["violations"]:
        out.print(f"[red]✗ {violation['at']:.1f} s  {violation['thread']}: {violation['what']}[/red]", markup=True)
        for line in violation["journal"][-SHOWN_LINES:]:
            out.print(f"    {line}", markup=False, soft_wrap=True)
    out.print(_numbers(report))
    out.print(_recoveries(report))


def _verdict(report: dict[str, Any]) -> str:
    if report["violations"]:
        return f"[bold red]✗ {broken(len(report['violations']))}[/bold red]; repeat with --seed {report['seed']}"
    messages = report["messages"]["acknowledged"]
    return (
        f"[green]✓[/green] [bold]{len(report['schedule'])} faults in {report['seconds']:.0f} s; all {messages:,} "
        f"acknowledged messages are where they belong, once.[/bold] Seed {report['seed']}."
    )


def broken(times: int) -> str:
    """How often a promise was found broken."""
    return f"a promise was found broken {times} times" if times > 1 else "a promise was broken"


def _numbers(report: dict[str, Any]) -> object:
    shown = table("what", ">number", title="What was done")
    operations, latency = report["operations"], report["latency"].get("open cold", {})
    rows = [
        ("threads, forks included", report["threads"]),
        ("messages acknowledged", report["messages"]["acknowledged"]),
        ("messages sent without ever an answer", report["messages"]["unknown"]),
        ("sessions opened", operations.get("open", {}).get("acknowledged", 0)),
        ("whole threads compared with what is possible", report["whole_threads_compared"]),
        ("revisions of the archive looked at", report["revisions_looked_at"]),
        ("flushes archived", report["tasks"].get("flush_thread archived", 0)),
        ("threads restored", report["tasks"].get("hydrate_thread restored", 0)),
        ("requests to S3 that met a fault", sum(report["requests_to_s3_hit"].values())),
        ("tasks put off and tried again", report["retries"]),
        ("tasks delivered again", report["redelivered"]),
        ("processes that ended by themselves, and were started again", sum(report["started_again"].values())),
    ]
    for what, number in rows:
        shown.add_row(what, f"{number:,}")
    for name in ("p50", "p99"):
        shown.add_row(f"opening a cold thread, {name}", duration(latency[name]) if name in latency else "-")
    shown.add_row("at rest after", duration(report["settled_in"]))
    return shown


def _recoveries(report: dict[str, Any]) -> object:
    shown = table("fault", "until the next", ">times", ">median", ">longest", title="How soon it was well again")
    for what, found in sorted(report["recovery"].items()):
        kind, _, work = what.partition(": ")
        shown.add_row(kind, work, str(found["times"]), duration(found["p50"]), duration(found["max"]))
    return shown
