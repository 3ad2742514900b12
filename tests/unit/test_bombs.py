"""No archive is small to store and large to read: what grows beyond its limits is refused in bounded memory."""

import hashlib
import subprocess
import sys
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.framing import INDEX, zstd
from threadkeep.config import LARGEST_MESSAGE, Settings
from threadkeep.errors import ArchiveCorrupt
from threadkeep.model import Entry, Seal
from threadkeep.storage.archive import NO_CHAIN, read_frames, seal_tail
from threadkeep.storage.limits import FRAME_BYTES, SEAL_BYTES, ReadLimits

LIMITS = ReadLimits(64 * 1024 * 1024)
MIB = 1024 * 1024
SEAL = Seal("messages", "t", 7, "0a", 3, 0, {"step": 1}, NO_CHAIN)


@given(st.integers(1, LARGEST_MESSAGE), st.integers(1, 10**6), st.integers(1, 10**9))
def test_what_is_written_under_the_same_settings_is_never_refused(message, ratio, size):
    largest_frame = max(FRAME_BYTES, message) + 1 + SEAL_BYTES
    assert ReadLimits(2**40, message, ratio).frame(size) >= largest_frame


@given(st.integers(0, 2**40))
def test_no_size_and_no_ratio_let_a_frame_exceed_what_the_largest_message_makes_it(size):
    assert ReadLimits(2**60, LARGEST_MESSAGE, 10**9).frame(size) <= FRAME_BYTES + LARGEST_MESSAGE + SEAL_BYTES


@pytest.mark.parametrize(
    ("message_mib", "limits"),
    [
        (8, ReadLimits(2048 * MIB)),
        (40, ReadLimits(2048 * MIB, message=40 * MIB, ratio=1)),
        (16, ReadLimits(2048 * MIB, message=1, ratio=1)),  # written when larger messages were allowed
    ],
)
def test_the_most_compressible_message_is_no_bomb(message_mib, limits):
    entry = Entry("m1", "user", "x" * (message_mib * MIB - 100))
    made = seal_tail([entry.to_record()], SEAL, base_count=0, base_chain=NO_CHAIN)
    (frame,) = read_frames(made.body, where="key", limits=limits)
    assert len(frame.lines) / zstd.get_frame_size(made.body) > 10_000
    assert frame.records == [entry.to_record()]


@pytest.mark.parametrize("level", [1, 3, 9, 19])
def test_every_level_writes_frames_that_a_reader_has_room_for(level):
    records = [Entry(f"m{n}", "user", "x" * (3 * MIB)).to_record() for n in range(5)]
    made = seal_tail(records, SEAL, base_count=0, base_chain=NO_CHAIN, level=level)
    assert sum(len(frame.records) for frame in read_frames(made.body, where="key", limits=ReadLimits(20 * MIB))) == 5


def test_a_thread_of_as_many_small_frames_as_there_may_be_is_read():
    limits, body, count, chain = ReadLimits(64 * MIB), [], 0, NO_CHAIN
    for number in range(255):  # one more, and a flush writes them anew as one
        made = seal_tail([Entry(f"m{number}", "user", {}).to_record()], SEAL, base_count=count, base_chain=chain)
        body.append(made.body)
        count, chain = made.seal.count, made.seal.chain
    large = [Entry(f"l{n}", "user", "x" * 5 * MIB).to_record() for n in range(12)]
    body.append(seal_tail(large, SEAL, base_count=count, base_chain=chain).body)
    assert sum(1 for _ in read_frames(b"".join(body), where="key", limits=limits)) == 267


def frame(blocks, header=b"\0\x38"):
    """A zstd frame, by hand: a header that says a window of 128 KiB and nothing else, then blocks."""
    return b"\x28\xb5\x2f\xfd" + header + blocks


def zeros(blocks):
    """A frame of run-length blocks, each 4 bytes for 128 KiB."""
    block, last = (((131072 << 3) | kind).to_bytes(3, "little") + b"\0" for kind in (2, 3))
    return frame(block * (blocks - 1) + last)


