"""Any number of requests make one message: the tests of `tests/celery`, over RabbitMQ."""

import pytest

from tests.celery.test_coalescing import *  # noqa: F403  # every test there

pytestmark = pytest.mark.brokers
