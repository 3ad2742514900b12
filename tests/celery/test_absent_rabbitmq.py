"""What a web app notices of a RabbitMQ that is not there; it takes none to see that."""

import pytest

from tests.celery.test_sick_broker import assert_costs_a_moment
from threadkeep.local.ports import LOOPBACK, free_port


@pytest.fixture(params=["refused", "half-open"])
def absent_url(request, silent_port):
    port = free_port() if request.param == "refused" else silent_port
    return f"amqp://guest:guest@{LOOPBACK}:{port}//"


def test_an_absent_rabbitmq_costs_a_moment_and_nothing_else(settings, absent_url, stores, caplog):
    assert_costs_a_moment(settings, absent_url, stores, caplog)
