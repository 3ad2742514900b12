"""Celery apps that know Threadkeep's queues: our own, and a user's."""

from celery import Celery
from kombu import Queue

from threadkeep.config import Settings
from threadkeep.tasks.conf import SETTINGS_KEY, dead_letters, is_redis, recommended_conf

CeleryApp = Celery
"""What rooms that do not know Celery call an app of it."""


def make_app(settings: Settings, *, publisher: bool = False) -> Celery:
    """An app that leaves the process's current app alone, so that a user's `shared_task`s stay the user's.

    Args:
        settings: Where broker and stores are.
        publisher: For a process that only queues tasks: short time-outs, no task code.
    """
    app = Celery("threadkeep", set_as_current=False, include=[] if publisher else ["threadkeep.tasks"])
    app.conf.update(recommended_conf(settings, publisher=publisher))
    app.conf[SETTINGS_KEY] = settings
    return app


def adopt(app: Celery, settings: Settings) -> None:
    """Prepare a user's own app: queues, routes, limits and the sweep are added to its own, nothing else is changed."""
    ours = recommended_conf(settings)
    own = list(app.conf.task_queues or [Queue(app.conf.task_default_queue)])
    names = {queue.name for queue in own}
    app.conf.task_queues = [*own, *(queue for queue in ours["task_queues"] if queue.name not in names)]
    app.conf.task_annotations = {**ours["task_annotations"], **(app.conf.task_annotations or {})}
    app.conf.task_routes = {**(app.conf.task_routes or {}), **ours["task_routes"]}
    app.conf.beat_schedule = {**ours["beat_schedule"], **(app.conf.beat_schedule or {})}
    app.conf[SETTINGS_KEY] = settings


def declare_dead_letters(app: Celery) -> None:
    """Make RabbitMQ's exchange and queue for what is delivered too often; nothing to do on Redis."""
    if is_redis(str(app.conf.broker_url)):
        return
    with app.connection_for_write() as connection:
        dead_letters().bind(connection.default_channel).declare()
