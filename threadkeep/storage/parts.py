"""What a thread is put together from: nothing, another thread's parts, or the first so many messages of it. Pure."""

from collections.abc import Sequence
from typing import Any

from threadkeep.errors import ArchiveCorrupt
from threadkeep.model import Entry, ThreadRef
from threadkeep.storage.archive import NO_CHAIN, proven_records, read_frames
from threadkeep.storage.hot import Contents, Parts
from threadkeep.storage.hot_head import base_fields
from threadkeep.storage.limits import ReadLimits
from threadkeep.storage.record_ids import ID_BYTES, id_hash
from threadkeep.storage.records import Records


def plain_parts(records: Sequence[bytes], ids: bytes, fields: Sequence[Any] = ()) -> Parts:
    """Parts of a thread without a base: all its records lie in the log."""
    size = log_bytes(records)
    described = base_fields(base_bytes=0, frames=0, chain=NO_CHAIN, raw_bytes=0, log_bytes=size)
    return Parts(b"", 0, records, ids, [*described, *fields])


def whole_parts(contents: Contents, fields: Sequence[Any] = ()) -> Parts:
    """A copy of everything, the base as it is stored."""
    head = contents.head
    described = base_fields(
        base_bytes=head.base_bytes,
        frames=head.frames,
        chain=head.chain,
        raw_bytes=head.raw_bytes,
        log_bytes=log_bytes(contents.tail),
    )
    return Parts(contents.base, head.base_count, contents.tail, contents.ids, [*described, *fields])


def first_parts(contents: Contents, keep: int, *, limits: ReadLimits, fields: Sequence[Any] = ()) -> Parts:
    """The first `keep` messages: frames that lie wholly among them stay a base, the others' records become the log."""
    head = contents.head
    if keep >= head.base_count:
        cut_tail = contents.tail[: keep - head.base_count]
        return whole_parts(Contents(head, contents.base, cut_tail, contents.ids[: ID_BYTES * keep]), fields)
    end = frames = count = raw = 0
    chain, log = NO_CHAIN, list[bytes]()
    where = "the thread's base in Redis"
    for frame in read_frames(contents.base, where=where, limits=limits):
        if frame.seal.count > keep:
            log = proven_records(frame, where=where)[: keep - count]
            break
        end, frames, count, chain = frame.end, frames + 1, frame.seal.count, frame.seal.chain
        raw += frame.raw_bytes
    described = base_fields(base_bytes=end, frames=frames, chain=chain, raw_bytes=raw, log_bytes=log_bytes(log))
    return Parts(contents.base[:end], count, log, contents.ids[: ID_BYTES * keep], [*described, *fields])


def records_of(contents: Contents, ref: ThreadRef, *, limits: ReadLimits) -> Records:
    """All records, those of the base decompressed and verified.

    Raises:
        ArchiveCorrupt: the base in Redis is damaged.
    """
    frames = list(read_frames(contents.base, where=f"base of {ref} in Redis", thread=str(ref), limits=limits))
    if sum(frame.count for frame in frames) != contents.head.base_count:
        raise ArchiveCorrupt(str(ref), f"base of {ref} in Redis", "it does not hold the messages that its head counts")
    return Records(ref, frames, contents.tail)


def entries_of(contents: Contents, ref: ThreadRef, *, limits: ReadLimits) -> list[Entry]:
    """All messages of a thread.

    Raises:
        ArchiveCorrupt: the base in Redis, or a record there, is damaged.
    """
    return records_of(contents, ref, limits=limits).entries()


def hashes_of(entries: Sequence[Entry]) -> bytes:
    return b"".join([id_hash(entry.id) for entry in entries])


def log_bytes(records: Sequence[bytes]) -> int:
    """Bytes of records as a log counts them: each with its newline."""
    return sum(map(len, records)) + len(records)
