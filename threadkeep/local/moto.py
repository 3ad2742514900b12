"""moto: the S3 server where SeaweedFS has no wheel, and a second opinion in tests.

Run as a script (`python -m threadkeep.local.moto PORT`) this module *is* the server, and only then imports moto.
"""

import http.client
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from threadkeep.local.errors import LocalExtraMissing
from threadkeep.local.ports import LOOPBACK, free_port, http_status
from threadkeep.local.process import ServerProcess, python_environment
from threadkeep.local.wheels import is_installed


class MotoServer(ServerProcess):
    """moto's S3 in memory, on the loopback interface; it checks no signatures and forgets all when it stops.

    Args:
        data_dir: Its own folder; holds the log alone.
        buckets: Buckets to make at each start.
    """

    access_key = "moto"
    secret_key = "moto"  # noqa: S105  # it takes any

    def __init__(self, data_dir: Path, *, buckets: Sequence[str] = ()) -> None:
        if not is_installed("moto"):
            raise LocalExtraMissing("moto")
        super().__init__("moto", data_dir)
        self._port = free_port()
        self._buckets = list(buckets)

    @property
    def endpoint(self) -> str:
        """The URL that S3 clients are given."""
        return f"http://{LOOPBACK}:{self._port}"

    @property
    def shown_url(self) -> str:
        return self.endpoint

    def command(self) -> Sequence[str | Path]:
        return [sys.executable, "-m", "threadkeep.local.moto", str(self._port)]

    def environment(self) -> Mapping[str, str]:
        return python_environment()

    def working_dir(self) -> Path:
        return Path.cwd()  # so that it imports what we can

    def is_ready(self) -> bool:
        return http_status(self._port, "/moto-api/") is not None

    def complete(self) -> None:
        for name in self._buckets:
            self.create_bucket(name)

    def create_bucket(self, name: str) -> None:
        """Make the bucket; does nothing if it is there.

        Raises:
            ServerFailed: the server refused.
        """
        link = http.client.HTTPConnection(LOOPBACK, self._port, timeout=10)
        try:
            link.request("PUT", f"/{name}")
            status = link.getresponse().status
        finally:
            link.close()
        if status not in {200, 409}:
            raise self.failure(f"refused to make the bucket {name} (HTTP {status})")


def _one_at_a_time(app: Callable[[Any, Any], Iterable[bytes]]) -> Callable[[Any, Any], Iterable[bytes]]:
    """Hold one lock for each whole request: moto checks If-Match and then stores, with nothing in between."""
    lock = threading.Lock()

    def locked(environ: Any, start_response: Any) -> list[bytes]:
        with lock:
            return list(app(environ, start_response))

    return locked


def _serve(port: int) -> None:
    from moto.moto_server.werkzeug_app import (  # noqa: PLC0415  # only the server needs it, and it is slow to import
        DomainDispatcherApplication,
        MotoRequestHandler,
        create_backend_app,
    )
    from werkzeug.serving import run_simple  # noqa: PLC0415  # the same

    app = _one_at_a_time(DomainDispatcherApplication(create_backend_app))
    run_simple(LOOPBACK, port, app, threaded=True, request_handler=MotoRequestHandler)


if __name__ == "__main__":
    _serve(int(sys.argv[1]))
