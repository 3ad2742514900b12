"""A model provider on loopback: answers what a test scripted, and keeps every request. The real SDKs speak to it."""

import json
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self


@dataclass(frozen=True)
class Request:
    """What an SDK sent: path with its query, headers with lower-case names, and the JSON body."""

    path: str
    headers: dict[str, str]
    body: Any


@dataclass(frozen=True)
class Answer:
    """What the provider says next: JSON, or server-sent events as (name or None, data) pairs."""

    body: Any = None
    events: list[tuple[str | None, Any]] | None = None
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


class FakeProvider:
    """Answers in the order of `script`, one entry a request; with none left it answers 500."""

    def __init__(self, script: Iterable[Answer | dict[str, Any]] = ()) -> None:
        self.requests: list[Request] = []
        self._script = [item if isinstance(item, Answer) else Answer(item) for item in script]
        self._lock = threading.Lock()
        provider = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                text = self.rfile.read(int(self.headers.get("content-length", 0)))
                headers = {name.lower(): value for name, value in self.headers.items()}
                answer = provider._next(Request(self.path, headers, json.loads(text) if text else None))
                self.send_response(answer.status)
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                if answer.events is None:
                    self._send("application/json", json.dumps(answer.body).encode())
                else:
                    self._send("text/event-stream", b"".join(_event(*event) for event in answer.events))

            def _send(self, kind: str, body: bytes) -> None:
                self.send_header("content-type", kind)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: Any) -> None:
                """Silent: the requests are kept instead."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    def bodies(self) -> list[Any]:
        """The JSON of each request so far."""
        return [request.body for request in self.requests]

    def script(self, *answers: Answer | dict[str, Any]) -> None:
        """Add answers behind those that are left."""
        with self._lock:
            self._script += [item if isinstance(item, Answer) else Answer(item) for item in answers]

    def _next(self, request: Request) -> Answer:
        with self._lock:
            self.requests.append(request)
            return self._script.pop(0) if self._script else Answer({"error": {"message": "script ended"}}, status=500)

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()


def _event(name: str | None, data: Any) -> bytes:
    text = data if isinstance(data, str) else json.dumps(data)
    return (f"event: {name}\n" if name else "").encode() + f"data: {text}\n\n".encode()
