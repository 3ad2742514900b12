"""Describe: what an app without credentials of S3 and Postgres may ask; the answer goes through the hot tier."""

import json
from dataclasses import asdict, replace

from threadkeep.errors import ThreadkeepError
from threadkeep.model import ThreadRef, ThreadStat
from threadkeep.storage.link import run_now as now
from threadkeep.tasks.outcome import Outcome
from threadkeep.tasks.stores import Stores


def describe(stores: Stores, ref: ThreadRef, question: str) -> Outcome:
    """Answer what is known of a thread: from Redis if it is there, else from the bucket and the catalog."""
    stat = find(stores, ref)
    now(stores.flow.answer(ref, question, json.dumps(asdict(stat))))
    return Outcome(stat.tier, rev=stat.rev, count=stat.count, bytes=stat.stored_bytes)


def find(stores: Stores, ref: ThreadRef) -> ThreadStat:
    """What is known of a thread, wherever it is: where and how much from the stores, labels from the catalog."""
    seen = now(stores.hot.look(ref))
    if seen.head is not None:
        return seen.head.to_stat(ref, now_ms=now(stores.hot.clock(ref)) // 1000)
    left = seen.remains
    if left is not None and left.head is not None and left.mendable:
        return left.head.to_stat(ref, now_ms=now(stores.hot.clock(ref)) // 1000)
    stat = find_in_bucket(stores, ref)
    if stat.tier == "absent":
        return stat
    try:
        entry = stores.catalog.get(ref)
    except ThreadkeepError:
        return stat
    if entry is None or entry.erased_at is not None:
        return stat
    known = entry.stat
    return replace(stat, codec=known.codec, labels=known.labels, forked_from=known.forked_from)


def find_in_bucket(stores: Stores, ref: ThreadRef) -> ThreadStat:
    """What the object's own metadata tells; of a tombstone its revision: so a thread lost is told from one erased."""
    there = stores.cold.head(ref)
    if there is None:
        has_v1 = stores.settings.v1_fallback and stores.cold.get_v1(ref) is not None
        return ThreadStat(ref.namespace, ref.thread_id, tier="cold" if has_v1 else "absent")
    meta = there.meta
    if meta is not None and meta.tombstone:
        return ThreadStat(ref.namespace, ref.thread_id, tier="absent", rev=meta.rev)
    return ThreadStat(
        ref.namespace,
        ref.thread_id,
        tier="cold",
        rev=meta.rev if meta else 0,
        archived_rev=meta.rev if meta else 0,
        count=meta.count if meta else 0,
        raw_bytes=meta.raw_bytes if meta else 0,
        stored_bytes=there.size,
        etag=there.etag,
        born=meta.born if meta else 0,
    )
