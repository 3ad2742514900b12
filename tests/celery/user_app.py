"""A user's own Celery app, which runs Threadkeep's tasks beside its own."""

from celery import Celery, shared_task
from kombu import Queue

from threadkeep.config import Settings
from threadkeep.tasks.adoption import adopt
from threadkeep.tasks.conf import recommended_conf


def make_user_app(settings: Settings) -> Celery:
    app = Celery("shop", include=["threadkeep.tasks"])
    app.conf.update(recommended_conf(settings))
    app.conf.update(
        task_default_queue="shop",
        task_queues=[Queue("shop"), Queue("shop.slow")],
        task_routes={"shop.report": {"queue": "shop.slow"}},
        task_annotations={"shop.total": {"rate_limit": "100/s"}},
        beat_schedule={"report": {"task": "shop.report", "schedule": 3600.0}},
    )
    adopt(app, settings)

    @app.task(name="shop.total", shared=False)
    def total(numbers: list[int]) -> int:
        return sum(numbers)

    return app


@shared_task(name="shop.report")
def report(text: str) -> str:
    return text.upper()


def __getattr__(name: str) -> Celery:
    """`app`, made when a worker asks for it: tests import this module without an environment."""
    if name != "app":
        raise AttributeError(name)
    return make_user_app(Settings.load())
