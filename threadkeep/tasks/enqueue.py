"""Typed ways to queue a task, by name: coalesced per thread, and never waiting long for a sick broker."""

import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

from amqp import AMQPError
from celery import Celery
from kombu import Producer
from kombu.exceptions import KombuError, OperationalError

from threadkeep.config import Settings
from threadkeep.errors import BrokerUnavailable
from threadkeep.model import FlushMode, ThreadRef, fresh_mark
from threadkeep.storage.hot import HotTier
from threadkeep.tasks.adoption import make_app
from threadkeep.tasks.conf import FLUSH, HYDRATE, MAINTENANCE, SETTINGS_KEY, whole_delay

log = logging.getLogger(__name__)

PUBLISH_RETRIES: dict[str, Any] = {
    "max_retries": 1,
    "interval_start": 0.1,
    "interval_step": 0.1,
    "interval_max": 0.2,
}
"""One quick retry, for a connection that broke while nobody used it."""
DEFAULT_PATIENCE: Final = 2.0
THREADS_A_MESSAGE: Final = 100
"""How many threads one message names: what a worker has in hand for a second or two."""

# The last: where a link breaks while kombu declares a queue, it goes on with a channel that it has closed itself.
_BROKEN: Final = (OperationalError, KombuError, AMQPError, OSError, AttributeError)

Dispatch = Callable[[Callable[[], None]], Awaitable[None]]
"""Runs what blocks on the broker: at once where blocking is fine, in an executor under asyncio."""


async def at_once(publish: Callable[[], None]) -> None:
    """The `Dispatch` of whoever may block."""
    publish()


