"""Our app with walks that hand on to another run after each thread."""

from celery import Celery

from threadkeep.config import Settings
from threadkeep.tasks.adoption import make_app
from threadkeep.tasks.task import ThreadTask


def __getattr__(name: str) -> Celery:
    """`app`, made when a worker asks for it: tests import this module without an environment."""
    if name != "app":
        raise AttributeError(name)
    ThreadTask.deadline = lambda _: 0.0
    return make_app(Settings.load())
