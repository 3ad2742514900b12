"""What goes through Celery: how long a person waits while flushes are queued, and how many flushes a worker does."""

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import redis
from celery import Celery

from benchmarks import corpus
from benchmarks.cases import Bench
from benchmarks.contenders.ours import WithCatalog
from benchmarks.stats import percentile
from threadkeep import Threadkeep
from threadkeep.config import Settings
from threadkeep.local.workers import CeleryWorker
from threadkeep.model import ThreadRef, fresh_mark
from threadkeep.storage.link import run_now as now
from threadkeep.tasks.adoption import make_app
from threadkeep.tasks.conf import FLUSH, HYDRATE
from threadkeep.tasks.enqueue import Enqueuer

APP = "benchmarks.celery_app"
MESSAGES, SIZE = 20, 20_000
BULK = 50
"""Threads of one task that flushes many."""
WARM = 20
"""Tasks before those that are timed."""


def hydrate_latency(bench: Bench) -> None:
    """Hydrates and no-ops in turn through one worker, while another drains flushes.

    A hydrate's time runs from asking for a cold thread until it is known to be hot, a no-op's from `apply_async` until
    its result is here.
    """
    queued, count = int(10_000 * bench.options.scale), max(40, int(250 * bench.options.scale))
    bench.servers.clear()
    settings, app = bench.servers.place.settings(), _client_app(bench)
    who = WithCatalog(bench.servers.place)
    text = corpus.make(MESSAGES, SIZE)
    for number in range(count + WARM):
        who.put_in_place(f"cold-{number}", text.messages)
    bench.say(f"{count} threads are cold")
    with _worker(bench, settings, "bench-hydrate", [HYDRATE], 1):
        for _ in range(WARM):
            _noop(app)
        idle = [_noop(app) for _ in range(count)]
        _leave_dirty(who, settings, queued, text.messages)
        bench.say(f"{queued:,} flushes are queued")
        with _worker(bench, settings, "bench-flush", [FLUSH], 1), Threadkeep(settings) as keep:
            threads: Any = keep._threads  # noqa: SLF001  a session would add its lease to what is measured
            for number in range(WARM):
                _hydrated(threads, f"cold-{number}")
            left = [_length(settings, FLUSH)]
            hydrates, noops = list[float](), list[float]()
            for number in range(WARM, WARM + count):
                hydrates.append(_hydrated(threads, f"cold-{number}"))
                noops.append(_noop(app))
            left.append(_length(settings, FLUSH))
            for number in range(WARM + count):
                _check_hot(who, f"cold-{number}", text.messages)
    who.close()
    found = {"hydrate": _shares(hydrates), "noop": _shares(noops), "noop_idle": _shares(idle)}
    bench.add("queue", queued=queued, left=left, **found)
    bench.say(f"queue: {found}, {left}")


def flush_rates(bench: Bench) -> None:
    """One queue, drained by a worker with two processes: no-ops, then flushes, then flushes in bulk."""
    from threadkeep import tasks  # noqa: PLC0415

    count = max(200, int(2_000 * bench.options.scale))
    hows = ["no-op", "one by one"]
    if hasattr(tasks, "flush_threads"):
        hows.append("in bulk")
    else:
        bench.notes.append("Flushes in bulk were left out: there is no task `flush_threads`.")
    for turn in range(min(3, bench.options.rounds)):
        for how in random.Random(f"{bench.options.seed} {turn}").sample(hows, len(hows)):
            bench.servers.clear()
            rate = _rate(bench, how, count)
            bench.add("throughput", how=how, round=turn, threads=count, per_second=rate)
            bench.say(f"throughput {turn} {how}: {rate:.0f} per second")


