"""Real servers for all tests: started when first asked for, on free loopback ports, once a run."""

import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from threadkeep import Threadkeep
from threadkeep.config import Settings
from threadkeep.local.guard import guard
from threadkeep.local.moto import MotoServer
from threadkeep.local.postgres import PostgresServer
from threadkeep.local.seaweed import SeaweedServer
from threadkeep.local.valkey import ValkeyServer
from threadkeep.local.valkey_cluster import ValkeyCluster
from threadkeep.local.workers import DEFAULT_APP, CeleryWorker
from threadkeep.tasks.conf import FLUSH, HYDRATE, MAINTENANCE
from threadkeep.tasks.stores import Stores

pytest.register_assert_rewrite("threadkeep.testing")

BUCKET = "threadkeep-tests"
StartWorker = Callable[..., CeleryWorker]

for name in [name for name in os.environ if name.startswith("THREADKEEP_")]:
    del os.environ[name]  # the developer's own settings are none of the tests' business


@pytest.fixture(scope="session")
def run_dir() -> Iterator[Path]:
    """The folder of this run's servers; removed with it, however it ends."""
    folder = Path(tempfile.mkdtemp(prefix="threadkeep-tests-"))
    guard.remove_later(folder)
    folder.chmod(0o711)  # as root, the user that PostgreSQL runs as must be able to pass through
    yield folder
    shutil.rmtree(folder)
    guard.keep(folder)


@pytest.fixture(scope="session")
def valkey_server(run_dir: Path) -> Iterator[ValkeyServer]:
    with ValkeyServer(run_dir / "valkey") as server:
        yield server


@pytest.fixture(scope="session")
def valkey_cluster(run_dir: Path) -> Iterator[ValkeyCluster]:
    with ValkeyCluster(run_dir / "valkey-cluster", node_timeout_ms=1000) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def postgres_server(run_dir: Path) -> Iterator[PostgresServer]:
    with PostgresServer(run_dir / "postgres", durable=False) as server:
        yield server
    server.remove()


@pytest.fixture(scope="session")
def seaweed_server(run_dir: Path) -> Iterator[SeaweedServer]:
    with SeaweedServer(run_dir / "seaweed", buckets=[BUCKET]) as server:
        yield server


@pytest.fixture(scope="session")
def moto_server(run_dir: Path) -> Iterator[MotoServer]:
    with MotoServer(run_dir / "moto", buckets=[BUCKET]) as server:
        yield server


@pytest.fixture(scope="session")
def catalog_server(postgres_server: PostgresServer) -> PostgresServer:
    """The PostgreSQL with the catalog's tables in it."""
    from threadkeep.storage.migrations import upgrade

    upgrade(Settings.load(database_url=postgres_server.url()))
    return postgres_server


@pytest.fixture
def settings(valkey_server: ValkeyServer, catalog_server: PostgresServer, seaweed_server: SeaweedServer) -> Settings:
    """Settings of this test alone: its own keys, queues and objects, an empty catalog, and short waits."""
    _empty_catalog(catalog_server.url())
    mark = f"t{secrets.token_hex(4)}"
    made = settings_for(mark, valkey_server, catalog_server, seaweed_server)
    yield made
    assert keys_that_would_stay_for_ever(valkey_server, mark) == []


@pytest.fixture
def cluster_settings(settings: Settings, valkey_cluster: ValkeyCluster) -> Iterator[Settings]:
    """The test's settings with the hot tier on a cluster, which is made whole again after the test."""
    yield settings.model_copy(update={"redis_url": valkey_cluster.url, "redis_cluster": True})
    valkey_cluster.heal()
    for primary in valkey_cluster.primaries:
        assert keys_that_would_stay_for_ever(primary, settings.key_prefix) == []


def settings_for(
    mark: str, valkey: ValkeyServer, postgres: PostgresServer, seaweed: SeaweedServer, **changes: Any
) -> Settings:
    """Settings for these servers, with keys, queues and objects under `mark`, and short waits."""
    values: dict[str, Any] = {
        "redis_url": valkey.url(0),
        "redis_timeout": 5,
        "key_prefix": mark,
        "broker_url": valkey.url(1),
        "broker_prefix": f"{mark}:",
        "s3_bucket": BUCKET,
        "s3_prefix": mark,
        "s3_endpoint": seaweed.endpoint,
        "s3_region": "us-east-1",
        "s3_access_key": seaweed.access_key,
        "s3_secret_key": seaweed.secret_key,
        "s3_addressing": "path",
        "database_url": postgres.url(),
        "lease_seconds": 10,
        "hydrate_wait": 20,
        "ask_again": 1,
        "linger_seconds": 60,
        "soft_time_limit": 20,
        "hard_time_limit": 30,
        "visibility_timeout": 60,
        "retry_backoff": 0.2,
        "retry_backoff_max": 2,
    }
    return Settings.load(**{**values, **changes})


