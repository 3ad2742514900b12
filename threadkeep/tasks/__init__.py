"""The tasks, under fixed names, for our own app and for any app that has `include=["threadkeep.tasks"]`.

Each may run any number of times, in any order, and be killed at any step. A thread id alone is enough: the namespace is
the settings' where none is given. Arguments and results are ids and numbers.
"""

from collections.abc import Iterable
from typing import Any

from celery import Celery, shared_task
from celery.signals import worker_ready

from threadkeep.errors import ThreadkeepError
from threadkeep.model import FlushMode, ThreadRef, fresh_mark
from threadkeep.storage.link import run_now as now
from threadkeep.tasks import bulk as _bulk
from threadkeep.tasks import describe as _describe
from threadkeep.tasks import erase as _erase
from threadkeep.tasks import flush as _flush
from threadkeep.tasks import hydrate as _hydrate
from threadkeep.tasks import reconcile as _reconcile
from threadkeep.tasks import sweeper
from threadkeep.tasks import verify as _verify
from threadkeep.tasks.adoption import declare_dead_letters
from threadkeep.tasks.conf import SETTINGS_KEY
from threadkeep.tasks.outcome import Outcome
from threadkeep.tasks.stores import Stores, log
from threadkeep.tasks.task import ThreadTask

__all__ = [
    "describe_thread",
    "erase_thread",
    "flush_thread",
    "flush_threads",
    "hydrate_thread",
    "hydrate_threads",
    "purge_conflicts",
    "reconcile_catalog",
    "sweep",
    "verify_archives",
]


@shared_task(bind=True, base=ThreadTask, name="threadkeep.hydrate_thread", soft_time_limit=90, time_limit=120)
def hydrate_thread(self: ThreadTask, thread_id: str, namespace: str | None = None) -> dict[str, Any]:
    """Bring a thread back from S3 into Redis, unless it is there."""
    ref = self.ref(thread_id, namespace)

    def work(stores: Stores) -> Outcome:
        try:
            outcome = _hydrate.hydrate(stores, ref, run=self.run_id())
        except ThreadkeepError as error:
            now(stores.flow.forget_runs(ref, "hydrate"))
            if self.last_try():
                _tell_failure(stores, ref, error)
            raise
        if outcome.outcome not in ("set_aside", "restored", "present"):  # the script that restores has forgotten them
            now(stores.flow.forget_runs(ref, "hydrate"))
        return outcome

    return self.run_for(ref, "hydrate", work)


@shared_task(bind=True, base=ThreadTask, name="threadkeep.flush_thread", soft_time_limit=90, time_limit=120)
def flush_thread(
    self: ThreadTask, thread_id: str, namespace: str | None = None, mode: FlushMode = "linger"
) -> dict[str, Any]:
    """Seal what is new in Redis into the thread's archive, then evict it or let it linger."""
    ref = self.ref(thread_id, namespace)

    def work(stores: Stores) -> Outcome:
        try:
            outcome = _flush.flush(stores, ref, mode, run=self.run_id())
        except ThreadkeepError:
            now(stores.flow.forget_runs(ref, "flush"))
            raise
        settled = outcome.outcome == "archived" and outcome.residence != "gone"  # the script has forgotten them
        if outcome.outcome != "set_aside" and not settled:
            now(stores.flow.forget_runs(ref, "flush"))
        return outcome

    return self.run_for(ref, "flush", work)


@shared_task(bind=True, base=ThreadTask, name="threadkeep.flush_threads", soft_time_limit=90, time_limit=120)
def flush_threads(
    self: ThreadTask, thread_ids: list[str], namespace: str | None = None, mode: FlushMode = "linger"
) -> dict[str, Any]:
    """`flush_thread` for many threads of a namespace. One that fails is queued by itself, and tried again there."""
    refs = [self.ref(thread_id, namespace) for thread_id in thread_ids]

    def work() -> dict[str, Any]:
        if self.is_redelivered():  # one of them may have killed the worker: each is tried by itself
            _flush_alone(self, refs, mode)
            return {"handed_on": len(refs)}
        result = _bulk.flush_many(self.stores, refs, mode, run=self.run_id())
        _flush_alone(self, [ref for ref, error in result.failed if error.retryable], mode)
        return _told("flush", result)

    return self.retrying("flush_threads", work, {"threads": len(refs)})


@shared_task(bind=True, base=ThreadTask, name="threadkeep.hydrate_threads", soft_time_limit=90, time_limit=120)
def hydrate_threads(self: ThreadTask, thread_ids: list[str], namespace: str | None = None) -> dict[str, Any]:
    """`hydrate_thread` for many threads of a namespace, for whom nobody waits yet; what fails is left in S3."""
    refs = [self.ref(thread_id, namespace) for thread_id in thread_ids]

    def work() -> dict[str, Any]:
        at_once = 1 if self.is_redelivered() else _bulk.AT_ONCE  # one may have killed the worker, beside others
        return _told("hydrate", _bulk.hydrate_many(self.stores, refs, run=self.run_id(), at_once=at_once))

    return self.retrying("hydrate_threads", work, {"threads": len(refs)})


