"""Lives of a thread as a catalog is told of them, and the steps that tell it."""

import secrets
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Final

from threadkeep.model import ThreadRef, ThreadStat
from threadkeep.storage.ports import Catalog, CatalogEntry, CatalogFilter, CatalogRow

Step = Callable[[Catalog, ThreadRef], None]

NOWHERE: Final = ThreadRef.of("nowhere")
HOT_SINCE_BIRTH: Final = CatalogRow(
    NOWHERE, "hot", stamp=10, rev=10, born=5, codec="openai", labels={"plan": "free"}, count=1, active_at=10.0
)
FIRST_FLUSH: Final = CatalogRow(
    NOWHERE,
    "cold",
    stamp=21,
    rev=20,
    archived_rev=20,
    cached_until=4e9,
    object_key="threads/messages/x.ndjson.zst",
    etag="e1",
    version_id="v1",
    format="threadkeep-2",
    raw_bytes=400,
    stored_bytes=100,
    count=4,
    chain="c1",
    born=5,
    codec="openai",
    labels={"plan": "pro"},
    active_at=20.0,
    archived_at=21.5,
)
HOT_AGAIN: Final = CatalogRow(NOWHERE, "hot", stamp=30, rev=30, archived_rev=20, born=5, count=6, active_at=30.0)
FOUND_IN_BUCKET: Final = CatalogRow(
    NOWHERE, "cold", stamp=0, rev=20, archived_rev=20, born=5, etag="e1", stored_bytes=100, count=4
)
SECOND_FLUSH: Final = replace(
    FIRST_FLUSH,
    stamp=31,
    rev=30,
    archived_rev=30,
    cached_until=None,
    etag="e2",
    version_id=None,
    count=6,
    chain="c2",
    raw_bytes=600,
    stored_bytes=150,
    labels=None,
    active_at=30.0,
    archived_at=31.5,
)
LIFE: Final = (HOT_SINCE_BIRTH, FIRST_FLUSH, HOT_AGAIN, FOUND_IN_BUCKET, SECOND_FLUSH)
NEXT_LIFE: Final = CatalogRow(NOWHERE, "hot", stamp=50, rev=50, born=50, codec="plain", count=0, active_at=50.0)
NEXT_FLUSH: Final = replace(
    FIRST_FLUSH,
    stamp=61,
    rev=60,
    archived_rev=60,
    born=50,
    codec=None,
    labels=None,
    etag="e3",
    version_id="v3",
    chain="c3",
    active_at=60.0,
    archived_at=61.5,
)


def a_thread() -> ThreadRef:
    return ThreadRef.of(secrets.token_hex(8))


def found(catalog: Catalog, ref: ThreadRef) -> CatalogEntry:
    entry = catalog.get(ref)
    assert entry is not None
    return entry


def seen(catalog: Catalog, rows: Iterable[CatalogRow]) -> ThreadRef:
    """A new thread of which these rows were recorded one by one."""
    return acted(catalog, map(recording, rows))


def recorded(catalog: Catalog, rows: Iterable[CatalogRow], *, like: ThreadRef) -> CatalogEntry:
    entry = found(catalog, seen(catalog, rows))
    return replace(entry, stat=replace(entry.stat, namespace=like.namespace, thread_id=like.thread_id))


def recording(row: CatalogRow) -> Step:
    return lambda catalog, ref: catalog.record([replace(row, ref=ref)])


def erasing(rev: int) -> Step:
    return lambda catalog, ref: catalog.erase(ref, request_id="request", rev=rev)


def acted(catalog: Catalog, steps: Iterable[Step]) -> ThreadRef:
    ref = a_thread()
    for step in steps:
        step(catalog, ref)
    return ref


def undescribed(stat: ThreadStat) -> CatalogEntry:
    """An entry of which only the stat is known."""
    return CatalogEntry(stat, None, None, None, None, created_at=0.0, active_at=0.0, archived_at=None, erased_at=None)


def nameless(entry: CatalogEntry) -> CatalogEntry:
    return replace(entry, stat=replace(entry.stat, thread_id="-"))


def stamps(rows: Iterable[CatalogRow]) -> list[int]:
    return [row.stamp for row in rows]


def paged(catalog: Catalog, where: CatalogFilter, size: int) -> Iterable[ThreadRef]:
    while entries := catalog.page(where, size):
        assert len(entries) <= size
        for entry in entries:
            ref = ThreadRef(entry.stat.namespace, entry.stat.thread_id)
            yield ref
        where = replace(where, after=ref)
