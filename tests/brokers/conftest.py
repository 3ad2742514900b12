"""A RabbitMQ node of our own: started from the system's programs, on free loopback ports, gone without a trace."""

import os
import secrets
import shutil
import socket
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from amqp import AMQPError, Connection, NotFound
from celery import Celery

from threadkeep.config import Settings
from threadkeep.local.ports import LOOPBACK, free_port
from threadkeep.local.process import ServerProcess
from threadkeep.local.seaweed import SeaweedServer
from threadkeep.tasks.adoption import make_app
from threadkeep.tasks.conf import DEAD, QUEUES
from threadkeep.testing.wire import FaultyProxy

PLACES = ("/usr/lib/rabbitmq/bin", "/usr/sbin", "/usr/local/sbin", "/opt/homebrew/sbin")


class Epmd(ServerProcess):
    """Erlang's name service, in the foreground: a node would otherwise leave a daemon of its own behind."""

    def __init__(self, data_dir: Path) -> None:
        super().__init__("epmd", data_dir)
        self.port = free_port()

    def command(self) -> Sequence[str | Path]:
        return ["epmd", "-port", str(self.port), "-address", LOOPBACK]

    def environment(self) -> Mapping[str, str]:
        return {**super().environment(), "PATH": os.environ["PATH"]}

    def is_ready(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex((LOOPBACK, self.port)) == 0


class RabbitServer(ServerProcess):
    """One node with its own name, cookie, data and name service."""

    def __init__(self, data_dir: Path) -> None:
        super().__init__("rabbit", data_dir, start_timeout=120, stop_timeout=40)
        self.port, self._dist_port = free_port(), free_port()
        self._node = f"threadkeep{secrets.token_hex(3)}"
        self._epmd = Epmd(data_dir / "epmd")

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@{LOOPBACK}:{self.port}//"

    def command(self) -> Sequence[str | Path]:
        found = shutil.which("rabbitmq-server", path=os.pathsep.join([*PLACES, os.environ["PATH"]]))
        if found is None:
            pytest.fail("rabbitmq-server is not installed: run `make test-brokers`", pytrace=False)
        return [found]

    def environment(self) -> Mapping[str, str]:
        home = str(self.data_dir)
        return {
            "PATH": os.environ["PATH"],
            "HOME": home,
            "LC_ALL": "C.UTF-8",
            "ERL_EPMD_PORT": str(self._epmd.port),
            "ERL_EPMD_ADDRESS": LOOPBACK,
            "RABBITMQ_NODENAME": f"{self._node}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": LOOPBACK,
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(self._dist_port),
            "RABBITMQ_MNESIA_BASE": f"{home}/mnesia",
            "RABBITMQ_LOG_BASE": f"{home}/log",
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_CONFIG_FILE": f"{home}/rabbitmq",
            "RABBITMQ_CONF_ENV_FILE": f"{home}/none",
            "RABBITMQ_ENABLED_PLUGINS_FILE": f"{home}/enabled_plugins",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1} +sbwt none",
        }

    def prepare(self) -> None:
        self._epmd.start()
        (self.data_dir / "enabled_plugins").write_text("[].\n")
        (self.data_dir / "rabbitmq.conf").write_text("disk_free_limit.absolute = 10MB\nlog.console.level = warning\n")

    def is_ready(self) -> bool:
        """A node accepts connections before it lets anybody in."""
        try:
            with Connection(f"{LOOPBACK}:{self.port}", connect_timeout=5):
                return True
        except (OSError, AMQPError):
            return False

    def clean_up(self) -> None:
        self._epmd.stop()

    def control(self, *arguments: str) -> str:
        """What `rabbitmqctl` answers."""
        program = Path(str(self.command()[0])).with_name("rabbitmqctl")
        flags = ["--quiet", "--node", f"{self._node}@localhost"]
        done = subprocess.run(
            [program, *flags, *arguments], env=dict(self.environment()), capture_output=True, text=True, check=True
        )
        return done.stdout


@pytest.fixture(scope="session")
def rabbit(run_dir: Path) -> Iterator[RabbitServer]:
    with RabbitServer(run_dir / "rabbit") as server:
        yield server


@pytest.fixture
def s3(seaweed_server: SeaweedServer) -> Iterator[FaultyProxy]:
    """The wire to S3 of all workers in this test."""
    with FaultyProxy(seaweed_server.endpoint) as proxy:
        yield proxy


@pytest.fixture
def tuned() -> dict[str, Any]:
    """Settings that a test changes; overridden by `@tuned(...)`."""
    return {}


@pytest.fixture
def settings(settings: Settings, rabbit: RabbitServer, s3: FaultyProxy, tuned: dict[str, Any]) -> Settings:
    """As elsewhere, with RabbitMQ as the broker and nothing in its queues."""
    rabbit.start()
    with Connection(f"{LOOPBACK}:{rabbit.port}") as link:
        for queue in (*QUEUES, DEAD):
            with suppress(NotFound):
                link.channel().queue_purge(queue)  # not deleted: kombu remembers what it has declared
    return Settings.load(**{**dict(settings), "broker_url": rabbit.url, "s3_endpoint": s3.endpoint, **tuned})


@pytest.fixture
def app(settings: Settings) -> Iterator[Celery]:
    """Our own app in this process, to publish and to look at queues with."""
    app = make_app(settings)
    yield app
    app.close()
