"""Erase: mark → tombstone → purge → forget → unmark → record. What was born after the request is spared."""

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from threadkeep.errors import ArchiveMoved, StoreUnavailable, ThreadkeepError
from threadkeep.model import ArchiveMeta, StoredObject, ThreadRef
from threadkeep.storage.hot import Erasing
from threadkeep.storage.link import run_now as now
from threadkeep.storage.ports import Announce, CatalogEvent
from threadkeep.storage.tombstones import tombstone
from threadkeep.tasks.outcome import Outcome
from threadkeep.tasks.receipt import FromBucket, FromRedis, Receipt
from threadkeep.tasks.stores import Stores, log

ROUNDS: Final = 4
LOOKS: Final = 8
EVENTS: Final = 500
"""How far back the catalog's events of a thread are searched for a receipt."""


def erase(stores: Stores, ref: ThreadRef, request: str, upto: int) -> Receipt:
    """Remove a thread from every store. Safe to repeat with the same request: a successor is never touched.

    While the mark that the request set has stood without a break, nothing can have been created: then all that is there
    goes, whatever a clock that stepped back says of it. Otherwise what was born after `upto` is spared.

    Args:
        stores: Where to erase.
        ref: The thread.
        request: Random id of the request.
        upto: Redis time of the request in microseconds, as `HotTier.mark_erasing` told; 0 to make the request now.

    Raises:
        StoreUnavailable: a store did not answer; the mark stays, so that nothing comes back, and a repeat completes it.
        StoreRefused: the credentials may not delete; the mark stays.
    """
    for _ in range(ROUNDS):
        mark = now(stores.flow.erase_mark(ref, request, upto))
        match mark.status:
            case "done":
                return _completed(stores, ref, request)
            case "newer":
                return _spared(stores, ref, request)
            case "under_way":  # it ends sooner if this worker helps
                erase(stores, ref, mark.request, mark.upto)
                continue
        upto = mark.upto
        receipt = _removed(stores, ref, mark)
        if receipt is None:
            continue
        if now(stores.flow.erase_unmark(ref, mark, receipt.to_json(), buried=receipt.rev)):
            _audit(stores, ref, receipt)
            return receipt
    raise StoreUnavailable("Redis", "an erasure", "its mark kept vanishing")


def to_outcome(receipt: Receipt) -> Outcome:
    return Outcome(receipt.outcome, rev=receipt.rev)


def look_again(stores: Stores, ref: ThreadRef, rev: int) -> Outcome:
    """Remove what workers under way during an erasure have left since, once none of them can run any more.

    Args:
        stores: Where to look.
        ref: The thread.
        rev: Revision of its tombstone; what a successor made is newer, and stays. 0 for a tombstone that is there.
    """
    there = stores.cold.head(ref)
    grave = there.meta if there is not None and there.meta is not None and there.meta.tombstone else None
    before = rev or (grave.rev if grave is not None else 0)
    if not before:
        return Outcome("kept")
    count = stores.cold.purge_late(ref, before=before)
    if grave is not None:
        forget(stores, ref, grave)
    if rev:
        now(stores.flow.close_grave(ref, rev))
    return Outcome("purged", rev=before, count=count)


def forget(stores: Stores, ref: ThreadRef, grave: ArchiveMeta) -> None:
    """Have the catalog forget a thread that lies under a tombstone, and complete the receipt that still lacks that.

    Raises:
        StoreUnavailable, StoreRefused: it could not be told; a repeat is safe.
    """
    forks = stores.catalog.forks_of(ref)
    stores.catalog.erase(ref, request_id=grave.attempt, rev=grave.rev)
    kept = now(stores.hot.receipt(ref, grave.attempt))
    receipt = Receipt.from_json(kept) if kept else None
    if receipt is not None and receipt.outcome == "erased" and not receipt.catalog:
        receipt = replace(receipt, catalog=True, forks=[str(fork) for fork in forks])
        now(stores.flow.keep_receipt(ref, receipt.request, receipt.to_json()))
        _audit(stores, ref, receipt)


def find_receipt(stores: Stores, ref: ThreadRef, request: str) -> Receipt | None:
    """What a completed request removed: from Redis, or once it has forgotten, from the catalog's `erased` event."""
    kept = now(stores.hot.receipt(ref, request))
    return Receipt.from_json(kept) if kept else _audited(stores, ref, request)


# --- the steps ------------------------------------------------------------------------------------------------------


class _MarkLostError(Exception):
    """The mark is not there any more: another worker completed the erasure, or Redis lost its memory."""


class _Tally:
    """What an erasure removes, noted in its mark, so that a repeat goes on counting where a killed one stopped.

    Each number is noted before the first of it is deleted; that also makes sure that this very mark is still there, and
    so that what was listed until then belongs to what is erased.
    """

    def __init__(self, stores: Stores, ref: ThreadRef, mark: Erasing) -> None:
        self._stores, self._ref, self._mark = stores, ref, mark
        self._noted = dict(mark.noted)

    def __getitem__(self, what: str) -> int:
        return self._noted.get(what, 0)

    def note(self, what: str, number: int) -> None:
        """Note a number, the greatest stays."""
        if not now(self._stores.flow.erase_note(self._ref, self._mark, what, number)):
            raise _MarkLostError
        self._noted[what] = max(self[what], number)

    def count(self, what: str, purge: Callable[[Announce], int]) -> None:
        """Purge, and add what goes to what earlier tries have removed to the end."""
        before = self[f"{what}_done"]

        def announce(number: int) -> None:
            self.note(what, before + number)

        purge(announce)
        self.note(f"{what}_done", self[what])


