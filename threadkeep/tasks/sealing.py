"""What a flush is about to put: the old frames as they are, and behind them what is new. Pure."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain

from threadkeep.config import Settings
from threadkeep.model import ArchiveMeta, ThreadRef
from threadkeep.storage.archive import NO_CHAIN, SealedTail, proven_records, read_frames, seal_tail, should_compact
from threadkeep.storage.hot import cut
from threadkeep.storage.hot_flow import SealedFlush
from threadkeep.storage.hot_head import Head
from threadkeep.storage.limits import ReadLimits


@dataclass(frozen=True, slots=True)
class Prepared:
    """Everything to be put and settled: the whole object, or what comes behind the stored one's first bytes.

    Attributes:
        body: The object; without its first `kept` bytes where these stay where they are.
        kept: Bytes that the object with the head's ETag already begins with; 0 where `body` is all of it.
        compressed: Bytes of records that had to be compressed.
    """

    head: Head
    attempt: str
    body: bytes
    kept: int
    meta: ArchiveMeta
    sealed: SealedFlush
    compressed: int


def compacts(head: Head, *, evicting: bool) -> bool:
    """Whether a flush of this thread makes one frame of all."""
    return should_compact(frames=head.frames, base_bytes=head.base_bytes, evicting=evicting)


def prepare(
    ref: ThreadRef,
    head: Head,
    base: bytes | None,
    records: Iterable[bytes],
    attempt: str,
    *,
    compact: bool,
    settings: Settings,
) -> Prepared:
    """Seal what is new and lay the object out. Compresses the tail alone, unless many small frames become one.

    Args:
        ref: The thread.
        head: What is to be archived.
        base: Its frames; None where the stored object begins with them and keeps them.
        records: Those behind the base; read once, a frame's worth at a time.
        attempt: This flush's.
        compact: Whether to make one frame of all; then `base` is needed.
        settings: Level and limits.
    """
    seal = head.to_seal(ref, attempt)
    if compact:
        old = _records_of(base or b"", ref, ReadLimits.of(settings))
        level = settings.compression_level
        fresh = seal_tail(chain(old, records), seal, base_count=0, base_chain=NO_CHAIN, level=level)
    else:
        fresh = seal_tail(
            records,
            seal,
            base_count=head.base_count,
            base_chain=head.chain,
            level=settings.compression_level,
        )
    return _laid_out(head, base, attempt, fresh, compact=compact)


def _records_of(base: bytes, ref: ThreadRef, limits: ReadLimits) -> Iterator[bytes]:
    """The records of all frames, which a new seal will vouch for."""
    named = {"where": f"base of {ref}", "thread": str(ref)}
    for frame in read_frames(base, limits=limits, **named):
        yield from proven_records(frame, **named)


def _laid_out(head: Head, base: bytes | None, attempt: str, fresh: SealedTail, *, compact: bool) -> Prepared:
    kept = head.base_bytes if base is None else 0
    body = fresh.body if compact or not base else base + fresh.body
    raw_bytes = fresh.raw_bytes + (0 if compact else head.raw_bytes)
    sealed = SealedFlush(
        attempt=attempt,
        rev=head.rev,
        records=fresh.seal.count - head.base_count,
        record_bytes=head.log_bytes,
        pieces=cut(fresh.body),
        replaces=compact,
        base_count=fresh.seal.count,
        base_bytes=kept + len(body),
        frames=fresh.frames + (0 if compact else head.frames),
        chain=fresh.seal.chain,
        raw_bytes=raw_bytes,
    )
    meta = ArchiveMeta(
        rev=head.rev,
        attempt=attempt,
        chain=fresh.seal.chain,
        count=fresh.seal.count,
        born=head.born,
        raw_bytes=raw_bytes,
    )
    return Prepared(head, attempt, body, kept, meta, sealed, fresh.raw_bytes)
