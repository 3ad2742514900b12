"""The archive format: independent zstd frames of NDJSON, each ending in a seal; concatenated, one valid zstd stream.

`zstdcat thread.ndjson.zst | jq -c .` shows all of it. The chain of digests lets every frame be checked on its own, so
a flush seals what is new without reading what is old.
"""

import hashlib
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Final, cast

from threadkeep.errors import ArchiveCorrupt, ArchiveTooNew
from threadkeep.model import MAX_MESSAGE_ID, MAX_REVISION, Entry, Seal, ThreadRef, checked_labels, dump_json, load_json
from threadkeep.storage.limits import FRAME_BYTES, SEAL_BYTES, ReadLimits

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

SEAL_VERSION: Final = 2
TOMBSTONE_BYTES: Final = 4096
"""A tombstone is smaller than this."""
NO_CHAIN: Final = ""
"""The chain before the first frame."""

_TOMBSTONE_START: Final = b'{"$threadkeep_erased":'
_SEAL_START: Final = b'{"$threadkeep":'
_RECORD_START: Final = b'{"v":1,"id":"'
_KIND_START: Final = b'","kind":"'
_ZSTD_MAGIC: Final = b"\x28\xb5\x2f\xfd"
_READING: Final[dict[int, int]] = {zstd.DecompressionParameter.window_log_max: 23}
"""No level that can be set makes windows beyond 8 MiB; a frame's header alone must not make a reader take more."""
_CHUNK: Final = 1024 * 1024
_PRINTABLE: Final = re.compile(r"[ -~]{1,128}")


@dataclass(frozen=True, slots=True)
class Frame:
    """One verified frame.

    Attributes:
        offset: Bytes of the object before it.
        size: Its compressed bytes.
        records: Its records, lines of JSON without their newlines; none if it only carries a seal.
        raw_bytes: Their bytes, with the newlines.
        seal: Its last line.
    """

    offset: int
    size: int
    records: list[bytes]
    raw_bytes: int
    seal: Seal

    @property
    def end(self) -> int:
        return self.offset + self.size

    @property
    def lines(self) -> bytes:
        """The records as NDJSON; a copy."""
        return b"\n".join((*self.records, b"")) if self.records else b""


@dataclass(frozen=True, slots=True)
class SealedTail:
    """What sealing made.

    Attributes:
        body: One or more frames.
        seal: The last of their seals.
        frames: How many frames.
        raw_bytes: Records that were compressed, with their newlines; how much work the sealing was.
    """

    body: bytes
    seal: Seal
    frames: int
    raw_bytes: int


@dataclass(frozen=True, slots=True)
class Tombstone:
    """What stands in an erased thread's place: its address, the revision of its erasure, and whose request it was."""

    namespace: str
    thread_id: str
    rev: int
    request: str


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
    body, raw = list[bytes](), 0
    count, chain = base_count, base_chain
    for lines, lines_count, closing in _framed(records):
        count, raw = count + lines_count, raw + len(lines)
        chain = next_chain(chain, lines)
        own = replace(seal, count=count, chain=chain, state=seal.state if closing else None)
        body.append(_compress(lines + _seal_line(own), level))
    return SealedTail(b"".join(body), own, len(body), raw)


def next_chain(previous: str, lines: bytes | memoryview) -> str:
    """Hex sha256(previous chain ‖ sha256 of a frame's records)."""
    return hashlib.sha256(bytes.fromhex(previous) + hashlib.sha256(lines).digest()).hexdigest()


def read_frames(
    body: bytes, *, where: str, thread: str = "", limits: ReadLimits, chain: str = NO_CHAIN
) -> Iterator[Frame]:
    """The frames of an object, each verified before it is yielded; holds one frame's records at a time.

    What the records say is not looked at: see `record_hashes`.

    Args:
        body: Whole frames: an archive object, or a thread's base in Redis.
        where: The object's key, for errors.
        thread: The thread, for errors.
        limits: How much it may unpack to; what exceeds that is refused as a bomb.
        chain: What the first frame's chain continues.

    Raises:
        ArchiveCorrupt: torn, damaged, out of chain, written by a newer version, or beyond the limits.
    """
    offset, count, found, budget = 0, 0, 0, limits.thread
    view = memoryview(body)
    while offset < len(body):
        found += 1
        if found > limits.frames:
            reason = f"it has more than the {limits.frames:,} frames that THREADKEEP_MAX_THREAD_BYTES may need"
            raise ArchiveCorrupt(thread, where, reason)
        size = _frame_size(view[offset:], where, thread)
        raw = _decompress(view[offset : offset + size], budget, limits, where, thread)
        raw_bytes, seal = _split(raw, where, thread)
        chain = next_chain(chain, memoryview(raw)[:raw_bytes])
        frame = Frame(offset, size, raw.split(b"\n")[:-2], raw_bytes, seal)
        budget, count = budget - raw_bytes, count + len(frame.records)
        del raw
        if frame.seal.chain != chain:
            raise ArchiveCorrupt(thread, where, f"the frame at byte {offset} does not continue the chain of digests")
        if frame.seal.count != count:
            raise ArchiveCorrupt(
                thread, where, f"the frame at byte {offset} counts {frame.seal.count} messages, not {count}"
            )
        yield frame
        offset += size


