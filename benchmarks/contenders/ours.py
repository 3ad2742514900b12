"""Threadkeep: its storage layer as the tasks run it, the same with its catalog, and whole sessions."""

from dataclasses import dataclass
from typing import Any

from benchmarks.corpus import Message
from benchmarks.servers import Place
from threadkeep import Threadkeep
from threadkeep.model import Entry, FlushMode, ThreadRef, checked_record, fresh_mark
from threadkeep.storage.archive import read_frames
from threadkeep.storage.hot import Contents
from threadkeep.storage.hot_head import Head, identity_fields
from threadkeep.storage.limits import ReadLimits
from threadkeep.storage.link import run_now as now
from threadkeep.storage.parts import hashes_of, plain_parts, records_of
from threadkeep.storage.record_ids import id_hash, numbers_of
from threadkeep.storage.records import Records
from threadkeep.tasks.adoption import make_app
from threadkeep.tasks.enqueue import Enqueuer
from threadkeep.tasks.flush import flush
from threadkeep.tasks.hydrate import hydrate
from threadkeep.tasks.stores import Stores


class NoCatalog:
    """A catalog that knows nothing, for a comparison with what has none."""

    def get(self, ref: ThreadRef) -> None:  # noqa: ARG002
        return None

    def epoch_changed(self, shard: int, epoch: str) -> bool:  # noqa: ARG002
        return False

    def close(self) -> None: ...


class WithCatalog:
    """Hydrate and flush as workers do them, and between them what a session writes; ids are checked for doubles."""

    may_linger = False

    def __init__(self, place: Place) -> None:
        self.settings = place.settings()
        self.stores = Stores(self.settings)
        self._limits = ReadLimits.of(self.settings)
        self._token = ""
        self._ref = ThreadRef.of("none")
        self._head: Head | None = None
        self._known: set[bytes] = set()

    def put_in_place(self, thread: str, messages: list[Message]) -> None:
        self.make_hot(thread, messages)
        self.release("evict")
        self.flush_now("evict")
        self.stores.cold.extends(self.object_bytes(thread))  # a worker finds that out once

    def make_hot(self, thread: str, messages: list[Message]) -> None:
        """A thread that is in Redis alone, leased to us."""
        entries = [_entry(f"m-{number}", message) for number, message in enumerate(messages)]
        fields = identity_fields(codec="plain", state=None, labels={}, forked_from=None)
        parts = plain_parts([entry.to_record() for entry in entries], hashes_of(entries), fields)
        self._ref, self._token = ThreadRef.of(thread), fresh_mark()
        made = now(self.stores.hot.create(self._ref, self._token, parts, ticket="", gen=fresh_mark()))
        if made.head is None:
            raise AssertionError(made.status)
        self._head, self._known = made.head, set()
        self._count, self._rev = made.head.count, made.head.rev

    def hydrate(self, thread: str) -> None:
        self._ref = ThreadRef.of(thread)
        outcome = hydrate(self.stores, self._ref)
        if outcome.outcome != "restored":
            raise AssertionError(outcome)

    def lease(self) -> None:
        self._token = fresh_mark()
        self._head = now(self.stores.hot.acquire(self._ref, self._token)).head
        if self._head is None:
            raise AssertionError("the lease was not given")
        self._count, self._rev = self._head.count, self._head.rev

    def read(self) -> Any:
        self.lease()
        contents = now(self.stores.hot.read(self._ref, with_ids=True))
        if contents is None:
            raise AssertionError("the thread is not in Redis")
        self._known = set(numbers_of(contents.ids))
        return self.records(contents)

    def records(self, contents: Contents) -> Records:
        return records_of(contents, self._ref, limits=self._limits)

    def parse(self, stored: Records) -> list[Message]:
        return [entry.body for entry in stored.entries()]

    def append(self, messages: list[Message]) -> None:
        for message in messages:
            self._append(message)

    def _append(self, message: Message) -> None:
        entry = _entry(f"n-{self._count}", message)
        record, name = checked_record(entry, max_bytes=self.settings.max_message_bytes), id_hash(entry.id)
        (number,) = numbers_of(name)
        if number in self._known:
            return
        adding = self.stores.hot.append(self._ref, self._token, [record], name, checked=self._count, told=self._rev)
        written = now(adding)
        if written.status != "ok" or written.count is None:
            raise AssertionError(written.status)
        self._known.add(number)
        self._count, self._rev = written.count, written.rev

    def flush(self) -> None:
        self.release("evict")
        self.flush_now("evict")

    def join(self, thread: str) -> None:
        """Lease a thread that another process hydrated, and learn its ids, without reading its messages."""
        self._ref = ThreadRef.of(thread)
        self.lease()
        ids = now(self.stores.hot.ids(self._ref))
        self._known = set(numbers_of(ids))

    def flush_thread(self, thread: str) -> None:
        """What a worker does that was only told the thread's id."""
        self._ref = ThreadRef.of(thread)
        self.flush_now("evict")

    def release(self, mode: FlushMode) -> None:
        now(self.stores.hot.release(self._ref, self._token, mode, fresh_mark(), told=self._rev))

    def flush_now(self, mode: FlushMode) -> str:
        outcome = flush(self.stores, self._ref, mode)
        if outcome.outcome not in ("archived", "unchanged"):
            raise AssertionError(outcome)
        return outcome.outcome

    def contents(self, thread: str) -> list[Message]:
        ref = ThreadRef.of(thread)
        found, head = self.stores.cold.get(ref), now(self.stores.hot.look(ref)).head
        if found is None or (head is not None and (head.archived < head.rev or not self.may_linger)):
            raise AssertionError("the thread was not put away")
        frames = read_frames(found[1], where=thread, limits=self._limits)
        return [Entry.from_record(record).body for frame in frames for record in frame.records]

    def object_bytes(self, thread: str) -> int:
        stored = self.stores.cold.head(ThreadRef.of(thread))
        return stored.size if stored else 0

    def close(self) -> None:
        self.stores.close()


