"""The index of a large frame: a hydrate believes it, so nothing that it says may differ from what the frame holds."""

import hashlib
import random
import re
import sys
from dataclasses import replace

import pytest

from tests.fuzz.framing import INDEX, Opened, compressed, index_behind, next_chain, seal_fields
from threadkeep.config import Settings
from threadkeep.errors import ArchiveCorrupt
from threadkeep.model import ArchiveMeta, Entry, Seal, StoredObject, ThreadRef
from threadkeep.storage.archive import NO_CHAIN, outlines, read_frames, seal_tail, verify_content
from threadkeep.storage.archive_index import INDEXED_BYTES
from threadkeep.storage.hot import Contents
from threadkeep.storage.hot_head import Head
from threadkeep.storage.limits import FRAME_BYTES, ReadLimits
from threadkeep.storage.parts import first_parts
from threadkeep.storage.record_ids import ID_BYTES, id_hash
from threadkeep.storage.records import Records
from threadkeep.strict_json import dump_json
from threadkeep.tasks.examine import judge
from threadkeep.tasks.sealing import prepare

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

REF = ThreadRef.of("t")
SEAL = Seal("messages", "t", 7, "0a", 3, 0, {"step": 1}, NO_CHAIN)
LIMITS = ReadLimits(64 * 1024 * 1024)
CHANCE = random.Random(5)
LARGE = [Entry(f"m{n}", "user", {"content": CHANCE.randbytes(700).hex()}).to_record() for n in range(220)]
SMALL = [Entry(f"s{n}", "user", {"content": f"message {n}"}).to_record() for n in range(3)]


def sealed(records, base=None, **changes):
    count, chain = (base.seal.count, base.seal.chain) if base else (0, NO_CHAIN)
    return seal_tail(records, replace(SEAL, **changes), base_count=count, base_chain=chain)


def frames(body, limits=LIMITS):
    return list(read_frames(body, where="key", limits=limits))


def told(body, limits=LIMITS):
    return list(outlines(body, where="key", limits=limits))


def refused(body, reason):
    """By a hydrate, and by whoever reads."""
    for read in (told, frames):
        with pytest.raises(ArchiveCorrupt, match=reason):
            read(body)


@pytest.fixture(scope="module")
def body():
    """A small frame, a large one and its index, and a small one again."""
    first = sealed(SMALL)
    second = sealed(LARGE, first)
    assert sum(map(len, LARGE)) > INDEXED_BYTES
    return first.body + second.body + sealed([], second).body


def test_a_large_frame_has_an_index_and_a_small_one_has_none(body):
    assert [frame.index is not None for frame in frames(body)] == [False, True, False]
    assert body.count(INDEX) == 1


def test_who_reads_zstd_passes_over_it(body):
    lines = zstd.decompress(body).splitlines()
    assert [line for line in lines if b'{"$threadkeep"' not in line] == [*SMALL, *LARGE]


def test_a_hydrate_learns_from_it_what_reading_tells(body):
    read, outlined = frames(body), told(body)
    assert [(each.seal, each.raw_bytes) for each in outlined] == [(frame.seal, frame.raw_bytes) for frame in read]
    assert [each.ids for each in outlined] == [verify_content(frame, where="key") for frame in read]
    assert outlined[1].ids == b"".join(id_hash(f"m{n}") for n in range(220))
    assert len(outlined[1].ids) == ID_BYTES * 220


def test_every_frame_of_a_long_tail_has_its_own():
    records = [Entry(f"m{n}", "user", "x" * 1_000_000).to_record() for n in range(20)]
    made = sealed(records)
    read, outlined = frames(made.body), told(made.body)
    assert made.frames == len(read) == len(outlined) == 3
    assert [frame.seal.state for frame in read] == [None, None, {"step": 1}]
    assert sum(len(each.ids) for each in outlined) == ID_BYTES * 20
    assert all(frame.raw_bytes <= FRAME_BYTES + 1_000_100 for frame in read)


