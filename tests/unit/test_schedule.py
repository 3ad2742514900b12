"""The explorer itself, on actors made by hand: it runs one order of each kind, and finds what only some orders show."""

import random
from itertools import combinations, pairwise
from math import comb, factorial

import pytest

from threadkeep.errors import ThreadNotFound
from threadkeep.testing import faults
from threadkeep.testing.schedule import Actor, Footprint, ScheduleFailed, explore, explore_switching, replay


def touch(name):
    """A step: `r x` reads x, `w x` writes it."""
    with faults._io("redis", name):
        pass


def footprint(step):
    how, _, what = step.name.partition(" ")
    return Footprint(writes=frozenset({what})) if how == "w" else Footprint(reads=frozenset({what}))


class Programs:
    """Actors that each do a list of steps; remembers in which orders they came."""

    def __init__(self, *programs):
        self.programs = programs
        self.orders = []

    def start(self):
        self.orders.append([])
        return [
            Actor(str(number), lambda program=program: [touch(name) for name in program])
            for number, program in enumerate(self.programs)
        ]

    def stepped(self, actor, step):
        self.orders[-1].append((actor, step.number, step.name))

    def ended(self, outcomes):
        pass


def meet(one, other):
    return one[0] == other[0] or (one[2].split()[1] == other[2].split()[1] and "w" in (one[2][0], other[2][0]))


def kind_of(order):
    """What orders of one kind have in common: which of two steps that have to do with each other came first."""
    return frozenset((one[:2], other[:2]) for one, other in combinations(order, 2) if meet(one, other))


def kinds_of(programs):
    """All kinds of orders there are, by trying every order."""
    found = set()

    def go(done, left):
        if not any(left):
            found.add(kind_of(done))
        for actor, steps in enumerate(left):
            if steps:
                rest = [*left[:actor], steps[1:], *left[actor + 1 :]]
                go([*done, (actor, len(programs[actor]) - len(steps) + 1, steps[0])], rest)

    go([], list(programs))
    return found


@pytest.mark.parametrize(
    ("programs", "kinds"),
    [
        ((["w x"] * 3, ["w x"] * 2), comb(5, 2)),
        ((["w x"], ["w x"], ["w x"], ["w x"]), factorial(4)),
        ((["w x"] * 5, ["w y"] * 5), 1),
        ((["r x"] * 4, ["r x"] * 4, ["r x"] * 4), 1),
        ((["w a", "w a", "w x"], ["w b", "w x", "w b"]), 2),
        ((["w x"], ["r x"], ["r x"], ["r x"]), 2**3),
    ],
)
def test_as_many_orders_are_run_as_there_are_kinds(programs, kinds):
    stage = Programs(*programs)
    explored = explore(stage, footprint)
    assert explored.schedules == kinds == len(kinds_of(programs))


def test_every_kind_of_order_is_run_once_whatever_the_programs():
    rng = random.Random(20)
    pruned = total = 0
    for _ in range(120):
        programs = [
            [f"{rng.choice('rrw')} {rng.choice('xyz')}" for _ in range(rng.randint(1, 3))]
            for _ in range(rng.randint(2, 3))
        ]
        stage, every = Programs(*programs), kinds_of(programs)
        explored = explore(stage, footprint)
        whole = [order for order in stage.orders if len(order) == sum(map(len, programs))]
        assert {kind_of(order) for order in whole} == every, programs
        assert explored.schedules == len(every), programs
        pruned, total = pruned + explored.pruned, total + explored.schedules
    assert pruned < total


def test_actors_that_have_nothing_to_do_with_each_other_are_run_once_and_nothing_is_given_up():
    explored = explore(Programs(["w a"] * 20, ["w b"] * 20, ["w c"] * 20), footprint)
    assert (explored.schedules, explored.pruned, explored.steps) == (1, 0, 60)


@pytest.mark.parametrize(("most", "run", "whole"), [(1, 1, False), (5, 5, False), (6, 6, True), (7, 6, True)])
def test_orders_can_be_cut_short_and_this_is_told(most, run, whole):
    explored = explore(Programs(["w a"] * 2, ["w a"] * 2), footprint, most)
    assert (explored.schedules, explored.whole) == (run, whole)
    assert (explored + explored).whole == whole


@pytest.mark.parametrize(("steps", "most", "orders"), [(4, 2, 6), (4, 3, 6 + 3 * 6 * 3), (1, 3, 6)])
def test_a_bound_on_switches_counts_every_order_within_it(steps, most, orders):
    """Three actors one after the other, or one of them in two parts, with another or two between them."""
    stage = Programs(*[["w x"] * steps] * 3)
    assert explore_switching(stage, most).schedules == orders
    assert len({tuple(order) for order in stage.orders}) == orders
    for order in stage.orders:
        assert sum(one[0] != other[0] for one, other in pairwise(order)) <= most


class Counter:
    """Two actors that read a number and write one more: the classic lost update."""

    def start(self):
        self.number = 0
        return [Actor("one", self.add), Actor("other", self.add)]

    def add(self):
        touch("r x")
        seen = self.number
        touch("w x")
        self.number = seen + 1
        touch("r x")

    def stepped(self, actor, step):
        pass

    def ended(self, outcomes):
        assert self.number == 2, "an update is lost"


@pytest.mark.parametrize(
    "exploring", [lambda stage: explore(stage, footprint), lambda stage: explore_switching(stage, 2)]
)
def test_a_lost_update_is_found_and_can_be_replayed(exploring):
    with pytest.raises(ScheduleFailed, match="an update is lost") as failed:
        exploring(Counter())
    assert "one: redis r x" in str(failed.value)
    assert f"schedule = {failed.value.schedule}" in str(failed.value)
    with pytest.raises(ScheduleFailed, match="an update is lost"):
        replay(Counter(), failed.value.schedule)
    assert replay(Counter(), [0, 0, 0, 1, 1, 1]).complete


class Troubled(Counter):
    def __init__(self, error):
        self.error = error

    def add(self):
        touch("w x")
        self.number += 1
        raise self.error

    def ended(self, outcomes):
        assert outcomes == [self.error, self.error]


def test_an_error_that_is_documented_is_an_outcome_and_any_other_a_failure():
    assert explore(Troubled(ThreadNotFound("t")), footprint).schedules == 2
    with pytest.raises(ScheduleFailed, match="KeyError"):
        explore(Troubled(KeyError("x")), footprint)


def test_what_is_done_while_waiting_are_steps_of_whoever_waits():
    class Waiting(Programs):
        def start(self):
            self.orders.append([])
            return [
                Actor("waits", lambda: faults._WORK.get().idle(), idle=lambda: touch("w x") is None),
                Actor("other", lambda: touch("w x")),
            ]

    stage = Waiting()
    assert explore(stage, footprint).schedules == 2
    assert sorted(order[0][0] for order in stage.orders) == [0, 1]