def verify_owner(seal: Seal, ref: ThreadRef, *, where: str) -> None:
    """Refuse an object that speaks for another thread.

    Raises:
        ArchiveCorrupt: the last seal names another address.
    """
    if (seal.namespace, seal.thread_id) != (ref.namespace, ref.thread_id):
        raise ArchiveCorrupt(str(ref), where, "its seal names another thread; objects were swapped or copied")


def is_archive(body: bytes) -> bool:
    return body.startswith(_ZSTD_MAGIC)


def tombstone(ref: ThreadRef, *, rev: int, request: str) -> bytes:
    """The bytes that stand in an erased thread's place; `zstdcat` shows them too."""
    fields = {
        "v": SEAL_VERSION,
        "namespace": ref.namespace,
        "id": ref.thread_id,
        "rev": rev,
        "request": request,
    }
    return _compress(dump_json({"$threadkeep_erased": fields}) + b"\n", 3)


def is_tombstone(body: bytes) -> bool:
    """Whether all that an object's content says is that its thread was erased, even where its metadata was lost."""
    if len(body) > TOMBSTONE_BYTES or not is_archive(body):
        return False
    decompressor = zstd.ZstdDecompressor(options=_READING)
    try:
        text = decompressor.decompress(body, max_length=TOMBSTONE_BYTES)
    except zstd.ZstdError:
        return False
    return text.startswith(_TOMBSTONE_START) and b"\n" not in text[:-1] and not decompressor.unused_data


def read_tombstone(body: bytes) -> Tombstone | None:
    """What a tombstone says, checked to its last byte; None if it is none, or a damaged one."""
    if len(body) > TOMBSTONE_BYTES or not is_archive(body):
        return None
    decompressor = zstd.ZstdDecompressor(options=_READING)
    try:
        line = decompressor.decompress(body, max_length=TOMBSTONE_BYTES)
        if not decompressor.eof or decompressor.unused_data or not line.startswith(_TOMBSTONE_START):
            return None
        fields = load_json(line.removesuffix(b"\n"), wrapped=2)["$threadkeep_erased"]
        ref, rev = ThreadRef(fields["namespace"], fields["id"]), fields["rev"]
        if type(rev) is not int or not 0 <= rev < MAX_REVISION or not isinstance(fields["request"], str):
            return None
        return Tombstone(ref.namespace, ref.thread_id, rev, fields["request"])
    except (zstd.ZstdError, ValueError, KeyError, TypeError):
        return None


def record_hashes(frame: Frame, *, where: str, thread: str = "") -> bytes:
    """The 16-byte hashes of the ids of a frame's records, in order, each of which is verified.

    Raises:
        ArchiveCorrupt: a record is not what `checked_record` makes.
    """
    return b"".join([id_hash(Entry.from_record(each, where=where, thread=thread).id) for each in frame.records])


def id_hashes(frame: Frame, *, where: str, thread: str = "") -> bytes:
    """What `record_hashes` returns, some ten times as fast: what stands behind the id is left to whoever reads it.

    The chain of digests has shown that the records are what was written.

    Raises:
        ArchiveCorrupt: a record does not begin as `checked_record` makes it.
    """
    hashes: list[bytes] = []
    for record in frame.records:
        end = record.find(b'"', len(_RECORD_START))
        message_id = record[len(_RECORD_START) : end]
        plain = record.startswith(_RECORD_START) and record.startswith(_KIND_START, end) and record.endswith(b"}")
        if plain and 0 < len(message_id) <= MAX_MESSAGE_ID and b"\\" not in message_id:
            hashes.append(hashlib.blake2b(message_id, digest_size=16).digest())
        else:
            hashes.append(id_hash(Entry.from_record(record, where=where, thread=thread).id))
    return b"".join(hashes)


