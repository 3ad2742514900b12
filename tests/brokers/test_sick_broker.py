"""What a web app notices of a broker that is sick: the tests of `tests/celery`, over RabbitMQ."""

import pytest

from tests.celery.test_sick_broker import *  # noqa: F403  # every test there

pytestmark = pytest.mark.brokers
