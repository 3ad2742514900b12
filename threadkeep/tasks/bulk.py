"""Many threads in one task: their scripts in a few round trips, their objects at once, their rows in one statement.

What is large, raced or in any way unusual goes through the flush of one thread, which may begin again at any time.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final

from threadkeep.errors import ThreadkeepError
from threadkeep.model import FlushMode, StoredObject, ThreadRef, fresh_mark
from threadkeep.storage.hot_flow import FlushStart
from threadkeep.storage.link import run_now as now
from threadkeep.storage.ports import CatalogRow
from threadkeep.tasks.flush import ended, flush, nothing_to_archive, read_and_seal, record_flush
from threadkeep.tasks.hydrate import hydrate
from threadkeep.tasks.lost_race import PutResult, put_archive
from threadkeep.tasks.outcome import Outcome
from threadkeep.tasks.sealing import Prepared
from threadkeep.tasks.stores import Stores, log

AT_ONCE: Final = 8
"""Requests to S3 under way in one task."""
ROUND: Final = 25
"""Threads whose new messages are held at the same time; each brings at most `INLINE_BYTES`."""


class BatchingStores(Stores):
    """A worker's stores, whose catalog is told of many threads in one statement.

    That each is still to be told of is written in Redis by the script that settles or restores it, so a worker that
    dies here owes nothing of these that the sweep does not know of.
    """

    def __init__(self, stores: Stores) -> None:
        super().__init__(stores.settings)
        self.__dict__.update(hot=stores.hot, flow=stores.flow, cold=stores.cold, catalog=stores.catalog)
        self._rows: dict[ThreadRef, CatalogRow] = {}

    def tell_catalog(self, row: CatalogRow) -> bool:
        """Tell it later, with the others."""
        if row.ref in self._rows:
            return super().tell_catalog(row)
        self._rows[row.ref] = row
        return True

    def tell_all(self) -> None:
        """Tell the catalog of all of them."""
        rows, self._rows = list(self._rows.values()), {}
        if not rows:
            return
        try:
            self.catalog.record(rows)
            now(self.flow.paid_many([(row.ref, row.stamp) for row in rows]))
        except ThreadkeepError as error:
            log.warning("the catalog will catch up later", extra={"rows": len(rows), "reason": str(error)})
            for row in rows:
                self.owe_catalog(row.ref)


@dataclass(slots=True)
class BulkResult:
    """How a task over many threads ended.

    Attributes:
        outcomes: How many threads ended in which way.
        failed: Threads of which a store said no, each with its error; they are as they were.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    failed: list[tuple[ThreadRef, ThreadkeepError]] = field(default_factory=list)

    def to_result(self) -> dict[str, Any]:
        """Numbers by outcome."""
        return {**self.outcomes, **({"failed": len(self.failed)} if self.failed else {})}


def flush_many(stores: Stores, refs: Iterable[ThreadRef], mode: FlushMode, *, run: str = "") -> BulkResult:
    """`flush` for many threads; safe to repeat, and beside any number of others. No thread's failure stops another."""
    result, left = BulkResult(), iter(dict.fromkeys(refs))
    while some := list(islice(left, ROUND)):
        unsettled = dict.fromkeys(some)  # whose runs have begun and are not known to have ended
        try:
            with _batching(stores) as batching:
                for ref in _flush_small(batching, some, mode, run, result, unsettled):
                    del unsettled[ref]  # what stops the task in here counts as this one's death
                    _one(result, ref, lambda ref=ref: flush(batching, ref, mode))  # type: ignore[misc]
                    unsettled[ref] = None
        finally:
            now(stores.flow.forget_many(list(unsettled), "flush"))
    return result


