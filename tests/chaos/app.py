"""An app of many users, as a process: `python -m tests.chaos.app NAME sync|async LANES THREADS JOURNAL`.

Its settings come from the environment. SIGTERM lets every user finish what is begun; SIGKILL is what it is made for.
"""

import asyncio
import signal
import sys
import threading
from pathlib import Path

from tests.chaos.journal import Journal
from tests.chaos.lane import Lane
from threadkeep import AsyncThreadkeep, Threadkeep
from threadkeep.config import Settings
from threadkeep.storage.hot import HotTier
from threadkeep.storage.link import AsyncLink, SyncLink, run_now

READY = "the users come"


def pool(threads: int) -> list[str]:
    """The threads that all apps share."""
    return [f"thread-{number:02d}" for number in range(threads)]


def main() -> None:
    name, face, lanes, threads, journal = sys.argv[1:]
    names = [f"{name}.{number}" for number in range(int(lanes))]
    run = run_async if face == "async" else run_sync
    sys.stdout.write(f"{READY}\n")
    sys.stdout.flush()
    run(Settings.load(), names, pool(int(threads)), Journal(Path(journal)))


def run_sync(settings: Settings, names: list[str], threads: list[str], journal: Journal) -> None:
    """Each user in a thread of its own."""
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    hot = HotTier(SyncLink(settings), settings)
    with Threadkeep(settings) as keep:
        lanes = [Lane(keep, hot, journal, name, threads, stopping.is_set) for name in names]
        users = [threading.Thread(target=lambda lane=lane: run_now(lane.live())) for lane in lanes]
        for user in users:
            user.start()
        for user in users:
            user.join()


def run_async(settings: Settings, names: list[str], threads: list[str], journal: Journal) -> None:
    """Each user as a task."""
    asyncio.run(_users(settings, names, threads, journal))


async def _users(settings: Settings, names: list[str], threads: list[str], journal: Journal) -> None:
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    hot = HotTier(AsyncLink(settings), settings)
    async with AsyncThreadkeep(settings) as keep:
        lanes = [Lane(keep, hot, journal, name, threads, stopping.is_set) for name in names]
        await asyncio.gather(*(lane.live() for lane in lanes))


if __name__ == "__main__":
    main()
