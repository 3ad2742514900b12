"""Threads on a Redis Cluster: their whole life, servers that die under them, and what a failover loses."""

import asyncio
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from typer.testing import CliRunner

from tests.integration.protocol import Racing, messages_in, user
from tests.waiting import until
from threadkeep import AsyncThreadkeep, Threadkeep, ThreadRef
from threadkeep.cli import app
from threadkeep.errors import HotTierLost, HydrateFailed, StoreRefused, StoreUnavailable
from threadkeep.storage.cluster import async_link, sync_link
from threadkeep.storage.hot_keys import ThreadKeys
from threadkeep.storage.link import run_now as now
from threadkeep.tasks.adoption import make_app
from threadkeep.tasks.enqueue import Enqueuer
from threadkeep.tasks.flush import flush
from threadkeep.tasks.hydrate import hydrate
from threadkeep.tasks.sweeper import sweep

FAILOVER = 20.0
"""Seconds that commands are given while a replica takes over: far more than it takes."""


@pytest.fixture
def settings_here(cluster_settings):
    return cluster_settings.model_copy(update={"redis_timeout": FAILOVER, "lease_seconds": 60})


@pytest.fixture
def stores(settings_here, stores_for_test):
    return stores_for_test(settings_here)


@pytest.fixture
def keep(settings_here):
    with Threadkeep(settings_here) as keep:
        yield keep


@pytest.fixture
def swept(stores, settings_here):
    return lambda: sweep(stores, Enqueuer(make_app(settings_here, publisher=True)), force=True)


@pytest.fixture
def primary_of(valkey_cluster, settings_here):
    """The server that holds a thread."""
    return lambda ref: valkey_cluster.primary_of(ThreadKeys(settings_here.key_prefix, ref).head)


class Together:
    """Sessions of new threads that all lie on the same server, `primary`."""

    def __init__(self, keep, primary_of, primary):
        self._keep, self._primary_of, self.primary = keep, primary_of, primary

    def new(self):
        while True:
            session = self._keep.new()
            if self._primary_of(ThreadRef.of(session.id)) is self.primary:
                return session
            session.close()


@pytest.fixture
def together(keep, primary_of, valkey_cluster):
    return Together(keep, primary_of, valkey_cluster.primaries[0])


def archived(stores, ref):
    """The messages of a thread as the archive has them."""
    assert hydrate(stores, ref).outcome in ("restored", "present")
    return messages_in(stores, ref)


def fail_over(cluster, primary):
    """Kill a primary; its replica has taken over when this returns."""
    key = key_of(cluster, primary)
    cluster.kill(primary)
    return cluster.wait_for_failover(key, from_node=primary)


def key_of(cluster, primary):
    return next(key for key in map(str, range(1000)) if cluster.primary_of(key) is primary)


# --- a thread's life ------------------------------------------------------------------------------------------------


def test_a_thread_lives_on_a_cluster_as_on_one_server(keep, stores, settings_here, worker, valkey_cluster, primary_of):
    worker(settings=settings_here)
    with keep.new("source", state={"step": 1}, labels={"team": "a"}) as session:
        ids = session.append(*[user(str(n)) for n in range(5)])
        assert session.truncate(ids[4]) == 1
        session.state["step"] = 2
    keep.flush("source", wait=20)
    for fork_id in spread(valkey_cluster, primary_of):
        with keep.fork("source", id=fork_id) as fork:
            fork.append(user("on"))
            assert (fork.count, fork.state["step"]) == (5, 2)
        keep.flush(fork_id, wait=20)
        assert archived(stores, ThreadRef.of(fork_id)) == [*(user(str(n)) for n in range(4)), user("on")]
    with keep.open("source") as again:
        again.replace(user("anew"))
        assert again.labels == {"team": "a"}
    keep.delete("source", wait=20)
    assert stores.cold.head(ThreadRef.of("source")).meta.tombstone
    assert asyncio.run(live_with_asyncio(settings_here)) == ([user("0"), user("1"), user("on")], {"step": 1})


def spread(cluster, primary_of):
    """Ids of threads on each primary of a cluster."""
    found = {}
    for number in range(100):
        found.setdefault(primary_of(ThreadRef.of(f"fork-{number}")).port, f"fork-{number}")
    assert len(found) == len(cluster.primaries) == 3
    return list(found.values())


