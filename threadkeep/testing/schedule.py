"""Every order in which the steps of several actors can come, one after the other, on the real code.

    class Race:                                       # a `Stage`
        def start(self): ...; return [Actor("flush", lambda: flush(stores, ref, "evict")), Actor("sweep", swept)]
        def stepped(self, actor, step): ...           # look at the stores, and raise if a promise is broken
        def ended(self, outcomes): ...

    with tracing():
        print(explore(Race(), footprint))             # or explore_switching(Race(), 3)

Each actor runs in a thread of its own, inside a `Work` that begins a step only when it is that actor's turn, so exactly
one runs at a time. An order that breaks a promise is printed as a list, which `replay` runs again.

`explore` is stateless model checking: it runs orders from the start, depth first, and of all orders that differ only in
steps that have nothing to do with each other it completes one. Which others are worth a run is told by the races of
those that were run. The algorithm is Source-DPOR with sleep sets, of Abdulla, Aronsson, Jonsson and Sagonas: "Optimal
dynamic partial order reduction", POPL 2014, https://doi.org/10.1145/2535838.2535845.
"""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, Protocol

from threadkeep.errors import ThreadkeepError
from threadkeep.testing.faults import Kind, ProcessDied, Step, Work, unwatched

PATIENCE: Final = 120.0
"""Seconds that one step may take before it counts as hung."""
MOST_STEPS: Final = 2000
"""Steps of one run before it counts as endless."""

Waiting = Mapping[int, Step]
"""The actors that have not ended, by number, and what each does next."""
Choose = Callable[[Waiting], int | None]


@dataclass(frozen=True, slots=True)
class Actor:
    """Somebody who does something.

    Attributes:
        act: What it does. A `ThreadkeepError` is an outcome like another; any other exception is a failure.
        idle: Called where it waits for somebody else, and says whether somebody came; what is done there are further
            steps of this actor.
    """

    name: str
    act: Callable[[], Any]
    idle: Callable[[], bool] | None = None


class Stage(Protocol):
    """What the actors act on. Nobody acts while one of its methods runs, and what these do are no steps."""

    def start(self) -> Sequence[Actor]:
        """Put everything in place, always the same, and say who acts."""
        ...

    def stepped(self, actor: int, step: Step) -> None:
        """A step, or a whole transaction, is done; its actor has not seen the reply. Raises if something is wrong."""
        ...

    def ended(self, outcomes: Sequence[Any]) -> None:
        """All have ended, with these results or errors. Raises if something is wrong."""
        ...


@dataclass(frozen=True, slots=True)
class Footprint:
    """What a step reads and writes, by any names: two steps commute unless one writes what the other touches."""

    reads: frozenset[str] = frozenset()
    writes: frozenset[str] = frozenset()

    def meets(self, other: "Footprint") -> bool:
        """Whether the order of the two matters."""
        return bool(self.writes & (other.reads | other.writes) or other.writes & self.reads)


@dataclass(frozen=True, slots=True)
class Run:
    """One order of steps, as it was run. `complete` unless it was given up as one more of a kind."""

    schedule: list[int]
    steps: list[Step]
    complete: bool


@dataclass(slots=True)
class Explored:
    """How much was looked at; runs that were given up on the way, as equal to others, are `pruned`.

    Attributes:
        whole: Whether that was all there is to be looked at.
    """

    schedules: int = 0
    pruned: int = 0
    steps: int = 0
    whole: bool = True

    def count(self, run: Run) -> None:
        self.schedules += run.complete
        self.pruned += not run.complete
        self.steps += len(run.steps)

    def __add__(self, other: "Explored") -> "Explored":
        counts = self.schedules + other.schedules, self.pruned + other.pruned, self.steps + other.steps
        return Explored(*counts, whole=self.whole and other.whole)


class ScheduleFailed(AssertionError):
    """Something went wrong under one order of steps; `schedule` is what `replay` takes."""

    def __init__(self, names: Sequence[str], schedule: Sequence[int], steps: Sequence[Step], reason: str) -> None:
        self.schedule = list(schedule)
        lines = [f"  {names[actor]}: {step.kind} {step.name}" for actor, step in zip(schedule, steps, strict=True)]
        shown = "\n".join(lines)
        super().__init__(f"{reason}\nactors {list(names)}, after these steps:\n{shown}\nschedule = {self.schedule}")


def replay(stage: Stage, schedule: Sequence[int]) -> Run:
    """Run one order again; when it is through, the actors that have not ended go on one after the other."""
    rest = iter(schedule)
    return play(stage, lambda waiting: next(rest, min(waiting)))


