"""Every I/O step of a task or a session, numbered: to stop the work there, or to let other work in between.

    with tracing():
        with Work(stop_at=3, moment="after") as work:
            flush(stores, ref, "evict")      # raises ProcessDied when its third step is done and its reply is lost
        print(work.steps)

A step is what a process can die before or behind: one round trip to Redis, one HTTP request to S3, one statement or
commit in PostgreSQL, one message to the broker. What happens outside of a `Work` is not touched.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar, Token
from dataclasses import dataclass
from importlib.util import find_spec
from types import TracebackType
from typing import Any, Final, Literal, Self

from botocore.exceptions import ReadTimeoutError
from celery import Celery
from kombu.exceptions import OperationalError as KombuOperationalError
from sqlalchemy import Engine, event
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
from sqlalchemy.exc import OperationalError as SqlOperationalError

from threadkeep.errors import StoreUnavailable
from threadkeep.storage import link
from threadkeep.storage.link import AsyncLink, SyncLink
from threadkeep.storage.s3_client import LazyClient
from threadkeep.storage.s3_errors import mapped
from threadkeep.storage.s3_template import TemplateRequests

Kind = Literal["redis", "s3", "sql", "broker"]
Moment = Literal["before", "after", "refused", "unanswered"]
"""The process dies before a step is sent, or when it is done and its reply is lost; or it lives, and is told that the
step failed, which it did (`refused`) or did not (`unanswered`)."""

DEATHS: Final[tuple[Moment, ...]] = ("before", "after")
ERRORS: Final[tuple[Moment, ...]] = ("refused", "unanswered")

_PART: Final = re.compile(r":(staged|answer|erased|[a-z]+$)")
_ASIDE: Final = re.compile(r"[/=]conflicts(/|%2F)|%2Fconflicts%2F")


class ProcessDied(BaseException):
    """In place of a process's death: no `except Exception` catches it, and its work does no more I/O."""


@dataclass(frozen=True, slots=True)
class Step:
    """One step, counted from 1 within its work.

    Attributes:
        name: A script; a command, and which of a thread's or a shard's keys it is about; an S3 operation, with
            `conflicts` where it is about what lies there; the start of a statement; a task.
    """

    number: int
    kind: Kind
    name: str

    def __str__(self) -> str:
        return f"{self.number}. {self.kind} {self.name}"


class Work:
    """A piece of work whose steps are numbered, in the thread or asyncio task that enters it. A context manager.

    Args:
        stop_at: The step at which it is stopped; None to let it run.
        moment: How it is stopped there.
        idle: Called where the work waits for somebody else, and says whether somebody came; without one it dies there.

    Attributes:
        steps: What was begun so far, in order.
        stopped: Whether that step was reached.
        dead: Whether it has died. What it still tries to do, in a `finally` for instance, dies too.
    """

    def __init__(
        self, *, stop_at: int | None = None, moment: Moment = "before", idle: Callable[[], bool] | None = None
    ) -> None:
        self._stop = (stop_at, moment)
        self._idle = idle
        self._entered: list[Token[Work | None]] = []
        self.steps: list[Step] = []
        self.stopped = False
        self.dead = False

    def __enter__(self) -> Self:
        self._entered.append(_WORK.set(self))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _WORK.reset(self._entered.pop())

    def before(self, kind: Kind, name: str) -> Step:
        """A step is about to be sent."""
        if self.dead:
            raise ProcessDied
        step = Step(len(self.steps) + 1, kind, name)
        self.steps.append(step)
        self._stop_at(step, "before", "refused")
        return step

    def after(self, step: Step) -> None:
        """A step is done; its reply is here but not yet seen by the work."""
        self._stop_at(step, "after", "unanswered")

    def idle(self) -> bool:
        """The work waits for somebody else; whether somebody came."""
        if self.dead or self._idle is None:
            self.dead = True
            raise ProcessDied
        with unwatched():
            return self._idle()

    def _stop_at(self, step: Step, death: Moment, error: Moment) -> None:
        number, moment = self._stop
        if step.number != number or moment not in (death, error):
            return
        self.stopped = True
        if moment == error:
            raise _FAILURES[step.kind](f"{moment}: {step}")
        self.dead = True
        raise ProcessDied(f"{moment} {step}")


_FAILURES: Final[dict[Kind, Callable[[str], Exception]]] = {
    "redis": lambda why: StoreUnavailable("Redis", "a step", why),
    "s3": lambda why: ReadTimeoutError(endpoint_url=why),
    "sql": lambda why: SqlOperationalError(why, {}, TimeoutError(why)),
    "broker": KombuOperationalError,
}
"""What a client of each kind raises where a server is away."""

_WORK: ContextVar[Work | None] = ContextVar("threadkeep_work", default=None)


@contextmanager
def unwatched() -> Iterator[None]:
    """Steps in here belong to no work."""
    token = _WORK.set(None)
    try:
        yield
    finally:
        _WORK.reset(token)


@contextmanager
def tracing() -> Iterator[None]:
    """Number the steps of all works from here on: of every link, client, engine and app of this process."""
    with ExitStack() as undo:
        for kind in (SyncLink, AsyncLink):
            _trace_link(undo, kind)
        for listener in (link._SyncListener, link._AsyncListener):  # noqa: SLF001  # where a session waits for news
            _swap(undo, listener, "wait", _waiting(listener.wait, news=True))
        _trace_s3(undo)
        _trace_sql(undo)
        _swap(undo, Celery, "send_task", _published(Celery.send_task))
        yield


