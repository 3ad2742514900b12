"""What goes over a connection to Redis is answered by its own reply, whatever breaks, interrupts or crowds it."""

import asyncio
import os
import select
import signal
import socket
import tempfile
import threading
import time
from urllib.parse import urlsplit

import pytest

from tests.waiting import until
from threadkeep.errors import StoreRefused, StoreUnavailable
from threadkeep.local.valkey import ValkeyServer
from threadkeep.storage.link import AsyncLink, SyncLink
from threadkeep.storage.link import run_now as now

SLOW = "for _ = 1, ARGV[1] * 1000000 do end return 'slow'"
"""Keeps the server busy for some milliseconds for each million; its clock stands still in a script."""


@pytest.fixture
def link(settings):
    link = SyncLink(settings)
    yield link
    now(link.close())


@pytest.fixture
def key(settings):
    return f"{settings.key_prefix}:connections"


def connections(link):
    """How many of ours the server has."""
    told = now(link.run("CLIENT", "LIST")).decode()
    return told.count("name=threadkeep ")


def kill_all(settings):
    """Have the server close the connections of all its clients, as a restart or an idle limit does."""
    other = SyncLink(settings)
    now(other.run("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"))
    now(other.close())


def test_a_connection_that_the_server_closed_is_made_anew_unnoticed(link, settings, key):
    for turn in range(3):
        assert now(link.run("SET", key, turn, "PX", 60_000)) == b"OK"
        kill_all(settings)
        assert now(link.run("GET", key)) == str(turn).encode()
        kill_all(settings)
        assert now(link.batch([("GET", key), ("PING",)])) == [str(turn).encode(), b"PONG"]


def test_every_connection_that_lay_idle_is_made_anew(link, settings):
    start = threading.Barrier(6)

    def ask():
        start.wait()
        now(link.run("EVAL", SLOW, 0, 3))

    askers = [threading.Thread(target=ask) for _ in range(6)]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join()
    kill_all(settings)
    assert [now(link.run("ECHO", turn)) for turn in range(12)] == [str(turn).encode() for turn in range(12)]


class Interrupted(Exception):
    """As Celery's soft time limit comes."""


def test_what_a_signal_interrupts_leaves_no_reply_for_whoever_comes_next(link, monkeypatch):
    def interrupt(*_):
        raise Interrupted

    now(link.run("PING"))
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        for _ in range(5):
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            with pytest.raises(Interrupted):
                now(link.run("EVAL", SLOW, 0, 30))
            assert now(link.run("ECHO", "mine")) == b"mine"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_what_nobody_asked_for_is_no_reply(link):
    now(link.run("PING"))
    (idle,) = link._connections._idle
    for turn in range(5):
        idle._sock.sendall(b"PING\r\n")
        assert select.select([idle._sock], [], [], 5)[0]
        assert now(link.run("ECHO", turn)) == str(turn).encode()


def test_what_nobody_asked_for_is_no_reply_to_a_task(settings):
    async def ask():
        link = AsyncLink(settings)
        await link.run("PING")
        (idle,) = link._connections._idle
        for turn in range(5):
            idle._writer.write(b"PING\r\n")
            await asyncio.sleep(0.1)
            assert await link.run("ECHO", turn) == str(turn).encode()
        await link.close()

    asyncio.run(ask())


def test_an_error_stands_in_the_way_of_nothing_that_follows(link, key):
    now(link.run("SET", key, "text", "PX", 60_000))
    for _ in range(3):
        with pytest.raises(StoreRefused, match="WRONGTYPE"):
            now(link.run("LPUSH", key, 1))
        with pytest.raises(StoreRefused, match="WRONGTYPE"):
            now(link.batch([("ECHO", "a"), ("LPUSH", key, 1), ("ECHO", "b")]))
        assert now(link.batch([("ECHO", "c"), ("GET", key)])) == [b"c", b"text"]


def test_what_cannot_be_sent_breaks_no_connection_for_others(link):
    now(link.run("PING"))
    for argument in (None, object(), ["a"], "\ud800"):
        with pytest.raises(StoreRefused, match="cannot be sent"):
            now(link.run("ECHO", argument))
        assert now(link.run("ECHO", "mine")) == b"mine"


def test_callers_queue_for_the_connections_that_there_may_be(settings, key):
    few = SyncLink(settings.model_copy(update={"redis_max_connections": 2}))
    told = []

    def ask(number):
        told.append(now(few.run("ECHO", number)))

    askers = [threading.Thread(target=ask, args=(number,)) for number in range(40)]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join()
    assert sorted(told) == sorted(str(number).encode() for number in range(40))
    now(few.close())


@pytest.mark.parametrize("options", ["max_connections=many", "no_such_option=1"])
def test_an_option_of_the_url_that_is_none_is_refused_without_the_password(settings, options):
    link = SyncLink(settings.model_copy(update={"redis_url": f"redis://:secret@127.0.0.1?{options}"}))
    with pytest.raises(StoreRefused, match="THREADKEEP_REDIS_URL") as refusal:
        now(link.run("PING"))
    assert "secret" not in str(refusal.value)


OPTIONS = ["protocol=3", "timeout=3", "max_connections=2", "client_name=other", "decode_responses=true"]


