"""What the demo does to a thread, and what it measures while doing it."""

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

from threadkeep.cli.demo_report import Report, Row, digest
from threadkeep.cli.demo_talk import Talk, repository
from threadkeep.cli.reading import read_thread
from threadkeep.config import Settings
from threadkeep.errors import FlushTimeout
from threadkeep.model import Entry, StoredObject, ThreadRef
from threadkeep.session.keep import Threadkeep
from threadkeep.session.session import Session
from threadkeep.storage.archive import read_frames
from threadkeep.storage.hot_facts import memory_of
from threadkeep.storage.limits import ReadLimits
from threadkeep.storage.link import run_now as now
from threadkeep.storage.parts import records_of
from threadkeep.storage.ports import CatalogEntry
from threadkeep.tasks.stores import Stores

Step = Callable[[str], AbstractContextManager[None]]
THREAD, FORK = "review", "review-fork"
PATIENCE = 30.0
"""Seconds that a worker may take over one thing."""


def play(settings: Settings, messages: int, *, step: Step) -> Report:
    """Send a conversation, flush it, bring it back, fork it, continue it, flush it again; compare at every turn."""
    stores = Stores(settings)
    evicting = Threadkeep(settings.model_copy(update={"exit_flush": "evict"}))
    lingering = Threadkeep(settings.model_copy(update={"exit_flush": "linger"}))
    try:
        with evicting, lingering:
            return Play(stores, step).run(evicting, lingering, messages)
    finally:
        stores.close()


