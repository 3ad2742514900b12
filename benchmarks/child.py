"""One measurement in a process of its own: a job as JSON on standard input, its result as the last line of output.

Whatever is timed is also verified: a result is printed only if what was read, and what was put away, is what should be.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Final

import redis

from benchmarks import corpus
from benchmarks.contenders import PHASES, Contender, contender
from benchmarks.corpus import Corpus
from benchmarks.meters import peak_bytes, spending
from benchmarks.servers import Place, control, redis_bytes, redis_calls

Job = dict[str, Any]


class Wrong(Exception):
    """A contender lost or changed something."""


def cycle(job: Job) -> dict[str, Any]:
    """Resume cycles, each of a thread of its own: hydrate, read all, append twenty messages, put away."""
    place, text = Place.from_json(job["place"]), _corpus(job)
    who = contender(job["contender"], place)
    _warm_up(who)
    names = [f"t-{number}" for number in range(job["repeats"])]
    for name in names:
        who.put_in_place(name, text.messages)
    print("placed", flush=True)
    before = who.object_bytes(names[0])
    cycles = [_timed(who, name, text) for name in names]
    print("cycled", flush=True)
    for name in names:
        _same(who.contents(name), [*text.messages, *text.more], f"{job['contender']}: what was put away")
    sizes = {"object_before": before, "object_after": who.object_bytes(names[0])}
    who.close()
    return {"cycles": cycles, **sizes, "peak": peak_bytes()}


def _timed(who: Contender, name: str, text: Corpus) -> dict[str, dict[str, float]]:
    with spending() as hydrate:
        who.hydrate(name)
    with spending() as read:
        stored = who.read()
    with spending() as parse:
        messages = who.parse(stored)
    with spending() as append:
        who.append(text.more)
    with spending() as flush:
        who.flush()
    _same(messages, text.messages, "what was read")
    spent = zip(PHASES, (hydrate, read, parse, append, flush), strict=True)
    return {phase: each.to_json() for phase, each in spent}


def footprint(job: Job) -> dict[str, Any]:
    """Bytes in Redis of a thread that was hydrated, its objects' bytes, and what one cycle asks of the servers."""
    place, text = Place.from_json(job["place"]), _corpus(job)
    who, client = contender(job["contender"], place), redis.Redis.from_url(place.redis_url)
    _warm_up(who)
    who.put_in_place("t", text.messages)
    used, keys = client.info("memory")["used_memory"], redis_bytes(client)
    calls, _ = redis_calls(client), control(place.s3_endpoint, "reset")
    who.hydrate("t")
    hydrated = {
        "redis_bytes": redis_bytes(client) - keys,
        "used_memory": client.info("memory")["used_memory"] - used,
    }
    overhead = redis_calls(client)
    messages = who.parse(who.read())
    who.append(text.more)
    who.flush()
    s3, after = control(place.s3_endpoint)["kinds"], redis_calls(client)
    _same(messages, text.messages, "what was read")
    _same(who.contents("t"), [*text.messages, *text.more], "what was put away")
    looked = {"memory", "memory|usage", "scan", "info"}
    asked = {name: after[name] - calls.get(name, 0) for name in after if name not in looked}
    who.close()
    return {
        **hydrated,
        "redis_calls": {name: number for name, number in sorted(asked.items()) if number},
        "redis_calls_seen": sum(overhead.values()),
        "s3": s3,
    }


def idle(job: Job) -> dict[str, Any]:
    """The peak of a worker that has done one tiny thread."""
    _warm_up(contender(job["contender"], Place.from_json(job["place"])))
    return {"peak": peak_bytes()}


def prepare(job: Job) -> dict[str, Any]:
    """Put a thread in place for others to measure."""
    who, text = contender(job["contender"], Place.from_json(job["place"])), _corpus(job)
    who.put_in_place("t", text.messages)
    return {"object_bytes": who.object_bytes("t")}


def worker_peak(job: Job) -> dict[str, Any]:
    """The peak of a worker that hydrates and flushes the thread that was put in place; `stage` says where it is."""
    who = contender(job["contender"], Place.from_json(job["place"]))
    _warm_up(who)
    start = peak_bytes()
    if job["stage"] == "hydrate":
        who.hydrate("t")
    else:
        who.flush_thread("t")  # type: ignore[attr-defined]
    return {"start": start, "peak": peak_bytes()}


