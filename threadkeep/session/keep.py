"""`Threadkeep`: threads for apps without asyncio. Each call is a coroutine of `Threads`, finished at once."""

from collections.abc import Coroutine, Mapping
from types import TracebackType
from typing import Any, Self

from threadkeep.config import Settings
from threadkeep.model import JsonObject, ThreadRef, ThreadStat, fresh_mark
from threadkeep.session.conversation import OnDangling
from threadkeep.session.heartbeat import Heartbeat
from threadkeep.session.loop.calling import SyncCalling
from threadkeep.session.making import copying_with, new_identity
from threadkeep.session.session import Session
from threadkeep.session.threads import Threads, ThreadView, new_ref
from threadkeep.session.writer import Writer
from threadkeep.storage.cluster import sync_link
from threadkeep.storage.hot import HotTier
from threadkeep.storage.hot_head import Head
from threadkeep.storage.link import run_now
from threadkeep.tasks.adoption import CeleryApp
from threadkeep.tasks.enqueue import Enqueuer, at_once


class Threadkeep:
    """Opens, makes, forks and reads threads. Needs Redis and the broker; no credentials of S3 or Postgres.

    One per process is enough: it may be shared between threads, and made before a fork.

    Args:
        settings: Where Redis and the broker are; from the environment if not given.
        celery: The app to queue tasks through, prepared by `threadkeep.tasks.adoption.adopt`; our own if not given.

    Raises (all methods):
        InvalidThreadId: a malformed id or namespace; nothing was read or written.
        StoreUnavailable: Redis or the workers did not answer.
        BrokerUnavailable: a task that this call depends on could not be queued.
        HydrateTimeout: a cold thread did not come back in time.
        HydrateFailed: it cannot come back, and why.
        ThreadErased: the thread is being erased.
    """

    def __init__(self, settings: Settings | None = None, *, celery: CeleryApp | None = None) -> None:
        self.settings = settings or Settings.load()
        self._link = sync_link(self.settings)
        hot = HotTier(self._link, self.settings)
        self._threads = Threads(hot, Enqueuer.publishing(celery, self.settings), self.settings, at_once)
        self._heartbeat = Heartbeat(hot, self.settings.lease_seconds / 3)

    def new(
        self,
        id: str | None = None,  # noqa: A002
        *,
        namespace: str | None = None,
        codec: str = "plain",
        system: Any = None,
        state: JsonObject | None = None,
        labels: Mapping[str, str] | None = None,
        overwrite: bool = False,
        wait_flush: float | None = None,
        on_dangling: OnDangling = "answer",
    ) -> Session:
        """Make a thread and open it.

        Args:
            id: Its id; a random one if not given, for which nothing needs to be looked up.
            namespace: Its namespace; the settings' if not given.
            codec: How its messages are kept, a provider's name or `plain`; remembered with it.
            system: The system prompt, its first message; none if not given.
            state: Its first state.
            labels: Its first labels.
            overwrite: Replace a thread of that id; the archive's object is overwritten by the next flush.
            wait_flush: Seconds to wait, on leaving, until the archive holds everything.
            on_dangling: What becomes of tool calls that nobody answered: an error result for each (`answer`), the
                model's message is removed if nothing follows it (`drop`), or nothing (`keep`).

        Raises:
            ThreadExists: a thread of that id is hot or archived.
            UnknownCodec: no codec has that name.
            SystemPromptMissing: the system prompt is blank.
        """
        ref, chosen = new_ref(id, namespace or self.settings.namespace)
        token = fresh_mark()
        identity = new_identity(codec, system, state, labels)
        opening = self._threads.new(ref, token, identity, chosen=chosen, overwrite=overwrite)
        return self._session(ref, token, opening, wait_flush, on_dangling)

    def open(
        self,
        id: str,  # noqa: A002
        *,
        namespace: str | None = None,
        create: bool = False,
        codec: str | None = None,
        system: Any = None,
        wait: float = 0.0,
        wait_flush: float | None = None,
        on_dangling: OnDangling = "answer",
    ) -> Session:
        """Open a thread to continue it, waiting for its hydrate if it is cold.

        Args:
            id: Its id.
            namespace: Its namespace; the settings' if not given.
            create: Make it if it does not exist.
            codec: The codec to make it with, `plain` if not given; a thread that exists must have it.
            system: The system prompt from now on; a thread that exists keeps its own if not given.
            wait: Seconds to queue for it while another session holds its lease.
            wait_flush: Seconds to wait, on leaving, until the archive holds everything.
            on_dangling: See `new`.

        Raises:
            ThreadNotFound: there is no such thread.
            ThreadBusy: another session holds its lease.
            FormatMismatch: it is kept by another codec; nothing was changed.
            UnknownCodec: no codec has that name.
            SystemPromptMissing: the system prompt is blank.
        """
        ref, token = self._ref(id, namespace), fresh_mark()
        identity = new_identity(codec or "plain", system, None, None)
        opening = self._threads.open(ref, token, create=identity if create else None, wait=wait, codec=codec)
        return self._session(ref, token, opening, wait_flush, on_dangling, system)

    def fork(
        self,
        source: str,
        *,
        id: str | None = None,  # noqa: A002
        namespace: str | None = None,
        before: str | None = None,
        codec: str | None = None,
        system: Any = None,
        hooks: Any = None,
        wait_flush: float | None = None,
        on_dangling: OnDangling = "answer",
    ) -> Session:
        """Copy a thread and open the copy; the source needs no lease and stays as it is.

        Args:
            source: The thread to copy.
            id: The copy's id; a random one if not given.
            namespace: The namespace of both; the settings' if not given.
            before: Copy only what stands before the message with this id.
            codec: The copy's codec, the source's if not given; the hooks then make its entries.
            system: The copy's system prompt from now on, the source's if not given.
            hooks: `on_fork_prepare` and `on_fork_transform` are called for what is copied, before anything is written.
            wait_flush: Seconds to wait, on leaving, until the archive holds everything.
            on_dangling: See `new`.

        Raises:
            ThreadNotFound: there is no such source.
            MessageNotFound: the source holds no such message.
            ThreadExists: the chosen id is taken.
            FormatMismatch, InvalidMessage: an entry is not of the copy's codec; nothing was written.
            SystemPromptMissing: the system prompt is blank.
        """
        origin = self._ref(source, namespace)
        ref, chosen = new_ref(id, origin.namespace)
        token = fresh_mark()
        copying = copying_with(before, codec, system, hooks, SyncCalling())
        opening = self._threads.fork(origin, ref, token, chosen=chosen, copying=copying)
        return self._session(ref, token, opening, wait_flush, on_dangling, system)

    def read(self, id: str, *, namespace: str | None = None) -> ThreadView:  # noqa: A002
        """A thread as it is now, without a lease: one being written can be looked at. Brings it back if cold."""
        return run_now(self._threads.view(self._ref(id, namespace)))

    def stat(self, id: str, *, namespace: str | None = None) -> ThreadStat:  # noqa: A002
        """What is known of a thread, without its content and without bringing it back; `tier` may be `absent`."""
        return run_now(self._threads.stat(self._ref(id, namespace)))

    def exists(self, id: str, *, namespace: str | None = None) -> bool:  # noqa: A002
        """Whether a thread is hot or archived."""
        return self.stat(id, namespace=namespace).tier != "absent"

    def prefetch(self, id: str, *, namespace: str | None = None) -> bool:  # noqa: A002
        """Have a thread brought back and do not wait, as when its page is opened. False if the broker is away."""
        return run_now(self._threads.prefetch(self._ref(id, namespace)))

    def flush(self, id: str, *, namespace: str | None = None, wait: float | None = None) -> bool:  # noqa: A002
        """Have a thread archived and evicted; it may be in use, and then stays hot. False if nothing was to be queued.

        Args:
            id: Its id.
            namespace: Its namespace; the settings' if not given.
            wait: Seconds to wait until the archive holds what is there now. Raises `FlushTimeout`.
        """
        ref = self._ref(id, namespace)
        queued = run_now(self._threads.request_flush(ref, "evict"))
        if wait is not None:
            run_now(self._threads.wait_present_archived(ref, "evict", wait))
        return queued

    def delete(self, id: str, *, namespace: str | None = None, wait: float | None = None) -> str:  # noqa: A002
        """Have a thread erased from every store; what is created under its id afterwards is spared.

        Args:
            id: Its id.
            namespace: Its namespace; the settings' if not given.
            wait: Seconds to wait until it is done; None does not wait.

        Returns:
            The id of the request.
        """
        return run_now(self._threads.erase(self._ref(id, namespace), wait=wait))

    def close(self) -> None:
        """Give the connections back; open sessions can no longer write."""
        run_now(self._link.close())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _session(
        self,
        ref: ThreadRef,
        token: str,
        opening: Coroutine[Any, Any, Head],
        wait_flush: float | None,
        on_dangling: OnDangling,
        system: Any = None,
    ) -> Session:
        head = run_now(self._threads.leased(ref, token, opening))
        session = Session(Writer(self._threads, ref, token, head), self._heartbeat, wait_flush, on_dangling)
        if system is not None:
            try:
                session.system(system)
            except BaseException as error:
                session.__exit__(type(error), error, error.__traceback__)
                raise
        return session

    def _ref(self, id: str, namespace: str | None) -> ThreadRef:  # noqa: A002
        return ThreadRef.of(id, namespace or self.settings.namespace)
