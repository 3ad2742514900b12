"""The hot tier's promises over both links, on a real server."""

import asyncio

import pytest

from threadkeep.storage.hot import HotTier
from threadkeep.storage.hot_flow import TierFlow
from threadkeep.storage.link import AsyncLink, SyncLink, run_now
from threadkeep.testing.hot import HotTierContract


class TestSync(HotTierContract):
    @pytest.fixture
    def hot(self, settings):
        return HotTier(SyncLink(settings), settings)

    @pytest.fixture
    def flow(self, hot, settings):
        return TierFlow(hot, settings)

    @pytest.fixture
    def run(self, hot):
        yield run_now
        run_now(hot.link.close())


class TestAsync(HotTierContract):
    @pytest.fixture
    def hot(self, settings):
        return HotTier(AsyncLink(settings), settings)

    @pytest.fixture
    def flow(self, hot, settings):
        return TierFlow(hot, settings)

    @pytest.fixture
    def run(self, hot):
        with asyncio.Runner() as runner:
            yield runner.run
            runner.run(hot.link.close())
