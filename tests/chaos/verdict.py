"""After the storm: does everything come to rest, and is everything there that should be, and nothing else?"""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psycopg
import redis

from tests.chaos.fleet import PREFIX, Fleet
from tests.chaos.history import Violation, histories
from tests.chaos.journal import Journal, Operation, read_journals
from tests.chaos.lane import seen
from tests.chaos.messages import MARKER, body_of
from tests.conftest import keys_that_would_stay_for_ever
from threadkeep import Threadkeep
from threadkeep.errors import ThreadkeepError, ThreadNotFound
from threadkeep.model import Entry, Seal, StoredObject, ThreadRef
from threadkeep.storage.archive import Frame, read_frames
from threadkeep.storage.limits import ReadLimits
from threadkeep.storage.link import run_now as now
from threadkeep.tasks.stores import Stores

PATIENCE: Final = 90.0
"""Seconds that everything may take to come to rest."""
CHECKER: Final = "checker"
READERS: Final = 6
"""Threads that are opened at the same time."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was looked at, and what was wrong.

    Attributes:
        threads: How many threads there are.
        messages: In all of them at the end.
        looks: How often an app or the checker saw a whole thread, each held against what is possible.
    """

    threads: int
    messages: int
    looks: int
    violations: list[Violation]


def settle(fleet: Fleet, stores: Stores) -> tuple[float, list[Violation]]:
    """Wait until nothing is left to do; how long it took, and what never came to rest."""
    started = time.monotonic()
    while left := list(unsettled(fleet, stores)):
        if time.monotonic() - started > PATIENCE:
            return PATIENCE, [Violation("", f"not at rest after {PATIENCE:g} s: {'; '.join(left)}", time.time())]
        time.sleep(0.1)
    return time.monotonic() - started, []


def unsettled(fleet: Fleet, stores: Stores) -> Iterator[str]:
    """What is still to be done, one sentence each."""
    if fleet.wire.held:
        yield f"{fleet.wire.held} writes are still on the wire"
    if hot := now(_all(stores.flow.index())):
        yield f"threads are hot: {_named(hot)}"
    if owed := now(_all(stores.flow.owed())):
        yield f"the catalog is still to be told of {_named(owed)}"
    if runs := now(_all(stores.flow.unfinished())):
        stuck = [ref for kind, ref, _ in runs if kind == "flush"]
        if stuck:
            yield f"flushes began and did not end: {_named(stuck)}"


def judge(fleet: Fleet, stores: Stores) -> Verdict:
    """Open every thread through a fresh `Threadkeep`, and compare what every store says of it."""
    threads = _known(read_journals(fleet.journals))
    there = _opened(fleet, threads)
    _, restless = settle(fleet, stores)
    operations = read_journals(fleet.journals)
    found = histories(operations)
    violations = [violation for history in found.values() for violation in history.violations] + restless
    for thread, entries in there.items():
        violations += _archived(stores, ThreadRef.of(thread), entries)
    violations += _missing(operations, there)
    violations += _lasting(fleet)
    violations += _leaked(fleet)
    looks = sum(operation.do in ("look", "read") and operation.acknowledged for operation in operations)
    return Verdict(len(there), sum(map(len, there.values())), looks, violations)


def _known(operations: list[Operation]) -> list[str]:
    return sorted({operation.thread for operation in operations if operation.do in ("open", "fork")})


def _opened(fleet: Fleet, threads: list[str]) -> dict[str, list[Entry]]:
    """The messages of every thread that is there; the journal gets what was seen."""
    journal = Journal(fleet.journals / f"{CHECKER}.jsonl")
    with Threadkeep(fleet.calm_settings) as keep, ThreadPoolExecutor(READERS) as pool:
        found = list(pool.map(lambda thread: _open(keep, journal, thread), threads))
    journal.close()
    return {thread: entries for thread, entries in zip(threads, found, strict=True) if entries is not None}


def _open(keep: Threadkeep, journal: Journal, thread: str) -> list[Entry] | None:
    number = journal.begin("read", thread)
    try:
        with keep.open(thread) as session:
            entries, state = session.entries, session.state.get("n")
    except ThreadkeepError as error:
        journal.end(number, error=type(error).__name__, text=str(error))
        return None
    journal.end(number, rev=session.rev, **seen(entries), state=state)
    return entries


