"""Workers that are killed, stopped, cut off and poisoned: the tests of `tests/celery`, over RabbitMQ."""

import pytest

from tests.celery.test_worker_life import *  # noqa: F403  # every test there

pytestmark = pytest.mark.brokers
