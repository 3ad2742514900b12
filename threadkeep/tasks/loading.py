"""Load: the archive of a thread, read, verified and laid out to be restored."""

import json
from dataclasses import dataclass

from threadkeep.errors import ArchiveCorrupt, InvalidMessage
from threadkeep.model import Seal, StoredObject, ThreadRef, checked_record, fresh_mark
from threadkeep.storage.archive import NO_CHAIN, outlines, seal_tail
from threadkeep.storage.hot import cut
from threadkeep.storage.hot_flow import Restorable, restored_fields
from threadkeep.storage.hot_head import identity_fields
from threadkeep.storage.limits import ReadLimits
from threadkeep.storage.link import run_now as now
from threadkeep.storage.parts import hashes_of, log_bytes
from threadkeep.storage.seals import verify_owner
from threadkeep.storage.snapshot_v1 import read_v1
from threadkeep.storage.tombstones import is_tombstone, read_tombstone
from threadkeep.tasks.stores import Stores


@dataclass(frozen=True, slots=True)
class Loaded:
    """A verified archive, ready to be restored; `stored` is None for a snapshot of another format."""

    copy: Restorable
    seal: Seal
    stored: StoredObject | None
    bytes: int


@dataclass(frozen=True, slots=True)
class Absent:
    """There is no archive.

    Attributes:
        floor: Revision of the tombstone that is there instead; what is created now must be born after it. 0 if none is.
    """

    floor: int = 0


def load(stores: Stores, ref: ThreadRef) -> Loaded | Absent:
    """The thread's archive, read and verified; `Absent` if there is none, or only a tombstone.

    Raises:
        ArchiveCorrupt: the object is not what was written there.
    """
    found = stores.cold.get(ref)
    if found is None:
        return _load_v1(stores, ref) if stores.settings.v1_fallback else Absent()
    stored, body = found
    if stored.meta is not None and stored.meta.tombstone:
        return Absent(stored.meta.rev)
    if is_tombstone(body):
        told = read_tombstone(body)
        return Absent(told.rev if told is not None else 0)
    return _verified(stores, ref, stored, body)


def _verified(stores: Stores, ref: ThreadRef, stored: StoredObject, body: bytes) -> Loaded:
    ids: list[bytes] = []
    raw_bytes, frames, seal = 0, 0, None
    for frame in outlines(body, where=stored.key, thread=str(ref), limits=ReadLimits.of(stores.settings)):
        ids.append(frame.ids)
        raw_bytes += frame.raw_bytes
        frames, seal = frames + 1, frame.seal
    if seal is None:
        raise ArchiveCorrupt(str(ref), stored.key, "it is empty")
    verify_owner(seal, ref, where=stored.key)
    if stored.meta is not None and (stored.meta.rev, stored.meta.chain) != (seal.rev, seal.chain):
        raise ArchiveCorrupt(str(ref), stored.key, "its metadata does not belong to its content")
    copy = _restorable(seal, stored, body, b"".join(ids), frames, raw_bytes, archived=seal.rev)
    return Loaded(copy, seal, stored, len(body))


def _load_v1(stores: Stores, ref: ThreadRef) -> Loaded | Absent:
    """A snapshot of zeitlich's, as a thread that this format has not archived yet: it comes back hot."""
    found = stores.cold.get_v1(ref)
    if found is None:
        return Absent()
    key, body = found
    snapshot = read_v1(body, thread=str(ref), where=key, limits=ReadLimits.of(stores.settings))
    try:
        records = [checked_record(entry, max_bytes=stores.settings.max_message_bytes) for entry in snapshot.entries]
    except InvalidMessage as error:
        raise ArchiveCorrupt(str(ref), key, str(error)) from None
    if log_bytes(records) > stores.settings.max_thread_bytes:
        raise ArchiveCorrupt(str(ref), key, "its messages are more than THREADKEEP_MAX_THREAD_BYTES allows")
    rev = now(stores.hot.clock(ref))
    seal = Seal(ref.namespace, ref.thread_id, rev, fresh_mark(), rev, 0, snapshot.state, NO_CHAIN, codec=snapshot.codec)
    tail = seal_tail(records, seal, base_count=0, base_chain=NO_CHAIN)
    hashes = hashes_of(snapshot.entries)
    copy = _restorable(tail.seal, None, tail.body, hashes, tail.frames, tail.raw_bytes, archived=0)
    return Loaded(copy, tail.seal, None, len(body))


def _restorable(
    seal: Seal,
    stored: StoredObject | None,
    body: bytes,
    ids: bytes,
    frames: int,
    raw_bytes: int,
    *,
    archived: int,
) -> Restorable:
    state = None if seal.state is None else json.dumps(seal.state, separators=(",", ":")).encode("ascii")
    fields = [
        *identity_fields(codec=seal.codec, state=state, labels=seal.labels, forked_from=seal.forked_from),
        *restored_fields(
            stored, base_bytes=len(body), frames=frames, chain=seal.chain, raw_bytes=raw_bytes, born=seal.born
        ),
    ]
    return Restorable(cut(body), ids, seal.rev, archived, fields)
