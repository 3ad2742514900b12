"""What a flush is about to put: the old frames as they are, and behind them what is new. Pure."""

from dataclasses import dataclass
from itertools import chain

from threadkeep.config import Settings
from threadkeep.model import ArchiveMeta, ThreadRef
from threadkeep.storage.archive import NO_CHAIN, SealedTail, read_frames, seal_tail, should_compact
from threadkeep.storage.hot import Contents, cut
from threadkeep.storage.hot_flow import SealedFlush
from threadkeep.storage.hot_head import Head
from threadkeep.storage.limits import ReadLimits
from threadkeep.storage.parts import log_bytes


@dataclass(frozen=True, slots=True)
class Prepared:
    """Everything to be put and settled: the whole object, and what of it is new."""

    head: Head
    attempt: str
    body: bytes
    meta: ArchiveMeta
    sealed: SealedFlush
    compressed: int


def prepare(ref: ThreadRef, contents: Contents, attempt: str, *, evicting: bool, settings: Settings) -> Prepared:
    """Seal what is new and lay the object out. Compresses the tail alone, unless many small frames become one."""
    head = contents.head
    seal = head.to_seal(ref, attempt)
    compact = should_compact(frames=head.frames, base_bytes=head.base_bytes, evicting=evicting)
    if compact:
        frames = read_frames(contents.base, where=f"base of {ref}", thread=str(ref), limits=ReadLimits.of(settings))
        old = chain.from_iterable(frame.records() for frame in frames)
        fresh = seal_tail(
            chain(old, contents.tail),
            seal,
            base_count=0,
            base_chain=NO_CHAIN,
            level=settings.compression_level,
        )
    else:
        fresh = seal_tail(
            contents.tail,
            seal,
            base_count=head.base_count,
            base_chain=head.chain,
            level=settings.compression_level,
        )
    return _laid_out(contents, attempt, fresh, compact=compact)


def _laid_out(contents: Contents, attempt: str, fresh: SealedTail, *, compact: bool) -> Prepared:
    head = contents.head
    body = fresh.body if compact else contents.base + fresh.body
    raw_bytes = fresh.raw_bytes + (0 if compact else head.raw_bytes)
    sealed = SealedFlush(
        attempt=attempt,
        rev=head.rev,
        records=len(contents.tail),
        record_bytes=log_bytes(contents.tail),
        pieces=cut(fresh.body),
        replaces=compact,
        base_count=fresh.seal.count,
        base_bytes=len(body),
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
    return Prepared(head, attempt, body, meta, sealed, fresh.raw_bytes)