async def live_with_asyncio(settings):
    async with AsyncThreadkeep(settings) as akeep:
        async with akeep.new(state={"step": 1}) as session:
            ids = await session.append(*[user(str(n)) for n in range(3)])
            await session.truncate(ids[2])
        await akeep.flush(session.id, wait=20)
        async with akeep.fork(session.id) as fork:
            await fork.append(user("on"))
        await akeep.flush(fork.id, wait=20)
        view = await akeep.read(fork.id)
        return view.messages, view.state


def test_whoever_waits_on_a_cluster_is_woken_by_the_news(keep, stores, settings_here, record_property):
    """Nobody asks again within the test, so only the announcement can wake them."""
    patient = settings_here.model_copy(update={"ask_again": 60, "hydrate_wait": 20})
    threads = [cold(stores, keep.new()) for _ in range(3)]

    async def read_all():
        async with AsyncThreadkeep(patient) as akeep:
            return await asyncio.gather(*[akeep.read(ref.thread_id) for ref in threads for _ in range(20)])

    with ThreadPoolExecutor() as pool:
        reading = pool.submit(asyncio.run, read_all())
        for ref in threads:
            until(lambda: now(stores.hot.look(ref)).ticket)  # noqa: B023
        started = time.monotonic()
        assert [hydrate(stores, ref).outcome for ref in threads] == ["restored"] * 3
        views = reading.result(30)
    assert [view.messages for view in views] == [[user("1")]] * 60
    seconds = time.monotonic() - started
    record_property("proof", f"60 waiters on a cluster woken by three restores in {seconds:.2f} s, nobody polling")


def cold(stores, session):
    with session:
        session.append(user("1"))
    ref = ThreadRef.of(session.id)
    assert flush(stores, ref, "evict").residence == "evicted"
    return ref


def test_a_sweep_finds_the_hot_threads_of_every_server(keep, stores, swept, primary_of):
    sessions = [keep.new() for _ in range(60)]
    refs = [ThreadRef.of(session.id) for session in sessions]
    for session, ref in zip(sessions, refs, strict=True):
        session.append(user("1"))
        session.close()
        token = now(stores.hot.link.run("HGET", stores.hot.keys(ref).head, "flush_token"))
        now(stores.hot.withdraw(ref, "flush", token.decode()))  # as if no message had ever come
    assert len({primary_of(ref).port for ref in refs}) == 3
    counts = swept()
    assert (counts.hot, counts.flushes, counts.catalog_rows) == (60, 60, 60)


def test_the_operators_commands_work_on_a_cluster(keep, settings_here, valkey_cluster):
    def told_by(*command):
        ran = CliRunner().invoke(app, [*command, "--json"], env=settings_here.to_environ())
        return json.loads(ran.stdout)

    primary = valkey_cluster.primaries[0]
    valkey_cluster.kill(valkey_cluster.replica_of(primary))
    until(lambda: "connected_slaves:0" in primary.ask("INFO", "replication"))
    with keep.new() as session:
        session.append(user("1"))
        assert told_by("sweep") == {"hot": 1, "catalog_rows": 1}
        told = told_by("status")["hot"]
        assert (told["indexed"], told["dirty"], told["oldest_dirty_thread"]) == (1, 1, session.id)
    checks = {check["subject"]: check for check in told_by("doctor")["checks"]}
    assert checks["Redis: cluster"]["found"].startswith("1 of 3 primaries have no replica")
    assert (checks["Redis: cluster"]["verdict"], checks["sweep"]["verdict"]) == ("warning", "ok")


# --- servers die ----------------------------------------------------------------------------------------------------


