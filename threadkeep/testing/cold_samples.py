"""Threads and archives that the cold store's contract is tried on."""

from threadkeep.model import ArchiveMeta, StoredObject, ThreadRef, fresh_mark
from threadkeep.storage.ports import ColdStore

REF = ThreadRef("messages", "ticket-42")
UNUSUAL = [
    ThreadRef("messages", "нить-😀-é"),
    ThreadRef("tenant/a", "b/c"),
    ThreadRef("tenant", "a/b/c"),
    ThreadRef(".", ".."),
    ThreadRef("messages", "../up"),
    ThreadRef("messages", "100%25 {sure}"),
    ThreadRef("messages", "a?b#c%20d+e&f=g;h,i@j:k$l!m'(n)*"),
    ThreadRef("messages", " spaces  and\u00a0such "),
    ThreadRef("messages", "x.ndjson.zst"),
    ThreadRef("n" * 200, "i" * 235),
]


def make_meta(rev: int, *, attempt: str | None = None, tombstone: bool = False) -> ArchiveMeta:
    """Metadata of some archive at this revision, by an attempt of its own."""
    if tombstone:
        return ArchiveMeta(rev, attempt or fresh_mark(), chain="", count=0, born=0, tombstone=True)
    count = rev % 1000
    return ArchiveMeta(rev, attempt or fresh_mark(), chain="c" * 64, count=count, born=1, raw_bytes=10 * count)


def put_over(store: ColdStore, ref: ThreadRef, rev: int, *, tombstone: bool = False) -> StoredObject:
    """Put a revision over whatever is stored."""
    there = store.head(ref)
    meta = make_meta(rev, tombstone=tombstone)
    return store.put(ref, body_of(meta), meta=meta, based_on=there.etag if there else None)


def body_of(meta: ArchiveMeta) -> bytes:
    return f"{meta.rev} by {meta.attempt}".encode()
