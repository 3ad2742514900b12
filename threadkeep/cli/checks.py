"""What `doctor` looks at: one function a store, each giving verdicts in plain sentences with what to do."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

from threadkeep.cli.output import size
from threadkeep.errors import ThreadkeepError
from threadkeep.storage.hot_facts import RedisFacts, redis_facts, swept_lately
from threadkeep.storage.link import run_now as now
from threadkeep.storage.ports import ColdFacts
from threadkeep.tasks.adoption import make_app
from threadkeep.tasks.conf import QUEUES, check
from threadkeep.tasks.inspect import broker_facts, load_app, queue_depths, readers
from threadkeep.tasks.stores import Stores

Verdict = Literal["ok", "warning", "failed"]

REDIS_NEEDS: Final = (6, 2)
"""LMOVE and its like."""


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the report.

    Attributes:
        subject: What was looked at.
        found: What was found.
        remedy: What to do about it; empty where all is well.
    """

    subject: str
    verdict: Verdict
    found: str
    remedy: str = ""


def check_redis(stores: Stores) -> Iterator[Check]:
    """The hot tier: version, what it does when memory is full, and whether it outlives a restart."""
    try:
        facts = now(redis_facts(stores.hot.link))
    except ThreadkeepError as error:
        yield _unreachable("Redis", error, "Start it, or correct THREADKEEP_REDIS_URL.")
        return
    yield judge_version(facts)
    yield judge_policy(facts)
    yield persistence("Redis: after a restart", facts, "what is newer than the last flush")
    if facts.cluster != stores.settings.redis_cluster:
        wanted = "true" if facts.cluster else "false"
        yield Check(
            "Redis: cluster",
            "failed",
            f"the server is {'' if facts.cluster else 'not '}part of a cluster",
            f"Set THREADKEEP_REDIS_CLUSTER={wanted}.",
        )
    elif facts.cluster:
        yield judge_replicas(facts)


def check_broker(stores: Stores) -> Iterator[Check]:
    """The broker: whether it answers, and where it is a Redis, whether it would drop tasks."""
    try:
        depths = queue_depths(make_app(stores.settings, publisher=True))
        facts = broker_facts(stores.settings)
    except ThreadkeepError as error:
        yield _unreachable("broker", error, "Start it, or correct THREADKEEP_BROKER_URL.")
        return
    waiting = ", ".join(f"{name.removeprefix('threadkeep.')} {depth:,}" for name, depth in depths.items())
    yield Check("broker", "ok", f"answers; waiting: {waiting}")
    if depths.get("threadkeep.dead"):
        yield Check(
            "broker: dead letters",
            "warning",
            f"{depths['threadkeep.dead']:,} messages were delivered too often",
            "See the workers' logs for what killed them; the sweep repeats what they asked for.",
        )
    if facts is not None:
        yield broker_policy(facts)
        yield persistence("broker: after a restart", facts, "tasks not yet begun, which the sweep queues again")


def check_app(stores: Stores, name: str | None) -> Iterator[Check]:
    """The configuration of the Celery app: our own, or a user's."""
    subject = f"Celery app {name}" if name else "Celery app"
    problems = check(load_app(name) if name else make_app(stores.settings))
    for problem in problems:
        yield Check(subject, "failed", problem, "See docs/how-to/embed-in-celery-app.md for what to set.")
    if not problems:
        yield Check(subject, "ok", "its configuration keeps the promises")


def check_workers(stores: Stores) -> Iterator[Check]:
    """Whether somebody reads each queue, and whether sweeps happen."""
    try:
        found = readers(make_app(stores.settings, publisher=True))
    except ThreadkeepError:
        yield Check("workers", "failed", "could not be asked, since the broker does not answer", "See above.")
        found = {}
    for queue in QUEUES if found else ():
        nodes = found[queue]
        subject = f"workers: {queue.removeprefix('threadkeep.')}"
        if nodes:
            yield Check(subject, "ok", f"read by {', '.join(nodes)}")
        else:
            yield Check(subject, "failed", "no worker reads this queue", "Start one: threadkeep worker")
    yield _beat(stores)


def check_s3(stores: Stores) -> Iterator[Check]:
    """The bucket, by writing, reading and deleting one small object."""
    settings = stores.settings
    yield from judge_bucket(
        stores.cold.probe(), bucket=settings.s3_bucket, conditional=settings.conditional_writes == "on"
    )


def judge_bucket(facts: ColdFacts, *, bucket: str, conditional: bool) -> Iterator[Check]:
    """What the facts of a bucket mean."""
    problem, _, remedy = facts.problem.partition(" Nothing was lost or changed. ")  # as StoreRefused words it
    if not facts.reachable:
        yield Check("S3", "failed", problem, remedy or "Start it, or correct THREADKEEP_S3_ENDPOINT.")
        return
    if not facts.bucket:
        named = f"Create the bucket {bucket}, or correct THREADKEEP_S3_BUCKET."
        yield Check("S3", "failed", problem, remedy or named)
        return
    if not facts.writable:
        rights = "Grant s3:PutObject, s3:GetObject, s3:DeleteObject and s3:ListBucket."
        yield Check("S3", "failed", problem or "an object could not be written and read back", remedy or rights)
        return
    kept = "keeps versions" if facts.versioned else "keeps no versions"
    engine = f"; flushes and hydrates use {facts.engine}" if facts.engine else ""
    yield Check("S3", "ok", f"bucket {bucket}: readable, writable, {kept}{engine}")
    honoured = bool(facts.conditional_create and facts.conditional_replace)
    if honoured == conditional:
        yield Check("S3: conditional writes", "ok", "honoured" if honoured else "not honoured, and not relied on")
    elif conditional:
        yield Check(
            "S3: conditional writes",
            "failed",
            "this store does not honour If-Match and If-None-Match; two workers could overwrite each other",
            "Set THREADKEEP_CONDITIONAL_WRITES=off before the first thread is archived.",
        )
    else:
        yield Check("S3: conditional writes", "ok", "honoured, though THREADKEEP_CONDITIONAL_WRITES=off does without")