def test_flushes_whose_server_dies_end_as_if_nothing_had_happened(
    stores, settings_here, stores_for_test, valkey_cluster, together, record_property
):
    """One is about to put, one to settle, when their server dies; its replica takes over with all there is."""
    sessions = [together.new() for _ in range(3)]
    putting, settling, undisturbed = [ThreadRef.of(session.id) for session in sessions]
    for session in sessions:
        session.append(*[user(str(n)) for n in range(50)])
    expected = flush(stores, undisturbed, "linger")
    primary, others, outcomes = together.primary, stores_for_test(settings_here), {}

    def die():
        valkey_cluster.wait_replicated(primary)
        valkey_cluster.kill(primary)

    def settle_late():
        with Racing(others, "settle", die):
            outcomes[settling] = flush(others, settling, "linger")

    started = time.monotonic()
    with Racing(stores, "put", settle_late):
        outcomes[putting] = flush(stores, putting, "linger")
    seconds = time.monotonic() - started
    for session in sessions[:2]:
        session.append(user("on"))
        session.close()
    for ref, outcome in outcomes.items():
        assert (outcome.outcome, outcome.residence, outcome.count) == (expected.outcome, expected.residence, 50)
        assert stores.cold.head(ref).meta.rev == outcome.rev
        assert flush(stores, ref, "evict").count == 51
        assert archived(stores, ref) == [*messages_in(stores, undisturbed), user("on")]
        assert stores.cold.conflicts(ref) == []
    record_property(
        "proof",
        f"primary killed under two flushes, before the put and before the settle: both complete {seconds:.1f} s later, "
        "nothing missing, no conflict",
    )


def test_sessions_waiters_and_newcomers_find_the_server_that_took_over(stores, settings_here, valkey_cluster, together):
    """The URL of the newcomer names two servers; one of them is the dead one."""
    living = next(node for node in valkey_cluster.primaries if node is not together.primary)
    url = f"{together.primary.url(0).removesuffix('/0')},127.0.0.1:{living.port}/0"
    ref = cold(stores, together.new())

    async def read():
        async with AsyncThreadkeep(settings_here) as akeep:
            return await akeep.read(ref.thread_id)

    with ThreadPoolExecutor() as pool, Threadkeep(settings_here) as other, together.new() as session:
        session.append(user("1"))
        reading = [pool.submit(asyncio.run, read()), pool.submit(other.read, ref.thread_id)]
        until(lambda: now(stores.hot.look(ref)).ticket)
        valkey_cluster.wait_replicated(together.primary)
        fail_over(valkey_cluster, together.primary)
        session.append(user("2"))
        assert hydrate(stores, ref).outcome == "restored"
        assert [each.result(30).messages for each in reading] == [[user("1")]] * 2
        with Threadkeep(settings_here.model_copy(update={"redis_url": url})) as newcomer:
            assert newcomer.read(session.id).messages == [user("1"), user("2")]


def test_what_was_acknowledged_during_a_failover_is_there_or_known_to_be_lost(
    keep, stores, valkey_cluster, primary_of, together, record_property
):
    """Sessions on all servers write as fast as they can; one server stops replicating, writes on, and dies."""
    doomed, over = together.primary, threading.Event()
    sessions = [keep.new() for _ in range(8)] + [together.new() for _ in range(4)]
    on_doomed = [primary_of(ThreadRef.of(session.id)) is doomed for session in sessions]

    appends = [0] * 12

    def write(place, session):
        acknowledged, told = [], 0
        while not over.is_set():
            try:
                acknowledged += session.append(user("x"))
                appends[place] += 1
            except HotTierLost:
                told, kept = told + 1, [entry.id for entry in session.entries]
                assert kept == acknowledged[: len(kept)]
                acknowledged = kept
        return acknowledged, told

    def each_appends(more):
        before = list(appends)
        until(lambda: all(done - then >= more for done, then in zip(appends, before, strict=True)))

    with ThreadPoolExecutor(len(sessions)) as pool:
        writing = [pool.submit(write, place, session) for place, session in enumerate(sessions)]
        each_appends(20)
        valkey_cluster.stop_replication(doomed)
        each_appends(20)
        fail_over(valkey_cluster, doomed)
        each_appends(1)
        over.set()
        written = [each.result(60) for each in writing]
    assert [told for _, told in written] == [int(lost) for lost in on_doomed]
    for session, (acknowledged, _) in zip(sessions, written, strict=True):
        session.close()
        ref = ThreadRef.of(session.id)
        assert flush(stores, ref, "evict").outcome == "archived"
        assert hydrate(stores, ref).outcome == "restored"
        assert [entry.id for entry in keep.read(session.id).entries] == acknowledged
    record_property(
        "proof",
        f"{sum(appends)} appends of 12 sessions over a failover that lost the replication lag: "
        f"all {sum(on_doomed)} sessions on that server were told, nothing else is missing",
    )


