"""What happens to one thread, one thing after the other: each undisturbed, or stopped anywhere and in any way."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import chain
from typing import Any

from tests.crash.actors import END_LEASE, EVICT_ONE, EXPIRE, PARTS, asks, opened, says
from tests.crash.plant import Plant, Taken
from tests.crash.sight import Content, Hot, check_keys, pairs
from tests.crash.world import Life, Me, Start, World
from threadkeep import Session
from threadkeep.errors import (
    ArchiveCorrupt,
    HotTierLost,
    HydrateFailed,
    HydrateTimeout,
    MessageConflict,
    MessageNotFound,
    StoreRefused,
    StoreUnavailable,
    ThreadkeepError,
)
from threadkeep.model import fresh_mark
from threadkeep.storage.hot_keys import graves_key
from threadkeep.testing.faults import Kind, Moment, ProcessDied, Step, Work, unwatched
from threadkeep.testing.schedule import Actor, Waiting, play

Fault = tuple[tuple[Kind, int], Moment]
"""The step at which something is stopped, as which of its kind, and how."""

NEVER = (ArchiveCorrupt, HotTierLost, HydrateFailed, HydrateTimeout, MessageConflict)
"""What nobody may be told here: nothing is damaged, and Redis loses nothing."""
DISTURBED = (*NEVER, StoreRefused, StoreUnavailable)
"""What nobody may be told in addition whom nothing has disturbed."""

TASKS = {
    **{mode: ("flush_thread", {"mode": mode}) for mode in ("checkpoint", "linger", "evict")},
    "hydrate": ("hydrate_thread", {}),
    "describe": ("describe_thread", {"question": "q"}),
    "sweep": ("sweep", {"force": True}),
}

APP = (
    *("append", "append again", "truncate", "replace", "save state", "overwrite", "delete"),
    *("look and leave", "read", "fork"),
)
"""What a process of an app does, which opens the thread for this one thing, or has it open."""
INSIDE = ("append", "append again", "truncate", "replace", "save state")
"""What of this is done by whoever has the thread open, if somebody has."""
WORKER = ("next", "again", *TASKS)
"""What a worker does: the next message, one that died or was worked off once more, a task that anybody may queue."""

STALE_MARKER = "if redis.call('HGET', KEYS[1], 'flush_at') then redis.call('HSET', KEYS[1], 'flush_at', 1) end"
NOBODY_WAITS = "if redis.call('HGET', KEYS[1], 'keep_until') then redis.call('HSET', KEYS[1], 'keep_until', 1) end"


class Walk(World):
    """A thread and all that acts on it, from a world on, for one walk after the other.

    Attributes:
        walks: How many were begun; and what was done on all of them.
    """

    def __init__(self, plant: Plant) -> None:
        super().__init__(plant)
        self.walks = self.operations = self.steps = self.stops = self.meetings = 0
        self._number = 0
        self._open: Session | None = None
        self._unsure: str | None = None
        self._died: list[Taken] = []
        self._done: list[Taken] = []
        self._erasers: dict[str, Me] = {}
        self._buried = 0
        self._meeting: Sequence[tuple[Me, Callable[[], Any]]] = ()

    def begin_at(self, start: Start) -> None:
        self._stored, self._asides = self.sight.stored(self.ref), self.sight.asides(self.ref)
        self._leave_off()
        self.put_in_place(start)
        self.life, self._marked, self._leased, self._erased = start.life, False, False, []
        self._number, self._unsure, self._buried = 0, None, 0
        self._died, self._done, self._erasers = [], [], {}
        self.walks += 1

    @property
    def is_open(self) -> bool:
        """Whether a process of an app has the thread open."""
        return self._open is not None

    # --- one thing after the other ----------------------------------------------------------------------------------

    def act(self, name: str, fault: Fault | None, *, lease_ends: bool) -> None:
        """An app or a worker does one thing; if nobody has the thread open, leases of the dead may have ended."""
        self._end_lease(lease_ends)
        if name in APP:
            self._do(*self._one(name), fault)
        elif taken := self._message(name):
            self._work(taken, fault)

    def opens(self, fault: Fault | None, *, lease_ends: bool) -> None:
        """A process of an app opens the thread and keeps it open."""
        self._end_lease(lease_ends)
        me = self._me("session")

        def opens() -> None:
            self._open = opened(me)

        self._do(me, opens, fault)

    def leaves(self, fault: Fault | None) -> None:
        assert self._open is not None
        session, self._open = self._open, None
        self._do(self._me("session"), session.close, fault)

    def time(self, what: str) -> None:
        now: dict[str, Callable[[], Any]] = {
            "the broker forgets": self._forget_messages,
            "the ticket expires": lambda: self.sight.redis.unlink(self.names.ticket),
            "graves are due": self._graves_due,
            "markers go stale": lambda: self._ask(STALE_MARKER),
            "nobody waits": lambda: self._ask(NOBODY_WAITS),
            "the lease ends": lambda: self._ask(END_LEASE),
            "the copy expires": lambda: self._ask(EXPIRE),
            "a part is evicted": lambda: self._ask(EVICT_ONE),
        }
        now[what]()
        self._leased = self.sight.hot(self.ref).leased

    def meet(
        self, names: Sequence[str], turns: tuple[int, Sequence[int]], lives: Sequence[int | None], *, lease_ends: bool
    ) -> None:
        """Two come at once; one begins, and they take turns of so many steps; each dies behind so many, if at all."""
        self._end_lease(lease_ends)
        messages = [self._message(name) if name in WORKER else None for name in names]
        self._meeting = [
            (self._worker_of(taken), lambda taken=taken: self.plant.work_on(taken))
            if taken
            else self._one(name, inside=number == 0)
            for number, (name, taken) in enumerate(zip(names, messages, strict=True))
            if taken or name in APP
        ]
        self._cast = [me for me, _ in self._meeting]
        run = play(self, _Turns(turns, lives))
        self.meetings, self.steps = self.meetings + 1, self.steps + len(run.steps)
        self.stops += not run.complete
        if not run.complete:
            self._leave_off()
        (self._done if run.complete else self._died).extend(taken for taken in messages if taken)

    def _do(self, me: Me, what: Callable[[], Any], fault: Fault | None) -> bool:
        """Whether it came to its end, good or bad, without being stopped."""
        me.disturbed, self._cast = fault is not None, [me]
        work = _Watched(lambda step: self.stepped(0, step), fault, idle=self._helped)
        error: ThreadkeepError | None = None
        with work, suppress(ProcessDied):
            try:
                what()
            except ThreadkeepError as told:
                error = told
        if work.wrong is not None:
            raise work.wrong
        if work.dead and me.inside:
            self._leave_off()
        self.operations, self.steps = self.operations + 1, self.steps + len(work.steps)
        self.stops += work.stopped
        assert not isinstance(error, NEVER if work.stopped else DISTURBED), f"told of {type(error).__name__}: {error}"
        return not work.stopped

    def _work(self, taken: Taken, fault: Fault | None) -> None:
        ended = self._do(self._worker_of(taken), lambda: self.plant.work_on(taken), fault)
        (self._done if ended else self._died).append(taken)

    def _helped(self) -> bool:
        """Whoever waits for the thread is brought it by a worker whom nothing disturbs."""
        with _Watched(lambda step: self.stepped(0, step)) as work:
            self._help()
        if work.wrong is not None:
            raise work.wrong
        return True

    # --- who does what ----------------------------------------------------------------------------------------------

    def _me(self, name: str) -> Me:
        self._number += 1
        return Me(self, f"{name} {self._number}")

    def _one(self, name: str, *, inside: bool = True) -> tuple[Me, Callable[[], Any]]:
        """What an app does, `inside` the session that is open if there is one."""
        me = self._me(name)
        own = {
            "append": self._append,
            "append again": self._append_again,
            "truncate": self._truncate,
            "replace": self._replace,
            "save state": self._save_state,
            "overwrite": self._overwrite,
            "delete": self._delete,
        }
        me.inside = inside and self.is_open and name in INSIDE
        what = own[name] if name in own else PARTS[name].act
        return me, lambda: what(me)

    @contextmanager
    def _session(self, me: Me) -> Iterator[Session]:
        if me.inside and self._open is not None:
            yield self._open
        else:
            with opened(me) as session:
                yield session

    def _delete(self, me: Me) -> None:
        me.erasing = True
        self.plant.keep.delete(self.ref.thread_id)

    def _append(self, me: Me) -> None:
        self._unsure = me.name
        with self._session(me) as session:
            self._says(session, me, me.name)
            self._unsure = None

    def _append_again(self, me: Me) -> None:
        """Says again what it does not know to have been heard; nobody will hear it twice."""
        text = self._unsure or me.name
        with self._session(me) as session:
            self._says(session, me, text)

    def _says(self, session: Session, me: Me, text: str) -> None:
        if text in (self.life.content.messages or ()):
            session.append({"role": "user", "content": text}, ids=[text])
        else:
            says(session, me, text)

    def _truncate(self, me: Me) -> None:
        """Cuts in the middle, in the tail or in the base."""
        messages = self.life.content.messages or ()
        cut = messages[len(messages) // 2] if messages else "none"
        with self._session(me) as session, suppress(MessageNotFound), me.doing(lambda was: was.up_to(cut)):
            session.truncate(cut)

    def _replace(self, me: Me) -> None:
        with self._session(me) as session, me.doing(lambda was: was.saying(me.name)):
            session.replace({"role": "user", "content": me.name}, ids=[me.name])

    def _save_state(self, me: Me) -> None:
        if not me.inside or self._open is None:
            PARTS["save state"].act(me)
            return
        state = {**dict(self.life.content.state), "by": me.name}
        try:
            with me.doing(lambda was: was.with_state(pairs(state))):
                self._open.state = state
                self._open.checkpoint()
        except ThreadkeepError:
            self._open.state = dict(self.life.content.state)  # or it would be saved with the next thing
            raise

    def _overwrite(self, me: Me) -> None:
        """Told from what was there before by its state, even if both are empty."""
        new = Content((), pairs({"by": me.name}))
        with me.doing(lambda was: Life(new, was.number + 1)):
            session = self.plant.keep.new(self.ref.thread_id, overwrite=True, state={"by": me.name})
        with session:
            says(session, me, me.name)

    def _message(self, name: str) -> Taken | None:
        if name == "next":
            return self.plant.take()
        if name == "again":
            return self._died.pop() if self._died else self._done[-1] if self._done else None
        task, named = TASKS[name]
        return Taken(f"{task}-{fresh_mark()}", task, None if task == "sweep" else self.ref, dict(named))

    def _worker_of(self, taken: Taken) -> Me:
        """A worker; who erases does it for whoever asked for it."""
        return self._erasers.get(taken.named.get("request", ""), self._me("worker"))

    def _leave_off(self) -> None:
        """The process that has the thread open is not there any more; its lease is."""
        if self._open is not None:
            self._open._heartbeat.remove(self._open._writer)
            self._open = None

    # --- a stage for two --------------------------------------------------------------------------------------------

    def start(self) -> list[Actor]:
        return [Actor(me.name, what, idle=self._help) for me, what in self._meeting]

    def ended(self, outcomes: Sequence[Any]) -> None:
        for told in outcomes:
            assert not isinstance(told, NEVER), f"told of {type(told).__name__}: {told}"

    # --- what must be true ------------------------------------------------------------------------------------------

    def check(self) -> None:
        """What must be true whenever nobody acts."""
        self._look_at_object()
        hot = self.sight.hot(self.ref)
        self._cast = []
        self._follow(Me(self, "nobody"), hot)
        check_keys(hot, self._stored)
        if not (hot.listed or hot.erasing or self.sight.redis.zscore(f"{self.names.shard}owed", self.ref.member)):
            self._check_catalog()

    def end(self) -> None:
        """The broker delivers again what died, time passes, sweeps come: then all must be right."""
        self._leave_off()
        for taken in [*self._died]:
            self._work(taken, None)
        self.check()
        self.settle()

    def _follow_mark(self, me: Me, hot: Hot) -> None:
        super()._follow_mark(me, hot)
        if hot.erasing:
            request, rev = self.sight.redis.hmget(f"{self.names.own}erasing", "request", "rev")
            self._erasers.setdefault(request.decode(), me)
            self._buried = max(self._buried, int(rev))

    def _pass_time(self) -> None:
        super()._pass_time()
        self._ask(STALE_MARKER)
        self._graves_due()

    def _check_erased(self) -> None:
        late = [found for found in self.sight.cold.conflicts(self.ref) if found.meta and found.meta.rev <= self._buried]
        assert not late, "something of an erased thread lies under conflicts/"

    # --- time -------------------------------------------------------------------------------------------------------

    def _forget_messages(self) -> None:
        self.plant.lose_messages()
        self._died = []

    def _graves_due(self) -> None:
        key = graves_key(self.sight.prefix, self.ref.shard)
        for grave in self.sight.redis.zrange(key, 0, -1):
            self.sight.redis.zadd(key, {grave: 1})

    def _end_lease(self, whether: bool) -> None:
        if whether and not self.is_open:
            self._ask(END_LEASE)
            self._leased = False

    def _ask(self, script: str) -> None:
        asks(script)(Me(self, "time"))


class _Watched(Work):
    """A piece of work that is looked at behind each of its steps.

    Attributes:
        wrong: What was found wrong; it ended the work, before any of its own code could take it for a store's error.
    """

    def __init__(
        self, look: Callable[[Step], None], fault: Fault | None = None, *, idle: Callable[[], bool] | None = None
    ) -> None:
        super().__init__(idle=idle)
        self._look, self._fault = look, fault
        self.wrong: Exception | None = None

    def before(self, kind: Kind, name: str) -> Step:
        if self._fault is not None:
            place, moment = self._fault
            nth = 1 + sum(step.kind == kind for step in self.steps)
            self._stop = (len(self.steps) + 1 if place == (kind, nth) else None, moment)
        return super().before(kind, name)

    def after(self, step: Step) -> None:
        try:
            with unwatched():
                self._look(step)
        except Exception as error:
            self.wrong, self.dead = error, True
            raise ProcessDied from error
        super().after(step)


class _Turns:
    """Gives each of two a number of steps in turn, then goes on with whoever is left; whose life is over has none."""

    def __init__(self, turns: tuple[int, Sequence[int]], lives: Sequence[int | None]) -> None:
        first, lengths = turns
        self._turns = chain.from_iterable([(first + at) % 2] * length for at, length in enumerate(lengths))
        self._lives = dict(enumerate(lives))

    def __call__(self, waiting: Waiting) -> int | None:
        alive = [actor for actor in waiting if self._lives[actor] != 0]
        if not alive:
            return None
        wanted = next(self._turns, None)
        chosen = wanted if wanted in alive else min(alive)
        left = self._lives[chosen]
        self._lives[chosen] = None if left is None else left - 1
        return chosen