@contextmanager
def _io(kind: Kind, name: str) -> Iterator[None]:
    work = _WORK.get()
    if work is None:
        yield
        return
    step = work.before(kind, name)
    yield
    work.after(step)


def _swap(undo: ExitStack, owner: Any, name: str, other: Any) -> None:
    undo.callback(setattr, owner, name, getattr(owner, name))
    setattr(owner, name, other)


# --- Redis ----------------------------------------------------------------------------------------------------------


def _trace_link(undo: ExitStack, kind: Any) -> None:
    _swap(undo, kind, "run", _asked(kind.run, _command))
    _swap(undo, kind, "batch", _asked(kind.batch, lambda commands: f"{_command(*commands[0])} …"))
    _swap(undo, kind, "call", _asked(kind.call, lambda name, *_: str(name)))
    _swap(undo, kind, "call_many", _asked(kind.call_many, lambda name, *_: f"{name} …"))
    _swap(undo, kind, "pause", _waiting(kind.pause, news=None))


def _command(name: Any, key: Any = "", *_: Any) -> str:
    """`LRANGE log`, `RPUSH staged`, `GET erased`: the key without the thread's address and without random marks."""
    part = _PART.search(str(key))
    return f"{name} {part[1]}" if part else str(name)


def _asked(original: Any, name_of: Callable[..., str]) -> Any:
    async def ask(self: Any, *args: Any, **named: Any) -> Any:
        with _io("redis", name_of(*args)):
            return await original(self, *args, **named)

    return ask


def _waiting(original: Any, *, news: bool | None) -> Any:
    async def wait(self: Any, seconds: float) -> Any:
        work = _WORK.get()
        if work is None:
            return await original(self, seconds)
        came = work.idle()
        return news and came

    return wait


# --- S3 -------------------------------------------------------------------------------------------------------------


def _trace_s3(undo: ExitStack) -> None:
    original, seen = LazyClient.get, set()

    def get(self: LazyClient) -> Any:
        client = original(self)
        if id(client) not in seen:
            seen.add(id(client))
            client.meta.events.register_first("before-send.s3", _sending)
            client.meta.events.register_last("response-received.s3", _received)
            undo.callback(client.meta.events.unregister, "before-send.s3", _sending)
            undo.callback(client.meta.events.unregister, "response-received.s3", _received)
        return client

    _swap(undo, LazyClient, "get", get)
    _swap(undo, TemplateRequests, "send", _after_template(TemplateRequests.send))
    if find_spec("obstore") is not None:
        from threadkeep.storage.s3_obstore import ObstoreRequests  # noqa: PLC0415  an extra

        for name, operation in (("put", "PutObject"), ("head", "HeadObject"), ("get", "GetObject")):
            _swap(undo, ObstoreRequests, name, _quickly(operation, getattr(ObstoreRequests, name)))


def _quickly(operation: str, original: Any) -> Any:
    """A request of obstore, its repeats included. One that gets no answer fails, however often it was tried."""

    def request(self: Any, key: str, *args: Any, **named: Any) -> Any:
        work = _WORK.get()
        if work is None:
            return original(self, key, *args, **named)
        with mapped(operation, key):
            step = work.before("s3", operation + (" conflicts" if _ASIDE.search(f"/{key}") else ""))
            try:
                return original(self, key, *args, **named)
            finally:
                work.after(step)

    return request


def _after_template(original: Any) -> Any:
    def send(self: Any, operation: str, key: str, *args: Any) -> Any:
        return _quickly(operation, lambda self, key: original(self, operation, key, *args))(self, key)

    return send


def _sending(event_name: str, request: Any, **_: Any) -> None:
    work = _WORK.get()
    if work is not None:
        aside = " conflicts" if _ASIDE.search(request.url) else ""
        work.before("s3", event_name.rpartition(".")[2] + aside)


def _received(**_: Any) -> None:
    work = _WORK.get()
    if work is not None:
        work.after(work.steps[-1])


# --- PostgreSQL -----------------------------------------------------------------------------------------------------


def _trace_sql(undo: ExitStack) -> None:
    for name, hook in (("before_cursor_execute", _executing), ("after_cursor_execute", _executed)):
        event.listen(Engine, name, hook)
        undo.callback(event.remove, Engine, name, hook)
    _swap(undo, PGDialect_psycopg, "do_commit", _committed(PGDialect_psycopg.do_commit))


def _executing(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
    work = _WORK.get()
    if work is not None:
        work.before("sql", " ".join(statement.split()[:3]))


def _executed(*_: Any) -> None:
    work = _WORK.get()
    if work is not None:
        work.after(work.steps[-1])


def _committed(original: Any) -> Any:
    def commit(self: Any, connection: Any) -> None:
        with _io("sql", "COMMIT"):
            original(self, connection)

    return commit


# --- the broker -----------------------------------------------------------------------------------------------------


def _published(original: Any) -> Any:
    def send(self: Any, name: str, *args: Any, **named: Any) -> Any:
        with _io("broker", name):
            return original(self, name, *args, **named)

    return send
