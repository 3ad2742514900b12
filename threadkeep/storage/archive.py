"""The archive format: independent zstd frames of NDJSON, each ending in a seal; concatenated, one valid zstd stream.

`zstdcat thread.ndjson.zst | jq -c .` shows all of it. The chain of digests lets every frame be checked on its own, so
a flush seals what is new without reading what is old.
"""

import hashlib
import json
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

from threadkeep.errors import ArchiveCorrupt
from threadkeep.model import Seal, ThreadRef, dump_json

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

SEAL_VERSION: Final = 2
FRAME_BYTES: Final = 8 * 1024 * 1024
"""Records of one flush beyond this many raw bytes are split into several frames, which bounds a reader's memory."""
TOMBSTONE_BYTES: Final = 4096
"""A tombstone is smaller than this."""
SEAL_BYTES: Final = 5 * 1024 * 1024
"""A seal is smaller than this: it holds a state of at most 4 MiB, and labels."""
NO_CHAIN: Final = ""
"""The chain before the first frame."""

_TOMBSTONE_START: Final = b'{"$threadkeep_erased":'
_SEAL_START: Final = b'{"$threadkeep":'
_ZSTD_MAGIC: Final = b"\x28\xb5\x2f\xfd"
_PLAIN_ID: Final = re.compile(rb'^\{"v":1,"id":"([^"\\]*)"', re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Frame:
    """One verified frame.

    Attributes:
        offset: Bytes of the object before it.
        size: Its compressed bytes.
        lines: Its records as NDJSON, each line ended; empty if it only carries a seal.
        seal: Its last line.
    """

    offset: int
    size: int
    lines: bytes
    seal: Seal

    @property
    def end(self) -> int:
        return self.offset + self.size

    def records(self) -> list[bytes]:
        return self.lines.split(b"\n")[:-1]


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


def seal_tail(records: Iterable[bytes], seal: Seal, *, base_count: int, base_chain: str, level: int = 3) -> SealedTail:
    """Compress records behind `base_count` others into frames, the last one sealed with `seal`.

    Args:
        records: Lines of JSON without newlines; may be empty, since a new state alone is sealed too.
        seal: All but `count` and `chain`, which are computed here.
        base_count: Messages in the frames before these.
        base_chain: Chain of the last of those frames, or `NO_CHAIN`.
        level: zstd level.
    """
    body, frames, raw = [], 0, 0
    count, chain = base_count, base_chain
    batches = list(_batches(records))
    for index, batch in enumerate(batches):
        count += len(batch)
        lines = b"".join([record + b"\n" for record in batch])
        chain = next_chain(chain, lines)
        closing = index == len(batches) - 1
        own = replace(seal, count=count, chain=chain, state=seal.state if closing else None)
        body.append(_compress(lines + _seal_line(own), level))
        frames, raw = frames + 1, raw + len(lines)
    return SealedTail(b"".join(body), own, frames, raw)


def next_chain(previous: str, lines: bytes) -> str:
    """Hex sha256(previous chain ‖ sha256 of a frame's records)."""
    return hashlib.sha256(bytes.fromhex(previous) + hashlib.sha256(lines).digest()).hexdigest()


def read_frames(body: bytes, *, where: str, thread: str = "", max_bytes: int, chain: str = NO_CHAIN) -> Iterator[Frame]:
    """The frames of an object, each verified before it is yielded; holds one frame's records at a time.

    Args:
        body: Whole frames: an archive object, or a thread's base in Redis.
        where: The object's key, for errors.
        thread: The thread, for errors.
        max_bytes: Bytes that all frames may decompress to; what exceeds it is refused as a bomb.
        chain: What the first frame's chain continues.

    Raises:
        ArchiveCorrupt: torn, damaged, out of chain, written by a newer version, or larger than `max_bytes`.
    """
    offset, count, budget = 0, 0, max_bytes
    view = memoryview(body)
    while offset < len(body):
        size = _frame_size(view[offset:], where, thread)
        raw = _decompress(view[offset : offset + size], budget, where, thread)
        frame = Frame(offset, size, *_split(raw, where, thread))
        budget -= len(frame.lines)
        chain = next_chain(chain, frame.lines)
        count += frame.lines.count(b"\n")
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
    """Whether an object's content says that its thread was erased, even where its metadata was lost."""
    if len(body) > TOMBSTONE_BYTES or not is_archive(body):
        return False
    try:
        return zstd.ZstdDecompressor().decompress(body, max_length=len(_TOMBSTONE_START)) == _TOMBSTONE_START
    except zstd.ZstdError:
        return False


def record_hashes(lines: bytes) -> bytes:
    """The 16-byte hashes of the ids of NDJSON records, in order."""
    found = _PLAIN_ID.findall(lines)
    if len(found) == lines.count(b"\n"):
        return b"".join([hashlib.blake2b(raw, digest_size=16).digest() for raw in found])
    return b"".join([id_hash(record_id(record)) for record in lines.split(b"\n")[:-1]])


def record_id(record: bytes) -> str:
    """The id of a record; found without parsing where it holds no escape."""
    match = _PLAIN_ID.match(record)
    return match[1].decode("ascii") if match else str(json.loads(record)["id"])


def id_hash(message_id: str) -> bytes:
    """16 bytes that stand for a message id in Redis."""
    return hashlib.blake2b(message_id.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def should_compact(*, frames: int, base_bytes: int, evicting: bool) -> bool:
    """Whether a flush should rewrite all frames as one.

    Always from 256 frames on. When evicting also where sixteen or more frames hold less than 32 KiB each on average,
    since small frames compress badly and the base is about to leave Redis anyway.
    """
    return frames >= 256 or (evicting and frames >= 16 and base_bytes < frames * 32 * 1024)


def _batches(records: Iterable[bytes]) -> Iterator[list[bytes]]:
    batch: list[bytes] = []
    size = 0
    for record in records:
        if batch and size + len(record) > FRAME_BYTES:
            yield batch
            batch, size = [], 0
        batch.append(record)
        size += len(record) + 1
    yield batch


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


def _decompress(frame: memoryview, budget: int, where: str, thread: str) -> bytes:
    decompressor = zstd.ZstdDecompressor()
    try:
        raw = decompressor.decompress(frame, max_length=budget + SEAL_BYTES + 1)
    except zstd.ZstdError:
        raise ArchiveCorrupt(thread, where, "a frame is damaged: its checksum or coding is wrong") from None
    if len(raw) > budget + SEAL_BYTES:
        raise ArchiveCorrupt(thread, where, "it decompresses to more than THREADKEEP_MAX_THREAD_BYTES")
    if not decompressor.eof:
        raise ArchiveCorrupt(thread, where, "a frame is cut short")
    return raw


def _split(raw: bytes, where: str, thread: str) -> tuple[bytes, Seal]:
    start = raw.rfind(b"\n", 0, len(raw) - 1) + 1
    line = raw[start:]
    if not line.startswith(_SEAL_START) or not line.endswith(b"\n"):
        raise ArchiveCorrupt(thread, where, "a frame does not end in a seal")
    return raw[:start], _parse_seal(line, where, thread)


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
        fields = json.loads(line)["$threadkeep"]
        version = fields["v"]
        if version != SEAL_VERSION:
            raise ArchiveCorrupt(
                thread,
                where,
                f"its format version {version!r} is not the {SEAL_VERSION} that this version reads",
            )
        return Seal(
            namespace=str(fields["namespace"]),
            thread_id=str(fields["id"]),
            rev=int(fields["rev"]),
            attempt=str(fields["attempt"]),
            born=int(fields["born"]),
            count=int(fields["count"]),
            state=fields["state"],
            chain=str(fields["chain"]),
            codec=str(fields["codec"]),
            labels=dict(fields["labels"]),
            forked_from=fields["forked_from"],
        )
    except (ValueError, KeyError, TypeError):
        raise ArchiveCorrupt(thread, where, "a seal is malformed") from None
