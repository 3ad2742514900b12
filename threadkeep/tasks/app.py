"""Threadkeep's own Celery app, for `celery -A threadkeep.tasks.app worker` and for web apps that only publish."""

from celery import Celery
from celery.signals import worker_init
from kombu import Queue

from threadkeep.config import Settings
from threadkeep.tasks.conf import dead_letters, is_redis, recommended_conf
from threadkeep.tasks.task import SETTINGS_KEY


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
    """Prepare a user's own app: queues and routes are added to its own, nothing else of it is changed."""
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


@worker_init.connect(weak=False)
def _declare_on_start(sender: object = None, **_: object) -> None:
    worker_app = getattr(sender, "app", None)
    if isinstance(worker_app, Celery) and SETTINGS_KEY in worker_app.conf:
        declare_dead_letters(worker_app)


app = make_app(Settings.load())
