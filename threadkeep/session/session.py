"""An open thread, for apps without asyncio."""

from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

from threadkeep.errors import LeaseLost
from threadkeep.model import Entry, JsonObject
from threadkeep.session.heartbeat import Heartbeat
from threadkeep.session.writer import Leaving, Writer
from threadkeep.storage.link import run_now


class SessionFacts:
    """What a session knows without asking Redis; shared by `Session` and `AsyncSession`.

    Attributes:
        flush_enqueued: After leaving: whether a flush is on its way. False means that the broker was away; the thread
            is safe in Redis and the sweep will archive it.
    """

    def __init__(self, writer: Writer, wait_flush: float | None) -> None:
        self._writer = writer
        self._wait_flush = wait_flush
        self.flush_enqueued = False

    @property
    def id(self) -> str:
        return self._writer.ref.thread_id

    @property
    def namespace(self) -> str:
        return self._writer.ref.namespace

    @property
    def codec(self) -> str:
        """Name of the codec that the thread's messages are kept in."""
        return self._writer.codec

    @property
    def rev(self) -> int:
        """The last revision that was acknowledged to this session; microseconds of a hybrid logical clock."""
        return self._writer.rev

    @property
    def count(self) -> int:
        """Messages in the thread."""
        return self._writer.count

    @property
    def labels(self) -> dict[str, str]:
        """A copy of the thread's labels; `label()` changes them."""
        return dict(self._writer.labels)

    @property
    def state(self) -> JsonObject:
        """The thread's state: change it in place or assign to it; saved by `checkpoint()` and on leaving."""
        return self._writer.state

    @state.setter
    def state(self, value: JsonObject) -> None:
        self._writer.state = value

    def _open(self) -> Writer:
        if self._writer.closed:
            raise LeaseLost(str(self._writer.ref))
        return self._writer

    def _left(self, left: Leaving, error: BaseException | None) -> None:
        """What leaving found: never raised over the app's own error."""
        self.flush_enqueued = left.flush_enqueued
        if left.error is None:
            return
        if error is None:
            raise left.error
        error.add_note(f"While the session was left: {left.error}")


class Session(SessionFacts):
    """An open thread and its lease. Use it as a context manager; leaving saves, releases and queues the flush.

    Safe to use from one thread of execution at a time.

    Raises (all writes):
        LeaseLost: the lease expired and another session took over; this write was refused.
        HotTierLost: Redis lost its memory; says what is safe.
        ThreadErased: the thread is being erased.
        StoreUnavailable: Redis did not answer; repeating the same call with the same ids is safe.
    """

    def __init__(self, writer: Writer, heartbeat: Heartbeat, wait_flush: float | None) -> None:
        super().__init__(writer, wait_flush)
        self._heartbeat = heartbeat
        heartbeat.add(writer)

    def append(self, *messages: Any, id: str | None = None, ids: Sequence[str] | None = None) -> list[str]:  # noqa: A002
        """Append one message or many, all or none, durable when this returns.

        Args:
            messages: JSON values as the codec takes them, or `Entry` objects.
            id: The id of the one message; made if not given. A repeated append with the same id is a no-op.
            ids: One id for each message.

        Returns:
            The ids.

        Raises:
            InvalidMessage: what cannot be kept, and why; nothing was written.
            MessageConflict: an id is taken by other content; nothing was written.
            FormatMismatch: an entry of another codec; nothing was written.
        """
        return run_now(self._open().append(messages, [id] if id is not None else ids))

    @property
    def entries(self) -> list[Entry]:
        """All messages with their envelopes, oldest first; fresh objects on each access."""
        return run_now(self._open().entries())

    @property
    def messages(self) -> list[Any]:
        """The bodies of all messages, oldest first; fresh objects on each access."""
        return [entry.body for entry in run_now(self._open().entries())]

    def truncate(self, message_id: str) -> int:
        """Remove a message and all after it; returns how many went. Raises `MessageNotFound`."""
        return run_now(self._open().truncate(message_id))

    def replace(self, *messages: Any, ids: Sequence[str] | None = None) -> list[str]:
        """Put these messages in the place of all; returns their ids."""
        return run_now(self._open().replace(messages, ids))

    def label(self, **labels: str | None) -> None:
        """Set labels; None removes one. They are searchable in the catalog after the next flush."""
        run_now(self._open().label(labels))

    def checkpoint(self, *, wait: float | None = None) -> None:
        """Save the state and have the archive catch up while the session goes on.

        Args:
            wait: Seconds to wait for the archive; None does not wait. Raises `FlushTimeout`.
        """
        run_now(self._open().checkpoint(wait))

    def close(self) -> None:
        """Leave; what the end of the `with` block does. Closing twice does nothing."""
        self._leave(None)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave(error)

    def _leave(self, error: BaseException | None) -> None:
        if self._writer.closed:
            return
        try:
            left = run_now(self._writer.leave())
        finally:
            self._heartbeat.remove(self._writer)
        self._left(left, error)
        if self._wait_flush is not None and error is None:
            run_now(self._writer.wait_flushed(self._wait_flush))
