"""What must hold for any bytes that stand where an archive should, and how to change some so that they get far."""

import random
from collections.abc import Callable

from tests.fuzz.framing import Opened, closed, opened, swapped
from threadkeep.errors import ArchiveCorrupt
from threadkeep.model import Entry, Seal, ThreadRef, checked_record, checked_state
from threadkeep.storage.archive import NO_CHAIN, Frame, outlines, read_frames, seal_tail, verify_content
from threadkeep.storage.hot import Contents
from threadkeep.storage.hot_head import Head, base_fields, identity_fields
from threadkeep.storage.limits import ReadLimits
from threadkeep.storage.parts import entries_of, first_parts, hashes_of
from threadkeep.storage.seals import verify_owner
from threadkeep.storage.tombstones import is_tombstone
from threadkeep.strict_json import dump_json

REF = ThreadRef.of("t")
LIMITS = ReadLimits(64 * 1024 * 1024)
Mutate = Callable[[bytes, int], bytes]


def check(body: bytes) -> bool:
    """Bytes are refused as `ArchiveCorrupt`, or taken and then come out of a new archive as they were.

    Returns:
        Whether they were taken.
    """
    is_tombstone(body)
    try:
        frames = list(read_frames(body, where="key", thread="t", limits=LIMITS))
        hashes = b"".join(verify_content(frame, where="key") for frame in frames)
        if frames:
            verify_owner(frames[-1].seal, REF, where="key")
    except ArchiveCorrupt:
        return False
    told = list(outlines(body, where="key", thread="t", limits=LIMITS))
    assert [each.seal for each in told] == [frame.seal for frame in frames]
    assert b"".join(each.ids for each in told) == hashes
    if frames:
        _comes_back(body, frames, hashes)
    return bool(frames)


def _comes_back(body: bytes, frames: list[Frame], hashes: bytes) -> None:
    seal, records = frames[-1].seal, [record for frame in frames for record in frame.records]
    entries = entries_of(_contents(body, frames), REF, limits=LIMITS)
    assert hashes == hashes_of(entries)
    for entry, record in zip(entries, records, strict=True):
        again = checked_record(entry, max_bytes=len(record) * 6 + 1000)
        assert _said(Entry.from_record(again)) == _said(entry)
    checked_state(seal.state, max_bytes=4 * 1024 * 1024)
    first_parts(_contents(body, frames), len(records) // 2, limits=LIMITS)
    fresh = seal_tail(records, seal, base_count=0, base_chain=NO_CHAIN, level=1)
    (*_, last) = back = list(read_frames(fresh.body, where="key", limits=LIMITS))
    assert [record for frame in back for record in frame.records] == records
    assert _told(last.seal) == _told(seal)


def _said(entry: Entry) -> tuple[str, str, str, bytes, bytes]:
    return entry.id, entry.kind, entry.fmt, dump_json(entry.body), dump_json(entry.meta)


def _told(seal: Seal) -> tuple[object, ...]:
    """What a seal says, but for the chain: one frame has another than several."""
    state = dump_json(seal.state)
    return seal.ref, seal.rev, seal.attempt, seal.born, seal.count, state, seal.codec, seal.labels, seal.forked_from


def _contents(body: bytes, frames: list[Frame]) -> Contents:
    """The thread as Redis would hold it after a hydrate, its head by way of the pairs that a script is given."""
    seal = frames[-1].seal
    state = None if seal.state is None else dump_json(seal.state)
    raw_bytes = sum(len(frame.lines) for frame in frames)
    fields = [
        *identity_fields(codec=seal.codec, state=state, labels=seal.labels, forked_from=seal.forked_from),
        *base_fields(base_bytes=len(body), frames=len(frames), chain=seal.chain, raw_bytes=raw_bytes, log_bytes=0),
        *("rev", seal.rev, "archived", seal.rev, "born", seal.born, "count", seal.count, "base_count", seal.count),
    ]
    head = Head.parse([item if isinstance(item, bytes) else str(item).encode() for item in fields])
    return Contents(head, body, [])


def mutated(body: bytes, size: int, seed: int, mutate: Mutate) -> bytes:
    """Bytes changed so that checksums, chain and counts mostly still fit: what is inside is changed, then framed."""
    dice, frames = random.Random(seed), opened(body)
    if not frames or dice.random() < 0.05:
        return mutate(body, size)
    at = dice.randrange(len(frames))
    if dice.random() < 0.3:
        frames[at : at + 1] = _rearranged(frames[at], dice)
    else:
        frames[at] = _changed(frames[at], size, dice, mutate)
    return closed(frames)[:size]


def _rearranged(frame: Opened, dice: random.Random) -> list[Opened]:
    """Frames of the same records: without one of them, with one twice, or parted into two frames."""
    records = frame.records
    if not records:
        return [frame] * dice.randint(1, 2)
    at = dice.randrange(len(records))
    match dice.randrange(3):
        case 0:
            return [Opened.of(records[:at] + records[at + 1 :], frame.seal)]
        case 1:
            return [Opened.of([*records, records[at]], frame.seal)]
        case _:
            return [Opened.of(records[:at], frame.seal), Opened.of(records[at:], frame.seal)]


def _changed(frame: Opened, size: int, dice: random.Random, mutate: Mutate) -> Opened:
    """The frame with another seal, or another record, mostly still on one line."""

    def change(text: bytes) -> bytes:
        return swapped(text, dice) if dice.random() < 0.6 else mutate(text, size)

    records = frame.records
    if not records or dice.random() < 0.3:
        return Opened(frame.lines, change(frame.seal).replace(b"\n", b" "))
    at = dice.randrange(len(records))
    records[at] = change(records[at])
    if dice.random() < 0.9:
        records[at] = records[at].replace(b"\n", b" ")
    return Opened.of(records, frame.seal)
