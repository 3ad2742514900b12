"""The archive format: what is sealed reads back, and everything else is refused by name."""

import dataclasses
import json
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.framing import next_chain
from threadkeep.errors import ArchiveCorrupt
from threadkeep.model import Entry, Seal, ThreadRef
from threadkeep.storage.archive import NO_CHAIN, read_frames, seal_tail, should_compact, verify_content
from threadkeep.storage.limits import FRAME_BYTES, ReadLimits
from threadkeep.storage.record_ids import id_hash, ids_in
from threadkeep.storage.seals import verify_owner
from threadkeep.storage.tombstones import is_tombstone, tombstone

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

REF = ThreadRef.of("t")
SEAL = Seal("messages", "t", 7, "0a", 3, 0, {"step": 1}, NO_CHAIN)
LIMITS = ReadLimits(64 * 1024 * 1024)

texts = st.text(st.characters(), max_size=60)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**80), 2**80) | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=8,
)
entries = st.lists(
    st.builds(Entry, st.text(st.characters(), min_size=1, max_size=30), st.sampled_from(["user", "tool"]), values),
    max_size=12,
)


def sealed(records, *, base=None, seal=SEAL):
    count, chain = (base.seal.count, base.seal.chain) if base else (0, NO_CHAIN)
    return seal_tail(records, seal, base_count=count, base_chain=chain)


def frames(body, limits=LIMITS):
    return list(read_frames(body, where="key", thread="t", limits=limits))


def records(number, start=0):
    return [Entry(f"m{n}", "user", {"content": f"message {n}"}).to_record() for n in range(start, start + number)]


@given(entries, entries)
@settings(max_examples=60)
def test_any_json_reads_back_from_frames_put_behind_each_other(first, second):
    base = sealed([entry.to_record() for entry in first])
    tail = sealed([entry.to_record() for entry in second], base=base)
    read = frames(base.body + tail.body)
    back = [Entry.from_record(record) for frame in read for record in frame.records]
    assert back == [*first, *second]
    assert read[-1].seal.count == len(back)
    hashes = b"".join(verify_content(frame, where="key") for frame in read)
    assert hashes == b"".join(id_hash(entry.id) for entry in back)


def test_all_frames_are_one_stream_of_json_lines():
    base = sealed(records(3))
    body = base.body + sealed(records(2, 3), base=base).body
    lines = zstd.decompress(body).splitlines()
    assert ["$threadkeep" in json.loads(line) for line in lines] == [False] * 3 + [True] + [False] * 2 + [True]


def test_a_long_tail_becomes_several_frames_of_bounded_size():
    many = [Entry(f"m{n}", "user", "x" * 1_000_000).to_record() for n in range(20)]
    tail = sealed(many)
    read = frames(tail.body)
    assert tail.frames == len(read) == 3
    assert all(len(frame.lines) <= FRAME_BYTES + 1_000_100 for frame in read)
    assert [frame.seal.state for frame in read] == [None, None, {"step": 1}]
    assert read[-1].seal.count == 20


def test_a_state_alone_is_sealed_too():
    base = sealed(records(2))
    tail = sealed([], base=base)
    read = frames(base.body + tail.body)
    assert [frame.seal.count for frame in read] == [2, 2]
    assert tail.raw_bytes == 0


@pytest.fixture(scope="module")
def body():
    base = sealed(records(40))
    return base.body + sealed(records(40, 40), base=base).body


def test_every_flipped_byte_is_noticed(body):
    silent = []
    for at in range(len(body)):
        damaged = bytearray(body)
        damaged[at] ^= 0x01
        try:
            frames(bytes(damaged))
        except ArchiveCorrupt:
            continue
        silent.append(at)
    assert silent == []


def test_every_cut_inside_a_frame_is_noticed(body):
    first = frames(body)[0].end
    for end in [*range(1, first), *range(first + 1, len(body))]:
        with pytest.raises(ArchiveCorrupt):
            frames(body[:end])


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"no archive at all", "no Threadkeep archive"),
        (zstd.compress(b'{"v":1,"id":"m"}\n'), "does not end in a seal"),
        (zstd.compress(b""), "does not end in a seal"),
        (zstd.compress(b'{"$threadkeep":{"v":3}}\n'), "index of a frame is missing"),
        (zstd.compress(b'{"$threadkeep":{"v":4}}\n'), "version 4 is none of"),
        (zstd.compress(b'{"$threadkeep":{"v":2}}\n'), "malformed"),
        (zstd.compress(b'{"$threadkeep":7}\n'), "malformed"),
    ],
)
def test_what_is_no_archive_is_refused_by_name(body, reason):
    with pytest.raises(ArchiveCorrupt, match=reason):
        frames(body)


