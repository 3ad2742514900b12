"""Our app with little time for a soft shutdown, all of which Celery waits out."""

from threadkeep.tasks.app import app

__all__ = ["app"]

app.conf.worker_soft_shutdown_timeout = 4.0
