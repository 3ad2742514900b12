"""The commands that run processes: workers, the whole stack, the demo."""

import json
import signal
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import psutil
import pytest

from tests.integration.command import SECRET, clean_environment, lines, run_command
from tests.integration.protocol import user
from tests.waiting import until


@pytest.fixture
def cli(settings):
    """Runs a command with this test's settings."""
    return partial(run_command, settings)


def test_worker_runs_two_and_ends_both_when_told(cli, keep, settings):
    process = start(settings, "worker", "-c", "1")
    try:
        with keep.new("t", wait_flush=30) as session:
            session.append(user(SECRET))
        queues = {one["subject"]: one["found"] for one in cli("doctor", "--json").json["checks"]}
        assert "hydrate@" in queues["workers: hydrate"]
        assert "flush@" in queues["workers: flush"]
        family = psutil.Process(process.pid).children(recursive=True)
    finally:
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=60)
    assert process.returncode == 0, log
    assert not alive(family)


def test_when_one_worker_dies_the_other_is_stopped_too(settings):
    process = start(settings, "worker", "-c", "1")
    until(lambda: len(celery_of(process.pid)) == 2)
    family = psutil.Process(process.pid).children(recursive=True)
    celery_of(process.pid)[0].kill()
    _, log = process.communicate(timeout=90)
    assert (process.returncode, "ended by itself" in log) == (1, True)
    until(lambda: not alive(family))


def test_a_worker_of_one_queue_is_celery_itself(settings, cli):
    process = start(settings, "worker", "--queue", "maintenance", "--name", "solo", "--", "--pool", "solo")
    try:
        until(lambda: "solo@" in told(cli, "workers: maintenance"), seconds=60)
        assert "celery" in " ".join(psutil.Process(process.pid).cmdline())
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)


def test_a_stack_is_started_used_and_stopped_and_leaves_nothing_running():
    with tempfile.TemporaryDirectory(prefix="threadkeep-test-") as folder:
        Path(folder).chmod(0o711)
        data_dir = Path(folder) / "data"
        run = lambda *arguments, **env: subprocess.run(  # noqa: E731
            [sys.executable, "-m", "threadkeep.cli", *arguments],
            capture_output=True, text=True, check=False, timeout=150, env={**clean_environment(), **env},
        )  # fmt: skip
        up = run("up", "--detach", "--data-dir", str(data_dir))
        try:
            assert up.returncode == 0, up.stderr
            assert {"valkey", "postgres", "worker-hydrate", "beat", "flower"} <= set(up.stdout.split())
            env = json.loads(run("env", "--data-dir", str(data_dir), "--json").stdout)
            assert not [value for value in env.values() if "@" in value and value in up.stdout]
            exports = run("env", "--data-dir", str(data_dir)).stdout
            assert exports.count("export THREADKEEP_") == len(env)
            state = json.loads((data_dir / "state.json").read_text())
            processes = [psutil.Process(state["pid"]), *psutil.Process(state["pid"]).children(recursive=True)]
            assert len(processes) > 8
            made = subprocess.run(
                [sys.executable, "-m", "threadkeep.cli", "import", "-", "--id", "t", "--wait", "30"],
                input=lines(user(SECRET)), capture_output=True, text=True, check=False, timeout=60,
                env={**clean_environment(), **env},
            )  # fmt: skip
            assert made.returncode == 0, made.stderr
            assert SECRET in run("show", "t", **env).stdout
            again = run("up", "--detach", "--data-dir", str(data_dir))
            assert (again.returncode, "another stack is running" in again.stderr) == (1, True)
        finally:
            stopped = run("down", "--data-dir", str(data_dir))
        assert stopped.stdout == "Stopped.\n"
        assert not alive(processes)
        assert run("down", "--data-dir", str(data_dir)).stdout.startswith("Nothing runs")
        assert run("env", "--data-dir", str(data_dir)).returncode == 1


def test_the_demo_brings_everything_back_byte_for_byte():
    command = [sys.executable, "-m", "threadkeep.cli", "demo", "--messages", "40"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=150, env=clean_environment())
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "All 40 messages went to S3 and came back the same, byte for byte." in ran.stdout
    assert max(map(len, ran.stdout.splitlines())) <= 80


def start(settings, *arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "threadkeep.cli", *arguments],
        env={**clean_environment(), **settings.to_environ()},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def told(cli, subject):
    return next(one["found"] for one in cli("doctor", "--json").json["checks"] if one["subject"] == subject)


def celery_of(pid):
    children = psutil.Process(pid).children()
    return [child for child in children if "celery" in child.cmdline()]


def alive(processes):
    return [each for each in processes if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]
