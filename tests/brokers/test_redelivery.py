"""What a worker, a node or a connection leaves unacknowledged goes to another worker; what kills them all does not."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.brokers.deaf import DeafWire
from tests.celery.acts import archives, assert_whole, is_archived, leave_behind, sweep, tuned, user
from tests.celery.worker_log import outcomes, received, results
from tests.integration.command import run_command
from tests.waiting import until
from threadkeep import Threadkeep
from threadkeep.local.ports import free_port
from threadkeep.model import ThreadRef
from threadkeep.storage.link import run_now as now
from threadkeep.tasks.conf import DEAD, FLUSH, REDELIVERIES
from threadkeep.tasks.inspect import queue_depths
from threadkeep.testing.wire import Delay

pytestmark = pytest.mark.brokers

QUEUED = 20


def ended(keep, raw_bucket, settings, thread):
    """How a thread ended: what comes back, how it is kept, and in how many objects."""
    keep.flush(thread, wait=30)
    until(lambda: not keep.stat(thread).cached)
    stat = keep.stat(thread)
    objects = [key for key in archives(raw_bucket, settings) if thread in key]
    return keep.read(thread).messages, stat.tier, stat.count, stat.archived_rev == stat.rev, len(objects)


def test_what_a_killed_worker_had_goes_to_another_at_once(
    keep, s3, start_worker, broker, raw_bucket, settings, record_property
):
    first = start_worker(name="first")
    s3.inject(Delay(60), method="PUT")
    thread = leave_behind(keep, "kept").id
    until(lambda: s3.count("PUT"))
    second = start_worker(name="second")
    first.kill()
    killed = time.monotonic()
    until(lambda: received(second.logs(), "flush_thread"), seconds=broker.comes_again(settings))
    waited = time.monotonic() - killed
    until(lambda: is_archived(keep, thread))
    assert_whole(keep, thread, "kept")
    assert len(archives(raw_bucket, settings)) == 1
    record_property(
        "proof", f"RabbitMQ: a killed worker's flush was with another after {waited:.2f} s, without a sweep"
    )


@tuned(poison_after=1 + REDELIVERIES, soft_time_limit=2, hard_time_limit=3)
def test_a_message_that_kills_every_worker_becomes_a_dead_letter_and_its_thread_is_archived_when_forced(
    keep, start_worker, app, settings, broker, record_property
):
    victims = start_victims(start_worker, 1 + REDELIVERIES)
    leave_behind(keep, "deadly", "poison")
    until(lambda: all(victim.container.status == "exited" for victim in victims))
    died = time.monotonic()
    assert all(received(victim.logs(), "flush_thread") for victim in victims)
    letter = until(lambda: dead_letter(app))
    last = letter.headers["x-death"][0]
    assert (last["reason"], last["queue"]) == ("delivery_limit", FLUSH)
    assert "deadly" not in f"{letter.headers} {letter.body}"

    worker = start_worker()
    until(lambda: time.monotonic() - died > settings.hard_time_limit)  # from then on the last run counts as dead too
    sweep(app)
    until(lambda: outcomes(worker.logs(), "flush_thread") == ["set_aside"])
    sweep(app)
    until(lambda: any(counts.get("set_aside") for counts in results(worker.logs(), "sweep")))
    assert queue_depths(app)[FLUSH] == 0, "a sweep asks no more for what was set aside"
    assert not is_archived(keep, "poison")
    away = broker.url_at(free_port())  # so that the flush is not queued at once
    forced = run_command(settings, "flush", "poison", "--force", THREADKEEP_BROKER_URL=away)
    assert forced.code == 4
    sweep(app)
    until(lambda: is_archived(keep, "poison"))
    assert_whole(keep, "poison", "deadly")
    record_property(
        "proof", f"RabbitMQ: a message that kills was delivered {len(victims)} times, then lay among the dead letters"
    )


def start_victims(start_worker, number):
    """Workers of one process each, which a poisoned thread takes with it, started together."""
    names = [f"victim{n}" for n in range(number)]
    with ThreadPoolExecutor() as pool:
        return list(pool.map(lambda name: start_worker(name=name, pool="solo", app="tests.celery.poison_app"), names))


def dead_letter(app):
    with app.connection_for_read() as connection:
        return connection.default_channel.basic_get(DEAD)


@pytest.fixture
def in_mid_flush(keep, s3, start_worker):
    """A worker in the middle of a flush, with others queued behind it."""
    worker = start_worker()
    s3.inject(Delay(60), method="PUT")
    left = [leave_behind(keep, str(number)) for number in range(QUEUED)]
    assert all(session.flush_enqueued for session in left)
    until(lambda: s3.count("PUT"))
    return worker, [session.id for session in left]


def test_a_restart_of_the_node_in_the_middle_of_a_flush_loses_no_queued_task(
    in_mid_flush, rabbit, keep, app, raw_bucket, settings, record_property
):
    worker, left = in_mid_flush
    started = time.monotonic()
    rabbit.control("stop_app")
    rabbit.control("start_app")
    until(lambda: all(is_archived(keep, thread) for thread in left), seconds=60)
    took = time.monotonic() - started
    assert worker.container.status == "running"
    until(lambda: queue_depths(app)[FLUSH] == 0)
    assert queue_depths(app)[DEAD] == 0
    assert outcomes(worker.logs(), "flush_thread").count("archived") == QUEUED
    assert len(archives(raw_bucket, settings)) == QUEUED
    deliveries = len(received(worker.logs(), "flush_thread"))
    record_property(
        "proof",
        f"RabbitMQ: {QUEUED} queued flushes outlived a restart of the node in the middle of one: "
        f"{deliveries} deliveries, all archived {took:.1f} s after it began, without a sweep",
    )


def test_connections_that_the_broker_cuts_in_the_middle_of_a_flush_lose_nothing(
    in_mid_flush, rabbit, keep, app, raw_bucket, settings, record_property
):
    worker, left = in_mid_flush
    rabbit.control("close_all_connections", "maintenance")
    late = leave_behind(keep, "late")
    assert late.flush_enqueued, "an app publishes over a new connection"
    until(lambda: all(is_archived(keep, thread) for thread in (*left, late.id)), seconds=60)
    assert worker.container.status == "running"
    until(lambda: queue_depths(app)[FLUSH] == 0)
    assert queue_depths(app)[DEAD] == 0
    deliveries = len(received(worker.logs(), "flush_thread"))
    assert deliveries > QUEUED + 1, "what was running was delivered again"
    _, *as_undisturbed = ended(keep, raw_bucket, settings, late.id)
    for number in (0, QUEUED - 1):
        assert ended(keep, raw_bucket, settings, left[number]) == ([user(str(number))], *as_undisturbed)
    record_property(
        "proof",
        f"RabbitMQ: {QUEUED} queued flushes outlived cut connections in the middle of one: {deliveries} deliveries",
    )


def test_a_request_whose_confirmation_is_lost_is_done_all_the_same(
    keep, settings, stores, broker, rabbit, start_worker, app, raw_bucket
):
    """The message is queued, and the app is told that it is not: it warns, and may ask again."""
    with DeafWire(rabbit.port) as wire:
        through = settings.model_copy(update={"broker_url": broker.url_at(wire.port), "broker_timeout": 0.5})
        with Threadkeep(through) as unheard:
            assert leave_behind(unheard, "well").flush_enqueued
            wire.deaf.set()
            session = leave_behind(unheard, "safe")
        assert not session.flush_enqueued
        assert wire.unheard
        assert now(stores.hot.look(ThreadRef.of(session.id))).head.flush_at == 0
        until(lambda: queue_depths(app)[FLUSH] == 2)
    assert keep.flush(session.id)
    assert queue_depths(app)[FLUSH] == 3
    worker = start_worker()
    until(lambda: len(results(worker.logs(), "flush_thread")) == 3)
    assert sorted(outcomes(worker.logs(), "flush_thread")) in (
        ["absent", "archived", "archived"],
        ["archived", "archived", "unchanged"],
    )
    assert_whole(keep, session.id, "safe")
    assert len(archives(raw_bucket, settings)) == 2