def claiming(size, blocks=b"\1\0\0"):
    """A frame whose header says how much it holds."""
    return frame(blocks, b"\xc0\x38" + size.to_bytes(8, "little"))


def windowed(log):
    """A frame of one byte whose header asks for a window of 2^log bytes."""
    return frame(((1 << 3) | 1).to_bytes(3, "little") + b"x", bytes([0, (log - 10) << 3]))


def gzipped(mib, start=b""):
    """A gzip stream of so many MiB of one letter, without its end."""
    packer = zlib.compressobj(9, wbits=31)
    head = packer.compress(start) + packer.flush(zlib.Z_FULL_FLUSH)
    return head + (packer.compress(b"x" * MIB) + packer.flush(zlib.Z_FULL_FLUSH)) * mib


def chained(number):
    """Frames of nothing but a seal, each behind the one before."""
    body, chain = [], NO_CHAIN
    for _ in range(number):
        made = seal_tail([], SEAL, base_count=0, base_chain=chain, level=1)
        body.append(made.body)
        chain = made.seal.chain
    return b"".join(body)


def indexed(seal, records=0):
    """A frame, and an index whose digest is right, with this in the place of its seal."""
    stored = chained(1)
    said = bytes(32) + (0).to_bytes(8, "big") + records.to_bytes(8, "big") + seal
    digest = hashlib.sha256(stored + said).digest()
    return stored + INDEX + (32 + len(said)).to_bytes(4, "little") + digest + said


SKIPPABLE = b"\x50\x2a\x4d\x18"
BOMBS = {
    "4 GiB of zeros in one frame": (lambda: zeros(32_768), "MAX_ARCHIVE_RATIO"),
    "GiBs of zeros in a row": (lambda: zeros(8_192) * 64, "MAX_ARCHIVE_RATIO"),
    "a frame that says it holds 2^60 bytes": (lambda: claiming(2**60), "MAX_ARCHIVE_RATIO"),
    "a frame that says it holds less than it does": (lambda: claiming(9, zeros(32_768)[6:]), "damaged"),
    "a frame that says it holds more than it does": (lambda: claiming(10 * MIB), "does not end in a seal"),
    "a window of 2 GiB": (lambda: windowed(31), "damaged"),
    "a window of 128 MiB": (lambda: windowed(27), "damaged"),
    "a window of 16 MiB": (lambda: windowed(24), "damaged"),
    "millions of empty blocks": (lambda: frame(bytes(3) * 5_000_000 + b"\1\0\0"), "does not end in a seal"),
    "thousands of frames": (lambda: chained(2_000), "more than the 576 frames"),
    "a skippable frame of 4 GiB": (lambda: SKIPPABLE + b"\xff" * 4 + bytes(99), "no Threadkeep archive"),
    "a million skippable frames": (lambda: (SKIPPABLE + bytes(4)) * 1_000_000, "no Threadkeep archive"),
    "an index of 4 GiB": (lambda: chained(1) + INDEX + b"\xff" * 4 + bytes(99), "an index is cut short"),
    "a million indexes": (lambda: chained(1) + (INDEX + (80).to_bytes(4, "little") + bytes(80)) * 10_000, "digest"),
    "an index whose seal is a bomb": (lambda: indexed(zeros(32_768)), "MAX_THREAD_BYTES"),
    "an index of 2^60 records": (lambda: indexed(b"", records=2**60), "more records than it names"),
    "a dictionary that nobody has": (lambda: frame(bytes(99), b"\3\x38\1\2\3\4"), "damaged"),
    "4 GiB in a gzip stream": (lambda: gzipped(4_096), "MAX_THREAD_BYTES"),
    "200 MiB of a snapshot": (lambda: gzipped(200, b'{"v":1,"messages":["'), "MAX_ARCHIVE_RATIO"),
    "a gzip stream without an end": (lambda: gzipped(9), "cut short"),
}

