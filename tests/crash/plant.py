"""Apps, queues and workers of one test in one process, on real stores, so that each of their steps can be stopped."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import delete

from threadkeep import Threadkeep
from threadkeep.config import Settings
from threadkeep.errors import ArchiveCorrupt, HydrateFailed, ThreadNotFound
from threadkeep.model import ThreadRef
from threadkeep.storage.archive import read_frames
from threadkeep.storage.catalog_schema import threads
from threadkeep.storage.limits import ReadLimits
from threadkeep.storage.link import run_now as now
from threadkeep.storage.tombstones import is_tombstone
from threadkeep.tasks.adoption import make_app
from threadkeep.tasks.conf import QUEUES
from threadkeep.tasks.stores import Stores, stores_for
from threadkeep.testing.faults import ProcessDied, Work


@dataclass(frozen=True)
class Seen:
    """What is left of a thread when all has settled, revisions and ETags aside: equal for equal histories."""

    messages: tuple[Any, ...] | None
    state: Any
    labels: Any
    codec: str | None
    archived: int | None
    catalog: Any
    asides: int
    tombstone: bool


@dataclass(frozen=True)
class Taken:
    """A message that a worker has."""

    id: str
    task: str
    ref: ThreadRef | None
    named: dict[str, Any]


class Plant:
    """A `Threadkeep` and the workers behind it. Messages go through the real broker and are taken one by one."""

    ERASING = "an erasure is under way"

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.app = make_app(settings)
        self.app.finalize()
        self.keep = Threadkeep(settings, celery=self.app)
        self.stores: Stores = stores_for(settings)
        self.stores.cold.probe()  # it looks for the bucket once: not a step of whoever comes first
        self._patience = 200
        self._connection = self.app.connection_for_read()
        channel = self._connection.default_channel
        self._queues = [self.app.amqp.queues[name].bind(channel) for name in QUEUES]
        for queue in self._queues:
            queue.declare()

    def close(self) -> None:
        self.keep.close()
        self.stores.close()
        self._connection.release()
        self.app.close()

    # --- workers ----------------------------------------------------------------------------------------------------

    def run(self, task: str, ref: ThreadRef | None, *, id: str, **more: Any) -> Any:  # noqa: A002  # Celery's word
        """Run one task as a worker does that has taken its message; `id` is the message's."""
        about = {"thread_id": ref.thread_id, "namespace": ref.namespace} if ref else {}
        found = self.app.tasks[f"threadkeep.{task}"]
        found.push_request(id=id, retries=0, called_directly=True)
        try:
            return found.run(**about, **more)
        finally:
            found.pop_request()

    def deliver(self) -> int:
        """Take and run what is queued until nothing is; how many messages."""
        return sum(1 for _ in self._messages())

    def _messages(self) -> Iterator[str]:
        while taken := self.take():
            self.work_on(taken)
            yield taken.task

    def take(self) -> Taken | None:
        """The next message, which is not queued any more; None if there is none."""
        found = next((found for queue in self._queues if (found := queue.get())), None)
        if found is None:
            return None
        found.ack()
        _, named, _ = found.payload
        about = ThreadRef(named.pop("namespace"), named.pop("thread_id")) if "thread_id" in named else None
        return Taken(found.headers["id"], found.headers["task"].removeprefix("threadkeep."), about, named)

    def work_on(self, taken: Taken) -> None:
        """Run a task as a worker does to which the broker gives a message, for the first time or not."""
        self.run(taken.task, taken.ref, id=taken.id, **taken.named)

    def lose_messages(self) -> None:
        """As a broker that lost its memory."""
        for queue in self._queues:
            queue.purge()

    def settle(self, *refs: ThreadRef) -> None:
        """What time and beat do: leases end, sweeps come, queues empty, until nothing is left to do."""
        for ref in refs:
            self.end_lease(ref)
        for _ in range(5):
            busy = self.deliver()
            if not self.run("sweep", None, id="sweep", force=True) and not busy:
                return
        raise AssertionError("sweeps find no end")

    def clear_catalog(self) -> None:
        """Rows of earlier cases, which each sweep would look at again."""
        with self.stores.catalog._engine.get().begin() as connection:
            connection.execute(delete(threads))

    def end_lease(self, ref: ThreadRef) -> None:
        """As if nobody had renewed the thread's lease for long enough."""
        head = self.stores.hot.keys(ref).head
        if now(self.stores.hot.link.run("HGET", head, "lease")):
            now(self.stores.hot.link.run("HSET", head, "lease_until", 1))

    def expire_copy(self, ref: ThreadRef) -> None:
        """As if a cached copy had outlived its time."""
        seen = now(self.stores.hot.look(ref)).head
        assert seen is not None
        assert not seen.dirty
        now(self.stores.hot.link.run("DEL", *self.stores.hot.keys(ref).all[:4]))

    # --- looking ----------------------------------------------------------------------------------------------------

    def working(self, work: Callable[[], Any], **how: Any) -> Work:
        """Do some work step by step; it may die, and waits for the workers where it has to."""
        watched = Work(idle=self.come_to_help, **how)
        with watched:
            try:
                work()
            except ProcessDied:
                assert watched.dead
        return watched

    def come_to_help(self) -> bool:
        """Workers do what is queued; if nothing is, whoever waits will ask again."""
        if self.deliver():
            self._patience = 200
            return True
        self._patience -= 1
        assert self._patience, "somebody waits, and nothing is queued"
        time.sleep(0.01)
        return False

    def holds(self, ref: ThreadRef) -> Any:
        """The records of a thread wherever they are just now, without touching anything; None if it is nowhere."""
        if now(self.stores.hot.look(ref)).status == "erasing":
            return self.ERASING
        contents = now(self.stores.hot.read(ref))
        if contents is not None:
            frames = list(read_frames(contents.base, where="base", limits=ReadLimits(10**9))) if contents.base else []
            return [*(record for frame in frames for record in frame.records), *contents.tail], contents.head.state
        found = self.archived(ref)
        return found and found[1:]

    def archived(self, ref: ThreadRef) -> tuple[int, list[bytes], Any] | None:
        """Revision, records and state of the archive object; None if there is no archive, or only a tombstone."""
        found = self.stores.cold.get(ref)
        if found is None or is_tombstone(found[1]):
            return None
        try:
            frames = list(read_frames(found[1], where=found[0].key, limits=ReadLimits(10**9)))
        except ArchiveCorrupt:
            return None
        assert found[0].meta is not None
        assert found[0].meta.rev == frames[-1].seal.rev
        seal = frames[-1].seal
        return seal.rev, [record for frame in frames for record in frame.records], seal.state

    def messages(self, ref: ThreadRef) -> list[Any] | None:
        """What a reader gets, without a lease; None if there is no such thread."""
        return self._settled_view(ref)[0]

    def _settled_view(self, ref: ThreadRef) -> tuple[Any, Any, Any, Any]:
        def read() -> None:
            view = self.keep.read(ref.thread_id, namespace=ref.namespace)
            got.append((view.messages, view.state, view.labels, view.codec))

        got: list[Any] = []
        try:
            self.working(read)
        except ThreadNotFound:
            return None, None, None, None
        except HydrateFailed as error:
            return str(error).replace(ref.thread_id, "it"), None, None, None
        return got[0]

    def seen(self, ref: ThreadRef) -> Seen:
        """The settled thread, everywhere."""
        there = self.stores.cold.head(ref)
        stored = self.archived(ref)
        entry = self.stores.catalog.get(ref)
        if stored and entry is not None and there is not None and there.meta is not None:
            assert (entry.stat.etag, entry.stat.archived_rev) == (there.etag, there.meta.rev), "the catalog is wrong"
        row = entry and (entry.stat.tier, entry.stat.count, entry.erased_at is not None, bool(entry.stat.forked_from))
        asides = len(self.stores.cold.conflicts(ref))
        messages, state, labels, codec = self._settled_view(ref)
        return Seen(
            messages=messages if messages is None or isinstance(messages, str) else tuple(map(repr, messages)),
            state=state,
            labels=labels,
            codec=codec,
            archived=len(stored[1]) if stored else None,
            catalog=row,
            asides=asides,
            tombstone=bool(there and there.meta and there.meta.tombstone),
        )
