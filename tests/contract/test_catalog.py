"""PostgreSQL keeps what a catalog promises, and says what is wrong where it cannot."""

import os
import secrets
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from typing import Any

import psycopg
import pytest
from pydantic import SecretStr
from sqlalchemy import make_url

from threadkeep.config import Settings
from threadkeep.errors import SettingsError, StoreRefused, StoreUnavailable
from threadkeep.local.ports import free_port
from threadkeep.local.postgres import PostgresServer
from threadkeep.model import ThreadStat
from threadkeep.storage.catalog import PostgresCatalog
from threadkeep.storage.migrations import upgrade
from threadkeep.storage.ports import Catalog, CatalogEvent, CatalogFilter
from threadkeep.testing.catalog import CatalogContract
from threadkeep.testing.catalog_histories import FIRST_FLUSH, a_thread, undescribed
from threadkeep.testing.memory_catalog import MemoryCatalog

REF = a_thread()


@pytest.fixture(scope="module")
def database(postgres_server: PostgresServer) -> Settings:
    """Settings of an upgraded database that this module has for itself."""
    name = f"catalog_{secrets.token_hex(4)}"
    postgres_server.create_database(name)
    settings = Settings(database_url=SecretStr(postgres_server.url(name)), database_timeout=10)
    upgrade(settings)
    return settings


@pytest.fixture
def opened() -> Iterator[Callable[[Settings], PostgresCatalog]]:
    """Makes catalogs that are closed with the test."""
    with ExitStack() as stack:
        yield lambda settings: stack.enter_context(closing(PostgresCatalog(settings)))


@pytest.fixture
def catalog(database: Settings, opened: Callable[[Settings], PostgresCatalog]) -> PostgresCatalog:
    with connected(database) as admin:
        admin.execute("TRUNCATE threads, thread_events, shard_epochs")
    return opened(database)


class TestPostgresCatalog(CatalogContract):
    @pytest.fixture
    def catalog(self, catalog: PostgresCatalog) -> Catalog:
        return catalog


class TestMemoryCatalog(CatalogContract):
    @pytest.fixture
    def catalog(self) -> Catalog:
        return MemoryCatalog()


# --- what must be mended first ---


def test_a_database_without_tables_asks_for_the_upgrade(postgres_server, opened):
    postgres_server.create_database("no_tables")
    catalog = opened(Settings(database_url=SecretStr(postgres_server.url("no_tables"))))
    for ask in every_call(catalog):
        with pytest.raises(StoreRefused, match="Run `threadkeep db upgrade`"):
            ask()


def test_an_absent_database_is_named(postgres_server, opened):
    catalog = opened(Settings(database_url=SecretStr(postgres_server.url("no_such_database"))))
    for ask in every_call(catalog):
        with pytest.raises(StoreRefused, match=r'"no_such_database" does not exist.*Create the database'):
            ask()


@pytest.mark.parametrize("part", [{"password": "hunter2+/@"}, {"username": "nobody-here"}, {"password": ""}])
def test_wrong_credentials_are_refused_and_never_shown(database, part, opened):
    wrong = with_url(database, **part)
    with pytest.raises(StoreRefused, match="Correct THREADKEEP_DATABASE_URL") as caught:
        opened(wrong).get(REF)
    shown = str(caught.value) + repr(caught.value.args) + repr(caught.value.__cause__)
    for settings in (database, wrong):
        password = make_url(settings.database_url.get_secret_value()).password
        assert not password or password not in shown


def test_missing_rights_are_named(database, catalog, opened):
    with connected(database) as admin:
        admin.execute("DROP ROLE IF EXISTS stranger")
        admin.execute("CREATE ROLE stranger LOGIN PASSWORD 'strange'")
    with pytest.raises(StoreRefused, match=r"permission denied for table threads.*Grant"):
        opened(with_url(database, username="stranger", password="strange")).get(REF)


def test_what_postgres_cannot_store_is_refused_rather_than_repeated(catalog):
    with pytest.raises(StoreRefused):
        catalog.record([], [CatalogEvent(REF, "archived", {"key": "\x00"})])
    assert catalog.events(REF) == []


