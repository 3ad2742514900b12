"""Mend: what only Redis had of a half-lost thread is still there, so what is missing can be made from the archive."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final, Literal

from threadkeep.errors import ArchiveCorrupt
from threadkeep.model import ThreadRef
from threadkeep.storage.archive import NO_CHAIN, Frame, proven_records, read_frames, seal_tail, verify_content
from threadkeep.storage.hot import cut
from threadkeep.storage.hot_flow import HydrateStart, Mending
from threadkeep.storage.hot_head import Head
from threadkeep.storage.hot_remains import Remains
from threadkeep.storage.limits import ReadLimits
from threadkeep.storage.link import run_now as now
from threadkeep.storage.record_ids import ID_BYTES, ids_of
from threadkeep.tasks.loading import Absent, Loaded, load
from threadkeep.tasks.outcome import Outcome
from threadkeep.tasks.stores import Stores


@dataclass(frozen=True, slots=True)
class Base:
    """A base as a head describes it, and the hashes of its message ids."""

    body: bytes
    frames: int
    chain: str
    raw_bytes: int
    ids: bytes

    def mending(self, tail_ids: bytes) -> Mending:
        """With the ids of the records behind it."""
        described = ["base_bytes", len(self.body), "frames", self.frames]
        fields = [*described, "chain", self.chain, "raw_bytes", self.raw_bytes]
        return Mending(cut(self.body), self.ids + tail_ids, fields)


NOTHING: Final = Base(b"", 0, NO_CHAIN, 0, b"")


def mend(stores: Stores, ref: ThreadRef, start: HydrateStart) -> Outcome | Literal["again"] | None:
    """Make a dirty thread whole whose head and log are: its base and its ids are proven to be the ones it had.

    Returns:
        How it ended; `again` if the thread changed meanwhile; None if there is nothing to mend, or no proof.

    Raises:
        ArchiveCorrupt: the object that would be needed is damaged.
    """
    remains = start.remains
    if remains is None or remains.head is None or not remains.mendable:
        return None
    head = remains.head
    base = _base(stores, ref, remains, head)
    log = now(stores.hot.log(ref, head))
    if base is None or len(log) != head.tail_count:
        return None if base is None else "again"
    mending = base.mending(ids_of(log, where=f"a record of {ref} in Redis", thread=str(ref)))
    if "ids" not in remains.broken and now(stores.hot.ids(ref)) != mending.ids:
        return None
    status = now(stores.flow.mend(ref, start.ticket, head, mending))
    if status == "mended":
        stores.note(ref, "mended", {"rev": head.rev, "count": head.count, "broken": remains.broken})
    return Outcome(status, rev=head.rev, count=head.count) if status in ("mended", "present", "erasing") else "again"


def _base(stores: Stores, ref: ThreadRef, remains: Remains, head: Head) -> Base | None:
    """The base that the head describes: none, the one in Redis, or an archive's; a fork's also that of its source."""
    if head.base_count == 0:
        return NOTHING
    limits = ReadLimits.of(stores.settings)
    if "base" not in remains.broken:
        body, where = now(stores.hot.base(ref, head.pieces)), f"base of {ref} in Redis"
        with suppress(ArchiveCorrupt):
            found = proven_prefix(body, head, where=where, limits=limits)
            if found is not None:
                return found
    found = _archived_base(load(stores, ref), head, ref, stores)
    if found is None and head.forked_from:
        with suppress(ArchiveCorrupt):  # of another thread: nothing that this one's readers need to know
            found = _archived_base(load(stores, ThreadRef.from_member(head.forked_from)), head, ref, stores)
    return found


def _archived_base(loaded: Loaded | Absent, head: Head, ref: ThreadRef, stores: Stores) -> Base | None:
    if isinstance(loaded, Absent):
        return None
    body, where, limits = b"".join(loaded.copy.pieces), f"the archive of {ref}", ReadLimits.of(stores.settings)
    found = proven_prefix(body, head, where=where, limits=limits)
    if found is not None or not continues(head, loaded):
        return found
    frames = read_frames(body, where=where, thread=str(ref), limits=limits)
    return _framed_anew(frames, head, ref, level=stores.settings.compression_level, ids=loaded.copy.ids)


def proven_prefix(body: bytes, head: Head, *, where: str, limits: ReadLimits) -> Base | None:
    """The first frames of an object, up to the one that brings it to the head's count and chain.

    The chain is a digest over all records before it and over how they were framed, so nothing else has the same.

    Raises:
        ArchiveCorrupt: the object is damaged before that frame.
    """
    raw, ids = 0, list[bytes]()
    for number, frame in enumerate(read_frames(body, where=where, limits=limits), 1):
        raw += frame.raw_bytes
        ids.append(verify_content(frame, where=where))
        if (frame.seal.count, frame.seal.chain) == (head.base_count, head.chain):
            return Base(body[: frame.end], number, head.chain, raw, b"".join(ids))
        if frame.seal.count > head.base_count:
            return None
    return None


def continues(head: Head, loaded: Loaded) -> bool:
    """Whether an object begins with the records of the head's base, however it was framed.

    So it does if its flush is listed in the head: that flush read this base, or a longer one that was cut since; one
    that settled after it would have taken it from the list. And so does the object that the head itself was settled on.
    """
    if loaded.stored is None or loaded.seal.count < head.base_count:
        return False
    settled = loaded.stored.etag == head.etag and loaded.seal.rev == head.archived
    return settled or head.lists(loaded.seal.attempt)


def _framed_anew(frames: Iterator[Frame], head: Head, ref: ThreadRef, *, level: int, ids: bytes) -> Base:
    """The first records of an object in frames of their own, since its frames end elsewhere."""
    where = f"an archive of {ref}"
    records = [record for frame in frames for record in proven_records(frame, where=where, thread=str(ref))]
    seal = replace(head.to_seal(ref, attempt=head.gen), rev=head.archived, state=None)
    tail = seal_tail(records[: head.base_count], seal, base_count=0, base_chain=NO_CHAIN, level=level)
    return Base(tail.body, tail.frames, tail.seal.chain, tail.raw_bytes, ids[: ID_BYTES * head.base_count])
