"""Our app as a worker of pytest-celery's setup runs it: with the plugin's own tasks, and their results."""

from celery import Celery

from threadkeep.config import Settings
from threadkeep.tasks.adoption import make_app


def with_results(app: Celery, settings: Settings) -> Celery:
    app.conf.include = [*app.conf.include, "pytest_celery.vendors.worker.tasks"]
    app.conf.result_backend = settings.redis_url
    app.conf.result_backend_transport_options = {"global_keyprefix": f"{settings.key_prefix}:"}
    app.conf.task_ignore_result = False
    return app


def __getattr__(name: str) -> Celery:
    """`app`, made when a worker asks for it: tests import this module without an environment."""
    if name != "app":
        raise AttributeError(name)
    settings = Settings.load()
    return with_results(make_app(settings), settings)
