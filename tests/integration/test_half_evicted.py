"""Some keys of a thread are gone, others are there: what still exists is put together again, or the loss is told."""

import asyncio
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import pytest

from tests.integration.command import run_command
from tests.integration.moments import Moment
from tests.integration.protocol import Racing, messages_in, user
from threadkeep import AsyncThreadkeep, Entry, Threadkeep, ThreadRef
from threadkeep.errors import HotTierLost, HydrateFailed, StoreUnavailable, ThreadkeepError, ThreadNotFound
from threadkeep.model import fresh_mark
from threadkeep.session.session import Session
from threadkeep.storage.archive import read_frames
from threadkeep.storage.limits import ReadLimits
from threadkeep.storage.link import run_now as now
from threadkeep.storage.snapshot_v1 import write_v1
from threadkeep.tasks import sealing
from threadkeep.tasks.adoption import make_app
from threadkeep.tasks.conf import HYDRATE
from threadkeep.tasks.enqueue import Enqueuer
from threadkeep.tasks.erase import erase
from threadkeep.tasks.flush import flush
from threadkeep.tasks.hydrate import hydrate
from threadkeep.tasks.stores import Stores
from threadkeep.tasks.sweeper import SweepCounts, sweep
from threadkeep.testing.wire import Answer, FaultyProxy

PARTS = ("head", "base", "log", "ids")
SUBSETS = [subset for many in (1, 2, 3, 4) for subset in combinations(PARTS, many)]
FRAMES = 3
LOST = (HotTierLost, HydrateFailed)


def test_ids_as_an_earlier_release_kept_them_are_made_anew(keep, stores):
    """They took 16 bytes a message. Who did not drain Redis before an update finds the thread whole all the same."""
    session = keep.new()
    session.append(user("1"), user("2"), ids=["m1", "m2"])
    ref = ThreadRef.of(session.id)
    flush(stores, ref, "linger")
    session.append(user("3"), ids=["m3"])
    now(stores.hot.link.run("SET", stores.hot.keys(ref).ids, os.urandom(16 * 3)))
    assert hydrate(stores, ref).outcome == "mended"
    session.append(user("3"), user("4"), ids=["m3", "m4"])
    assert messages_in(stores, ref) == [user(text) for text in "1234"]
    session.close()
    assert flush(stores, ref, "evict").outcome == "archived"


class AtOnce(Enqueuer):
    """Has a hydrate run by the time it is queued; what else is queued waits for workers that never come."""

    __slots__ = ("stores",)

    def __init__(self, stores: Stores) -> None:
        super().__init__(make_app(stores.settings, publisher=True))
        object.__setattr__(self, "stores", stores)

    def hydrate(self, ref: ThreadRef, token: str, *, expires: float) -> None:
        hydrate(self.stores, ref)


class FlushDiedError(Exception):
    """A worker died between its PUT and its settle."""


@dataclass
class Case:
    """A thread as it was before some of its keys went."""

    keep: Threadkeep
    stores: Stores
    session: Session
    said: list[Any] = field(default_factory=list)
    archived: int = 0

    @property
    def ref(self) -> ThreadRef:
        return ThreadRef.of(self.session.id)

    def say(self, count: int = 2) -> None:
        new = [user(f"message {len(self.said) + number}") for number in range(count)]
        self.session.append(*new)
        self.said += new

    def flush(self, mode: Any = "checkpoint") -> None:
        assert flush(self.stores, self.ref, mode).outcome == "archived"
        self.archived = len(self.said)

    def flush_dies_before_it_settles(self, mode: Any = "checkpoint") -> None:
        def die() -> None:
            raise FlushDiedError

        with pytest.raises(FlushDiedError), Racing(self.stores, "settle", die):
            flush(self.stores, self.ref, mode)
        self.archived = len(self.said)

    def lose(self, parts: tuple[str, ...]) -> None:
        keys = self.stores.hot.keys(self.ref)
        now(self.stores.hot.link.run("DEL", *(getattr(keys, part) for part in parts)))

    def nobody_waits(self) -> None:
        now(self.stores.hot.link.run("HDEL", self.stores.hot.keys(self.ref).head, "keep_until"))


def clean(case: Case) -> None:
    case.say()
    case.session.close()
    case.flush("linger")


def clean_and_leased(case: Case) -> None:
    case.say()
    case.flush()


def dirty(case: Case) -> None:
    dirty_and_leased(case)
    case.session.close()


