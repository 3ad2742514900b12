"""What one open session does to its thread: every write fenced by the lease, every id once."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from threadkeep.errors import (
    FormatMismatch,
    HotTierLost,
    InvalidMessage,
    LeaseLost,
    MessageConflict,
    MessageNotFound,
    StoreUnavailable,
    ThreadErased,
    ThreadkeepError,
)
from threadkeep.model import (
    Entry,
    FlushMode,
    JsonObject,
    ThreadRef,
    checked_labels,
    checked_record,
    checked_state,
    dump_json,
    fresh_id,
    fresh_mark,
)
from threadkeep.session.codec import codec_for
from threadkeep.session.threads import Threads, log, timestamp
from threadkeep.storage.archive import id_hash
from threadkeep.storage.hot import Contents, Written
from threadkeep.storage.hot_head import Head
from threadkeep.storage.parts import entries_of, first_parts, hashes_of, log_bytes, plain_parts

ATTEMPTS = 5
"""How often a write is tried again because the thread left Redis, or an id was added meanwhile."""


@dataclass(slots=True)
class Leaving:
    """How leaving a session ended."""

    flush_enqueued: bool = False
    error: ThreadkeepError | None = None


class Writer:
    """The state of one open session; coroutines over the same link as its `Threads`."""

    def __init__(self, threads: Threads, ref: ThreadRef, token: str, head: Head) -> None:
        self.ref = ref
        self.token = token
        self.state: JsonObject = deepcopy(head.state) if head.state is not None else {}
        self.labels: dict[str, str] = dict(head.labels)
        self.codec = head.codec
        self.closed = False
        self._threads = threads
        self._hot = threads.hot
        self._settings = threads.settings
        self._saved = dump_json(self.state)
        self._entries: list[Entry] | None = None
        self._positions: dict[bytes, int] | None = None
        self._start_from(head)

    def _start_from(self, head: Head) -> None:
        """Forget what was read before: the thread is as `head` says."""
        self.rev, self.count = head.rev, head.count
        self._entries = [] if head.count == 0 else None
        self._positions = {} if head.count == 0 else None

    # --- reading ----------------------------------------------------------------------------------------------------

    async def entries(self) -> list[Entry]:
        """All messages; read once, then kept up to date, since only this session may write."""
        if self._entries is None:
            contents = await self._contents()
            self._entries = entries_of(contents, self.ref, max_bytes=self._settings.max_thread_bytes)
        return self._entries

    async def _contents(self, *, with_ids: bool = False) -> Contents:
        for _ in range(ATTEMPTS):
            contents = await self._hot.read(self.ref, with_ids=with_ids)
            if contents is None:
                await self._reopen()
                continue
            if contents.head.lease != self.token:
                raise LeaseLost(str(self.ref))
            return contents
        raise StoreUnavailable("Redis", f"reading thread {self.ref}", "the thread kept vanishing")

    async def _known(self) -> dict[bytes, int]:
        """Where each id stands, as hashes."""
        if self._positions is None:
            ids = await self._hot.ids(self.ref)
            self._positions = {ids[at : at + 16]: at // 16 for at in range(0, len(ids), 16)}
        return self._positions

    # --- appending --------------------------------------------------------------------------------------------------

    async def append(self, messages: Sequence[Any], ids: Sequence[str] | None) -> list[str]:
        """Append messages, all or none; those whose id and content are there already are skipped."""
        entries, records = self._checked(messages, ids)
        all_ids = [entry.id for entry in entries]
        size = log_bytes(records)
        if size > self._settings.max_append_bytes:
            limit = f"exceeds THREADKEEP_MAX_APPEND_BYTES ({self._settings.max_append_bytes:,}); append in parts"
            raise InvalidMessage("append", f"{size:,} bytes", limit)
        made_here = ids is None and not any(isinstance(message, Entry) for message in messages)
        for _ in range(ATTEMPTS):
            if not made_here:
                entries, records = await self._without_known(entries, records)
            if not entries:
                break
            hashes = hashes_of(entries)
            written = await self._hot.append(self.ref, self.token, records, hashes, checked=self.count)
            if await self._accepted(written):
                self._remember(entries)
                break
            if written.status == "known":
                made_here, self._positions, self._entries, self.count = False, None, None, written.count
        else:
            raise StoreUnavailable("Redis", f"an append to thread {self.ref}", "the thread kept changing")
        return all_ids

    def _checked(self, messages: Sequence[Any], ids: Sequence[str] | None) -> tuple[list[Entry], list[bytes]]:
        """Entries and records that may be written, as far as can be told before looking at the thread."""
        entries = self._encode(messages, ids)
        records = [checked_record(entry, max_bytes=self._settings.max_message_bytes) for entry in entries]
        self._check_batch(entries)
        return entries, records

    def _encode(self, messages: Sequence[Any], ids: Sequence[str] | None) -> list[Entry]:
        codec, entries = codec_for(self.codec), list[Entry]()
        if ids is not None and len(ids) != len(messages):
            raise InvalidMessage("ids", f"{len(ids)} ids for {len(messages)} messages", "one id a message is needed")
        for index, message in enumerate(messages):
            if isinstance(message, Entry):
                entries.append(message)
                continue
            message_id = ids[index] if ids is not None else fresh_id()
            for part, (kind, body) in enumerate(codec.encode(message)):
                own = message_id if part == 0 else f"{message_id}.{part}"
                entries.append(Entry(own, kind, deepcopy(body), codec.name, {"ts": timestamp()}))
        return entries

    def _check_batch(self, entries: Sequence[Entry]) -> None:
        seen: set[str] = set()
        for entry in entries:
            if entry.id in seen:
                raise InvalidMessage(
                    "ids", ascii(entry.id)[:80], "stands twice in one append; give each message its own id"
                )
            seen.add(entry.id)
            if entry.fmt != self.codec:
                raise FormatMismatch(str(self.ref), self.codec, str(entry.fmt))

    async def _without_known(self, entries: list[Entry], records: list[bytes]) -> tuple[list[Entry], list[bytes]]:
        """What is not in the thread yet.

        Raises:
            MessageConflict: an id is there with other content.
        """
        known = await self._known()
        if not any(id_hash(entry.id) in known for entry in entries):
            return entries, records
        stored = await self.entries()
        fresh: list[tuple[Entry, bytes]] = []
        for entry, record in zip(entries, records, strict=True):
            at = known.get(id_hash(entry.id))
            if at is None:
                fresh.append((entry, record))
            elif not stored[at].same_as(entry):
                raise MessageConflict(str(self.ref), entry.id)
        return [entry for entry, _ in fresh], [record for _, record in fresh]

    def _remember(self, entries: Sequence[Entry]) -> None:
        if self._entries is not None:
            self._entries.extend(entries)
        if self._positions is not None:
            start = self.count - len(entries)
            self._positions.update({id_hash(entry.id): start + index for index, entry in enumerate(entries)})

    # --- changing ---------------------------------------------------------------------------------------------------

    async def truncate(self, message_id: str) -> int:
        """Remove a message and all after it; how many went."""
        gen, removed = fresh_mark(), 0
        for _ in range(ATTEMPTS):
            keep = (await self._known()).get(id_hash(message_id))
            if keep is None:
                raise MessageNotFound(str(self.ref), message_id)
            contents = await self._contents(with_ids=True)
            removed = contents.head.count - keep
            written = await self._cut(contents, keep, gen)
            if await self._accepted(written):
                self._forget_from(keep)
                return removed
        raise StoreUnavailable("Redis", f"a truncation of thread {self.ref}", "the thread kept changing")

    async def _cut(self, contents: Contents, keep: int, gen: str) -> Written:
        head = contents.head
        if keep >= head.base_count:
            gone = log_bytes(contents.tail[keep - head.base_count :])
            return await self._hot.truncate(self.ref, self.token, head, keep=keep, cut_bytes=gone, gen=gen)
        parts = first_parts(contents, keep, max_bytes=self._settings.max_thread_bytes)
        return await self._hot.rewrite(self.ref, self.token, head, parts, gen=gen)

    async def replace(self, messages: Sequence[Any], ids: Sequence[str] | None) -> list[str]:
        """Put other messages in the place of all."""
        entries, records = self._checked(messages, ids)
        gen = fresh_mark()
        for _ in range(ATTEMPTS):
            seen = await self._hot.look(self.ref)
            if seen.head is None:
                await self._reopen()
                continue
            parts = plain_parts(records, hashes_of(entries))
            written = await self._hot.rewrite(self.ref, self.token, seen.head, parts, gen=gen)
            if await self._accepted(written):
                self._entries = list(entries)
                self._positions = {id_hash(entry.id): index for index, entry in enumerate(entries)}
                return [entry.id for entry in entries]
        raise StoreUnavailable("Redis", f"a replacement in thread {self.ref}", "the thread kept changing")

    async def save_state(self) -> bool:
        """Save the state if it changed since it was last saved; whether it had."""
        text = checked_state(self.state, max_bytes=self._settings.max_state_bytes) or b""
        if text == self._saved:
            return False
        await self._save(["state", text])
        self._saved = text
        return True

    async def label(self, labels: Mapping[str, str | None]) -> None:
        """Set labels, or remove those that are None."""
        merged = {name: value for name, value in {**self.labels, **labels}.items() if value is not None}
        checked = checked_labels(merged)
        await self._save(["labels", dump_json(checked) if checked else b""])
        self.labels = checked

    async def _save(self, fields: Sequence[Any]) -> None:
        for _ in range(ATTEMPTS):
            if await self._accepted(await self._hot.save(self.ref, self.token, fields)):
                return
        raise StoreUnavailable("Redis", f"saving thread {self.ref}", "the thread kept vanishing")

    def _forget_from(self, keep: int) -> None:
        if self._entries is not None:
            del self._entries[keep:]
        if self._positions is not None:
            self._positions = {digest: at for digest, at in self._positions.items() if at < keep}

    # --- outcomes ---------------------------------------------------------------------------------------------------

    async def _accepted(self, written: Written) -> bool:
        """True if the write was done, False if it should be tried again.

        Raises:
            LeaseLost, ThreadErased, ThreadNotFound, HotTierLost
        """
        match written.status:
            case "ok":
                self.rev = written.rev
                self.count = written.count or self.count
                return True
            case "fenced":
                raise LeaseLost(str(self.ref))
            case "erasing":
                raise ThreadErased(str(self.ref))
            case "absent":
                await self._reopen()
        return False

    async def _reopen(self) -> None:
        """The thread left Redis under this session: bring it back, and go on only if nothing else happened to it."""
        head = await self._threads.open(self.ref, self.token, create=None, wait=0)
        if head.rev < self.rev:
            acknowledged = self.rev
            self._start_from(head)
            self._saved = dump_json(head.state or {})
            raise HotTierLost(str(self.ref), acknowledged, head.rev)
        if head.rev > self.rev:
            raise LeaseLost(str(self.ref))

    # --- leaving ----------------------------------------------------------------------------------------------------

    async def checkpoint(self, wait: float | None) -> None:
        """Save the state and have the archive catch up, while the session goes on."""
        await self.save_state()
        await self._threads.request_flush(self.ref, "checkpoint")
        if wait is not None:
            await self._threads.wait_archived(self.ref, self.rev, "checkpoint", wait)

    async def leave(self) -> Leaving:
        """Save the state, release the lease, queue the flush. Each step is tried, whatever became of the one before."""
        self.closed = True
        left = Leaving()
        try:
            await self.save_state()
        except ThreadkeepError as error:
            left.error = error
        try:
            left.flush_enqueued = await self._release()
        except ThreadkeepError as error:
            left.error = left.error or error
        return left

    async def _release(self) -> bool:
        mode: FlushMode = self._settings.exit_flush
        flush_token = fresh_mark()
        status = await self._hot.release(self.ref, self.token, mode, flush_token)
        if status == "enqueue":
            return await self._threads.publish_flush(self.ref, mode, flush_token, delay=self._settings.flush_delay)
        if status in ("fenced", "absent", "erasing"):
            log.warning(
                "a session had lost its lease when it was left",
                extra={"thread_id": str(self.ref), "status": status},
            )
        return status in ("coalesced", "clean")

    async def wait_flushed(self, seconds: float) -> None:
        """Wait until the archive holds all that this session wrote."""
        await self._threads.wait_archived(self.ref, self.rev, self._settings.exit_flush, seconds)
