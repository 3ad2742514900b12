"""Our app, in a world where some threads kill the process that reads them, or never let go of it."""

import os
import signal
import threading

from threadkeep.storage.hot import HotTier
from threadkeep.tasks.app import app

__all__ = ["app"]

_copy = HotTier.copy


async def _deadly_copy(self, ref, head, **options):
    if ref.thread_id.startswith("poison"):
        os.kill(os.getpid(), signal.SIGKILL)
    if ref.thread_id.startswith("stuck"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})  # Celery's way to say that time is up
        threading.Event().wait(60)
    return await _copy(self, ref, head, **options)


HotTier.copy = _deadly_copy
