"""Our app, in a world where some threads kill the process that reads them."""

import os
import signal

from threadkeep.storage.hot import HotTier
from threadkeep.tasks.app import app

__all__ = ["app"]

_copy = HotTier.copy


async def _deadly_copy(self, ref, head, **options):
    if ref.thread_id.startswith("poison"):
        os.kill(os.getpid(), signal.SIGKILL)
    return await _copy(self, ref, head, **options)


HotTier.copy = _deadly_copy
