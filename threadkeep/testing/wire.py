"""A loopback HTTP proxy that breaks answers on purpose.

    with FaultyProxy("http://127.0.0.1:8333") as proxy:
        proxy.inject(DropReply(), method="PUT")
        ...

It hands every header on as it came, so signed requests stay valid.
"""

import http.client
import os
import socket
import struct
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

_HOP_BY_HOP = {"connection", "expect", "keep-alive", "proxy-connection"}


@dataclass(frozen=True, slots=True)
class Answer:
    """Answer with this status and S3 error code; the upstream never sees the request."""

    status: int
    code: str = "InternalError"
    body: bytes | None = None
    """Sent instead of S3's XML."""


@dataclass(frozen=True, slots=True)
class Truncate:
    """Announce the whole body, send this many bytes of it, and close the connection in order."""

    after: int


@dataclass(frozen=True, slots=True)
class Reset:
    """Send this many bytes of the body, then reset the connection (RST)."""

    after: int


@dataclass(frozen=True, slots=True)
class Garble:
    """Invert the byte of the body at this place."""

    at: int


@dataclass(frozen=True, slots=True)
class Delay:
    """Keep the answer back for so many seconds, or until the proxy is closed."""

    seconds: float


@dataclass(frozen=True, slots=True)
class DropReply:
    """Forward the request, let the upstream do it, and close the connection without a word."""


Fault = Answer | Truncate | Reset | Garble | Delay | DropReply


@dataclass(frozen=True, slots=True)
class SeenRequest:
    """One request as it arrived. `headers` has lower-case names."""

    method: str
    target: str
    headers: dict[str, str]
    fault: Fault | None


@dataclass(slots=True)
class _Planned:
    fault: Fault
    method: str | None
    containing: str
    times: int


@dataclass(frozen=True, slots=True)
class _Reply:
    status: int
    reason: str
    headers: list[tuple[str, str]]
    body: bytes


class FaultyProxy:
    """Forwards to one upstream, and breaks what it is told to break. A context manager.

    Args:
        upstream: Where to forward to, as `http://host:port`.
        without_headers: Request headers not handed on, such as `if-match` to play a store that ignores it; only
            for an upstream that checks no signatures.

    Attributes:
        endpoint: The URL to give to the client.
        requests: All that came so far, in order of arrival.
    """

    def __init__(self, upstream: str, *, without_headers: Iterable[str] = ()) -> None:
        parts = urlsplit(upstream)
        self._upstream = (parts.hostname or "127.0.0.1", parts.port or 80)
        self._held_back = {*_HOP_BY_HOP, *without_headers}
        self._planned: list[_Planned] = []
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._server = _Server(("127.0.0.1", 0), self)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), name="faulty-proxy")
        self.requests: list[SeenRequest] = []
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def inject(self, fault: Fault, *, method: str | None = None, containing: str = "", times: int = 1) -> None:
        """Break the next `times` requests of this method whose target contains this text.

        What is planned first is used first.
        """
        with self._lock:
            self._planned.append(_Planned(fault, method, containing, times))

    def count(self, method: str) -> int:
        """How many requests of a method came so far."""
        return sum(seen.method == method for seen in self.requests)

    def serve(self, handler: BaseHTTPRequestHandler) -> None:
        """Answer one request of a handler of the server."""
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        fault = self._take(handler)
        if isinstance(fault, Answer):
            _send(handler, _refusal(fault))
            return
        reply = self._forward(handler, body)
        match fault:
            case DropReply():
                handler.close_connection = True
            case Delay(seconds):
                self._closed.wait(seconds)
                _send(handler, reply)
            case Truncate(after):
                _send(handler, reply, upto=after)
            case Reset(after):
                _send(handler, reply, upto=after)
                _reset(handler.connection)
            case Garble(at):
                _send(handler, _garbled(reply, at))
            case None:
                _send(handler, reply)

    def _take(self, handler: BaseHTTPRequestHandler) -> Fault | None:
        with self._lock:
            fault = self._next_fault(handler)
            headers = {name.lower(): value for name, value in handler.headers.items()}
            self.requests.append(SeenRequest(handler.command, handler.path, headers, fault))
            return fault

    def _next_fault(self, handler: BaseHTTPRequestHandler) -> Fault | None:
        for planned in self._planned:
            if planned.times and planned.method in {None, handler.command} and planned.containing in handler.path:
                planned.times -= 1
                return planned.fault
        return None

    def _forward(self, handler: BaseHTTPRequestHandler, body: bytes) -> _Reply:
        with _connection(*self._upstream) as link:
            link.putrequest(handler.command, handler.path, skip_host=True, skip_accept_encoding=True)
            for name, value in handler.headers.items():
                if name.lower() not in self._held_back:
                    link.putheader(name, value)
            link.endheaders(body)
            answer = link.getresponse()
            return _Reply(answer.status, answer.reason, answer.getheaders(), answer.read())


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], proxy: FaultyProxy) -> None:
        self.proxy = proxy
        super().__init__(address, _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that give up are what this server is for."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the name is the base's
        """Say nothing; `FaultyProxy.requests` has it all."""

    def _serve(self) -> None:
        self.server.proxy.serve(self)

    do_DELETE = do_GET = do_HEAD = do_POST = do_PUT = _serve  # noqa: N815  # the base looks for these names


@contextmanager
def _connection(host: str, port: int) -> Iterator[http.client.HTTPConnection]:
    link = http.client.HTTPConnection(host, port, timeout=60)
    try:
        yield link
    finally:
        link.close()


def _send(handler: BaseHTTPRequestHandler, reply: _Reply, *, upto: int | None = None) -> None:
    handler.close_connection = True
    handler.send_response_only(reply.status, reply.reason)
    sized = {"transfer-encoding", "content-length", *_HOP_BY_HOP}
    for name, value in reply.headers:
        if name.lower() not in sized or (handler.command == "HEAD" and name.lower() == "content-length"):
            handler.send_header(name, value)
    if handler.command != "HEAD" and reply.status != 204:
        handler.send_header("Content-Length", str(len(reply.body)))
    handler.send_header("Connection", "close")
    handler.end_headers()
    handler.wfile.write(reply.body[:upto])
    handler.wfile.flush()


def _refusal(fault: Answer) -> _Reply:
    xml = f"<?xml version='1.0'?><Error><Code>{fault.code}</Code><Message>as planned</Message></Error>"
    body = xml.encode() if fault.body is None else fault.body
    return _Reply(fault.status, "As planned", [("Content-Type", "application/xml")], body)


def _garbled(reply: _Reply, at: int) -> _Reply:
    body = bytearray(reply.body)
    body[at] ^= 0xFF
    return _Reply(reply.status, reply.reason, reply.headers, bytes(body))


def _reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    os.close(connection.detach())  # at once: the handler's files would keep the socket open until a FIN was sent