@pytest.mark.parametrize(
    "url",
    ["mysql://u:hunter2@h/d", "sqlite:///x", "hunter2", "postgresql://u:hunter2@h:port/d", ""],
)
def test_a_url_of_no_postgres_is_refused_at_once(url):
    with pytest.raises(SettingsError, match="THREADKEEP_DATABASE_URL") as caught:
        PostgresCatalog(Settings(database_url=SecretStr(url)))
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("driver", ["postgresql", "postgres", "postgresql+psycopg2"])
def test_any_url_of_postgres_is_read_with_our_driver(database, driver, opened):
    catalog = opened(with_url(database, drivername=driver))
    assert catalog.get(REF) is None


# --- what time will mend ---


def test_a_server_that_is_down_is_unavailable(database, opened):
    catalog = opened(with_url(database, port=free_port()))
    for ask in every_call(catalog):
        with pytest.raises(StoreUnavailable, match="refused"):
            ask()


def test_a_statement_or_a_free_connection_is_awaited_no_longer_than_allowed(database, catalog, opened):
    impatient = opened(database.model_copy(update={"database_timeout": 0.3, "database_pool": 2}))
    with connected(database, autocommit=False) as admin, ThreadPoolExecutor(6) as pool:
        admin.execute("LOCK TABLE threads")
        began = time.monotonic()
        asked = [pool.submit(impatient.get, REF) for _ in range(6)]
        failures = [each.exception() for each in asked]
        assert time.monotonic() - began < 5
    assert {type(failure) for failure in failures} == {StoreUnavailable}
    reasons = {failure.reason for failure in failures}
    assert {
        "canceling statement due to statement timeout",
        "all of THREADKEEP_DATABASE_POOL are in use",
    } == reasons
    assert impatient.get(REF) is None


def test_a_session_that_hangs_is_given_up_and_replaced(database, catalog, opened):
    impatient = opened(database.model_copy(update={"database_timeout": 1}))
    with connected(database, autocommit=False) as admin, ThreadPoolExecutor(1) as pool:
        admin.execute("LOCK TABLE threads")
        asked = pool.submit(impatient.get, REF)
        until(lambda: backends(database, "AND wait_event_type = 'Lock'"))
        with frozen(backends(database)):
            admin.rollback()
            with pytest.raises(StoreUnavailable, match="no answer within"):
                asked.result()
            assert impatient.get(REF) is None


def test_a_session_that_hung_while_idle_is_replaced_unnoticed(database, catalog, opened):
    impatient = opened(database.model_copy(update={"database_timeout": 0.3}))
    assert impatient.get(REF) is None
    with frozen(backends(database)):
        assert impatient.get(REF) is None


def test_a_connection_that_the_server_closed_is_replaced_unnoticed(database, catalog):
    assert catalog.get(REF) is None
    with connected(database) as admin:
        for backend in backends(database):
            admin.execute("SELECT pg_terminate_backend(%s, 5000)", [backend])
    catalog.record([replace(FIRST_FLUSH, ref=REF)])
    assert catalog.get(REF) is not None


def test_a_call_that_the_server_cuts_short_is_unavailable(database, catalog):
    with connected(database, autocommit=False) as admin, ThreadPoolExecutor(1) as pool:
        admin.execute("LOCK TABLE threads")
        asked = pool.submit(catalog.get, REF)
        until(lambda: backends(database, "AND wait_event_type = 'Lock'"))
        with connected(database) as killer:
            killer.execute("SELECT pg_terminate_backend(%s, 5000)", backends(database))
        with pytest.raises(StoreUnavailable, match="terminating connection"):
            asked.result()


