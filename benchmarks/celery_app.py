"""Threadkeep's own app, with a task that does nothing and one that notes the time, to measure Celery itself."""

import time

import redis

from threadkeep.config import Settings
from threadkeep.tasks.adoption import make_app

settings = Settings.load()
app = make_app(settings)
app.conf.update(result_backend=settings.broker_url, result_expires=600)


@app.task(name="bench.noop", ignore_result=False)
def noop() -> None:
    """Whose result is waited for."""


@app.task(name="bench.noop_unheard", ignore_result=True)
def noop_unheard() -> None:
    """Whose result nobody wants, as of Threadkeep's own tasks."""


@app.task(name="bench.mark", ignore_result=True)
def mark(key: str) -> None:
    """Note when a queue was come so far."""
    with redis.Redis.from_url(settings.broker_url) as client:
        client.set(key, time.time())
