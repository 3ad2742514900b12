"""Threads to erase, in a bucket that keeps versions."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.integration.erasing import Case
from threadkeep import Threadkeep
from threadkeep.config import Settings
from threadkeep.local.seaweed import SeaweedServer
from threadkeep.model import fresh_mark
from threadkeep.storage import hot_flow
from threadkeep.tasks.adoption import make_app
from threadkeep.tasks.enqueue import Enqueuer
from threadkeep.tasks.stores import Stores
from threadkeep.testing.buckets import Bucket
from threadkeep.testing.faults import tracing


@pytest.fixture(scope="session")
def versioned_bucket(seaweed_server: SeaweedServer) -> Iterator[Bucket]:
    access = {"access_key": seaweed_server.access_key, "secret_key": seaweed_server.secret_key}
    made = Bucket.create(f"versioned-{fresh_mark()}", endpoint=seaweed_server.endpoint, **access, versioned=True)
    yield made
    made.client.close()


@pytest.fixture
def case_of(
    settings: Settings,
    versioned_bucket: Bucket,
    stores_for_test: Callable[[Settings], Stores],
    keep: Threadkeep,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Callable[..., Case]]:
    """Makes cases in the versioned bucket; a sweep looks at the last one's shard alone, for the sake of speed."""
    made: dict[tuple[Any, ...], Stores] = {}
    enqueuer = Enqueuer(make_app(settings, publisher=True))

    def make(**changes: Any) -> Case:
        key = tuple(sorted(changes.items()))
        if key not in made:
            made[key] = stores_for_test(settings.model_copy(update={"s3_bucket": versioned_bucket.name, **changes}))
        case = Case(made[key], keep, enqueuer, versioned_bucket.client)
        monkeypatch.setattr(hot_flow, "all_shards", lambda: [case.ref.shard])
        return case

    with tracing():
        yield make
