"""What one session costs each server, as `benchmarks.model` takes it: bytes, commands and processor time.

    python -m benchmarks.inputs

Starts the embedded stack without workers; flushes and hydrates run in this process. Takes two minutes.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any, Final

import psycopg
import redis
from rich.console import Console
from rich.table import Table

from benchmarks import corpus
from threadkeep import Threadkeep, ThreadRef
from threadkeep.local.stack import temporary_stack
from threadkeep.model import fresh_id
from threadkeep.storage.catalog_schema import threads
from threadkeep.storage.migrations import upgrade
from threadkeep.storage.ports import CatalogEvent, CatalogRow
from threadkeep.tasks.conf import FLUSH
from threadkeep.tasks.enqueue import Enqueuer
from threadkeep.tasks.flush import flush
from threadkeep.tasks.hydrate import hydrate
from threadkeep.tasks.stores import Stores
from threadkeep.tasks.sweeper import sweep

ROWS: Final = 100_000
UPDATED: Final = 20_000
EVENTS: Final = 20_000
SWEPT: Final = 2_000
THREADS: Final = {20: 200, 200: 60}
"""Messages of a thread, and how many such threads are measured together."""

Measured = dict[str, float]


def main() -> int:
    found: Measured = {}
    with temporary_stack() as stack:
        upgrade(stack.settings)
        stores = Stores(stack.settings)
        for messages, count in THREADS.items():
            found |= {f"{name}, {messages} messages": value for name, value in cycle(stores, messages, count).items()}
        found |= sweeps(stores)
        found |= catalog(stores)
        stores.close()
    table = Table("input", "measured", title="Inputs of the model")
    for name, value in found.items():
        table.add_row(name, f"{value:,.0f}" if value >= 100 else f"{value:.3g}")
    Console().print(table)
    return 0


# --- Redis, S3 and processor time -----------------------------------------------------------------------------------


def cycle(stores: Stores, messages: int, threads: int) -> Measured:
    """New threads, a call for each message, are flushed and evicted; then hydrated, appended to, and flushed again."""
    settings = stores.settings
    corpora = corpus.make(messages)
    found: Measured = {"raw bytes": corpora.bytes}
    refs: list[ThreadRef] = []
    with (
        redis.Redis.from_url(settings.redis_url) as client,
        redis.Redis.from_url(settings.broker_url) as broker,
        Threadkeep(settings) as keep,
    ):
        with keep.new() as warm:
            warm.append(*corpora.messages)
        flush(stores, ThreadRef.of(warm.id), "evict")
        hydrate(stores, ThreadRef.of(warm.id))
        empty = used(client)
        with counted(client, found, "session", threads):
            for _ in range(threads):
                with keep.new() as session:
                    refs.append(ThreadRef.of(session.id))
                    for message in corpora.messages:
                        session.append(message)
        found["Redis bytes of a dirty thread"] = (used(client) - empty) / threads
        found["bytes of a queued flush"] = len(broker.lindex(settings.broker_prefix + FLUSH, 0))
        outcomes = timed(found, "flush", client, refs, lambda ref: flush(stores, ref, "evict"))
        found["object bytes"] = median(outcome.bytes for outcome in outcomes)
        empty = used(client)
        timed(found, "hydrate", client, refs, lambda ref: hydrate(stores, ref))
        found["Redis bytes of a cached thread"] = (used(client) - empty) / threads
        keys = [key for ref in refs for key in client.keys(f"*{ref.thread_id}*")]
        found["the same by MEMORY USAGE"] = sum(client.memory_usage(key, samples=0) for key in keys) / threads
        for ref in refs:
            with keep.open(ref.thread_id) as session:
                session.append(*corpora.more)
        timed(found, "flush of 20 more", client, refs, lambda ref: flush(stores, ref, "linger"))
    return found


def timed(found: Measured, name: str, client: Any, refs: list[ThreadRef], work: Callable[[ThreadRef], Any]) -> Any:
    cpu, wall, results = [], [], []
    with counted(client, found, name, len(refs)):
        for ref in refs:
            before, began = time.process_time(), time.perf_counter()
            results.append(work(ref))
            cpu.append(1000 * (time.process_time() - before))
            wall.append(1000 * (time.perf_counter() - began))
    found |= {f"{name}: CPU ms": median(cpu), f"{name}: wall ms": median(wall)}
    return results


@contextmanager
def counted(client: Any, found: Measured, name: str, threads: int) -> Iterator[None]:
    """Bytes to and from Redis, round trips that run a script, and Redis's processor time, for each thread."""
    before = facts(client)
    yield
    after = facts(client)
    for fact in before:
        found[f"{name}: {fact}"] = (after[fact] - before[fact]) / threads


