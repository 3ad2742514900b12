"""Hydrate: ticket → get → verify → stage → restore. Nothing older, nothing damaged and nothing erased comes back."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from threadkeep.errors import (
    ArchiveCorrupt,
    ArchiveFrozen,
    InvalidMessage,
    StoreRefused,
    StoreUnavailable,
    ThreadkeepError,
)
from threadkeep.model import Seal, StoredObject, ThreadRef, checked_record, fresh_mark
from threadkeep.storage.archive import (
    NO_CHAIN,
    is_tombstone,
    read_frames,
    record_hashes,
    seal_tail,
    verify_owner,
)
from threadkeep.storage.hot import cut
from threadkeep.storage.hot_flow import HydrateStart, Restorable, Restored, restored_fields
from threadkeep.storage.hot_head import identity_fields
from threadkeep.storage.link import run_now as now
from threadkeep.storage.ports import CatalogRow
from threadkeep.storage.snapshot_v1 import read_v1
from threadkeep.tasks.outcome import Outcome
from threadkeep.tasks.stores import Stores

ROUNDS: Final = 3


@dataclass(frozen=True, slots=True)
class Loaded:
    """A verified archive, ready to be restored; `stored` is None for a snapshot of another format."""

    copy: Restorable
    seal: Seal
    stored: StoredObject | None
    bytes: int


def hydrate(stores: Stores, ref: ThreadRef, *, run: str = "") -> Outcome:
    """Bring a thread back into Redis, if it is not there. Idempotent; any number may run at once, one restores.

    Args:
        stores: Redis, S3 and Postgres.
        ref: The thread.
        run: Names the task's run, the same after a redelivery; runs that die are counted by it.

    Returns:
        `present`, `restored`, `absent`, `corrupt`, `erasing` or `set_aside`.

    Raises:
        StoreUnavailable: a store did not answer; a repeat is safe.
        StoreRefused: the bucket or its credentials are wrong; those who wait have been told.
        ArchiveFrozen: the object must be restored from its storage class first; those who wait have been told.
    """
    for turn in range(ROUNDS):
        start = now(stores.flow.begin_hydrate(ref, run=run if turn == 0 else ""))
        if start.status != "go":
            return _nothing_to_restore(stores, ref, start)
        try:
            loaded = load(stores, ref)
        except ArchiveCorrupt as error:
            now(stores.flow.tell(ref, start.ticket, "failed", str(error)))
            stores.note(ref, "corrupt", {"key": error.key, "reason": error.reason})
            return Outcome("corrupt")
        except (StoreRefused, ArchiveFrozen) as error:
            now(stores.flow.tell(ref, start.ticket, "failed", str(error)))
            raise
        if loaded is None:
            if _tell_nothing(stores, ref, start):
                return Outcome("absent")
            continue
        restored = now(stores.flow.restore(ref, start.ticket, loaded.copy))
        if restored.status in ("restored", "present", "erasing"):
            _record(stores, ref, start, loaded, restored)
            return Outcome(restored.status, rev=loaded.seal.rev, count=loaded.seal.count, bytes=loaded.bytes)
    raise StoreUnavailable("Redis", "a restore", "the thread's ticket kept changing")


def load(stores: Stores, ref: ThreadRef) -> Loaded | None:
    """The thread's archive, read and verified; None if there is none, or only a tombstone.

    Raises:
        ArchiveCorrupt: the object is not what was written there.
    """
    found = stores.cold.get(ref)
    if found is None:
        return _load_v1(stores, ref) if stores.settings.v1_fallback else None
    stored, body = found
    if (stored.meta is not None and stored.meta.tombstone) or is_tombstone(body):
        return None
    return _verified(stores, ref, stored, body)


def _verified(stores: Stores, ref: ThreadRef, stored: StoredObject, body: bytes) -> Loaded:
    ids: list[bytes] = []
    raw_bytes, frames, seal = 0, 0, None
    limit = stores.settings.max_thread_bytes
    for frame in read_frames(body, where=stored.key, thread=str(ref), max_bytes=limit):
        ids.append(record_hashes(frame.lines))
        raw_bytes += len(frame.lines)
        frames, seal = frames + 1, frame.seal
    if seal is None:
        raise ArchiveCorrupt(str(ref), stored.key, "it is empty")
    verify_owner(seal, ref, where=stored.key)
    if stored.meta is not None and (stored.meta.rev, stored.meta.chain) != (seal.rev, seal.chain):
        raise ArchiveCorrupt(str(ref), stored.key, "its metadata does not belong to its content")
    copy = _restorable(seal, stored, body, b"".join(ids), frames, raw_bytes, archived=seal.rev)
    return Loaded(copy, seal, stored, len(body))


def _load_v1(stores: Stores, ref: ThreadRef) -> Loaded | None:
    """A snapshot of zeitlich's, as a thread that this format has not archived yet: it comes back hot."""
    found = stores.cold.get_v1(ref)
    if found is None:
        return None
    key, body = found
    snapshot = read_v1(body, thread=str(ref), where=key, max_bytes=stores.settings.max_thread_bytes)
    try:
        records = [checked_record(entry, max_bytes=stores.settings.max_message_bytes) for entry in snapshot.entries]
    except InvalidMessage as error:
        raise ArchiveCorrupt(str(ref), key, str(error)) from None
    rev = now(stores.hot.clock(ref))
    seal = Seal(ref.namespace, ref.thread_id, rev, fresh_mark(), rev, 0, snapshot.state, NO_CHAIN, codec=snapshot.codec)
    tail = seal_tail(records, seal, base_count=0, base_chain=NO_CHAIN)
    hashes = _hashes(records)
    copy = _restorable(tail.seal, None, tail.body, hashes, tail.frames, tail.raw_bytes, archived=0)
    return Loaded(copy, tail.seal, None, len(body))


