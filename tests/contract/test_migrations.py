"""Upgrading the catalog's database: from nothing, again, at once, and beside somebody else's tables."""

import multiprocessing
import re
import secrets
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from pydantic import SecretStr
from sqlalchemy import text

from threadkeep.config import Settings
from threadkeep.errors import StoreRefused, StoreUnavailable
from threadkeep.local.ports import free_port
from threadkeep.local.postgres import PostgresServer
from threadkeep.storage.catalog import PostgresCatalog
from threadkeep.storage.catalog_engine import open_engine
from threadkeep.storage.catalog_schema import metadata
from threadkeep.storage.migrations import VERSION_TABLE, pending, upgrade
from threadkeep.testing.catalog_histories import a_thread

ALL = ["0001", "0002"]
THEIRS = "CREATE TABLE alembic_version (version_num text); INSERT INTO alembic_version VALUES ('theirs')"


@pytest.fixture
def new_database(postgres_server: PostgresServer) -> Callable[[], Settings]:
    def make() -> Settings:
        name = f"migrations_{secrets.token_hex(4)}"
        postgres_server.create_database(name)
        return Settings(database_url=SecretStr(postgres_server.url(name)))

    return make


def test_an_empty_database_is_brought_up_to_date_once(new_database):
    settings = new_database()
    assert pending(settings) == ALL
    upgrade(settings)
    assert pending(settings) == []
    tables = sql(settings, "SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1")
    assert tables == ["shard_epochs", "thread_events", VERSION_TABLE, "threads"]
    upgrade(settings)
    assert sql(settings, f"SELECT version_num FROM {VERSION_TABLE}") == ALL[-1:]


def test_asking_what_is_pending_changes_nothing(new_database):
    settings = new_database()
    pending(settings)
    assert sql(settings, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'") == []


def test_upgrades_at_once_in_processes_and_threads_all_succeed(new_database):
    settings = new_database()
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        list(pool.map(upgrade, [settings] * 2))
    assert pending(settings) == []
    others = [new_database() for _ in range(2)]
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(upgrade, others * 2))
    assert [pending(each) for each in others] == [[], []]


def test_the_revisions_make_exactly_the_tables_that_the_code_knows(new_database):
    settings = new_database()
    upgrade(settings)
    engine = open_engine(settings, statement_seconds=None)
    with engine.connect() as connection:
        context = MigrationContext.configure(
            connection,
            opts={"version_table": VERSION_TABLE, "compare_type": True, "compare_server_default": True},
        )
        assert compare_metadata(context, metadata) == []
    engine.dispose()


def test_a_database_is_shared_with_an_application_that_uses_alembic_too(new_database):
    settings = new_database()
    sql(settings, THEIRS)
    sql(settings, "CREATE TABLE customers (id int)")
    upgrade(settings)
    assert sql(settings, "SELECT version_num FROM alembic_version") == ["theirs"]
    assert sql(settings, "SELECT count(*) FROM customers") == [0]
    assert pending(settings) == []


def test_a_foreign_table_of_our_name_is_left_alone_and_a_schema_is_advised(new_database):
    settings = new_database()
    sql(settings, "CREATE TABLE thread_events (theirs int)")
    with pytest.raises(StoreRefused, match=r"already exists.*options=-csearch_path%3Dthreadkeep"):
        upgrade(settings)
    assert pending(settings) == ALL
    assert sql(settings, "SELECT to_regclass('threads') IS NULL") == [True]

    sql(settings, "CREATE SCHEMA threadkeep")
    url = settings.database_url.get_secret_value() + "?options=-csearch_path%3Dthreadkeep"
    apart = Settings(database_url=SecretStr(url))
    upgrade(apart)
    catalog = PostgresCatalog(apart)
    assert catalog.get(a_thread()) is None
    catalog.close()
    assert sql(settings, "SELECT schemaname FROM pg_tables WHERE tablename = 'threads'") == ["threadkeep"]


def test_a_schema_newer_than_this_installation_is_refused(new_database):
    settings = new_database()
    upgrade(settings)
    sql(settings, f"UPDATE {VERSION_TABLE} SET version_num = '9999'")
    for ask in (upgrade, pending):
        with pytest.raises(StoreRefused, match=r"9999.*Update this installation"):
            ask(settings)


def test_a_database_of_another_encoding_is_refused(new_database, postgres_server):
    sql(
        new_database(),
        "CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0",
        autocommit=True,
    )
    with pytest.raises(StoreRefused, match=r"LATIN1.*ENCODING 'UTF8'"):
        upgrade(Settings(database_url=SecretStr(postgres_server.url("latin"))))


def test_an_upgrade_says_what_keeps_it_from_its_database(postgres_server):
    with pytest.raises(StoreRefused, match="Create the database"):
        upgrade(Settings(database_url=SecretStr(postgres_server.url("nowhere"))))
    with pytest.raises(StoreUnavailable, match="refused"):
        pending(Settings(database_url=SecretStr(f"postgresql://127.0.0.1:{free_port()}/x")))


def test_the_page_about_the_tables_names_every_column_and_its_queries_run(new_database):
    page = (Path(__file__).parents[2] / "docs/reference/catalog.md").read_text()
    for table in metadata.tables.values():
        section = page.split(f"## `{table.name}`")[1].split("\n## ")[0]
        rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
        assert {name for row in rows for name in re.findall("`(.*?)`", row)} == set(table.c.keys()), table.name
    settings = new_database()
    upgrade(settings)
    queries = re.findall(r"```sql\n(.*?);\n```", page, re.DOTALL)
    assert len(queries) == 5
    for query in queries:
        assert sql(settings, query) == []


def sql(settings: Settings, statement: str, *, autocommit: bool = False) -> list[object]:
    engine = open_engine(settings, statement_seconds=None)
    if autocommit:
        engine = engine.execution_options(isolation_level="AUTOCOMMIT")
    with engine.begin() as connection:
        done = connection.execute(text(statement))
        found = list(done.scalars()) if done.returns_rows else []
    engine.dispose()
    return found
