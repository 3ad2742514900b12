"""Tombstones: what stands in an erased thread's place. `zstdcat` shows them too."""

from dataclasses import dataclass
from typing import Final

from threadkeep.model import MAX_REVISION, ThreadRef
from threadkeep.storage.framing import ZstdError, compressed, decompressor, is_archive
from threadkeep.storage.seals import SEAL_VERSION
from threadkeep.strict_json import dump_json, load_json

TOMBSTONE_BYTES: Final = 4096
"""A tombstone is smaller than this."""

_START: Final = b'{"$threadkeep_erased":'


@dataclass(frozen=True, slots=True)
class Tombstone:
    """What stands in an erased thread's place: its address, the revision of its erasure, and whose request it was."""

    namespace: str
    thread_id: str
    rev: int
    request: str


def tombstone(ref: ThreadRef, *, rev: int, request: str) -> bytes:
    """The bytes that stand in an erased thread's place."""
    fields = {
        "v": SEAL_VERSION,
        "namespace": ref.namespace,
        "id": ref.thread_id,
        "rev": rev,
        "request": request,
    }
    return compressed(dump_json({"$threadkeep_erased": fields}) + b"\n", level=3)


def is_tombstone(body: bytes) -> bool:
    """Whether all that an object's content says is that its thread was erased, even where its metadata was lost."""
    if len(body) > TOMBSTONE_BYTES or not is_archive(body):
        return False
    unpacking = decompressor()
    try:
        text = unpacking.decompress(body, max_length=TOMBSTONE_BYTES)
    except ZstdError:
        return False
    return text.startswith(_START) and b"\n" not in text[:-1] and not unpacking.unused_data


def read_tombstone(body: bytes) -> Tombstone | None:
    """What a tombstone says, checked to its last byte; None if it is none, or a damaged one."""
    if len(body) > TOMBSTONE_BYTES or not is_archive(body):
        return None
    unpacking = decompressor()
    try:
        line = unpacking.decompress(body, max_length=TOMBSTONE_BYTES)
        if not unpacking.eof or unpacking.unused_data or not line.startswith(_START):
            return None
        fields = load_json(line.removesuffix(b"\n"), wrapped=2)["$threadkeep_erased"]
        ref, rev = ThreadRef(fields["namespace"], fields["id"]), fields["rev"]
        if type(rev) is not int or not 0 <= rev < MAX_REVISION or not isinstance(fields["request"], str):
            return None
        return Tombstone(ref.namespace, ref.thread_id, rev, fields["request"])
    except (ZstdError, ValueError, KeyError, TypeError):
        return None
