"""What a deployment of 10^4 to 10^9 threads asks of each server, and what it costs: docs/performance/model.md.

    python -m benchmarks.model
    python -m benchmarks.model --active-share 0.1 --linger-seconds 120
    python -m benchmarks.model --markdown

Arithmetic alone: nothing is started. Rates are those of the busiest hour unless a row says otherwise.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from math import ceil
from typing import Any, Final

from rich.console import Console
from rich.table import Table

SCALES: Final = tuple(10**power for power in range(4, 10))
DAY: Final = 86_400
DAYS_A_MONTH: Final = 30
GB: Final = 1e9

# From `python -m benchmarks.inputs` and docs/performance/results.md: two shared cores, all servers on the same machine.
MEASURED: Final[dict[str, float]] = {
    "row_bytes": 820,  # of a thread in the catalog with its indexes, after updates; 613 when first written
    "log_bytes": 1_000,  # of Postgres's write-ahead log, for each upsert
    "head_bytes": 900,  # of Redis for a cached thread, beside its object
    "id_bytes": 8,  # of Redis for each message of a thread
    "tail_bytes": 140,  # of Redis for each message that is not archived yet, beside the message
    "call_bytes": 900,  # on the way to Redis for each append, beside the message
    "move_bytes": 2_800,  # on the way to Redis for each flush and hydrate, beside the thread
    "queued_bytes": 1_107,  # of a message in the broker
    "flush_cpu_ms": 2.6,  # of a worker: 200 messages, 20 of them new
    "flush_ms": 6.7,  # the same by the clock, S3 at no distance
    "hydrate_cpu_ms": 4.3,  # of a worker: 200 messages
    "hydrate_ms": 7.7,
    "celery_cpu_ms": 3.4,  # of a worker for any task: two children on two cores ran 584 empty tasks a second
    "redis_append_ms": 0.09,  # of Redis's one thread
    "redis_flush_ms": 0.8,
    "redis_hydrate_ms": 0.75,
    "sweep_ms": 28,  # of a sweep over an empty deployment: 1,024 shards, 128 in a round trip
    "sweep_open_ms": 0.14,  # for each open session, its row in the catalog included
    "sweep_cached_ms": 0.07,  # for each cached copy, its place in the catalog included
}

# S3 Standard, us-east-1, list prices of 2026-11; nothing for transfer, since workers are in the same region.
PUT_PRICE: Final = 0.005 / 1_000  # also LIST
GET_PRICE: Final = 0.0004 / 1_000
STORAGE_TIERS: Final = ((50_000.0, 0.023), (450_000.0, 0.022), (float("inf"), 0.021))
"""GB that cost so much each a month, and what follows them."""

# S3 takes at least so many requests a second for each partition of its keys.
PUTS_A_PARTITION: Final = 3_500
GETS_A_PARTITION: Final = 5_500


def _given(value: float, unit: str, meaning: str) -> Any:
    return field(default=value, metadata={"unit": unit, "meaning": meaning})


@dataclass(frozen=True, slots=True, kw_only=True)
class Assumptions:
    """How threads are used, and what is paid. Each is an option of the command line."""

    active_share: float = _given(0.02, "", "threads that have a session on a given day, of all")
    sessions_a_day: float = _given(1.5, "", "sessions that such a thread has that day")
    busiest_hour: float = _given(4, "", "times the average rate, in the busiest hour")
    hydrate_share: float = _given(0.7, "", "sessions that find their thread cold; others are new, or still cached")
    session_seconds: float = _given(300, "s", "how long a session is open")
    session_messages: float = _given(10, "", "messages that a session appends, one call each")
    thread_messages: float = _given(100, "", "messages of a thread, on average over all")
    message_bytes: float = _given(1_500, "bytes", "a message as JSON")
    compressed_to: float = _given(0.2, "", "compressed bytes for each byte of messages")
    linger_seconds: float = _given(900, "s", "THREADKEEP_LINGER_SECONDS")
    sweep_every: float = _given(60, "s", "THREADKEEP_SWEEP_EVERY")
    reconcile_every: float = _given(86_400, "s", "THREADKEEP_RECONCILE_EVERY; 0 for never")
    put_ms: float = _given(40, "ms", "until S3 has answered a PUT")
    get_ms: float = _given(25, "ms", "until S3 has answered a GET")
    usage: float = _given(0.6, "", "of a worker's time, a core or Redis's thread that is planned for")
    redis_node_gb: float = _given(50, "GB", "data that one Redis server is given")
    redis_copies: float = _given(2, "", "servers that hold the same data")
    redis_reserve: float = _given(1.3, "", "memory bought for each byte of data")
    redis_price: float = _given(12, "$", "a GB of Redis's memory for a month")
    core_price: float = _given(30, "$", "a worker's core for a month, its memory included")
    database_price: float = _given(0.23, "$", "a GB of Postgres's disk for a month, in two copies")


@dataclass(frozen=True, slots=True)
class Deployment:
    """So many threads, used as assumed.

    Attributes:
        threads: Ever kept and not erased.
        use: How they are used.
    """

    threads: int
    use: Assumptions

    # --- sessions ---------------------------------------------------------------------------------------------------

    @property
    def sessions_a_month(self) -> float:
        return self.threads * self.use.active_share * self.use.sessions_a_day * DAYS_A_MONTH

    @property
    def sessions(self) -> float:
        """A second, each of which ends in one flush."""
        return self.sessions_a_month / (DAYS_A_MONTH * DAY) * self.use.busiest_hour

    @property
    def hydrates(self) -> float:
        return self.sessions * self.use.hydrate_share

    @property
    def open(self) -> float:
        """Sessions at one time."""
        return self.sessions * self.use.session_seconds

    @property
    def cached(self) -> float:
        """Copies that linger at one time. A thread that comes back before its copy is gone is counted twice."""
        return self.sessions * self.use.linger_seconds

    # --- bytes ------------------------------------------------------------------------------------------------------

    @property
    def object_bytes(self) -> float:
        return object_bytes(self.use.thread_messages, self.use)

    @property
    def s3_bytes(self) -> float:
        return self.threads * self.object_bytes

    @property
    def redis_bytes(self) -> float:
        cached = cached_bytes(self.object_bytes, self.use.thread_messages)
        tail = self.use.session_messages * (self.use.message_bytes + MEASURED["tail_bytes"])
        return self.cached * cached + self.open * (cached + tail)

    @property
    def redis_traffic(self) -> float:
        """Bytes a second to and from Redis: sessions read the thread and append, flushes and hydrates move it."""
        new = self.use.session_messages * self.use.message_bytes
        calls = self.use.session_messages * MEASURED["call_bytes"]
        session = self.object_bytes + new + calls
        flush = self.object_bytes + new + new * self.use.compressed_to + MEASURED["move_bytes"]
        hydrate = self.object_bytes + MEASURED["move_bytes"]
        return self.sessions * (session + flush) + self.hydrates * hydrate

    @property
    def s3_traffic(self) -> float:
        """Bytes a second between workers and S3: a flush carries the whole object, up to 5 MiB of it."""
        return (self.sessions + self.hydrates) * self.object_bytes

    # --- Redis ------------------------------------------------------------------------------------------------------

    @property
    def redis_busy(self) -> float:
        """Share of one Redis thread's time; above 1, of more than one's."""
        calls = (self.use.session_messages + 2) * MEASURED["redis_append_ms"] + MEASURED["redis_flush_ms"]
        return (self.sessions * calls + self.hydrates * MEASURED["redis_hydrate_ms"]) / 1_000

    @property
    def redis_primaries(self) -> int:
        by_time = self.redis_busy / self.use.usage
        return max(1, ceil(by_time), ceil(self.redis_bytes / GB / self.use.redis_node_gb))

    # --- workers ----------------------------------------------------------------------------------------------------

    @property
    def flush_children(self) -> int:
        took = MEASURED["flush_ms"] + MEASURED["celery_cpu_ms"] + self.use.put_ms
        return max(1, ceil(self.sessions * took / 1_000 / self.use.usage))

    @property
    def hydrate_children(self) -> int:
        took = MEASURED["hydrate_ms"] + MEASURED["celery_cpu_ms"] + self.use.get_ms
        return max(1, ceil(self.hydrates * took / 1_000 / self.use.usage))

    @property
    def cores(self) -> float:
        flushes = self.sessions * (MEASURED["flush_cpu_ms"] + MEASURED["celery_cpu_ms"])
        hydrates = self.hydrates * (MEASURED["hydrate_cpu_ms"] + MEASURED["celery_cpu_ms"])
        return (flushes + hydrates) / 1_000 / self.use.usage

    @property
    def queued(self) -> float:
        """Messages a second through the broker."""
        return self.sessions + self.hydrates

    @property
    def queued_traffic(self) -> float:
        """Their bytes."""
        return self.queued * MEASURED["queued_bytes"]

    # --- Postgres ---------------------------------------------------------------------------------------------------

    @property
    def catalog_bytes(self) -> float:
        return self.threads * MEASURED["row_bytes"]

    @property
    def log_traffic(self) -> float:
        """Bytes of the write-ahead log a second."""
        return self.upserts * MEASURED["log_bytes"]

    @property
    def swept_rows(self) -> float:
        """Rows a second that sweeps write: one for each open session."""
        return self.open / self.use.sweep_every

    @property
    def upserts(self) -> float:
        return self.sessions + self.hydrates + self.swept_rows

    # --- sweep ------------------------------------------------------------------------------------------------------

    @property
    def sweep_seconds(self) -> float:
        """Of one sweep: it looks at each open session and each cached copy."""
        looked_at = self.open * MEASURED["sweep_open_ms"] + self.cached * MEASURED["sweep_cached_ms"]
        return (MEASURED["sweep_ms"] + looked_at) / 1_000

    # --- S3 ---------------------------------------------------------------------------------------------------------

    @property
    def partitions(self) -> int:
        """That S3 must have split the keys into."""
        return max(1, ceil(self.sessions / PUTS_A_PARTITION), ceil(self.hydrates / GETS_A_PARTITION))

    @property
    def lists_a_month(self) -> float:
        every = self.use.reconcile_every
        return self.threads / 1_000 * DAYS_A_MONTH * DAY / every if every else 0.0

    # --- dollars a month --------------------------------------------------------------------------------------------

    @property
    def s3_storage_cost(self) -> float:
        return storage_cost(self.s3_bytes / GB)

    @property
    def s3_request_cost(self) -> float:
        puts = self.sessions_a_month + self.lists_a_month
        return puts * PUT_PRICE + self.sessions_a_month * self.use.hydrate_share * GET_PRICE

    @property
    def redis_cost(self) -> float:
        return self.redis_bytes / GB * self.use.redis_reserve * self.use.redis_copies * self.use.redis_price

    @property
    def worker_cost(self) -> float:
        return self.cores * self.use.core_price

    @property
    def database_cost(self) -> float:
        return self.catalog_bytes / GB * self.use.database_price

    @property
    def cost(self) -> float:
        stored = self.s3_storage_cost + self.s3_request_cost
        return stored + self.redis_cost + self.worker_cost + self.database_cost


def object_bytes(messages: float, use: Assumptions) -> float:
    """Of a thread in S3."""
    return messages * use.message_bytes * use.compressed_to


def cached_bytes(stored: float, messages: float) -> float:
    """Of a thread in Redis whose archive object has `stored` bytes, and which has nothing new."""
    return stored + messages * MEASURED["id_bytes"] + MEASURED["head_bytes"]


def storage_cost(gigabytes: float) -> float:
    """Dollars a month for S3 Standard."""
    cost = 0.0
    for size, price in STORAGE_TIERS:
        cost += min(gigabytes, size) * price
        gigabytes = max(0.0, gigabytes - size)
    return cost


# --- tables ---------------------------------------------------------------------------------------------------------

ROWS: Final[dict[str, str]] = {
    "sessions_a_month": "sessions a month",
    "sessions": "sessions a second = flushes = S3 PUTs",
    "hydrates": "hydrates a second = S3 GETs",
    "open": "open sessions",
    "cached": "cached copies",
    "s3_bytes": "S3",
    "s3_traffic": "S3 traffic a second",
    "partitions": "S3 partitions needed",
    "redis_bytes": "Redis data",
    "redis_traffic": "Redis traffic a second",
    "redis_busy": "Redis threads busy",
    "redis_primaries": "Redis primaries",
    "flush_children": "flush processes",
    "hydrate_children": "hydrate processes",
    "cores": "worker cores",
    "queued": "broker messages a second",
    "queued_traffic": "their bytes a second",
    "catalog_bytes": "Postgres",
    "upserts": "Postgres upserts a second",
    "swept_rows": "of these by the sweep",
    "log_traffic": "Postgres's log a second",
    "sweep_seconds": "seconds of a sweep",
    "s3_storage_cost": "$ S3 storage",
    "s3_request_cost": "$ S3 requests",
    "redis_cost": "$ Redis",
    "worker_cost": "$ workers",
    "database_cost": "$ Postgres's disk",
    "cost": "$ a month",
}
"""Properties of `Deployment` in the order in which they are shown."""


def rows(use: Assumptions) -> list[list[str]]:
    """The table: a header, then a row for each quantity."""
    deployments = [Deployment(threads, use) for threads in SCALES]
    head = ["threads", *(f"10^{len(str(threads)) - 1}" for threads in SCALES)]
    return [
        head,
        *([title, *(shown(name, getattr(each, name)) for each in deployments)] for name, title in ROWS.items()),
    ]


def shown(name: str, value: float) -> str:
    if name.endswith(("_bytes", "_traffic")):
        return _with_unit(value)
    if value >= 100 or isinstance(value, int):
        return f"{value:,.0f}"
    if value >= 10:
        return f"{value:.1f}"
    return f"{value:.2g}" if value >= 0.01 else "< 0.01"


def _with_unit(value: float) -> str:
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 999.5 or unit == "TB":
            return f"{value:,.0f} {unit}" if value >= 10 else f"{value:.1f} {unit}"
        value /= 1_000
    raise AssertionError(value)


def markdown(table: Sequence[Sequence[str]]) -> str:
    head, *body = table
    rule = ["---", *("---:" if _is_number(cell) else "---" for cell in body[0][1:])]
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, rule, *body])


def _percent(share: float) -> str:
    return "0 %" if abs(share) < 0.005 else f"{100 * share:+.0f} %"


def _is_number(cell: str) -> bool:
    return cell.startswith(("$", "<", "+", "-")) or cell[:1].isdigit()


def given(use: Assumptions) -> list[list[str]]:
    """The assumptions as a table."""
    lines = [["assumption", "value", "meaning"]]
    for each in fields(use):
        unit = each.metadata["unit"]
        value = f"{getattr(use, each.name):,g}"
        lines.append(
            [f"`{each.name}`", f"{unit}{value}" if unit == "$" else f"{value} {unit}".strip(), each.metadata["meaning"]]
        )
    return lines


def checks() -> list[list[str]]:
    """What the model says of single threads, beside what was measured of them.

    The first six come from `benchmarks.inputs`, which MEASURED was taken from; the others from a run of `make bench`.
    Sizes are of threads of 20 and of 200 messages.
    """
    use = Assumptions()
    celery = MEASURED["celery_cpu_ms"]
    found = [
        ("Redis bytes, cached, 20 messages", cached_bytes(4_535, 20), 5_610),
        ("Redis bytes, cached, 200 messages", cached_bytes(55_237, 200), 57_727),
        ("Redis bytes, all of it new, 20 messages", cached_bytes(0, 0) + 16_629 + 20 * MEASURED["tail_bytes"], 21_295),
        (
            "Redis bytes, all of it new, 200 messages",
            cached_bytes(0, 0) + 300_063 + 200 * MEASURED["tail_bytes"],
            328_557,
        ),
        ("bytes of the object, 20 messages", 16_629 * use.compressed_to, 4_535),
        ("bytes of the object, 200 messages", 300_063 * use.compressed_to, 55_237),
        ("Redis bytes by MEMORY USAGE, cached, 20 messages", cached_bytes(4_069, 20), 4_952),
        ("Redis bytes by MEMORY USAGE, cached, 200 messages", cached_bytes(50_802, 200), 53_192),
        ("S3 PUTs of a flush", 1, 1),
        ("S3 GETs of a hydrate", 1, 1),
        ("flushes a second, two processes on two cores", 2_000 / (MEASURED["flush_ms"] + celery), 242),
    ]
    lines = [["of one thread", "model", "measured", "off by"]]
    for name, said, measured in found:
        lines.append([name, f"{said:,.0f}", f"{measured:,.0f}", _percent(said / measured - 1)])
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--markdown", action="store_true", help="as the page has it")
    for each in fields(Assumptions):
        option = f"--{each.name.replace('_', '-')}"
        parser.add_argument(option, type=float, default=each.default, help=f"{each.metadata['meaning']} (%(default)g)")
    told = vars(parser.parse_args(arguments))
    as_markdown = told.pop("markdown")
    use = Assumptions(**told)
    tables = {"Assumptions": given(use), "What threads take": rows(use), "Against measurements": checks()}
    for title, lines in tables.items():
        if as_markdown:
            print(markdown(lines), end="\n\n")
            continue
        table = Table(*lines[0], title=title)
        for line in lines[1:]:
            table.add_row(*line)
        Console().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