def dirty_and_leased(case: Case) -> None:
    case.say()
    case.flush()
    case.say()


def dirty_in_its_state(case: Case) -> None:
    case.say()
    case.flush()
    case.session.state["step"] = 1
    case.session.close()


def never_archived(case: Case) -> None:
    never_archived_and_leased(case)
    case.session.close()


def never_archived_and_leased(case: Case) -> None:
    case.say(3)


def flushed_twice(case: Case) -> None:
    for _ in range(2):
        case.say()
        case.flush()
    case.say()
    case.session.close()


def compacted(case: Case) -> None:
    _many_frames(case)
    case.say()
    case.flush("evict")
    assert now(case.stores.hot.look(case.ref)).head.frames == 1
    case.say()
    case.session.close()


def put_but_not_settled(case: Case) -> None:
    case.say()
    case.flush()
    case.say()
    case.flush_dies_before_it_settles()
    case.say()
    case.session.close()


def put_but_not_settled_and_nothing_since(case: Case) -> None:
    case.say()
    case.flush()
    case.say()
    case.flush_dies_before_it_settles()
    case.session.close()


def first_put_not_settled(case: Case) -> None:
    case.say()
    case.flush_dies_before_it_settles()
    case.say()
    case.session.close()


def compacted_but_not_settled(case: Case) -> None:
    _many_frames(case)
    case.say()
    case.flush_dies_before_it_settles("evict")
    case.say()
    case.session.close()


def _many_frames(case: Case) -> None:
    for _ in range(FRAMES):
        case.say(1)
        case.flush()


HISTORIES = (
    clean,
    clean_and_leased,
    dirty,
    dirty_and_leased,
    dirty_in_its_state,
    never_archived,
    never_archived_and_leased,
    flushed_twice,
    compacted,
    put_but_not_settled,
    put_but_not_settled_and_nothing_since,
    first_put_not_settled,
    compacted_but_not_settled,
)
SWEPT = HISTORIES if os.environ.get("PROVE") else (dirty, never_archived, put_but_not_settled_and_nothing_since)