def check_catalog(stores: Stores) -> Iterator[Check]:
    """Postgres: whether it answers, its tables are up to date, and may be read."""
    from threadkeep.storage import migrations

    try:
        missing = migrations.pending(stores.settings)
        if not missing:
            totals = stores.catalog.totals()
    except ThreadkeepError as error:
        yield _unreachable("catalog", error, "Start PostgreSQL, or correct THREADKEEP_DATABASE_URL.")
        return
    if missing:
        found = f"answers, but its tables lack {', '.join(missing)}"
        yield Check("catalog", "failed", found, "Run: threadkeep db upgrade")
        return
    threads = sum(total.threads for total in totals.values())
    yield Check("catalog", "ok", f"answers; its tables are up to date, threads: {threads:,}")


def broker_policy(facts: RedisFacts) -> Check:
    """A broker must never evict: queues have no expiry, but `allkeys-*` takes them all the same."""
    subject = "broker: when memory is full"
    if facts.policy in ("noeviction", None) or not facts.max_memory:
        return Check(subject, "ok", _policy_text(facts))
    if facts.policy.startswith("volatile-"):
        return Check(subject, "ok", f"{facts.policy}: only keys with an expiry go, and queues have none")
    return Check(subject, "failed", f"{facts.policy}: queues may be evicted", "Set maxmemory-policy noeviction.")


def judge_policy(facts: RedisFacts) -> Check:
    """The hot tier may evict what has an expiry, which is what the archive holds; never anything else."""
    subject = "Redis: when memory is full"
    if facts.policy is not None and facts.policy.startswith("allkeys-"):
        limit = f"of {size(facts.max_memory)}" if facts.max_memory else "(none is set now)"
        return Check(
            subject,
            "warning",
            f"{facts.policy}: at maxmemory {limit} it may evict threads that are not archived yet",
            "Set maxmemory-policy volatile-lru (evicts clean copies only) or noeviction.",
        )
    return Check(subject, "ok", _policy_text(facts))


def _policy_text(facts: RedisFacts) -> str:
    limit = f"maxmemory {size(facts.max_memory)}" if facts.max_memory else "no maxmemory"
    return f"{facts.policy or 'policy unknown'}, {limit}, {size(facts.used_memory)} in use"


def persistence(subject: str, facts: RedisFacts, at_stake: str) -> Check:
    """Whether an append-only file keeps what is in memory."""
    if facts.append_only:
        return Check(subject, "ok", "append-only file on")
    found = "does not say whether it has an append-only file" if facts.append_only is None else "no append-only file"
    return Check(
        subject,
        "warning",
        f"{found}: a restart loses {at_stake}",
        "Set appendonly yes, or rely on replicas and know it.",
    )


def judge_replicas(facts: RedisFacts) -> Check:
    """Whether each primary of a cluster has a replica to take its place."""
    if facts.alone:
        return Check(
            "Redis: cluster",
            "warning",
            f"{facts.alone} of {facts.primaries} primaries have no replica: nothing would take their place",
            "Give each primary a replica.",
        )
    return Check("Redis: cluster", "ok", f"{facts.primaries} primaries, each with a replica")


def judge_version(facts: RedisFacts) -> Check:
    """Whether the server knows the commands that are used."""
    told = tuple(int(part) for part in facts.version.split(".")[:2] if part.isdigit())
    if told and told < REDIS_NEEDS and facts.server == "redis":
        return Check("Redis", "failed", f"{facts.server} {facts.version} is too old", "Update it to 6.2 or newer.")
    return Check("Redis", "ok", f"{facts.server} {facts.version} answers")


def _beat(stores: Stores) -> Check:
    period = stores.settings.sweep_every
    try:
        swept = now(swept_lately(stores.flow, stores.settings.key_prefix, period))
    except ThreadkeepError:
        return Check("sweep", "failed", "cannot be told, since Redis does not answer", "See above.")
    if swept:
        return Check("sweep", "ok", f"ran within the last {2 * period:g} s")
    return Check(
        "sweep",
        "warning",
        f"none ran in the last {period:g} s or more; what queues or workers drop is not repaired",
        "Start beat (threadkeep beat), or run threadkeep sweep from cron.",
    )


def _unreachable(subject: str, error: ThreadkeepError, remedy: str) -> Check:
    """What is wrong, and what to do: the error's own remedy where it knows one."""
    return Check(subject, "failed", reason_of(error), getattr(error, "remedy", "") or remedy)


def reason_of(error: ThreadkeepError) -> str:
    """What a store said, without what the error adds for programs."""
    return " ".join(str(getattr(error, "reason", "") or error).split())
