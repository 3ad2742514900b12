"""The stores of one worker process, made after the fork, and what all tasks write to the catalog."""

import logging
import os
import threading
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, Literal

from threadkeep.config import Settings
from threadkeep.errors import ThreadkeepError
from threadkeep.model import ArchiveMeta, StoredObject, ThreadRef
from threadkeep.storage.cluster import sync_link
from threadkeep.storage.hot import HotTier
from threadkeep.storage.hot_flow import TierFlow
from threadkeep.storage.hot_head import Head
from threadkeep.storage.link import run_now as now
from threadkeep.storage.ports import Catalog, CatalogEvent, CatalogRow, ColdStore

log = logging.getLogger(__name__)

_LOCK: Final = threading.Lock()
_MADE: dict[tuple[int, tuple[tuple[str, str], ...]], "Stores"] = {}


@dataclass
class Stores:
    """Redis, S3 and Postgres as the tasks use them. Each connects at its first use, in the process that uses it."""

    settings: Settings

    @cached_property
    def hot(self) -> HotTier:
        return HotTier(sync_link(self.settings), self.settings)

    @cached_property
    def flow(self) -> TierFlow:
        return TierFlow(self.hot, self.settings)

    @cached_property
    def cold(self) -> ColdStore:
        from threadkeep.storage.cold import open_cold  # noqa: PLC0415  boto3 is loaded where it is used: in workers

        return open_cold(self.settings)

    @cached_property
    def catalog(self) -> Catalog:
        from threadkeep.storage.catalog import PostgresCatalog  # noqa: PLC0415  so is SQLAlchemy

        return PostgresCatalog(self.settings)

    def record_archived(
        self,
        ref: ThreadRef,
        stored: StoredObject,
        meta: ArchiveMeta,
        *,
        hot: bool,
        stamp: int,
        cached_until: float | None,
        codec: str | None = None,
        labels: dict[str, str] | None = None,
        forked_from: str | None = None,
        active: float | None = None,
    ) -> bool:
        """Tell the catalog what the archive holds. False if it could not be told: the sweep will, later."""
        row = archived_row(
            ref,
            stored,
            meta,
            hot=hot,
            stamp=stamp,
            cached_until=cached_until,
            codec=codec,
            labels=labels,
            forked_from=forked_from,
            active_at=active,
        )
        return self.tell_catalog(row)

    def note(self, ref: ThreadRef, kind: str, facts: dict[str, Any]) -> None:
        """An event for the audit log and the process's own; numbers, revisions and keys only."""
        log.warning("thread %s", kind, extra={"thread_id": str(ref), **facts})
        try:
            self.catalog.record([], [CatalogEvent(ref, kind, facts)])
        except ThreadkeepError as error:
            log.warning(
                "an event could not be recorded",
                extra={"thread_id": str(ref), "event": kind, "reason": str(error)},
            )

    def tell_catalog(self, row: CatalogRow) -> bool:
        """Write a row, and note that the catalog has been told; False if it could not be."""
        facts = {"thread_id": str(row.ref)}
        try:
            self.catalog.record([row])
        except ThreadkeepError as error:
            log.warning("the catalog will catch up later", extra={**facts, "reason": str(error)})
            self.owe_catalog(row.ref)
            return False
        try:
            now(self.flow.paid(row.ref, row.stamp))
        except ThreadkeepError as error:
            log.warning("the sweep will tell the catalog once more", extra={**facts, "reason": str(error)})
        return True

    def owe_catalog(self, ref: ThreadRef) -> None:
        """Have the next sweep tell the catalog about a thread."""
        try:
            now(self.flow.owe(ref))
        except ThreadkeepError as error:
            log.warning("the sweep could not be told either", extra={"thread_id": str(ref), "reason": str(error)})

    def close(self) -> None:
        """Give all connections back."""
        for name in ("cold", "catalog"):
            if name in self.__dict__:
                getattr(self, name).close()
        if "hot" in self.__dict__:
            now(self.hot.link.close())


def archived_row(
    ref: ThreadRef, stored: StoredObject, meta: ArchiveMeta, *, hot: bool, stamp: int, **more: Any
) -> CatalogRow:
    """What the catalog is told of a stored object; `more` are columns that the object's metadata does not carry."""
    return CatalogRow(
        ref=ref,
        tier="hot" if hot else "cold",
        stamp=stamp,
        rev=meta.rev,
        archived_rev=meta.rev,
        object_key=stored.key,
        etag=stored.etag,
        version_id=stored.version_id,
        format=ArchiveMeta.FORMAT,
        raw_bytes=meta.raw_bytes,
        stored_bytes=stored.size,
        count=meta.count,
        chain=meta.chain,
        born=meta.born,
        archived_at=stored.modified,
        **more,
    )


def head_row(ref: ThreadRef, head: Head, tier: Literal["hot", "cold"], now_ms: int, lingers: float) -> CatalogRow:
    """What the catalog is told of a thread in Redis; a cached copy `lingers` for so many seconds at most."""
    return CatalogRow(
        ref=ref,
        tier=tier,
        stamp=now_ms * 1000,
        rev=head.rev,
        archived_rev=head.archived,
        cached_until=now_ms / 1000 + lingers if tier == "cold" else None,
        object_key=head.key or None,
        etag=head.etag or None,
        raw_bytes=head.raw_bytes if head.archived else None,
        stored_bytes=head.base_bytes if head.archived else None,
        count=head.count,
        chain=head.chain or None,
        born=head.born,
        codec=head.codec,
        labels=head.labels,
        forked_from=head.forked_from,
        active_at=head.active / 1000,
    )


def stores_for(settings: Settings) -> Stores:
    """This process's stores for these settings; made once, after any fork."""
    key = (os.getpid(), tuple(sorted(settings.to_environ().items())))
    with _LOCK:
        if key not in _MADE:
            _MADE[key] = Stores(settings)
        return _MADE[key]