@shared_task(bind=True, base=ThreadTask, name="threadkeep.describe_thread", soft_time_limit=30, time_limit=45)
def describe_thread(
    self: ThreadTask, thread_id: str, namespace: str | None = None, *, question: str = ""
) -> dict[str, Any]:
    """Say what is known of a thread; the answer to `question` goes through the hot tier."""
    ref = self.ref(thread_id, namespace)
    return self.run_for(ref, "describe", lambda stores: _describe.describe(stores, ref, question))


@shared_task(bind=True, base=ThreadTask, name="threadkeep.erase_thread", soft_time_limit=90, time_limit=120)
def erase_thread(
    self: ThreadTask, thread_id: str, namespace: str | None = None, *, request: str = "", upto: int = 0
) -> dict[str, Any]:
    """Remove a thread from every store, unless it was born after `upto`; without one, after this run began."""
    ref = self.ref(thread_id, namespace)

    def work(stores: Stores) -> Outcome:
        return _erase.to_outcome(_erase.erase(stores, ref, request or self.run_id(), upto))

    return self.run_for(ref, "erase", work)


@shared_task(bind=True, base=ThreadTask, name="threadkeep.purge_conflicts", soft_time_limit=90, time_limit=120)
def purge_conflicts(self: ThreadTask, thread_id: str, namespace: str | None = None, *, rev: int = 0) -> dict[str, Any]:
    """Delete what workers under way during the erasure at revision `rev` may have put aside; without one, the last."""
    ref = self.ref(thread_id, namespace)
    return self.run_for(ref, "purge_conflicts", lambda stores: _erase.look_again(stores, ref, rev))


@shared_task(bind=True, base=ThreadTask, name="threadkeep.sweep", soft_time_limit=90, time_limit=120)
def sweep(self: ThreadTask, *, force: bool = False) -> dict[str, Any]:
    """Flush what is due, end what lapsed, tell the catalog; once per period under any number of beats."""
    return sweeper.sweep(self.stores, self.enqueuer, force=force).to_result()


@shared_task(bind=True, base=ThreadTask, name="threadkeep.verify_archives", soft_time_limit=90, time_limit=120)
def verify_archives(self: ThreadTask, namespace: str | None = None, after: str | None = None) -> dict[str, Any]:
    """Read every archive and name what is damaged; a run that takes long hands the rest, behind `after`, on to another.

    Once per period under any number of beats.
    """
    period = self.settings.verify_every if namespace is None and after is None else 0

    def work() -> dict[str, Any]:
        if not self.is_first("verify", period):
            return {"skipped": True}
        scrub = _verify.verify(self.stores, namespace=namespace, after=_place(after), deadline=self.deadline())
        if scrub.after is not None:
            self.enqueuer.verify_archives(namespace, scrub.after)
        return scrub.to_result()

    return self.retrying("verify_archives", work, {"after": after})


@shared_task(bind=True, base=ThreadTask, name="threadkeep.reconcile_catalog", soft_time_limit=90, time_limit=120)
def reconcile_catalog(
    self: ThreadTask, namespace: str | None = None, after: str | None = None, *, in_rows: bool = False
) -> dict[str, Any]:
    """Hold the catalog against bucket and Redis; a run that takes long hands the rest, behind `after`, on to another.

    Once per period under any number of beats. `in_rows` says that `after` was met among the catalog's rows.
    """
    period = self.settings.reconcile_every if namespace is None and after is None else 0

    def work() -> dict[str, Any]:
        if not self.is_first("reconcile", period):
            return {"skipped": True}
        done = _reconcile.reconcile(
            self.stores, namespace=namespace, after=_place(after), in_rows=in_rows, deadline=self.deadline()
        )
        if done.after is not None:
            self.enqueuer.reconcile_catalog(namespace, done.after, in_rows=done.in_rows)
        return done.to_result()

    return self.retrying("reconcile_catalog", work, {"after": after})


def _flush_alone(task: ThreadTask, refs: Iterable[ThreadRef], mode: FlushMode) -> None:
    """Queue a flush of each, also where its marker says that one is: that may be the message that is given up here.

    The sweep does it where the broker is away.
    """
    hot = task.stores.hot
    for ref in refs:
        token = fresh_mark()
        try:
            if now(hot.request_flush(ref, mode, token)) in ("enqueue", "coalesced"):
                now(task.enqueuer.marked_flush(hot, ref, mode, token))
        except ThreadkeepError as error:
            log.warning("a flush could not be queued", extra={"thread_id": str(ref), "error": type(error).__name__})


def _told(kind: str, result: _bulk.BulkResult) -> dict[str, Any]:
    for ref, error in result.failed:
        log.warning("%s did not complete", kind, extra={"thread_id": str(ref), "error": type(error).__name__})
    counts = result.to_result()
    log.info("%s of many ended", kind, extra=counts)
    return counts


def _place(after: str | None) -> ThreadRef | None:
    return None if after is None else ThreadRef.from_member(after)


def _tell_failure(stores: Stores, ref: ThreadRef, error: ThreadkeepError) -> None:
    seen = now(stores.hot.look(ref))
    if seen.ticket:
        now(stores.flow.tell(ref, seen.ticket, "failed", str(error)))


@worker_ready.connect(weak=False)
def _declare_on_start(sender: object = None, **_: object) -> None:
    """A worker makes RabbitMQ's place for dead letters as soon as it has found the broker."""
    app = getattr(sender, "app", None)
    if isinstance(app, Celery) and SETTINGS_KEY in app.conf:
        declare_dead_letters(app)
