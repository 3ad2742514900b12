"""How flushing scales with workers: the same queue drained by one worker process, then by three.

    python benchmarks/scaling.py --threads 400

Starts the embedded stack, leaves threads of about 20 KB behind with their flushes queued, starts the workers, and
measures from the first thread that is archived to the last. Every archive is then read back and compared; a thread that
is not right makes it exit with 1.
"""

import argparse
import sys
import time

from rich.console import Console
from rich.table import Table

from tests.corpus import conversation
from threadkeep import Threadkeep, ThreadRef
from threadkeep.local.stack import Stack, temporary_stack
from threadkeep.local.workers import CeleryWorker
from threadkeep.model import Entry
from threadkeep.storage.archive import read_frames
from threadkeep.storage.limits import ReadLimits
from threadkeep.storage.link import run_now as now
from threadkeep.tasks.conf import FLUSH
from threadkeep.tasks.stores import Stores

MESSAGES, SIZE = 20, 20_000


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=400)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 3])
    arguments = parser.parse_args()
    messages = list(conversation(MESSAGES, SIZE))
    table = Table(
        "workers", "threads", "seconds", "flushes / s", "against one", "right", title="Flushing, one process each"
    )
    first = 0.0
    wrong = 0
    with temporary_stack() as stack:
        for workers in arguments.workers:
            ids = leave_behind(stack, arguments.threads, messages)
            count, seconds = drain(stack, workers)
            rate = count / seconds
            first = first or rate
            good = sum(archived(stack, thread_id) == messages for thread_id in ids)
            wrong += len(ids) - good
            table.add_row(
                str(workers),
                str(count),
                f"{seconds:.2f}",
                f"{rate:.0f}",
                f"{rate / first:.2f}x",
                f"{good} of {len(ids)}",
            )
    Console().print(table)
    return 1 if wrong else 0


def leave_behind(stack: Stack, threads: int, messages: list[dict[str, object]]) -> list[str]:
    """Threads that their sessions have left: dirty, with a flush queued each."""
    ids = []
    with Threadkeep(stack.settings) as keep:
        for _ in range(threads):
            with keep.new() as session:
                session.append(*messages)
            ids.append(session.id)
    return ids


def drain(stack: Stack, workers: int) -> tuple[int, float]:
    """Flushes that were timed, and the seconds between the first and the last of them."""
    stores = Stores(stack.settings)
    started = [
        CeleryWorker(
            stack.settings,
            queues=[FLUSH],
            name=f"flush-{n}",
            concurrency=1,
            data_dir=stack.data_dir / f"scale-{workers}-{n}",
        )
        for n in range(workers)
    ]
    for worker in started:
        worker.start()
    try:
        return measured(stores)
    finally:
        for worker in started:
            worker.stop()
        stores.close()


def measured(stores: Stores) -> tuple[int, float]:
    first_count, began = now(stores.flow.hot_count()), time.perf_counter()
    deadline = began + 300
    while (left := now(stores.flow.hot_count())) > 0:
        if time.perf_counter() > deadline:
            sys.exit(f"{left} threads were still hot after 300 s")
        time.sleep(0.02)
    return first_count, time.perf_counter() - began


def archived(stack: Stack, thread_id: str) -> list[object]:
    """The bodies that the archive holds."""
    stores = STORES.setdefault(stack.settings.s3_endpoint or "", Stores(stack.settings))
    found = stores.cold.get(ThreadRef.of(thread_id))
    if found is None:
        return []
    frames = read_frames(found[1], where=thread_id, limits=ReadLimits(10**8))
    return [Entry.from_record(record).body for frame in frames for record in frame.records]


STORES: dict[str, Stores] = {}

if __name__ == "__main__":
    sys.exit(main())
