"""Brings the catalog's schema up to date with Alembic, in a version table of our own.

Revisions only go forward: the catalog is derived, so an older one is made by starting over.
"""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.script.revision import RevisionError
from alembic.util import CommandError
from sqlalchemy import Connection, func, inspect, select, text

from threadkeep.config import Settings
from threadkeep.errors import StoreRefused
from threadkeep.storage.catalog_engine import database_url, open_engine
from threadkeep.storage.catalog_errors import STORE, asking
from threadkeep.storage.catalog_schema import metadata

VERSION_TABLE: Final = "threadkeep_alembic_version"

_LOCK: Final = 0x7468726B  # "thrk": the advisory lock under which one process at a time upgrades
_LOCK_SECONDS: Final = 60
_one_thread: Final = threading.Lock()  # Alembic's `context` and `op` are globals of the process

log = logging.getLogger(__name__)


def upgrade(settings: Settings) -> None:
    """Apply all revisions not yet applied, in one transaction. Safe to repeat, and to run twice at once.

    Raises:
        StoreUnavailable: no connection, or another upgrade took longer than a minute; nothing was changed.
        StoreRefused: no such database, no right to create tables, a foreign table of the same name, an
            encoding other than UTF8, or a schema newer than this installation; nothing was changed.
    """
    with _connected(settings, "db upgrade") as connection, _one_thread:
        connection.execute(text("SELECT set_config('lock_timeout', :limit, true)"), {"limit": f"{_LOCK_SECONDS}s"})
        connection.execute(select(func.pg_advisory_xact_lock(_LOCK)))
        _check_encoding(connection)
        config = _config()
        config.attributes["connection"] = connection
        with _known_revisions("db upgrade"):
            command.upgrade(config, "head")
    log.info("the catalog's schema is up to date")


def remake(settings: Settings) -> None:
    """Apply all revisions, and make tables that are missing though they are noted as made. Safe to repeat.

    Raises:
        StoreUnavailable, StoreRefused: as `upgrade` does; nothing was changed.
    """
    with _connected(settings, "catalog rebuild") as connection:
        connection.execute(select(func.pg_advisory_xact_lock(_LOCK)))
        if not any(inspect(connection).has_table(table.name) for table in metadata.sorted_tables):
            connection.execute(text(f"DROP TABLE IF EXISTS {VERSION_TABLE}"))
    upgrade(settings)
    with _connected(settings, "catalog rebuild") as connection:
        connection.execute(select(func.pg_advisory_xact_lock(_LOCK)))
        metadata.create_all(connection)


def pending(settings: Settings) -> list[str]:
    """Revisions not applied yet, oldest first; changes nothing.

    Raises:
        StoreUnavailable: no connection.
        StoreRefused: no such database, or a schema newer than this installation.
    """
    with _connected(settings, "db pending") as connection, _known_revisions("db pending"):
        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
        scripts = ScriptDirectory.from_config(_config())
        missing = scripts.iterate_revisions("heads", context.get_current_heads() or "base")
        return [script.revision for script in missing][::-1]


@contextmanager
def _connected(settings: Settings, operation: str) -> Iterator[Connection]:
    engine = open_engine(settings, statement_seconds=None)
    try:
        with asking(operation, secret=database_url(settings).password or ""), engine.begin() as connection:
            yield connection
    finally:
        engine.dispose()


@contextmanager
def _known_revisions(operation: str) -> Iterator[None]:
    try:
        yield
    except (CommandError, RevisionError) as error:
        raise StoreRefused(STORE, operation, str(error), "Update this installation of Threadkeep.") from error


def _check_encoding(connection: Connection) -> None:
    encoding = connection.scalar(text("SHOW server_encoding"))
    if encoding != "UTF8":
        raise StoreRefused(
            STORE,
            "db upgrade",
            f"the database's encoding is {encoding}",
            "Create it with ENCODING 'UTF8' TEMPLATE template0.",
        )


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config