def _removed(stores: Stores, ref: ThreadRef, mark: Erasing) -> Receipt | None:
    """Do it; None if the mark vanished meanwhile."""
    tally, cold = _Tally(stores, ref, mark), stores.cold
    try:
        grave = _bury(stores, ref, mark, tally)
        if grave is None or grave.meta is None:
            return Receipt("spared", mark.request)
        tally.count("versions", lambda announce: cold.purge_history(ref, keep=grave.etag, announce=announce))
        tally.count("v1", lambda announce: cold.purge_v1(ref, announce=announce))
        tally.count("conflicts", lambda announce: cold.purge_conflicts(ref, announce=announce))
    except _MarkLostError:
        return None
    redis = FromRedis("hot_rev" in mark.noted, tally["hot_rev"], tally["hot_count"])
    s3 = FromBucket(bool(tally["object"]), tally["versions"], tally["v1"], tally["conflicts"], grave.key)
    return _forgotten(stores, ref, Receipt("erased", mark.request, grave.meta.rev, redis, s3))


def _bury(stores: Stores, ref: ThreadRef, mark: Erasing, tally: _Tally) -> StoredObject | None:
    """Put the tombstone over whatever is there; None if what is there is to be spared.

    Its revision is above all that is known of the thread, so that a successor, born after it, is told from what was
    erased. Each look is followed by a question whether the mark stands, and the write replaces only what was looked at.
    """
    least = max(mark.rev, _known_to_catalog(stores, ref) + 1) if mark.standing else mark.rev
    for _ in range(LOOKS):
        there = stores.cold.head(ref)
        meta = there.meta if there is not None else None
        buried = meta is not None and meta.tombstone
        if meta is not None and buried and meta.attempt == mark.request and meta.rev >= least:
            return there
        tally.note("object", int(there is not None and not buried))
        if meta is not None and meta.born > mark.upto and not mark.standing:
            return None
        rev = max(least, meta.rev + 1) if meta is not None else least
        grave = ArchiveMeta(rev=rev, attempt=mark.request, chain="", count=0, born=0, tombstone=True)
        body = tombstone(ref, rev=rev, request=mark.request)
        try:
            return stores.cold.put(ref, body, meta=grave, based_on=there.etag if there else None)
        except ArchiveMoved:
            continue
    raise StoreUnavailable("S3", "an erasure", "other writers kept changing the object")


def _known_to_catalog(stores: Stores, ref: ThreadRef) -> int:
    """The newest revision that the catalog knows, 0 if it knows none or does not answer."""
    try:
        entry = stores.catalog.get(ref)
    except ThreadkeepError:
        return 0
    return max(entry.stat.rev, entry.stat.born) if entry is not None else 0


def _forgotten(stores: Stores, ref: ThreadRef, receipt: Receipt) -> Receipt:
    """Have the catalog forget the thread; where it does not answer, the sweep will."""
    try:
        stamp = now(stores.hot.clock(ref))
        forks = stores.catalog.forks_of(ref)
        stores.catalog.erase(ref, request_id=receipt.request, rev=receipt.rev)
        now(stores.flow.paid(ref, stamp))
    except ThreadkeepError as error:
        facts = {"thread_id": str(ref), "reason": str(error)}
        log.warning("the catalog could not forget an erased thread yet", extra=facts)
        stores.owe_catalog(ref)
        return receipt
    return replace(receipt, catalog=True, forks=[str(fork) for fork in forks])


# --- the record -----------------------------------------------------------------------------------------------------


def _completed(stores: Stores, ref: ThreadRef, request: str) -> Receipt:
    kept = now(stores.hot.receipt(ref, request))
    receipt = Receipt.from_json(kept) if kept else Receipt("erased", request)
    _audit(stores, ref, receipt)
    return receipt


def _spared(stores: Stores, ref: ThreadRef, request: str) -> Receipt:
    receipt = Receipt("spared", request)
    now(stores.flow.keep_receipt(ref, request, receipt.to_json()))
    return receipt


def _audit(stores: Stores, ref: ThreadRef, receipt: Receipt) -> None:
    """Record the erasure once, as soon as the catalog has forgotten the thread; never fails it."""
    if receipt.outcome == "spared" or not receipt.catalog:
        return
    try:
        if _audited(stores, ref, receipt.request) is None:
            stores.catalog.record([], [CatalogEvent(ref, "erased", receipt.facts())])
    except ThreadkeepError as error:
        facts = {"thread_id": str(ref), "reason": str(error)}
        log.warning("an erasure could not be recorded in the catalog", extra=facts)


def _audited(stores: Stores, ref: ThreadRef, request: str) -> Receipt | None:
    for _, event in stores.catalog.events(ref, EVENTS):
        if event.kind == "erased" and event.facts.get("request") == request:
            return Receipt.from_facts(event.facts)
    return None
