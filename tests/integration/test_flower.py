"""Flower beside real workers: what operators see of them, and what nobody may see there."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from threadkeep import Threadkeep
from threadkeep.config import Settings
from threadkeep.local.workers import FlowerServer
from threadkeep.tasks.conf import FLUSH, HYDRATE, MAINTENANCE

LOGIN = ("threadkeep", "a-password")
CONTENT = "a sentence that is nobody's business"
WAIT = 30.0


@pytest.fixture
def flower(settings: Settings, tmp_path: Path) -> Iterator[FlowerServer]:
    with FlowerServer(settings, basic_auth=":".join(LOGIN), data_dir=tmp_path / "flower") as server:
        yield server


@pytest.fixture
def api(flower: FlowerServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=flower.shown_url, auth=LOGIN, trust_env=False, timeout=WAIT) as client:
        yield client


def play(settings: Settings) -> None:
    """Two threads are written and flushed, one of them comes back."""
    with Threadkeep(settings) as keep:
        for name in ("ticket-1", "ticket-2"):
            with keep.new(name, labels={"note": CONTENT}, state={"confidential": CONTENT}, wait_flush=20) as session:
                session.append({"role": "user", "content": CONTENT})
        keep.flush("ticket-1", wait=20)
        with keep.open("ticket-1") as session:
            assert session.messages == [{"role": "user", "content": CONTENT}]


def tasks_of(api: httpx.Client, name: str, state: str = "SUCCESS") -> list[dict]:
    found = api.get("/api/tasks", params={"taskname": name}).json().values()
    return [task for task in found if task["state"] == state]


def hidden(settings: Settings) -> list[str]:
    """The secrets that workers hold."""
    database = urlsplit(settings.database_url.get_secret_value()).password
    return [database, settings.s3_access_key.get_secret_value(), settings.s3_secret_key.get_secret_value()]


def eventually(look):
    """What `look` returns once it is true: Flower hears of tasks through events."""
    deadline = time.monotonic() + WAIT
    while not (found := look()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return found


def test_without_its_password_flower_shows_no_tasks(flower: FlowerServer) -> None:
    with httpx.Client(base_url=flower.shown_url, trust_env=False) as anybody:
        for path in ("/api/workers", "/api/tasks", "/", "/tasks", "/workers"):
            assert anybody.get(path).status_code == 401
        assert anybody.get("/api/tasks", auth=("threadkeep", "wrong")).status_code == 401


def test_flower_lists_the_workers_with_their_queues(worker, api: httpx.Client) -> None:
    worker(HYDRATE, name="hydrate")
    worker(FLUSH, MAINTENANCE, name="flush")

    def queues() -> dict[str, set[str]] | None:
        found = api.get("/api/workers", params={"refresh": "true"}).json()
        told = {
            name.partition("@")[0]: {queue["name"] for queue in facts.get("active_queues") or []}
            for name, facts in found.items()
        }
        return told if len(told) == 2 and all(told.values()) else None

    assert eventually(queues) == {"hydrate": {HYDRATE}, "flush": {FLUSH, MAINTENANCE}}


def test_flower_shows_what_each_task_did_in_ids_and_numbers(worker, settings: Settings, api: httpx.Client) -> None:
    worker()
    eventually(lambda: api.get("/api/workers", params={"refresh": "true"}).json())
    play(settings)
    restored = eventually(lambda: [t for t in tasks_of(api, "threadkeep.hydrate_thread") if "restored" in t["result"]])
    archived = eventually(lambda: [t for t in tasks_of(api, "threadkeep.flush_thread") if "archived" in t["result"]])
    for task, thread in ((restored[0], "ticket-1"), (archived[0], "ticket-")):
        assert thread in task["kwargs"]
        assert task["kwargs"].startswith("messages/")
        for fact in ("outcome", "rev", "bytes", "ms"):
            assert f"'{fact}':" in task["result"]


def test_no_content_reaches_flower(worker, settings: Settings, api: httpx.Client) -> None:
    worker()
    eventually(lambda: api.get("/api/workers", params={"refresh": "true"}).json())
    play(settings)
    found = eventually(lambda: tasks_of(api, "threadkeep.flush_thread"))
    everything = json.dumps(api.get("/api/tasks").json())
    everything += "".join(api.get(f"/api/task/info/{task['uuid']}").text for task in found)
    everything += "".join(api.get(path).text for path in ("/metrics", "/tasks", "/workers", "/api/workers"))
    assert "ticket-1" in everything
    assert "nobody" not in everything
    assert "confidential" not in everything
    for secret in (urlsplit(settings.redis_url).password, *hidden(settings)):
        assert secret not in everything
    assert "ticket-1" not in api.get("/metrics").text  # ids as labels would make a time series of each thread
