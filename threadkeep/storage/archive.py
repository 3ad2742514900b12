"""The archive format: independent zstd frames of NDJSON, each ending in a seal; concatenated, one valid zstd stream.

`zstdcat thread.ndjson.zst | jq -c .` shows all of it. The chain of digests lets every frame be checked on its own, so
a flush seals what is new without reading what is old.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Final, NamedTuple, Protocol

from threadkeep.errors import ArchiveCorrupt
from threadkeep.model import Seal
from threadkeep.storage.archive_index import INDEXED_BYTES, Index, index_bytes, index_of, read_index
from threadkeep.storage.framing import compressed, frame_size, unpacked, unpacked_size, within
from threadkeep.storage.limits import FRAME_BYTES, ReadLimits
from threadkeep.storage.record_ids import ids_in, ids_of
from threadkeep.storage.seals import parse_seal, seal_line

NO_CHAIN: Final = ""
"""The chain before the first frame."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One verified frame.

    Attributes:
        offset: Bytes of the object before it.
        size: Its stored bytes, those of its index included.
        text: What it unpacks to: its records, lines of JSON, then its seal.
        raw_bytes: Bytes of the records, with their newlines.
        count: How many records, as the index says if there is one; none if it only carries a seal.
        seal: Its last line.
        index: What stands behind it, if something does.
    """

    offset: int
    size: int
    text: bytes
    raw_bytes: int
    count: int
    seal: Seal
    index: Index | None = None

    @property
    def end(self) -> int:
        return self.offset + self.size

    @property
    def digest(self) -> bytes:
        """sha256 of the records with their newlines."""
        return hashlib.sha256(memoryview(self.text)[: self.raw_bytes]).digest()

    @property
    def lines(self) -> bytes:
        """The records as NDJSON; a copy."""
        return self.text[: self.raw_bytes]

    @property
    def records(self) -> list[bytes]:
        """The records one by one, without their newlines; copies."""
        return self.text.split(b"\n")[:-2]


@dataclass(frozen=True, slots=True)
class Outline:
    """One verified frame without its records.

    Attributes:
        raw_bytes: Bytes of its records, with the newlines.
        ids: The hashes of their ids.
        seal: Its last line.
    """

    raw_bytes: int
    ids: bytes
    seal: Seal


@dataclass(frozen=True, slots=True)
class SealedTail:
    """What sealing made.

    Attributes:
        body: One or more frames, and the indexes of those that are large.
        seal: The last of their seals.
        frames: How many frames.
        raw_bytes: Records that were compressed, with their newlines; how much work the sealing was.
    """

    body: bytes
    seal: Seal
    frames: int
    raw_bytes: int


def seal_tail(records: Iterable[bytes], seal: Seal, *, base_count: int, base_chain: str, level: int = 3) -> SealedTail:
    """Compress records behind `base_count` others into frames, the last one sealed with `seal`.

    Holds one frame's records at a time, and what came of those before.

    Args:
        records: Lines of JSON without newlines; may be empty, since a new state alone is sealed too.
        seal: All but `count` and `chain`, which are computed here.
        base_count: Messages in the frames before these.
        base_chain: Chain of the last of those frames, or `NO_CHAIN`.
        level: zstd level.
    """
    body, frames, raw = list[bytes](), 0, 0
    count, chain = base_count, base_chain
    for lines, lines_count, closing in _framed(records):
        digest = hashlib.sha256(lines).digest()
        count, raw, frames = count + lines_count, raw + len(lines), frames + 1
        chain = _next(chain, digest)
        own = replace(seal, count=count, chain=chain, state=seal.state if closing else None)
        indexed = len(lines) >= INDEXED_BYTES
        line = seal_line(own, indexed=indexed)
        body.append(compressed(lines + line, level=level))
        if indexed:
            ids = ids_in(lines, len(lines), where="a record that is sealed")
            body.append(index_of(body[-1], digest=digest, raw_bytes=len(lines), ids=ids, line=line, level=level))
    return SealedTail(b"".join(body), own, frames, raw)


def read_frames(
    body: bytes, *, where: str, thread: str = "", limits: ReadLimits, chain: str = NO_CHAIN
) -> Iterator[Frame]:
    """The frames of an object, each verified before it is yielded; holds one frame's text at a time.

    What the records say is not looked at, nor whether an index says the same: see `verify_content`.

    Args:
        body: Whole frames: an archive object, or a thread's base in Redis.
        where: The object's key, for errors.
        thread: The thread, for errors.
        limits: How much it may unpack to; what exceeds that is refused as a bomb.
        chain: What the first frame's chain continues.

    Raises:
        ArchiveCorrupt: torn, damaged, out of chain, written by a newer version, or beyond the limits.
    """
    course = _Course(limits, where, thread, chain)
    for stored in _stored_frames(body, limits, where, thread):
        frame = _opened(stored, course)
        course.go_on(frame.offset, stored.facts or frame)
        yield frame


def outlines(body: bytes, *, where: str, thread: str = "", limits: ReadLimits) -> Iterator[Outline]:
    """As `read_frames`, without records; frames that have an index are verified by its digest and not unpacked.

    Raises:
        ArchiveCorrupt: as there; whether a frame that is not unpacked holds what its index says, its reader will see.
    """
    course = _Course(limits, where, thread, NO_CHAIN)
    for stored in _stored_frames(body, limits, where, thread):
        index = stored.facts
        if index is None:
            frame = _opened(stored, course)
            course.go_on(stored.offset, frame)
            yield Outline(frame.raw_bytes, ids_in(frame.text, frame.raw_bytes, where=where, thread=thread), frame.seal)
            continue
        most = within(stored.bytes, course.budget, limits, where=where, thread=thread)
        if unpacked_size(stored.bytes, most) != index.raw_bytes + len(index.line):
            raise course.refused(stored.offset, "is not as long as its index says")
        course.go_on(stored.offset, index)
        yield Outline(index.raw_bytes, index.ids, index.seal)


def verify_content(frame: Frame, *, where: str, thread: str = "") -> bytes:
    """The hashes of the ids of a frame's records, after each record was parsed, and the index compared with them.

    Raises:
        ArchiveCorrupt: a record is not what `checked_record` makes, or the index is another's.
    """
    ids = ids_of(proven_records(frame, where=where, thread=thread), where=where, thread=thread)
    if frame.index is not None and frame.index.ids != ids:
        raise ArchiveCorrupt(thread, where, f"the frame at byte {frame.offset} does not hold what its index says")
    return ids


def proven_records(frame: Frame, *, where: str, thread: str = "") -> list[bytes]:
    """The records of a frame for whoever seals them anew, after their digest was compared with what its index says.

    Raises:
        ArchiveCorrupt: they differ: somebody else wrote the index, and the chain is that of other records.
    """
    if frame.index is not None and frame.index.digest != frame.digest:
        raise ArchiveCorrupt(thread, where, f"the frame at byte {frame.offset} does not hold what its index says")
    return frame.records


def should_compact(*, frames: int, base_bytes: int, evicting: bool) -> bool:
    """Whether a flush should rewrite all frames as one.

    Always from 256 frames on. When evicting also where sixteen or more frames hold less than 32 KiB each on average,
    since small frames compress badly and the base is about to leave Redis anyway.
    """
    return frames >= 256 or (evicting and frames >= 16 and base_bytes < frames * 32 * 1024)


class _Facts(Protocol):
    """What a frame or its index says of the frame's records."""

    @property
    def seal(self) -> Seal: ...
    @property
    def count(self) -> int: ...
    @property
    def raw_bytes(self) -> int: ...
    @property
    def digest(self) -> bytes: ...


