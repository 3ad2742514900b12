"""The Task class that carries the reliability options, so that no app's global settings weaken them."""

import time
from collections.abc import Callable
from random import uniform
from typing import Any

from celery import Task

from threadkeep.config import Settings
from threadkeep.errors import ThreadkeepError
from threadkeep.model import ThreadRef
from threadkeep.tasks.conf import SETTINGS_KEY, whole_delay
from threadkeep.tasks.enqueue import Enqueuer
from threadkeep.tasks.outcome import Outcome
from threadkeep.tasks.stores import Stores, log, stores_for


class ThreadTask(Task[..., Any]):
    """Late acknowledgement, redelivery after a lost worker, bounded time, retries only of what may succeed."""

    abstract = True
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
        try:
            outcome = work(self.stores)
        except ThreadkeepError as error:
            log.warning("%s did not complete", kind, extra={"thread_id": str(ref), "error": type(error).__name__})
            if error.retryable and self.request.retries < self.settings.max_retries:
                raise self.retry(exc=error, countdown=self._backoff(), max_retries=self.settings.max_retries) from error
            raise
        result = outcome.to_result(str(ref), (time.perf_counter() - started) * 1000)
        log.info("%s %s", kind, outcome.outcome, extra=result)
        return result

    def run_id(self) -> str:
        """Names this run: the same when its message is delivered again."""
        return str(self.request.id)

    def last_try(self) -> bool:
        """Whether a failure of this run would be final."""
        return bool(self.request.retries >= self.settings.max_retries)

    def _backoff(self) -> float:
        settings = self.settings
        ceiling = min(settings.retry_backoff_max, settings.retry_backoff * 2**self.request.retries)
        return whole_delay(str(self.app.conf.broker_url), uniform(ceiling / 2, ceiling))


_ENVIRONMENT: list[Settings] = []


def _from_environment() -> Settings:
    if not _ENVIRONMENT:
        _ENVIRONMENT.append(Settings.load())
    return _ENVIRONMENT[0]
