"""A user's own app: the tests of `tests/celery`, over RabbitMQ."""

import pytest

from tests.celery.test_adoption import *  # noqa: F403  # every test there

pytestmark = pytest.mark.brokers