# --- processes, sessions, retention ---


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_has_connections_of_its_own(database, catalog):
    catalog.record([replace(FIRST_FLUSH, ref=REF)])
    (before,) = backends(database)
    child = os.fork()
    if child == 0:
        mine = backends(database) if catalog.get(REF) else []
        catalog.close()
        os._exit(0 if len(mine) == 2 and before in mine else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert catalog.get(REF) is not None
    assert backends(database) == [before]


def test_a_closed_catalog_opens_again_when_used(database, catalog):
    catalog.record([replace(FIRST_FLUSH, ref=REF)])
    catalog.close()
    assert backends(database) == []
    assert catalog.get(REF) is not None


def test_our_sessions_are_named_bounded_and_obey_the_options_of_the_url(database, catalog, opened):
    ours = opened(with_url(database, query={"options": "-c work_mem=5MB -c lock_timeout=7s"}))
    ours.page(CatalogFilter(), 1)
    with ours._engine.get().connect() as connection:
        shown = [
            connection.exec_driver_sql(f"SHOW {name}").scalar()
            for name in ("application_name", "statement_timeout", "work_mem", "lock_timeout")
        ]
    assert shown == ["threadkeep", "10s", "5MB", "7s"]


def test_pruning_takes_what_is_old_in_batches_and_leaves_the_rest(database, catalog, monkeypatch):
    monkeypatch.setattr("threadkeep.storage.catalog_writes.PRUNED_AT_ONCE", 10)
    catalog.record([], [CatalogEvent(REF, "archived", {"rev": rev}) for rev in range(40)])
    with connected(database) as admin:
        admin.execute("UPDATE thread_events SET at = now() - interval '91 days' WHERE (facts->>'rev')::int < 35")
        admin.execute("UPDATE thread_events SET at = now() - interval '89 days' WHERE (facts->>'rev')::int = 35")
    assert catalog.prune_events(90) == 35
    assert [event.facts["rev"] for _, event in catalog.events(REF)] == [39, 38, 37, 36, 35]


def test_ids_are_paged_by_bytes_whatever_the_locale_of_the_database(database, catalog):
    with connected(database) as admin:
        found = admin.execute(
            "SELECT column_name FROM information_schema.columns "
            "WHERE table_name = 'threads' AND collation_name = 'C' ORDER BY 1"
        ).fetchall()
    assert found == [("namespace",), ("thread_id",)]


# --- how it is done ---


def every_call(catalog: Catalog) -> list[Callable[[], Any]]:
    return [
        lambda: catalog.record([replace(FIRST_FLUSH, ref=REF)]),
        lambda: catalog.record([], [CatalogEvent(REF, "archived", {})]),
        lambda: catalog.get(REF),
        lambda: catalog.get_many([REF]),
        lambda: catalog.replace([(replace(FIRST_FLUSH, ref=REF), undescribed(ThreadStat("n", "t", "cold")))]),
        lambda: catalog.page(CatalogFilter(), 10),
        catalog.totals,
        lambda: catalog.forks_of(REF),
        lambda: catalog.erase(REF, request_id="r", rev=1),
        lambda: catalog.events(REF),
        lambda: catalog.epoch_changed(1, "e"),
        lambda: catalog.prune_events(1),
    ]


def with_url(settings: Settings, **parts: Any) -> Settings:
    url = make_url(settings.database_url.get_secret_value()).set(**parts)
    return settings.model_copy(update={"database_url": SecretStr(url.render_as_string(hide_password=False))})


@contextmanager
def connected(settings: Settings, *, autocommit: bool = True) -> Iterator[psycopg.Connection[Any]]:
    url = make_url(settings.database_url.get_secret_value()).set(drivername="postgresql")
    with psycopg.connect(
        url.render_as_string(hide_password=False), autocommit=autocommit, application_name="test"
    ) as connection:
        yield connection


def backends(settings: Settings, condition: str = "") -> list[int]:
    """Process ids of our sessions in the database."""
    ours = "datname = current_database() AND application_name = 'threadkeep'"
    with connected(settings) as admin:
        return [pid for (pid,) in admin.execute(f"SELECT pid FROM pg_stat_activity WHERE {ours} {condition}")]


@contextmanager
def frozen(processes: list[int]) -> Iterator[None]:
    for process in processes:
        os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        for process in processes:
            os.kill(process, signal.SIGCONT)


def until(condition: Callable[[], Any], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