class StorageLayer(WithCatalog):
    """Without the catalog, which nobody else here has."""

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.stores.__dict__.update(catalog=NoCatalog(), tell_catalog=lambda row: True)  # noqa: ARG005


@dataclass(frozen=True, slots=True)
class InProcess(Enqueuer):
    """Runs what would be queued, at once and here: the tasks' own work without Celery."""

    stores: Stores

    def hydrate(self, ref: ThreadRef, token: str, *, expires: float) -> None:  # noqa: ARG002
        hydrate(self.stores, ref)

    def flush(self, ref: ThreadRef, mode: FlushMode, token: str, *, delay: float = 0.0) -> None:  # noqa: ARG002
        flush(self.stores, ref, mode)


class WholeSession(WithCatalog):
    """`Threadkeep.open`, its messages, appends and leaving, with tasks run in the same process; and catalog.

    A copy that was restored for a session stays in Redis until that session's deadline, though it is archived.
    """

    may_linger = True

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._keep = Threadkeep(place.settings(exit_flush="evict"))
        threads: Any = self._keep._threads  # noqa: SLF001  the one place where tasks can be put
        threads.enqueuer = InProcess(make_app(self.settings, publisher=True), self.stores)
        self._session: Any = None

    def hydrate(self, thread: str) -> None:
        self._session = self._keep.open(thread)

    def read(self) -> Any:
        return self._session.messages

    def parse(self, stored: Any) -> list[Message]:
        return list(stored)

    def append(self, messages: list[Message]) -> None:
        for message in messages:
            self._session.append(message)

    def flush(self) -> None:
        self._session.close()

    def close(self) -> None:
        self._keep.close()
        super().close()


def _entry(message_id: str, message: Message) -> Entry:
    return Entry(message_id, "user" if message["role"] == "user" else "assistant", message, "plain", {})
