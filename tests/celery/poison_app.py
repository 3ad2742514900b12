"""Our app, in a world where some threads kill the process that reads them, or never let go of it."""

import os
import signal
import threading

from threadkeep.tasks import flush
from threadkeep.tasks.app import app

__all__ = ["app"]

_seal = flush.read_and_seal


def _deadly_seal(stores, ref, *args, **options):
    if ref.thread_id.startswith("poison"):
        os.kill(os.getpid(), signal.SIGKILL)
    if ref.thread_id.startswith("stuck"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})  # Celery's way to say that time is up
        threading.Event().wait(60)
    return _seal(stores, ref, *args, **options)


flush.read_and_seal = _deadly_seal