def facts(client: Any) -> Measured:
    info = client.info("everything")
    return {
        "scripts": info.get("cmdstat_evalsha", {}).get("calls", 0),
        "bytes to Redis": info["total_net_input_bytes"],
        "bytes from Redis": info["total_net_output_bytes"],
        "Redis CPU ms": 1000 * (info["used_cpu_user_main_thread"] + info["used_cpu_sys_main_thread"]),
    }


def used(client: Any) -> int:
    return int(client.info("memory")["used_memory"])


# --- sweep ----------------------------------------------------------------------------------------------------------


def sweeps(stores: Stores) -> Measured:
    """Seconds of a sweep over an empty deployment, over open sessions, and over cached copies."""
    found: Measured = {}
    enqueuer = Enqueuer.publishing(None, stores.settings)

    def swept() -> float:
        began = time.perf_counter()
        sweep(stores, enqueuer, force=True)
        return time.perf_counter() - began

    swept()
    with redis.Redis.from_url(stores.settings.redis_url) as client:
        client.flushdb()
        stores.catalog.record([])
        with psycopg.connect(database(stores), autocommit=True) as connection:
            connection.execute("TRUNCATE threads")
        empty = found["sweep of nothing: ms"] = 1000 * median(swept() for _ in range(3))
        with Threadkeep(stores.settings) as keep:
            sessions = [keep.new() for _ in range(SWEPT)]
            for session in sessions:
                session.append({"role": "user", "content": "Where is my parcel?"})
            found["sweep: ms for each open session"] = (1000 * median(swept() for _ in range(3)) - empty) / SWEPT
            for session in sessions:
                session.close()
        for session in sessions:
            flush(stores, ThreadRef.of(session.id), "linger")
        found["sweep: ms for each cached copy"] = (1000 * median(swept() for _ in range(3)) - empty) / SWEPT
    return found


# --- Postgres -------------------------------------------------------------------------------------------------------