def test_a_frame_that_is_missing_or_swapped_is_noticed(body):
    first, second = frames(body)
    cut = body[second.offset :]
    with pytest.raises(ArchiveCorrupt, match="chain"):
        frames(cut)
    with pytest.raises(ArchiveCorrupt, match="chain"):
        frames(cut + body[: first.end])


def test_a_wrong_count_is_noticed():
    line = b'{"v":1,"id":"m","kind":"user","fmt":"plain","body":1,"meta":{}}\n'
    tail = sealed([line[:-1]])
    raw = zstd.decompress(tail.body).replace(b'"count":1', b'"count":2')
    with pytest.raises(ArchiveCorrupt, match="counts 2 messages, not 1"):
        frames(zstd.compress(raw))


def test_a_bomb_is_refused_before_it_goes_off():
    with pytest.raises(ArchiveCorrupt, match="MAX_THREAD_BYTES"):
        frames(zstd.compress(b"0" * 50_000_000), ReadLimits(1_000_000))


def test_an_object_speaks_for_one_thread():
    with pytest.raises(ArchiveCorrupt, match="another thread"):
        verify_owner(SEAL, ThreadRef.of("other"), where="key")
    verify_owner(dataclasses.replace(SEAL, rev=9), REF, where="key")


def test_a_chain_depends_on_all_that_came_before():
    one, two = (Entry(name, "user", name).to_record() for name in "ab")
    first = seal_tail([one], SEAL, base_count=0, base_chain=NO_CHAIN).seal
    behind = seal_tail([two], SEAL, base_count=1, base_chain=first.chain).seal
    alone = seal_tail([two], SEAL, base_count=0, base_chain=NO_CHAIN).seal
    assert (first.chain, behind.chain) == (next_chain(NO_CHAIN, one + b"\n"), next_chain(first.chain, two + b"\n"))
    assert behind.chain != alone.chain


def test_a_tombstone_is_known_by_its_content(body):
    assert is_tombstone(tombstone(REF, rev=1, request="r"))
    assert not is_tombstone(body)
    assert not is_tombstone(b"{}")


@pytest.mark.parametrize(
    ("n", "size", "evicting", "compact"),
    [
        (1, 10**3, True, False),
        (16, 10**4, True, True),
        (16, 10**4, False, False),
        (16, 10**8, True, False),
        (256, 10**8, False, True),
    ],
)
def test_small_frames_are_compacted_when_they_leave_and_many_always(n, size, evicting, compact):
    assert should_compact(frames=n, base_bytes=size, evicting=evicting) is compact


ODD_IDS = ["m1", "a b", 'say "hi"', "back\\slash", "é", "\ud800", "\n", "x" * 512, "toolu_01", "{", '","kind":"']


def test_ids_are_found_in_records_that_are_not_parsed():
    entries = [Entry(message_id, "user", {"role": "user", "content": message_id}) for message_id in ODD_IDS]
    (frame,) = read_frames(sealed([entry.to_record() for entry in entries]).body, where="key", limits=LIMITS)
    found = ids_in(frame.lines, frame.raw_bytes, where="key")
    assert found == verify_content(frame, where="key") == b"".join(id_hash(entry.id) for entry in entries)


@pytest.mark.parametrize(
    "record",
    [
        b"{}",
        b'{"v":1,"id":"","kind":"user","fmt":"plain","body":{},"meta":{}}',
        b'{"v":2,"id":"m","kind":"user","fmt":"plain","body":{},"meta":{}}',
        b'{"v":1,"id":"m"}',
        b'{"v":1,"id":"' + b"x" * 513 + b'","kind":"user","fmt":"plain","body":{},"meta":{}}',
        b'{"v":1,"id":"m","kind":"user","fmt":"plain","body":{},"meta":',
        b"",
    ],
)
def test_a_record_that_does_not_begin_as_one_is_refused(record):
    (frame,) = read_frames(sealed([record]).body, where="key", limits=LIMITS)
    with pytest.raises(ArchiveCorrupt, match="malformed"):
        ids_in(frame.lines, frame.raw_bytes, where="key")
