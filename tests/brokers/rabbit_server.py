"""A RabbitMQ node of our own: started from the system's programs, on free loopback ports, gone without a trace."""

import os
import secrets
import shutil
import socket
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import pytest
from amqp import AMQPError, Connection, NotFound

from tests.waiting import until
from threadkeep.local.ports import LOOPBACK, free_port
from threadkeep.local.process import ServerProcess
from threadkeep.tasks.conf import DEAD, QUEUES

PLACES = ("/usr/lib/rabbitmq/bin", "/usr/sbin", "/usr/local/sbin", "/opt/homebrew/sbin")
OTHERS = ("agents", "shop", "shop.slow", *(f"celery_delayed_{level}" for level in range(28)))
"""Queues of the users' apps in the tests, and Celery's for what is to come later."""
EMPTIED = (*QUEUES, DEAD, *OTHERS)


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

    def empty(self) -> None:
        """Take everything out of the queues, once those who read them are gone.

        The queues stay: kombu remembers what it has declared.
        """
        with Connection(f"{LOOPBACK}:{self.port}") as link:
            for queue in EMPTIED:
                with suppress(NotFound):
                    until(lambda queue=queue: link.channel().queue_declare(queue, passive=True).consumer_count == 0)
                    link.channel().queue_purge(queue)

    def control(self, *arguments: str) -> str:
        """What `rabbitmqctl` answers."""
        program = Path(str(self.command()[0])).with_name("rabbitmqctl")
        flags = ["--quiet", "--node", f"{self._node}@localhost"]
        done = subprocess.run(
            [program, *flags, *arguments], env=dict(self.environment()), capture_output=True, text=True, check=True
        )
        return done.stdout
