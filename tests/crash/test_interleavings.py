"""Every order of the steps of two operations on one thread, and of three with few switches, on the real stores."""

import os
import secrets
import time
from itertools import combinations, combinations_with_replacement

import pytest

from tests.conftest import settings_for
from tests.crash.actors import CORE, PARTS, worlds
from tests.crash.plant import Plant
from tests.crash.world import World, touched
from threadkeep.storage import hot_flow
from threadkeep.testing.faults import tracing
from threadkeep.testing.schedule import explore, explore_switching, replay

PROVE = bool(os.environ.get("PROVE"))
SCHEDULE = os.environ.get("SCHEDULE")
"""A list of actors' numbers, as a failure prints it: `SCHEDULE="[0, 1, 1]" pytest -k "dirty and append-evict"`."""

pytestmark = pytest.mark.timeout(7200)

MOST = 300
"""A pair that has more orders is run in so many of them, and in all those with at most two switches."""
SHORT = {
    "dirty": [
        *(("append", other) for other in ("append", "truncate", "linger", "evict", "hydrate")),
        ("evict", "evict"),
        ("truncate", "linger"),
    ],
    "cached": [("append", "evict"), ("evict", "hydrate"), ("hydrate", "hydrate"), ("linger", "expiry")],
    "cold": [("hydrate", "hydrate")],
    "hot": [("linger", "evict")],
}
BRIEF = {
    "dirty": [("linger", "edit"), ("linger", "visit"), ("linger", "append and die")],
    "cold": [("hydrate", "visit"), ("hydrate", "erase")],
    "hot": [("linger", "visit")],
}
"""Of these only the orders in which one comes as a whole between two steps of the other."""
TRIPLES = {"dirty": [("append", "linger", "hydrate")], "cached": [("append", "evict", "hydrate")]}
WORLDS = ("hot", "dirty", "cached", "cold", "erased")

pairs = (
    [(world, pair) for world in WORLDS for pair in combinations_with_replacement(CORE, 2)]
    + [(world, (one, other)) for world in ("dirty", "cached") for one in CORE for other in PARTS if other not in CORE]
    if PROVE
    else [(world, pair) for world, some in SHORT.items() for pair in some]
)
brief = [(world, pair) for world, some in BRIEF.items() for pair in some]
triples = (
    [(world, three) for world in ("dirty", "cached") for three in combinations(CORE, 3)]
    if PROVE
    else [(world, three) for world, some in TRIPLES.items() for three in some]
)


def named(value: object) -> str:
    return "-".join(value) if isinstance(value, tuple) else str(value)


@pytest.fixture(scope="module")
def stage(valkey_server, catalog_server, seaweed_server):
    """A thread and what is made of it; sweeps walk its shard alone, since the other thousand show nothing."""
    made = settings_for(f"i{secrets.token_hex(4)}", valkey_server, catalog_server, seaweed_server)
    plant = Plant(made.model_copy(update={"lease_seconds": 600, "poison_after": 50, "ask_again": 5}))
    world = World(plant)
    with pytest.MonkeyPatch.context() as patch, tracing():
        patch.setattr(hot_flow, "all_shards", lambda: [world.ref.shard])
        starts = worlds(world)
        yield world, starts
        world.put_in_place(starts["cold"])
    world.close()
    plant.close()


@pytest.mark.parametrize(("begin", "pair"), pairs, ids=named)
def test_two_may_come_in_any_order_of_their_steps(stage, begin, pair, record_property):
    run(stage, begin, pair, record_property, any_order)


@pytest.mark.parametrize(("begin", "pair"), brief, ids=named)
def test_one_may_come_between_any_two_steps_of_another(stage, begin, pair, record_property):
    run(stage, begin, pair, record_property, two_switches)


@pytest.mark.parametrize(("begin", "three"), triples, ids=named)
def test_three_may_come_in_any_order_with_three_switches(stage, begin, three, record_property):
    run(stage, begin, three, record_property, three_switches)


def any_order(world):
    found = explore(world, touched, MOST)
    if found.whole:
        return "orders of two", found
    return f"orders of two, {MOST} and those with at most two switches", found + explore_switching(world, 2)


def two_switches(world):
    return "orders of two, with at most two switches", explore_switching(world, 2)


def three_switches(world):
    return "orders of three, with at most three switches", explore_switching(world, 3)


def run(stage, begin, names, record_property, exploring):
    world, starts = stage
    world.begin, world.parts = starts[begin], [PARTS[name] for name in names]
    if SCHEDULE:
        replay(world, [int(number) for number in SCHEDULE.strip("[]").split(",")])
        return
    started = time.monotonic()
    of, found = exploring(world)
    assert found.steps > len(names)
    numbers = {"orders": found.schedules, "given up as equal": found.pruned, "steps": found.steps}
    record_property("proof", {"of": of, **numbers, "seconds": time.monotonic() - started})
