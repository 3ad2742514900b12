"""A wire to RabbitMQ that, when told so, keeps back what the broker answers: it does what it is asked, unheard."""

import socket
import threading
from types import TracebackType
from typing import Self

from threadkeep.local.ports import LOOPBACK


class DeafWire:
    """Forwards connections to a port of this machine. A context manager.

    Attributes:
        port: Where it listens.
        deaf: While it is set, nothing comes back through it, over connections made before or later.
        unheard: Bytes of the broker's that were kept back.
    """

    def __init__(self, upstream: int) -> None:
        self._upstream = upstream
        self._listener = socket.create_server((LOOPBACK, 0))
        self._open: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self.port = int(self._listener.getsockname()[1])
        self.deaf = threading.Event()
        self.unheard = 0

    def __enter__(self) -> Self:
        self._run(self._accept)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for end in (self._listener, *self._open):
            _end(end)
        for thread in self._threads:
            thread.join()
        for end in (self._listener, *self._open):
            end.close()

    def _run(self, what, *about) -> None:
        self._threads.append(threading.Thread(target=what, args=about, name="deaf-wire"))
        self._threads[-1].start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:  # ended
                return
            broker = socket.create_connection((LOOPBACK, self._upstream))
            self._open += [client, broker]
            self._run(self._forward, client, broker)
            self._run(self._answer, broker, client)

    def _forward(self, client: socket.socket, broker: socket.socket) -> None:
        for said in _parts(client):
            _send(broker, said)
        _end(broker)

    def _answer(self, broker: socket.socket, client: socket.socket) -> None:
        for said in _parts(broker):
            if self.deaf.is_set():
                self.unheard += len(said)
            else:
                _send(client, said)
        _end(client)


def _parts(end: socket.socket):
    try:
        while said := end.recv(65536):
            yield said
    except OSError:
        return


def _send(end: socket.socket, said: bytes) -> None:
    try:
        end.sendall(said)
    except OSError:
        return


def _end(end: socket.socket) -> None:
    try:
        end.shutdown(socket.SHUT_RDWR)
    except OSError:
        return
