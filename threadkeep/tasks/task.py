"""The Task class that carries the reliability options, so that no app's global settings weaken them."""

import time
from collections.abc import Callable
from random import uniform
from typing import Any, TypeVar

from celery import Task
from celery.exceptions import Reject, Retry

from threadkeep.config import Settings
from threadkeep.errors import ThreadkeepError
from threadkeep.model import ThreadRef
from threadkeep.storage.link import run_now as now
from threadkeep.tasks.conf import SETTINGS_KEY, whole_delay
from threadkeep.tasks.enqueue import Enqueuer
from threadkeep.tasks.outcome import Outcome
from threadkeep.tasks.stores import Stores, log, stores_for

T = TypeVar("T")
E = TypeVar("E", bound=BaseException)


class ThreadTask(Task[..., Any]):
    """Late acknowledgement, redelivery after a lost worker, bounded time, retries only of what may succeed."""

    abstract = True
    Request = "threadkeep.tasks.request:ThreadRequest"
    acks_late = True
    reject_on_worker_lost = True
    retry_on_worker_lost = True
    acks_on_failure = True
    acks_on_timeout = True
    ignore_result = True
    store_errors_even_if_ignored = False
    track_started = True
    serializer = "json"
    max_retries = 4
    default_retry_delay = 5
    throws = (ThreadkeepError,)

    @property
    def settings(self) -> Settings:
        found = self.app.conf.get(SETTINGS_KEY)
        return found if isinstance(found, Settings) else _from_environment()

    def ref(self, thread_id: str, namespace: str | None) -> ThreadRef:
        """The thread that a message names."""
        return ThreadRef.of(thread_id, namespace or self.settings.namespace)

    @property
    def stores(self) -> Stores:
        return stores_for(self.settings)

    @property
    def enqueuer(self) -> Enqueuer:
        return Enqueuer(self.app)

    def run_for(self, ref: ThreadRef, kind: str, work: Callable[[Stores], Outcome]) -> dict[str, Any]:
        """Do the work for one thread; retry what may succeed later, with jittered backoff, else fail at once."""
        started = time.perf_counter()
        outcome = self.retrying(kind, lambda: work(self.stores), {"thread_id": str(ref)})
        result = outcome.to_result(str(ref), (time.perf_counter() - started) * 1000)
        log.info("%s %s", kind, outcome.outcome, extra=result)
        return result

    def retrying(self, kind: str, work: Callable[[], T], facts: dict[str, Any]) -> T:
        """Do the work; `facts` say in the log which did not complete."""
        try:
            return work()
        except ThreadkeepError as error:
            log.warning("%s did not complete", kind, extra={**facts, "error": type(error).__name__})
            alone = _without_cause(error)
            if error.retryable and self.request.retries < self.settings.max_retries:
                raise self._put_off(alone) from None
            raise alone from None

    def is_first(self, work: str, period: float) -> bool:
        """Whether this is the run of periodic work for its time slot, under any number of beats; always without one.

        A run that is retried, or whose message is delivered again, still is.
        """
        if not period:
            return True
        flow = self.stores.flow
        slot = int(now(flow.clock()) / 1_000_000 / period)
        return now(flow.claim(work, slot, 2 * period, run=self.run_id()))

    def deadline(self) -> float:
        """Monotonic time at which a walk hands the rest on to a run of its own: half of what this one may take."""
        return time.monotonic() + self.settings.soft_time_limit / 2

    def run_id(self) -> str:
        """Names this run: the same when its message is delivered again."""
        return str(self.request.id)

    def is_redelivered(self) -> bool:
        """Whether a worker had this message before, and did not end it."""
        return bool((self.request.delivery_info or {}).get("redelivered"))

    def last_try(self) -> bool:
        """Whether a failure of this run would be final."""
        return bool(self.request.retries >= self.settings.max_retries)

    def _put_off(self, error: ThreadkeepError) -> Retry:
        """Queue the run once more; if the broker is away it is dropped: the sweep or a waiter asks anew."""
        most = self.settings.max_retries
        try:
            return self.retry(exc=error, countdown=self._backoff(), max_retries=most, throw=False)
        except Reject as rejected:
            raise Reject(_without_cause(rejected.args[0]), requeue=False) from None

    def _backoff(self) -> float:
        settings = self.settings
        ceiling = min(settings.retry_backoff_max, settings.retry_backoff * 2**self.request.retries)
        return whole_delay(str(self.app.conf.broker_url), uniform(ceiling / 2, ceiling))


def _without_cause(error: E) -> E:
    """The error without the vendors' errors behind it, whose frames fill pages; ours name what happened.

    A worker reads what its child tells it in one go up to 16 KiB. Of a longer message it loses its place when the
    broker's connection breaks in the middle of it, takes text for numbers, and never works again.
    """
    error.__cause__ = None
    return error


_ENVIRONMENT: list[Settings] = []


def _from_environment() -> Settings:
    if not _ENVIRONMENT:
        _ENVIRONMENT.append(Settings.load())
    return _ENVIRONMENT[0]