def test_without_a_server_for_its_slot_a_command_gives_up_in_time_and_may_be_repeated(
    cluster_settings, valkey_cluster, record_property
):
    hasty = cluster_settings.model_copy(update={"redis_timeout": 0.3})
    blocking, awaiting = sync_link(hasty), async_link(hasty)
    now(blocking.run("SET", "{a}", "1", "PX", 60_000))
    primary = valkey_cluster.primary_of("{a}")
    valkey_cluster.wait_replicated(primary)
    for node in (valkey_cluster.replica_of(primary), primary):
        valkey_cluster.kill(node)

    async def talk(link):
        with pytest.raises(StoreUnavailable):
            await link.run("GET", "{a}")
        with pytest.raises(StoreUnavailable):
            await link.batch([("GET", f"{{{n}}}") for n in range(100)])
        with pytest.raises(StoreUnavailable):
            async with link.listen("{a}"):
                pass

    async def talk_again(link):
        assert await link.run("GET", "{a}") == b"1"
        await link.close()

    with asyncio.Runner() as runner:
        started = time.monotonic()
        now(talk(blocking))
        runner.run(talk(awaiting))
        seconds = time.monotonic() - started
        valkey_cluster.heal()
        now(talk_again(blocking))
        runner.run(talk_again(awaiting))
    assert seconds < 10
    record_property("proof", f"six commands of a 0.3 s limit without a server gave up within {seconds:.1f} s")


def test_a_server_that_hangs_is_left_for_the_one_that_took_over(cluster_settings, valkey_cluster):
    """Its time is up before anybody takes its place; whoever calls again finds the other."""
    hasty = cluster_settings.model_copy(update={"redis_timeout": 0.3})
    link = sync_link(hasty)
    now(link.run("SET", "{a}", "1", "PX", 60_000))
    primary = valkey_cluster.primary_of("{a}")
    valkey_cluster.wait_replicated(primary)
    valkey_cluster.freeze(primary)
    with pytest.raises(StoreUnavailable):
        now(link.run("GET", "{a}"))
    valkey_cluster.wait_for_failover("{a}", from_node=primary)
    assert now(link.run("GET", "{a}")) == b"1"
    now(link.close())


# --- slots move -----------------------------------------------------------------------------------------------------


def test_a_thread_follows_its_slot_to_another_server(keep, stores, settings_here, valkey_cluster, primary_of):
    hasty = settings_here.model_copy(update={"redis_timeout": 0.3})
    with Threadkeep(hasty) as hasty_keep, hasty_keep.new() as session:
        session.append(user("1"), id="m1")
        ref = ThreadRef.of(session.id)
        source = primary_of(ref)
        target = next(primary for primary in valkey_cluster.primaries if primary is not source)
        slot = source.ask("CLUSTER", "KEYSLOT", stores.hot.keys(ref).head)
        target.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", source.ask("CLUSTER", "MYID"))
        source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", target.ask("CLUSTER", "MYID"))
        with pytest.raises(StoreUnavailable):  # neither server has all keys of the thread
            session.append(user("2"), id="m2")
        move_keys(source, target, slot)
        session.append(user("2"), id="m2")
        assert session.messages == [user("1"), user("2")]
        assert primary_of(ref) is target
    assert flush(stores, ref, "evict").outcome == "archived"


def move_keys(source, target, slot):
    """Every key of a slot, then the slot itself."""
    password = target.ask("CONFIG", "GET", "requirepass")[1]
    for key in source.ask("CLUSTER", "GETKEYSINSLOT", slot, 1000):
        source.ask("MIGRATE", "127.0.0.1", target.port, key, 0, 2000, "AUTH", password)
    for node in (target, source):
        node.ask("CLUSTER", "SETSLOT", slot, "NODE", target.ask("CLUSTER", "MYID"))


def test_a_batch_goes_to_every_server_and_comes_back_in_order(stores):
    link, names = stores.hot.link, [f"{stores.settings.key_prefix}:{n}" for n in range(300)]
    assert now(link.batch([("SET", name, name, "PX", 60_000) for name in names])) == [b"OK"] * 300
    assert now(link.batch([("GET", name) for name in names])) == [name.encode() for name in names]


def test_a_server_that_does_not_know_a_script_is_given_it(keep, valkey_cluster):
    with keep.new() as session:
        for primary in valkey_cluster.primaries:
            primary.ask("SCRIPT", "FLUSH")
        session.append(user("1"))
        assert session.messages == [user("1")]


# --- what a failover loses ------------------------------------------------------------------------------------------