def write_more(job: Job) -> dict[str, Any]:
    """What an app does between a hydrate and a flush that are measured in processes of their own."""
    who, text = contender(job["contender"], Place.from_json(job["place"])), _corpus(job)
    who.join("t")  # type: ignore[attr-defined]
    who.append(text.more)
    if hasattr(who, "release"):
        who.release("evict")
    return {}


def check(job: Job) -> dict[str, Any]:
    """Whether the archive holds all."""
    who, text = contender(job["contender"], Place.from_json(job["place"])), _corpus(job)
    _same(who.contents("t"), [*text.messages, *text.more], "what was put away")
    return {"object_bytes": who.object_bytes("t")}


def flushes(job: Job) -> dict[str, Any]:
    """CPU of a worker's flush with twenty new messages, and with none, of a thread that lingers in Redis."""
    who: Any = contender(job["contender"], Place.from_json(job["place"]))
    text, added = _corpus(job), _read(job["new"]).more
    _warm_up(who)
    who.make_hot("t", text.messages)
    who.release("linger")
    who.flush_now("linger")
    new, none, expected = list[Any](), list[Any](), list(text.messages)
    for _ in range(job["repeats"]):
        who.lease()
        who.append(added)
        expected += added
        who.release("linger")
        with spending() as spent:
            outcome = who.flush_now("linger")
        if outcome != "archived":
            raise Wrong(outcome)
        new.append(spent.to_json())
        with spending() as spent:
            outcome = who.flush_now("linger")
        if outcome != "unchanged":
            raise Wrong(outcome)
        none.append(spent.to_json())
    who.flush_now("evict")
    _same(who.contents("t"), expected, "what was put away")
    return {"new": new, "none": none}


def longest(job: Job) -> dict[str, Any]:
    """The longest commands of a cycle with many appends, from a server's slow log that holds them all."""
    from threadkeep.storage.scripts import script  # noqa: PLC0415

    place, text = Place.from_json(job["place"]), _corpus(job)
    who, client = contender(job["contender"], place), redis.Redis.from_url(place.redis_url)
    _warm_up(who)
    who.put_in_place("t", text.messages)
    client.slowlog_reset()
    appended = [text.more[number % len(text.more)] for number in range(job["appends"])]
    who.hydrate("t")
    who.read()
    who.append(appended)
    who.flush()
    entries: Any = client.slowlog_get(1_000_000)
    _same(who.contents("t"), [*text.messages, *appended], "what was put away")
    folder = Path(sys.modules["threadkeep.storage"].__path__[0]) / "lua"
    names = {script(path.stem).sha: path.stem for path in folder.glob("*.lua") if path.stem != "prelude"}
    worst: dict[str, list[int]] = {}
    for entry in entries:
        first, *rest = bytes(entry["command"]).split(b" ")
        name = first.decode().upper()
        if name in ("EVALSHA", "EVAL") and rest:
            name = f"script {names.get(rest[0].decode(), rest[0].decode()[:12])}"
        if name not in ("SLOWLOG", "INFO"):
            worst.setdefault(name, []).append(int(entry["duration"]))
    top = sorted(worst.items(), key=lambda item: -max(item[1]))[:5]
    return {"top": [{"command": name, "max_us": max(took), "calls": len(took)} for name, took in top]}


def sink_ceiling(job: Job) -> dict[str, Any]:
    """Requests a second that the sink answers to raw clients, and its CPU for each."""
    from benchmarks.ceiling import ceiling  # noqa: PLC0415

    return ceiling(Place.from_json(job["place"]).s3_endpoint, seconds=job["seconds"])


CASES: Final[dict[str, Callable[[Job], dict[str, Any]]]] = {
    each.__name__: each
    for each in (cycle, footprint, idle, prepare, worker_peak, write_more, check, flushes, longest, sink_ceiling)
}


@cache
def _read(path: str) -> Corpus:
    return corpus.read(Path(path))


def _corpus(job: Job) -> Corpus:
    return _read(job["corpus"])


def _warm_up(who: Contender) -> None:
    """Modules imported, connections made, scripts loaded: one tiny thread goes all the way."""
    text, name = corpus.make(20, 4000), f"warm-{os.getpid()}"
    who.put_in_place(name, text.messages)
    _timed(who, name, text)


def _same(found: list[Any], wanted: list[Any], what: str) -> None:
    if found != wanted:
        raise Wrong(f"{what} is not what was written: {len(found)} of {len(wanted)} messages")


def main() -> None:
    job = json.load(sys.stdin)
    began = time.perf_counter()
    result = CASES[job["case"]](job)
    print(json.dumps({**result, "seconds": time.perf_counter() - began}))


if __name__ == "__main__":
    main()
