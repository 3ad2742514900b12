"""Redis falls back to an older moment under a session: whatever the session does next, it is told, and goes on."""

import asyncio
from typing import Any

import pytest

from tests.integration.moments import Moment
from tests.integration.protocol import messages_in, user
from threadkeep import AsyncThreadkeep, Threadkeep, ThreadRef
from threadkeep.errors import HotTierLost, LeaseLost
from threadkeep.session.session import Session
from threadkeep.storage.link import run_now as now
from threadkeep.tasks.adoption import make_app
from threadkeep.tasks.enqueue import Enqueuer
from threadkeep.tasks.flush import flush
from threadkeep.tasks.stores import Stores
from threadkeep.tasks.sweeper import sweep

OLD = [user("0"), user("1")]


@pytest.fixture
def session(keep: Threadkeep) -> Any:
    with keep.new() as session:
        session.append(*OLD, ids=["m0", "m1"])
        yield session


@pytest.fixture
def ref(session: Session) -> ThreadRef:
    return ThreadRef.of(session.id)


WRITES = {
    "append": lambda session: session.append(user("next")),
    "label": lambda session: session.label(a="b"),
    "truncate": lambda session: session.truncate("m1"),
    "replace": lambda session: session.replace(user("other")),
    "checkpoint": lambda session: session.checkpoint(wait=20),
}


def losses(stores: Stores, ref: ThreadRef) -> list[dict[str, Any]]:
    return [event.facts for _, event in stores.catalog.events(ref) if event.kind == "hot_loss"]


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("since", ["an append", "a label", "a replacement"])
def test_every_write_notices_and_the_session_goes_on(stores, session, ref, write, since):
    there = Moment(stores, ref)
    before = session._writer.rev
    match since:
        case "an append":
            session.append(user("lost"))
        case "a label":
            session.label(lost="yes")
        case "a replacement":  # as many messages as before, and others
            session.replace(user("x"), user("y"), ids=["x", "y"])
    acknowledged = session._writer.rev
    there.come_back()
    with pytest.raises(HotTierLost) as told:
        WRITES[write](session)
    assert (told.value.acknowledged, told.value.found) == (acknowledged, before)
    assert session.messages == OLD
    session.append(user("again"))
    assert messages_in(stores, ref) == session.messages == [*OLD, user("again")]


def test_a_read_notices_too(stores, keep, session, ref):
    there = Moment(stores, ref)
    session.append(user("lost"))
    session._writer._records = None
    there.come_back()
    with pytest.raises(HotTierLost):
        session.messages  # noqa: B018
    assert session.messages == OLD
    session.close()
    flush(stores, ref, "linger")
    assert len(losses(stores, ref)) == 1


def test_a_state_that_is_saved_on_leaving_notices(stores, keep, session, ref):
    there = Moment(stores, ref)
    session.append(user("lost"))
    there.come_back()
    session.state["step"] = 2
    with pytest.raises(HotTierLost):
        session.close()
    assert now(stores.hot.look(ref)).head.lease == ""
    assert keep.read(ref.thread_id).messages == OLD


@pytest.mark.parametrize("then", ["dirty", "clean"])
def test_who_leaves_without_a_write_is_told_gives_the_lease_back_and_has_the_loss_noted(stores, session, ref, then):
    if then == "clean":
        flush(stores, ref, "checkpoint")
    there = Moment(stores, ref)
    before = session._writer.rev
    session.append(user("lost"))
    acknowledged = session._writer.rev
    there.come_back()
    with pytest.raises(HotTierLost, match="append the rest again") as told:
        session.close()
    assert (told.value.acknowledged, told.value.found) == (acknowledged, before)
    assert session.flush_enqueued
    assert now(stores.hot.look(ref)).head.lease == ""
    for _ in range(2):
        assert flush(stores, ref, "linger").outcome in ("archived", "unchanged")
    assert losses(stores, ref) == [{"known_rev": acknowledged, "restored_rev": before}]
    assert messages_in(stores, ref) == OLD


@pytest.mark.parametrize("then", ["dirty", "clean"])
def test_the_sweep_notes_the_loss_where_the_flush_is_lost(stores, settings, session, ref, then):
    if then == "clean":
        flush(stores, ref, "checkpoint")
    there = Moment(stores, ref)
    session.append(user("lost"))
    there.come_back()
    with pytest.raises(HotTierLost):
        session.close()
    for _ in range(2):
        sweep(stores, Enqueuer(make_app(settings, publisher=True)), force=True)
    assert len(losses(stores, ref)) == 1


def test_an_error_of_the_apps_own_bears_the_loss_as_a_note(stores, keep):
    with pytest.raises(RuntimeError, match="mine") as raised, keep.new() as session:
        there = Moment(stores, ThreadRef.of(session.id))
        session.append(user("lost"))
        there.come_back()
        raise RuntimeError("mine")
    assert "what is left is revision" in raised.value.__notes__[0]


def test_who_leaves_where_nothing_fell_back_is_told_nothing(stores, session, ref):
    flush(stores, ref, "checkpoint")
    session.append(user("2"))
    session.close()
    flush(stores, ref, "linger")
    assert losses(stores, ref) == []


# --- to before the session ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("write", [*WRITES, "leave"])
def test_a_fall_to_before_the_session_is_no_lost_lease(stores, keep, session, ref, write):
    session.close()
    there = Moment(stores, ref)
    with pytest.raises(HotTierLost), keep.open(ref.thread_id) as second:
        second.append(user("lost"))
        there.come_back()
        if write != "leave":
            with pytest.raises(HotTierLost):
                WRITES[write](second)
            second.append(user("again"))
            assert messages_in(stores, ref) == [*OLD, user("again")]
            raise HotTierLost("told", 1, 0)


def test_who_finds_another_session_there_is_told_and_then_fenced(stores, keep, session, ref):
    there = Moment(stores, ref)
    session.close()
    second = keep.open(ref.thread_id)
    second.append(user("lost"))
    there.come_back()
    with pytest.raises(HotTierLost):
        second.append(user("next"))
    with pytest.raises(LeaseLost):
        second.append(user("next"))
    second.close()
    assert now(stores.hot.look(ref)).head.lease == session._writer.token


# --- under asyncio --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("write", ["label", "truncate", "replace", "leave"])
def test_an_async_session_notices_as_well(settings, stores, write):
    async def talk() -> tuple[ThreadRef, int]:
        async with AsyncThreadkeep(settings) as keep:
            session = await keep.new()
            ref = ThreadRef.of(session.id)
            await session.append(*OLD, ids=["m0", "m1"])
            there = Moment(stores, ref)
            await session.append(user("lost"))
            there.come_back()
            with pytest.raises(HotTierLost) as told:
                await (session.close() if write == "leave" else WRITES[write](session))
            if write != "leave":
                assert await session.messages == OLD
                await session.close()
            return ref, told.value.acknowledged

    ref, acknowledged = asyncio.run(asyncio.wait_for(talk(), 30))
    flush(stores, ref, "linger")
    assert [facts["known_rev"] for facts in losses(stores, ref)] == [acknowledged]