def test_sessions_hear_what_a_failover_lost(stores, valkey_cluster, together):
    """Where the archive is ahead of the replica, it does not go back, and what it held is kept beside it."""
    with together.new() as session, together.new() as ahead:
        ref, ref_ahead = ThreadRef.of(session.id), ThreadRef.of(ahead.id)
        session.append(user("1"), id="m1")
        ahead.append(user("1"), id="m1")
        assert flush(stores, ref_ahead, "checkpoint").outcome == "archived"
        valkey_cluster.wait_replicated(together.primary)
        valkey_cluster.stop_replication(together.primary)
        session.append(user("2"), id="m2")
        ahead.append(user("2"), id="m2")
        assert flush(stores, ref_ahead, "checkpoint").outcome == "archived"
        newest = stores.cold.head(ref_ahead).meta.rev
        fail_over(valkey_cluster, together.primary)
        for each in (session, ahead):
            with pytest.raises(HotTierLost):
                each.append(user("3"), id="m3")
            assert each.messages == [user("1")]
        session.append(user("2"), user("3"), ids=["m2", "m3"])
        ahead.append(user("3"), id="m3")
    assert flush(stores, ref, "evict").outcome == flush(stores, ref_ahead, "evict").outcome == "archived"
    assert archived(stores, ref) == [user("1"), user("2"), user("3")]
    assert archived(stores, ref_ahead) == [user("1"), user("3")]
    assert stores.cold.head(ref_ahead).meta.rev > newest
    assert [kept.meta.rev for kept in stores.cold.conflicts(ref_ahead)] == [newest]
    assert {"conflict", "hot_loss"} <= kinds(stores, ref_ahead)


def test_workers_notice_what_a_failover_lost(keep, stores, swept, valkey_cluster, together):
    """Nobody who wrote these threads comes back: one was never archived, one is there as it was, and of two the archive
    is older or newer than what the replica has.
    """
    older = cold(stores, together.new())
    with together.new() as session:
        session.append(user("1"))
    copied = ThreadRef.of(session.id)
    abandoned = together.new()
    abandoned.append(user("1"))
    left = ThreadRef.of(abandoned.id)
    assert flush(stores, copied, "linger").residence == "lingers"
    valkey_cluster.wait_replicated(together.primary)
    valkey_cluster.stop_replication(together.primary)
    hydrate(stores, older)
    with together.new() as made, keep.open(older.thread_id) as second, keep.open(copied.thread_id) as third:
        for session in (made, second, third):
            session.append(user("2"))
    never_archived = ThreadRef.of(made.id)
    abandoned.append(user("2"))
    assert flush(stores, copied, "linger").residence == "lingers"
    newest = stores.cold.head(copied).meta.rev
    swept()
    assert "hot_loss" not in kinds(stores, left)
    fail_over(valkey_cluster, together.primary)
    assert hydrate(stores, older).outcome == "restored"
    assert archived(stores, older) == [user("1")]
    hydrate(stores, never_archived)
    with pytest.raises(HydrateFailed, match="never archived"):
        keep.open(never_archived.thread_id)
    assert now(stores.hot.look(copied)).head.rev < newest
    assert swept().outdated == 1
    for ref in (never_archived, older, left):
        assert "hot_loss" in kinds(stores, ref)
    assert now(stores.hot.look(copied)).head is None
    assert archived(stores, copied) == [user("1"), user("2")]
    assert stores.cold.head(copied).meta.rev == newest


def kinds(stores, ref):
    return {event.kind for _, event in stores.catalog.events(ref)}


# --- settings -------------------------------------------------------------------------------------------------------


def test_a_cluster_taken_for_one_server_is_refused_with_the_setting_to_change(cluster_settings, valkey_cluster):
    link = sync_link(
        cluster_settings.model_copy(update={"redis_url": valkey_cluster.primaries[0].url(0), "redis_cluster": False})
    )
    with pytest.raises(StoreRefused, match="THREADKEEP_REDIS_CLUSTER=true"):
        for number in range(100):
            now(link.run("GET", str(number)))
    now(link.close())


def test_one_server_taken_for_a_cluster_is_refused_with_the_setting_to_change(settings):
    link = sync_link(settings.model_copy(update={"redis_cluster": True}))
    with pytest.raises(StoreRefused, match="THREADKEEP_REDIS_CLUSTER=false"):
        now(link.run("GET", "a"))
    now(link.close())
