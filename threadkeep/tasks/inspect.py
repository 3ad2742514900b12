"""What can be asked of the broker and of the workers: queue depths, who reads which queue, whether an app is sound."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from amqp import AMQPError
from celery import Celery
from celery.app.utils import find_app
from kombu.exceptions import ChannelError, KombuError, OperationalError

from threadkeep.config import Settings
from threadkeep.errors import SettingsError, StoreUnavailable
from threadkeep.storage.hot_facts import RedisFacts, redis_facts
from threadkeep.storage.link import SyncLink, run_now
from threadkeep.tasks.conf import DEAD, QUEUES, is_redis


def queue_depths(app: Celery) -> dict[str, int]:
    """Messages that wait in each of our queues, and among the dead letters where the broker has those.

    Raises:
        StoreUnavailable: the broker did not answer.
    """
    redis = is_redis(str(app.conf.broker_url))
    with _asking("counting its queues"), app.connection_for_read() as connection:
        connection.ensure_connection(max_retries=1, interval_start=0, interval_step=0)
        depths: dict[str, int] = {}
        for name in QUEUES if redis else (*QUEUES, DEAD):
            with connection.channel() as channel:
                asked: Any = channel  # kombu's stubs do not know what every channel can do
                # On Redis a declaration writes nothing, and a passive one overlooks kombu's own `global_keyprefix`.
                try:
                    depths[name] = int(asked.queue_declare(name, passive=not redis).message_count)
                except ChannelError:  # nobody has declared it yet
                    depths[name] = 0
        return depths


def readers(app: Celery, *, timeout: float = 1.5) -> dict[str, list[str]]:
    """The nodes that read each of our queues, as told by the workers that answer within `timeout` seconds.

    Raises:
        StoreUnavailable: the broker did not answer.
    """
    with _asking("asking the workers"):
        answers = app.control.inspect(timeout=timeout).active_queues() or {}
    found: dict[str, list[str]] = {name: [] for name in QUEUES}
    for node, queues in sorted(answers.items()):
        for queue in queues:
            if queue["name"] in found:
                found[queue["name"]].append(node)
    return found


def broker_facts(settings: Settings) -> RedisFacts | None:
    """What the Redis behind the broker says of itself; None where the broker is another."""
    if not is_redis(settings.broker_url):
        return None
    first = settings.broker_url.split(";")[0].replace("redis+socket://", "unix://", 1)
    link = SyncLink(settings.model_copy(update={"redis_url": first, "redis_cluster": False}))
    try:
        return run_now(redis_facts(link))
    finally:
        run_now(link.close())


def load_app(name: str) -> Celery:
    """A user's own app, named as for `celery -A`.

    Raises:
        SettingsError: there is no such app.
    """
    try:
        return find_app(name)
    except (ImportError, AttributeError, ValueError) as error:
        raise SettingsError(f"--app {name}: {error}") from None


@contextmanager
def _asking(operation: str) -> Iterator[None]:
    try:
        yield
    except (OperationalError, KombuError, AMQPError, OSError) as error:
        raise StoreUnavailable("the broker", operation, f"{type(error).__name__}: {str(error)[:160]}") from error