def _rate(bench: Bench, how: str, count: int) -> float:
    settings, app = bench.servers.place.settings(), _client_app(bench)
    who, text = WithCatalog(bench.servers.place), corpus.make(MESSAGES, SIZE)
    early = [f"early-{number}" for number in range(BULK * WARM if how == "in bulk" else WARM)]
    names = [f"t-{number}" for number in range(count)]
    if how != "no-op":
        for name in [*early, *names]:
            who.make_hot(name, text.messages)
            who.release("evict")
    _publish(app, settings, how, early)  # until both processes have imported and connected
    app.send_task("bench.mark", ["bench:first"], queue=FLUSH)
    _publish(app, settings, how, names)
    app.send_task("bench.mark", ["bench:last"], queue=FLUSH)
    with _worker(bench, settings, "bench-drain", [FLUSH], 2), redis.Redis.from_url(settings.broker_url) as broker:
        deadline = time.monotonic() + 300
        while not broker.exists("bench:last"):
            if time.monotonic() > deadline:
                raise SystemExit(f"the queue of {how} was not drained")
            time.sleep(0.05)
        first, last = (float(found) for found in broker.mget("bench:first", "bench:last"))
        while how != "no-op" and now(who.stores.flow.hot_count()):
            if time.monotonic() > deadline:
                raise SystemExit(f"threads are hot after they were flushed {how}")
            time.sleep(0.05)
    for name in names if how != "no-op" else []:
        if who.contents(name) != text.messages:
            raise SystemExit(f"{name} was not archived as it was written")
    who.close()
    return count / (last - first)


def _publish(app: Celery, settings: Settings, how: str, names: list[str]) -> None:
    if how == "no-op":
        for _ in names:
            app.send_task("bench.noop_unheard", queue=FLUSH, ignore_result=True)
    elif how == "one by one":
        enqueuer = Enqueuer.publishing(None, settings)
        for name in names:
            enqueuer.flush(ThreadRef.of(name), "evict", fresh_mark())
    else:
        for at in range(0, len(names), BULK):
            some = {"thread_ids": names[at : at + BULK], "mode": "evict"}
            app.send_task("threadkeep.flush_threads", kwargs=some, queue=FLUSH, ignore_result=True)


def _leave_dirty(who: WithCatalog, settings: Settings, count: int, messages: list[corpus.Message]) -> None:
    enqueuer = Enqueuer.publishing(None, settings)
    for number in range(count):
        who.make_hot(f"dirty-{number}", messages)
        who.release("linger")
        enqueuer.flush(ThreadRef.of(f"dirty-{number}"), "linger", fresh_mark())


def _hydrated(threads: Any, name: str) -> float:
    """Milliseconds."""
    began = time.perf_counter()
    if now(threads.bring(ThreadRef.of(name), 30)).status != "here":
        raise SystemExit(f"{name} is absent")
    return 1000 * (time.perf_counter() - began)


def _check_hot(who: WithCatalog, name: str, messages: list[corpus.Message]) -> None:
    contents = now(who.stores.hot.read(ThreadRef.of(name)))
    if contents is None or who.parse(who.records(contents)) != messages:
        raise SystemExit(f"{name} did not come back as it was put away")


def _noop(app: Celery) -> float:
    """Milliseconds."""
    began = time.perf_counter()
    app.send_task("bench.noop", queue=HYDRATE).get(timeout=30)
    return 1000 * (time.perf_counter() - began)


def _shares(values: list[float]) -> dict[str, float]:
    return {"p50": percentile(values, 0.5), "p99": percentile(values, 0.99), "n": len(values)}


def _length(settings: Settings, queue: str) -> int:
    with redis.Redis.from_url(settings.broker_url) as broker:
        return int(broker.llen(f"{settings.broker_prefix}{queue}"))


def _client_app(bench: Bench) -> Celery:
    settings = bench.servers.place.settings()
    app = make_app(settings, publisher=True)
    app.conf.update(result_backend=settings.broker_url, task_ignore_result=False)
    return app


@contextmanager
def _worker(bench: Bench, settings: Settings, name: str, queues: list[str], processes: int) -> Iterator[None]:
    folder = bench.folder / f"{name}-{fresh_mark()}"
    with CeleryWorker(settings, queues=queues, name=name, concurrency=processes, data_dir=folder, app=APP):
        yield