def hydrate_many(stores: Stores, refs: Iterable[ThreadRef], *, run: str = "", at_once: int = AT_ONCE) -> BulkResult:
    """`hydrate` for many threads, some at once; safe to repeat. No thread's failure stops another."""
    result, unique = BulkResult(), list(dict.fromkeys(refs))

    def bring(ref: ThreadRef) -> None:
        def work() -> Outcome:
            try:
                outcome = hydrate(batching, ref, run=run)
            except ThreadkeepError:
                now(stores.flow.forget_runs(ref, "hydrate"))
                raise
            if outcome.outcome not in ("set_aside", "restored", "present"):
                now(stores.flow.forget_runs(ref, "hydrate"))
            return outcome

        _one(result, ref, work)

    with _batching(stores) as batching:
        _at_once(bring, unique, most=at_once)
    return result


def _flush_small(
    stores: Stores,
    refs: Sequence[ThreadRef],
    mode: FlushMode,
    run: str,
    result: BulkResult,
    unsettled: dict[ThreadRef, None],
) -> list[ThreadRef]:
    """Flush those that are small and undisturbed, step by step all together; the others."""
    attempts, others = [(ref, fresh_mark()) for ref in refs], list[ThreadRef]()
    ready: list[tuple[ThreadRef, FlushMode, Prepared]] = []
    for (ref, attempt), start in zip(attempts, now(stores.flow.begin_flushes(attempts, mode, run=run)), strict=True):
        if isinstance(start, FlushStart) and start.status == "set_aside":
            result.outcomes[nothing_to_archive(stores, ref, start).outcome] += 1
            del unsettled[ref]  # the deaths that were counted stay
            continue
        prepared = None if isinstance(start, ThreadkeepError) else _prepared(stores, ref, start, attempt)
        if prepared is None or isinstance(start, ThreadkeepError):
            others.append(ref)
        else:
            ready.append((ref, start.mode, prepared))
    put = _at_once(lambda item: _put(stores, item[0], item[2]), ready)
    done: list[tuple[ThreadRef, FlushMode, Prepared, StoredObject]] = []
    for (ref, wanted, prepared), stored in zip(ready, put, strict=True):
        if isinstance(stored, StoredObject):
            done.append((ref, wanted, prepared, stored))
        else:
            others.append(ref)
    flushes = [(ref, prepared.sealed, stored, prepared.head.gen, wanted) for ref, wanted, prepared, stored in done]
    for (ref, _, prepared, stored), settled in zip(done, now(stores.flow.settle_many(flushes)), strict=True):
        if isinstance(settled, ThreadkeepError) or settled.status == "stage":
            others.append(ref)
            continue
        record_flush(stores, ref, prepared, stored, settled)
        result.outcomes[ended(prepared, stored, settled).outcome] += 1
        if settled.status in ("evicted", "lingers", "kept"):
            del unsettled[ref]
    return others


def _prepared(stores: Stores, ref: ThreadRef, start: FlushStart, attempt: str) -> Prepared | None:
    """What is to be put of a thread that came along whole; None for all others."""
    small = start.small
    if start.status != "go" or start.head is None or start.head.lost or None in (small.base, small.log):
        return None
    try:
        return read_and_seal(stores, ref, start, start.head, attempt, whole=True)
    except ThreadkeepError:
        return None  # it is told of where the thread is looked at alone


def _put(stores: Stores, ref: ThreadRef, prepared: Prepared) -> PutResult | None:
    try:
        return put_archive(stores, ref, prepared)
    except ThreadkeepError:
        return None


def _one(result: BulkResult, ref: ThreadRef, work: Callable[[], Outcome]) -> None:
    try:
        outcome = work()
    except ThreadkeepError as error:
        result.failed.append((ref, error))
    else:
        result.outcomes[outcome.outcome] += 1


@contextmanager
def _batching(stores: Stores) -> Iterator[BatchingStores]:
    batching = BatchingStores(stores)
    try:
        yield batching
    finally:
        batching.tell_all()


def _at_once(work: Callable[[Any], Any], items: Sequence[Any], *, most: int = AT_ONCE) -> list[Any]:
    """The results of some calls at a time; what stops this thread stops the calls that have not begun."""
    if min(len(items), most) <= 1:
        return [work(item) for item in items]
    pool = ThreadPoolExecutor(min(most, len(items)))
    try:
        called = [pool.submit(copy_context().run, work, item) for item in items]
        return [each.result() for each in called]
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
