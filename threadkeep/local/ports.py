"""TCP ports on the loopback interface: finding free ones, and asking whether a server answers."""

import http.client
import os
import random
import socket
from collections.abc import Iterator
from contextlib import closing
from threading import Lock

LOOPBACK = "127.0.0.1"

# Below what Linux (32768+) and macOS (49152+) hand out to outgoing connections, so none can take a port between
# the look and the server's own bind.
_FIRST, _LAST = 20_000, 32_000
_BLOCK = 200
"""Ports that a process looks at first: another one that starts servers at the same moment has another block."""

_given: set[int] = set()
_lock = Lock()


def free_port(*, also_free: int = 0) -> int:
    """A port that nothing listens on; never the same one twice within a process.

    Args:
        also_free: Distance to a second port that must be free too; 0 if there is none.

    Raises:
        OSError: all of the range is taken.
    """
    with _lock:
        for port in _candidates():
            if port not in _given and _bindable(port) and _bindable(port + also_free):
                _given.add(port)
                return port
    raise OSError(f"no free port between {_FIRST} and {_LAST}")


def _candidates() -> Iterator[int]:
    own = _FIRST + os.getpid() * _BLOCK % (_LAST - _FIRST)
    yield from random.sample(range(own, own + _BLOCK), _BLOCK)
    yield from random.sample(range(_FIRST, _LAST), 2_000)


def http_status(port: int, path: str) -> int | None:
    """The status that a GET of the path answers; None if there is no answer. No proxy is asked."""
    link = http.client.HTTPConnection(LOOPBACK, port, timeout=2)
    try:
        link.request("GET", path)
        return link.getresponse().status
    except (OSError, http.client.HTTPException):
        return None
    finally:
        link.close()


def _bindable(port: int) -> bool:
    with closing(socket.socket()) as probe:
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True
