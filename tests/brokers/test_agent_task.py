"""An agent's turn that is killed: the tests of `tests/celery`, over RabbitMQ."""

import pytest

from tests.celery.test_agent_task import *  # noqa: F403  # every test there

pytestmark = pytest.mark.brokers
