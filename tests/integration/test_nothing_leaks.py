"""Message content appears in no broker payload, result, event, log line, catalog row or metric."""

import threading

import pytest

from tests.integration.protocol import user
from tests.waiting import until
from threadkeep.errors import ThreadkeepError
from threadkeep.storage.link import run_now as now
from threadkeep.tasks.adoption import make_app
from threadkeep.tasks.hydrate import hydrate

MARKER = "xyzzy-only-in-the-message"


@pytest.fixture
def broker_traffic(valkey_server, settings):
    """Every command that the broker's database receives, as MONITOR shows it."""
    import redis

    lines, client = [], redis.Redis.from_url(valkey_server.url(1))
    stop = threading.Event()

    def listen():
        with client.monitor() as monitor:
            ready.set()
            while not stop.is_set():
                if monitor.connection.can_read(timeout=0.1):
                    command = monitor.next_command()
                    if command["db"] == 1:
                        lines.append(command["command"])

    ready = threading.Event()
    thread = threading.Thread(target=listen)
    thread.start()
    assert ready.wait(10)
    yield lines
    stop.set()
    thread.join()
    client.close()


@pytest.fixture
def task_events(settings):
    """What Flower would see."""
    app, received = make_app(settings), []
    with app.connection_for_read() as connection:
        receiver = app.events.Receiver(connection, handlers={"*": received.append})
        thread = threading.Thread(target=lambda: receiver.capture(limit=None, timeout=None, wakeup=False))
        thread.start()
        yield received
        receiver.should_stop = True
        thread.join()


def test_content_stays_where_it_belongs(
    keep, stores, settings, worker, broker_traffic, task_events, caplog, raw_bucket
):
    started = worker()
    caplog.set_level("INFO")
    caplog.set_level("DEBUG", logger="threadkeep")
    with keep.new(state={"note": MARKER}, wait_flush=20) as session:
        session.append(user(f"{MARKER} 1"), {"role": "assistant", "content": f"{MARKER} 2"}, ids=["a", "b"])
        with pytest.raises(ThreadkeepError) as conflict:
            session.append(user(f"{MARKER} other"), id="a")
        with pytest.raises(ThreadkeepError) as oversized:
            session.append(user(MARKER + "x" * settings.max_message_bytes))
    keep.flush(session.id, wait=20)
    assert keep.read(session.id).messages[0] == user(f"{MARKER} 1")
    keep.stat(session.id)
    ref = session_ref(session)
    now(stores.hot.link.run("DEL", stores.hot.keys(ref).head))
    stored = stores.cold.head(ref)
    raw_bucket.put_object(
        Bucket=settings.s3_bucket,
        Key=stored.key,
        Body=b'{"v":1,"id":"' + MARKER.encode(),
        Metadata=stored.meta.to_headers(),
    )
    assert hydrate(stores, ref).outcome == "corrupt"
    with pytest.raises(ThreadkeepError) as corrupt:
        keep.open(session.id)
    keep.delete(session.id, wait=20)

    until(lambda: any("erase" in str(event) for event in task_events))
    seen = {
        "broker": broker_traffic,
        "worker log": started.log().splitlines(),
        "app log": [record.getMessage() + str(record.__dict__) for record in caplog.records],
        "events and results": [str(event) for event in task_events],
        "errors": [str(caught.value) for caught in (conflict, oversized, corrupt)],
        "catalog": [str(stores.catalog.get(ref)), *map(str, stores.catalog.events(ref))],
        "object metadata": [str(stored)],
    }
    for place, lines in seen.items():
        assert lines, f"nothing was seen in {place}"
        assert [line for line in lines if MARKER in line] == [], f"content in {place}"
    assert any(session.id in line for line in seen["broker"])
    assert any(session.id in line for line in seen["events and results"])
    assert "restored" in str(seen["events and results"])


def session_ref(session):
    from threadkeep import ThreadRef

    return ThreadRef(session.namespace, session.id)


def test_keys_and_objects_hold_content_only_where_it_is_meant_to_be(keep, stores):
    with keep.new() as session:
        session.append(user(MARKER))
        keys = stores.hot.keys(session_ref(session))
        holders = [
            key.decode()
            for key in now(stores.hot.link.run("KEYS", f"{stores.settings.key_prefix}:*"))
            if MARKER.encode() in now(stores.hot.link.run("DUMP", key))
        ]
        assert holders == [keys.log]
