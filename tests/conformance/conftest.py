"""What the tests of this folder share: one worker, settings of their own, and a face for apps with and without asyncio.

A test asks for `face` and is run twice. To keep it apart from its neighbours on the same servers it names its threads
with `thread_id` or `face.fresh_id()`.

    def test_what_was_said_is_there(face, thread_id):
        with face.new(thread_id, wait_flush=20) as session:
            session.append({"role": "user", "content": "hello"})
        face.flush(thread_id, wait=20)  # now it is in S3 only
        with face.open(thread_id) as session:
            assert session.messages == [{"role": "user", "content": "hello"}]

`face.gather` calls several things at once, `face.tuned` is the same app with other settings, `face.adapted` makes of a
model or a tool what an app of that kind would write, and `tiers` looks into Redis and S3 past the library. A test whose
result differs from zeitlich's on purpose says so in its docstring, with a dagger.
"""

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance.face import AsyncFace, Face, SyncFace
from tests.conformance.tiers import Tiers
from tests.conftest import keys_that_would_stay_for_ever, settings_for
from threadkeep.config import Settings
from threadkeep.local.postgres import PostgresServer
from threadkeep.local.seaweed import SeaweedServer
from threadkeep.local.valkey import ValkeyServer
from threadkeep.local.workers import CeleryWorker
from threadkeep.tasks.conf import FLUSH, HYDRATE, MAINTENANCE
from threadkeep.tasks.stores import Stores

FACES = {"sync": SyncFace, "async": AsyncFace}


@pytest.fixture(scope="package")
def settings(
    valkey_server: ValkeyServer, catalog_server: PostgresServer, seaweed_server: SeaweedServer
) -> Iterator[Settings]:
    """Settings of this folder alone: its own keys, queues and objects."""
    mark = f"c{secrets.token_hex(4)}"
    yield settings_for(mark, valkey_server, catalog_server, seaweed_server, v1_fallback=True)
    assert keys_that_would_stay_for_ever(valkey_server, mark) == []


@pytest.fixture(scope="package")
def worker(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[CeleryWorker]:
    """The one worker of all these tests: two processes that read every queue."""
    home: Path = tmp_path_factory.mktemp("worker")
    queues = (HYDRATE, FLUSH, MAINTENANCE)
    with CeleryWorker(settings, queues=queues, name="conformance", concurrency=2, data_dir=home) as process:
        yield process


@pytest.fixture(params=FACES)
def face(request: pytest.FixtureRequest, settings: Settings, worker: CeleryWorker) -> Iterator[Face]:
    """`Threadkeep`, then `AsyncThreadkeep`, behind one blocking API; a worker is there."""
    with FACES[request.param](settings) as face:
        yield face


@pytest.fixture
def thread_id(face: Face) -> str:
    """The id of this test's thread."""
    return face.fresh_id()


@pytest.fixture(scope="package")
def stores(settings: Settings) -> Iterator[Stores]:
    """The stores of a worker, in this process."""
    stores = Stores(settings)
    yield stores
    stores.close()


@pytest.fixture(scope="package")
def tiers(stores: Stores) -> Tiers:
    """Redis and the bucket, past the library."""
    return Tiers(stores)
