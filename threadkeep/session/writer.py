"""What one open session does to its thread: every write fenced by the lease, every id once."""

from collections.abc import Awaitable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from threadkeep.errors import (
    HotTierLost,
    InvalidMessage,
    LeaseLost,
    MessageConflict,
    MessageNotFound,
    StoreUnavailable,
    ThreadBusy,
    ThreadErased,
    ThreadkeepError,
    ThreadNotFound,
)
from threadkeep.model import (
    Entry,
    FlushMode,
    JsonObject,
    ThreadRef,
    checked_labels,
    checked_record,
    checked_state,
    fresh_id,
    fresh_mark,
)
from threadkeep.session.asking import log
from threadkeep.session.codecs import codec_for
from threadkeep.session.codecs.base import Part
from threadkeep.session.loop.state import State
from threadkeep.session.threads import Threads, check_batch, position, timestamp
from threadkeep.storage.hot import Contents, Written
from threadkeep.storage.hot_head import Head
from threadkeep.storage.limits import ReadLimits
from threadkeep.storage.parts import first_parts, hashes_of, log_bytes, plain_parts, records_of
from threadkeep.storage.record_ids import ID_BYTES, id_number, numbers_of
from threadkeep.storage.records import Records
from threadkeep.strict_json import dump_json

ATTEMPTS: Final = 5
"""How often a write is tried again because the thread left Redis, or an id was added meanwhile."""


@dataclass(slots=True)
class Leaving:
    """How leaving a session ended."""

    flush_enqueued: bool = False
    error: Exception | None = None


@dataclass(frozen=True, slots=True)
class Archiving:
    """What became of a flush that was asked for while the session goes on."""

    enqueued: bool = False
    archived: bool = False
    error: ThreadkeepError | None = None


