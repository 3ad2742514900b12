"""Threads that go cold, come back, fork and are erased: tests of `tests/integration`, over RabbitMQ."""

import pytest

from tests.integration.test_hard_cases import (
    ref,
    session,
    swept,
    test_a_delete_holds_though_its_message_is_lost,
)
from tests.integration.test_session_life import (
    keep,
    test_a_fork_leaves_its_source_alone,
    test_a_thread_goes_cold_and_comes_back_whole,
    test_a_thread_id_alone_is_enough_for_every_task,
    test_asyncio_does_all_that_too,
    test_delete_removes_a_thread_everywhere_and_spares_its_successor,
)

__all__ = [
    "keep",
    "ref",
    "session",
    "swept",
    "test_a_delete_holds_though_its_message_is_lost",
    "test_a_fork_leaves_its_source_alone",
    "test_a_thread_goes_cold_and_comes_back_whole",
    "test_a_thread_id_alone_is_enough_for_every_task",
    "test_asyncio_does_all_that_too",
    "test_delete_removes_a_thread_everywhere_and_spares_its_successor",
]

pytestmark = pytest.mark.brokers


@pytest.fixture
def tuned():
    """RabbitMQ loses no message: nobody need ask twice, however slow this machine is."""
    return {"ask_again": 10}
