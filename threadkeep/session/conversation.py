"""A thread as a model sees it: messages in its provider's format, requests, and no call left unanswered."""

import logging
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from threadkeep.errors import InvalidMessage, SystemPromptMissing
from threadkeep.model import Entry, JsonObject, fresh_id
from threadkeep.session.codecs.base import Codec, Part, ToolCall, ToolDefinition
from threadkeep.session.codecs.plain import PlainCodec
from threadkeep.session.loop.answers import OpenAnswer, Repair, open_answers, repairs_in, settled
from threadkeep.session.loop.hooks import hook
from threadkeep.session.loop.progress import RUN, TURN
from threadkeep.session.writer import Leaving, Writer

log = logging.getLogger(__name__)

OnDangling = Literal["answer", "drop", "keep"]
INTERRUPTED: Final = {"error": "interrupted"}
"""What a model is told of a call whose tool was never run, or whose result was lost."""


class Conversation:
    """What `Session` and `AsyncSession` do with messages; coroutines over the same link as their `Writer`."""

    def __init__(self, writer: Writer, on_dangling: OnDangling) -> None:
        self.writer = writer
        self.on_dangling = on_dangling
        self.repairs: list[Repair] = []
        self._inbox: Inbox | None = None

    @property
    def codec(self) -> Codec:
        return self.writer.codec

    # --- writing ----------------------------------------------------------------------------------------------------

    async def append(self, messages: Sequence[Any], ids: Sequence[str] | None) -> list[str]:
        """Append messages; unanswered calls before them are answered first, unless the messages do."""
        entries = self.writer.encode(messages, ids)
        made_here = ids is None and not any(isinstance(message, Entry) for message in messages)
        if entries and entries[0].kind != "tool" and not self.codec.answers(entries[0]):
            await self._mend_before(entries, fresh=made_here)
        await self.add(entries, fresh=made_here)
        return [entry.id for entry in entries]

    async def add(self, entries: Sequence[Entry], *, fresh: bool = False, with_state: bool = False) -> None:
        """Append entries as they are."""
        await self.writer.append(entries, fresh=fresh, with_state=with_state)

    async def say(self, part: Part, message_id: str | None, meta: JsonObject | None = None) -> str:
        """Append a message that the codec made."""
        entries = self.writer.entries_of([part], message_id or fresh_id(), meta)
        if part.kind != "tool":
            await self._mend_before(entries, fresh=message_id is None)
        await self.add(entries, fresh=message_id is None)
        return entries[0].id

    async def _mend_before(self, entries: Sequence[Entry], *, fresh: bool) -> None:
        """A repeat, whose messages are there already, leaves alone what came after the first time."""
        if all(entry.kind == "system" for entry in entries):  # no provider is sent those in their place
            return
        if not fresh and await self.writer.holds([entry.id for entry in entries]):
            return
        last = next(await self.writer.newest_first(), None) if entries[0].kind == "assistant" else None
        if last is None or last.kind != "assistant":  # else these are further items of one answer
            await self._mend_provider("the next message came without its result")

    async def system(self, content: Any, message_id: str | None = None) -> str:
        """Put a system prompt in force; the one in force already is not repeated."""
        entry = checked_system(self.codec, content)
        for known in await self.writer.newest_first():
            if known.kind == "system":
                if known.body == entry.body:
                    return known.id
                break
        return await self.say(entry, message_id)

    async def result(self, call: ToolCall | str, content: Any, *, error: bool, message_id: str | None) -> str:
        """Append the answer to a tool call, given as it came or by its id."""
        found = await self._open_call(call if isinstance(call, str) else call.id, message_id)
        return await self.say(self.codec.result(found, content, error=error), message_id)

    async def _open_call(self, call_id: str, message_id: str | None) -> ToolCall:
        """The newest call with that id, if it has no result but perhaps the one that is being repeated."""
        for entry in await self.writer.newest_first():
            for call in self.codec.calls(entry):
                if call.id == call_id:
                    return call
            if call_id in self.codec.answers(entry) and entry.id != message_id:
                raise InvalidMessage("call", ascii(call_id)[:80], "has its result already: no provider takes two")
        raise InvalidMessage("call", ascii(call_id)[:80], "no message of the thread makes a tool call with that id")

    async def unanswered(self) -> bool:
        """Whether a model should speak next: the last message is not its own, or calls tools that did not answer."""
        last = next((entry for entry in await self.writer.newest_first() if entry.kind != "system"), None)
        if last is None or last.kind != "assistant":
            return last is not None
        if self.codec.reply([last]).again:
            return True
        return bool(open_answers(await self.writer.entries_from(self.writer.sound), self.codec))

    async def pop(self) -> Any:
        """Remove the last message, and what would be invalid without it; None of an empty thread."""
        entries = await self.writer.entries()
        if not entries:
            return None
        await self.truncate(entries[-1].id)
        return self.codec.native(entries[-1:])[0]

    async def truncate(self, message_id: str) -> int:
        """Remove a message and all after it; how many entries went."""
        return await self.writer.truncate(message_id)

    async def replace(self, messages: Sequence[Any], ids: Sequence[str] | None) -> list[str]:
        """Put other messages in the place of all."""
        entries = self.writer.encode(messages, ids)
        await self.writer.replace(entries)
        return [entry.id for entry in entries]

    # --- reading ----------------------------------------------------------------------------------------------------

    async def messages(self) -> list[Any]:
        """All messages as the provider or its framework has them, oldest first."""
        return self.codec.native(await self.writer.entries())

    async def all_repairs(self) -> list[Repair]:
        """Repairs of this session and of those before it."""
        stored = repairs_in(await self.writer.entries())
        return [*stored, *(repair for repair in self.repairs if repair not in stored)]

    async def request(self, tools: Sequence[ToolDefinition], hooks: Any, options: dict[str, Any]) -> dict[str, Any]:
        """Keyword arguments for the provider's call; a thread with unanswered calls is made valid first."""
        await self._mend_provider("the model was asked again without its result")
        entries = settled(await self.writer.entries(), self.codec)
        prepare = hook(hooks, "on_prepare")
        if prepare is not None:
            entries = [prepare(entry, index, entries) for index, entry in enumerate(entries)]
        return self.codec.request(entries, tools=tools, prepared=hook(hooks, "on_prepared"), **options)

    # --- repairing --------------------------------------------------------------------------------------------------

    async def _mend_provider(self, reason: str) -> None:
        """Mend, but leave plain messages alone: no provider would refuse them, and whose calls they are is unknown."""
        if not isinstance(self.codec, PlainCodec):
            await self.mend(reason)

    async def mend(self, reason: str) -> None:
        """Answer the calls that nobody answered, or drop the answer that made them; as `on_dangling` says.

        Looks at what was added since it looked last: what stands before is known to be sound.
        """
        if self.on_dangling == "keep":
            return
        entries = await self.writer.entries_from(self.writer.sound)
        for found in sorted(open_answers(entries, self.codec), key=lambda each: not each.last):
            await self._repair(found, reason)  # what is dropped goes first, lest it take a repair with it
        self.writer.sound = self.writer.count

    async def _repair(self, found: OpenAnswer, reason: str) -> None:
        dropped = self.on_dangling == "drop" and found.last
        how: Literal["answered", "dropped"] = "dropped" if dropped else "answered"
        repairs = [Repair(found.message_id, call.id, how, reason) for _, call in found.calls]
        if dropped:
            await self.writer.truncate(found.message_id)
        else:
            await self.add(self._error_results(found, repairs))
        self.repairs += repairs
        facts = {"thread_id": str(self.writer.ref), "message_id": found.message_id, "calls": len(repairs), "how": how}
        log.warning("%d unanswered tool calls of thread %s were repaired", len(repairs), self.writer.ref, extra=facts)

    def _error_results(self, found: OpenAnswer, repairs: Sequence[Repair]) -> list[Entry]:
        """Results that say `interrupted`, under the ids that the results of the answer's own run would have had."""
        meta = found.entries[0].meta
        own: JsonObject = {name: meta[name] for name in (RUN, TURN) if name in meta}
        entries: list[Entry] = []
        for (place, call), repair in zip(found.calls, repairs, strict=True):
            message_id = f"t-{own[RUN]}-{own[TURN]}-{place}" if len(own) == 2 else f"{found.message_id}.t{place}"
            part = self.codec.result(call, INTERRUPTED, error=True)
            entries += self.writer.entries_of([part], message_id, {**own, **repair.to_meta()})
        return entries

    async def leave(self, *, failed: bool) -> Leaving:
        """Leave, whatever happens; an app that fails between a model's answer and the results leaves a valid thread."""
        error: Exception | None = None
        if failed and self.writer.has_read:
            try:
                await self._mend_provider("the session failed before its result was stored")
            except Exception as mending:  # noqa: BLE001  whatever it is, the lease must be given back
                error = mending
        left = await self.writer.leave()
        left.error = error or left.error
        return left

    # --- messages from outside while a run is going on --------------------------------------------------------------

    async def post(self, content: Any, message_id: str | None) -> str:
        """Append what a user says; while a run is going on, it is taken in between its turns."""
        posted = Posted(message_id or fresh_id(), content, self.codec.user(content))
        if self._inbox is None or not self._inbox.put(posted):
            await self.say(posted.part, posted.id)
        return posted.id

    def receive(self) -> "Inbox":
        """Begin to take posts in; the inbox is closed by whoever runs."""
        self._inbox = Inbox()
        return self._inbox

    @property
    def is_running(self) -> bool:
        """Whether a run is going on."""
        return self._inbox is not None and self._inbox.is_open