def explore(stage: Stage, footprint: Callable[[Step], Footprint], most: int | None = None) -> Explored:
    """Run one order of each kind: every outcome that any order can have is seen, unless there are more than `most`."""
    explored, path = Explored(), list[_Choice]()
    while True:
        if explored.schedules == most:
            explored.whole = False
            return explored
        begun = max(0, len(path) - 1)
        run = play(stage, _Reduced(path, footprint))
        explored.count(run)
        _plan(path, begun)
        if not _next_in(path):
            return explored


def explore_switching(stage: Stage, most: int) -> Explored:
    """Run every order in which the turn passes from one actor to another at most so often."""
    explored, path = Explored(), list[list[int]]()
    while True:
        explored.count(play(stage, _Switching(path, most)))
        while path and len(path[-1]) == 1:
            path.pop()
        if not path:
            return explored
        del path[-1][0]


# --- one run --------------------------------------------------------------------------------------------------------


def play(stage: Stage, choose: Choose) -> Run:
    """Run one order as it is chosen, step by step; where None is, those who have not ended die where they are."""
    cast = [_Running(actor, partial(stage.stepped, number)) for number, actor in enumerate(stage.start())]
    schedule, steps, complete = list[int](), list[Step](), True
    try:
        for running in cast:
            running.go_on()
        while waiting := {number: running.step for number, running in enumerate(cast) if running.step is not None}:
            chosen = choose(waiting)
            if chosen is None:
                complete = False
                break
            schedule.append(chosen)
            steps.append(waiting[chosen])
            assert len(steps) < MOST_STEPS, "this finds no end"
            cast[chosen].go_on()
        if complete:
            stage.ended([running.outcome for running in cast])
    except Exception as error:
        names = [running.actor.name for running in cast]
        raise ScheduleFailed(names, schedule, steps, f"{type(error).__name__}: {error}") from error
    finally:
        for running in cast:
            running.stop()
    return Run(schedule, steps, complete)


class _Running:
    """An actor in its thread.

    Attributes:
        step: What it is about to do; None once it has ended.
        outcome: What it returned, or the documented error that it ended with.
    """

    def __init__(self, actor: Actor, stepped: Callable[[Step], None]) -> None:
        self.actor = actor
        self.step: Step | None = None
        self.outcome: Any = None
        self._error: BaseException | None = None
        self._turn, self._stands = threading.Semaphore(0), threading.Semaphore(0)
        self._stepped = stepped
        self._work = _Gated(self._reach, self._done, actor.idle)
        self._thread = threading.Thread(target=self._act, name=actor.name, daemon=True)

    def go_on(self) -> None:
        """Let it do its step, and whatever follows until the next one."""
        self.step = None
        if self._thread.ident is None:
            self._thread.start()
        else:
            self._turn.release()
        assert self._stands.acquire(timeout=PATIENCE), f"{self.actor.name} hangs"
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        """It dies where it is; nothing that it tries after that gets through."""
        self._work.dead = True
        self._turn.release()
        if self._thread.ident is not None:
            self._thread.join(PATIENCE)

    def _act(self) -> None:
        try:
            with self._work:
                self.outcome = self.actor.act()
        except ThreadkeepError as error:
            self.outcome = error
        except ProcessDied:
            pass
        except BaseException as error:  # noqa: BLE001  # raised again where the run is
            self._error = self._error or error
        finally:
            self._stands.release()

    def _reach(self, step: Step) -> None:
        self.step = step
        self._stands.release()
        self._turn.acquire()

    def _done(self, step: Step) -> None:
        """Whatever is wrong ends the actor here, before any of its own code could take the error for a store's."""
        try:
            with unwatched():
                self._stepped(step)
        except Exception as error:
            self._error, self._work.dead = error, True
            raise ProcessDied from error


class _Gated(Work):
    """A work that asks before each step. The statements of one transaction are one step, since they hold locks."""

    def __init__(
        self, reach: Callable[[Step], None], done: Callable[[Step], None], idle: Callable[[], bool] | None
    ) -> None:
        super().__init__(idle=idle)
        self._reach, self._done = reach, done
        self._in_transaction = False

    def before(self, kind: Kind, name: str) -> Step:
        if self.dead:
            raise ProcessDied
        if kind != "sql" or not self._in_transaction:
            self._reach(Step(len(self.steps) + 1, kind, name))
        self._in_transaction = kind == "sql" and name != "COMMIT"
        return super().before(kind, name)

    def after(self, step: Step) -> None:
        if not self._in_transaction:
            self._done(step)

    def idle(self) -> bool:
        return super().idle() if self.dead or self._idle is None else self._idle()


