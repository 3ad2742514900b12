"""The ids of messages as hashes: short, all of one size, and found in records that are not parsed."""

import hashlib
from collections.abc import Iterable, Sequence
from typing import Final

from threadkeep.model import MAX_MESSAGE_ID, Entry

ID_BYTES: Final = 8
"""Of BLAKE2b. Whoever finds a hash that is there already compares the messages, so that two ids that share one are told
and nothing is lost. Among 20,000 random ids that happens once in 10^11 threads. Scripts in lua/ count on it too."""

_RECORD_START: Final = b'{"v":1,"id":"'
_KIND_START: Final = b'","kind":"'
_CLOSING: Final = ord("}")


def id_hash(message_id: str) -> bytes:
    """What stands for a message id in Redis, and in archives."""
    return _hashed(message_id.encode("utf-8", "surrogatepass"))


def ids_in(lines: bytes, end: int, *, where: str, thread: str = "") -> bytes:
    """The hashes of the ids of all records in NDJSON that ends at `end`, in order, without parsing it.

    What stands behind the id is left to whoever reads it.

    Raises:
        ArchiveCorrupt: a record does not begin as `checked_record` makes it.
    """
    hashes: list[bytes] = []
    at = 0
    while at < end:
        line_end = lines.find(b"\n", at, end)
        start = at + len(_RECORD_START)
        quote = lines.find(b'"', start, line_end)
        message_id = lines[start:quote]
        plain = (
            0 < quote - start <= MAX_MESSAGE_ID
            and lines.startswith(_RECORD_START, at)
            and lines.startswith(_KIND_START, quote)
            and lines[line_end - 1] == _CLOSING
            and b"\\" not in message_id
        )
        if plain:
            hashes.append(_hashed(message_id))
        else:
            hashes.append(id_hash(Entry.from_record(lines[at:line_end], where=where, thread=thread).id))
        at = line_end + 1
    return b"".join(hashes)


def ids_of(records: Iterable[bytes], *, where: str, thread: str = "") -> bytes:
    """What `ids_in` returns, of records each of which is verified.

    Raises:
        ArchiveCorrupt: a record is not what `checked_record` makes.
    """
    return b"".join([id_hash(Entry.from_record(each, where=where, thread=thread).id) for each in records])


def numbers_of(ids: bytes) -> Sequence[int]:
    """Hashes that stand one behind the other as numbers, which are made and found faster than bytes are."""
    return memoryview(ids).cast("Q")


def id_number(message_id: str) -> int:
    """A message id's hash as `numbers_of` has it."""
    return numbers_of(id_hash(message_id))[0]


def _hashed(name: bytes) -> bytes:
    return hashlib.blake2b(name, digest_size=ID_BYTES).digest()
