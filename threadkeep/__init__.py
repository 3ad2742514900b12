"""Keeps AI-agent conversations: hot in Redis while in use, cold in S3 when idle, catalogued in Postgres."""

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