@pytest.fixture(autouse=True)
def _soon_compacted(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a thread of sixteen frames and more is."""
    few = lambda *, frames, base_bytes, evicting: evicting and frames >= FRAMES  # noqa: E731
    monkeypatch.setattr(sealing, "should_compact", few)


@pytest.fixture
def swept(stores: Stores) -> Callable[[], SweepCounts]:
    return lambda: sweep(stores, AtOnce(stores), force=True)


@pytest.fixture
def begun(keep: Threadkeep, stores: Stores) -> Any:
    keep._threads.enqueuer = AtOnce(stores)
    cases: list[Case] = []

    def begin(history: Callable[[Case], None]) -> Case:
        cases.append(Case(keep, stores, keep.new()))
        history(cases[-1])
        return cases[-1]

    yield begin
    for case in cases:
        with suppress(ThreadkeepError):
            case.session.close()


def must_be_told(history: Callable[[Case], None], parts: tuple[str, ...]) -> bool:
    """Whether something was only in the parts that are gone; nobody can say what a head that is missing counted."""
    if history in (clean, clean_and_leased):
        return False
    if "head" in parts:
        return True
    only_in_the_log = history not in (dirty_in_its_state, put_but_not_settled_and_nothing_since)
    return "log" in parts and only_in_the_log


def must_be_noted(history: Callable[[Case], None], parts: tuple[str, ...]) -> bool:
    """A session that has read all that the archive holds knows better than the worker that nothing was lost."""
    return must_be_told(history, parts) or (history is clean_and_leased and "head" in parts)


def visited(case: Case) -> str:
    """Somebody opens the thread, or goes on in a session that is open: what there is, or how the loss was told."""
    told = ""
    try:
        if case.session._writer.closed:
            case.session = case.keep.open(case.session.id)
        case.session.append(user("after"), id="after")
    except LOST as error:
        told = type(error).__name__
    if told:
        with suppress(ThreadNotFound):
            case.session = case.keep.open(case.session.id)
            assert case.session.messages == case.said[: case.archived]
        return told
    assert case.session.messages == [*case.said, user("after")]
    case.session.append(user("after"), id="after")
    case.session.close()
    assert_sound_when_flushed_and_brought_back(case)
    return ""


def assert_sound_when_flushed_and_brought_back(case: Case) -> None:
    case.nobody_waits()
    assert flush(case.stores, case.ref, "evict").residence == "evicted"
    assert now(case.stores.hot.look(case.ref)).head is None
    hydrate(case.stores, case.ref)
    assert messages_in(case.stores, case.ref) == [*case.said, user("after")]


def kinds(case: Case) -> list[str]:
    return [event.kind for _, event in case.stores.catalog.events(case.ref)]


def test_whatever_keys_are_gone_all_messages_are_back_or_the_loss_is_told(begun, record_property):
    for history in HISTORIES:
        started = time.perf_counter()
        told = [loss_told_of(begun(history), history, parts) for parts in SUBSETS].count(True)
        took = time.perf_counter() - started
        proof = f"{len(SUBSETS)} sets of keys deleted, {len(SUBSETS) - told} times nothing was lost, {told} times told"
        record_property("proof", f"{history.__name__.replace('_', ' ')}: {proof}; {took:.1f} s")


def loss_told_of(case: Case, history: Callable[[Case], None], parts: tuple[str, ...]) -> bool:
    case.lose(parts)
    loss = visited(case)
    assert bool(loss) == must_be_told(history, parts), (history, parts, loss)
    assert kinds(case).count("hot_loss") == must_be_noted(history, parts), (history, parts)
    return bool(loss)


def test_the_sweep_has_threads_mended_before_anybody_visits_them(begun, swept, record_property):
    cases = [(begun(history), history, parts) for history in SWEPT for parts in SUBSETS]
    for case, _, parts in cases:
        case.lose(parts)
    broken = sum(is_broken(case) for case, _, _ in cases)
    assert (swept().broken, sum(is_broken(case) for case, _, _ in cases), swept().broken) == (broken, 0, 0)
    for case, history, parts in cases:
        loss = visited(case)
        assert bool(loss) == must_be_told(history, parts), (history, parts, loss)
        assert kinds(case).count("hot_loss") == must_be_noted(history, parts), (history, parts)
    record_property("proof", f"{broken} half-evicted threads were mended or given up by one sweep, then visited")


def is_broken(case: Case) -> bool:
    return now(case.stores.hot.look(case.ref)).remains is not None


# --- with workers, from both faces ----------------------------------------------------------------------------------


def test_an_open_session_goes_on_once_its_thread_is_mended(keep, stores, worker):
    worker()
    case = Case(keep, stores, keep.new())
    dirty_and_leased(case)
    case.lose(("base", "ids"))
    assert case.session.append(user("next"), id="next") == ["next"]
    assert case.session.append(user("next"), id="next") == ["next"]
    case.lose(("ids",))
    case.session.checkpoint(wait=20)
    assert archived_in(stores, case.ref) == case.session.messages == [*case.said, user("next")]
    case.session.close()


def test_an_async_session_goes_on_too_and_whoever_opens_a_lost_thread_is_told_once(settings, stores, worker):
    worker(HYDRATE)

    async def talk() -> None:
        async with AsyncThreadkeep(settings) as keep:
            async with keep.new() as session:
                await session.append(user("1"))
                flush(stores, ThreadRef.of(session.id), "checkpoint")
                await session.append(user("2"))
                delete(stores, session.id, "base")
                await session.append(user("3"))
                assert await session.messages == [user("1"), user("2"), user("3")]
            delete(stores, session.id, "log")
            with pytest.raises(HotTierLost, match="append the rest again"):
                await keep.read(session.id)
            assert (await keep.read(session.id)).messages == [user("1")]

    asyncio.run(asyncio.wait_for(talk(), 60))


def test_a_session_is_told_once_and_goes_on_from_what_is_left(begun):
    case = begun(dirty_and_leased)
    assert case.session.messages == case.said
    case.lose(("log",))
    with pytest.raises(HotTierLost) as told:
        case.session.append(user("next"))
    assert told.value.found < told.value.acknowledged
    assert case.session.messages == case.said[: case.archived]
    case.session.append(user("next"))
    assert messages_in(case.stores, case.ref) == [*case.said[: case.archived], user("next")]


def test_all_who_wait_for_a_lost_thread_are_told(begun, stores, settings, worker):
    case = begun(dirty)
    case.lose(("log", "ids"))

    async def read_all() -> list[Any]:
        async with AsyncThreadkeep(settings) as keep:
            waiting = [asyncio.create_task(keep.read(case.session.id)) for _ in range(8)]
            while now(stores.hot.link.run("PUBSUB", "NUMSUB", stores.hot.keys(case.ref).channel))[1] < 8:
                await asyncio.sleep(0.01)
            await asyncio.to_thread(worker, HYDRATE)
            return await asyncio.gather(*waiting, return_exceptions=True)

    told = asyncio.run(asyncio.wait_for(read_all(), 60))
    assert [type(each) for each in told] == [HotTierLost] * 8
    assert kinds(case).count("hot_loss") == 1


# --- where a base can be had ----------------------------------------------------------------------------------------


def test_a_fork_that_was_never_archived_has_its_base_from_its_source(begun, keep, stores):
    case = begun(clean)
    with keep.fork(case.session.id) as fork:
        fork.append(user("of the fork"))
    delete(stores, fork.id, "base", "ids")
    assert keep.read(fork.id).messages == [*case.said, user("of the fork")]


def test_a_fork_whose_source_is_gone_is_lost_and_told(begun, keep, stores):
    case = begun(clean)
    with keep.fork(case.session.id) as fork:
        fork.append(user("of the fork"))
    erase(stores, case.ref, fresh_mark(), 0)
    delete(stores, fork.id, "base")
    with pytest.raises(HydrateFailed, match="never archived"):
        keep.read(fork.id)


def test_a_snapshot_of_version_1_gives_a_base_back(settings, stores_for_test, raw_bucket):
    stores = stores_for_test(settings.model_copy(update={"v1_fallback": True}))
    ref = ThreadRef.of("old")
    said = [Entry(f"m{number}", "user", user(str(number))) for number in range(3)]
    key = f"{settings.s3_prefix}/messages/old.json.gz"
    body = write_v1(said, {"a": 1}, codec="plain", compress=True)
    raw_bucket.put_object(Bucket=settings.s3_bucket, Key=key, Body=body)
    assert hydrate(stores, ref).outcome == "restored"
    before = messages_in(stores, ref)
    with Threadkeep(stores.settings) as keep:
        keep._threads.enqueuer = AtOnce(stores)
        with keep.open("old") as session:
            session.append({"n": 1})
        delete(stores, "old", "base", "ids")
        assert keep.read("old").messages == [*before, {"n": 1}]


def test_a_base_that_two_flushes_of_one_revision_framed_differently_is_found(begun, stores):
    """One flush rewrote the frames and was stored; the other, of the same revision, settled with frames of its own."""
    case = begun(never_archived_and_leased)
    for _ in range(2):
        case.flush()
        case.say(1)
    case.flush()
    case.say(1)
    with Racing(stores, "put", lambda: case.flush_dies_before_it_settles("evict")):
        assert flush(stores, case.ref, "checkpoint").outcome == "archived"
    assert stores.cold.head(case.ref).meta.chain != now(stores.hot.look(case.ref)).head.chain
    case.say()
    case.lose(("base",))
    assert visited(case) == ""


def test_without_a_base_no_archive_is_needed(begun, stores_for_test, settings):
    case = begun(never_archived)
    case.lose(("ids",))
    with FaultyProxy(settings.s3_endpoint) as proxy:
        proxy.inject(Answer(503, "SlowDown"), times=100)
        away = stores_for_test(settings.model_copy(update={"s3_endpoint": proxy.endpoint}))
        assert hydrate(away, case.ref).outcome == "mended"
    assert visited(case) == ""


def test_an_object_of_another_timeline_mends_nothing_that_is_not_its_own(begun, stores):
    """Redis had fallen back, and what was flushed since is not in its past: it is kept aside, not mixed in."""
    case = begun(dirty_and_leased)
    there = Moment(stores, case.ref)
    case.say()
    case.flush()
    there.come_back()
    case.said = case.said[:4]
    with pytest.raises(HotTierLost):
        case.session.append(user("lost"))
    case.session.append(user("other"))
    case.said.append(user("other"))
    case.lose(("base", "ids"))
    assert visited(case) == ""
    assert len(stores.cold.conflicts(case.ref)) == 1


def test_a_base_of_as_many_other_messages_is_not_taken_for_its_own(begun, stores, raw_bucket):
    """Redis fell back, the thread went another way and was archived so; then somebody put the first object back."""
    case = begun(clean_and_leased)
    there = Moment(stores, case.ref)
    case.say()
    case.flush()
    stored, first_way = stores.cold.get(case.ref)
    there.come_back()
    with pytest.raises(HotTierLost):
        case.session.append(user("lost"))
    case.session.append(user("other"), user("another"))
    case.flush()
    case.session.append(user("only in Redis"))
    case.lose(("base", "ids"))
    at = {"Bucket": stores.settings.s3_bucket, "Key": stored.key}
    raw_bucket.put_object(**at, Body=first_way, Metadata=stored.meta.to_headers())
    with pytest.raises(HotTierLost):
        case.session.append(user("next"))
    assert case.keep.read(case.session.id).messages == case.said


# --- what cannot be mended now --------------------------------------------------------------------------------------


def test_remains_wait_for_a_damaged_object_to_be_put_right(begun, stores, raw_bucket, swept):
    case = begun(dirty)
    case.lose(("base",))
    stored, body = stores.cold.get(case.ref)
    put = {"Bucket": stores.settings.s3_bucket, "Key": stored.key, "Metadata": stored.meta.to_headers()}
    raw_bucket.put_object(**put, Body=body[:-3])
    assert [swept().broken for _ in range(3)] == [1, 0, 0]
    assert kinds(case).count("corrupt") == 1
    with pytest.raises(HydrateFailed, match="cut short"):
        case.keep.read(case.session.id)
    raw_bucket.put_object(**put, Body=body)
    assert case.keep.read(case.session.id).messages == case.said
    assert "mended" in kinds(case)


def test_a_store_that_is_away_leaves_the_remains_as_they_are(begun, stores_for_test, settings, swept):
    case = begun(dirty)
    case.lose(("base",))
    with FaultyProxy(settings.s3_endpoint) as proxy:
        proxy.inject(Answer(503, "SlowDown"), times=100)
        away = stores_for_test(settings.model_copy(update={"s3_endpoint": proxy.endpoint}))
        with pytest.raises(StoreUnavailable):
            hydrate(away, case.ref)
    assert is_broken(case)
    assert (swept().broken, is_broken(case)) == (1, False)
    assert visited(case) == ""


def test_a_log_that_goes_while_its_thread_is_mended_is_told(begun, stores, monkeypatch):
    case = begun(dirty)
    case.lose(("base",))
    original = stores.flow.mend

    async def late(*args: Any) -> str:
        case.lose(("log",))
        return str(await original(*args))

    monkeypatch.setattr(stores.flow, "mend", late)
    assert hydrate(stores, case.ref).outcome == "lost"
    assert visited(case) == "HotTierLost"


def test_a_thread_that_was_mended_meanwhile_is_left_alone(begun, stores, monkeypatch):
    case = begun(dirty)
    case.lose(("base",))
    original = stores.flow.mend

    async def late(*args: Any) -> str:
        monkeypatch.setattr(stores.flow, "mend", original)
        assert hydrate(stores, case.ref).outcome == "mended"
        return str(await original(*args))

    monkeypatch.setattr(stores.flow, "mend", late)
    assert hydrate(stores, case.ref).outcome == "present"
    assert visited(case) == ""


def test_an_erasure_takes_remains_along_and_spares_those_of_a_successor(begun, stores):
    case = begun(dirty)
    case.lose(("ids",))
    before = now(stores.hot.look(case.ref)).remains.head.born - 1
    assert erase(stores, case.ref, fresh_mark(), before).outcome == "spared"
    assert is_broken(case)
    assert erase(stores, case.ref, fresh_mark(), 0).outcome == "erased"
    assert not is_broken(case)
    with pytest.raises(ThreadNotFound):
        case.keep.read(case.session.id)
    assert "hot_loss" not in kinds(case)


# --- the command line -----------------------------------------------------------------------------------------------


def test_show_says_that_a_thread_is_broken_until_it_is_mended(begun, settings):
    case = begun(dirty)
    case.lose(("base", "ids"))
    shown = run_command(settings, "show", case.session.id, "--json")
    assert len(shown.lines) == case.archived
    assert "is broken in Redis: base, ids missing" in shown.err.replace("\n", " ")
    assert visited(case) == ""
    shown = run_command(settings, "show", case.session.id, "--json")
    assert (len(shown.lines), shown.err) == (len(case.said) + 1, "")


def delete(stores: Stores, thread_id: str, *parts: str) -> None:
    keys = stores.hot.keys(ThreadRef.of(thread_id))
    now(stores.hot.link.run("DEL", *(getattr(keys, part) for part in parts)))


def archived_in(stores: Stores, ref: ThreadRef) -> list[Any]:
    stored, body = stores.cold.get(ref)
    frames = read_frames(body, where=stored.key, limits=ReadLimits(10**9))
    return [Entry.from_record(record).body for frame in frames for record in frame.records]
