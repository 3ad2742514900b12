"""What is measured, case by case. Each appends samples; what they mean is told by `benchmarks.report`."""

import os
import random
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from benchmarks import corpus
from benchmarks.contenders import OURS, PEERS
from benchmarks.jobs import Failed, must, run
from benchmarks.servers import Place, Servers

REPEATS: Final = {20: 20, 200: 10, 2_000: 7, 20_000: 3}
"""Cycles of one process, whose median is one round."""
CAP: Final = 60.0
"""Seconds that a peer may take for a case."""
Sample = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Options:
    """How much is done.

    Attributes:
        sizes: Messages of the threads.
        rounds: Of Threadkeep and the seeds.
        peer_rounds: Of the other packages; 0 for none.
        peer_most: Messages of the largest thread that these are given.
        scale: Share of the full number of threads and tasks in the cases that queue many.
    """

    sizes: tuple[int, ...]
    rounds: int
    peer_rounds: int
    peer_most: int
    scale: float
    seed: int
    latencies: tuple[int, ...] = (0, 20, 50)
    repeats: int = 10


@dataclass(slots=True)
class Bench:
    servers: Servers
    options: Options
    folder: Path
    samples: list[Sample] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def corpus(self, count: int) -> Path:
        path = self.folder / f"corpus-{count}.jsonl"
        if not path.exists():
            corpus.write(corpus.make(count), path)
        return path

    def job(self, case: str, contender: str, size: int, place: Place | None = None, **more: Any) -> dict[str, Any]:
        where = (place or self.servers.place).to_json()
        return {"case": case, "contender": contender, "place": where, "corpus": str(self.corpus(size)), **more}

    def add(self, case: str, **facts: Any) -> None:
        self.samples.append({"case": case, **facts})

    def say(self, text: str) -> None:
        print(f"{time.strftime('%H:%M:%S')}  {text}", file=sys.stderr, flush=True)


def verify(bench: Bench) -> None:
    """Every contender's cycle on the embedded S3 server, which checks signatures and checksums: right or not, only."""
    for name in (*OURS, "seeds", *_peers(bench)):
        bench.servers.clear()
        result = run(bench.job("cycle", name, 20, bench.servers.on_seaweed, repeats=1))
        right = not isinstance(result, Failed)
        bench.add("verify", contender=name, right=right, reason="" if right else result.reason)  # type: ignore[union-attr]
        bench.say(f"verify {name}: {'right' if right else result}")


def ceiling(bench: Bench) -> None:
    """How fast the sink is."""
    bench.servers.clear()
    bench.add("ceiling", **must(run(bench.job("sink_ceiling", "seeds", 20, seconds=2.0))))


def resume(bench: Bench) -> None:
    """The resume cycle of everybody, rounds shuffled."""
    slow = set[tuple[str, int]]()
    if bench.options.peer_most < max(bench.options.sizes):
        bench.notes.append(f"Other packages were given threads of up to {bench.options.peer_most:,} messages.")
    for turn in range(max(bench.options.rounds, bench.options.peer_rounds)):
        for name, size in _shuffled(bench, turn):
            if (name, size) in slow:
                continue
            peer = name in PEERS
            if peer and (size > bench.options.peer_most or (size >= 20_000 and turn)):
                continue
            repeats = min(2 if peer and size >= 2_000 else bench.options.repeats, REPEATS.get(size, 1))
            bench.servers.clear()
            result = run(bench.job("cycle", name, size, repeats=repeats), seconds=CAP if peer else 600)
            if isinstance(result, Failed):
                slow.add((name, size))
                if not peer:
                    raise SystemExit(f"{name} at {size}: {result.reason}")
                bench.add("resume", contender=name, size=size, round=turn, failed=result.reason)
                bench.say(f"resume {turn} {name} {size}: {result.reason}")
                continue
            bench.add("resume", contender=name, size=size, round=turn, **result)
            bench.say(f"resume {turn} {name} {size}: {result['seconds']:.1f} s")


def latency(bench: Bench) -> None:
    """The resume cycle against an S3 that takes its time."""
    sizes = [size for size in bench.options.sizes if size in (200, 2_000)]
    work = [(ms, size, name) for ms in bench.options.latencies for size in sizes for name in ("threadkeep", "seeds")]
    try:
        for turn in range(min(3, bench.options.rounds)):
            for ms, size, name in random.Random(f"{bench.options.seed} {turn}").sample(work, len(work)):
                bench.servers.clear()
                bench.servers.latency(ms)
                result = must(run(bench.job("cycle", name, size, repeats=3)))
                bench.add("latency", contender=name, size=size, round=turn, ms=ms, **result)
            bench.say(f"latency {turn}")
    finally:
        bench.servers.latency(0)


