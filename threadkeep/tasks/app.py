"""Threadkeep's own Celery app, made from the environment: `celery -A threadkeep.tasks.app worker`."""

from threadkeep.config import Settings
from threadkeep.tasks.adoption import make_app

app = make_app(Settings.load())