@pytest.mark.parametrize("options", OPTIONS)
def test_options_of_the_url_are_understood(settings, options):
    """Replies stay those of RESP2, whatever it says."""
    link = SyncLink(settings.model_copy(update={"redis_url": f"{settings.redis_url}?{options}"}))
    assert now(link.batch([("PING",), ("CONFIG", "GET", "port")]))[1][0] == b"port"
    assert now(link.info())[0]["redis_version"]
    assert link._connections._left._value == (2 if "max" in options else settings.redis_max_connections)
    now(link.close())


def test_a_server_may_be_reached_over_a_unix_socket(settings, tmp_path):
    with tempfile.TemporaryDirectory() as folder, ValkeyServer(tmp_path, extra=[f"unixsocket {folder}/s"]) as server:
        password = urlsplit(server.url()).password
        local = settings.model_copy(update={"redis_url": f"unix://:{password}@{folder}/s?db=2"})
        link = SyncLink(local)
        assert now(link.run("SELECT", 3)) == b"OK"
        assert now(link.info())[0]["redis_version"]
        now(link.close())

        async def ask():
            link = AsyncLink(local)
            assert await link.run("PING") == b"PONG"
            async with link.listen("news") as listener:
                await link.run("PUBLISH", "news", "1")
                assert await listener.wait(5)
            await link.close()

        asyncio.run(ask())


def test_what_goes_wrong_before_there_is_a_connection_costs_none(settings, monkeypatch):
    few = SyncLink(settings.model_copy(update={"redis_max_connections": 1, "redis_timeout": 0.5}))
    with monkeypatch.context() as patch:
        now(few.run("PING"))
        few._connections.close()
        patch.setattr(few._connections, "_make", lambda: 1 / 0)
        for _ in range(3):
            with pytest.raises(ZeroDivisionError):
                now(few.run("PING"))
    assert now(few.run("PING")) == b"PONG"
    now(few.close())


def test_who_gets_no_connection_in_time_is_told_so(settings):
    one = SyncLink(settings.model_copy(update={"redis_max_connections": 1, "redis_timeout": 1}))
    now(one.run("PING"))
    one._connections._left.acquire()  # as whoever waits for an answer that does not come
    started = time.monotonic()
    with pytest.raises(StoreUnavailable, match="all connections are in use"):
        now(one.run("PING"))
    assert 0.9 < time.monotonic() - started < 4
    one._connections._left.release()
    assert now(one.run("PING")) == b"PONG"
    now(one.close())


def test_a_server_that_does_not_answer_is_given_up_after_one_more_try(settings):
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        port = deaf.getsockname()[1]
        link = SyncLink(settings.model_copy(update={"redis_url": f"redis://127.0.0.1:{port}", "redis_timeout": 0.5}))
        started = time.monotonic()
        with pytest.raises(StoreUnavailable):
            now(link.run("PING"))
        assert 0.9 < time.monotonic() - started < 4
        now(link.close())


def test_a_forked_process_makes_its_own(link):
    now(link.run("PING"))
    child = os.fork()
    if child == 0:  # what goes wrong here must not return into the tests
        code = 1
        try:
            code = 0 if [now(link.run("ECHO", n)) for n in range(50)] == [str(n).encode() for n in range(50)] else 2
        finally:
            os._exit(code)
    assert [now(link.run("ECHO", -n)) for n in range(50)] == [str(-n).encode() for n in range(50)]
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_what_is_closed_is_gone_and_the_next_use_connects_again(settings):
    link, watcher = SyncLink(settings), SyncLink(settings)
    before = connections(watcher)
    now(link.run("PING"))
    assert connections(watcher) == before + 1
    now(link.close())
    until(lambda: connections(watcher) == before)
    assert now(link.run("PING")) == b"PONG"
    now(link.close())
    now(watcher.close())


def test_a_task_that_is_cancelled_leaves_no_reply_for_whoever_comes_next(settings):
    async def ask():
        link = AsyncLink(settings)
        await link.run("PING")
        for _ in range(5):
            asking = asyncio.create_task(link.run("EVAL", SLOW, 0, 30))
            await asyncio.sleep(0.05)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
            assert await link.run("ECHO", "mine") == b"mine"
        await link.close()

    asyncio.run(ask())


def test_many_tasks_share_few_connections(settings):
    async def ask():
        link = AsyncLink(settings.model_copy(update={"redis_max_connections": 2}))
        told = await asyncio.gather(*(link.run("ECHO", number) for number in range(40)))
        assert told == [str(number).encode() for number in range(40)]
        kill_all(settings)
        assert await link.batch([("ECHO", "a"), ("ECHO", "b")]) == [b"a", b"b"]
        hasty = AsyncLink(settings.model_copy(update={"redis_max_connections": 1, "redis_timeout": 0.5}))
        await hasty.run("PING")
        await hasty._connections._left.acquire()
        with pytest.raises(StoreUnavailable, match="all connections are in use"):
            await hasty.run("PING")
        await hasty.close()
        await link.close()

    asyncio.run(ask())


def test_each_loop_has_connections_of_its_own(settings):
    link = AsyncLink(settings)

    async def ask():
        assert await link.run("PING") == b"PONG"
        await link.close()

    for _ in range(3):
        asyncio.run(ask())