def _missing(operations: list[Operation], there: dict[str, list[Entry]]) -> Iterator[Violation]:
    """Every thread that was ever opened must have been opened by the checker, too."""
    opened = {
        operation.thread for operation in operations if operation.do in ("open", "fork") and operation.acknowledged
    }
    failed = {operation.thread: operation for operation in operations if operation.process == CHECKER}
    for thread in sorted({*failed} - {*there}):
        if thread in opened or failed[thread].error != ThreadNotFound.__name__:
            yield Violation(thread, f"it could not be opened at the end: {failed[thread].result}", time.time())


def _archived(stores: Stores, ref: ThreadRef, entries: list[Entry]) -> Iterator[Violation]:
    """The archive's object holds the same, verifies, and is what the catalog says it is."""
    try:
        found = stores.cold.get(ref)
        frames = list(_frames(stores, ref, found[1])) if found is not None else []
    except ThreadkeepError as error:
        yield Violation(str(ref), f"its archive does not verify: {error}", time.time())
        return
    if found is None or not frames:
        yield Violation(str(ref), "it has no archive", time.time())
        return
    seal, meta = frames[-1].seal, found[0].meta
    if meta is None or (seal.ref, seal.rev, seal.chain) != (ref, meta.rev, meta.chain):
        yield Violation(str(ref), "its archive's metadata does not belong to its content", time.time())
    stored = [Entry.from_record(record) for frame in frames for record in frame.records]
    if [entry.id for entry in stored] != [entry.id for entry in entries]:
        yield Violation(str(ref), "its archive holds other messages than a session sees", time.time())
    if damaged := [entry.id for entry in stored if entry.body != body_of(entry.id)]:
        yield Violation(str(ref), f"its archive holds messages that are not what was sent: {damaged}", time.time())
    yield from _catalogued(stores, ref, seal, found[0])


def _frames(stores: Stores, ref: ThreadRef, body: bytes) -> Iterator[Frame]:
    return read_frames(body, where=str(ref), limits=ReadLimits.of(stores.settings))


def _catalogued(stores: Stores, ref: ThreadRef, seal: Seal, stored: StoredObject) -> Iterator[Violation]:
    row = stores.catalog.get(ref)
    if row is None:
        yield Violation(str(ref), "the catalog does not know it", time.time())
        return
    stat = row.stat
    says = (stat.tier, stat.archived_rev, stat.rev, stat.etag, stat.count, row.chain, row.object_key)
    should = ("cold", seal.rev, seal.rev, stored.etag, seal.count, seal.chain, stored.key)
    if says != should:
        yield Violation(str(ref), f"the catalog says {says}, the archive {should}", time.time())


def _lasting(fleet: Fleet) -> Iterator[Violation]:
    for key in keys_that_would_stay_for_ever(fleet.hot, PREFIX):
        yield Violation("", f"the key {key} has no expiry and belongs to no hot thread", time.time())


def _leaked(fleet: Fleet) -> Iterator[Violation]:
    """Content is where it belongs: not in a log, not in what the broker kept, not in the catalog."""
    places = [path for folder in (fleet.logs, fleet.broker.data_dir) for path in folder.rglob("*") if path.is_file()]
    for path in [*places, fleet.hot.log_path, fleet.postgres.log_path, fleet.seaweed.log_path]:
        if _holds(path, MARKER.encode()):
            yield Violation("", f"messages are in {path.name}", time.time())
    with psycopg.connect(fleet.postgres.url().replace("+psycopg", "")) as link:
        for table in ("threads", "thread_events"):
            found = link.execute(f"SELECT count(*) FROM {table} t WHERE t::text LIKE %s", [f"%{MARKER}%"]).fetchone()
            if found and found[0]:
                yield Violation("", f"messages are in the catalog's table {table}", time.time())
    with redis.Redis.from_url(fleet.broker.url(0)) as broker:
        if not broker.info("stats")["total_commands_processed"]:
            yield Violation("", "the broker was never used", time.time())


def _holds(path: Path, text: bytes) -> bool:
    return text in path.read_bytes()


def _named(refs: list[Any]) -> str:
    return ", ".join(sorted(map(str, refs))[:8]) + (f" and {len(refs) - 8} more" if len(refs) > 8 else "")


async def _all(items: Any) -> list[Any]:
    return [item async for item in items]
