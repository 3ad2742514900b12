"""The agent loop: ask the model, run its tools, store both, until it has nothing more to ask for.

Everything that it needs to go on after a crash stands in the thread: ids are derived from the run's, each batch of
results is one write together with the state, and an answer is stored before its tools run. So the same run may be
started any number of times, and goes on from where it was.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from threadkeep.errors import (
    EmptyReply,
    InvalidAnswer,
    InvalidMessage,
    MessageConflict,
    StoreUnavailable,
)
from threadkeep.model import Entry, JsonObject
from threadkeep.session.codecs.base import Part, Reply, ToolCall, ToolDefinition
from threadkeep.session.conversation import Conversation, Inbox, Posted
from threadkeep.session.loop.calling import Calling, is_cancellation
from threadkeep.session.loop.hooks import (
    MessageEvent,
    SessionEnded,
    SessionStarted,
    TurnCompleted,
    hook,
)
from threadkeep.session.loop.options import RunOptions
from threadkeep.session.loop.progress import ENDS, RUN, TOOL_USAGE, TURN, Progress, progress_of
from threadkeep.session.loop.result import REASON_OF, Reason, Result
from threadkeep.session.loop.router import Batch, BatchFacts, Outcome, Router
from threadkeep.session.loop.state import Status
from threadkeep.session.writer import Archiving

log = logging.getLogger(__name__)

Shield = Callable[[Coroutine[Any, Any, "Leaving"]], Awaitable["Leaving"]]
Archive = Callable[["float | None"], Awaitable["Archiving"]]


@dataclass(slots=True)
class Leaving:
    """What leaving a run found: the flush, and the first error of its steps."""

    archiving: Archiving = field(default_factory=Archiving)
    error: BaseException | None = None


class Run:
    """One run over one open thread; coroutines over the link of its conversation."""

    def __init__(
        self, conversation: Conversation, calling: Calling, options: RunOptions, *, shield: Shield, archive: Archive
    ) -> None:
        self._talk = conversation
        self._calling = calling
        self._asked = options
        self._shield = shield
        self._archive = archive
        self._state = conversation.writer.state
        self._router = Router(options.tools, options.hooks, calling)
        self._thread_id = conversation.writer.ref.thread_id
        self._answer: list[Entry] = []
        self._answer_id: str | None = None
        self._stop = ""
        self._overtaken = False
        self._over = False
        self._answered: set[int] = set()
        self._started = False
        self._archived = (Archiving(), 0)
        self._inbox: Inbox = conversation.receive()

    async def go(self) -> Result:
        """Run to the end.

        Raises:
            Whatever the model, a hook or a store raised, unchanged; the thread is valid, saved and on its way to the
            archive by then.
        """
        self._state.begin_run()
        try:
            await self._begin()
            await self._turns()
            await self._wait_archived()
        except BaseException as error:
            self._end_as(Status.CANCELLED if is_cancellation(error) else Status.FAILED)
            left = await self._shield(self._leave(error))
            if isinstance(left.error, asyncio.CancelledError):
                raise left.error from error
            if left.error is not None:
                error.add_note(f"While the run was left: {left.error}")
            raise
        left = await self._shield(self._leave(None))
        if left.error is not None:
            raise left.error
        result = self._result(left.archiving)
        await self._tell("on_session_exit", result)
        return result

    # --- entry ------------------------------------------------------------------------------------------------------

    async def _begin(self) -> None:
        self._talk.codec.request([], **self._asked.options)  # an option that it does not know is told before anything
        entries = await self._talk.writer.entries()
        before = progress_of(entries, self._asked.run_id, self._talk.codec)
        if before is None:
            await self._talk.mend("an earlier run was broken off")
            await self._hear_input()
        else:
            self._check_input(entries)
            self._resume(before)
        self._started = True
        await self._tell("on_session_start", SessionStarted(self._thread_id, self._asked.agent_name, self._metadata))
        if before is not None and before.at == "calling":
            self._answered = before.answered
            await self._act_on(self._talk.codec.reply(self._answer), self._router.definitions())

    def _resume(self, before: Progress) -> None:
        facts = {"thread_id": self._thread_id, "run_id": self._asked.run_id, "at": before.at}
        log.info("run %s of thread %s goes on", self._asked.run_id, self._thread_id, extra=facts)
        self._state.turns = before.turns
        self._state.add_usage(before.usage)
        self._answer = before.answer
        self._overtaken = before.at == "overtaken"
        self._over = before.at in ("ended", "overtaken")
        if before.status is not Status.RUNNING:
            self._end_as(before.status)
        if before.answer:
            self._stop = self._talk.codec.reply(before.answer).stop

    def _check_input(self, entries: Sequence[Entry]) -> None:
        """A run is known by its id, and has one input."""
        content, input_id = self._asked.input, f"h-{self._asked.run_id}"
        if content is None or callable(content):
            return
        said = self._talk.codec.user(content).body
        if any(entry.id == input_id and entry.body != said for entry in entries):
            raise MessageConflict(self._thread_id, input_id)

    async def _hear_input(self) -> None:
        content = self._asked.input
        if callable(content):
            content = await self._calling.call(content)
        if content is not None:
            meta = {RUN: self._asked.run_id, TURN: 0}
            await self._talk.say(self._talk.codec.user(content), f"h-{self._asked.run_id}", meta)

    # --- turns ------------------------------------------------------------------------------------------------------

    async def _turns(self) -> None:
        while await self._goes_on():
            await self._turn()

    async def _goes_on(self) -> bool:
        """Whether there is another turn; what was posted meanwhile is taken in first, and asks for one."""
        spent = self._state.turns >= self._asked.max_turns
        if self._overtaken or self._state.status in (Status.FAILED, Status.CANCELLED):
            return False
        while (posted := self._inbox.first()) is not None:
            await self._take_in(posted)
        return self._state.is_running and not spent

    async def _take_in(self, posted: Posted) -> None:
        event = MessageEvent(self._thread_id, posted.content, posted.id)
        await self._tell("before_message", event)
        self._over = False
        await self._talk.say(posted.part, posted.id, self._meta())
        self._inbox.stored()
        await self._tell("after_message", event)
        self._state.run()

    async def _turn(self) -> None:
        self._state.increment_turns()
        definitions = self._router.definitions()
        self._state.set_tools(definitions)
        self._answer_id = self._answer_id or f"a-{self._asked.run_id}-{self._state.turns}"
        request = await self._talk.request(definitions, self._asked.hooks, dict(self._asked.options))
        try:
            reply = await self._store(await self._calling.call(self._asked.model, request))
        except EmptyReply as empty:
            self._answer, self._answer_id, self._stop = [], None, empty.stop
            blocked = Reply(stop=empty.stop)
            self._state.add_usage(blocked.usage)
            await self._complete(blocked)
            return
        await self._act_on(reply, definitions)

    async def _act_on(self, reply: Reply, definitions: Sequence[ToolDefinition]) -> None:
        if reply.again:
            self._answer_id = None
            await self._completed_turn(reply)
        elif not reply.calls or not definitions:
            await self._finish(reply)
        else:
            await self._run_tools(reply)

    async def _store(self, answer: Any) -> Reply:
        writer = self._talk.writer
        assert self._answer_id is not None
        self._answer = writer.entries_of(self._parts(answer, self._answer_id), self._answer_id, self._meta())
        reply = self._talk.codec.reply(self._answer)
        if any(not call.name for call in reply.calls):
            rule = f"does not fit the codec {self._talk.codec.name!r}; make the thread with its provider's codec"
            raise InvalidAnswer("answer", "a tool call without a name", rule)
        await self._talk.add(self._answer, fresh=False)
        self._stop = reply.stop
        self._state.add_usage(reply.usage)
        return reply

    def _parts(self, answer: Any, answer_id: str) -> list[Part]:
        """What is stored of an answer, which must be a model's."""
        try:
            parts = self._talk.codec.encode(answer, answer_id)
        except InvalidMessage as error:
            raise InvalidAnswer(error.field, error.shown, error.rule) from None
        if answer is None or any(part.kind != "assistant" for part in parts):
            rule = "a model must answer with an assistant's message (did the function forget to return it?)"
            raise InvalidAnswer("answer", type(answer).__name__, rule)
        return parts

    async def _finish(self, reply: Reply) -> None:
        """The model asks for nothing, or for tools that are not there; calls to those are answered all the same."""
        self._answer_id = None
        if reply.calls:
            await self._talk.add(self._refusals(reply))
        await self._complete(reply)

    def _refusals(self, reply: Reply) -> list[Entry]:
        error = {"error": "no tools are available"}
        results = [self._talk.codec.result(call, error, error=True) for call in reply.calls]
        return [
            entry
            for place, part in enumerate(results)
            for entry in self._talk.writer.entries_of(
                [part], self._result_id(place), {**self._meta(), ENDS: str(Status.COMPLETED)}
            )
        ]

    async def _complete(self, reply: Reply) -> None:
        await self._completed_turn(reply)
        self._state.complete()

    async def _completed_turn(self, reply: Reply) -> None:
        done = TurnCompleted(self._thread_id, self._asked.agent_name, self._state.turns, len(reply.calls), reply.usage)
        await self._tell("on_turn_complete", done)

    # --- tools ------------------------------------------------------------------------------------------------------

    async def _run_tools(self, reply: Reply) -> None:
        facts = BatchFacts(
            thread_id=self._thread_id,
            namespace=self._talk.writer.ref.namespace,
            run_id=self._asked.run_id,
            assistant_id=self._answer[0].id,
            state=self._state,
            save=self._save,
        )
        places = [place for place in range(len(reply.calls)) if place not in self._answered]
        calls = [reply.calls[place] for place in places]
        batch = await self._router.process(calls, turn=self._state.turns, facts=facts, parallel=self._asked.parallel)
        self._answered = set()
        if batch.rewind is not None:
            await self._rewind(batch)
            return
        await self._talk.add(self._results(places, batch.outcomes), with_state=True)
        self._answer_id = None
        for outcome in batch.outcomes:
            if outcome.usage is not None:
                self._state.add_usage(outcome.usage)
        await self._completed_turn(reply)

    async def _rewind(self, batch: Batch) -> None:
        """Take the answer back and ask again, under the same id; the turn stays spent."""
        assert batch.rewind is not None
        facts = {"thread_id": self._thread_id, "tool": batch.rewind.name, "turn": self._state.turns}
        log.info("a tool asked for its turn to be taken back", extra=facts)
        self._answer_id = self._answer[0].id
        self._answer = []
        await self._talk.truncate(self._answer_id)

    def _results(self, places: Sequence[int], outcomes: Sequence[Outcome]) -> list[Entry]:
        """One entry for each call, in call order. The last says how the run ends, if a tool ended it."""
        entries: list[Entry] = []
        for place, outcome in zip(places, outcomes, strict=True):
            meta = self._meta()
            if outcome.usage is not None:
                meta[TOOL_USAGE] = asdict(outcome.usage)
            if not self._state.is_running and place == places[-1]:
                meta[ENDS] = str(self._state.status)
            entries.append(self._result_entry(outcome, self._result_id(place), meta))
        by_size = sorted(range(len(entries)), key=lambda at: len(entries[at].to_record()))
        while by_size and (excess := self._talk.writer.excess(entries)) is not None:
            largest = by_size.pop()  # the largest give way to the others
            entries[largest] = self._unkept(outcomes[largest].call, excess, entries[largest].id, entries[largest].meta)
        return entries

    def _result_entry(self, outcome: Outcome, message_id: str, meta: JsonObject) -> Entry:
        """A result as it is stored; one that cannot be, being too large for instance, says so instead."""
        try:
            part = self._talk.codec.result(outcome.call, outcome.content, error=outcome.error)
            (entry,) = self._talk.writer.entries_of([part], message_id, meta)
            self._talk.writer.check(entry)
        except InvalidMessage as problem:
            return self._unkept(outcome.call, problem, message_id, meta)
        return entry

    def _unkept(self, call: ToolCall, problem: InvalidMessage, message_id: str, meta: JsonObject) -> Entry:
        log.warning("%s", problem, extra={"thread_id": self._thread_id, "call_id": call.id})
        told = {"error": f"the tool's result cannot be kept: it {problem.rule}"}
        part = self._talk.codec.result(call, told, error=True)
        (entry,) = self._talk.writer.entries_of([part], message_id, meta)
        return entry

    def _result_id(self, place: int) -> str:
        return f"t-{self._asked.run_id}-{self._state.turns}-{place}"

    async def _save(self) -> None:
        await self._talk.writer.save_state()

    # --- exit -------------------------------------------------------------------------------------------------------

    async def _leave(self, error: BaseException | None) -> Leaving:
        """Mend, save, queue the flush, tell: each step is tried, whatever became of those before."""
        left = Leaving()
        for step in (self._mend, self._take_in_rest, self._save):
            await self._try(left, step())
        await self._try(left, self._ask_archive(left))
        if self._started:
            await self._try(left, self._tell("on_session_end", self._ended(error, left.archiving)))
        await self._try(left, self._take_in_rest(close=True))
        self._inbox.close()
        return left

    async def _ask_archive(self, left: Leaving) -> None:
        waited_for, rev = self._archived
        left.archiving = waited_for if rev == self._talk.writer.rev else await self._archive(None)

    async def _try(self, left: Leaving, step: Awaitable[None]) -> None:
        try:
            await step
        except Exception as failed:  # noqa: BLE001  kept, and raised unless something is on its way already
            left.error = left.error or failed

    async def _mend(self) -> None:
        if not self._over:
            await self._talk.mend("the run was broken off before its tools had answered")

    async def _take_in_rest(self, *, close: bool = False) -> None:
        """What was posted and never taken in is kept all the same, however many of them fail."""
        failed: Exception | None = None
        while (posted := self._inbox.first(or_close=close)) is not None:
            try:
                await self._talk.say(posted.part, posted.id, self._meta() if self._started else None)
            except Exception as error:
                if not close and isinstance(error, StoreUnavailable):
                    raise  # it stays, and is tried once more when the inbox closes
                failed = failed or error  # the others are tried all the same
            self._inbox.stored()
        if failed is not None:
            raise failed

    async def _wait_archived(self) -> None:
        """Not shielded: who cancels does not want to wait."""
        if self._asked.wait_flush is not None:
            await self._save()
            rev = self._talk.writer.rev
            self._archived = await self._archive(self._asked.wait_flush), rev

    def _ended(self, error: BaseException | None, archiving: Archiving) -> SessionEnded:
        return SessionEnded(
            self._thread_id,
            self._asked.agent_name,
            self._metadata,
            reason=self._reason() if error is None else REASON_OF[self._state.status],
            turns=self._state.turns,
            usage=self._state.usage,
            flush_enqueued=archiving.enqueued,
            archived=archiving.archived,
        )

    def _result(self, archiving: Archiving) -> Result:
        completed = self._reason() == "completed" and self._answer
        return Result(
            thread_id=self._thread_id,
            run_id=self._asked.run_id,
            reason=self._reason(),
            status=self._state.status,
            final=one_or_all(self._talk.codec.native(self._answer)) if completed else None,
            text=self._talk.codec.reply(self._answer).text if completed else "",
            stop=self._stop,
            turns=self._state.turns,
            usage=self._state.usage,
            flush_enqueued=archiving.enqueued,
            archived=archiving.archived,
            flush_error=archiving.error,
        )

    def _reason(self) -> Reason:
        return "overtaken" if self._overtaken else REASON_OF[self._state.status]

    # --- common -----------------------------------------------------------------------------------------------------

    def _meta(self) -> JsonObject:
        return {RUN: self._asked.run_id, TURN: self._state.turns}

    @property
    def _metadata(self) -> dict[str, Any]:
        return dict(self._asked.metadata)

    def _end_as(self, status: Status) -> None:
        match status:
            case Status.COMPLETED:
                self._state.complete()
            case Status.WAITING_FOR_INPUT:
                self._state.wait()
            case Status.FAILED:
                self._state.fail()
            case _:
                self._state.cancel()

    async def _tell(self, name: str, event: Any) -> None:
        told = hook(self._asked.hooks, name)
        if told is not None:
            await self._calling.call(told, event)


def one_or_all(messages: list[Any]) -> Any:
    """The message, where there is but one."""
    return messages[0] if len(messages) == 1 else messages
