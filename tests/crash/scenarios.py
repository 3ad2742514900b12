"""What is stopped at each of its steps: every task, and everything that a session does, on a thread in every state."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Literal
from unittest.mock import patch

from tests.crash.plant import Plant
from threadkeep import Session, Threadkeep
from threadkeep.errors import MessageNotFound, ThreadErased, ThreadExists
from threadkeep.model import ArchiveMeta, ThreadRef, fresh_mark
from threadkeep.storage.link import run_now as now
from threadkeep.storage.tombstones import tombstone
from threadkeep.tasks import bulk


@dataclass
class Case:
    """One run of a scenario: a thread of its own, and a second one beside it."""

    plant: Plant
    ref: ThreadRef
    other: ThreadRef
    about: dict[str, Any] = field(default_factory=dict)

    @contextmanager
    def session(self, **how: Any) -> Iterator[Session]:
        """A session in an app's process of its own: what it opened dies with it."""
        with self.keep() as keep, keep.open(self.ref.thread_id, create=True, **how) as session:
            yield session

    def keep(self) -> Threadkeep:
        return Threadkeep(self.plant.settings, celery=self.plant.app)

    def task(self, name: str, **more: Any) -> None:
        """Run a task on this thread, as the same message each time."""
        self.plant.run(name, self.ref, id=f"{name}-{self.ref.thread_id}", **more)

    def work_off(self) -> None:
        self.plant.deliver()


@dataclass(frozen=True)
class Scenario:
    """What is there, and what is then done and stopped.

    Attributes:
        kind: A task's message is delivered again; an app tries again after it was started anew.
        kinds: The kinds of steps that must be among its own.
        steps: At least so many, or the harness has missed some.
    """

    name: str
    kind: Literal["task", "session"]
    prepare: Callable[[Case], None]
    act: Callable[[Case], None]
    kinds: frozenset[str]
    steps: int


def say(session: Session, *numbers: int, text: str = "") -> None:
    session.append(
        *[{"role": "user", "content": f"message {n} {text}"} for n in numbers], ids=[f"m{n}" for n in numbers]
    )


# --- what is there --------------------------------------------------------------------------------------------------


def nothing(case: Case) -> None:
    """No such thread."""


def fresh(case: Case) -> None:
    """Left by its session and never archived; the flush is not queued any more."""
    with case.session() as session:
        say(session, 1, 2)
        session.state["step"] = 1
    case.plant.lose_messages()


def archived(case: Case) -> None:
    """Archived, with a cached copy."""
    fresh(case)
    case.task("flush_thread", mode="linger")


def cold(case: Case) -> None:
    archived(case)
    case.plant.expire_copy(case.ref)


def continued(case: Case) -> None:
    """Archived, and more behind it in Redis."""
    archived(case)
    with case.session() as session:
        say(session, 3, 4)
        session.label(team="red")
    case.plant.lose_messages()


def leased(case: Case) -> None:
    """Held open by a session that stays."""
    archived(case)
    keep = case.keep()
    session = case.about["open"] = keep.open(case.ref.thread_id)
    case.about["keep"] = keep
    say(session, 3)


def many_frames(case: Case) -> None:
    archived(case)
    for number in range(3, 19):
        with case.session() as session:
            say(session, number)
        case.plant.lose_messages()
        case.task("flush_thread", mode="linger")
    with case.session() as session:
        say(session, 19)
    case.plant.lose_messages()


def contested(case: Case) -> None:
    """Somebody else has written another object to the thread's key."""
    continued(case)
    head = now(case.plant.stores.hot.look(case.ref)).head
    assert head is not None
    theirs = ArchiveMeta(head.rev + 1, fresh_mark(), "", 1, 5)
    case.plant.stores.cold.put(case.ref, b"not ours", meta=theirs, based_on=head.etag)


def buried(case: Case) -> None:
    """A new thread where an erased one was."""
    grave = ArchiveMeta(now(case.plant.stores.hot.clock(case.ref)), fresh_mark(), "", 0, 0, tombstone=True)
    body = tombstone(case.ref, rev=grave.rev, request="earlier")
    case.plant.stores.cold.put(case.ref, body, meta=grave, based_on=None)
    fresh(case)


