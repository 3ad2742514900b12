"""The FastAPI example as a real process, with a real worker behind it."""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from threadkeep import Threadkeep
from threadkeep.config import Settings
from threadkeep.local.ports import LOOPBACK, free_port, http_status
from threadkeep.local.process import ServerProcess, python_environment

EXAMPLES = Path(__file__).parents[2] / "examples"


class Uvicorn(ServerProcess):
    """The example under uvicorn; `slow` makes its stand-in for a model think for so many seconds."""

    def __init__(self, data_dir: Path, settings: Settings, *, slow: float = 0.0) -> None:
        super().__init__("uvicorn", data_dir)
        self.port, self._settings, self._slow = free_port(), settings, slow

    @property
    def shown_url(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    def command(self) -> list[str]:
        code = (
            "import sys, time, uvicorn, fastapi_app as example\n"
            "slow, answer = float(sys.argv[2]), example.reply\n"
            "def reply(messages):\n"
            "    if 'slowly' in messages[-1]['content']: time.sleep(slow)\n"
            "    return answer(messages)\n"
            "example.reply = reply\n"
            "uvicorn.run(example.app, port=int(sys.argv[1]))\n"
        )
        return [sys.executable, "-c", code, str(self.port), str(self._slow)]

    def environment(self) -> dict[str, str]:
        mine = python_environment()
        path = ":".join(filter(None, [str(EXAMPLES), str(EXAMPLES.parent), mine.get("PYTHONPATH", "")]))
        return {**mine, **self._settings.to_environ(), "PYTHONPATH": path}

    def is_ready(self) -> bool:
        return http_status(self.port, "/docs") == 200


@pytest.fixture
def serve(settings: Settings, tmp_path: Path) -> Iterator[Callable[..., httpx.Client]]:
    started: list[Uvicorn] = []
    clients: list[httpx.Client] = []

    def start(settings: Settings = settings, name: str = "uvicorn") -> httpx.Client:
        server = Uvicorn(tmp_path / name, settings)
        started.append(server)
        server.start()
        clients.append(httpx.Client(base_url=server.shown_url, timeout=30, trust_env=False))
        return clients[-1]

    yield start
    for client in clients:
        client.close()
    for server in started:
        server.stop()


def eventually(look: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not look():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_conversation_goes_cold_and_a_page_opening_brings_it_back(settings, worker, serve) -> None:
    worker()
    client = serve()
    assert client.get("/threads/t1").status_code == 404
    first = client.post("/threads/t1/messages", json={"text": "hello", "id": "m1"})
    assert first.json() == {
        "thread": "t1",
        "reply": {"role": "assistant", "content": "This is turn 1. You said: hello"},
        "messages": 2,
        "flush_queued": True,
    }
    again = client.post("/threads/t1/messages", json={"text": "hello", "id": "m1"})
    assert again.json() == first.json()
    other = client.post("/threads/t1/messages", json={"text": "something else", "id": "m1"})
    assert (other.status_code, other.json()["error"]) == (409, "MessageConflict")

    with Threadkeep(settings) as keep:
        keep.flush("t1")
        eventually(lambda: not keep.stat("t1").cached)
        assert client.post("/threads/t1/open").json() == {"on_its_way": True}
        eventually(lambda: keep.stat("t1").cached)
        assert keep.stat("t1").tier == "cold"

    second = client.post("/threads/t1/messages", json={"text": "again"})
    assert second.json()["reply"]["content"] == "This is turn 2. You said: again"
    assert [message["role"] for message in client.get("/threads/t1").json()["messages"]] == ["user", "assistant"] * 2


def test_a_prefetched_thread_opens_without_a_worker(settings, worker, serve) -> None:
    process = worker()
    client = serve()
    client.post("/threads/t2/messages", json={"text": "hello"})
    with Threadkeep(settings) as keep:
        keep.flush("t2", wait=20)
        client.post("/threads/t2/open")
        keep.read("t2")
        process.stop()
    assert client.post("/threads/t2/messages", json={"text": "still here"}).status_code == 200


def test_of_two_writers_at_once_one_is_told_that_the_thread_is_busy(worker, settings, serve) -> None:
    worker()
    client = serve()
    with Threadkeep(settings) as keep, keep.open("t3", create=True):
        busy = client.post("/threads/t3/messages", json={"text": "mine"})
        assert (busy.status_code, busy.json()["error"]) == (409, "ThreadBusy")
    assert client.post("/threads/t3/messages", json={"text": "mine"}).status_code == 200


def test_two_requests_at_once_answer_200_and_409(settings, worker, tmp_path) -> None:
    """Two processes of the app, as in production; the second request comes while the first one's model thinks."""
    worker()
    with Uvicorn(tmp_path / "a", settings, slow=3.0) as one, Uvicorn(tmp_path / "b", settings) as other:
        answers: list[httpx.Response] = []

        def post(server: Uvicorn, text: str) -> None:
            url = f"{server.shown_url}/threads/t4/messages"
            answers.append(httpx.post(url, json={"text": text}, timeout=30, trust_env=False))

        first = threading.Thread(target=post, args=(one, "slowly, please"))
        first.start()
        with Threadkeep(settings) as keep:
            eventually(lambda: keep.stat("t4").count)  # the first request has written, and holds the lease
        post(other, "at once")
        first.join()
        assert sorted(answer.status_code for answer in answers) == [200, 409]
        with Threadkeep(settings) as keep:
            assert [message["content"] for message in keep.read("t4").messages if message["role"] == "user"] == [
                "slowly, please"
            ]


def test_a_request_succeeds_while_the_broker_is_down(settings, serve) -> None:
    """The thread is hot, so nothing has to be asked; that its flush could not be queued is told, not raised."""
    away = settings.model_copy(update={"broker_url": f"redis://{LOOPBACK}:{free_port()}/1"})
    with Threadkeep(away) as keep, keep.new() as session:
        session.append({"role": "user", "content": "before"})
    assert not session.flush_enqueued
    client = serve(away)
    answer = client.post(f"/threads/{session.id}/messages", json={"text": "hello"})
    assert answer.status_code == 200
    assert answer.json()["flush_queued"] is False
    assert answer.json()["messages"] == 3
    assert client.post("/threads/cold/open").json() == {"on_its_way": False}
    cold = client.post("/threads/cold/messages", json={"text": "hello"})
    assert (cold.status_code, cold.headers["Retry-After"]) == (503, "2")


def test_what_cannot_be_a_thread_is_refused(serve) -> None:
    client = serve()
    answer = client.get("/threads/" + "%00")
    assert (answer.status_code, answer.json()["error"]) == (422, "InvalidThreadId")
