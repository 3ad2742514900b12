"""An open thread, for apps without asyncio."""

from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from threadkeep.errors import RunGoingOn, SessionClosed
from threadkeep.model import Entry, fresh_id
from threadkeep.session.codecs.base import ToolCall
from threadkeep.session.conversation import Conversation, OnDangling
from threadkeep.session.heartbeat import Heartbeat
from threadkeep.session.loop.answers import Repair
from threadkeep.session.loop.calling import SyncCalling
from threadkeep.session.loop.options import RunOptions
from threadkeep.session.loop.result import Result
from threadkeep.session.loop.run import Leaving as RunLeaving
from threadkeep.session.loop.run import Run
from threadkeep.session.loop.state import State
from threadkeep.session.loop.tools import definitions_of
from threadkeep.session.shielding import deferred_signals
from threadkeep.session.writer import Leaving, Writer
from threadkeep.storage.link import run_now

if TYPE_CHECKING:
    from threadkeep.session.agents_session import AgentsSession


class SessionFacts:
    """What a session knows without asking Redis; shared by `Session` and `AsyncSession`.

    Attributes:
        flush_enqueued: After leaving: whether a flush is on its way. False means that the broker was away; the thread
            is safe in Redis and the sweep will archive it.
    """

    def __init__(self, writer: Writer, wait_flush: float | None, on_dangling: OnDangling) -> None:
        self._writer = writer
        self._talk = Conversation(writer, on_dangling)
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
        return self._writer.codec.name

    @property
    def rev(self) -> int:
        """The last revision that was acknowledged to this session; microseconds of a hybrid logical clock."""
        return self._writer.rev

    @property
    def count(self) -> int:
        """Entries in the thread."""
        return self._writer.count

    @property
    def labels(self) -> dict[str, str]:
        """A copy of the thread's labels; `label()` changes them."""
        return dict(self._writer.labels)

    @property
    def state(self) -> State:
        """The thread's state, used like a dict: saved with each turn of a run, by `checkpoint()` and on leaving."""
        return self._writer.state

    @state.setter
    def state(self, value: Mapping[str, Any]) -> None:
        self._writer.state.become(value)

    def _open(self) -> Writer:
        if self._writer.closed:
            raise SessionClosed(str(self._writer.ref))
        return self._writer

    def _talking(self) -> Conversation:
        self._open()
        return self._talk

    def _writing(self) -> Conversation:
        """For what must not come between a run's calls and their results."""
        self._open()
        if self._talk.is_running:
            raise RunGoingOn(str(self._writer.ref))
        return self._talk

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

    Safe to use from one thread of execution at a time; only `post` may be called from others while a run is going on.

    Raises (all writes):
        LeaseLost: the lease expired and another session took over; this write was refused.
        HotTierLost: Redis lost its memory; says what is safe.
        ThreadErased: the thread is being erased.
        RunGoingOn: a run is going on; only `post` may add a message.
        SessionClosed: it was left.
        StoreUnavailable: Redis did not answer; repeating the same call with the same ids is safe.
    """

    def __init__(
        self, writer: Writer, heartbeat: Heartbeat, wait_flush: float | None, on_dangling: OnDangling = "answer"
    ) -> None:
        super().__init__(writer, wait_flush, on_dangling)
        self._heartbeat = heartbeat
        heartbeat.add(writer)

    # --- writing ----------------------------------------------------------------------------------------------------

    def append(self, *messages: Any, id: str | None = None, ids: Sequence[str] | None = None) -> list[str]:  # noqa: A002
        """Append one message or many, all or none, durable when this returns.

        Args:
            messages: What the provider's SDK gave or takes, as the codec knows it, or `Entry` objects.
            id: The id of the one message; made if not given. A repeated append with the same id is a no-op.
            ids: One id for each message.

        Returns:
            The ids of the entries; a message of several items has several: `X`, `X.1`, `X.2`, …

        Raises:
            InvalidMessage: what cannot be kept, and why; nothing was written.
            MessageConflict: an id is taken by other content; nothing was written.
            FormatMismatch: an entry of another codec; nothing was written.
            EmptyReply: a model's answer that holds nothing, as one that was blocked; nothing was written.
        """
        return run_now(self._writing().append(messages, [id] if id is not None else ids))

    def user(self, content: Any, *, id: str | None = None) -> str:  # noqa: A002
        """Append what a user says, text or content as the provider takes it; returns the message's id."""
        return run_now(self._writing().say(self._talk.codec.user(content), id))

    def system(self, content: Any, *, id: str | None = None) -> str:  # noqa: A002
        """Put a system prompt in force from now on; the one in force already is not repeated. Returns its id.

        Raises:
            SystemPromptMissing: it is blank.
        """
        return run_now(self._writing().system(content, id))

    def tool(self, call: ToolCall | str, content: Any, *, error: bool = False, id: str | None = None) -> str:  # noqa: A002
        """Append the result of a tool call, given by its id or as the codec read it; returns the message's id.

        Raises:
            InvalidMessage: no message of the thread makes such a call.
        """
        return run_now(self._writing().result(call, content, error=error, message_id=id))

    def post(self, content: Any, *, id: str | None = None) -> str:  # noqa: A002
        """Append what a user says, at once or, while a run is going on, between its turns; returns the message's id.

        During a run this may be called from other threads. The message is durable when the run takes it in, at the
        latest when the run ends.
        """
        return run_now(self._talking().post(content, id))

    def truncate(self, message_id: str) -> int:
        """Remove a message and all after it; returns how many entries went. Raises `MessageNotFound`.

        What is invalid without what was removed, as a reasoning item without the item that it led to, goes too.
        """
        return run_now(self._writing().truncate(message_id))

    def pop(self) -> Any:
        """Remove the last message, and what is invalid without it, and return it; None from an empty thread."""
        return run_now(self._writing().pop())

    def replace(self, *messages: Any, ids: Sequence[str] | None = None) -> list[str]:
        """Put these messages in the place of all; returns their ids."""
        return run_now(self._writing().replace(messages, ids))

    def label(self, **labels: str | None) -> None:
        """Set labels; None removes one. They are searchable in the catalog after the next flush."""
        run_now(self._open().label(labels))

    def checkpoint(self, *, wait: float | None = None) -> None:
        """Save the state and have the archive catch up while the session goes on.

        Args:
            wait: Seconds to wait for the archive; None does not wait. Raises `FlushTimeout`.
        """
        run_now(self._open().checkpoint(wait))

    # --- reading ----------------------------------------------------------------------------------------------------

    @property
    def entries(self) -> list[Entry]:
        """All messages with their envelopes, oldest first; fresh objects on each access."""
        return run_now(self._open().entries())

    @property
    def messages(self) -> list[Any]:
        """All messages as the provider, or its framework, has them, oldest first; fresh objects on each access."""
        return run_now(self._talking().messages())

    @property
    def unanswered(self) -> bool:
        """Whether a model should speak next: the last message is not its own, or calls tools that did not answer."""
        return run_now(self._talking().unanswered())

    @property
    def repairs(self) -> list[Repair]:
        """Unanswered tool calls that were answered or dropped so that the thread stays valid, oldest first."""
        return run_now(self._talking().all_repairs())

    def request(self, *, tools: Iterable[Any] = (), hooks: Any = None, **options: Any) -> dict[str, Any]:
        """Keyword arguments for the provider's own call, with the whole thread in them.

        Args:
            tools: Functions, `Tool` or `ToolDefinition` objects that the model may call.
            hooks: `on_prepare` and `on_prepared` are called for each message.
            options: The codec's own, such as `cache="1h"` of `anthropic`.
        """
        return run_now(self._talking().request(definitions_of(tools), hooks, options))

    def as_agents_session(self) -> "AgentsSession":
        """This thread as a session of OpenAI's Agents SDK, for `Runner.run(…, session=…)`; while it is open.

        The thread's codec must be `openai-responses`. The SDK looks after unanswered calls itself, so Threadkeep
        repairs none from here on.

        Raises:
            FormatMismatch: the thread is kept by another codec.
        """
        from threadkeep.session.agents_session import AgentsSession  # noqa: PLC0415  few need it

        self._talk.on_dangling = "keep"
        return AgentsSession(self)

    # --- running ----------------------------------------------------------------------------------------------------

    def run(
        self,
        model: Callable[[dict[str, Any]], Any],
        *,
        input: Any = None,  # noqa: A002
        tools: Iterable[Any] = (),
        max_turns: int = 50,
        parallel: bool = True,
        hooks: Any = None,
        run_id: str | None = None,
        agent_name: str = "agent",
        metadata: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
        wait_flush: float | None = None,
    ) -> Result:
        """Ask the model, run the tools that it calls, store both, and again until it asks for no more.

        May be repeated with the same `run_id`, as a redelivered Celery task does: what is stored is kept, and the run
        goes on from there. A tool whose result was not stored runs again; `ctx.call_id` tells it so.

        Args:
            model: Takes what `request()` gives and returns the provider's answer.
            input: What the user says first: text, content as the provider takes it, or a function that gives it.
            tools: Functions, whose signature and docstring describe them to the model, or `Tool` objects.
            max_turns: Model invocations at most.
            parallel: Run the tools of one answer at once, each in a thread of its own.
            hooks: An object with any of the methods of `Hooks`.
            run_id: The run's; `self.request.id` in a Celery task. Random if not given.
            agent_name: For hooks.
            metadata: For hooks, handed on as it is.
            options: The codec's own options of each request.
            wait_flush: Seconds to wait at the end until the archive holds the run; the result says whether it does.

        Raises:
            Whatever the model or a hook raises, unchanged. The thread is valid, saved and about to be archived then.
        """
        asked = RunOptions(
            model,
            run_id=fresh_id(12) if run_id is None else run_id,
            input=input,
            tools=tuple(tools),
            max_turns=max_turns,
            parallel=parallel,
            hooks=hooks,
            agent_name=agent_name,
            metadata=metadata or {},
            options=options or {},
            wait_flush=wait_flush,
        )
        run = Run(self._writing(), SyncCalling(), asked, shield=_unbroken, archive=self._writer.archive)
        return run_now(run.go())

    # --- leaving ----------------------------------------------------------------------------------------------------

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
            with deferred_signals():
                left = run_now(self._talk.leave(failed=error is not None))
        finally:
            self._heartbeat.remove(self._writer)
        self._left(left, error)
        if self._wait_flush is not None and error is None:
            run_now(self._writer.wait_flushed(self._wait_flush))


async def _unbroken(work: Coroutine[Any, Any, RunLeaving]) -> RunLeaving:
    with deferred_signals():
        return await work