def footprint(bench: Bench) -> None:
    """Bytes in Redis and S3, and requests of one cycle."""
    for size in bench.options.sizes:
        for name in ("threadkeep", "seeds"):
            bench.servers.clear()
            result = must(run(bench.job("footprint", name, size)))
            bench.add("footprint", contender=name, size=size, **result)
        bench.say(f"footprint {size}")


def flushes(bench: Bench) -> None:
    """CPU of a flush with twenty new messages, the same at each size, and with none."""
    new = str(bench.corpus(200))
    sizes = sorted({200, max(bench.options.sizes)})
    for turn in range(bench.options.rounds):
        for size in random.Random(f"{bench.options.seed} {turn}").sample(sizes, len(sizes)):
            bench.servers.clear()
            result = must(run(bench.job("flushes", "threadkeep", size, new=new, repeats=5)))
            bench.add("flushes", contender="threadkeep", size=size, round=turn, **result)
        bench.say(f"flushes {turn}")


def memory(bench: Bench) -> None:
    """Peak memory of the workers that hydrate and flush the largest thread, each a process of its own."""
    size = max(bench.options.sizes)
    for turn in range(min(3, bench.options.rounds)):
        for name in ("threadkeep", "seeds"):
            bench.servers.clear()
            must(run(bench.job("prepare", name, size)))
            idle = must(run(bench.job("idle", name, size)))
            hydrate = must(run(bench.job("worker_peak", name, size, stage="hydrate")))
            must(run(bench.job("write_more", name, size)))
            flush = must(run(bench.job("worker_peak", name, size, stage="flush")))
            must(run(bench.job("check", name, size)))
            peaks = {"idle": idle["peak"], "hydrate": hydrate["peak"], "flush": flush["peak"]}
            bench.add("memory", contender=name, size=size, round=turn, **peaks)
        bench.say(f"memory {turn}")


def longest(bench: Bench) -> None:
    """The longest single command, from the slow log of a Redis that logs every one."""
    import redis  # noqa: PLC0415

    size = max(bench.options.sizes)
    with redis.Redis.from_url(bench.servers.place.redis_url) as client:
        client.config_set("slowlog-log-slower-than", 0)
        client.config_set("slowlog-max-len", 1_000_000)
        try:
            for turn in range(min(3, bench.options.rounds)):
                for name in ("threadkeep", "seeds"):
                    bench.servers.clear()
                    result = must(run(bench.job("longest", name, size, appends=1000)))
                    bench.add("longest", contender=name, size=size, round=turn, **result)
                bench.say(f"longest {turn}")
        finally:
            client.config_set("slowlog-log-slower-than", 10_000)
            client.config_set("slowlog-max-len", 128)
            client.slowlog_reset()


def queue(bench: Bench) -> None:
    """From enqueueing a hydrate until the thread is hot, while flushes are queued."""
    from benchmarks.queues import hydrate_latency  # noqa: PLC0415

    hydrate_latency(bench)


def throughput(bench: Bench) -> None:
    """Flushes a second of one worker with two processes."""
    from benchmarks.queues import flush_rates  # noqa: PLC0415

    flush_rates(bench)


CASES: Final[dict[str, Callable[[Bench], None]]] = {
    each.__name__: each
    for each in (ceiling, verify, resume, footprint, flushes, latency, memory, longest, queue, throughput)
}


def _peers(bench: Bench) -> list[str]:
    if not bench.options.peer_rounds:
        return []
    if "BENCH_REDIS_STACK_URL" in os.environ:
        return list(PEERS)
    note = "LangGraph's RedisSaver was left out: it needs a Redis with search and JSON (BENCH_REDIS_STACK_URL)."
    if note not in bench.notes:
        bench.notes.append(note)
    return [name for name in PEERS if name != "RedisSaver"]


def _shuffled(bench: Bench, turn: int) -> Iterator[tuple[str, int]]:
    options = bench.options
    names = [*OURS, "seeds"] if turn < options.rounds else []
    names += _peers(bench) if turn < options.peer_rounds else []
    work = [(name, size) for name in names for size in options.sizes]
    yield from random.Random(f"{options.seed} {turn}").sample(work, len(work))