def damaged(case: Case) -> None:
    """Cold, and its object is not what was written there."""
    cold(case)
    found = case.plant.stores.cold.get(case.ref)
    assert found is not None
    stored, body = found
    assert stored.meta is not None
    case.plant.stores.cold.put(case.ref, body[:-9], meta=stored.meta, based_on=stored.etag)


def with_conflict(case: Case) -> None:
    contested(case)
    case.task("flush_thread", mode="linger")
    with case.session() as session:
        say(session, 5)
    case.plant.lose_messages()


def left_open(case: Case) -> None:
    """Its session's process died; the lease has ended."""
    leased(case)
    case.about["keep"].close()
    case.plant.end_lease(case.ref)


def owed(case: Case) -> None:
    """Flushed while the catalog was away."""
    archived(case)
    case.plant.stores.owe_catalog(case.ref)


def being_erased(case: Case) -> None:
    """Marked, and the message of the erasure was lost."""
    with_conflict(case)
    with case.keep() as keep:
        keep.delete(case.ref.thread_id)
    case.plant.lose_messages()


def erased(case: Case) -> None:
    being_erased(case)
    case.plant.run("sweep", None, id="before", force=True)
    case.plant.deliver()
    key = ArchiveMeta(1, fresh_mark(), "", 1, 1)
    case.plant.stores.cold.put_aside(case.ref, b"late", meta=key)


# --- what is done ---------------------------------------------------------------------------------------------------


def flush(mode: str) -> Callable[[Case], None]:
    return lambda case: case.task("flush_thread", mode=mode)


def hydrate(case: Case) -> None:
    case.task("hydrate_thread")


def describe(case: Case) -> None:
    case.task("describe_thread", question="q")


def erase(case: Case) -> None:
    seen = now(case.plant.stores.hot.clock(case.ref))
    case.task("erase_thread", request="r1", upto=case.about.setdefault("upto", seen + 10**6))


def purge(case: Case) -> None:
    case.task("purge_conflicts")


def sweep(case: Case) -> None:
    case.plant.run("sweep", None, id="sweep", force=True)


def talk(case: Case) -> None:
    with case.session() as session:
        say(session, 10, 11)
        session.state["step"] = 2


def say_much(case: Case) -> None:
    """More than travels with a script: staged first."""
    with case.session() as session:
        say(session, *range(10, 14), text="x" * 100_000)


def look_and_leave(case: Case) -> None:
    with case.session() as session:
        assert session.count >= 0


def cut_tail(case: Case) -> None:
    with case.session() as session, suppress(MessageNotFound):
        session.truncate("m4")


def cut_base(case: Case) -> None:
    with case.session() as session, suppress(MessageNotFound):
        session.truncate("m2")


def replace(case: Case) -> None:
    with case.session() as session:
        session.replace({"role": "user", "content": "other"}, ids=["n1"])


def label(case: Case) -> None:
    with case.session() as session:
        session.label(team="blue")
        session.state["only"] = "state"


def overwrite(case: Case) -> None:
    with case.keep() as keep, keep.new(case.ref.thread_id, overwrite=True) as session:
        say(session, 20)


def fork(case: Case) -> None:
    with case.keep() as keep, suppress(ThreadExists), keep.fork(case.ref.thread_id, id=case.other.thread_id) as session:
        pass
    with case.keep() as keep, keep.open(case.other.thread_id) as session:
        say(session, 30)


def delete(case: Case) -> None:
    with case.keep() as keep, suppress(ThreadErased):
        keep.delete(case.ref.thread_id)


def checkpoint(case: Case) -> None:
    with case.session() as session:
        say(session, 40)
        session.checkpoint(wait=20)


def two_fresh(case: Case) -> None:
    """Two threads that were left by their sessions, the second one archived before."""
    fresh(case)
    with case.keep() as keep, keep.open(case.other.thread_id, create=True) as session:
        say(session, 1)
    case.plant.lose_messages()
    case.plant.run("flush_thread", case.other, id="before", mode="linger")
    with case.keep() as keep, keep.open(case.other.thread_id) as session:
        say(session, 2)
    case.plant.lose_messages()