@dataclass(frozen=True, slots=True)
class Posted:
    """A message that waits to be taken in: what was said, and what is stored of it."""

    id: str
    content: Any
    part: Part


class Inbox:
    """Messages posted while a run is going on, from any thread; each stays until it is stored."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[Posted] = deque()
        self._open = True

    @property
    def is_open(self) -> bool:
        return self._open

    def put(self, posted: Posted) -> bool:
        """False once it is closed."""
        with self._lock:
            if self._open:
                self._waiting.append(posted)
            return self._open

    def first(self, *, or_close: bool = False) -> Posted | None:
        """The message that waits longest. If there is none, the inbox may be closed in the same step."""
        with self._lock:
            if self._waiting:
                return self._waiting[0]
            self._open = self._open and not or_close
            return None

    def close(self) -> None:
        """Take no more."""
        with self._lock:
            self._open = False

    def stored(self) -> None:
        """The first message is in the thread."""
        with self._lock:
            self._waiting.popleft()


def checked_system(codec: Codec, content: Any) -> Part:
    """A system prompt.

    Raises:
        SystemPromptMissing: it is None or blank.
    """
    if content is None or (isinstance(content, str) and not content.strip()):
        raise SystemPromptMissing("None" if content is None else "blank")
    return codec.system(content)
