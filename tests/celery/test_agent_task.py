"""The example's agent, killed between the model's answer and its tools' results: it goes on, and asks only once."""

import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from tempfile import gettempdir

import pytest

from tests.waiting import until

EXAMPLES = Path(__file__).parents[2] / "examples"
RUN = "answer-1"
SAID = "Where is parcel 42?"
ANSWERED = "Good news: Parcel 42 is in Rotterdam."


@pytest.fixture
def settings(settings):
    """A worker that dies with its unacknowledged task is found out soon, and so is its lease."""
    return settings.model_copy(
        update={"lease_seconds": 3, "soft_time_limit": 8, "hard_time_limit": 10, "visibility_timeout": 25}
    )


@pytest.fixture
def gate(settings):
    folder = Path(gettempdir()) / f"gate-{settings.key_prefix}"
    folder.mkdir()
    yield folder
    shutil.rmtree(folder)


def say(settings, thread):
    """What a web app does, in a process of its own."""
    code = f"""
import agent_task
with agent_task.threads().open({thread!r}, create=True) as session:
    session.user({SAID!r}, id="said")
agent_task.answer.apply_async([{thread!r}], task_id={RUN!r})
"""
    path = os.pathsep.join(filter(None, [str(EXAMPLES), os.environ.get("PYTHONPATH")]))
    env = {**os.environ, **settings.to_environ(), "PYTHONPATH": path}
    subprocess.run([sys.executable, "-c", code], env=env, check=True, timeout=60)


def answered(keep, thread):
    messages = keep.read(thread).messages
    return messages[-1].get("content") == ANSWERED


def told(keep, thread):
    """All that the thread holds but the times."""
    entries = keep.read(thread).entries
    return [replace(entry, meta={**entry.meta, "ts": None}) for entry in entries]


def lines(path):
    return path.read_text().split() if path.exists() else []


@pytest.mark.timeout(150)
@pytest.mark.parametrize("killed", ["the pool's child", "the whole worker"])
def test_a_killed_turn_goes_on_where_it_was(keep, settings, broker, worker, gate, killed):
    worker()
    agents = worker("agents", name="agents", app="tests.celery.agent_worker")
    (gate / "go").touch()
    say(settings, "undisturbed")
    until(lambda: answered(keep, "undisturbed"))
    (gate / "go").unlink()
    (gate / "asked").unlink()
    (gate / "runs").unlink()

    say(settings, "killed")
    (child,) = until(lambda: lines(gate / "runs"))
    assert keep.read("killed").messages[-1]["tool_calls"], "the model's answer is stored before its tools run"
    if killed == "the whole worker":
        agents.kill()
    os.kill(int(child), signal.SIGKILL) if killed == "the pool's child" else agents.start()
    until(lambda: len(lines(gate / "runs")) == 2, seconds=broker.comes_again(settings))
    (gate / "go").touch()
    until(lambda: answered(keep, "killed"))

    assert told(keep, "killed") == told(keep, "undisturbed")
    assert lines(gate / "asked") == ["once", "once"], "the answer that was stored is not asked for again"
    assert keep.read("killed").repairs == []
    keep.flush("killed", wait=20)
    assert answered(keep, "killed")