def _hashes(records: Iterable[bytes]) -> bytes:
    return b"".join([record_hashes(record + b"\n") for record in records])


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


def _nothing_to_restore(stores: Stores, ref: ThreadRef, start: HydrateStart) -> Outcome:
    if start.status == "present" and start.head is not None:
        return Outcome("present", rev=start.head.rev, count=start.head.count)
    if start.status == "set_aside":
        stores.note(ref, "set_aside", {"task": "hydrate", "deaths": start.deaths})
        if start.ticket:
            reason = f"{start.deaths} workers died bringing it back, so it was set aside."
            now(stores.flow.tell(ref, start.ticket, "failed", f"{reason} `threadkeep hydrate --force` tries again."))
    return Outcome(start.status)


def _tell_nothing(stores: Stores, ref: ThreadRef, start: HydrateStart) -> bool:
    """Say that there is no such thread; False if the ticket is gone.

    A thread that the catalog knows as hot and never archived was lost with Redis's memory. Whoever comes first is told
    so; after that the id is free.
    """
    try:
        stores.catalog.epoch_changed(ref.shard, start.epoch)
        known = stores.catalog.get(ref)
    except ThreadkeepError:
        known = None
    if known is None or known.erased_at is not None or known.stat.tier != "hot" or known.stat.archived_rev:
        return now(stores.flow.tell(ref, start.ticket, "absent"))
    stores.note(ref, "hot_loss", {"known_rev": known.stat.rev, "restored_rev": 0})
    reason = f"Redis lost its memory, and with it revision {known.stat.rev} of this thread, which was never archived."
    if not now(stores.flow.tell(ref, start.ticket, "failed", reason)):
        return False
    stores.tell_catalog(CatalogRow(ref, "cold", stamp=now(stores.hot.clock(ref)), rev=known.stat.rev))
    return True


def _record(stores: Stores, ref: ThreadRef, start: HydrateStart, loaded: Loaded, restored: Restored) -> None:
    """The catalog hears of the restore, and notices if Redis had lost its memory: neither may fail the hydrate."""
    if restored.status != "restored":
        return
    seal = loaded.seal
    try:
        before = stores.catalog.get(ref)
        lost_shard = stores.catalog.epoch_changed(ref.shard, start.epoch)
    except ThreadkeepError:
        before, lost_shard = None, False
    known = before.stat.rev if before is not None and before.stat.tier == "hot" else 0
    if lost_shard or known > seal.rev:
        facts = {"known_rev": known, "restored_rev": seal.rev, "epoch_changed": lost_shard}
        stores.note(ref, "hot_loss", facts)
    if loaded.stored is None or loaded.stored.meta is None:
        return
    stores.record_archived(
        ref,
        loaded.stored,
        loaded.stored.meta,
        hot=False,
        stamp=restored.stamp,
        cached_until=restored.expires / 1000 if restored.expires else None,
        codec=seal.codec,
        labels=seal.labels,
        forked_from=seal.forked_from,
    )