@dataclass(frozen=True, slots=True)
class Enqueuer:
    """Publishes through one Celery app. Blocking: asyncio runs it in an executor.

    Raises (all methods):
        BrokerUnavailable: the broker took no message in time.
    """

    app: Celery

    @classmethod
    def publishing(cls, app: Celery | None, settings: Settings) -> Self:
        """Through a user's app, or one of our own that only publishes."""
        return cls(app or make_app(settings, publisher=True))

    def hydrate(self, ref: ThreadRef, token: str, *, expires: float) -> None:
        """Queue `hydrate_thread`; it is dropped unrun after `expires` seconds, when nobody waits any more."""
        self._publish("threadkeep.hydrate_thread", ref, HYDRATE, task_id=f"hydrate-{token}", expires=expires)

    def flush(self, ref: ThreadRef, mode: FlushMode, token: str, *, delay: float = 0.0) -> None:
        """Queue `flush_thread`, to start after `delay` seconds."""
        self._publish(
            "threadkeep.flush_thread",
            ref,
            FLUSH,
            {"mode": mode},
            task_id=f"flush-{token}",
            countdown=delay or None,
        )

    def flush_many(self, refs: Sequence[ThreadRef], mode: FlushMode) -> None:
        """Queue `flush_threads`, a message for each hundred threads of a namespace."""
        self._send_many("threadkeep.flush_threads", refs, {"mode": mode})

    def hydrate_many(self, refs: Sequence[ThreadRef]) -> None:
        """Queue `hydrate_threads`, a message for each hundred threads of a namespace."""
        self._send_many("threadkeep.hydrate_threads", refs, {})

    def describe(self, ref: ThreadRef, question: str, *, expires: float) -> None:
        """Queue `describe_thread`; the answer comes through the hot tier."""
        about = {"question": question}
        self._publish(
            "threadkeep.describe_thread", ref, HYDRATE, about, task_id=f"describe-{question}", expires=expires
        )

    def erase(self, ref: ThreadRef, *, request: str, upto: int) -> None:
        """Queue `erase_thread`."""
        about = {"request": request, "upto": upto}
        self._publish("threadkeep.erase_thread", ref, MAINTENANCE, about, task_id=f"erase-{request}")

    def purge_conflicts(self, ref: ThreadRef, *, rev: int) -> None:
        """Queue `purge_conflicts`, a later look at the grave of a thread that was erased at revision `rev`."""
        task_id = f"purge-{fresh_mark()}"
        self._publish("threadkeep.purge_conflicts", ref, MAINTENANCE, {"rev": rev}, task_id=task_id)

    def verify_archives(self, namespace: str | None, after: ThreadRef) -> None:
        """Queue the rest of a scrub, behind a thread."""
        self._go_on("verify_archives", {"namespace": namespace, "after": after.member})

    def reconcile_catalog(self, namespace: str | None, after: ThreadRef, *, in_rows: bool) -> None:
        """Queue the rest of a reconcile, behind a thread of the bucket or of the rows."""
        self._go_on("reconcile_catalog", {"namespace": namespace, "after": after.member, "in_rows": in_rows})

    async def request_flushes(self, hot: HotTier, refs: Sequence[ThreadRef], mode: FlushMode) -> list[ThreadRef]:
        """Queue flushes of many threads, for each unless one is queued; those that are on their way now."""
        token, queued, marked = fresh_mark(), list[ThreadRef](), list[ThreadRef]()
        for ref, asked in zip(refs, await hot.request_flushes(refs, mode, token), strict=True):
            if asked in ("enqueue", "coalesced"):
                queued.append(ref)
            if asked == "enqueue":
                marked.append(ref)
        try:
            if len(marked) == 1:
                self.flush(marked[0], mode, token)
            else:
                self.flush_many(marked, mode)
        except BrokerUnavailable:
            for ref in marked:
                await hot.withdraw(ref, "flush", token)
            raise
        return queued

    async def request_flush(self, hot: HotTier, ref: ThreadRef, mode: FlushMode, dispatch: Dispatch = at_once) -> bool:
        """Queue a flush unless one is queued; True if one is on its way now."""
        token = fresh_mark()
        asked = await hot.request_flush(ref, mode, token)
        if asked == "enqueue":
            await self.marked_flush(hot, ref, mode, token, dispatch)
        return asked in ("enqueue", "coalesced")

    async def marked_flush(
        self,
        hot: HotTier,
        ref: ThreadRef,
        mode: FlushMode,
        token: str,
        dispatch: Dispatch = at_once,
        *,
        delay: float = 0.0,
    ) -> None:
        """Queue a flush whose marker is set; a marker whose message could not be published is taken back."""
        try:
            await dispatch(lambda: self.flush(ref, mode, token, delay=delay))
        except BrokerUnavailable:
            await hot.withdraw(ref, "flush", token)
            raise

    def _publish(
        self, task: str, ref: ThreadRef, queue: str, more: dict[str, Any] | None = None, **options: Any
    ) -> None:
        kwargs = {"thread_id": ref.thread_id, "namespace": ref.namespace, **(more or {})}
        shown = " ".join([f"{ref.namespace}/{ref.thread_id}", *map(str, (more or {}).values())])
        self._send(task, kwargs, shown, queue, **options)

    def _send_many(self, task: str, refs: Sequence[ThreadRef], more: dict[str, Any]) -> None:
        by_namespace: dict[str, list[str]] = {}
        for ref in refs:
            by_namespace.setdefault(ref.namespace, []).append(ref.thread_id)
        for namespace, ids in by_namespace.items():
            for at in range(0, len(ids), THREADS_A_MESSAGE):
                some = ids[at : at + THREADS_A_MESSAGE]
                shown = " ".join([f"{len(some)} threads of {namespace}", *map(str, more.values())])
                self._send(task, {"thread_ids": some, "namespace": namespace, **more}, shown, FLUSH)

    def _go_on(self, task: str, about: dict[str, Any]) -> None:
        shown = " ".join(str(value) for value in about.values() if value is not None)
        self._send(f"threadkeep.{task}", about, shown, MAINTENANCE)

    def _send(self, task: str, kwargs: dict[str, Any], shown: str, queue: str, **options: Any) -> None:
        given = {name: value for name, value in options.items() if value is not None}
        if "countdown" in given:
            given["countdown"] = whole_delay(str(self.app.conf.broker_url), given["countdown"])
        patience = self._patience()
        try:
            with self.app.producer_or_acquire() as producer:
                self.app.send_task(
                    task,
                    kwargs=kwargs,
                    kwargsrepr=shown,
                    queue=queue,
                    producer=producer,
                    retry=True,
                    retry_policy={**PUBLISH_RETRIES, "errback": _giving_up(producer, patience)},
                    confirm_timeout=patience,
                    ignore_result=True,
                    **given,
                )
        except _BROKEN as error:
            raise BrokerUnavailable(task, f"{type(error).__name__}: {str(error)[:160]}") from error

    def _patience(self) -> float:
        settings = self.app.conf.get(SETTINGS_KEY)
        return settings.broker_timeout if isinstance(settings, Settings) else DEFAULT_PATIENCE


def _giving_up(producer: Producer, seconds: float) -> Callable[[Exception, float], None]:
    """Called between two attempts: no second one once the time is up, which one that timed out has used already."""
    deadline = time.monotonic() + seconds

    def give_up(error: Exception, _interval: float) -> None:
        if time.monotonic() >= deadline:
            if producer.connection is not None:
                producer.connection.collect()  # not closed: that would wait for the broker's consent
            raise error

    return give_up
