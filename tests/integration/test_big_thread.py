"""A thread of 20,000 messages and 50 MB: it moves whole, and a second flush works only on what is new."""

import pytest

from tests.corpus import conversation
from threadkeep.model import ThreadRef
from threadkeep.storage.link import run_now as now
from threadkeep.tasks.flush import flush
from threadkeep.tasks.hydrate import hydrate

MESSAGES, SIZE = 20_000, 50_000_000


@pytest.fixture(scope="module")
def messages():
    made = list(conversation(MESSAGES, SIZE))
    assert len(made) == MESSAGES
    return made


@pytest.mark.timeout(240)
def test_twenty_thousand_messages_go_and_come_back_and_grow(keep, stores, messages):
    with keep.new() as session:
        for at in range(0, MESSAGES, 1000):
            session.append(*messages[at : at + 1000])
    ref = ThreadRef.of(session.id)
    first = flush(stores, ref, "evict")
    assert (first.outcome, first.residence, first.count) == ("archived", "evicted", MESSAGES)
    assert first.compressed > SIZE
    assert first.bytes < SIZE / 3

    assert hydrate(stores, ref).outcome == "restored"
    used = now(stores.hot.link.run("MEMORY", "USAGE", stores.hot.keys(ref).base, "SAMPLES", 0))
    assert used < first.bytes * 1.2, "a hydrated thread costs Redis its compressed size"
    with keep.open(ref.thread_id) as session:
        assert session.messages == messages
        more = list(conversation(20, 50_000))
        session.append(*more, ids=[f"more-{n}" for n in range(20)])

    second = flush(stores, ref, "evict")
    assert (second.outcome, second.count) == ("archived", MESSAGES + 20)
    assert second.compressed < 70_000, "only the tail is compressed"
    assert second.bytes - first.bytes < 70_000

    assert hydrate(stores, ref).outcome == "restored"
    view = keep.read(ref.thread_id)
    assert view.messages == [*messages, *more]
    assert view.entries[-1].id == "more-19"
