"""Reads a thread from whichever tier has it: without a lease, without bringing it back, changing nothing."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Literal

from threadkeep.errors import ThreadErased, ThreadNotFound
from threadkeep.model import Entry, JsonObject, Seal, StoredObject, ThreadRef, fresh_mark
from threadkeep.storage.archive import NO_CHAIN, read_frames, seal_tail
from threadkeep.storage.hot import Contents
from threadkeep.storage.limits import ReadLimits
from threadkeep.storage.link import run_now as now
from threadkeep.storage.parts import records_of
from threadkeep.storage.seals import verify_owner
from threadkeep.storage.snapshot_v1 import read_v1
from threadkeep.storage.tombstones import is_tombstone
from threadkeep.tasks.stores import Stores


@dataclass(frozen=True)
class Found:
    """A thread as one of the tiers holds it.

    Attributes:
        where: The tier that it was read from.
        archive: Its bytes in the archive's format; frames of its own where it was not archived as it is.
        seal: The last one's: what the thread is besides its messages.
        records: One line of JSON for each message.
        dirty: Whether Redis holds something that the archive does not have.
    """

    ref: ThreadRef
    where: Literal["redis", "s3"]
    archive: bytes
    seal: Seal
    records: list[bytes]
    dirty: bool

    @cached_property
    def entries(self) -> list[Entry]:
        """The messages, oldest first."""
        parse = partial(Entry.from_record, where=f"a record of {self.ref}", thread=str(self.ref))
        return [parse(record) for record in self.records]

    @property
    def state(self) -> JsonObject | None:
        """The thread's state."""
        return self.seal.state


def read_thread(stores: Stores, ref: ThreadRef, *, archived: bool = False) -> Found:
    """The thread from Redis if it is there, else from S3; with `archived`, what S3 holds, without asking Redis.

    Raises:
        ThreadNotFound: it is in neither.
        ThreadErased: it is being erased.
        ArchiveCorrupt: the object is damaged.
    """
    if not archived:
        if now(stores.hot.look(ref)).status == "erasing":
            raise ThreadErased(str(ref))
        contents = now(stores.hot.read(ref))
        if contents is not None:
            return _from_redis(ref, contents, stores)
    found = stores.cold.get(ref)
    if found is None:
        return _from_v1(stores, ref)
    stored, body = found
    if (stored.meta is not None and stored.meta.tombstone) or is_tombstone(body):
        raise ThreadNotFound(str(ref))
    return _from_s3(ref, stored, body, ReadLimits.of(stores.settings))


def broken_parts(stores: Stores, ref: ThreadRef) -> list[str]:
    """What is missing in Redis of a thread that is only half there, and may be newer than its archive."""
    remains = now(stores.hot.look(ref)).remains
    return remains.broken if remains is not None and remains.dirty else []


def read_archive(body: bytes, *, where: str, limits: ReadLimits, thread: str = "") -> tuple[Seal | None, list[bytes]]:
    """The last seal and all records of frames that need not belong to a thread of ours; None of nothing."""
    seal, records = None, list[bytes]()
    for frame in read_frames(body, where=where, thread=thread, limits=limits):
        seal = frame.seal
        records += frame.records
    return seal, records


def _from_redis(ref: ThreadRef, contents: Contents, stores: Stores) -> Found:
    head = contents.head
    records = records_of(contents, ref, limits=ReadLimits.of(stores.settings)).lines()
    seal = head.to_seal(ref, fresh_mark())
    tail = seal_tail(contents.tail, seal, base_count=head.base_count, base_chain=head.chain)
    return Found(ref, "redis", contents.base + tail.body, tail.seal, records, head.dirty)


def _from_s3(ref: ThreadRef, stored: StoredObject, body: bytes, limits: ReadLimits) -> Found:
    seal, records = read_archive(body, where=stored.key, thread=str(ref), limits=limits)
    if seal is None:
        raise ThreadNotFound(str(ref))
    verify_owner(seal, ref, where=stored.key)
    return Found(ref, "s3", body, seal, records, dirty=False)


def _from_v1(stores: Stores, ref: ThreadRef) -> Found:
    """A snapshot of zeitlich's, if the settings say to look for those."""
    found = stores.cold.get_v1(ref) if stores.settings.v1_fallback else None
    if found is None:
        raise ThreadNotFound(str(ref))
    key, body = found
    snapshot = read_v1(body, thread=str(ref), where=key, limits=ReadLimits.of(stores.settings))
    records = [entry.to_record() for entry in snapshot.entries]
    seal = Seal(ref.namespace, ref.thread_id, 0, fresh_mark(), 0, 0, snapshot.state, NO_CHAIN, codec=snapshot.codec)
    tail = seal_tail(records, seal, base_count=0, base_chain=NO_CHAIN)
    return Found(ref, "s3", tail.body, tail.seal, records, dirty=False)


def last(entries: list[Entry], count: int | None) -> Iterator[tuple[int, Entry]]:
    """The last `count` messages with their numbers, counted from 1; all where `count` is None."""
    skip = 0 if count is None else max(0, len(entries) - count)
    return ((number, entry) for number, entry in enumerate(entries, 1) if number > skip)
