"""A thread's whole life through the session API, with a real worker behind it."""

import asyncio

import pytest

from tests.waiting import until
from threadkeep import AsyncThreadkeep, Entry, ThreadBusy, ThreadExists, Threadkeep, ThreadNotFound


@pytest.fixture
def keep(settings):
    with Threadkeep(settings) as keep:
        yield keep


def user(text):
    return {"role": "user", "content": text}


def test_a_thread_goes_cold_and_comes_back_whole(keep, worker):
    worker()
    with keep.new("ticket-42", labels={"tenant": "acme"}, state={"step": 1}, wait_flush=20) as session:
        first = session.append(user("hello"), {"role": "assistant", "content": "hi"})
        session.state["step"] = 2
    assert session.flush_enqueued
    keep.flush("ticket-42", wait=20)
    until(lambda: not keep.stat("ticket-42").cached)
    stat = keep.stat("ticket-42")
    assert (stat.tier, stat.count, stat.labels) == ("cold", 2, {"tenant": "acme"})

    with keep.open("ticket-42") as session:
        assert session.messages == [user("hello"), {"role": "assistant", "content": "hi"}]
        assert [entry.id for entry in session.entries] == first
        assert [entry.kind for entry in session.entries] == ["user", "assistant"]
        assert session.state == {"step": 2}
        assert session.labels == {"tenant": "acme"}
        assert session.append(user("again"), id="m3") == ["m3"]
    assert keep.read("ticket-42").messages[-1] == user("again")


def test_new_refuses_an_id_that_is_hot_or_archived(keep, worker):
    worker()
    with keep.new("taken") as session:
        session.append(user("1"))
        with pytest.raises(ThreadExists):
            keep.new("taken")
    keep.flush("taken", wait=20)
    with pytest.raises(ThreadExists, match="archived"):
        keep.new("taken")
    with keep.new("taken", overwrite=True, wait_flush=20) as session:
        assert session.messages == []
        session.append(user("2"))
    keep.flush("taken", wait=20)
    assert keep.read("taken").messages == [user("2")]


def test_open_says_that_a_thread_is_nowhere(keep, worker):
    worker()
    with pytest.raises(ThreadNotFound):
        keep.open("nowhere")
    assert not keep.exists("nowhere")
    with keep.open("nowhere", create=True) as session:
        session.append(user("now it is"))
    assert keep.exists("nowhere")


def test_a_second_writer_is_told_who_is_busy(keep):
    with keep.new() as session:
        with pytest.raises(ThreadBusy):
            keep.open(session.id)
        assert keep.read(session.id).messages == []
        session.append(user("still mine"))


def test_a_fork_leaves_its_source_alone(keep, worker):
    worker()
    with keep.new("source", wait_flush=20) as session:
        ids = session.append(*[user(str(n)) for n in range(6)])
    keep.flush("source", wait=20)
    with keep.open("source") as session:
        session.append(user("tail"), id="t")
    with keep.fork("source", before=ids[4]) as fork:
        assert fork.messages == [user(str(n)) for n in range(4)]
        fork.append(user("other way"))
        fork_id = fork.id
    with keep.fork("source", id="copy") as whole:
        assert len(whole.messages) == 7
    for thread in ("source", fork_id, "copy"):
        keep.flush(thread, wait=20)
    assert len(keep.read("source").messages) == 7
    assert keep.read(fork_id).messages == [*[user(str(n)) for n in range(4)], user("other way")]
    assert keep.stat(fork_id).forked_from == "messages/source"
    with keep.open(fork_id) as fork:
        assert fork.append(user("0"), id=ids[0]) == [ids[0]]
        assert len(fork.messages) == 5


def test_truncate_and_replace_reach_into_the_archive(keep, worker):
    worker()
    with keep.new("t") as session:
        ids = session.append(*[user(str(n)) for n in range(10)])
    keep.flush("t", wait=20)
    with keep.open("t") as session:
        session.append(user("tail"), id="tail")
        assert session.truncate("tail") == 1
        assert session.truncate(ids[7]) == 3
        assert session.messages == [user(str(n)) for n in range(7)]
        session.append(user("7b"), id=ids[7])
    keep.flush("t", wait=20)
    assert keep.read("t").messages == [*[user(str(n)) for n in range(7)], user("7b")]
    with keep.open("t") as session:
        session.replace(user("only"), ids=["only"])
    keep.flush("t", wait=20)
    assert keep.read("t").messages == [user("only")]


def test_delete_removes_a_thread_everywhere_and_spares_its_successor(keep, worker):
    worker()
    with keep.new("gone", wait_flush=20) as session:
        session.append(user("secret"))
    keep.delete("gone", wait=20)
    assert not keep.exists("gone")
    with keep.new("gone") as session:
        session.append(user("successor"))
    keep.flush("gone", wait=20)
    assert keep.read("gone").messages == [user("successor")]


def test_asyncio_does_all_that_too(settings, worker):
    worker()

    async def life():
        async with AsyncThreadkeep(settings) as keep:
            async with keep.new("a", wait_flush=20) as session:
                await session.append(user("1"), Entry("e", "assistant", {"role": "assistant", "content": "2"}))
            await keep.flush("a", wait=20)
            while (await keep.stat("a")).cached:
                await asyncio.sleep(0.02)
            async with keep.open("a") as session:
                assert await session.messages == [user("1"), {"role": "assistant", "content": "2"}]
                with pytest.raises(ThreadBusy):
                    await keep.open("a")
            async with keep.fork("a", before="e") as fork:
                assert await fork.messages == [user("1")]
            await keep.delete("a", wait=20)
            assert not await keep.exists("a")

    asyncio.run(life())


def test_a_thread_id_alone_is_enough_for_every_task(settings, worker):
    """As when somebody sends a task by hand; the namespace is then the settings' own."""
    from threadkeep.tasks.adoption import make_app

    own = settings.model_copy(update={"namespace": "tenant-7"})
    with Threadkeep(own) as keep:
        with keep.new() as session:
            session.append(user("1"))
        assert session.namespace == "tenant-7"
        started = worker(settings=own)
        app = make_app(own, publisher=True)
        for task in ("flush", "hydrate", "describe", "erase"):
            app.send_task(f"threadkeep.{task}_thread", args=[session.id])
            until(lambda task=task: f"threadkeep.{task}_thread" in started.log() and "succeeded" in started.log())
        app.send_task("threadkeep.purge_conflicts", args=[session.id])
        until(lambda: "'outcome': 'erased'" in started.log() and "'outcome': 'purged'" in started.log())
        assert not keep.exists(session.id)


NASTY = [
    "..",
    ".",
    "a/b",
    "/lead/trail/",
    "100%",
    "%2F",
    "{tag}",
    "}{",
    "a b?c#d&e=f",
    "нить-😀-é",
    "x" * 240,
    "conflicts",
    "*?[glob]",
]


def test_threads_of_any_name_go_cold_and_come_back_apart(keep, worker):
    """Each name, and each namespace, is a thread of its own, in Redis and in the bucket."""
    worker()
    places = [(name, "messages") for name in NASTY] + [("t", name[:60]) for name in NASTY]
    for name, namespace in places:
        with keep.new(name, namespace=namespace) as session:
            session.append(user(f"{namespace} / {name}"))
    for name, namespace in places:
        keep.flush(name, namespace=namespace, wait=20)
    for name, namespace in places:
        assert keep.read(name, namespace=namespace).messages == [user(f"{namespace} / {name}")]
