"""The example's worker, with a tool that waits in the middle of its first run, so that a test can kill it there."""

import os
import sys
import time
from pathlib import Path
from tempfile import gettempdir
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))

import agent_task
from agent_task import app, settings

GATE = Path(gettempdir()) / f"gate-{settings.key_prefix}"
ask, look = agent_task.model, agent_task.track_parcel


def model(request: dict[str, Any]) -> dict[str, Any]:
    with (GATE / "asked").open("a") as asked:
        asked.write("once\n")
    return ask(request)


def track_parcel(number: int) -> str:
    """Tell where a parcel is."""
    with (GATE / "runs").open("a") as runs:
        runs.write(f"{os.getpid()}\n")
    while not (GATE / "go").exists():
        time.sleep(0.02)
    return look(number)


agent_task.model = model
agent_task.TOOLS[:] = [track_parcel]

__all__ = ["app"]
