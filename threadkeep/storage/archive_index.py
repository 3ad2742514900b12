"""The index of a large frame: what a hydrate needs of it, so that a worker moves a thread without unpacking it.

It stands behind its frame as a skippable frame of zstd, which `zstdcat` and all readers of zstd pass over:

    4 bytes   0x184D2A54, little-endian
    4 bytes   how many follow, little-endian
    32 bytes  sha256 of the frame and of all that follows here
    32 bytes  sha256 of the frame's records with their newlines
    8 bytes   how many bytes these are, big-endian
    8 bytes   how many records, big-endian
    8 bytes   for each record, in order: the hash of its id
    the rest  the frame's seal once more, as a zstd frame

The digest covers the frame as it is stored, a fifth of what it unpacks to, so readers check it instead of the records.
"""

import hashlib
import struct
from dataclasses import dataclass
from typing import Final

from threadkeep.errors import ArchiveCorrupt
from threadkeep.model import Seal
from threadkeep.storage.framing import compressed, frame_size, unpacked
from threadkeep.storage.limits import ReadLimits
from threadkeep.storage.record_ids import ID_BYTES
from threadkeep.storage.seals import parse_seal

INDEXED_BYTES: Final = 256 * 1024
"""Bytes of records from which on a frame gets an index. Smaller ones are unpacked faster than S3 answers."""

_MAGIC: Final = (0x184D2A54).to_bytes(4, "little")
_START: Final = struct.Struct("<4sI")
_FACTS: Final = struct.Struct(">32sQQ")
_DIGEST_BYTES: Final = 32
_LEAST_RECORD_BYTES: Final = 32
"""No record is as short."""
_NO_RECORDS: Final = ReadLimits(0)
"""The bounds of a frame that holds a seal and nothing else."""


@dataclass(frozen=True, slots=True)
class Index:
    """What an index says of its frame, whose bytes have been checked against it.

    Attributes:
        digest: sha256 of the records.
        raw_bytes: Bytes of the records, newlines included.
        ids: The hashes of their ids.
        line: The frame's last line.
    """

    digest: bytes
    raw_bytes: int
    ids: bytes
    line: bytes
    seal: Seal

    @property
    def count(self) -> int:
        """How many records."""
        return len(self.ids) // ID_BYTES


def index_of(frame: bytes, *, digest: bytes, raw_bytes: int, ids: bytes, line: bytes, level: int) -> bytes:
    """The index of a frame of which that is so; `line` is the seal's."""
    facts = _FACTS.pack(digest, raw_bytes, len(ids) // ID_BYTES)
    said = b"".join((facts, ids, compressed(line, level=level)))
    return b"".join((_START.pack(_MAGIC, _DIGEST_BYTES + len(said)), _digest(frame, said), said))


def index_bytes(view: memoryview, *, where: str, thread: str) -> int:
    """Bytes of the index that begins here; 0 if none does.

    Raises:
        ArchiveCorrupt: it is cut short.
    """
    if bytes(view[:4]) != _MAGIC:
        return 0
    if len(view) >= _START.size:
        size = _START.size + _START.unpack_from(view)[1]
        if _START.size + _DIGEST_BYTES + _FACTS.size <= size <= len(view):
            return int(size)
    raise ArchiveCorrupt(thread, where, "an index is cut short or damaged")


def read_index(frame: memoryview, index: memoryview, *, where: str, thread: str) -> Index:
    """What an index says, after the frame before it and the index itself were checked against its digest.

    Raises:
        ArchiveCorrupt: one of them is damaged, or the index is none that is written here.
    """
    at = _START.size + _DIGEST_BYTES
    said = index[at:]
    if _digest(frame, said) != index[_START.size : at]:
        raise ArchiveCorrupt(thread, where, "a frame or its index is damaged: their digest is wrong")
    digest, raw_bytes, records = _FACTS.unpack_from(said)
    seal_at = _FACTS.size + ID_BYTES * records
    if seal_at >= len(said):
        raise ArchiveCorrupt(thread, where, "an index counts more records than it names")
    if not _LEAST_RECORD_BYTES * records <= raw_bytes or bool(records) != bool(raw_bytes):
        raise ArchiveCorrupt(thread, where, "an index counts more records than its frame has room for, or none")
    if frame_size(said[seal_at:], where=where, thread=thread) != len(said) - seal_at:
        raise ArchiveCorrupt(thread, where, "an index does not end with a seal")
    line = unpacked(said[seal_at:], 0, _NO_RECORDS, where=where, thread=thread)
    seal = parse_seal(line, indexed=True, where=where, thread=thread)
    return Index(digest, raw_bytes, bytes(said[_FACTS.size : seal_at]), line, seal)


def _digest(frame: bytes | memoryview, said: bytes | memoryview) -> bytes:
    found = hashlib.sha256(frame)
    found.update(said)
    return found.digest()
