"""Erase: mark → tombstone → purge → unmark → record. What was born after the request is spared."""

import json
from dataclasses import asdict, dataclass, field
from typing import Final, Literal

from threadkeep.errors import ArchiveMoved, StoreUnavailable, ThreadkeepError
from threadkeep.model import ArchiveMeta, StoredObject, ThreadRef
from threadkeep.storage.archive import tombstone
from threadkeep.storage.link import run_now as now
from threadkeep.tasks.outcome import Outcome
from threadkeep.tasks.stores import Stores, log

ROUNDS: Final = 4
LOOKS: Final = 8


@dataclass(frozen=True, slots=True)
class Receipt:
    """What an erasure removed.

    Attributes:
        outcome: `erased`, or `spared` where the thread was born after the request.
        rev: Revision of the erasure.
        versions: Object versions and zeitlich objects that were deleted.
        conflicts: Copies under `conflicts/` that were deleted.
        forks: Threads that were forked from this one and live on, as `namespace/id`.
        catalog: Whether the catalog has forgotten the thread too; otherwise a repeat of the task completes it.
    """

    outcome: Literal["erased", "spared"]
    request: str
    rev: int = 0
    versions: int = 0
    conflicts: int = 0
    forks: list[str] = field(default_factory=list)
    catalog: bool = True

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Receipt":
        return cls(**json.loads(text))


def erase(stores: Stores, ref: ThreadRef, request: str, upto: int) -> Receipt:
    """Remove a thread from every store. Safe to repeat with the same request: a successor is never touched.

    Args:
        stores: Where to erase.
        ref: The thread.
        request: Random id of the request.
        upto: Redis time of the request in microseconds; a thread born later is spared.

    Raises:
        StoreUnavailable: a store did not answer; the mark stays, so that nothing comes back, and a repeat completes it.
        StoreRefused: the credentials may not delete; the mark stays.
    """
    for _ in range(ROUNDS):
        status, rev = now(stores.flow.erase_mark(ref, request, upto))
        if status == "done":
            return Receipt.from_json(now(stores.hot.receipt(ref, request)) or Receipt("erased", request).to_json())
        if status == "newer":
            spared = Receipt("spared", request)
            now(stores.flow.keep_receipt(ref, request, spared.to_json()))
            return spared
        grave = _bury(stores, ref, rev, request, upto)
        if grave is None:
            receipt = Receipt("spared", request)
        else:
            versions = stores.cold.purge_history(ref, keep=grave.etag)
            conflicts = stores.cold.purge_conflicts(ref)
            forks, catalog = _forget_in_catalog(stores, ref, request, rev)
            receipt = Receipt("erased", request, rev, versions, conflicts, forks, catalog)
        if now(stores.flow.erase_unmark(ref, request, receipt.to_json())):
            return receipt
    raise StoreUnavailable("Redis", "an erasure", "its mark kept vanishing")


def to_outcome(receipt: Receipt) -> Outcome:
    return Outcome(receipt.outcome, rev=receipt.rev)


def _bury(stores: Stores, ref: ThreadRef, rev: int, request: str, upto: int) -> StoredObject | None:
    """Put the tombstone over whatever is there; None if what is there was born after `upto`."""
    body = tombstone(ref, rev=rev, request=request)
    for _ in range(LOOKS):
        there = stores.cold.head(ref)
        if there is not None and there.meta is not None:
            if there.meta.tombstone:
                return there
            if there.meta.born > upto:
                return None
        over = max(rev, there.meta.rev + 1) if there is not None and there.meta is not None else rev
        meta = ArchiveMeta(rev=over, attempt=request, chain="", count=0, born=0, tombstone=True)
        try:
            return stores.cold.put(ref, body, meta=meta, based_on=there.etag if there else None)
        except ArchiveMoved:
            continue
    raise StoreUnavailable("S3", "an erasure", "other writers kept changing the object")


def _forget_in_catalog(stores: Stores, ref: ThreadRef, request: str, rev: int) -> tuple[list[str], bool]:
    try:
        forks = stores.catalog.forks_of(ref)
        stores.catalog.erase(ref, request_id=request, rev=rev)
        now(stores.flow.paid(ref))
    except ThreadkeepError as error:
        log.warning(
            "the catalog could not forget an erased thread yet",
            extra={"thread_id": str(ref), "reason": str(error)},
        )
        stores.owe_catalog(ref)
        return [], False
    return [str(fork) for fork in forks], True
