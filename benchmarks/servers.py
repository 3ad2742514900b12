"""The servers that all contenders share, and what they say about what was done to them."""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, Self

import psycopg
import redis
from psycopg.sql import SQL, Identifier

from threadkeep.config import Settings
from threadkeep.local.ports import LOOPBACK, free_port, http_status
from threadkeep.local.process import ServerProcess, python_environment
from threadkeep.local.stack import BUCKET, Stack, temporary_stack


@dataclass(frozen=True, slots=True)
class Place:
    """Where a contender finds its servers; goes to its process as JSON.

    Attributes:
        s3_client: What the seeds speak to S3 with: `boto3`, set up as Threadkeep's, or `obstore`.
    """

    redis_url: str
    broker_url: str
    database_url: str
    s3_endpoint: str
    s3_access_key: str
    s3_secret_key: str
    s3_bucket: str = BUCKET
    s3_client: str = "boto3"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> Self:
        return cls(**facts)

    def settings(self, **more: Any) -> Settings:
        return Settings.load(
            redis_url=self.redis_url,
            broker_url=self.broker_url,
            database_url=self.database_url,
            s3_endpoint=self.s3_endpoint,
            s3_access_key=self.s3_access_key,
            s3_secret_key=self.s3_secret_key,
            s3_bucket=self.s3_bucket,
            s3_region="us-east-1",
            s3_addressing="path",
            s3_copied_parts="on",  # the sink completes uploads as AWS does: it looks and writes in one step
            **more,
        )

    @property
    def postgres_dsn(self) -> str:
        """The database's URL without SQLAlchemy's driver."""
        return self.database_url.replace("postgresql+psycopg://", "postgresql://")


class SinkServer(ServerProcess):
    """`benchmarks.sink` in a process of its own."""

    def __init__(self, data_dir: Path) -> None:
        super().__init__("sink", data_dir)
        self.port = free_port()

    @property
    def endpoint(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    def command(self) -> Sequence[str | Path]:
        return [sys.executable, "-m", "benchmarks.sink", "--port", str(self.port)]

    def environment(self) -> Mapping[str, str]:
        return python_environment()

    def working_dir(self) -> Path:
        return Path.cwd()

    def is_ready(self) -> bool:
        return http_status(self.port, "/-/stats") == 200


@dataclass(frozen=True, slots=True)
class Servers:
    stack: Stack
    sink: SinkServer
    s3_client: str = "boto3"

    @property
    def place(self) -> Place:
        """With the sink as S3."""
        anything = "bench"
        sink = self.sink.endpoint
        return replace(self.on_seaweed, s3_endpoint=sink, s3_access_key=anything, s3_secret_key=anything)

    @property
    def on_seaweed(self) -> Place:
        """With the embedded stack's own S3."""
        settings, s3 = self.stack.settings, self.stack.s3
        return Place(
            redis_url=settings.redis_url,
            broker_url=settings.broker_url,
            database_url=settings.database_url.get_secret_value(),
            s3_endpoint=s3.endpoint,
            s3_access_key=s3.access_key,
            s3_secret_key=s3.secret_key,
            s3_client=self.s3_client,
        )

    def clear(self) -> None:
        """Nothing in Redis, nothing in the sink, no rows in Postgres."""
        with redis.Redis.from_url(self.place.redis_url) as client:
            client.flushall()
        with psycopg.connect(self.place.postgres_dsn, autocommit=True) as database:
            names = database.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
            tables = [name for (name,) in names if name not in ("alembic_version", "checkpoint_migrations")]
            database.execute(SQL("TRUNCATE {}").format(SQL(", ").join(map(Identifier, tables))))
        control(self.sink.endpoint, "clear")
        control(self.sink.endpoint, "reset")

    def latency(self, milliseconds: float) -> None:
        control(self.sink.endpoint, f"latency?ms={milliseconds}")


@contextmanager
def servers(*, app: str, s3_client: str = "boto3") -> Iterator[Servers]:
    with temporary_stack(app=app) as stack, SinkServer(stack.data_dir / "sink") as sink:
        yield Servers(stack, sink, s3_client)


def control(endpoint: str, what: str = "stats") -> dict[str, Any]:
    """What the sink has counted; `what` may also change something."""
    link = HTTPConnection(endpoint.removeprefix("http://"), timeout=30)
    try:
        link.request("GET" if what == "stats" else "POST", f"/-/{what}")
        answer: dict[str, Any] = json.loads(link.getresponse().read())
        return answer
    finally:
        link.close()


def redis_calls(client: "redis.Redis") -> dict[str, int]:
    """Calls of each command so far; those that a script makes are counted too, as Redis does."""
    found: Any = client.info("commandstats")
    return {name.removeprefix("cmdstat_"): int(each["calls"]) for name, each in found.items()}


def redis_bytes(client: "redis.Redis") -> int:
    """MEMORY USAGE of every key, summed, nothing sampled."""
    keys = list(client.scan_iter(count=5000))
    total = 0
    for at in range(0, len(keys), 2000):
        pipe = client.pipeline(transaction=False)
        for key in keys[at : at + 2000]:
            pipe.memory_usage(key, samples=0)
        total += sum(size or 0 for size in pipe.execute())
    return total
