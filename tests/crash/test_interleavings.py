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

LARGE = {("sweep", "erase"), ("erase", "erase"), ("erase", "overwrite"), ("overwrite", "overwrite")}
"""Pairs with many thousands of orders: up to four switches of them are run."""
SHORT = {
    "dirty": [
        *(("append", other) for other in ("append", "truncate", "linger", "evict", "hydrate")),
        ("evict", "evict"),
        ("truncate", "linger"),
    ],
    "cached": [("append", "evict"), ("evict", "hydrate"), ("hydrate", "hydrate"), ("linger", "expiry")],
    "hot": [("linger", "evict")],
}
TRIPLES = {"dirty": [("append", "linger", "hydrate")], "cached": [("append", "evict", "hydrate")]}
WORLDS = ("hot", "dirty", "cached", "cold", "erased")

pairs = (
    [(world, pair) for world in WORLDS for pair in combinations_with_replacement(CORE, 2)]
    + [(world, (one, other)) for world in ("dirty", "cached") for one in CORE for other in PARTS if other not in CORE]
    if PROVE
    else [(world, pair) for world, some in SHORT.items() for pair in some]
)
triples = (
    [(world, three) for world in ("dirty", "cached") for three in combinations(PARTS, 3)]
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


def cast(stage, begin, names):
    world, starts = stage
    world.begin, world.parts = starts[begin], [PARTS[name] for name in names]
    return world


@pytest.mark.parametrize(("begin", "pair"), pairs, ids=named)
def test_two_may_come_in_any_order_of_their_steps(stage, begin, pair, record_property):
    world, started = cast(stage, begin, pair), time.monotonic()
    if SCHEDULE:
        replay(world, [int(number) for number in SCHEDULE.strip("[]").split(",")])
        return
    found = explore_switching(world, 4) if pair in LARGE else explore(world, touched)
    assert found.schedules > 1
    record_property("proof", told("orders of two", found, started))


@pytest.mark.parametrize(("begin", "three"), triples, ids=named)
def test_three_may_come_in_any_order_with_three_switches(stage, begin, three, record_property):
    world, started = cast(stage, begin, three), time.monotonic()
    found = explore_switching(world, 3)
    assert found.schedules > 6
    record_property("proof", told("orders of three, with at most three switches", found, started))


def told(of, found, started):
    numbers = {"orders": found.schedules, "given up as equal": found.pruned, "steps": found.steps}
    return {"of": of, **numbers, "seconds": time.monotonic() - started}
