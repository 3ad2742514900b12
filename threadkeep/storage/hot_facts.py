"""What an operator wants to know of Redis itself, and of the hot threads as a whole."""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

from threadkeep.model import ThreadRef
from threadkeep.storage.hot import HotTier
from threadkeep.storage.hot_flow import TierFlow
from threadkeep.storage.link import Link

HEADS_AT_ONCE: Final = 500


@dataclass(frozen=True, slots=True)
class RedisFacts:
    """What a server says of itself, or the primaries of a cluster together; None where they do not tell.

    Attributes:
        server: `redis` or `valkey`.
        version: Of the server.
        policy: What it does when memory is full, such as `noeviction`; the most dangerous one of a cluster.
        max_memory: Bytes; 0 for no limit.
        used_memory: Bytes.
        append_only: Whether it keeps an append-only file.
        cluster: Whether it is part of a cluster.
        primaries: Servers that take writes.
        alone: How many of them have no replica.
    """

    server: str
    version: str
    policy: str | None
    max_memory: int
    used_memory: int
    append_only: bool | None
    cluster: bool
    primaries: int = 1
    alone: int = 0


@dataclass(frozen=True, slots=True)
class HotFacts:
    """The index at one moment.

    Attributes:
        indexed: Members of the index: threads that are dirty or leased, and some that the next sweep will drop.
        dirty: Threads that hold something the archive does not have.
        leased: Threads that a session writes.
        oldest_dirty: Seconds for which the oldest dirty thread has been dirty; 0 if there is none.
        oldest: That thread.
    """

    indexed: int = 0
    dirty: int = 0
    leased: int = 0
    oldest_dirty: float = 0.0
    oldest: ThreadRef | None = None


async def redis_facts(link: Link) -> RedisFacts:
    """From INFO alone, since managed services forbid CONFIG."""
    told = await link.info()
    valkey = "valkey_version" in told[0]
    return RedisFacts(
        server="valkey" if valkey else "redis",
        version=str(told[0].get("valkey_version" if valkey else "redis_version", "?")),
        policy=_worst([each["maxmemory_policy"] for each in told if "maxmemory_policy" in each]),
        max_memory=sum(int(each.get("maxmemory", 0)) for each in told),
        used_memory=sum(int(each.get("used_memory", 0)) for each in told),
        append_only=all(each["aof_enabled"] for each in told) if "aof_enabled" in told[0] else None,
        cluster=bool(told[0].get("cluster_enabled")),
        primaries=len(told),
        alone=sum(not each.get("connected_slaves") for each in told),
    )


async def hot_facts(hot: HotTier, flow: TierFlow) -> HotFacts:
    """Walk the index and look at every head, some hundred in a round trip."""
    now_ms = await flow.clock() // 1000
    members = [ref async for ref in flow.index()]
    dirty = leased = 0
    oldest: tuple[int, ThreadRef | None] = (now_ms, None)
    async for ref, (rev, archived, since, until, _) in _heads(hot, members):
        leased += int(until or 0) > now_ms
        if rev is None or rev == archived:
            continue
        dirty += 1
        oldest = min(oldest, (int(since or now_ms), ref), key=lambda item: item[0])
    return HotFacts(len(members), dirty, leased, (now_ms - oldest[0]) / 1000, oldest[1])


async def swept_lately(flow: TierFlow, prefix: str, period: float) -> bool:
    """Whether a sweep began in this time slot or in the one before."""
    slot = int(await flow.clock() / 1_000_000 / period)
    keys = [f"{prefix}:sweep:{slot - back}" for back in (0, 1)]
    return any(await flow.hot.link.batch([("EXISTS", key) for key in keys]))


async def memory_of(hot: HotTier, ref: ThreadRef) -> int:
    """Bytes that a thread's keys take in Redis, its own bookkeeping included; 0 if it is not there."""
    keys = hot.keys(ref)
    own = (keys.head, keys.base, keys.log, keys.ids)
    return sum(int(used or 0) for used in await hot.link.batch([("MEMORY", "USAGE", key, "SAMPLES", 0) for key in own]))


async def idle_threads(flow: TierFlow, *, before_ms: int, namespace: str | None = None) -> list[tuple[ThreadRef, int]]:
    """Threads that Redis alone has the newest of and that were last changed before a Unix time, with their revisions.

    None that a session holds.
    """
    members = [ref async for ref in flow.index() if namespace is None or ref.namespace == namespace]
    now_ms = await flow.clock() // 1000
    return [
        (ref, int(rev))
        async for ref, (rev, archived, _, until, active) in _heads(flow.hot, members)
        if rev is not None and rev != archived and int(until or 0) <= now_ms and int(active or 0) < before_ms
    ]


async def still_unarchived(hot: HotTier, revs: Mapping[ThreadRef, int]) -> dict[ThreadRef, int]:
    """Which of these threads are in Redis and not archived up to these revisions."""
    return {
        ref: revs[ref]
        async for ref, (rev, archived, *_) in _heads(hot, list(revs))
        if rev is not None and int(archived or 0) < revs[ref]
    }


async def _heads(hot: HotTier, members: Sequence[ThreadRef]) -> AsyncIterator[tuple[ThreadRef, list[Any]]]:
    rest = iter(members)
    while some := list(islice(rest, HEADS_AT_ONCE)):
        fields = ("rev", "archived", "dirty_since", "lease_until", "active")
        for ref, found in zip(
            some, await hot.link.batch([("HMGET", hot.keys(ref).head, *fields) for ref in some]), strict=True
        ):
            yield ref, found


def _worst(policies: Sequence[str]) -> str | None:
    return min(policies, key=lambda policy: not policy.startswith("allkeys-"), default=None)