READS = """
import resource, sys
from pathlib import Path
from threadkeep.errors import ArchiveCorrupt
from threadkeep.storage.archive import outlines, read_frames, verify_content
from threadkeep.storage.limits import ReadLimits
from threadkeep.storage.snapshot_v1 import read_v1
from threadkeep.storage.tombstones import is_tombstone

def peak():
    status = Path("/proc/self/status")
    if status.exists():  # elsewhere told with what the process was before it was this one
        return int(status.read_text().split("VmHWM:")[1].split()[0]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 / 1024

def told(body):
    is_tombstone(body)
    try:
        if body.startswith(b"\\x1f\\x8b"):
            read_v1(body, thread="t", where="key", limits=limits)
        for _ in outlines(body, where="key", limits=limits):
            pass
        for frame in read_frames(body, where="key", limits=limits):
            verify_content(frame, where="key")
    except ArchiveCorrupt as refused:
        return refused.reason
    return "taken"

limits = ReadLimits(int(sys.argv[1]), ratio=int(sys.argv[2]))
for path in sys.argv[3:]:
    body = Path(path).read_bytes()
    before = peak()
    reason = told(body)
    print(peak() - before, reason, sep=": ")
"""


def read_apart(folder, bodies, limits):
    """MiB by which the memory of a process of its own grows when it reads each of these, and what it says of it."""
    paths = [folder / f"{number}" for number in range(len(bodies))]
    for path, body in zip(paths, bodies, strict=True):
        path.write_bytes(body)
    command = [sys.executable, "-c", READS, str(limits.thread), str(limits.ratio), *map(str, paths)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    told = [line.split(": ", 1) for line in ran.stdout.splitlines()]
    return [(float(grown), reason) for grown, reason in told]


def test_no_bomb_goes_off(tmp_path, record_property):
    bodies = {name: make() for name, (make, _) in BOMBS.items()}
    names = sorted(bodies, key=lambda name: len(bodies[name]))
    ran = read_apart(tmp_path, [bodies[name] for name in names], ReadLimits(256 * MIB, ratio=150))
    for name, (_, reason) in zip(names, ran, strict=True):
        assert BOMBS[name][1] in reason, (name, reason)
    grown = sum(each for each, _ in ran)
    assert grown < 64, f"reading bombs took {grown:.0f} MiB"
    record_property("proof", f"{len(BOMBS)} bombs of up to 4 GiB refused; reading all of them took {grown:.1f} MiB")


def test_a_frame_that_is_taken_costs_a_few_times_what_it_holds(tmp_path, record_property):
    entry = Entry("m1", "user", "x" * (20 * MIB))
    body = seal_tail([entry.to_record()], SEAL, base_count=0, base_chain=NO_CHAIN).body
    ((grown, reason),) = read_apart(tmp_path, [body], ReadLimits(256 * MIB))
    assert reason == "taken"
    assert 20 < grown < 8 * 20
    record_property(
        "proof", f"{len(body):,} bytes that hold a message of 20 MiB took {grown:.0f} MiB to read and verify"
    )


def test_a_bomb_within_the_total_is_refused_for_its_ratio_and_a_large_thread_for_its_size():
    zeros = seal_tail([Entry("m1", "user", "x" * 40 * MIB).to_record()], SEAL, base_count=0, base_chain=NO_CHAIN).body
    with pytest.raises(ArchiveCorrupt, match="THREADKEEP_MAX_ARCHIVE_RATIO"):
        list(read_frames(zeros, where="key", limits=ReadLimits(100 * MIB)))
    with pytest.raises(ArchiveCorrupt, match="THREADKEEP_MAX_THREAD_BYTES"):
        list(read_frames(zeros, where="key", limits=ReadLimits(10 * MIB)))
    assert len(list(read_frames(zeros, where="key", limits=ReadLimits(100 * MIB, ratio=100_000)))) == 1


def test_the_limits_are_those_of_the_settings():
    changed = Settings.load(max_thread_bytes=10**7, max_message_bytes=10**5, max_archive_ratio=7)
    assert ReadLimits.of(changed) == ReadLimits(10**7, 10**5, 7)
    assert ReadLimits.of(Settings.load()) == ReadLimits(2048 * MIB)
