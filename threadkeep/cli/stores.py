"""What the commands work with: the stores themselves, since an operator holds all credentials."""

from collections.abc import Iterator
from contextlib import contextmanager

from threadkeep.config import Settings
from threadkeep.model import ThreadRef
from threadkeep.session.threads import Threads
from threadkeep.tasks.adoption import make_app
from threadkeep.tasks.enqueue import Enqueuer, at_once
from threadkeep.tasks.stores import Stores


@contextmanager
def opened(settings: Settings | None = None) -> Iterator[Stores]:
    """The stores that the environment describes, closed afterwards."""
    stores = Stores(settings or Settings.load())
    try:
        yield stores
    finally:
        stores.close()


def publisher(settings: Settings) -> Enqueuer:
    """Queues tasks, and gives up soon on a broker that does not answer."""
    return Enqueuer(make_app(settings, publisher=True))


def threads_of(stores: Stores) -> Threads:
    """What waits for flushes and hydrates; its coroutines are for `run_now`."""
    return Threads(stores.hot, publisher(stores.settings), stores.settings, at_once)


def address(settings: Settings, thread_id: str, namespace: str | None) -> ThreadRef:
    """The thread that was named on the command line."""
    return ThreadRef.of(thread_id, namespace or settings.namespace)
