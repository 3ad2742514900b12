"""Keeps AI-agent conversations: hot in Redis while in use, cold in S3 when idle, catalogued in Postgres."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from threadkeep.config import Settings
    from threadkeep.errors import ThreadBusy, ThreadExists, ThreadkeepError, ThreadNotFound
    from threadkeep.model import Entry, ThreadRef, ThreadStat
    from threadkeep.session.async_keep import AsyncThreadkeep
    from threadkeep.session.async_session import AsyncSession
    from threadkeep.session.keep import Threadkeep
    from threadkeep.session.session import Session
    from threadkeep.session.threads import ThreadView

__all__ = [
    "AsyncSession",
    "AsyncThreadkeep",
    "Entry",
    "Session",
    "Settings",
    "ThreadBusy",
    "ThreadExists",
    "ThreadNotFound",
    "ThreadRef",
    "ThreadStat",
    "ThreadView",
    "Threadkeep",
    "ThreadkeepError",
]

_HOMES = {
    "AsyncSession": "session.async_session",
    "AsyncThreadkeep": "session.async_keep",
    "Entry": "model",
    "Session": "session.session",
    "Settings": "config",
    "ThreadBusy": "errors",
    "ThreadExists": "errors",
    "ThreadNotFound": "errors",
    "ThreadRef": "model",
    "ThreadStat": "model",
    "ThreadView": "session.threads",
    "Threadkeep": "session.keep",
    "ThreadkeepError": "errors",
}


def __getattr__(name: str) -> Any:
    """Load a public name where it is first used: the command line's help needs neither Celery nor Redis."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*globals(), *__all__]