def test_every_flipped_byte_is_noticed(body):
    small, large, _ = frames(body)
    spots = {*range(large.end - 2200, large.end), *range(large.offset, large.offset + 40)}
    for at in sorted(spots | {CHANCE.randrange(small.end, large.end) for _ in range(200)}):
        damaged = body[:at] + bytes([body[at] ^ 0x40]) + body[at + 1 :]
        for read in (told, frames):
            with pytest.raises(ArchiveCorrupt):
                read(damaged)


def test_every_cut_is_noticed(body):
    _, large, last = frames(body)
    for end in [*range(large.end - 2200, large.end), *range(last.offset + 1, len(body)), large.offset + 99]:
        for read in (told, frames):
            with pytest.raises(ArchiveCorrupt):
                read(body[:end])


def test_an_index_that_is_missing_or_anothers_is_noticed(body):
    _, large, _ = frames(body)
    at = body.index(INDEX)
    index, alone = body[at : large.end], body[:at] + body[large.end :]
    refused(alone, "index of a frame is missing")
    other = sealed(LARGE[::-1], sealed(SMALL)).body
    refused(body[:at] + other[other.index(INDEX) :] + body[large.end :], "digest is wrong")
    refused(body[: large.end] + index + body[large.end :], "no Threadkeep archive")
    refused(body[: large.offset] + index + body[large.offset :], "digest is wrong")
    refused(index + body, "no Threadkeep archive")


def test_a_frame_that_says_it_has_none_is_not_given_one():
    lines, seal = b"".join(record + b"\n" for record in SMALL), {**seal_fields(), "count": 3}
    line = dump_json({"$threadkeep": {**seal, "chain": next_chain(NO_CHAIN, lines)}}) + b"\n"
    stored = compressed(lines + line)
    refused(stored + index_behind(stored, Opened.of(SMALL, line), line), "not its own")


def lying(seal=None, line=None, own=None, **lies):
    """One frame, and an index whose digest is right and whose other facts are not."""
    lines = b"".join(record + b"\n" for record in SMALL)
    fields = {**seal_fields(v=3), "count": 3, "chain": next_chain(NO_CHAIN, lines), **(own or {})}
    last = dump_json({"$threadkeep": fields}) + b"\n"
    stored = compressed(lines + last)
    other = dump_json({"$threadkeep": {**fields, **seal}}) + b"\n" if seal else last if line is None else line
    return stored + index_behind(stored, Opened.of(SMALL, last), other, **lies)


LIES = {
    "another digest": ({"digest": hashlib.sha256(b"").digest()}, "chain of digests"),
    "fewer bytes": ({"raw_bytes": 200}, r"not as long|what its index says"),
    "no bytes": ({"raw_bytes": 0}, "has room for, or none"),
    "a petabyte": ({"raw_bytes": 2**50}, r"not as long|what its index says"),
    "fewer ids": ({"ids": b"12345678"}, r"counts 3 messages, not 1|what its index says"),
    "more ids": ({"ids": b"12345678" * 4}, r"counts 3 messages, not 4|what its index says"),
    "more ids than it has room for": ({"ids": b"12345678" * 4_000}, "has room for, or none"),
    "no ids": ({"ids": b""}, "has room for, or none"),
    "no seal": ({"line": b""}, "does not end in a seal"),
    "another line": ({"line": b"{}\n"}, "does not end in a seal"),
    "another state": ({"seal": {"state": {"step": 2222}}}, r"not as long|what its index says"),
    "an older version": ({"seal": {"v": 2}}, "not its own"),
    "a newer version": ({"seal": {"v": 4}}, "version 4 is none of"),
    "another count": ({"seal": {"count": 2}}, r"counts 2 messages, not 3|what its index says"),
}


def test_the_index_that_those_are_made_from_is_sound():
    assert [each.ids for each in told(lying())] == [b"".join(id_hash(f"s{n}") for n in range(3))]
    assert len(frames(lying())) == 1


@pytest.mark.parametrize("name", LIES)
def test_an_index_that_lies_is_refused(name):
    lies, reason = LIES[name]
    refused(lying(**lies), reason)


