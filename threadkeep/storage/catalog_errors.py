"""What PostgreSQL's errors mean for whoever asked the catalog: come back later, or mend something first."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolExhausted

from threadkeep.errors import StoreRefused, StoreUnavailable

STORE: Final = "the catalog"

_URL: Final = "Correct THREADKEEP_DATABASE_URL."
_CREATE: Final = "Create the database, or correct THREADKEEP_DATABASE_URL."
_UPGRADE: Final = "Run `threadkeep db upgrade`."
_OWN_SCHEMA: Final = (
    "Another application's table has this name: give Threadkeep a database of its own, or a schema "
    "(`?options=-csearch_path%3Dthreadkeep` at the end of THREADKEEP_DATABASE_URL)."
)
_GRANT: Final = (
    "Grant the user of THREADKEEP_DATABASE_URL SELECT, INSERT, UPDATE and DELETE on the catalog's tables; "
    "`threadkeep db upgrade` needs CREATE on the schema."
)
_LOOK: Final = "Repeating it will not help; `threadkeep doctor` and the server's log tell more."

# https://www.postgresql.org/docs/current/errcodes-appendix.html; the longest prefix decides.
_PASSING: Final = ("08", "25006", "40", "53", "55P03", "57", "58")
_REMEDIES: Final = {
    "28": _URL,
    "3D000": _CREATE,
    "3F000": _UPGRADE,
    "42P01": _UPGRADE,
    "42703": _UPGRADE,
    "42P07": _OWN_SCHEMA,
    "42501": _GRANT,
}

# A connection that fails brings no SQLSTATE through libpq, only the server's words; in another language than
# English they are not understood, and the error counts as passing.
_REFUSED_CONNECTION: Final = tuple(
    (re.compile(words), remedy)
    for words, remedy in (
        (r"authentication failed|no password supplied|no pg_hba\.conf entry|role .* does not exist", _URL),
        (r"database .* does not exist", _CREATE),
        (r"permission denied for database", _GRANT),
        (r"invalid (connection option|.*value)|unrecognized configuration parameter|root certificate", _URL),
    )
)


@contextmanager
def asking(operation: str, *, secret: str = "") -> Iterator[None]:
    """Map whatever SQLAlchemy raises inside; `secret` never shows in the error.

    Raises:
        StoreUnavailable: no connection, no answer in time, a server that shuts down, a lost race: repeat.
        StoreRefused: the database, its tables or its rights are not as they must be.
    """
    try:
        yield
    except DBAPIError as error:
        raise _meaning(error, operation, secret) from error
    except PoolExhausted as error:
        raise StoreUnavailable(STORE, operation, "all of THREADKEEP_DATABASE_POOL are in use") from error
    except SQLAlchemyError as error:
        raise StoreRefused(STORE, operation, _plain(str(error), secret), _LOOK) from error


def _meaning(error: DBAPIError, operation: str, secret: str) -> StoreUnavailable | StoreRefused:
    state = getattr(error.orig, "sqlstate", None)
    words = getattr(getattr(error.orig, "diag", None), "message_primary", None) or str(error.orig)
    reason = _plain(words, secret)
    remedy = _remedy(state, words)
    if remedy is None:
        return StoreUnavailable(STORE, operation, reason)
    return StoreRefused(STORE, operation, reason, remedy)


def _remedy(state: str | None, words: str) -> str | None:
    """What to mend; None where time will mend it."""
    if state is None:
        return next((remedy for pattern, remedy in _REFUSED_CONNECTION if pattern.search(words)), None)
    for prefix, remedy in _REMEDIES.items():
        if state.startswith(prefix):
            return remedy
    return None if state.startswith(_PASSING) else _LOOK


def _plain(words: str, secret: str) -> str:
    line = " ".join(words.split())[:300]
    return line.replace(secret, "***") if secret else line
