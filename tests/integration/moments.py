"""A moment of a thread in Redis that comes back: what a failover, or a restart from an old file, brings about."""

from threadkeep.model import ThreadRef
from threadkeep.storage.link import run_now as now
from threadkeep.tasks.stores import Stores


class Moment:
    """All keys of a thread as they are now, and whether the index lists it."""

    def __init__(self, stores: Stores, ref: ThreadRef) -> None:
        self._link, self._ref = stores.hot.link, ref
        head, base, log, ids, ticket, self._index, *_ = stores.hot.keys(ref).all
        self._kept = {key: now(self._link.run("DUMP", key)) for key in (head, base, log, ids, ticket)}
        self._seen = now(self._link.run("ZSCORE", self._index, ref.member))

    def come_back(self) -> None:
        """Redis is as it was then, as far as this thread goes."""
        for key, value in self._kept.items():
            now(self._link.run("DEL", key))
            if value is not None:
                now(self._link.run("RESTORE", key, 0, value, "REPLACE"))
        now(self._link.run("ZREM", self._index, self._ref.member))
        if self._seen is not None:
            now(self._link.run("ZADD", self._index, self._seen, self._ref.member))