def flush_both(case: Case) -> None:
    """In one task; their requests to S3 one after the other, so that steps keep their numbers."""
    with patch.object(bulk, "AT_ONCE", 1):
        ids = [case.ref.thread_id, case.other.thread_id]
        case.plant.run("flush_threads", None, id=f"both-{case.ref.thread_id}", thread_ids=ids)


ALL = frozenset({"redis", "s3", "sql"})
BOTH = frozenset({"redis", "broker"})
REDIS = frozenset({"redis"})

TASKS = [
    Scenario("the first flush, evicting", "task", fresh, flush("evict"), ALL, 6),
    Scenario("the first flush, lingering", "task", fresh, flush("linger"), ALL, 6),
    Scenario("a later flush, evicting", "task", continued, flush("evict"), ALL, 6),
    Scenario("a later flush, lingering", "task", continued, flush("linger"), ALL, 6),
    Scenario("a checkpoint under a session", "task", leased, flush("checkpoint"), ALL, 6),
    Scenario("a flush that compacts", "task", many_frames, flush("evict"), ALL, 6),
    Scenario("a flush of two at once", "task", two_fresh, flush_both, ALL, 6),
    Scenario("a flush over a foreign object", "task", contested, flush("evict"), ALL, 17),
    Scenario("a flush over a tombstone", "task", buried, flush("linger"), ALL, 11),
    Scenario("a flush of what is clean", "task", archived, flush("evict"), REDIS, 3),
    Scenario("a flush of nothing", "task", cold, flush("evict"), REDIS, 2),
    Scenario("a hydrate", "task", cold, hydrate, ALL, 9),
    Scenario("a hydrate of what is here", "task", continued, hydrate, REDIS, 1),
    Scenario("a hydrate of nothing", "task", nothing, hydrate, ALL, 7),
    Scenario("a hydrate of a damaged object", "task", damaged, hydrate, ALL, 5),
    Scenario("a description", "task", cold, describe, ALL, 5),
    Scenario("an erasure of a hot thread", "task", with_conflict, erase, ALL, 15),
    Scenario("an erasure of a cold thread", "task", cold, erase, ALL, 12),
    Scenario("an erasure of nothing", "task", nothing, erase, ALL, 12),
    Scenario("a purge of conflicts", "task", erased, purge, frozenset({"s3"}), 3),
    Scenario("a sweep over a thread that was left", "task", left_open, sweep, frozenset({"redis", "sql", "broker"}), 8),
    Scenario("a sweep that owes the catalog", "task", owed, sweep, ALL, 8),
    Scenario("a sweep over an erasure", "task", being_erased, sweep, frozenset({"redis", "sql", "broker"}), 8),
]
SESSIONS = [
    Scenario("a new thread", "session", nothing, talk, BOTH, 8),
    Scenario("a hot thread goes on", "session", continued, talk, BOTH, 6),
    Scenario("a cold thread goes on", "session", cold, talk, BOTH, 9),
    Scenario("a large append", "session", archived, say_much, BOTH, 6),
    Scenario("a look at a clean thread", "session", archived, look_and_leave, REDIS, 2),
    Scenario("a cut in the log", "session", continued, cut_tail, BOTH, 4),
    Scenario("a cut in the base", "session", continued, cut_base, BOTH, 5),
    Scenario("a cut of everything archived", "session", archived, cut_base, BOTH, 5),
    Scenario("a replacement", "session", continued, replace, BOTH, 5),
    Scenario("labels and state", "session", archived, label, BOTH, 4),
    Scenario("a thread begun anew", "session", archived, overwrite, BOTH, 6),
    Scenario("a fork", "session", continued, fork, BOTH, 10),
    Scenario("a deletion", "session", continued, delete, BOTH, 2),
    Scenario("a checkpoint", "session", continued, checkpoint, BOTH, 7),
]
