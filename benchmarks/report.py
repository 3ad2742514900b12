"""What the samples say: targets, met or not, and tables."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from operator import itemgetter
from typing import Any, Final

from benchmarks.contenders import OURS, PEERS, PHASES
from benchmarks.stats import Spread, middle

Sample = dict[str, Any]
Target = dict[str, Any]

RESUME_AT_LEAST: Final = {20: 5.0, 200: 5.0, 2_000: 12.0, 20_000: 15.0}
SERVERS: Final = (
    "Servers are those of the embedded stack, with S3 from `benchmarks.sink`. Redis syncs its file each second; "
    "PostgreSQL does not sync at all, which favours those who commit to it."
)
PUT_AWAY: Final = (
    "Only Threadkeep and the seeds put a thread away. `RedisSession` leaves it in Redis for good, `SQLAlchemySession` "
    "and `PostgresSaver` in Postgres (the latter a whole copy with each step), `S3SessionManager` has an object "
    "for each message; they have nothing to flush. `threadkeep session` runs the tasks in the same process."
)
STORAGE: Final = ("hydrate", "read", "append", "flush")
"""Phases of the storage layer: what is read are records, which nobody has parsed yet."""


def targets(samples: Sequence[Sample]) -> list[Target]:
    """Each target with what was measured, and whether it is met; only those whose cases ran."""
    return [
        *_resume(samples),
        *_flushes(samples),
        *_hydrate_cpu(samples),
        *_footprint(samples),
        *_memory(samples),
        *_longest(samples),
        *_queue(samples),
        *_throughput(samples),
        *_ahead(samples),
    ]


def _target(
    work: str, against: str, size: int | None, wanted: str, spread: Spread, met: bool, form: str = "{:.2f}×"
) -> Target:
    shown = spread.shown(form)
    facts = {"work": work, "against": against, "size": size, "target": wanted, "measured": shown, "met": met}
    return {**facts, "spread": spread.to_json()}


def _at_least(work: str, against: str, size: int | None, bound: float, values: Sequence[float]) -> Target:
    spread = Spread.of(values)
    return _target(work, against, size, f"≥ {bound:g}×", spread, spread.median >= bound)


def _at_most(
    work: str, against: str, size: int | None, bound: float, values: Sequence[float], form: str = "{:.2f}×"
) -> Target:
    spread = Spread.of(values)
    return _target(
        work, against, size, "≤ " + form.replace(".2f", "g").format(bound), spread, spread.median <= bound, form
    )


def _resume(samples: Sequence[Sample]) -> Iterator[Target]:
    for size in _sizes(samples, "resume"):
        ratios = _ratios(samples, "resume", size, "seeds", "threadkeep", lambda each: total(each, STORAGE))
        if ratios and size in RESUME_AT_LEAST:
            work = "resume cycle, storage layer"
            yield _at_least(work, "seeds", size, RESUME_AT_LEAST[size], ratios)


def _flushes(samples: Sequence[Sample]) -> Iterator[Target]:
    sizes = _sizes(samples, "flushes")
    if len(sizes) < 2:
        return
    small, large = sizes[0], sizes[-1]
    for what, shown in (("none", "flush with nothing new, CPU"), ("new", "flush of 20 new messages, CPU")):
        found = [
            (_cpu(big[what]) / _cpu(little[what]))
            for little, big in _pairs(samples, "flushes", (small, "threadkeep"), (large, "threadkeep"))
        ]
        yield _at_most(shown, f"itself at {small}", large, 3.0, found)


def _hydrate_cpu(samples: Sequence[Sample]) -> Iterator[Target]:
    for size in _sizes(samples, "resume"):
        ratios = _ratios(samples, "resume", size, "threadkeep", "seeds", lambda each: total(each, ("hydrate",), "cpu"))
        if ratios:
            yield _at_most("hydrate, worker CPU", "seeds", size, 0.2, ratios)


def _footprint(samples: Sequence[Sample]) -> Iterator[Target]:
    for size in _sizes(samples, "footprint"):
        ratios = _ratios(samples, "footprint", size, "threadkeep", "seeds", lambda each: each["redis_bytes"])
        if ratios:
            yield _at_most("Redis bytes, hydrated", "seeds' layout", size, 0.35, ratios)
    for size in _sizes(samples, "resume"):
        for key, when in (("object_before", "as first put away"), ("object_after", "after one more session")):
            ratios = _ratios(samples, "resume", size, "threadkeep", "seeds", itemgetter(key))
            if ratios and size >= 200:
                yield _at_most(f"object bytes, {when}", "gzip-6 JSON", size, 0.85, ratios)


def _memory(samples: Sequence[Sample]) -> Iterator[Target]:
    found = _of(samples, "memory", contender="threadkeep")
    for what in ("hydrate", "flush"):
        if found:
            above = [(each[what] - each["idle"]) / 1e6 for each in found]
            size = found[0]["size"]
            yield _at_most(f"peak RSS of a {what}", "above idle worker", size, 60.0, above, "{:.2f} MB")


def _longest(samples: Sequence[Sample]) -> Iterator[Target]:
    found = _of(samples, "longest", contender="threadkeep")
    if found:
        worst = [each["top"][0]["max_us"] / 1000 for each in found]
        name = found[0]["top"][0]["command"]
        yield _at_most(f"longest Redis command ({name})", "–", found[0]["size"], 5.0, worst, "{:.2f} ms")


def _queue(samples: Sequence[Sample]) -> Iterator[Target]:
    for each in _of(samples, "queue"):
        for share, bound in (("p50", 2.0), ("p99", 4.0)):
            ratio = each["hydrate"][share] / each["noop"][share]
            work = f"enqueue → hot, {each['queued']:,} flushes queued, {share}"
            yield _at_most(work, "Celery no-op round trip", None, bound, [ratio])


def _throughput(samples: Sequence[Sample]) -> Iterator[Target]:
    for how, bound in (("one by one", 0.4), ("in bulk", 1.0)):
        found = _of(samples, "throughput", how=how)
        noops = {each["round"]: each["per_second"] for each in _of(samples, "throughput", how="no-op")}
        ratios = [each["per_second"] / noops[each["round"]] for each in found if each["round"] in noops]
        if ratios:
            yield _at_least(f"flushes/s, two children, 20 KB, {how}", "no-op rate", None, bound, ratios)


def _ahead(samples: Sequence[Sample]) -> Iterator[Target]:
    for peer in PEERS:
        for size in _sizes(samples, "resume"):
            failed = [each for each in _of(samples, "resume", contender=peer, size=size) if "failed" in each]
            ratios = _ratios(samples, "resume", size, peer, "threadkeep", total)
            if ratios:
                spread = Spread.of(ratios)
                yield _target("resume cycle, parsed", peer, size, "ahead", spread, spread.median > 1)
            elif failed:
                facts = {"work": "resume cycle, parsed", "against": peer, "size": size, "target": "ahead"}
                yield {**facts, "measured": failed[0]["failed"], "met": failed[0]["failed"].startswith(">")}


def total(sample: Sample, phases: Sequence[str] = PHASES, what: str = "wall") -> float:
    """Milliseconds of a round: the median of its cycles."""
    return middle([sum(cycle[phase][what] for phase in phases) for cycle in sample["cycles"]])


def _ratios(
    samples: Sequence[Sample], case: str, size: int, one: str, other: str, of: Callable[[Sample], float]
) -> list[float]:
    """Of each round in which both ran: `one`'s value in `other`'s."""
    return [of(first) / of(second) for first, second in _pairs(samples, case, (size, one), (size, other)) if of(second)]


def _pairs(
    samples: Sequence[Sample], case: str, one: tuple[int, str], other: tuple[int, str]
) -> Iterator[tuple[Sample, Sample]]:
    found = [each for each in _of(samples, case) if "failed" not in each]
    second = {each.get("round", 0): each for each in found if (each["size"], each["contender"]) == other}
    for each in found:
        if (each["size"], each["contender"]) == one and each.get("round", 0) in second:
            yield each, second[each.get("round", 0)]


def _of(samples: Sequence[Sample], case: str, **wanted: Any) -> list[Sample]:
    fitting = (each for each in samples if each["case"] == case)
    return [each for each in fitting if all(each.get(name) == value for name, value in wanted.items())]


def _sizes(samples: Sequence[Sample], case: str) -> list[int]:
    return sorted({each["size"] for each in _of(samples, case)})


def _cpu(spent: Sequence[dict[str, float]]) -> float:
    return middle([each["cpu"] for each in spent])


# --- Markdown ---------------------------------------------------------------------------------------------------------


def markdown(results: dict[str, Any]) -> str:
    samples, machine = results["samples"], results["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    corpora = "; ".join(
        f"{int(size):,} messages, {facts['bytes']:,} bytes, sha256 `{facts['sha256'][:12]}`"
        for size, facts in results["corpora"].items()
    )
    load = f"load {machine['load_before'][0]} before, {machine['load_after'][0]} after"
    how = "`make bench` makes this page; what is measured, and how, stands in [CONTRIBUTING](../../CONTRIBUTING.md)."
    where = f"Python {machine['python']} on {machine['system']}, {machine['cpus']} CPUs"
    parts = [
        "# Measurements",
        f"Made {results['made']} with {where}, {load}, in {results['seconds']} s. {how}",
        SERVERS,
        f"Versions: {versions}. The seeds speak to S3 through {results['s3_client_of_the_seeds']}.",
        f"Corpora: {corpora}.",
        *results["notes"],
        _section("Targets", _targets_table(results["targets"])),
        _section("Resume cycle, milliseconds", _resume_table(samples)),
        PUT_AWAY if _of(samples, "resume") else "",
        _section("The seeds' resume cycle in ours, storage layer, by round", _ratio_table(samples)),
        _section("Phases of the resume cycle, milliseconds of wall clock / of CPU", _phase_table(samples)),
        _section("Where S3 takes its time: resume cycle, milliseconds", _latency_table(samples)),
        _section("A flush of a thread that lingers, milliseconds of CPU", _flush_table(samples)),
        _section("What a thread takes, and what one cycle asks for", _footprint_table(samples)),
        _section("Peak memory of a worker above an idle one, MB", _memory_table(samples)),
        _section("The longest Redis commands of a cycle with 1,000 appends", _longest_table(samples)),
        _section("Queues", _queue_table(samples)),
        _section("The sink, and whether all are right on SeaweedFS", _sink_table(samples)),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _section(title: str, rows: list[list[str]]) -> str:
    if len(rows) < 2:
        return ""
    head, *body = rows
    lines = [head, ["---"] * len(head), *body]
    return f"## {title}\n\n" + "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _targets_table(found: Sequence[Target]) -> list[list[str]]:
    rows = [["work", "messages", "against", "target", "measured (quartiles)", ""]]
    for each in found:
        size = f"{each['size']:,}" if each["size"] else ""
        met = "met" if each["met"] else "**not met**"
        rows.append([each["work"], size, each["against"], each["target"], each["measured"], met])
    return rows


def _resume_table(samples: Sequence[Sample]) -> list[list[str]]:
    sizes = _sizes(samples, "resume")
    rows = [["", *(f"{size:,} messages" for size in sizes)]]
    for name in (*OURS, "seeds", *PEERS):
        found = {size: _of(samples, "resume", contender=name, size=size) for size in sizes}
        if any(found.values()):
            rows.append([name, *(_resume_cell(found[size]) for size in sizes)])
    return rows


def _ratio_table(samples: Sequence[Sample]) -> list[list[str]]:
    rows = [["messages", "wall clock", "CPU of the client", "wall clock, with our catalog"]]
    for size in _sizes(samples, "resume"):
        kinds = (("threadkeep", "wall"), ("threadkeep", "cpu"), ("threadkeep + catalog", "wall"))
        found = [
            _ratios(samples, "resume", size, "seeds", ours, partial(total, phases=STORAGE, what=what))
            for ours, what in kinds
        ]
        if all(found):
            rows.append([f"{size:,}", *(Spread.of(ratios).shown("{:.2f}×") for ratios in found)])
    return rows


def _resume_cell(found: Sequence[Sample]) -> str:
    good = [total(each) for each in found if "failed" not in each]
    if good:
        return Spread.of(good).shown()
    return found[0]["failed"] if found else ""


def _phase_table(samples: Sequence[Sample]) -> list[list[str]]:
    rows = [["", "messages", *PHASES]]
    for name in (*OURS, "seeds", *PEERS):
        for size in _sizes(samples, "resume"):
            found = [each for each in _of(samples, "resume", contender=name, size=size) if "failed" not in each]
            if not found:
                continue
            cells = []
            for phase in PHASES:
                wall, cpu = (middle([total(each, (phase,), what) for each in found]) for what in ("wall", "cpu"))
                cells.append(f"{wall:.1f} / {cpu:.1f}")
            rows.append([name, f"{size:,}", *cells])
    return rows


def _latency_table(samples: Sequence[Sample]) -> list[list[str]]:
    rows = [["S3 latency", "messages", "threadkeep", "seeds", "ratio per round"]]
    for ms in sorted({each["ms"] for each in _of(samples, "latency")}):
        some = [each for each in samples if each.get("ms") == ms]
        for size in _sizes(some, "latency"):
            cells = [
                Spread.of([total(each, STORAGE) for each in _of(some, "latency", contender=name, size=size)]).shown()
                for name in ("threadkeep", "seeds")
            ]
            ratios = _ratios(some, "latency", size, "seeds", "threadkeep", lambda each: total(each, STORAGE))
            rows.append([f"{ms} ms", f"{size:,}", *cells, Spread.of(ratios).shown("{:.2f}×")])
    return rows


def _flush_table(samples: Sequence[Sample]) -> list[list[str]]:
    rows = [["messages", "nothing new", "20 new"]]
    for size in _sizes(samples, "flushes"):
        found = _of(samples, "flushes", size=size)
        cells = [Spread.of([_cpu(each[what]) for each in found]).shown("{:.2f}") for what in ("none", "new")]
        rows.append([f"{size:,}", *cells])
    return rows


def _footprint_table(samples: Sequence[Sample]) -> list[list[str]]:
    rows = [
        ["", "messages", "Redis, sum of MEMORY USAGE", "Redis, growth of used_memory", "Redis commands", "S3 requests"]
    ]
    for each in _of(samples, "footprint"):
        commands = ", ".join(f"{name} {calls}" for name, calls in _most(each["redis_calls"]))
        s3 = ", ".join(f"{kind} {facts['requests']}" for kind, facts in each["s3"].items())
        sizes = [f"{each['redis_bytes']:,}", f"{each['used_memory']:,}"]
        rows.append([each["contender"], f"{each['size']:,}", *sizes, commands, s3])
    return rows


def _most(calls: dict[str, int]) -> list[tuple[str, int]]:
    return sorted(calls.items(), key=lambda item: -item[1])[:8]


def _memory_table(samples: Sequence[Sample]) -> list[list[str]]:
    rows = [["", "messages", "idle worker itself", "hydrate", "flush"]]
    for name in ("threadkeep", "seeds"):
        found = _of(samples, "memory", contender=name)
        if found:
            idle = Spread.of([each["idle"] / 1e6 for each in found]).shown()
            above = [
                Spread.of([(each[what] - each["idle"]) / 1e6 for each in found]).shown()
                for what in ("hydrate", "flush")
            ]
            rows.append([name, f"{found[0]['size']:,}", idle, *above])
    return rows


def _longest_table(samples: Sequence[Sample]) -> list[list[str]]:
    rows = [["", "messages", "round", "commands, longest first: µs at most (calls)"]]
    for each in _of(samples, "longest"):
        top = ", ".join(f"{one['command']} {one['max_us']:,} ({one['calls']:,})" for one in each["top"])
        rows.append([each["contender"], f"{each['size']:,}", str(each["round"] + 1), top])
    return rows


def _queue_table(samples: Sequence[Sample]) -> list[list[str]]:
    rows = [["what", "measured"]]
    for each in _of(samples, "queue"):
        for what in ("hydrate", "noop", "noop_idle"):
            facts = each[what]
            shown = f"p50 {facts['p50']:.1f} ms, p99 {facts['p99']:.1f} ms, {facts['n']} samples"
            rows.append(
                [f"{what.replace('_', ', ')}; flushes queued: {each['left'][0]:,} → {each['left'][1]:,}", shown]
            )
    for how in ("no-op", "one by one", "in bulk"):
        found = _of(samples, "throughput", how=how)
        if found:
            rate = Spread.of([each["per_second"] for each in found]).shown("{:.0f}")
            rows.append([f"{'tasks' if how == 'no-op' else 'flushes'}/s, two children, {how}", rate])
    return rows


def _sink_table(samples: Sequence[Sample]) -> list[list[str]]:
    rows = [["what", "measured"]]
    for each in _of(samples, "ceiling"):
        for method in ("put", "get"):
            rate, cpu = each[method]["per_second"], each[method]["sink_cpu_ms"]
            rows.append([f"sink, 10 KB {method.upper()}", f"{rate:,.0f} requests/s, {cpu:.3f} ms CPU each"])
    return rows + [
        [f"{each['contender']} on SeaweedFS", "right" if each["right"] else f"**{each['reason']}**"]
        for each in _of(samples, "verify")
    ]