class _Course:
    """What came before a frame, which the next one must continue."""

    def __init__(self, limits: ReadLimits, where: str, thread: str, chain: str) -> None:
        self.limits, self.where, self.thread = limits, where, thread
        self.budget = limits.thread
        self._count = 0
        self._chain = chain

    def go_on(self, offset: int, facts: _Facts) -> None:
        """One frame further."""
        self._chain = _next(self._chain, facts.digest)
        self._count += facts.count
        self.budget -= facts.raw_bytes
        if facts.seal.chain != self._chain:
            raise self.refused(offset, "does not continue the chain of digests")
        if facts.seal.count != self._count:
            raise self.refused(offset, f"counts {facts.seal.count} messages, not {self._count}")

    def refused(self, offset: int, what: str) -> ArchiveCorrupt:
        return ArchiveCorrupt(self.thread, self.where, f"the frame at byte {offset} {what}")


class _Stored(NamedTuple):
    """A frame as it lies in an object, from `offset` to the `end` of its index, if it has one."""

    offset: int
    end: int
    bytes: memoryview
    facts: Index | None


def _stored_frames(body: bytes, limits: ReadLimits, where: str, thread: str) -> Iterator[_Stored]:
    view, offset, found = memoryview(body), 0, 0
    while offset < len(body):
        found += 1
        if found > limits.frames:
            reason = f"it has more than the {limits.frames:,} frames that THREADKEEP_MAX_THREAD_BYTES may need"
            raise ArchiveCorrupt(thread, where, reason)
        end = offset + frame_size(view[offset:], where=where, thread=thread)
        frame, behind = view[offset:end], view[end:]
        size = index_bytes(behind, where=where, thread=thread)
        index = read_index(frame, behind[:size], where=where, thread=thread) if size else None
        yield _Stored(offset, end + size, frame, index)
        offset = end + size


def _opened(stored: _Stored, course: _Course) -> Frame:
    where, thread, index = course.where, course.thread, stored.facts
    text = unpacked(stored.bytes, course.budget, course.limits, where=where, thread=thread)
    raw_bytes = text.rfind(b"\n", 0, len(text) - 1) + 1
    line = text[raw_bytes:]
    if index is None:
        seal, count = parse_seal(line, where=where, thread=thread), text.count(b"\n", 0, raw_bytes)
    elif (line, raw_bytes) == (index.line, index.raw_bytes):
        seal, count = index.seal, index.count  # whoever reads the records counts them: that takes a third of unpacking
    else:
        raise ArchiveCorrupt(thread, where, "a frame does not hold what its index says")
    return Frame(stored.offset, stored.end - stored.offset, text, raw_bytes, count, seal, index)


def _framed(records: Iterable[bytes]) -> Iterator[tuple[bytes, int, bool]]:
    """The lines of one frame after the other, how many they are, and whether they are the last."""
    batch: list[bytes] = []
    size = 0
    for record in records:
        if batch and size + len(record) > FRAME_BYTES:
            yield b"\n".join((*batch, b"")), len(batch), False
            batch, size = [], 0
        batch.append(record)
        size += len(record) + 1
    yield b"\n".join((*batch, b"")) if batch else b"", len(batch), True


def _next(previous: str, digest: bytes) -> str:
    return hashlib.sha256(bytes.fromhex(previous) + digest).hexdigest()
