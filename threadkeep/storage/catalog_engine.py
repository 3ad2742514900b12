"""The connections of one process to PostgreSQL: made when first used, bounded in number and in time."""

import math
import os
from time import monotonic
from typing import Any, Final

import psycopg
from psycopg.abc import PQGen
from sqlalchemy import URL, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError

from threadkeep.config import Settings
from threadkeep.errors import SettingsError

_GRACE: Final = 1.0
"""Seconds after its own time limit that a server may take to say so, before it counts as gone."""


def database_url(settings: Settings) -> URL:
    """The setting as a URL of SQLAlchemy with our driver.

    Raises:
        SettingsError: it is no URL, or of no PostgreSQL.
    """
    try:
        url = make_url(settings.database_url.get_secret_value())
    except (ArgumentError, ValueError):
        raise SettingsError(
            "THREADKEEP_DATABASE_URL: must look like postgresql://user:password@host:5432/database "
            "(percent-encode special characters of the password)"
        ) from None
    dialect = url.get_backend_name()
    if dialect not in ("postgresql", "postgres"):
        raise SettingsError(f"THREADKEEP_DATABASE_URL: the catalog is kept in PostgreSQL, not in {dialect}")
    return url.set(drivername="postgresql+psycopg")


def open_engine(settings: Settings, *, statement_seconds: float | None) -> Engine:
    """An engine that holds at most `database_pool` connections and none yet.

    Args:
        settings: Supplies the URL, the pool's size and the time to connect.
        statement_seconds: Seconds that one statement may take; None for no limit.
    """
    url = database_url(settings)
    defaults = {
        "application_name": "threadkeep",
        "connect_timeout": str(max(2, math.ceil(settings.database_timeout))),  # libpq's least
        "tcp_user_timeout": str(math.ceil(settings.database_timeout * 1000)),
    }
    url = url.set(query={**defaults, **url.query, "options": _options(url, statement_seconds)})
    engine = create_engine(
        url,
        hide_parameters=True,  # thread ids and labels stay out of tracebacks
        isolation_level="READ COMMITTED",  # what the upsert's convergence rests on
        max_overflow=0,
        pool_pre_ping=True,
        pool_size=settings.database_pool,
        pool_timeout=settings.database_timeout,
    )
    if statement_seconds is not None:
        bounded = _bounded(statement_seconds + _GRACE)
        event.listen(engine, "do_connect", lambda _dialect, _record, args, named: bounded.connect(*args, **named))
    return engine


class EngineOfProcess:
    """The engine of the process that asks; a forked child gets its own and leaves its parent's alone."""

    def __init__(self, settings: Settings) -> None:
        database_url(settings)
        self._settings = settings
        self._engines: dict[int, Engine] = {}

    def get(self) -> Engine:
        engine = self._engines.get(os.getpid())
        if engine is None:
            self._forget_inherited()
            fresh = open_engine(self._settings, statement_seconds=self._settings.database_timeout)
            engine = self._engines.setdefault(os.getpid(), fresh)  # atomic: threads agree on one
        return engine

    def close(self) -> None:
        """Give the connections back; the next use opens new ones."""
        engine = self._engines.pop(os.getpid(), None)
        if engine is not None:
            engine.dispose()

    def _forget_inherited(self) -> None:
        for pid in [pid for pid in list(self._engines) if pid != os.getpid()]:
            self._engines.pop(pid).dispose(close=False)


def _options(url: URL, statement_seconds: float | None) -> str:
    """Options of the server session; those of the URL come last, so they win."""
    given = url.query.get("options", ())
    ours = f"-c statement_timeout={math.ceil((statement_seconds or 0) * 1000)}"
    return " ".join([ours, *((given,) if isinstance(given, str) else given)])


def _bounded(seconds: float) -> type[psycopg.Connection[Any]]:
    """A connection that is closed when an answer takes longer than `seconds`.

    The server's own time limit is of no use when the server hangs or its host is gone.
    """

    class BoundedConnection(psycopg.Connection[Any]):
        def wait(self, gen: PQGen[Any], *args: Any, **named: Any) -> Any:
            return super().wait(self._until(monotonic() + seconds, gen), *args, **named)

        def _until(self, deadline: float, gen: PQGen[Any]) -> PQGen[Any]:
            try:
                wanted = next(gen)
                while True:
                    ready = yield wanted  # psycopg comes back every 0.1 s, answer or not
                    if not ready and monotonic() > deadline:
                        self.close()
                        raise psycopg.OperationalError(f"no answer within {seconds:g} s")
                    wanted = gen.send(ready)
            except StopIteration as end:
                return end.value

    return BoundedConnection
