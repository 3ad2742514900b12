"""The hot tier's promises over both links, on a real server and on a real cluster."""

import asyncio

import pytest

from threadkeep.storage.cluster import ClusterLink, async_link, sync_link
from threadkeep.storage.hot import HotTier
from threadkeep.storage.hot_flow import TierFlow
from threadkeep.storage.link import AsyncLink, SyncLink, run_now
from threadkeep.testing.hot import HotTierContract


@pytest.fixture(params=["server", "cluster"])
def redis(request):
    """The settings of one Redis, or of a cluster."""
    return request.getfixturevalue("settings" if request.param == "server" else "cluster_settings")


class TestSync(HotTierContract):
    @pytest.fixture
    def hot(self, redis):
        link = sync_link(redis)
        assert isinstance(link, ClusterLink if redis.redis_cluster else SyncLink)
        return HotTier(link, redis)

    @pytest.fixture
    def flow(self, hot, redis):
        return TierFlow(hot, redis)

    @pytest.fixture
    def run(self, hot):
        yield run_now
        run_now(hot.link.close())


class TestAsync(HotTierContract):
    @pytest.fixture
    def hot(self, redis):
        link = async_link(redis)
        assert isinstance(link, ClusterLink if redis.redis_cluster else AsyncLink)
        return HotTier(link, redis)

    @pytest.fixture
    def flow(self, hot, redis):
        return TierFlow(hot, redis)

    @pytest.fixture
    def run(self, hot):
        with asyncio.Runner() as runner:
            yield runner.run
            runner.run(hot.link.close())
