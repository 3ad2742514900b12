"""A Redis too small for its threads, which evicts what may go: only copies of what the archive holds."""

import base64
import random
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.integration.protocol import messages_in, user
from threadkeep import Threadkeep, ThreadRef
from threadkeep.errors import StoreFull
from threadkeep.local.valkey import ValkeyServer
from threadkeep.model import fresh_mark
from threadkeep.storage.limits import ReadLimits
from threadkeep.storage.link import run_now as now
from threadkeep.storage.parts import entries_of
from threadkeep.tasks.flush import flush
from threadkeep.tasks.hydrate import hydrate

THREADS = 120
AT_ONCE = 6
CHARACTERS = 48_000


@pytest.fixture
def small(tmp_path):
    with ValkeyServer(tmp_path / "small", maxmemory="5mb", policy="volatile-lru") as server:
        yield server


@pytest.fixture
def tight(settings, small):
    return settings.model_copy(update={"redis_url": small.url(0), "linger_seconds": 600})


@pytest.fixture
def stores(tight, stores_for_test):
    return stores_for_test(tight)


@pytest.fixture
def keep(tight):
    with Threadkeep(tight) as keep:
        yield keep


def text(number):
    """What hardly compresses, and can be told from the number alone."""
    return base64.b64encode(random.Random(number).randbytes(CHARACTERS * 3 // 4)).decode()


def look(stores, ref):
    return now(stores.hot.look(ref)).head


def parts(stores, ref):
    """How many of a thread's own keys are there."""
    keys = stores.hot.keys(ref)
    return sum(now(stores.hot.link.batch([("EXISTS", key) for key in (keys.head, keys.base, keys.log, keys.ids)])))


def read_back(stores, ref):
    """Its messages, brought back as often as they are evicted before they could be read."""
    while (contents := now(stores.hot.read(ref))) is None:
        assert hydrate(stores, ref).outcome in ("restored", "mended", "present")
    return [entry.body for entry in entries_of(contents, ref, limits=ReadLimits.of(stores.settings))]


def lease(stores, ref):
    """Take the lease of a copy that may be evicted at any moment, until it is taken."""
    while now(stores.hot.acquire(ref, fresh_mark())).status != "ok":
        assert hydrate(stores, ref).outcome in ("restored", "mended", "present")


def test_under_pressure_only_clean_copies_go_and_everything_reads_back(keep, stores, small, record_property):
    """Some sessions stay open, dirty or clean, and some threads are left dirty, while others come, go and are read."""
    written, hot = {}, {}

    def write(number):
        session = keep.new()
        ref = ThreadRef.of(session.id)
        session.append(user(text(number)))
        written[ref] = number
        if number % 10 == 0:
            hot[ref] = session  # dirty and leased
            return
        if number % 10 == 1:
            assert flush(stores, ref, "checkpoint").residence == "kept"
            hot[ref] = session  # clean and leased
            return
        session.close()
        if number % 10 == 2:
            hot[ref] = session  # dirty, and nobody's
            return
        assert flush(stores, ref, "linger").outcome == "archived"
        if number % 10 == 3:
            lease(stores, ref)
            hot[ref] = session  # clean and leased, after it was free to go
            return
        other = random.Random(number).choice(list(written))
        assert read_back(stores, other) == [user(text(written[other]))]

    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(write, range(THREADS)))
    evicted = int(small.ask("INFO", "stats").split("evicted_keys:")[1].split()[0])
    assert evicted > 50
    for ref in hot:
        head = look(stores, ref)
        assert head is not None
        assert head.dirty or head.lease
        assert messages_in(stores, ref) == [user(text(written[ref]))]
    clean = [ref for ref in written if ref not in hot]
    there = [ref for ref in clean if look(stores, ref) is not None]
    torn = [ref for ref in clean if ref not in there and parts(stores, ref)]
    assert 0 < len(there) < len(clean)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        read = list(pool.map(lambda ref: read_back(stores, ref), written))
    assert read == [[user(text(number))] for number in written.values()]
    assert [event.kind for ref in written for _, event in stores.catalog.events(ref) if event.kind == "hot_loss"] == []
    for session in hot.values():
        session.close()
    record_property(
        "proof",
        f"{THREADS} threads of {CHARACTERS // 1000} kB in a Redis of 5 MB: {evicted} keys evicted; "
        f"of {len(clean)} clean copies {len(there)} stayed, {len(torn)} were torn and count as absent; "
        f"all {len(hot)} dirty or leased threads whole, all {THREADS} read back right",
    )


def test_where_only_dirty_threads_are_left_appends_are_refused_until_flushes_make_room(keep, stores, record_property):
    copies = [flushed(keep, stores, number) for number in range(20)]
    sessions = [keep.new() for _ in range(8)]
    acknowledged = {ThreadRef.of(session.id): [] for session in sessions}
    with pytest.raises(StoreFull, match="Free memory"):
        for number in range(1000):
            session = sessions[number % 8]
            session.append(user(text(number)))
            acknowledged[ThreadRef.of(session.id)].append(number)
    assert [ref for ref in copies if look(stores, ref) is not None] == []
    appends = sum(map(len, acknowledged.values()))
    for session, (ref, numbers) in zip(sessions, acknowledged.items(), strict=True):
        assert session.messages == [user(text(number)) for number in numbers]
        session.close()
        assert flush(stores, ref, "evict").outcome == "archived"
    with keep.new() as session:
        session.append(user("room again"))
    for ref, numbers in acknowledged.items():
        assert read_back(stores, ref) == [user(text(number)) for number in numbers]
    for number, ref in enumerate(copies):
        assert read_back(stores, ref) == [user(text(number))]
    record_property(
        "proof",
        f"a full Redis evicted all {len(copies)} clean copies, refused the append after {appends}, "
        "lost none of them, and took more after the flushes",
    )


def test_what_is_evicted_between_its_staging_and_its_place_is_staged_again(keep, monkeypatch):
    link, batch, evicted = keep._link, keep._link.batch, []

    async def then_evicted(commands):
        replies = await batch(commands)
        if len(evicted) < 2:
            evicted.append(commands[0][1])
            await link.run("DEL", evicted[-1])
        return replies

    monkeypatch.setattr(link, "batch", then_evicted)
    with keep.new(system="be kind") as session:
        evicted.clear()
        session.append(user(text(1) * 10))
        assert [message["content"] for message in session.messages] == ["be kind", text(1) * 10]
    assert len(evicted) == 2


def flushed(keep, stores, number):
    with keep.new() as session:
        session.append(user(text(number)))
    ref = ThreadRef.of(session.id)
    assert flush(stores, ref, "linger").residence == "lingers"
    return ref
