"""`flush --idle`: have workers archive all threads that nobody has changed for a while."""

import time
from typing import TYPE_CHECKING, Final

from threadkeep.cli.exits import refuse
from threadkeep.cli.output import console, say

if TYPE_CHECKING:
    from threadkeep.model import ThreadRef
    from threadkeep.tasks.stores import Stores

QUEUED_AT_ONCE: Final = 500
BETWEEN_LOOKS: Final = 0.5


def flush_idle(age: float, namespace: str | None, wait: float | None) -> None:
    """Queue flushes of threads that are unchanged for `age` seconds, and show how they go on for `wait` seconds."""
    from threadkeep.cli.stores import opened, publisher
    from threadkeep.storage.hot_facts import idle_threads
    from threadkeep.storage.link import run_now as now

    with opened() as stores:
        found = now(idle_threads(stores.flow, before_ms=int(1000 * (time.time() - age)), namespace=namespace))
        if not found:
            say("No thread is idle that Redis alone has the newest of.")
            return
        enqueuer, revs = publisher(stores.settings), dict(found)
        queued: list[ThreadRef] = []
        refs = list(revs)
        for at in range(0, len(refs), QUEUED_AT_ONCE):
            queued += now(enqueuer.request_flushes(stores.hot, refs[at : at + QUEUED_AT_ONCE], "evict"))
        say(f"Queued flushes of {len(queued):,} idle threads.")
        if wait is None:
            return
        left = _watch(stores, {ref: revs[ref] for ref in queued}, wait)
        if left:
            raise refuse(f"{left:,} of {len(queued):,} threads are not archived yet; they are safe in Redis.")
        say(f"All {len(queued):,} are archived.")


def _watch(stores: "Stores", revs: "dict[ThreadRef, int]", seconds: float) -> int:
    """Show a bar until the archive holds these revisions; how many it does not."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from threadkeep.storage.hot_facts import still_unarchived
    from threadkeep.storage.link import run_now as now

    deadline, total = time.monotonic() + seconds, len(revs)
    columns = (TextColumn("Archived"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console(stderr=True)) as progress:
        bar = progress.add_task("archived", total=total)
        while True:
            revs = now(still_unarchived(stores.hot, revs))
            progress.update(bar, completed=total - len(revs))
            if not revs or time.monotonic() >= deadline:
                return len(revs)
            time.sleep(min(BETWEEN_LOOKS, max(deadline - time.monotonic(), 0)))
