"""A thread to erase, whatever may be under way meanwhile, and a look into every store for what is left of it."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from threadkeep import Session, Threadkeep
from threadkeep.cli.creating import create_thread
from threadkeep.cli.files import ParsedFile
from threadkeep.errors import LeaseLost, ThreadBusy, ThreadErased, ThreadExists, ThreadNotFound
from threadkeep.model import ArchiveMeta, Entry, ThreadRef, fresh_id, fresh_mark
from threadkeep.storage.framing import zstd
from threadkeep.storage.link import run_now as now
from threadkeep.tasks.describe import describe
from threadkeep.tasks.enqueue import Enqueuer
from threadkeep.tasks.erase import erase
from threadkeep.tasks.flush import flush
from threadkeep.tasks.hydrate import hydrate
from threadkeep.tasks.receipt import Receipt
from threadkeep.tasks.reconcile import reconcile
from threadkeep.tasks.stores import Stores
from threadkeep.tasks.sweeper import sweep
from threadkeep.tasks.verify import verify_these
from threadkeep.testing.faults import Kind, Step, Work, unwatched

SECRET = "what nobody may read again"
INNOCENT = "what was said afterwards"
REFUSED = (ThreadErased, LeaseLost, ThreadNotFound, ThreadExists, ThreadBusy)


@dataclass
class Case:
    """One thread, and what is done to it. Workers run here; whoever waits for one is helped at once."""

    stores: Stores
    keep: Threadkeep
    enqueuer: Enqueuer
    bucket: Any
    ref: ThreadRef = field(default_factory=lambda: ThreadRef.of(fresh_id()))
    request: str = ""
    upto: int = 0
    receipt: Receipt | None = None
    session: Session | None = None
    child: str = ""

    # --- what is there ----------------------------------------------------------------------------------------------

    def begun(self) -> Session:
        session = self.keep.new(labels={"about": SECRET}, state={"s": SECRET})
        self.ref = ThreadRef.of(session.id)
        return session

    def hot(self) -> None:
        """Archived twice, and dirty."""
        with self.begun() as session:
            session.append({"text": SECRET, "role": "user"}, id="m1")
            flush(self.stores, self.ref, "checkpoint")
            session.append({"text": SECRET, "role": "user"}, id="m2")
            flush(self.stores, self.ref, "checkpoint")
            session.append({"text": SECRET, "role": "user"}, id="m3")

    def cold(self) -> None:
        self.hot()
        flush(self.stores, self.ref, "evict")

    def never_archived(self) -> None:
        with self.begun() as session:
            session.append({"text": SECRET, "role": "user"})

    def leased(self) -> None:
        """A session is open, and dirty."""
        self.hot()
        self.session = self.keep.open(self.ref.thread_id)
        self.session.append({"text": SECRET, "role": "user"}, id="m4")

    def with_copies(self) -> None:
        """Cold, with copies of conflicts and an object of version 1 beside it."""
        self.cold()
        for rev in (7, 8):
            meta = ArchiveMeta(rev, fresh_mark(), "", 1, 5)
            self.stores.cold.put_aside(self.ref, SECRET.encode(), meta=meta)
        self.v1()

    def damaged(self) -> None:
        """Cold; its object was overwritten by a stranger, and what was there before is an earlier version."""
        self.cold()
        there = self.stores.cold.head(self.ref)
        assert there is not None
        assert there.meta is not None
        where = {"Bucket": self.stores.settings.s3_bucket, "Key": there.key}
        self.bucket.put_object(**where, Body=SECRET.encode(), Metadata=there.meta.to_headers())

    def v1(self) -> None:
        body = f'{{"v":1,"messages":["{SECRET}"],"state":null,"dedupIds":[]}}'
        self.bucket.put_object(Bucket=self.stores.settings.s3_bucket, Key=self.key("json"), Body=body.encode())

    def key(self, suffix: str) -> str:
        return f"{self.stores.settings.s3_prefix}/{self.ref.member}.{suffix}"

    # --- what is done -----------------------------------------------------------------------------------------------

    def erase(self) -> None:
        """A user's request, and the task that it queues."""
        mark = now(self.keep._threads.begin_erase(self.ref))
        self.request, self.upto = mark.request, mark.upto
        self.again()

    def again(self) -> None:
        """The same message once more."""
        self.receipt = erase(self.stores, self.ref, self.request, self.upto)

    def erase_the_same(self) -> None:
        if self.request:
            erase(self.stores, self.ref, self.request, self.upto)

    def erase_by_another(self) -> None:
        """A message whose mark has vanished, asked for just now."""
        erase(self.stores, self.ref, fresh_mark(), now(self.stores.hot.clock(self.ref)))

    def ask_again(self) -> None:
        mark = now(self.keep._threads.begin_erase(self.ref))
        erase(self.stores, self.ref, mark.request, mark.upto)

    def checkpoint(self) -> None:
        flush(self.stores, self.ref, "checkpoint")

    def linger(self) -> None:
        flush(self.stores, self.ref, "linger")

    def evict(self) -> None:
        flush(self.stores, self.ref, "evict")

    def hydrate(self) -> None:
        hydrate(self.stores, self.ref)

    def describe(self) -> None:
        describe(self.stores, self.ref, fresh_mark())

    def sweep(self) -> None:
        sweep(self.stores, self.enqueuer, force=True)

    def verify(self) -> None:
        """With repairs."""
        verify_these(self.stores, [self.ref], mend=True, width=1)

    def reconcile(self) -> None:
        reconcile(self.stores)

    def append(self) -> None:
        self.open_session.append({"text": SECRET, "role": "user"}, id="m5")

    def truncate(self) -> None:
        self.open_session.truncate("m3")

    def exit(self) -> None:
        self.open_session.state["s"] = SECRET + "!"
        self.open_session.close()

    def fork(self) -> None:
        with self.keep.fork(self.ref.thread_id) as fork:
            self.child = fork.id

    def overwrite(self) -> None:
        with self.keep.new(self.ref.thread_id, overwrite=True) as session:
            session.append({"text": INNOCENT, "role": "user"})

    def create(self) -> None:
        with self.keep.open(self.ref.thread_id, create=True) as session:
            if not session.count:
                session.append({"text": INNOCENT, "role": "user"})

    def fork_to_it(self) -> None:
        with self.keep.new() as source:
            source.append({"text": INNOCENT, "role": "user"})
        with self.keep.fork(source.id, id=self.ref.thread_id):
            pass

    def bring_in(self) -> None:
        """As `threadkeep import` does."""
        parsed = ParsedFile("JSON lines", [Entry("n1", "user", {"text": INNOCENT, "role": "user"})])
        options: dict[str, Any] = {"namespace": None, "labels": {}, "wait": None}
        create_thread(self.stores, parsed, thread_id=self.ref.thread_id, **options)

    @property
    def open_session(self) -> Session:
        assert self.session is not None
        return self.session

    def waiting(self, **how: Any) -> Work:
        return Work(idle=self.help, **how)

    def help(self) -> bool:
        hydrate(self.stores, self.ref)
        return True

    def tried(self, act: Callable[["Case"], None]) -> bool:
        """Do it to its end, refused or not; whether it was done."""
        with unwatched(), self.waiting():
            try:
                act(self)
            except REFUSED:
                return False
        return True

    # --- the end ----------------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Whatever is still to come, comes: the same message again, the session's end, a sweep, a flush, a hydrate."""
        if self.session is not None:
            with suppress(*REFUSED):
                self.session.close()
        for act in (Case.again, Case.sweep, Case.evict, Case.hydrate):
            self.tried(act)

    def messages(self) -> list[str] | None:
        """What a reader gets; None if there is no such thread."""
        with self.waiting():
            try:
                return [message["text"] for message in self.keep.read(self.ref.thread_id).messages]
            except ThreadNotFound:
                return None

    def left(self) -> list[str]:
        """Where something of what was erased is left."""
        return [*self._left_in_redis(), *self._left_in_bucket(), *self._left_in_catalog()]

    def _left_in_redis(self) -> Iterator[str]:
        run, own = self.stores.hot.link.run, self.stores.hot.keys(self.ref).own
        at: Any = 0
        while True:
            at, keys = now(run("SCAN", at, "MATCH", f"{own}*", "COUNT", 10_000))
            for key in keys:
                if b":staged:" in key or b":answer:" in key:
                    assert now(run("PTTL", key)) in range(-2, 600_001), key  # -2: it has just expired
                elif SECRET.encode() in self._read(key):
                    yield f"Redis: {key.decode()}"
            if not int(at):
                return

    def _read(self, key: bytes) -> bytes:
        run = self.stores.hot.link.run
        match now(run("TYPE", key)):
            case b"string":
                return _plain(now(run("GET", key)))
            case b"list":
                return _plain(now(run("LRANGE", key, 0, -1)))
            case b"hash":
                return _plain(now(run("HGETALL", key)))
        return b""

    def _left_in_bucket(self) -> Iterator[str]:
        name, prefix = self.stores.settings.s3_bucket, self.stores.settings.s3_prefix
        for place in (f"{prefix}/{self.ref.member}", f"{prefix}/conflicts/{self.ref.member}/"):
            found = self.bucket.list_object_versions(Bucket=name, Prefix=place)
            for item in found.get("Versions", []):
                body = self.bucket.get_object(Bucket=name, Key=item["Key"], VersionId=item["VersionId"])["Body"].read()
                if SECRET.encode() in _plain(body):
                    yield f"S3: {item['Key']}"

    def _left_in_catalog(self) -> Iterator[str]:
        told = [self.stores.catalog.get(self.ref), *self.stores.catalog.events(self.ref)]
        if SECRET in str(told):
            yield f"the catalog: {told}"


def _plain(value: Any) -> bytes:
    """All bytes of a reply or an object, decompressed where they are frames."""
    if isinstance(value, dict):
        return b"".join([_plain(part) for pair in value.items() for part in pair])
    if isinstance(value, list):
        return _plain(b"".join(value))
    return zstd.decompress(value) if value.startswith(b"\x28\xb5\x2f\xfd") else value


class Interrupted(Work):
    """Lets something else happen just before one of its places: a step at which no transaction is open.

    Attributes:
        places: How many of them were passed.
        at: The step before which it happened.
    """

    def __init__(self, place: int, meanwhile: Callable[[], Any], **how: Any) -> None:
        super().__init__(**how)
        self._place, self._meanwhile, self._in_transaction = place, meanwhile, False
        self.places = 0
        self.at: Step | None = None

    def before(self, kind: Kind, name: str) -> Step:
        step = super().before(kind, name)
        inside = kind == "sql" and self._in_transaction
        self._in_transaction = kind == "sql" and name != "COMMIT"
        if not inside:
            self.places += 1
            if self.places == self._place:
                self.at = step
                self._meanwhile()
        return step
