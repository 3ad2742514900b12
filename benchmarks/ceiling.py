"""What the sink can do at most, asked by clients that do next to nothing themselves."""

import socket
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from benchmarks.servers import control

CLIENTS = 4
BODY = bytes(range(250)) * 40


def ceiling(endpoint: str, seconds: float) -> dict[str, Any]:
    """Requests a second, and CPU of the sink per request, of 10 KB PUTs and GETs."""
    return {"put": _rate(endpoint, b"PUT", BODY, seconds), "get": _rate(endpoint, b"GET", b"", seconds)}


def _rate(endpoint: str, method: bytes, body: bytes, seconds: float) -> dict[str, float]:
    before, began = control(endpoint)["cpu"], time.perf_counter()
    with ThreadPoolExecutor(CLIENTS) as pool:
        requests = sum(pool.map(lambda number: _ask(endpoint, method, body, number, began + seconds), range(CLIENTS)))
    took = time.perf_counter() - began
    used = control(endpoint)["cpu"] - before
    return {"per_second": requests / took, "sink_cpu_ms": 1000 * used / requests}


def _ask(endpoint: str, method: bytes, body: bytes, number: int, deadline: float) -> int:
    host, _, port = endpoint.removeprefix("http://").partition(":")
    head = b"%s /bench/ceiling-%d HTTP/1.1\r\nHost: bench\r\nContent-Length: %d\r\n\r\n" % (method, number, len(body))
    wanted = len(BODY) if method == b"GET" else 0
    done = 0
    with socket.create_connection((host, int(port))) as link:
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while time.perf_counter() < deadline:
            link.sendall(head + body)
            answer = link.recv(65536)
            while len(answer) < answer.find(b"\r\n\r\n") + 4 + wanted or b"\r\n\r\n" not in answer:
                answer += link.recv(65536)
            if not answer.startswith(b"HTTP/1.1 200"):
                raise AssertionError(answer[:200])
            done += 1
    return done