def id_hash(message_id: str) -> bytes:
    """16 bytes that stand for a message id in Redis."""
    return hashlib.blake2b(message_id.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def should_compact(*, frames: int, base_bytes: int, evicting: bool) -> bool:
    """Whether a flush should rewrite all frames as one.

    Always from 256 frames on. When evicting also where sixteen or more frames hold less than 32 KiB each on average,
    since small frames compress badly and the base is about to leave Redis anyway.
    """
    return frames >= 256 or (evicting and frames >= 16 and base_bytes < frames * 32 * 1024)


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


def _compress(raw: bytes, level: int) -> bytes:
    options: dict[int, int] = {
        zstd.CompressionParameter.compression_level: level,
        zstd.CompressionParameter.checksum_flag: 1,
    }
    return zstd.compress(raw, options=options)


def _frame_size(view: memoryview, where: str, thread: str) -> int:
    if bytes(view[:4]) != _ZSTD_MAGIC:
        raise ArchiveCorrupt(thread, where, "it is no Threadkeep archive, or is torn between two frames")
    try:
        return zstd.get_frame_size(view)
    except zstd.ZstdError:
        raise ArchiveCorrupt(thread, where, "its last frame is cut short or damaged") from None


def _decompress(frame: memoryview, budget: int, limits: ReadLimits, where: str, thread: str) -> bytes:
    by_ratio = limits.frame(len(frame))
    most = min(by_ratio, budget + SEAL_BYTES)
    decompressor = zstd.ZstdDecompressor(options=_READING)
    try:
        small = _unpacked_size(frame, most) <= most
        raw = decompressor.decompress(frame, max_length=most + 1) if small else b""
    except zstd.ZstdError:
        raise ArchiveCorrupt(thread, where, "a frame is damaged: its checksum or coding is wrong") from None
    if not small or len(raw) > most:
        setting = "THREADKEEP_MAX_ARCHIVE_RATIO" if most == by_ratio else "THREADKEEP_MAX_THREAD_BYTES"
        raise ArchiveCorrupt(thread, where, f"it decompresses to more than {setting} allows")
    if not decompressor.eof:
        raise ArchiveCorrupt(thread, where, "a frame is cut short")
    return raw


def _unpacked_size(frame: memoryview, most: int) -> int:
    """Bytes that a frame says it decompresses to, as all do that are written here; of others they are counted.

    More than `most` is not counted to its end. Holds no more than a chunk.
    """
    told = cast("int | None", zstd.get_frame_info(frame).decompressed_size)  # its stub knows no None
    if told is not None:
        return told
    decompressor, size = zstd.ZstdDecompressor(options=_READING), 0
    chunk = decompressor.decompress(frame, max_length=_CHUNK)
    while chunk and size <= most:
        size += len(chunk)
        chunk = b"" if decompressor.eof else decompressor.decompress(b"", max_length=_CHUNK)
    return size


def _split(raw: bytes, where: str, thread: str) -> tuple[int, Seal]:
    """Where the records end, and the seal behind them."""
    start = raw.rfind(b"\n", 0, len(raw) - 1) + 1
    line = raw[start:]
    if not line.startswith(_SEAL_START) or not line.endswith(b"\n"):
        raise ArchiveCorrupt(thread, where, "a frame does not end in a seal")
    if len(line) > SEAL_BYTES:
        raise ArchiveCorrupt(thread, where, "a seal is larger than any can be")
    return start, _parse_seal(line[:-1], where, thread)


def _seal_line(seal: Seal) -> bytes:
    fields: dict[str, Any] = {
        "v": SEAL_VERSION,
        "namespace": seal.namespace,
        "id": seal.thread_id,
        "rev": seal.rev,
        "attempt": seal.attempt,
        "born": seal.born,
        "count": seal.count,
        "codec": seal.codec,
        "state": seal.state,
        "labels": seal.labels,
        "forked_from": seal.forked_from,
        "chain": seal.chain,
    }
    return dump_json({"$threadkeep": fields}) + b"\n"


def _parse_seal(line: bytes, where: str, thread: str) -> Seal:
    try:
        fields = load_json(line, wrapped=2)["$threadkeep"]
        version = fields["v"]
        if type(version) is int and 0 <= version < 1000 and version != SEAL_VERSION:
            raise ArchiveTooNew(
                thread, where, f"its format version {version} is not the {SEAL_VERSION} that this version reads"
            )
        return _seal_of(fields)
    except (ValueError, KeyError, TypeError):
        raise ArchiveCorrupt(thread, where, "a seal is malformed") from None


def _seal_of(fields: dict[str, Any]) -> Seal:
    """The seal that these fields tell, if each of them is of its type and can be kept anywhere."""
    for name, kinds in _SEAL_FIELDS.items():
        if type(fields[name]) not in kinds:  # not isinstance: True is no number here
            raise TypeError(name)
    if fields["v"] != SEAL_VERSION:
        raise ValueError("v")
    ref = ThreadRef(fields["namespace"], fields["id"])
    if not all(0 <= fields[name] < MAX_REVISION for name in ("rev", "born", "count")):
        raise ValueError("a number is out of range")
    if not _PRINTABLE.fullmatch(fields["codec"]) or not _PRINTABLE.fullmatch(fields["attempt"]):
        raise ValueError("a name is malformed")
    if fields["forked_from"] is not None:
        ThreadRef.from_member(fields["forked_from"])
    return Seal(
        namespace=ref.namespace,
        thread_id=ref.thread_id,
        rev=fields["rev"],
        attempt=fields["attempt"],
        born=fields["born"],
        count=fields["count"],
        state=fields["state"],
        chain=fields["chain"],
        codec=fields["codec"],
        labels=checked_labels(fields["labels"]),
        forked_from=fields["forked_from"],
    )


_SEAL_FIELDS: Final = {
    "v": (int,),
    "namespace": (str,),
    "id": (str,),
    "rev": (int,),
    "attempt": (str,),
    "born": (int,),
    "count": (int,),
    "codec": (str,),
    "state": (dict, type(None)),
    "labels": (dict,),
    "forked_from": (str, type(None)),
    "chain": (str,),
}
