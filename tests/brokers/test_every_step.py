"""A session is stopped where it asks RabbitMQ for something: before its message is there, or confirmed unheard."""

import os
import secrets

import pytest

from tests.conftest import settings_for
from tests.crash.every_step import SOON, case_of, stop_everywhere
from tests.crash.plant import Plant
from tests.crash.scenarios import SESSIONS
from threadkeep.testing.faults import DEATHS, ERRORS, tracing

__all__ = ["case_of"]

pytestmark = [pytest.mark.brokers, pytest.mark.timeout(600)]

PROVE = bool(os.environ.get("PROVE"))
KINDS = ("redis", "s3", "sql", "broker") if PROVE else ("broker",)
ASKING = [scenario for scenario in SESSIONS if "broker" in scenario.kinds]


@pytest.fixture(scope="module")
def plant(rabbit, valkey_server, catalog_server, seaweed_server):
    rabbit.start()
    rabbit.empty()
    through = {"broker_url": rabbit.url, **SOON}
    plant = Plant(settings_for(f"c{secrets.token_hex(4)}", valkey_server, catalog_server, seaweed_server, **through))
    with tracing():
        yield plant
    plant.close()


@pytest.mark.parametrize("moments", [DEATHS, ERRORS], ids=["killed", "told of a failure"])
@pytest.mark.parametrize("scenario", ASKING, ids=lambda scenario: scenario.name)
def test_a_session_stopped_where_it_asks_ends_as_if_it_had_not_been(scenario, moments, case_of, record_property):
    where = "RabbitMQ, every step" if PROVE else "RabbitMQ, every message"
    stop_everywhere(scenario, moments, case_of, record_property, where=where, kinds=KINDS)