def keys_that_would_stay_for_ever(valkey_server: ValkeyServer, prefix: str) -> list[str]:
    """An invariant of every test: a key of the hot tier has an expiry, or belongs to a thread that is hot."""
    import redis

    with redis.Redis.from_url(valkey_server.url(0), decode_responses=True) as client:
        lasting = [key for key in client.scan_iter(f"{prefix}:*", count=1000) if client.pttl(key) == -1]
        return [key for key in lasting if not _may_last(client, key)]


def _may_last(client: Any, key: str) -> bool:
    own, _, part = key.rpartition(":")
    if part not in ("head", "base", "log", "ids"):
        return part in ("index", "epoch", "tries", "owed", "erasing", "graves")
    rev, archived, lease = client.hmget(f"{own}:head", "rev", "archived", "lease")
    return rev is not None and (rev != archived or bool(lease))


@pytest.fixture
def worker(settings: Settings, tmp_path: Path) -> Iterator[StartWorker]:
    """Starts Celery workers for this test's settings: `worker()`, `worker("threadkeep.flush", name="flush")`."""
    with workers(settings, tmp_path, end=CeleryWorker.stop) as start:
        yield start


@contextmanager
def workers(settings: Settings, folder: Path, *, end: Callable[[CeleryWorker], None]) -> Iterator[StartWorker]:
    """Gives a function that starts workers, each with a folder of its own, and ends them all at last."""
    started: list[CeleryWorker] = []

    def start(
        *queues: str,
        name: str = "all",
        concurrency: int = 1,
        pool: str = "prefork",
        app: str = DEFAULT_APP,
        settings: Settings = settings,
    ) -> CeleryWorker:
        process = CeleryWorker(
            settings,
            queues=queues or (HYDRATE, FLUSH, MAINTENANCE),
            name=name,
            concurrency=concurrency,
            pool=pool,
            data_dir=folder / name,
            app=app,
        )
        started.append(process)
        return process.start()

    try:
        yield start
    finally:
        for process in started:
            end(process)


@pytest.fixture
def stores_for_test() -> Iterator[Callable[[Settings], Stores]]:
    """Makes the stores of a worker, in this process, and closes them."""
    made: list[Stores] = []

    def make(settings: Settings) -> Stores:
        made.append(Stores(settings))
        return made[-1]

    yield make
    for stores in made:
        stores.close()


@pytest.fixture
def stores(settings: Settings, stores_for_test: Callable[[Settings], Stores]) -> Stores:
    return stores_for_test(settings)


@pytest.fixture
def keep(settings: Settings) -> Iterator[Threadkeep]:
    with Threadkeep(settings) as keep:
        yield keep


@pytest.fixture
def raw_bucket(settings: Settings) -> Any:
    """The bucket itself, past Threadkeep."""
    import boto3

    return boto3.client(
        "s3",
        endpoint_url=settings.s3_endpoint,
        region_name=settings.s3_region,
        aws_access_key_id=settings.s3_access_key.get_secret_value(),
        aws_secret_access_key=settings.s3_secret_key.get_secret_value(),
    )


def _empty_catalog(url: str) -> None:
    from sqlalchemy import create_engine, text

    from threadkeep.storage.catalog_schema import metadata

    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text(f"TRUNCATE {', '.join(table.name for table in metadata.sorted_tables)}"))
    engine.dispose()


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """The numbers that proofs have recorded: `record_property("proof", "…")`, or a dict whose numbers are summed up."""
    told = [
        value
        for reports in terminalreporter.stats.values()
        for report in reports
        for name, value in getattr(report, "user_properties", ())
        if name == "proof" and report.when == "call"
    ]
    if told:
        terminalreporter.section("proofs")
    for line in [*_summed(value for value in told if isinstance(value, dict)), *filter(_is_text, told)]:
        terminalreporter.write_line(f"  {line}")


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _summed(proofs: Iterable[dict[str, Any]]) -> list[str]:
    totals: dict[str, dict[str, float]] = {}
    for proof in proofs:
        of = totals.setdefault(proof["of"], {"tests": 0})
        of["tests"] += 1
        for name in proof.keys() - {"of"}:
            of[name] = of.get(name, 0) + proof[name]
    return [
        f"{of}: {', '.join(f'{round(number):,} {name}' for name, number in sorted(sums.items()))}"
        for of, sums in totals.items()
    ]
