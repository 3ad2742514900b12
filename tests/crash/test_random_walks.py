"""Walks by chance through all that may happen to a thread, with faults mixed in; at the end of each all is right."""

import os
import secrets
import time

import pytest
from hypothesis import HealthCheck, Phase
from hypothesis import settings as tuned
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from tests.conftest import keys_that_would_stay_for_ever, settings_for
from tests.crash.actors import worlds
from tests.crash.plant import Plant
from tests.crash.sight import NOTHING
from tests.crash.walks import APP, WORKER, Walk
from threadkeep.storage import hot_flow
from threadkeep.testing.faults import DEATHS, ERRORS, tracing

PROVE = bool(os.environ.get("PROVE"))

pytestmark = pytest.mark.timeout(7200)

WORLDS = ("nothing", "hot", "dirty", "cached", "cold", "erased")
ALL = (*APP, *WORKER)
TIME = (
    *("the lease ends", "markers go stale", "nobody waits", "the copy expires", "a part is evicted"),
    *("the ticket expires", "graves are due", "the broker forgets"),
)

FEW = 2 * [("s3", 1), ("sql", 1), ("broker", 1)] + [("s3", 2), ("sql", 1), ("sql", 2)]
steps = st.sampled_from([*FEW, *(("redis", nth) for nth in range(1, 9))])
stopped = st.tuples(steps, st.sampled_from([*DEATHS, *ERRORS]))
faults = st.one_of(st.none(), stopped, stopped)
pairs = st.tuples(st.sampled_from(ALL), st.sampled_from(WORKER))
turns = st.tuples(st.integers(0, 1), st.lists(st.integers(1, 12), max_size=5))
lives = st.tuples(*2 * [st.none() | st.integers(0, 12)])


class Walking(RuleBasedStateMachine):
    """One walk. What goes wrong is printed as the list of what was done, which can be run again."""

    walk: Walk
    starts: dict
    servers: tuple

    def __init__(self):
        super().__init__()
        self.sound = False

    @initialize(world=st.sampled_from(WORLDS))
    def begin_at(self, world):
        self.done(self.walk.begin_at, self.starts[world])

    @rule(name=st.sampled_from(APP), fault=faults, lease_ends=st.booleans())
    def app(self, name, fault, lease_ends):
        self.done(self.walk.act, name, fault, lease_ends=lease_ends)

    @rule(name=st.sampled_from(WORKER), fault=faults, lease_ends=st.booleans())
    def worker(self, name, fault, lease_ends):
        self.done(self.walk.act, name, fault, lease_ends=lease_ends)

    @precondition(lambda self: not self.walk.is_open)
    @rule(fault=faults, lease_ends=st.booleans())
    def opens(self, fault, lease_ends):
        self.done(self.walk.opens, fault, lease_ends=lease_ends)

    @precondition(lambda self: self.walk.is_open)
    @rule(fault=faults)
    def leaves(self, fault):
        self.done(self.walk.leaves, fault)

    @rule(names=pairs, turns=turns, lives=lives, lease_ends=st.booleans())
    def meet(self, names, turns, lives, lease_ends):
        self.done(self.walk.meet, names, turns, lives, lease_ends=lease_ends)

    @rule(what=st.sampled_from(TIME))
    def time(self, what):
        self.done(self.walk.time, what)

    def done(self, what, *how, **more):
        self.sound = False
        what(*how, **more)
        self.walk.check()
        self.sound = True

    def teardown(self):
        if self.sound:
            self.walk.end()
            assert keys_that_would_stay_for_ever(*self.servers) == []


@pytest.fixture(scope="module")
def walking(valkey_server, catalog_server, seaweed_server):
    """A machine on a thread of its own; sweeps walk its shard alone, since the other thousand show nothing."""
    mark = f"w{secrets.token_hex(4)}"
    changes = {"lease_seconds": 600, "poison_after": 50, "ask_again": 5, "s3_attempts": 1}
    plant = Plant(settings_for(mark, valkey_server, catalog_server, seaweed_server, **changes))
    walk = Walk(plant)
    with pytest.MonkeyPatch.context() as patch, tracing():
        patch.setattr(hot_flow, "all_shards", lambda: [walk.ref.shard])
        plant.clear_catalog()
        starts = {"nothing": walk.kept(NOTHING)}
        starts |= worlds(walk)
        yield type("Walk", (Walking,), {"walk": walk, "starts": starts, "servers": (valkey_server, mark)})
        walk.begin_at(starts["nothing"])
    walk.close()
    plant.close()


def test_after_any_walk_all_is_right(walking, record_property):
    started, walk = time.monotonic(), walking.walk
    walks, length, seconds = (20, 40, 600) if PROVE else (30, 25, 0)
    while not walk.walks or time.monotonic() - started < seconds:
        walked = tuned(
            max_examples=walks,
            stateful_step_count=length,
            derandomize=not PROVE,
            print_blob=PROVE,
            deadline=None,
            database=None,
            phases=[Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
        )
        run_state_machine_as_test(walking, settings=walked)
    assert walk.stops
    numbers = {"walks": walk.walks, "operations": walk.operations, "meetings of two": walk.meetings}
    told = {**numbers, "steps": walk.steps, "faults": walk.stops, "seconds": time.monotonic() - started}
    record_property("proof", {"of": "random walks", **told})