class Writer:
    """The state of one open session; coroutines over the same link as its `Threads`.

    Attributes:
        sound: How many entries, from the first on, are known to hold no unanswered call.

    What it has read it keeps, since only the holder of the lease writes. Whenever that may no longer hold (a write with
    an unknown outcome, a thread that left Redis) it forgets, and looks again.
    """

    def __init__(self, threads: Threads, ref: ThreadRef, token: str, head: Head) -> None:
        self.ref = ref
        self.token = token
        self.state = State(head.state)
        self.labels: dict[str, str] = dict(head.labels)
        self.codec = codec_for(head.codec)
        self.closed = False
        self._threads = threads
        self._hot = threads.hot
        self._settings = threads.settings
        self._lost = False
        self._unsure = False
        self._records: Records | None = None
        self._positions: dict[int, int] | None = None
        self._start_from(head)

    def _start_from(self, head: Head) -> None:
        """Forget what was read before: the thread is as `head` says."""
        self.rev, self.count, self.size = head.rev, head.count, head.raw_bytes + head.log_bytes
        self._records = Records(self.ref, [], []) if head.count == 0 else None
        self._positions = {} if head.count == 0 else None
        self._saved = dump_json(State(head.state).to_json())
        self.sound = 0
        self._unsure = False

    # --- reading ----------------------------------------------------------------------------------------------------

    @property
    def has_read(self) -> bool:
        """Whether the messages are at hand, without asking Redis."""
        return self._records is not None and not self._unsure

    async def entries(self) -> list[Entry]:
        """All messages, as objects of the caller's own."""
        await self._ready()
        return (await self._all_records()).entries()

    async def entries_from(self, start: int) -> list[Entry]:
        """The entries from a place on; those before are not parsed."""
        await self._ready()
        return (await self._all_records()).entries(start)

    async def newest_first(self) -> Iterator[Entry]:
        """The entries, each parsed when it is asked for."""
        await self._ready()
        return (await self._all_records()).newest_first()

    async def holds(self, message_ids: Sequence[str]) -> bool:
        """Whether all of these ids are there."""
        await self._ready()
        known = await self._known()
        return all(id_number(message_id) in known for message_id in message_ids)

    async def _all_records(self) -> Records:
        if self._records is None:
            contents = await self._contents()
            self._records = records_of(contents, self.ref, limits=ReadLimits.of(self._settings))
        return self._records

    async def _contents(self, *, with_ids: bool = False) -> Contents:
        for _ in range(ATTEMPTS):
            contents = await self._hot.read(self.ref, with_ids=with_ids)
            if contents is None:
                await self._reopen()
                continue
            if contents.head.rev < self.rev:
                # the hot tier is told so too, and remembers the loss
                await self._accepted(await self._sent(self._hot.save(self.ref, self.token, [], told=self.rev)))
                continue
            if contents.head.lease != self.token:
                raise self._fenced()
            return contents
        raise StoreUnavailable("Redis", f"reading thread {self.ref}", "the thread kept vanishing")

    async def _known(self) -> dict[int, int]:
        """Where each id stands, by the numbers of their hashes."""
        for _ in range(ATTEMPTS):
            if self._positions is not None:
                return self._positions
            ids = await self._hot.ids(self.ref)
            if len(ids) == ID_BYTES * self.count:
                self._positions = {number: place for place, number in enumerate(numbers_of(ids))}
            else:
                await self._look_again()
        raise StoreUnavailable("Redis", f"reading thread {self.ref}", "the thread kept changing")

    # --- appending --------------------------------------------------------------------------------------------------

    async def append(self, entries: Sequence[Entry], *, fresh: bool = False, with_state: bool = False) -> None:
        """Append entries, all or none; those whose id and content are there already are skipped.

        Args:
            entries: What `encode` made.
            fresh: Their ids were made here, so none of them can be there.
            with_state: Save the state in the same step.
        """
        records = self._records_of(entries)
        self._check_size(records)
        await self._ready()
        for _ in range(ATTEMPTS):
            if not fresh:
                entries, records = await self._without_known(entries, records)
            if not entries:
                break
            fields, text = self._state_fields() if with_state else ([], self._saved)
            hashes = hashes_of(entries)
            adding = self._hot.append(
                self.ref, self.token, records, hashes, checked=self.count, fields=fields, told=self.rev
            )
            written = await self._sent(adding)
            if await self._accepted(written):
                self._remember(entries, records)
                self._saved = text
                return
            if written.status == "known":  # by a first try of this very call, whose reply was lost
                fresh = False
                await self._look_again()
        else:
            raise StoreUnavailable("Redis", f"an append to thread {self.ref}", "the thread kept changing")
        if with_state:
            await self.save_state()

    def check(self, entry: Entry) -> None:
        """Refuse an entry that cannot be stored. Raises `InvalidMessage`."""
        checked_record(entry, max_bytes=self._settings.max_message_bytes)

    def excess(self, entries: Sequence[Entry]) -> InvalidMessage | None:
        """Why these entries are too many bytes for one write, if they are."""
        size, limit = log_bytes([entry.to_record() for entry in entries]), self._settings.max_append_bytes
        if size <= limit:
            return None
        rule = f"exceeds, with the others of its turn, THREADKEEP_MAX_APPEND_BYTES ({limit:,})"
        return InvalidMessage("results", f"{size:,} bytes", rule)

    def _records_of(self, entries: Sequence[Entry]) -> list[bytes]:
        """Records that may be written, as far as can be told before looking at the thread."""
        records = [checked_record(entry, max_bytes=self._settings.max_message_bytes) for entry in entries]
        check_batch(entries, self.codec.name, str(self.ref))
        return records

    def entries_of(self, parts: Sequence[Part], message_id: str, meta: JsonObject | None = None) -> list[Entry]:
        """The entries of one message: the first bears its id, the others `<id>.1` and so on."""
        now = timestamp()
        return [
            Entry(
                message_id if place == 0 else f"{message_id}.{place}",
                part.kind,
                part.body,
                self.codec.name,
                {"ts": now, **part.meta, **(meta or {})},
            )
            for place, part in enumerate(parts)
        ]

    def encode(self, messages: Sequence[Any], ids: Sequence[str] | None) -> list[Entry]:
        """The entries of messages, under these ids or under ids that are made.

        Raises:
            InvalidMessage: what cannot be kept, and why.
        """
        entries = list[Entry]()
        if ids is not None and len(ids) != len(messages):
            raise InvalidMessage("ids", f"{len(ids)} ids for {len(messages)} messages", "one id a message is needed")
        for index, message in enumerate(messages):
            if isinstance(message, Entry):
                entries.append(message)
                continue
            message_id = ids[index] if ids is not None else fresh_id()
            entries += self.entries_of(self.codec.encode(message, message_id), message_id)
        return entries

    def _check_size(self, records: Sequence[bytes]) -> None:
        size, settings = log_bytes(records), self._settings
        if len(records) > settings.max_append_messages:
            rule = f"exceed THREADKEEP_MAX_APPEND_MESSAGES ({settings.max_append_messages:,}); append in parts"
            raise InvalidMessage("append", f"{len(records):,} messages", rule)
        if size > settings.max_append_bytes:
            rule = f"exceeds THREADKEEP_MAX_APPEND_BYTES ({settings.max_append_bytes:,}); append in parts"
            raise InvalidMessage("append", f"{size:,} bytes", rule)
        self._check_thread_size(self.size + size)

    def _check_thread_size(self, size: int) -> None:
        limit = self._settings.max_thread_bytes
        if size > limit:
            rule = f"the thread would exceed THREADKEEP_MAX_THREAD_BYTES ({limit:,}); fork or start another"
            raise InvalidMessage("append", f"{size:,} bytes in all", rule)

    async def _without_known(
        self, entries: Sequence[Entry], records: list[bytes]
    ) -> tuple[Sequence[Entry], list[bytes]]:
        """What is not in the thread yet.

        Raises:
            MessageConflict: an id is there with other content.
        """
        known = await self._known()
        places = [known.get(id_number(entry.id)) for entry in entries]
        taken = [place for place in places if place is not None]
        if not taken:
            return entries, records
        stored = iter((await self._all_records()).at(taken))
        fresh: list[tuple[Entry, bytes]] = []
        for entry, record, place in zip(entries, records, places, strict=True):
            if place is None:
                fresh.append((entry, record))
            elif not next(stored).same_as(entry):
                raise MessageConflict(str(self.ref), entry.id)
        return [entry for entry, _ in fresh], [record for _, record in fresh]

    def _remember(self, entries: Sequence[Entry], records: Sequence[bytes]) -> None:
        self.size += log_bytes(records)
        if self._records is not None:
            self._records.extend(records)
        if self._positions is not None:
            start = self.count - len(entries)
            self._positions.update({id_number(entry.id): start + index for index, entry in enumerate(entries)})

    # --- changing ---------------------------------------------------------------------------------------------------

    async def truncate(self, message_id: str) -> int:
        """Remove a message and all after it, and what would be invalid without them; how many went."""
        await self._ready()
        gen, before = fresh_mark(), 0
        for _ in range(ATTEMPTS):
            contents = await self._contents(with_ids=True)
            keep = position(contents.ids, message_id)
            if keep is None and before:  # cut by a first try whose reply was lost; a flush came before its repeat
                return await self._cut_from(before, contents.head.count)
            if keep is None:
                raise MessageNotFound(str(self.ref), message_id)
            before, keep = contents.head.count, self.codec.cut(await self.entries(), keep)
            if await self._accepted(await self._sent(self._cut(contents, keep, gen))):
                return await self._cut_from(before, keep)
        raise StoreUnavailable("Redis", f"a truncation of thread {self.ref}", "the thread kept changing")

    async def _cut_from(self, before: int, left: int) -> int:
        self._unsure = True  # what was read holds no longer, even if looking again fails
        await self._look_again()
        return before - left

    def _cut(self, contents: Contents, keep: int, gen: str) -> Awaitable[Written]:
        head = contents.head
        if keep >= head.base_count:
            gone = log_bytes(contents.tail[keep - head.base_count :])
            return self._hot.truncate(self.ref, self.token, head, keep=keep, cut_bytes=gone, gen=gen, told=self.rev)
        parts = first_parts(contents, keep, limits=ReadLimits.of(self._settings))
        return self._hot.rewrite(self.ref, self.token, head, parts, gen=gen, told=self.rev)

    async def replace(self, entries: Sequence[Entry]) -> None:
        """Put other entries in the place of all."""
        records = self._records_of(entries)
        self._check_thread_size(log_bytes(records))
        await self._ready()
        parts, gen = plain_parts(records, hashes_of(entries)), fresh_mark()
        for _ in range(ATTEMPTS):
            seen = await self._hot.look(self.ref)
            if seen.head is None:
                await self._reopen()
                continue
            writing = self._hot.rewrite(self.ref, self.token, seen.head, parts, gen=gen, told=self.rev)
            if await self._accepted(await self._sent(writing)):
                self._unsure = True
                await self._look_again()
                return
        raise StoreUnavailable("Redis", f"a replacement in thread {self.ref}", "the thread kept changing")

    async def save_state(self) -> bool:
        """Save the state if it changed since it was last saved; whether it had."""
        if self._unsure:  # a save may have been done unheard; what is stored must be known to tell a change
            await self._ready()
        fields, text = self._state_fields()
        if not fields:
            return False
        await self._save(fields)
        self._saved = text
        return True

    def _state_fields(self) -> tuple[list[Any], bytes]:
        """What to save of the state, nothing if it did not change; and its JSON."""
        text = checked_state(self.state.to_json(), max_bytes=self._settings.max_state_bytes) or b""
        return ([] if text == self._saved else ["state", text]), text

    async def label(self, labels: Mapping[str, str | None]) -> None:
        """Set labels, or remove those that are None."""
        merged = {name: value for name, value in {**self.labels, **labels}.items() if value is not None}
        checked = checked_labels(merged)
        if checked == self.labels:
            return
        await self._save(["labels", dump_json(checked) if checked else b""])
        self.labels = checked

    async def _save(self, fields: Sequence[Any]) -> None:
        await self._ready()
        for _ in range(ATTEMPTS):
            if await self._accepted(await self._sent(self._hot.save(self.ref, self.token, fields, told=self.rev))):
                return
        raise StoreUnavailable("Redis", f"saving thread {self.ref}", "the thread kept vanishing")

    # --- outcomes ---------------------------------------------------------------------------------------------------

    async def _ready(self) -> None:
        """Refuse a session that was fenced; look again after a write whose outcome is unknown."""
        if self._lost:
            raise LeaseLost(str(self.ref))
        if self._unsure:
            await self._look_again()

    async def _sent(self, writing: Awaitable[Written]) -> Written:
        """A write's reply; without one, nothing that was read before is relied on."""
        try:
            return await writing
        except BaseException:
            self._unsure = True
            raise

    async def _accepted(self, written: Written) -> bool:
        """True if the write was done, False if it should be tried again.

        Raises:
            LeaseLost, ThreadErased, HotTierLost, ThreadNotFound
        """
        match written.status:
            case "ok":
                self.rev = written.rev
                if written.count is not None:
                    self.count = written.count
                return True
            case "fenced":
                raise self._fenced()
            case "erasing":
                raise ThreadErased(str(self.ref))
            case "absent":
                await self._reopen()
            case "behind":
                await self._look_again()
        return False

    def _fenced(self) -> LeaseLost:
        self._lost = True
        return LeaseLost(str(self.ref))

    async def _look_again(self) -> None:
        """Start from what is there. While the lease is this session's, nobody else can have changed it."""
        seen = await self._hot.look(self.ref)
        if seen.status == "erasing":
            raise ThreadErased(str(self.ref))
        if seen.head is None:
            await self._reopen()
        elif seen.head.lease == self.token:
            self._go_on_from(seen.head)
        elif seen.head.rev < self.rev:
            await self._reopen_older(seen.head)
        elif seen.head.lease or seen.head.rev != self.rev:
            raise self._fenced()
        else:
            await self._reopen()

    async def _reopen(self) -> None:
        """The thread left Redis under this session, or its lease lapsed: go on only if nothing else happened to it."""
        acknowledged = self.rev
        try:
            head = await self._opened_again()
        except ThreadNotFound:
            seen = await self._hot.look(self.ref)
            if seen.verdict == "absent" and seen.floor > acknowledged:
                raise ThreadErased(str(self.ref)) from None
            raise
        if head.rev > acknowledged:
            self._lost = True
            await self._threads.abandon(self.ref, self.token)
            raise LeaseLost(str(self.ref))
        self._go_on_from(head)

    async def _opened_again(self) -> Head:
        try:
            return await self._threads.open(self.ref, self.token, create=None, wait=0)
        except HotTierLost as lost:
            acknowledged = self.rev
            if lost.found < acknowledged:
                self.rev, self._unsure = lost.found, True  # it is said now, and will not be again
                raise HotTierLost(str(self.ref), acknowledged, lost.found) from None
        return await self._threads.open(self.ref, self.token, create=None, wait=0)  # nothing of this session's was lost

    async def _reopen_older(self, found: Head) -> None:
        """Redis fell back to before this session: go on from there, unless somebody else does."""
        acknowledged = self.rev
        try:
            await self._reopen()
        except ThreadBusy:
            self._lost, self.rev = True, found.rev
            raise HotTierLost(str(self.ref), acknowledged, found.rev) from None

    def _go_on_from(self, head: Head) -> None:
        """Start from what is there, which must be no older than what was acknowledged to this session.

        Raises:
            HotTierLost: it is: Redis lost its memory, or fell back to an older moment of it.
        """
        acknowledged = self.rev
        self._start_from(head)
        if head.rev < acknowledged:
            raise HotTierLost(str(self.ref), acknowledged, head.rev)

    # --- leaving ----------------------------------------------------------------------------------------------------

    async def checkpoint(self, wait: float | None) -> None:
        """Save the state and have the archive catch up, while the session goes on."""
        await self.save_state()
        await self._threads.request_flush(self.ref, "checkpoint")
        if wait is None:
            return
        try:
            await self._threads.wait_archived(self.ref, self.rev, "checkpoint", wait)
        except HotTierLost:
            if (await self._hot.save(self.ref, self.token, [], told=self.rev)).status == "behind":
                await self._look_again()
            raise

    async def archive(self, wait: float | None) -> Archiving:
        """Have the archive catch up, and wait for it if asked to. Never raises what became of it: that is told."""
        try:
            enqueued = await self._threads.request_flush(self.ref, "checkpoint") or await self._is_archived()
        except ThreadkeepError as error:
            return Archiving(error=error)
        if wait is None:
            return Archiving(enqueued)
        try:
            await self._threads.wait_archived(self.ref, self.rev, "checkpoint", wait)
        except ThreadkeepError as error:
            return Archiving(enqueued, error=error)
        return Archiving(enqueued, archived=True)

    async def _is_archived(self) -> bool:
        seen = await self._hot.look(self.ref)
        return seen.head is not None and not seen.head.dirty

    async def leave(self) -> Leaving:
        """Save the state, release the lease, queue the flush. Each step is tried, whatever became of the one before."""
        self.closed = True
        left = Leaving()
        try:
            await self.save_state()
        except ThreadkeepError as error:
            left.error = error
        try:
            left.flush_enqueued, lost = await self._release()
        except ThreadkeepError as error:
            lost = error
        left.error = left.error or lost
        return left

    async def _release(self) -> tuple[bool, ThreadkeepError | None]:
        """Give the lease back; whether a flush is on its way, and whether Redis had fallen back meanwhile."""
        mode: FlushMode = self._settings.exit_flush
        flush_token = fresh_mark()
        left = await self._hot.release(self.ref, self.token, mode, flush_token, told=self.rev)
        queued = left.status in ("coalesced", "clean")
        if left.status == "enqueue":
            delay = self._settings.flush_delay
            queued = await self._threads.publish_flush(self.ref, mode, flush_token, delay=delay)
        if left.status in ("fenced", "absent", "erasing"):
            facts = {"thread_id": str(self.ref), "status": left.status}
            log.warning("a session had lost its lease when it was left", extra=facts)
        lost = HotTierLost(str(self.ref), self.rev, left.rev) if left.rev is not None and left.rev < self.rev else None
        return queued, lost

    async def wait_flushed(self, seconds: float) -> None:
        """Wait until the archive holds all that this session wrote."""
        await self._threads.wait_archived(self.ref, self.rev, self._settings.exit_flush, seconds)