def test_what_a_hydrate_cannot_see_a_reader_or_a_verification_does():
    """Only who can write into the bucket can do that: the digests are right."""
    swapped = lying(seal={"state": {"step": 2}})  # as long as the frame's own
    assert told(swapped)[0].seal.state == {"step": 2}
    with pytest.raises(ArchiveCorrupt, match="what its index says"):
        frames(swapped)
    misnamed = lying(ids=b"".join(id_hash(f"x{n}") for n in range(3)))
    (frame,) = frames(misnamed)
    assert told(misnamed)[0].ids == frame.index.ids
    with pytest.raises(ArchiveCorrupt, match="what its index says"):
        verify_content(frame, where="key")
    meta = ArchiveMeta.of_seal(frame.seal, raw_bytes=frame.raw_bytes)
    stored = StoredObject("key", "etag", len(misnamed), meta, 0.0)
    assert judge(REF, stored, misnamed, limits=LIMITS).verdict == "corrupt"


@pytest.mark.parametrize("size", [0, 80, 2**31, 2**32 - 1])
def test_an_index_that_says_another_size_is_refused(body, size):
    at = body.index(INDEX) + 4
    refused(body[:at] + size.to_bytes(4, "little") + body[at + 4 :], "cut short or damaged|digest is wrong")


def test_an_index_that_counts_more_records_than_there_are_bytes_is_refused():
    made = lying()
    at = made.index(INDEX) + 8
    said = bytearray(made[at + 32 :])
    said[40:48] = (2**60).to_bytes(8, "big")
    digest = hashlib.sha256(made[: at - 8] + said).digest()
    refused(made[:at] + digest + said, "more records than it names")


def test_nothing_may_stand_behind_the_seal_of_an_index():
    made = lying()
    at = made.index(INDEX)
    said = made[at + 40 :] + b"more"
    digest = hashlib.sha256(made[:at] + said).digest()
    refused(made[: at + 4] + (32 + len(said)).to_bytes(4, "little") + digest + said, "does not end with a seal")


def test_records_that_an_index_does_not_vouch_for_are_not_sealed_anew():
    """Only who can write into the bucket can do that: the chain is that of other records."""
    forged = lying(digest=hashlib.sha256(b"other").digest(), own={"chain": next_chain(NO_CHAIN, b"other")})
    assert len(told(forged)) == len(frames(forged)) == 1
    head = Head(rev=8, archived=7, gen="0a", born=3, count=3, base_count=3, base_bytes=len(forged), frames=1)
    with pytest.raises(ArchiveCorrupt, match="what its index says"):
        prepare(REF, head, forged, [], "0b", compact=True, settings=Settings())
    with pytest.raises(ArchiveCorrupt, match="what its index says"):
        first_parts(Contents(head, forged, []), 1, limits=LIMITS)


@pytest.mark.parametrize("count", [2, 4])
def test_who_reads_the_records_of_a_frame_counts_them(count):
    miscounted = frames(lying(own={"count": count}, ids=b"12345678" * count))
    for read in (Records.lines, Records.entries, lambda records: records.entries(1), lambda records: records.at([0])):
        with pytest.raises(ArchiveCorrupt, match=r"not 2|not 4|as many"):
            read(Records(REF, miscounted, []))


def test_a_thread_that_is_too_large_is_refused_before_it_is_unpacked():
    made = sealed([Entry(f"m{n}", "user", "x" * 1_000_000).to_record() for n in range(20)])
    for read in (told, frames):
        with pytest.raises(ArchiveCorrupt, match="MAX_THREAD_BYTES"):
            read(made.body, ReadLimits(9_000_000))


def test_nothing_of_a_refusal_repeats_what_was_stored(body):
    secret = re.escape(LARGE[0][60:90].decode())
    for at in (5000, body.index(INDEX) + 100):
        with pytest.raises(ArchiveCorrupt) as error:
            told(body[:at] + b"!" + body[at + 1 :])
        assert not re.search(secret, str(error.value))
