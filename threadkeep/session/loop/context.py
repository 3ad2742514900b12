"""What a tool's handler may know of the run that it serves, and how it saves the state while it runs."""

import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from threadkeep.session.codecs.base import ToolCall
from threadkeep.session.loop.calling import Calling
from threadkeep.session.loop.state import State


@dataclass(frozen=True, slots=True)
class BatchFacts:
    """What is the same for all calls of one answer.

    Attributes:
        thread_id: The thread's id.
        namespace: Its namespace.
        run_id: The run's id, the same when the run is repeated.
        assistant_id: Id of the message that makes the calls.
        state: The thread's state.
        save: Saves the state in the hot tier; a coroutine of the session's core.
    """

    thread_id: str
    namespace: str
    run_id: str
    assistant_id: str
    state: State = field(repr=False)
    save: Callable[[], Coroutine[Any, Any, None]] = field(repr=False)


class RunningBatch:
    """The calls of one answer while they run: what their handlers share. Safe to use from several threads.

    Attributes:
        facts: The same for all calls.
        turn: The run's turn, from 1.
        cancelled: Handlers should stop: the answer is taken back, or nobody waits for them any more.
        rewind: The call that asked for the answer to be taken back; the first of several.
    """

    def __init__(self, facts: BatchFacts, calling: Calling, turn: int) -> None:
        self.facts = facts
        self.turn = turn
        self.cancelled = False
        self.rewind: ToolCall | None = None
        self._calling = calling
        self._lock = threading.Lock()
        self._closed = False
        self._last = _Saving.never()

    def ask_rewind(self, call: ToolCall) -> None:
        with self._lock:
            self.rewind = self.rewind or call
        self.cancelled = True

    async def save(self) -> None:
        """Save the state, unless it was saved since its version last rose. Handlers that ask at once share one save.

        Raises:
            RuntimeError: the batch is over; the run saves what there is to save.
            Exception: what the save raised, to each that shares it. Who asks again starts another.
        """
        while not await self._is_saved():
            pass

    def save_blocking(self) -> None:
        """The same, in a thread in which a handler runs."""
        self._check_open()
        self._calling.blocking(self.save)

    async def close(self) -> None:
        """Refuse to save from now on, and wait for the save that is on its way: the run's own must not meet it."""
        with self._lock:
            self._closed = True
            last = self._last
        await self._calling.settled(last.ended)

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError("the turn that this tool was called in is over; its run saves the state itself")

    async def _is_saved(self) -> bool:
        """Whether this call, or one that it waited for, saved the state as it was; if neither did, look again."""
        with self._lock:
            self._check_open()
            version, last = self.facts.state.version, self._last
            if last.is_over and not last.holds(version):
                saving = self._last = _Saving(version)
            else:
                saving = None
        if saving is not None:
            await saving.carry_out(self.facts.save)
            return True
        error = await self._calling.settled(last.ended)
        if last.version != version:
            return False
        if error is not None:
            raise error
        return True


class _Saving:
    """One save of the state: the version that it found, and the future of what it raised."""

    def __init__(self, version: int | None) -> None:
        self.version = version
        self.ended: Future[Exception | None] = Future()

    @classmethod
    def never(cls) -> "_Saving":
        saving = cls(None)
        saving.ended.set_result(None)
        return saving

    @property
    def is_over(self) -> bool:
        return self.ended.done()

    def holds(self, version: int) -> bool:
        return self.version == version and self.ended.result() is None

    async def carry_out(self, save: Callable[[], Coroutine[Any, Any, None]]) -> None:
        try:
            await save()
        except Exception as error:
            self.ended.set_result(error)
            raise
        except BaseException:
            self.version = None  # it was broken off: who waits for it saves for himself
            self.ended.set_result(None)
            raise
        self.ended.set_result(None)


@dataclass(frozen=True, slots=True)
class _Context:
    """What a tool's handler may know of the run that it serves.

    Attributes:
        thread_id: The thread's id.
        namespace: Its namespace.
        run_id: The run's id, the same when the run is repeated.
        call_id: The call's id. A tool whose result was not stored is called again with the same one.
        tool_name: The name that the tool was called by.
        turn: The run's turn, from 1.
        assistant_id: Id of the message that makes the call.
        state: The thread's state.
    """

    thread_id: str
    namespace: str
    run_id: str
    call_id: str
    tool_name: str
    turn: int
    assistant_id: str
    state: State = field(repr=False)
    _batch: RunningBatch = field(repr=False, compare=False)

    @property
    def cancelled(self) -> bool:
        """Whether to stop: another tool had the answer taken back, or the run was broken off. Look now and then."""
        return self._batch.cancelled


class ToolContext(_Context):
    """The context of a handler that is a plain function, whatever the session."""

    __slots__ = ()

    def save(self) -> None:
        """Save the state in the hot tier now; not again while `state.version` stays, whichever tool of a turn asks."""
        self._batch.save_blocking()


class AsyncToolContext(_Context):
    """The context of a handler that is a coroutine function, whatever the session."""

    __slots__ = ()

    async def save(self) -> None:
        """See `ToolContext.save`."""
        await self._batch.save()


def context_of(kind: "type[ToolContext | AsyncToolContext]", call: ToolCall, batch: RunningBatch) -> Any:
    """The context of one call."""
    facts = batch.facts
    return kind(
        thread_id=facts.thread_id,
        namespace=facts.namespace,
        run_id=facts.run_id,
        call_id=call.id,
        tool_name=call.name,
        turn=batch.turn,
        assistant_id=facts.assistant_id,
        state=facts.state,
        _batch=batch,
    )
