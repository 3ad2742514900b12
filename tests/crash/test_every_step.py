"""Every step of every task and of every session is stopped at, before it and behind it; the end is always the same."""

import secrets

import pytest

from tests.conftest import settings_for
from tests.crash.every_step import SOON, case_of, stop_everywhere
from tests.crash.plant import Plant
from tests.crash.scenarios import SESSIONS, TASKS
from threadkeep.testing.faults import DEATHS, ERRORS, Work, tracing

__all__ = ["case_of"]

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def plant(valkey_server, catalog_server, seaweed_server):
    plant = Plant(settings_for(f"c{secrets.token_hex(4)}", valkey_server, catalog_server, seaweed_server, **SOON))
    with tracing():
        yield plant
    plant.close()


@pytest.mark.parametrize("moments", [DEATHS, ERRORS], ids=["killed", "told of a failure"])
@pytest.mark.parametrize("scenario", [*TASKS, *SESSIONS], ids=lambda scenario: scenario.name)
def test_stopped_at_any_step_it_ends_as_if_it_had_not_been(scenario, moments, case_of, record_property):
    stop_everywhere(scenario, moments, case_of, record_property, where="every step")


def test_no_request_to_s3_escapes_the_count(plant, case_of, seaweed_server):
    """What is numbered is what a server sees: counted at a proxy of its own."""
    from threadkeep.tasks.flush import flush
    from threadkeep.tasks.stores import Stores
    from threadkeep.testing.wire import FaultyProxy

    scenario = next(item for item in TASKS if item.name == "a flush over a foreign object")
    case = case_of(scenario)
    with FaultyProxy(seaweed_server.endpoint) as proxy:
        through = Stores(plant.settings.model_copy(update={"s3_endpoint": proxy.endpoint}))
        with Work() as work:
            flush(through, case.ref, "evict")
        through.close()
        assert [step.kind for step in work.steps].count("s3") == len(proxy.requests) >= 6