# --- which orders are run -------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Choice:
    """One state on the path: who could go on with what, who did, and who is still to be tried.

    Attributes:
        asleep: Actors whose next step would lead to nothing that was not seen before.
    """

    footprints: dict[int, Footprint]
    asleep: set[int]
    taken: int
    todo: set[int] = field(default_factory=set)


class _Reduced:
    """Follows a path, and goes on from its end with whoever is awake."""

    def __init__(self, path: list[_Choice], footprint: Callable[[Step], Footprint]) -> None:
        self._path, self._footprint, self._at = path, footprint, 0

    def __call__(self, waiting: Waiting) -> int | None:
        footprints = {actor: self._footprint(step) for actor, step in waiting.items()}
        if self._at == len(self._path):
            asleep = self._still_asleep()
            awake = [actor for actor in footprints if actor not in asleep]
            if not awake:
                return None
            taken = min(awake, key=lambda actor: (actor != self._last(), actor))
            self._path.append(_Choice(footprints, asleep, taken, {taken}))
        choice = self._path[self._at]
        assert choice.footprints == footprints, "the same order led somewhere else: a stage must start all runs alike"
        self._at += 1
        return choice.taken

    def _last(self) -> int | None:
        return self._path[-1].taken if self._path else None

    def _still_asleep(self) -> set[int]:
        if not self._path:
            return set()
        before = self._path[-1]
        done = before.footprints[before.taken]
        return {actor for actor in before.asleep if not before.footprints[actor].meets(done)}


def _plan(path: list[_Choice], begun: int) -> None:
    """For each race in which a step from `begun` on comes second, have a run that lets it come first."""
    earlier = _happens_before(path)
    for second in range(begun, len(path)):
        for first in range(second):
            if _race(path, earlier, first, second):
                others = [at for at in range(first + 1, second) if not earlier[at] >> first & 1] + [second]
                starters = _starters(path, earlier, others)
                if not starters & path[first].todo:
                    path[first].todo.add(min(starters))


def _happens_before(path: list[_Choice]) -> list[int]:
    """For each step the set of those that must come before it, as bits."""
    earlier: list[int] = []
    for at, choice in enumerate(path):
        bits = 0
        for before in range(at - 1, -1, -1):
            if not bits >> before & 1 and _ordered(path[before], choice):
                bits |= 1 << before | earlier[before]
        earlier.append(bits)
    return earlier


def _ordered(first: _Choice, second: _Choice) -> bool:
    return first.taken == second.taken or first.footprints[first.taken].meets(second.footprints[second.taken])


def _race(path: list[_Choice], earlier: list[int], first: int, second: int) -> bool:
    """Whether the two are ordered by nothing but themselves."""
    if path[first].taken == path[second].taken or not earlier[second] >> first & 1:
        return False
    return not any(earlier[second] >> between & 1 and earlier[between] >> first & 1 for between in range(first, second))


def _starters(path: list[_Choice], earlier: list[int], steps: list[int]) -> set[int]:
    """The actors that can begin, where these steps are to be done."""
    among = sum(1 << at for at in steps)
    seen, starters = set[int](), set[int]()
    for at in steps:
        actor = path[at].taken
        if actor not in seen and not earlier[at] & among:
            starters.add(actor)
        seen.add(actor)
    return starters


def _next_in(path: list[_Choice]) -> bool:
    """Go back to the last state at which somebody else is still to be tried; False if there is none."""
    while path:
        choice = path[-1]
        choice.asleep.add(choice.taken)
        if left := choice.todo - choice.asleep:
            choice.taken = min(left)
            return True
        path.pop()
    return False


class _Switching:
    """Follows a path of choices, the first of each list being taken, and goes on from its end."""

    def __init__(self, path: list[list[int]], most: int) -> None:
        self._path, self._left, self._at = path, most, 0
        self._last: int | None = None

    def __call__(self, waiting: Waiting) -> int:
        if self._at == len(self._path):
            self._path.append(list(self._options(waiting)))
        chosen = self._path[self._at][0]
        if self._last not in (None, chosen):
            self._left -= 1
        self._at, self._last = self._at + 1, chosen
        return chosen

    def _options(self, waiting: Waiting) -> Iterator[int]:
        """Whoever has the turn goes on; it passes only if enough passes are left for all to end."""
        going_on = self._last is not None and self._last in waiting
        yield from sorted(waiting, key=lambda actor: actor != self._last)[: 1 if going_on else None]
        if going_on and self._left >= len(waiting):
            yield from (actor for actor in waiting if actor != self._last)