class Play:
    """One run of the demo."""

    def __init__(self, stores: Stores, step: Step) -> None:
        self._stores, self._step = stores, step
        self._ref = ThreadRef.of(THREAD, stores.settings.namespace)
        self._fork = ThreadRef.of(FORK, stores.settings.namespace)
        self._talk = Talk(repository())
        self._sent: list[Entry] = []
        self._report = Report(THREAD)

    def run(self, evicting: Threadkeep, lingering: Threadkeep, messages: int) -> Report:
        """All of it, in order."""
        with self._step("A small thread there and back, for the workers to connect to everything"):
            warm_up(evicting)
        with self._step(f"An agent reviews this repository: {messages:,} messages into Redis"):
            session = evicting.new(THREAD, labels={"app": "demo"}, wait_flush=PATIENCE)
            self._converse(session, messages)
        with self._step("Flush: the thread goes to S3 and leaves Redis"):
            first = self._leave(session, self._ref, "flushed, evicted")
            self._expect(self._report.rows[-1].redis == 0, "Redis still holds the thread that was evicted")
            self._expect(self._report.rows[-1].catalog == "cold", "the catalog does not say that it is cold")
        with self._step("Hydrate: it is opened again and comes back"):
            session = self._open(lingering)
        middle, more = len(self._sent) // 2, max(4, messages // 15)
        with self._step(f"Fork: a copy of all before message {middle + 1} goes another way"):
            forked = self._fork_before(lingering, middle)
        with self._step("The original goes on, and is flushed again"):
            self._append(session, f"appended {more:,}", [*self._talk.ask_more(more)])
            second = self._leave(session, self._ref, "flushed, copy kept")
        with self._step("Both are read from S3 and compared with what was sent"):
            self._compare(self._ref, self._sent)
            self._compare(self._fork, forked)
        self._weigh(first, second)
        return self._report

    # --- what happens -----------------------------------------------------------------------------------------------

    def _converse(self, session: Session, messages: int) -> None:
        ask = self._talk.question("Review this repository: read each file, and say what it defines.")
        self._append(session, f"appended {messages:,}", [ask, *self._talk.review(messages - 1)])
        session.state["files_read"] = messages // 2
        self._report.messages = len(self._sent)
        self._report.raw_bytes = sum(len(entry.to_record()) + 1 for entry in self._sent)
        self._report.sha256 = digest(self._sent)

    def _append(self, session: Session, what: str, entries: Sequence[Entry]) -> None:
        """One call for each message, as an agent makes them."""
        started = time.perf_counter()
        for entry in entries:
            session.append(entry)
        took = time.perf_counter() - started
        self._sent += entries
        self._note(what, took, self._ref)

    def _leave(self, session: Session, ref: ThreadRef, what: str) -> bytes:
        """Leave a session, which flushes, and wait for it; the archive's bytes."""
        started = time.perf_counter()
        session.close()
        took = time.perf_counter() - started
        self._await_catalog(ref, session.rev)
        self._note(what, took, ref)
        found = self._stores.cold.get(ref)
        return found[1] if found else b""

    def _open(self, keep: Threadkeep) -> Session:
        started = time.perf_counter()
        session = keep.open(THREAD, wait_flush=PATIENCE)
        took = time.perf_counter() - started
        self._note("opened again", took, self._ref)
        contents = now(self._stores.hot.read(self._ref))
        limits = ReadLimits.of(self._stores.settings)
        records = records_of(contents, self._ref, limits=limits).lines() if contents else []
        self._expect(records == [entry.to_record() for entry in self._sent], "the records that came back differ")
        self._report.sha256_back = digest(session.entries)
        self._expect(self._report.sha256_back == self._report.sha256, "the bodies that came back differ")
        self._expect(session.state.get("files_read") is not None, "the state did not come back")
        return session

    def _fork_before(self, keep: Threadkeep, middle: int) -> list[Entry]:
        started = time.perf_counter()
        fork = keep.fork(THREAD, id=FORK, before=self._sent[middle].id, wait_flush=PATIENCE)
        took = time.perf_counter() - started
        other = self._talk.question("Forget the rest. Which of these files would you test first?")
        fork.append(other)
        self._note("forked", took, self._fork)
        self._leave(fork, self._fork, "flushed, copy kept")
        return [*self._sent[:middle], other]

    # --- what is measured -------------------------------------------------------------------------------------------

    def _note(self, what: str, seconds: float, ref: ThreadRef) -> None:
        stored, row = self._stored(ref), self._stores.catalog.get(ref)
        self._report.rows.append(
            Row(
                what=what,
                thread=ref.thread_id,
                seconds=seconds,
                redis=now(memory_of(self._stores.hot, ref)),
                s3=stored.size if stored else 0,
                catalog=_told(row),
                rev=stored.meta.rev if stored and stored.meta else 0,
                count=stored.meta.count if stored and stored.meta else 0,
                etag=stored.etag if stored else "",
            )
        )

    def _stored(self, ref: ThreadRef) -> StoredObject | None:
        return self._stores.cold.head(ref)

    def _await_catalog(self, ref: ThreadRef, rev: int) -> None:
        """The catalog is told last, a moment after the flush is done."""
        deadline = time.monotonic() + PATIENCE
        while (row := self._stores.catalog.get(ref)) is None or row.stat.archived_rev < rev:
            if time.monotonic() > deadline:
                raise FlushTimeout(str(ref), PATIENCE)
            time.sleep(0.005)

    def _compare(self, ref: ThreadRef, sent: Sequence[Entry]) -> None:
        found = read_thread(self._stores, ref, archived=True)
        same = found.records == [entry.to_record() for entry in sent]
        self._expect(same, f"what S3 holds of {ref} differs from what was sent")

    def _weigh(self, first: bytes, second: bytes) -> None:
        report = self._report
        report.first_stored, report.second_stored = len(first), len(second)
        report.first_compressed = self._compressed(first, b"")
        report.second_compressed = self._compressed(second, first)
        report.appended_only = second.startswith(first)
        self._expect(report.appended_only, "the second flush changed bytes of the first")

    def _compressed(self, body: bytes, before: bytes) -> int:
        """Bytes of records in the frames that were added behind `before`."""
        frames = read_frames(body, where=THREAD, limits=ReadLimits.of(self._stores.settings))
        return sum(frame.raw_bytes for frame in frames if frame.offset >= len(before))

    def _expect(self, true: bool, problem: str) -> None:
        if not true:
            self._report.differences.append(problem)


def warm_up(keep: Threadkeep) -> None:
    """A worker connects to each store at its first use, which would be counted as the first thread's time."""
    with keep.new("hello", wait_flush=PATIENCE) as session:
        session.append({"role": "user", "content": "Hello."})
    for _ in range(2):  # the second time waits for the worker to be done with the first
        keep.open("hello").close()
        keep.stat("hello-nobody")


def _told(row: CatalogEntry | None) -> str:
    if row is None:
        return "-"
    return "cold, cached" if row.stat.tier == "cold" and row.stat.cached else row.stat.tier