def catalog(stores: Stores) -> Measured:
    """Bytes of rows, indexes, events and the write-ahead log, through the port."""
    found: Measured = {}
    with psycopg.connect(database(stores), autocommit=True) as connection:
        connection.execute("TRUNCATE threads, thread_events")

        def size(table: str, function: str = "pg_total_relation_size") -> int:
            return int(one(connection, f"SELECT {function}('{table}')"))

        refs = [ThreadRef.of(fresh_id()) for _ in range(ROWS)]
        empty, log, began = size("threads"), wal(connection), time.perf_counter()
        for at in range(0, ROWS, 500):
            stores.catalog.record([row(ref, 1) for ref in refs[at : at + 500]])
        found["inserts a second, 500 a statement"] = ROWS / (time.perf_counter() - began)
        found["log bytes of an insert"] = (wal(connection) - log) / ROWS
        found["bytes of a row with its indexes"] = (size("threads") - empty) / ROWS
        found["bytes of the row alone"] = size("threads", "pg_relation_size") / ROWS
        for index in ("pk_threads", "ix_threads_tier_active_at", "ix_threads_labels", "ix_threads_cached_until"):
            found[f"bytes in {index}"] = size(index) / ROWS
        connection.execute("VACUUM ANALYZE threads")
        log, began = wal(connection), time.perf_counter()
        for ref in refs[:UPDATED]:
            stores.catalog.record([row(ref, 2)])
        found["updates a second, one a statement, one connection"] = UPDATED / (time.perf_counter() - began)
        found["log bytes of an update"] = (wal(connection) - log) / UPDATED
        found["share of updates that touch no index"] = (
            int(one(connection, "SELECT n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'threads'")) / UPDATED
        )
        log = wal(connection)
        for at in range(0, UPDATED, 25):
            stores.catalog.record([row(ref, 3) for ref in refs[at : at + 25]])
        found["log bytes of an update, 25 a statement"] = (wal(connection) - log) / UPDATED
        found["bytes of a row after all were updated"] = updated_all(connection, stores, refs, size) / ROWS
        empty = size("thread_events")
        for at in range(0, EVENTS, 500):
            told = [CatalogEvent(ref, "hot_loss", {"known_rev": 1, "restored_rev": 2}) for ref in refs[at : at + 500]]
            stores.catalog.record([], told)
        found["bytes of an event with its indexes"] = (size("thread_events") - empty) / EVENTS
        found["ms to walk a million rows for cached copies"] = walked(connection, stores)
    return found


def updated_all(connection: Any, stores: Stores, refs: list[ThreadRef], size: Callable[[str], int]) -> int:
    """Size after three rounds of updates of every row with the vacuum that autovacuum would run in between."""
    for turn in range(3):
        for at in range(0, ROWS, 500):
            stores.catalog.record([row(ref, 4 + turn) for ref in refs[at : at + 500]])
            if at % 20_000 == 0:
                connection.execute("VACUUM threads")
    return size("threads")


def walked(connection: Any, stores: Stores) -> float:
    """Milliseconds in which a sweep goes through the catalog for copies; of a million rows one in 800 is cached."""
    connection.execute("UPDATE threads SET cached_until = now() - interval '1 day'")
    names = [column.name for column in threads.c]
    others = {
        "thread_id": "md5(t.thread_id || n)",
        "cached_until": "CASE WHEN random() < 0.00125 THEN now() + interval '1 hour' ELSE t.cached_until END",
    }
    values = ", ".join(others.get(name, f"t.{name}") for name in names)
    copies = f"SELECT {values} FROM threads t, generate_series(1, 9) n"  # noqa: S608  all of it is ours
    connection.execute(f"INSERT INTO threads ({', '.join(names)}) {copies}")
    connection.execute("VACUUM FULL ANALYZE threads")
    now, last, began = time.time(), None, time.perf_counter()
    while page := stores.catalog.cached(now, after=last, limit=200):
        last = page[-1]
    return 1000 * (time.perf_counter() - began)


def row(ref: ThreadRef, turn: int) -> CatalogRow:
    """As a flush tells it, with one label."""
    at = time.time() + turn
    rev = int(at * 1_000_000)
    return CatalogRow(
        ref,
        "cold",
        stamp=rev,
        rev=rev,
        archived_rev=rev,
        cached_until=at + 900,
        object_key=f"threads/{ref.member}.ndjson.zst",
        etag=f'"{os.urandom(16).hex()}"',
        format="threadkeep-2",
        raw_bytes=300_000,
        stored_bytes=60_000,
        count=200,
        chain=os.urandom(32).hex(),
        born=rev - turn * 1_000_000,
        codec="anthropic",
        labels={"tenant": ref.thread_id[:4]},
        active_at=at,
        archived_at=at,
    )


def database(stores: Stores) -> str:
    return stores.settings.database_url.get_secret_value().replace("postgresql+psycopg", "postgresql")


def wal(connection: Any) -> int:
    return int(one(connection, "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')"))


def one(connection: Any, query: str) -> Any:
    found = connection.execute(query).fetchone()
    return found[0]


if __name__ == "__main__":
    sys.exit(main())
