"""The fake provider of a test."""

from collections.abc import Iterator

import pytest

from tests.sdk.fake_provider import FakeProvider


@pytest.fixture
def provider() -> Iterator[FakeProvider]:
    with FakeProvider() as provider:
        yield provider
